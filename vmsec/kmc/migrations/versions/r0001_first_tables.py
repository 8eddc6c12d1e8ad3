"""Make the first tables: nodes, VMs, keys, disks, manifests, leases."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_PARTIAL_INDEX = frozenset({"sqlite", "postgresql"})
_ACTIVE = sa.text("state = 'active'")


def upgrade() -> None:
    """Make all tables."""
    _create_nodes()
    _create_vms()
    _create_keys()
    _create_disks()
    _create_manifests()
    _create_leases()


def downgrade() -> None:
    """Drop all tables, those that refer to others first."""
    for table in ("leases", "manifests", "disks", "keys", "vms", "nodes"):
        op.drop_table(table)


def _create_nodes() -> None:
    """Enrolled nodes."""
    op.create_table(
        "nodes",
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("srk_public", sa.LargeBinary(1024), nullable=False),
        sa.Column("srk_name", sa.LargeBinary(34), nullable=False),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("enrolled_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_nodes"),
        sa.UniqueConstraint("srk_name", name="uq_nodes_srk_name"),
    )


def _create_vms() -> None:
    """Protected VMs."""
    op.create_table(
        "vms",
        sa.Column("vm", sa.String(36), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("node", sa.String(255), nullable=True),
        sa.Column("level", sa.String(32), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("vm", name="pk_vms"),
    )


def _create_keys() -> None:
    """Key versions, at most one of a VM active."""
    op.create_table(
        "keys",
        sa.Column("vm", sa.String(36), nullable=False),
        sa.Column(
            "version", sa.BigInteger(), autoincrement=False, nullable=False
        ),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("custody", sa.String(32), nullable=False),
        sa.Column("public", sa.LargeBinary(4096), nullable=False),
        sa.Column("private", sa.LargeBinary(4096), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("deactivated_at", sa.DateTime(), nullable=True),
        sa.Column("released_at", sa.DateTime(), nullable=True),
        sa.ForeignKeyConstraint(["vm"], ["vms.vm"], name="fk_keys_vm"),
        sa.PrimaryKeyConstraint("vm", "version", name="pk_keys"),
    )
    if op.get_context().dialect.name in _PARTIAL_INDEX:
        op.create_index(
            "ix_keys_one_active",
            "keys",
            ["vm"],
            unique=True,
            sqlite_where=_ACTIVE,
            postgresql_where=_ACTIVE,
        )


def _create_disks() -> None:
    """Disks as last reported."""
    op.create_table(
        "disks",
        sa.Column("vm", sa.String(36), nullable=False),
        sa.Column("disk", sa.String(36), nullable=False),
        sa.Column("target", sa.String(255), nullable=False),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("key_version", sa.BigInteger(), nullable=False),
        sa.Column("level", sa.String(32), nullable=False),
        sa.Column("sealed_bytes", sa.BigInteger(), nullable=False),
        sa.Column("disk_bytes", sa.BigInteger(), nullable=False),
        sa.Column("node", sa.String(255), nullable=False),
        sa.Column("updated_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(["vm"], ["vms.vm"], name="fk_disks_vm"),
        sa.PrimaryKeyConstraint("vm", "disk", name="pk_disks"),
    )


def _create_manifests() -> None:
    """Manifests of the last generations."""
    op.create_table(
        "manifests",
        sa.Column("vm", sa.String(36), nullable=False),
        sa.Column("disk", sa.String(36), nullable=False),
        sa.Column(
            "generation", sa.BigInteger(), autoincrement=False, nullable=False
        ),
        sa.Column("key_version", sa.BigInteger(), nullable=False),
        sa.Column("manifest", sa.LargeBinary(8 << 20), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["vm", "disk"],
            ["disks.vm", "disks.disk"],
            name="fk_manifests_vm",
        ),
        sa.PrimaryKeyConstraint(
            "vm", "disk", "generation", name="pk_manifests"
        ),
    )


def _create_leases() -> None:
    """Which node holds a VM."""
    op.create_table(
        "leases",
        sa.Column("vm", sa.String(36), nullable=False),
        sa.Column("node", sa.String(255), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("acquired_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(["vm"], ["vms.vm"], name="fk_leases_vm"),
        sa.PrimaryKeyConstraint("vm", name="pk_leases"),
    )
