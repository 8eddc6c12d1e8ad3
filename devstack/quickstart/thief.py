"""What somebody sees who has got hold of a copy of the disk."""

from __future__ import annotations

import contextlib
import pathlib
import re
import subprocess
import tempfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PARTITION_OFFSET = 1 << 20
SECTOR_BYTES = 512
TOOL_SECONDS = 120
FOLDER = "srv/customers"
FILES = 400
NAME = re.compile(rb"customer-\d{4}-contract\.txt")


def plant_names(tree: pathlib.Path) -> None:
    """Make files whose names nobody outside may learn."""
    folder = tree / FOLDER
    folder.mkdir(parents=True)
    for number in range(FILES):
        name = f"customer-{number:04}-contract.txt"
        (folder / name).write_text(f"contract number {number}\n")


def count_names(output: bytes) -> int:
    """Count the planted names that a tool brought up."""
    return len(set(NAME.findall(output)))


def _output(*command: str) -> bytes:
    """Run a tool; what it says counts, not how it ends."""
    result = subprocess.run(
        command,
        check=False,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=TOOL_SECONDS,
    )
    return result.stdout + result.stderr


def list_by_fls(image: pathlib.Path) -> int:
    """Ask the Sleuth Kit, with and without the partition's place."""
    sector = str(PARTITION_OFFSET // SECTOR_BYTES)
    output = _output("fls", "-r", "-p", "-o", sector, str(image))
    return count_names(output + _output("fls", "-r", "-p", str(image)))


def list_by_debugfs(image: pathlib.Path) -> int:
    """Ask e2fsprogs, by the superblock and by its first backup."""
    volume = f"{image}?offset={PARTITION_OFFSET}"
    listing = ("-R", f"ls -p /{FOLDER}", volume)
    output = _output("debugfs", *listing)
    backup = ("-b", "4096", "-s", "32768")
    return count_names(output + _output("debugfs", *backup, *listing))


def find_by_testdisk(image: pathlib.Path) -> int:
    """Count the file systems that TestDisk finds in a thorough search."""
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(
            ["testdisk", "/log", "/cmd", str(image.resolve()),
             "partition_i386,analyze,search,list"],
            check=False,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            cwd=directory,
            timeout=TOOL_SECONDS,
        )  # fmt: skip
        log = pathlib.Path(directory, "testdisk.log")
        text = log.read_text(errors="replace")
    results = text.partition("Results")[2] or text
    return sum("blocksize=" in line for line in results.splitlines())


def list_by_strings(image: pathlib.Path) -> int:
    """Look for the names in every byte of the disk."""
    found: set[bytes] = set()
    with image.open("rb") as file:
        tail = b""
        while piece := file.read(1 << 20):
            found.update(NAME.findall(tail + piece))
            tail = piece[-64:]
    return len(found)


@contextlib.contextmanager
def _mounted(image: pathlib.Path) -> Iterator[pathlib.Path | None]:
    """Mount the first partition read-only; ``None`` if that is refused."""
    with tempfile.TemporaryDirectory() as directory:
        options = f"ro,loop,offset={PARTITION_OFFSET}"
        result = subprocess.run(
            ["mount", "-o", options, str(image), directory],
            check=False,
            capture_output=True,
            timeout=TOOL_SECONDS,
        )
        if result.returncode:
            yield None
            return
        try:
            yield pathlib.Path(directory)
        finally:
            subprocess.run(
                ["umount", directory], check=True, timeout=TOOL_SECONDS
            )


def list_by_mount(image: pathlib.Path) -> int:
    """Mount it and look into the folder."""
    with _mounted(image) as root:
        if root is None:
            return 0
        return len(list((root / FOLDER).iterdir()))


TOOLS: dict[str, Callable[[pathlib.Path], int]] = {
    "mount": list_by_mount,
    "fls": list_by_fls,
    "debugfs": list_by_debugfs,
    "testdisk": find_by_testdisk,
    "search in all bytes": list_by_strings,
}
"""Each tool's way to count file names (testdisk: file systems)."""
