"""Readers of hostile on-disk structures: bytes in, values out.

Nothing here can write, open a file, or take the time: a parser gets a
:class:`~vmsec.ondisk.source.BlockSource` and returns values. Every number that
is read from the image passes a named limit (:mod:`vmsec.ondisk.limits`) or is
checked against the size of the source before it is used.
"""
