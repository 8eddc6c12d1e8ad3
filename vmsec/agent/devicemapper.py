"""Whether a block device is a dm-crypt volume, by the kernel's word."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from vmsec.errors import ImageIOError

SYSFS = Path("/sys/dev/block")


def is_dm_crypt(path: Path, sysfs: Path = SYSFS) -> bool:
    """Whether a disk's source is encrypted by dm-crypt (LUKS or plain).

    Args:
        path: The source; symbolic links are followed.
        sysfs: Where the kernel lists block devices.

    Raises:
        ImageIOError: It cannot be looked at.

    Source:
        Linux Documentation/ABI/testing/sysfs-block-dm; cryptsetup gives its
        devices a UUID that begins with ``CRYPT-``.
    """
    try:
        status = path.stat()
    except OSError as err:
        raise ImageIOError("open", str(path), err.strerror or "") from err
    return stat.S_ISBLK(status.st_mode) and is_crypt_number(
        status.st_rdev, sysfs
    )


def is_crypt_number(number: int, sysfs: Path = SYSFS) -> bool:
    """Whether a device number is a dm-crypt volume's.

    Args:
        number: As in ``st_rdev``.
        sysfs: Where the kernel lists block devices.
    """
    name = f"{os.major(number)}:{os.minor(number)}"
    try:
        uuid = (sysfs / name / "dm" / "uuid").read_text()
    except FileNotFoundError:
        return False  # no device-mapper device at all
    except OSError as err:
        raise ImageIOError("open", f"{sysfs}/{name}", str(err)) from err
    return uuid.startswith("CRYPT-")
