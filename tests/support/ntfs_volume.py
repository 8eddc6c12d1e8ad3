"""Real NTFS volumes: made by mkntfs, filled through ntfs-3g.

Every planted name holds one of :data:`MARKERS`, so that a search for them
tells whether a name can still be found.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import struct
import subprocess
from typing import TYPE_CHECKING

from vmsec.ondisk.source import MemorySource

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterable, Iterator

    from vmsec.ondisk.extent import Extent

MARKERS = ("PlantedName", "größeΩ", "種植された")
TOOLS = ("mkntfs", "ntfs-3g", "umount")
TIMEOUT_SECONDS = 300
SYMLINK_TAG = 0xA000000C


def run(*command: str) -> subprocess.CompletedProcess[bytes]:
    """Run a tool to its end, whatever its status."""
    return subprocess.run(
        command,
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=TIMEOUT_SECONDS,
    )


def make_ntfs(
    path: pathlib.Path,
    *,
    size_mib: int,
    sector: int = 512,
    cluster: int = 4096,
) -> pathlib.Path:
    """Make a sparse image with an empty volume."""
    path.unlink(missing_ok=True)
    with path.open("wb") as image:
        image.truncate(size_mib << 20)
    done = run(
        "mkntfs", "-Q", "-F", "-q", "-s", str(sector), "-c", str(cluster),
        str(path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return path


@contextlib.contextmanager
def mounted(
    path: pathlib.Path, point: pathlib.Path, options: str = ""
) -> Iterator[pathlib.Path]:
    """Mount an image through ntfs-3g; named streams are ``file:name``."""
    point.mkdir(exist_ok=True)
    wanted = "streams_interface=windows" + options
    done = run("ntfs-3g", "-o", wanted, str(path), str(point))
    assert done.returncode == 0, done.stderr
    try:
        yield point
    finally:
        assert run("umount", str(point)).returncode == 0


@contextlib.contextmanager
def opened(path: pathlib.Path, sector: int = 512) -> Iterator[MemorySource]:
    """Open an image as a source to read from."""
    with path.open("rb") as image:
        content = mmap.mmap(image.fileno(), 0, prot=mmap.PROT_READ)
        try:
            yield MemorySource(content, sector_bytes=sector)  # type: ignore[arg-type]  # slices like bytes
        finally:
            content.close()


def zero_extents(path: pathlib.Path, extents: Iterable[Extent]) -> None:
    """Overwrite extents with zeros: the best that sealing could do."""
    with path.open("r+b") as image:
        for extent in extents:
            image.seek(extent.offset)
            image.write(bytes(extent.length))


def count_markers(path: pathlib.Path) -> int:
    """Count planted names in an image, in UTF-8 and in UTF-16."""
    needles = [
        marker.encode(code)
        for marker in MARKERS
        for code in ("utf-8", "utf-16le")
    ]
    return sum(
        piece.count(needle) for piece in _data(path) for needle in needles
    )


def _data(path: pathlib.Path) -> Iterator[bytes]:
    """Read the parts of a file that are no holes."""
    with path.open("rb") as image:
        size, end = path.stat().st_size, 0
        while end < size:
            try:
                start = image.seek(end, os.SEEK_DATA)
            except OSError:  # ENXIO: only a hole is left
                return
            end = image.seek(start, os.SEEK_HOLE)
            image.seek(start)
            yield image.read(end - start)


def body(seed: str, size: int = 1 << 20) -> bytes:
    """Content of a file that cannot be found by chance."""
    return random.Random(seed).randbytes(size)


def fill(root: pathlib.Path, *, files: int, directories: int) -> None:
    """Plant names in every place where NTFS keeps them."""
    plain, greek, kanji = MARKERS
    crowd = root / f"{plain}-crowd"
    crowd.mkdir()
    for index in range(files):
        name = f"{MARKERS[index % 3]}-{index:05d}.txt"
        (crowd / name).write_bytes(b"text" * (index % 700))
    for index in range(directories):
        directory = root / f"{greek}-{index:04d}" / kanji
        directory.mkdir(parents=True)
        (directory / f"{plain}.dat").write_bytes(bytes([index % 251]) * 5000)
    for index in range(0, files, 7):
        (crowd / f"{MARKERS[index % 3]}-{index:05d}.txt").unlink()
    _plant_bodies(root, plain)
    _plant_links(root, plain)
    _plant_attributes(root, plain)


def _plant_bodies(root: pathlib.Path, plain: str) -> None:
    """A large file, a stream, a sparse file and one full of holes."""
    (root / f"{plain}-body").write_bytes(body("body"))
    (root / f"{plain}-carrier").write_bytes(b"carrier")
    stream = root / f"{plain}-carrier:{plain}-stream"
    stream.write_bytes(body("stream"))
    with (root / f"{plain}-holes").open("wb") as holes:
        for place in range(0, 8 << 20, 1 << 18):
            holes.seek(place)
            holes.write(body(f"hole-{place}", 5000))


def _plant_links(root: pathlib.Path, plain: str) -> None:
    """Hard links past one record, and symbolic links of all lengths."""
    first = root / f"{plain}-many"
    first.write_bytes(b"many")
    for index in range(40):
        os.link(first, root / f"{plain}-hard-{index:03d}-{'x' * 60}")
    for length in (3, 60, 250):
        target = "/".join([plain + "t" * length] * 4)
        (root / f"{plain}-soft-{length}").symlink_to(target)


def _plant_attributes(root: pathlib.Path, plain: str) -> None:
    """A reparse point and extended attributes that do not fit a record."""
    reparse = root / f"{plain}-reparse"
    reparse.mkdir()
    target = (plain * 300).encode("utf-16le")
    size = len(target)
    buffer = struct.pack("<HHHHI", 0, size, 0, size, 0) + target
    head = struct.pack("<IHH", SYMLINK_TAG, len(buffer), 0)
    os.setxattr(reparse, "system.ntfs_reparse_data", head + buffer)
    extended = root / f"{plain}-extended"
    extended.write_bytes(b"extended")
    name, value = plain.encode() + b"\0", plain.encode() * 400
    entry = struct.pack("<IBBH", 0, 0, len(name) - 1, len(value))
    whole = entry + name + value
    whole += bytes(-len(whole) % 4)
    whole = struct.pack("<I", len(whole)) + whole[4:]
    os.setxattr(extended, "system.ntfs_ea", whole)
    os.setxattr(extended, "system.ntfs_object_id", (plain * 2).encode()[:16])


def fragment_mft(root: pathlib.Path, files: int) -> None:
    """Leave free clusters one by one, so that $MFT grows in pieces."""
    drop, keep = root / "drop", root / "keep"
    with (
        contextlib.suppress(OSError),
        drop.open("wb", buffering=0) as first,
        keep.open("wb", buffering=0) as second,
    ):
        while True:
            first.write(b"d" * 4096)
            second.write(b"k" * 4096)
    drop.unlink()
    for index in range(files):
        (root / f"{MARKERS[index % 3]}-{index:05d}").write_bytes(b"tiny")
