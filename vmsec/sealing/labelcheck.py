"""Two readers, or no seal: libparted must read the label as we do.

Before the first write the same label type and the same partitions must be
found by libparted on the device (or its raw view). Where the two differ the
image is refused with both readings: one of them would seal the wrong bytes.

1. ``gpt`` and ``msdos`` agree with the same name and the same partitions,
   extended and logical ones included.
2. No label agrees with no label, with ``loop`` (libparted's name for a file
   system that fills the disk) and with an msdos label without partitions
   (55AA is then the end of a boot sector).
3. The logical sector counts: a GPT written with 4096-byte sectors inside an
   image file cannot be read by libparted, which knows 512 for every file.
   Such an image is refused; as a block device that says 4096 itself
   (``losetup --sector-size 4096``) it is read and sealed.
4. A reader that fails, crashes or does not end disagrees.

Libparted runs in a process of its own (:mod:`vmsec.sealing.labelreader`),
which costs about 20 ms per disk, beside the encryption.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from vmsec.errors import (
    ConfigurationError,
    ImageIOError,
    ReaderDisagreementError,
)

if TYPE_CHECKING:
    from vmsec.ondisk.layout import DiskLayout

READER = Path(__file__).with_name("labelreader.py")
"""Run by its path, so that it imports nothing of vmsec."""

TIMEOUT_SECONDS = 30.0
"""Libparted reads a few sectors; a slow device may take seconds."""

_SHOWN_PARTITIONS = 8
_NO_LABEL = frozenset({"", "loop"})


class Reading(NamedTuple):
    """A label as one reader sees it; offsets and lengths in bytes."""

    label: str
    sector_bytes: int
    partitions: tuple[tuple[int, int], ...]

    def __str__(self) -> str:
        """Write it for the operator, on one line."""
        if self.label == "none":
            return "no label"
        shown = ", ".join(
            f"{offset}+{length}"
            for offset, length in self.partitions[:_SHOWN_PARTITIONS]
        )
        more = len(self.partitions) - _SHOWN_PARTITIONS
        rest = f" and {more} more" if more > 0 else ""
        return (
            f"{self.label} with {self.sector_bytes}-byte sectors and "
            f"{len(self.partitions)} partitions [{shown}{rest}]"
        )


class SecondReader:
    """Libparted, reading one disk beside us.

    It begins to read when it is made; use it as a context manager, which
    ends it.

    Args:
        path: A raw file or block device; of other formats its raw view.

    Raises:
        ImageIOError: The path cannot be opened.
        ConfigurationError: pyparted is not installed.
    """

    def __init__(self, path: str) -> None:
        try:
            Path(path).stat()
        except OSError as err:
            reason = err.strerror or str(err)
            raise ImageIOError("open", path, reason) from err
        self._path = path
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(READER), path, _binding()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={"LC_ALL": "C"},
            )
        except OSError as err:
            reason = err.strerror or str(err)
            raise ImageIOError("open", str(READER), reason) from err

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def require_same(self, layout: DiskLayout) -> None:
        """Wait for libparted's reading and compare; call it once.

        Args:
            layout: What :func:`vmsec.ondisk.layout.read_layout` found there.

        Raises:
            ReaderDisagreementError: The readers differ; both are in the
                message. The caller must not write.
        """
        ours = reading_of(layout)
        theirs = self._reading(ours)
        if ours != theirs:
            raise ReaderDisagreementError(
                f"{self._path}: two readers find different labels and "
                f"nothing was written; vmsec: {ours}; libparted: {theirs}"
                f"{_advice(ours, theirs)}"
            )

    def _reading(self, ours: Reading) -> Reading:
        """Take the answer; whatever the reader fails at is a disagreement."""
        try:
            output, _ = self._process.communicate(timeout=TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired as err:
            raise _failure(self._path, ours, "it does not end") from err
        status = self._process.returncode
        if status != 0:
            reason = f"it ended with status {status}"
            raise _failure(self._path, ours, reason)
        return _parse(self._path, ours, output)


def require_same_label(path: str, layout: DiskLayout) -> None:
    """Check that libparted reads a disk as ``read_layout`` did.

    Raises:
        As :class:`SecondReader`.
    """
    with SecondReader(path) as reader:
        reader.require_same(layout)


def reading_of(layout: DiskLayout) -> Reading:
    """Reduce a layout to what both readers can say."""
    if layout.label == "none":
        return Reading("none", 0, ())
    return Reading(
        layout.label,
        layout.sector_bytes,
        tuple(sorted((p.offset, p.length) for p in layout.partitions)),
    )


def _advice(ours: Reading, theirs: Reading) -> str:
    """Say what to do where the sector size alone explains it (rule 3)."""
    if ours.sector_bytes == 4096 and theirs.sector_bytes != 4096:
        return "; attach the image with 'losetup --sector-size 4096'"
    return ""


def _binding() -> str:
    """Return the directory of pyparted's binding, without loading it.

    Raises:
        ConfigurationError: pyparted is not installed.
    """
    spec = importlib.util.find_spec("_ped")
    if spec is None or spec.origin is None:
        raise ConfigurationError(
            "pyparted is not installed; it is the second reader of labels"
        )
    return str(Path(spec.origin).parent)


def _parse(path: str, ours: Reading, output: bytes) -> Reading:
    """Turn the reader's object into a reading in our words."""
    try:
        answer = json.loads(output)
        if "error" in answer:
            raise _failure(path, ours, answer["error"])
        label, sector = answer["label"], answer["sector_bytes"]
        ranges = tuple(sorted((o, n) for o, n in answer["partitions"]))
    except (KeyError, TypeError, ValueError) as err:
        raise _failure(path, ours, "it gave no answer") from err
    empty = label == "msdos" and not ranges
    if label in _NO_LABEL or (empty and ours.label == "none"):
        # Without a label there is no sector size to differ about.
        unlike = ours.label != "none"
        return Reading("none", sector if unlike else 0, ())
    return Reading(label, sector, ranges)


def _failure(path: str, ours: Reading, reason: str) -> ReaderDisagreementError:
    return ReaderDisagreementError(
        f"{path}: libparted cannot read what vmsec reads as {ours}: {reason}; "
        "nothing was written, check the label with 'parted'"
    )
