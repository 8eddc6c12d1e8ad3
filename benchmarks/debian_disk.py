"""A 10 GiB disk with a real Debian tree: MBR, one ext4, built once."""

from __future__ import annotations

import hashlib
import os
import pathlib
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).parents[1]
DIRECTORY = ROOT / ".work" / "benchmarks"
SIZE_GIB = 10
PARTITION_MIB = 1
PACKAGES = (
    "build-essential,git,python3-dev,python3-numpy,perl,vim,man-db,"
    "linux-image-amd64,qemu-system-x86,openssh-server,libvirt-dev,"
    "manpages-dev"
)
"""With minbase about 30,000 files and 1.4 GiB."""

TABLE = f"label: dos\nstart={PARTITION_MIB}MiB, type=83, bootable\n"


def debian_disk(tree: pathlib.Path | None = None) -> pathlib.Path:
    """Return the disk, built if it is not there (some minutes).

    Args:
        tree: A root file system to take instead of a fresh Debian.
    """
    image = DIRECTORY / "debian.img"
    if image.exists():
        return image
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    if tree is not None:
        _fill(image, tree)
        return image
    with tempfile.TemporaryDirectory(dir=DIRECTORY) as directory:
        fresh = pathlib.Path(directory) / "tree"
        subprocess.run(
            ["mmdebstrap", "--variant=minbase", f"--include={PACKAGES}",
             "bookworm", str(fresh)],
            check=True,
        )  # fmt: skip
        _fill(image, fresh)
    return image


def _fill(image: pathlib.Path, tree: pathlib.Path) -> None:
    """Partition a sparse file and fill its file system from a tree."""
    draft = image.with_suffix(".part")
    with draft.open("wb") as file:
        file.truncate(SIZE_GIB << 30)
    subprocess.run(["sfdisk", "-q", str(draft)], input=TABLE.encode(),
                   check=True)  # fmt: skip
    blocks = ((SIZE_GIB << 10) - PARTITION_MIB) << 10
    subprocess.run(
        ["mke2fs", "-q", "-t", "ext4", "-d", str(tree),
         "-E", f"offset={PARTITION_MIB << 20}", str(draft), f"{blocks}k"],
        check=True,
    )  # fmt: skip
    draft.rename(image)


def digest(image: pathlib.Path) -> str:
    """Return the SHA-256 over all data of a sparse file and its places."""
    result = hashlib.sha256()
    with image.open("rb", buffering=0) as file:
        size = image.stat().st_size
        end = 0
        while end < size:
            try:
                start = os.lseek(file.fileno(), end, os.SEEK_DATA)
            except OSError:  # ENXIO: no data after this
                break
            end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            _add(result, file.fileno(), start, end)
    return result.hexdigest()


def _add(result: hashlib._Hash, fd: int, start: int, end: int) -> None:
    """Add what is not zero; where holes begin is the file system's affair."""
    for offset in range(start, end, 1 << 20):
        piece = os.pread(fd, min(1 << 20, end - offset), offset)
        for place in range(0, len(piece), 4096):
            block = piece[place : place + 4096]
            if any(block):
                result.update((offset + place).to_bytes(8, "big") + block)
