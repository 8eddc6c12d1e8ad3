"""ext2, ext3 and ext4: where all metadata lies on a volume.

Example::

    if is_ext(source):
        volume = map_ext(source)
"""

from __future__ import annotations

from vmsec.ondisk.ext.map import map_ext
from vmsec.ondisk.ext.superblock import has_magic as is_ext

__all__ = ["is_ext", "map_ext"]
