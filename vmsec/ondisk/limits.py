"""Limits for numbers that are read from an image, each with its reason."""

from __future__ import annotations

from vmsec.errors import LimitExceededError

MAX_PARTITIONS = 256
"""GPT tables have 128 entries in the field; Linux stops at 256 minors."""

MAX_GPT_TABLE_BYTES = 1 << 20
"""8,192 entries of 128 bytes; the field has 128 entries (16 KiB)."""

MAX_EBR_CHAIN = 256
"""Logical partitions; Linux reads at most 255."""

MAX_FATS = 4
"""Copies of the table on a FAT volume; the field has one or two."""

MAX_FAT_DIRECTORY_BYTES = 65536 * 32
"""fatgen103: 65,536 entries; Linux (FAT_MAX_DIR_SIZE) has the same limit."""

MAX_FAT_DIRECTORIES = 1 << 20
"""A million; each costs a read, so this bounds the time of a parse."""

MAX_EXFAT_DIRECTORY_BYTES = 256 << 20
"""exFAT specification 7.6.7: DataLength of a directory."""

MAX_EXFAT_DIRECTORIES = 1 << 20
"""A million, as for FAT."""

MAX_EXFAT_CHAINED_CLUSTERS = 1 << 20
"""Clusters of directories, bitmaps and the up-case table that are followed
through the table one by one: a million, some seconds."""

MAX_EXFAT_ENTRY_BYTES = 4 << 30
"""Directory entries in all: some hundred million, some seconds."""

MAX_LVM_TEXT_BYTES = 4 << 20
"""Ten thousand logical volumes; a metadata area has 1 MiB by default."""

MAX_LVM_TOKENS = 1 << 20
"""Words of a text: what 4 MiB of names and numbers have, a second or two."""

MAX_LVM_DEPTH = 8
"""Sections inside one another; LVM2 writes four."""

MAX_LVM_PIECES = 1 << 20
"""Runs that extents of striped volumes are cut into, in all."""

MAX_BTRFS_CHUNK_NODES = 2048
"""A leaf names a hundred chunks of 1 GiB: 200 TiB. Each costs a checksum."""

MAX_BTRFS_STRIPES = 1024
"""Of one chunk; a node of 64 KiB has room for two thousand."""


def require_limit(value: int, limit: int, what: str) -> int:
    """Return ``value`` if it is between 0 and ``limit``.

    Raises:
        LimitExceededError: It is not.
    """
    if not 0 <= value <= limit:
        raise LimitExceededError(f"{what} is {value}, more than {limit}")
    return value
