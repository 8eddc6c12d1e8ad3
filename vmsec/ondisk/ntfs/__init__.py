"""NTFS 1.2, 3.0 and 3.1: which bytes of a volume are metadata.

Example:
    >>> if is_ntfs(source):
    ...     volume = map_ntfs(source)

Run lists, record sizes and names come from the guest and are hostile; see
:mod:`vmsec.ondisk`. What is damaged is refused, never guessed at.
"""

from vmsec.ondisk.ntfs.boot import is_ntfs
from vmsec.ondisk.ntfs.map import map_ntfs

__all__ = ["is_ntfs", "map_ntfs"]
