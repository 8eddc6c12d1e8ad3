"""Configuration: one module per group, read by the services only.

Each module has ``GROUP``, ``OPTS`` and a frozen dataclass with ``from_conf``,
which is what the layers below are given. :mod:`vmsec.conf.opts` puts the
groups together.
"""
