"""What the KMC may rely on, whatever database is below it."""

from __future__ import annotations

import stat
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from vmsec.errors import (
    ConfigurationError,
    KeyStateError,
    StoreConflictError,
    StoreError,
)
from vmsec.keysync.messages import DiskReport
from vmsec.kmc.model import VM, Base, Node
from vmsec.kmc.state import KeyState
from vmsec.kmc.store import disk, key, node, vm
from vmsec.kmc.store.database import Database
from vmsec.tpm.blob import SealedKey

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy.orm import Session

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
WEB = "6f1c8a52-37f1-4c0b-9f37-0d4c1a6f2b10"
DISK = "0b6f0e1c-3a34-4a7c-8f0d-2b8f4f5c9d11"
BLOB = SealedKey(public=b"public", private=b"private")


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    store = Database(database_url)
    store.upgrade()
    yield store
    store.downgrade("base")
    store.close()


def add_vm(session: Session, uuid: str = WEB, name: str = "web") -> None:
    session.add(
        VM(vm=uuid, name=name, project="p", level="boot", created_at=NOW)
    )
    session.flush()


def report(**change: Any) -> DiskReport:
    facts: dict[str, Any] = {
        "vm": WEB,
        "disk": DISK,
        "target": "vda",
        "state": "sealed",
        "generation": 1,
        "key_version": 1,
        "level": "boot",
        "sealed_bytes": 4096,
        "disk_bytes": 1 << 62,
        "duration_ms": 5,
        "manifest": bytes(range(256)) * 100,
    }
    return DiskReport(**(facts | change))


def tables(url: str) -> set[str]:
    engine = sqlalchemy.create_engine(url)
    names = set(sqlalchemy.inspect(engine).get_table_names())
    engine.dispose()
    return names - {"alembic_version"}


def test_the_migrations_make_what_the_model_says_and_undo_it(
    database: Database, database_url: str
) -> None:
    engine = sqlalchemy.create_engine(database_url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, Base.metadata) == []
    engine.dispose()
    assert tables(database_url) == set(Base.metadata.tables)
    database.downgrade("base")
    assert tables(database_url) == set()
    database.upgrade()
    database.upgrade()
    assert tables(database_url) == set(Base.metadata.tables)


def test_a_schema_of_a_newer_release_is_refused(
    database: Database, database_url: str
) -> None:
    engine = sqlalchemy.create_engine(database_url)
    update = "UPDATE alembic_version SET version_num = '{}'"
    with engine.begin() as connection:
        connection.exec_driver_sql(update.format("9999"))
    with pytest.raises(StoreError, match="newest vmsec"):
        database.upgrade()
    with engine.begin() as connection:
        connection.exec_driver_sql(update.format("0001"))
    engine.dispose()


def test_what_was_written_is_there_after_opening_again(
    database: Database, database_url: str
) -> None:
    with database.writing() as session:
        add_vm(session)
        key.add(session, WEB, 1, sealed=BLOB, now=NOW)
        vm.take(session, WEB, node="a", request_id="r", now=NOW)
        disk.record(session, report(), node="a", now=NOW)
        disk.keep_manifest(session, report(), kept=3, now=NOW)
    again = Database(database_url)
    with again.reading() as session:
        facts = vm.facts(session, WEB)
        row = key.find(session, WEB, 1)
        manifest = disk.find_manifest(session, WEB, DISK)
        kept = disk.find(session, WEB, DISK)
    again.close()
    assert facts is not None
    assert (facts.node, facts.holder, facts.needed) == ("a", "a", {1})
    assert facts.keys == {1: KeyState.ACTIVE}
    assert row is not None
    assert (row.public, row.private) == (b"public", b"private")
    assert row.created_at == NOW
    assert manifest is not None
    assert manifest.manifest == report().manifest
    assert kept is not None
    assert kept.disk_bytes == 1 << 62


def test_a_failed_transaction_leaves_nothing(database: Database) -> None:
    def fail() -> None:
        with database.writing() as session:
            add_vm(session)
            raise KeyStateError("refused")

    with pytest.raises(KeyStateError):
        fail()
    with database.reading() as session:
        assert vm.listing(session) == []


def test_a_vm_has_one_active_key(database: Database) -> None:
    with database.writing() as session:
        add_vm(session)
        key.add(session, WEB, 1, sealed=BLOB, now=NOW)
    with pytest.raises(StoreConflictError), database.writing() as session:
        key.add(session, WEB, 2, sealed=BLOB, now=NOW)
    with database.writing() as session:
        old = key.active(session, WEB)
        assert old is not None
        key.deactivate(session, old, now=NOW)
        key.add(session, WEB, 2, sealed=BLOB, now=NOW)
    with database.reading() as session:
        states = [(k.version, k.state) for k in key.listing(session)]
    assert states == [(1, "deactivated"), (2, "active")]
    with pytest.raises(KeyStateError), database.writing() as session:
        key.deactivate(session, key.listing(session)[0], now=NOW)


