"""``[database]``: where the KMC keeps its records."""

from __future__ import annotations

from dataclasses import dataclass, field

from oslo_config import cfg

GROUP = "database"

OPTS: list[cfg.Opt] = [
    cfg.StrOpt(
        "connection",
        default="sqlite:///$state_path/kmc/vmsec.sqlite",
        secret=True,
        help="Database of the KMC, as an SQLAlchemy URL. SQLite serves one "
        "KMC; its directory is made if need be. The schema is brought up to "
        "date when the KMC starts. The rows hold key objects that only the "
        "KMC's TPM can use, but losing them loses the keys: back them up.",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseSettings:
    """The database's URL (it may hold a password: not shown)."""

    connection: str = field(repr=False)

    @classmethod
    def from_conf(cls, conf: cfg.ConfigOpts) -> DatabaseSettings:
        """Read the group."""
        return cls(connection=conf.database.connection)
