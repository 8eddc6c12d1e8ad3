"""Where parsers read from: a device that cannot be written through."""

from __future__ import annotations

from typing import Protocol

from vmsec.errors import CorruptImageError


class BlockSource(Protocol):
    """A readable run of bytes: a disk, a partition, a logical volume."""

    @property
    def size_bytes(self) -> int:
        """Length of the source in bytes."""
        ...

    @property
    def sector_bytes(self) -> int:
        """Logical sector size in bytes: 512 or 4096."""
        ...

    def read_at(self, offset: int, length: int) -> bytes:
        """Read exactly ``length`` bytes at ``offset`` (both bytes).

        Raises:
            CorruptImageError: The range is not inside the source.
            ImageIOError: The device failed.
        """
        ...


def require_inside(size: int, offset: int, length: int) -> None:
    """Check that a range lies inside a source of ``size`` bytes.

    Raises:
        CorruptImageError: It does not.
    """
    if offset < 0 or length < 0 or offset + length > size:
        raise CorruptImageError(
            f"a structure at byte {offset} of {length} bytes lies outside "
            f"the {size} bytes there are"
        )


class MemorySource:
    """A source over bytes in memory.

    Args:
        data: The whole content.
        sector_bytes: 512 or 4096.
    """

    def __init__(
        self, data: bytes | bytearray, *, sector_bytes: int = 512
    ) -> None:
        self._data = data
        self._sector_bytes = sector_bytes

    @property
    def size_bytes(self) -> int:
        """Length of the source in bytes."""
        return len(self._data)

    @property
    def sector_bytes(self) -> int:
        """Logical sector size in bytes."""
        return self._sector_bytes

    def read_at(self, offset: int, length: int) -> bytes:
        """Read exactly ``length`` bytes; see :class:`BlockSource`."""
        require_inside(len(self._data), offset, length)
        return bytes(self._data[offset : offset + length])


class WindowSource:
    """A part of another source, for instance one partition.

    Args:
        source: The whole.
        offset: Where the window begins, in bytes.
        length: Its length in bytes.

    Raises:
        CorruptImageError: The window is not inside the source.
    """

    def __init__(self, source: BlockSource, offset: int, length: int) -> None:
        require_inside(source.size_bytes, offset, length)
        self._source, self._offset, self._length = source, offset, length

    @property
    def size_bytes(self) -> int:
        """Length of the window in bytes."""
        return self._length

    @property
    def sector_bytes(self) -> int:
        """Logical sector size of the underlying source in bytes."""
        return self._source.sector_bytes

    def read_at(self, offset: int, length: int) -> bytes:
        """Read exactly ``length`` bytes; see :class:`BlockSource`."""
        require_inside(self._length, offset, length)
        return self._source.read_at(self._offset + offset, length)