def test_the_first_release_of_a_key_is_kept(database: Database) -> None:
    later = NOW + timedelta(days=1)
    with database.writing() as session:
        add_vm(session)
        key.add(session, WEB, 1, sealed=BLOB, now=NOW)
        key.mark_released(session, WEB, (1, 7), now=NOW)
        key.mark_released(session, WEB, (1,), now=later)
    with database.reading() as session:
        row = key.active(session, WEB)
    assert row is not None
    assert row.released_at == NOW


def test_a_tpm_is_one_node(database: Database) -> None:
    def add(session: Session, name: str) -> None:
        session.add(
            Node(
                name=name,
                srk_public=b"public",
                srk_name=b"n" * 34,
                state="enrolled",
                enrolled_at=NOW,
            )
        )

    with database.writing() as session:
        add(session, "a")
    with pytest.raises(StoreConflictError), database.writing() as session:
        add(session, "b")
    with database.reading() as session:
        assert [row.name for row in node.listing(session)] == ["a"]
        found = node.find_by_srk(session, b"n" * 34)
        assert found is not None
        assert node.facts(session, "b").state is None


def test_a_key_of_no_vm_is_refused(database: Database) -> None:
    with pytest.raises(StoreConflictError), database.writing() as session:
        key.add(session, WEB, 1, sealed=BLOB, now=NOW)


def test_only_the_newest_manifests_are_kept(database: Database) -> None:
    with database.writing() as session:
        add_vm(session)
        disk.record(session, report(), node="a", now=NOW)
        for generation in range(1, 6):
            each = report(generation=generation, manifest=b"%d" % generation)
            disk.keep_manifest(session, each, kept=3, now=NOW)
    with database.reading() as session:
        newest = disk.find_manifest(session, WEB, DISK)
        third = disk.find_manifest(session, WEB, DISK, 3)
        second = disk.find_manifest(session, WEB, DISK, 2)
    assert newest is not None
    assert newest.manifest == b"5"
    assert third is not None
    assert second is None


def test_a_lease_ends_for_its_holder_only(database: Database) -> None:
    with database.writing() as session:
        add_vm(session)
        vm.take(session, WEB, node="a", request_id="r1", now=NOW)
        vm.take(session, WEB, node="a", request_id="r2", now=NOW)
        vm.let_go(session, WEB, node="b")
        facts = vm.facts(session, WEB)
        assert facts is not None
        assert facts.holder == "a"
        vm.let_go(session, WEB, node="a")
        facts = vm.facts(session, WEB)
        assert facts is not None
        assert (facts.holder, facts.node) == (None, "a")


def test_writers_wait_for_one_another_and_readers_do_not(
    database: Database,
) -> None:
    """With a plain BEGIN the second writer fails: database is locked."""
    errors: list[Exception] = []

    def write(number: int) -> None:
        try:
            for step in range(10):
                with database.writing() as session:
                    assert vm.find(session, "absent", lock=True) is None
                    add_vm(session, f"{number}-{step}")
        except StoreError as err:
            errors.append(err)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    with database.reading() as session:
        vm.listing(session)
    for thread in threads:
        thread.join(60)
    assert errors == []
    with database.reading() as session:
        assert len(vm.listing(session)) == 40


def test_a_broken_database_is_an_error_without_its_statements(
    database: Database,
) -> None:
    database.downgrade("base")
    with (
        pytest.raises(StoreError, match="see the KMC's log") as caught,
        database.reading() as session,
    ):
        vm.listing(session)
    assert "SELECT" not in str(caught.value)
    database.upgrade()


def test_the_file_is_for_this_user_only(tmp_path: Path) -> None:
    store = Database(f"sqlite:///{tmp_path}/kmc/vmsec.sqlite")
    store.upgrade()
    directory = tmp_path / "kmc"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    for file in directory.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    engine = sqlalchemy.create_engine(f"sqlite:///{directory}/vmsec.sqlite")
    with engine.connect() as connection:
        mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar()
    engine.dispose()
    store.close()
    assert mode == "wal"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hunter2",
        "nosuch://u:hunter2@h/d",
        "sqlite://",
        "sqlite:////dev/null/hunter/v.sqlite",
    ],
)
def test_an_unusable_url_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigurationError, match="database") as caught:
        Database(url)
    assert "hunter2" not in str(caught.value)
