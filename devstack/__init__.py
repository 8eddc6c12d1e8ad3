"""Installing and trying vmsec: DevStack plugin, lab and quickstart."""
