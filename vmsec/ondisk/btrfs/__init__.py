"""Btrfs on one device: superblocks, system and metadata chunks.

Example::

    if is_btrfs(source):
        volume = map_btrfs(source)
"""

from __future__ import annotations

from vmsec.ondisk.btrfs.map import map_btrfs
from vmsec.ondisk.btrfs.superblock import has_magic as is_btrfs

__all__ = ["is_btrfs", "map_btrfs"]
