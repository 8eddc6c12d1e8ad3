"""Measurements of vmsec against its rivals and against the machine."""
