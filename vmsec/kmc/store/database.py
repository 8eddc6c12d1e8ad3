"""Connections, transactions and the schema's version.

SQLite runs in WAL mode with ``synchronous=FULL``: what was answered survives
a power cut. Transactions that write begin with ``BEGIN IMMEDIATE``, because a
read that turns into a write fails at once with "database is locked", however
long the busy timeout (sqlite.org/isolation.html). Those that only read run
beside them.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from oslo_log import log
from sqlalchemy import event
from sqlalchemy.exc import ArgumentError, IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from vmsec.errors import ConfigurationError, StoreConflictError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection, Engine

LOG = log.getLogger(__name__)

BUSY_TIMEOUT_MS = 10_000
"""How long a writer waits for another one; the longest transaction here takes
a few milliseconds."""

MIGRATIONS = Path(__file__).parents[1] / "migrations"
_WRITE = "vmsec_write"


class Database:
    """The KMC's database.

    Args:
        url: An SQLAlchemy URL. For SQLite the directory and the file are
            made, for nobody but this user.

    Raises:
        ConfigurationError: The URL or its driver is not usable.
    """

    def __init__(self, url: str) -> None:
        try:
            self._engine = sqlalchemy.create_engine(url, pool_pre_ping=True)
        except (ArgumentError, ImportError, ValueError):
            # The URL may hold a password: neither it nor the library's
            # error is passed on.
            raise ConfigurationError(
                "[database] connection: not a usable SQLAlchemy URL, or its "
                "driver is not installed"
            ) from None
        if self._engine.dialect.name == "sqlite":
            _prepare_file(self._engine.url.database)
            _tune_sqlite(self._engine)
        self._writer = self._engine.execution_options(**{_WRITE: True})

    def upgrade(self, revision: str = "head") -> None:
        """Bring the schema to a revision, by default the newest.

        Raises:
            StoreError: The database refused, or is from a newer vmsec.
        """
        self._migrate(command.upgrade, revision)

    def downgrade(self, revision: str) -> None:
        """Take the schema back to a revision; ``base`` drops everything.

        Raises:
            StoreError: The database refused.
        """
        self._migrate(command.downgrade, revision)

    def _migrate(self, step: Any, revision: str) -> None:  # noqa: ANN401 - an alembic command
        """Run an alembic command in one transaction."""
        config = Config()
        config.set_main_option(
            "script_location", str(MIGRATIONS).replace("%", "%%")
        )
        try:
            with self._writer.begin() as connection:
                config.attributes["connection"] = connection
                step(config, revision)
        except CommandError as err:
            raise StoreError(
                "the database's schema is of another release; run the "
                "newest vmsec that ever used it"
            ) from err
        except SQLAlchemyError as err:
            raise _refused(err) from err

    @contextlib.contextmanager
    def reading(self) -> Iterator[Session]:
        """Open a transaction that only reads.

        Raises:
            StoreError: The database refused.
        """
        with _session(self._engine) as session:
            yield session

    @contextlib.contextmanager
    def writing(self) -> Iterator[Session]:
        """Open a transaction that is committed at the end of the block.

        Raises:
            StoreConflictError: Another request was first; decide anew.
            StoreError: The database refused.

        Crash:
            All of it is on disk when the block has ended, or nothing.
        """
        with _session(self._writer) as session:
            yield session

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()


@contextlib.contextmanager
def _session(engine: Engine) -> Iterator[Session]:
    """Open a session, commit it, and wrap what the library raises."""
    try:
        with Session(engine, expire_on_commit=False) as session:
            yield session
            session.commit()
    except IntegrityError as err:
        raise StoreConflictError(
            "another request changed the same records; try again"
        ) from err
    except SQLAlchemyError as err:
        raise _refused(err) from err


def _refused(err: SQLAlchemyError) -> StoreError:
    """Say that the database refused; the statement goes to the log only."""
    LOG.error("the database refused: %s", err)
    return StoreError(
        f"the KMC's database did not serve the request "
        f"({type(err).__name__}); see the KMC's log"
    )


def _prepare_file(path: str | None) -> None:
    """Make an SQLite file that only this user can open."""
    if not path or path == ":memory:":
        raise ConfigurationError(
            "[database] connection: SQLite needs a file, as in "
            "sqlite:////var/lib/vmsec/kmc/vmsec.sqlite"
        )
    try:
        Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as err:
        raise ConfigurationError(
            f"[database] connection: cannot open {path}: {err.strerror}"
        ) from err


def _tune_sqlite(engine: Engine) -> None:
    """Set the pragmas, and begin transactions as the module says."""

    @event.listens_for(engine, "connect")
    def set_pragmas(connection: Any, _record: object) -> None:  # noqa: ANN401 - DB-API
        connection.isolation_level = None  # this module begins, not sqlite3
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            f"busy_timeout={BUSY_TIMEOUT_MS}",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get(_WRITE, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
