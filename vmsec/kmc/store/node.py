"""Rows of enrolled nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select

from vmsec.kmc.authority import NodeFacts
from vmsec.kmc.model import Node

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


def find(session: Session, name: str) -> Node | None:
    """Find a node by its name."""
    return session.get(Node, name)


def find_by_srk(session: Session, srk_name: bytes) -> Node | None:
    """Find the node to which a TPM is pinned."""
    return session.scalars(
        select(Node).where(Node.srk_name == srk_name)
    ).one_or_none()


def listing(session: Session) -> list[Node]:
    """List all nodes, by name."""
    return list(session.scalars(select(Node).order_by(Node.name)))


def facts(session: Session, name: str) -> NodeFacts:
    """Say what the authority needs to know of a node."""
    row = find(session, name)
    return NodeFacts(name=name, state=None if row is None else row.state)
