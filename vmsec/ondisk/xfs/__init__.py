"""XFS, versions 4 and 5: where all metadata lies on a volume.

Example::

    if is_xfs(source):
        volume = map_xfs(source)
"""

from __future__ import annotations

from vmsec.ondisk.xfs.map import map_xfs
from vmsec.ondisk.xfs.superblock import is_xfs

__all__ = ["is_xfs", "map_xfs"]
