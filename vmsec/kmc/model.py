"""The KMC's tables.

Key blobs are TPM objects that only the KMC's TPM can load; manifests are
encrypted under the VM's key. Nothing in the database is secret by itself, but
losing ``keys`` loses every sealed disk.

Invariants, held by the schema:

- A VM has at most one active key (``ix_keys_one_active``; MySQL has no partial
  indexes: there the row lock on the VM holds it).
- A TPM is enrolled under one name (``uq_nodes_srk_name``).
- A generation of a disk has at most one manifest (primary key).
- At most one node holds a VM (``leases`` has the VM as its key).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sqlalchemy import (
    BigInteger,
    DateTime,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

if TYPE_CHECKING:
    from sqlalchemy import Dialect

UUID_CHARACTERS = 36
NAME_CHARACTERS = 255
WORD_CHARACTERS = 32

_ACTIVE = text("state = 'active'")


class UTCDateTime(TypeDecorator[datetime]):
    """A moment, kept as UTC without zone, as every database can."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(
        self, value: datetime | None, dialect: Dialect
    ) -> datetime | None:
        """Turn an aware moment into naive UTC."""
        del dialect
        if value is None:
            return None
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(
        self, value: datetime | None, dialect: Dialect
    ) -> datetime | None:
        """Turn naive UTC into an aware moment."""
        del dialect
        return None if value is None else value.replace(tzinfo=UTC)


class Base(DeclarativeBase):
    """All tables, with constraint names that migrations can rely on."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class Node(Base):
    """A compute node; ``srk_public`` is a marshalled TPM2B_PUBLIC."""

    __tablename__ = "nodes"
    __table_args__ = (UniqueConstraint("srk_name"),)

    name: Mapped[str] = mapped_column(
        String(NAME_CHARACTERS), primary_key=True
    )
    srk_public: Mapped[bytes] = mapped_column(LargeBinary(1024))
    srk_name: Mapped[bytes] = mapped_column(LargeBinary(34))
    state: Mapped[str] = mapped_column(String(WORD_CHARACTERS))
    enrolled_at: Mapped[datetime] = mapped_column(UTCDateTime)


class VM(Base):
    """A protected VM; ``node`` is where it is placed, enrolled or not."""

    __tablename__ = "vms"

    vm: Mapped[str] = mapped_column(String(UUID_CHARACTERS), primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    project: Mapped[str] = mapped_column(Text)
    node: Mapped[str | None] = mapped_column(String(NAME_CHARACTERS))
    level: Mapped[str] = mapped_column(String(WORD_CHARACTERS))
    created_at: Mapped[datetime] = mapped_column(UTCDateTime)


class Key(Base):
    """One version of a VM's key, as the TPM object that holds it.

    ``released_at`` is when it first went to a node.
    """

    __tablename__ = "keys"
    __table_args__ = (
        Index(
            "ix_keys_one_active",
            "vm",
            unique=True,
            sqlite_where=_ACTIVE,
            postgresql_where=_ACTIVE,
        ),
    )

    vm: Mapped[str] = mapped_column(ForeignKey("vms.vm"), primary_key=True)
    version: Mapped[int] = mapped_column(
        BigInteger, primary_key=True, autoincrement=False
    )
    state: Mapped[str] = mapped_column(String(WORD_CHARACTERS))
    custody: Mapped[str] = mapped_column(String(WORD_CHARACTERS))
    public: Mapped[bytes] = mapped_column(LargeBinary(4096))
    private: Mapped[bytes] = mapped_column(LargeBinary(4096))
    created_at: Mapped[datetime] = mapped_column(UTCDateTime)
    deactivated_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    released_at: Mapped[datetime | None] = mapped_column(UTCDateTime)


class Disk(Base):
    """A disk of a protected VM, as last reported by ``node``."""

    __tablename__ = "disks"

    vm: Mapped[str] = mapped_column(ForeignKey("vms.vm"), primary_key=True)
    disk: Mapped[str] = mapped_column(
        String(UUID_CHARACTERS), primary_key=True
    )
    target: Mapped[str] = mapped_column(String(NAME_CHARACTERS))
    state: Mapped[str] = mapped_column(String(WORD_CHARACTERS))
    generation: Mapped[int] = mapped_column(BigInteger)
    key_version: Mapped[int] = mapped_column(BigInteger)
    level: Mapped[str] = mapped_column(String(WORD_CHARACTERS))
    sealed_bytes: Mapped[int] = mapped_column(BigInteger)
    disk_bytes: Mapped[int] = mapped_column(BigInteger)
    node: Mapped[str] = mapped_column(String(NAME_CHARACTERS))
    updated_at: Mapped[datetime] = mapped_column(UTCDateTime)


class Manifest(Base):
    """An encrypted manifest of one generation of a disk."""

    __tablename__ = "manifests"
    __table_args__ = (
        ForeignKeyConstraint(["vm", "disk"], ["disks.vm", "disks.disk"]),
    )

    vm: Mapped[str] = mapped_column(String(UUID_CHARACTERS), primary_key=True)
    disk: Mapped[str] = mapped_column(
        String(UUID_CHARACTERS), primary_key=True
    )
    generation: Mapped[int] = mapped_column(
        BigInteger, primary_key=True, autoincrement=False
    )
    key_version: Mapped[int] = mapped_column(BigInteger)
    manifest: Mapped[bytes] = mapped_column(LargeBinary(8 << 20))
    created_at: Mapped[datetime] = mapped_column(UTCDateTime)


class Lease(Base):
    """The node that has a VM's disks unsealed, since when, by which call."""

    __tablename__ = "leases"

    vm: Mapped[str] = mapped_column(ForeignKey("vms.vm"), primary_key=True)
    node: Mapped[str] = mapped_column(String(NAME_CHARACTERS))
    request_id: Mapped[str] = mapped_column(Text)
    acquired_at: Mapped[datetime] = mapped_column(UTCDateTime)
