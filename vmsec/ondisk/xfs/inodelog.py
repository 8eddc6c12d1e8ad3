"""Inodes in the log: what an item makes of an inode on the disk.

Source:
    XADS 11.3.14 ("Inode Updates") and 11.3.15 ("Inode Data Log Item"); Linux
    fs/xfs/xfs_inode_item_recover.c, fs/xfs/libxfs/xfs_bmap_btree.c
    (``xfs_bmbt_to_bmdr``).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmsec.ondisk.xfs import layout
from vmsec.ondisk.xfs.inode import core_bytes
from vmsec.ondisk.xfs.log import log_corrupt

if TYPE_CHECKING:
    from vmsec.ondisk.xfs.logitem import Item
    from vmsec.ondisk.xfs.superblock import Superblock

_DATA_BYTES, _DATA_EXTENTS, _DATA_ROOT = 0x002, 0x004, 0x008
_ATTRIBUTE_BYTES, _ATTRIBUTE_EXTENTS, _ATTRIBUTE_ROOT = 0x040, 0x080, 0x100
_DATA_FORK = _DATA_BYTES | _DATA_EXTENTS | _DATA_ROOT
_ATTRIBUTE_FORK = _ATTRIBUTE_BYTES | _ATTRIBUTE_EXTENTS | _ATTRIBUTE_ROOT

# struct xfs_inode_log_format, on 64-bit machines and on 32-bit ones
_FORMATS = {56: "4xI32xqii", 52: "4xI28xqii"}


class InodePlace(NamedTuple):
    """Which inode an item changes, and what of it.

    ``block`` and ``blocks`` name the buffer of inodes, in 512-byte blocks;
    ``offset`` is bytes within it; ``fields`` is ``ilf_fields``.
    """

    block: int
    blocks: int
    offset: int
    fields: int


def inode_place(item: Item) -> InodePlace:
    """Read the first region of an inode item.

    Raises:
        CorruptImageError: It is not one.
    """
    head = item.regions[0]
    form = _FORMATS.get(len(head))
    if form is None:
        raise log_corrupt("an inode's item has an impossible size")
    fields, block, blocks, offset = struct.unpack(item.order + form, head)
    return InodePlace(block, blocks, offset, fields)


def patched_inode(
    sb: Superblock, inode: bytes, item: Item, fields: int
) -> bytes:
    """Return an inode as it is after the replay of an item.

    Args:
        sb: The superblock.
        inode: The inode as it is, ``sb.inode_bytes`` long.
        item: An item of type ``XFS_LI_INODE``.
        fields: Its ``ilf_fields``.

    Raises:
        CorruptImageError: The item contradicts itself or the inode.
    """
    regions = item.regions[1:]
    if not regions:
        raise log_corrupt("an inode's item has no inode")
    result = bytearray(inode)
    _patch_core(sb, result, regions.pop(0), item.order)
    forkoff = result[82] * 8
    core = core_bytes(sb)
    room = sb.inode_bytes - core
    if forkoff >= room:
        raise log_corrupt("an inode's forks do not fit")
    data = slice(core, core + (forkoff or room))
    for kinds, root, fork in (
        (_DATA_FORK, _DATA_ROOT, data),
        (_ATTRIBUTE_FORK, _ATTRIBUTE_ROOT, slice(core + forkoff, None)),
    ):
        if fields & kinds and regions:
            size = len(result[fork])
            content = regions.pop(0)
            if fields & root:
                content = _short_root(sb, content, size)
            if len(content) > size:
                raise log_corrupt("an inode's fork is too long")
            result[fork] = content + result[fork][len(content) :]
    return bytes(result)


def _patch_core(
    sb: Superblock, inode: bytearray, core: bytes, order: str
) -> None:
    """Take over the fields that count, turned into the order of the disk."""
    fields = layout.INODE_V3 if sb.has_crc else layout.INODE
    native = tuple(
        field._replace(form=order + field.form[-2:])
        if len(field.form) == 3
        else field
        for field in fields
    )
    size = max(
        field.offset + np.dtype(field.form).itemsize for field in fields
    )
    if len(core) < size:
        raise log_corrupt("an inode in an item is too short")
    source = np.frombuffer(
        core[:size], dtype=layout.record_type(native, size)
    )[0]
    target = np.frombuffer(
        memoryview(inode)[:size], dtype=layout.record_type(fields, size)
    )
    for field in fields:
        target[field.name] = source[field.name]
    if target["di_magic"][0] != layout.INODE_MAGIC:
        raise log_corrupt("an inode in an item is not one")
    if sb.has_crc:
        inode[layout.INODE_UUID] = core[layout.INODE_UUID]


def _short_root(sb: Superblock, root: bytes, size: int) -> bytes:
    """Turn the root of an extent tree in memory into that in an inode.

    In memory it is a block with a whole header; keys and pointers keep their
    form, but the pointers begin where the room for keys ends.
    """
    header = layout.LONG_HEADER[sb.has_crc]
    if len(root) < header or size < layout.ROOT_HEADER_BYTES:
        raise log_corrupt("the root of an extent tree is too short")
    level, count = struct.unpack_from(">4xHH", root)
    old = (len(root) - header) // layout.EXTENT_BYTES
    new = (size - layout.ROOT_HEADER_BYTES) // layout.EXTENT_BYTES
    if count > min(old, new):
        raise log_corrupt("the root of an extent tree is too long")
    keys = root[header : header + 8 * count]
    start = header + 8 * old
    pointers = root[start : start + 8 * count]
    return (
        struct.pack(">HH", level, count)
        + keys.ljust(8 * new, b"\0")
        + pointers.ljust(8 * new, b"\0")
    )
