"""Read a VM key from a file or from standard input.

A key is 32 bytes: either exactly these, or their 64 hexadecimal digits with
an optional line end. It is never taken from an argument or the environment,
where other users of the host could see it.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from pathlib import Path
from typing import BinaryIO

from vmsec.errors import ConfigurationError
from vmsec.secret import SecretBytes

KEY_BYTES = 32
MAX_KEY_FILE_BYTES = 2 * KEY_BYTES + 2
"""64 hexadecimal digits and a line end, at most CR LF."""

_HEX_KEY = re.compile(rb"[0-9a-fA-F]{64}(\r?\n)?")


def read_key(path: str) -> SecretBytes:
    """Read a key from a file; ``-`` is standard input.

    Raises:
        ConfigurationError: It cannot be read, everybody on the host may read
            it, or it is not a key.
    """
    if path == "-":
        return _parse(sys.stdin.buffer, "standard input")
    try:
        with Path(path).open("rb", buffering=0) as stream:
            _require_private(os.fstat(stream.fileno()), path)
            return _parse(stream, path)
    except OSError as err:
        raise ConfigurationError(
            f"{path}: cannot read the key file: {err.strerror}"
        ) from err


def _require_private(status: os.stat_result, path: str) -> None:
    if stat.S_ISREG(status.st_mode) and status.st_mode & stat.S_IROTH:
        raise ConfigurationError(
            f"{path}: everybody may read this key file; run "
            f"'chmod 600 {path}', and think about a new key"
        )


def _parse(stream: BinaryIO, name: str) -> SecretBytes:
    content = b""
    while len(content) <= MAX_KEY_FILE_BYTES:
        piece = stream.read(MAX_KEY_FILE_BYTES + 1 - len(content))
        if not piece:
            break
        content += piece
    if len(content) == KEY_BYTES:
        return SecretBytes(content)
    if _HEX_KEY.fullmatch(content):
        return SecretBytes(bytes.fromhex(content.decode("ascii")))
    raise ConfigurationError(
        f"{name}: not a key: give exactly 32 bytes, or 64 hexadecimal digits"
    )
