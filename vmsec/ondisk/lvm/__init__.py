"""LVM2 physical volumes: their own structures and the volumes on them.

Example::

    if is_lvm(source):
        volume = map_lvm(source, look_into)
"""

from __future__ import annotations

from vmsec.ondisk.lvm.label import has_label as is_lvm
from vmsec.ondisk.lvm.map import map_lvm

__all__ = ["is_lvm", "map_lvm"]
