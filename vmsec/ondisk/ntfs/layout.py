"""Field tables of NTFS, as it lies on disk: little endian throughout.

Only what the map needs. Names are ours; the name in Linux is given where it
differs much.

Source:
    Linux fs/ntfs3/ntfs.h (``struct NTFS_BOOT``, ``NTFS_RECORD_HEADER``,
    ``MFT_REC``, ``ATTRIB``, ``ATTR_LIST_ENTRY``, ``ATTR_FILE_NAME``,
    ``ATTR_STD_INFO``, ``VOLUME_INFO``); libfsntfs, "New Technologies File
    System (NTFS)"; libntfs-3g layout.h for ``INTX_FILE`` and NTFS 1.2.
"""

from __future__ import annotations

import enum
from typing import Final, NamedTuple


class Field(NamedTuple):
    """A little-endian number: where it lies in its structure, and its size.

    Units:
        Both are bytes; ``size`` is 1, 2, 4 or 8.
    """

    offset: int
    size: int

    def read(self, data: bytes, base: int = 0, *, signed: bool = False) -> int:
        """Read the number from a structure that begins at ``data[base]``."""
        start = base + self.offset
        return int.from_bytes(
            data[start : start + self.size], "little", signed=signed
        )


OEM_ID: Final = b"NTFS    "
"""Bytes 3 to 10 of the boot sector (``system_id``)."""

OEM_ID_OFFSET: Final = 3
BOOT_SECTOR_BYTES: Final = 512
BOOT_AREA_BYTES: Final = 8192
"""$Boot: the boot sector and the loader behind it, 16 sectors of 512."""


class BootField:
    """``struct NTFS_BOOT``: the boot sector."""

    SECTOR_BYTES: Final = Field(0x0B, 2)
    SECTORS_PER_CLUSTER: Final = Field(0x0D, 1)
    TOTAL_SECTORS: Final = Field(0x28, 8)
    MFT_LCN: Final = Field(0x30, 8)
    MIRROR_LCN: Final = Field(0x38, 8)
    RECORD_SIZE: Final = Field(0x40, 1)
    SIGNATURE: Final = Field(0x1FE, 2)


BOOT_SIGNATURE: Final = 0xAA55

FILE_MAGIC: Final = int.from_bytes(b"FILE", "little")
RECORD_IN_USE: Final = 0x0001
"""``RECORD_FLAG_IN_USE``."""

FIXUP_STRIDE: Final = 512
"""One word of each 512 bytes is replaced by the update sequence number,
whatever the sector size (``NTFS_BLOCK_SIZE``, ``SECTOR_SIZE`` in Linux)."""


class RecordField:
    """``struct MFT_REC``: the head of a FILE record."""

    MAGIC: Final = Field(0x00, 4)
    FIXUP_OFFSET: Final = Field(0x04, 2)
    FIXUP_COUNT: Final = Field(0x06, 2)
    FIRST_ATTRIBUTE: Final = Field(0x14, 2)
    FLAGS: Final = Field(0x16, 2)
    BYTES_IN_USE: Final = Field(0x18, 4)
    BASE_RECORD: Final = Field(0x20, 8)


RECORD_HEAD_BYTES: Final = 0x28
"""Up to the fields that every version has (``MFTRECORD_FIXUP_OFFSET_1``
leaves two bytes more)."""

REFERENCE_MASK: Final = (1 << 48) - 1
"""A file reference is 48 bits of record number and 16 of sequence number."""


class AttributeType:
    """``enum ATTR_TYPE``: those that the map tells apart."""

    STANDARD_INFORMATION: Final = 0x10
    ATTRIBUTE_LIST: Final = 0x20
    FILE_NAME: Final = 0x30
    VOLUME_INFORMATION: Final = 0x70
    DATA: Final = 0x80
    INDEX_ALLOCATION: Final = 0xA0
    BITMAP: Final = 0xB0
    END: Final = 0xFFFFFFFF


class AttributeField:
    """``struct ATTRIB``: the head common to all attributes."""

    TYPE: Final = Field(0x00, 4)
    LENGTH: Final = Field(0x04, 4)
    NON_RESIDENT: Final = Field(0x08, 1)
    NAME_LENGTH: Final = Field(0x09, 1)


RESIDENT_HEAD_BYTES: Final = 0x18
NON_RESIDENT_HEAD_BYTES: Final = 0x40


class ResidentField:
    """``struct ATTR_RESIDENT``, counted from the start of the attribute."""

    VALUE_LENGTH: Final = Field(0x10, 4)
    VALUE_OFFSET: Final = Field(0x14, 2)


class NonResidentField:
    """``struct ATTR_NONRESIDENT``, from the start of the attribute.

    The three sizes are there only where the lowest VCN is 0.
    """

    LOWEST_VCN: Final = Field(0x10, 8)
    HIGHEST_VCN: Final = Field(0x18, 8)
    RUNS_OFFSET: Final = Field(0x20, 2)
    DATA_SIZE: Final = Field(0x30, 8)
    INITIALIZED_SIZE: Final = Field(0x38, 8)


class ListField:
    """``struct ATTR_LIST_ENTRY``: an entry of $ATTRIBUTE_LIST."""

    TYPE: Final = Field(0x00, 4)
    LENGTH: Final = Field(0x04, 2)
    NAME_LENGTH: Final = Field(0x06, 1)
    LOWEST_VCN: Final = Field(0x08, 8)
    REFERENCE: Final = Field(0x10, 8)


LIST_ENTRY_BYTES: Final = 0x1A


class NameField:
    """``struct ATTR_FILE_NAME``, from the start of the value."""

    PARENT: Final = Field(0x00, 8)
    NAME_LENGTH: Final = Field(0x40, 1)
    FIRST_CHARACTER: Final = Field(0x42, 2)


FILE_NAME_BYTES: Final = 0x44
"""The value with a name of one UTF-16 unit."""


class StandardField:
    """``struct ATTR_STD_INFO``, from the start of the value."""

    FILE_ATTRIBUTES: Final = Field(0x20, 4)


STANDARD_INFORMATION_BYTES: Final = 0x30
"""The value in NTFS 1.2; later versions have 0x48 bytes."""

FILE_ATTRIBUTE_SYSTEM: Final = 0x0004


class VolumeField:
    """``struct VOLUME_INFO``, from the start of the value."""

    MAJOR: Final = Field(0x08, 1)
    MINOR: Final = Field(0x09, 1)
    FLAGS: Final = Field(0x0A, 2)


VOLUME_INFORMATION_BYTES: Final = 0x0C
VOLUME_DIRTY: Final = 0x0001

INTERIX_LINK: Final = b"IntxLNK\x01"
"""A symbolic link of Interix and ntfs-3g: a system file whose $DATA is this
magic and the target in UTF-16 (``INTX_SYMBOLIC_LINK``)."""

INTERIX_LINK_LIMIT: Final = 64 << 10
"""Bytes; Linux bounds a target to 4,095 characters of 2 or 4 bytes each."""


class SystemRecord(enum.IntEnum):
    """``enum MFT_REC_*``: numbers of the files that make up the volume."""

    MFT = 0
    MFT_MIRROR = 1
    LOGFILE = 2
    VOLUME = 3
    ATTRIBUTE_DEFINITIONS = 4
    ROOT = 5
    BITMAP = 6
    BOOT = 7
    BAD_CLUSTERS = 8
    SECURE = 9
    UPCASE = 10
    EXTEND = 11


FIRST_USER_RECORD: Final = 16
"""Records below are the volume's own; 16 to 23 are the extension records of
$MFT (``MFT_REC_FREE``), which their base record claims."""
