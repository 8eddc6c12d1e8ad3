"""Which TPM is which node: enrolment by the operator's word, and pinning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oslo_log import log

from vmsec.errors import AccessDeniedError, NodeIdentityError
from vmsec.kmc import identity
from vmsec.kmc.authority import BANNED, ENROLLED
from vmsec.kmc.decision import Decision, logged
from vmsec.kmc.model import Node
from vmsec.kmc.record import node_record
from vmsec.kmc.store import node as nodes

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from vmsec.keysync.messages import NodeRecord
    from vmsec.kmc.clock import Clock
    from vmsec.kmc.store.database import Database

LOG = log.getLogger(__name__)


class Enrolment:
    """Enrolls nodes.

    Args:
        database: The KMC's database.
        clock: Says what time it is.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database, self._clock = database, clock

    def enroll(
        self, name: str, srk_public: bytes, *, clear: bool
    ) -> NodeRecord:
        """Pin a node's name to the TPM with this SRK.

        Repeating it changes nothing. A name that is pinned to another TPM is
        refused unless the operator clears it (a board was swapped), and a
        TPM that is enrolled under another name always.

        Raises:
            SchemaError: No node name, or no SRK.
            NodeIdentityError: Pinned otherwise.
            AccessDeniedError: The node is banned.
        """
        with logged(Decision("enroll", node=name)) as decision:
            identity.require_node_name(name)
            srk_name = identity.srk_name(srk_public)
            with self._database.writing() as session:
                _require_free(session, name, srk_name)
                row = nodes.find(session, name)
                if row is None:
                    row = self._add(session, name, srk_public, srk_name)
                elif row.srk_name != srk_name:
                    _require_clear(row, clear=clear)
                    decision.reason = "pin cleared by the operator"
                    row.srk_public, row.srk_name = srk_public, srk_name
                    row.enrolled_at = self._clock()
                return node_record(row)

    def list_nodes(self) -> tuple[NodeRecord, ...]:
        """List all nodes, by name."""
        with self._database.reading() as session:
            return tuple(node_record(row) for row in nodes.listing(session))

    def _add(
        self, session: Session, name: str, srk_public: bytes, srk_name: bytes
    ) -> Node:
        """Add a node."""
        row = Node(
            name=name,
            srk_public=srk_public,
            srk_name=srk_name,
            state=ENROLLED,
            enrolled_at=self._clock(),
        )
        session.add(row)
        session.flush()
        return row


def _require_free(session: Session, name: str, srk_name: bytes) -> None:
    """Refuse a TPM that is another node's."""
    other = nodes.find_by_srk(session, srk_name)
    if other is not None and other.name != name:
        raise NodeIdentityError(
            f"this TPM is enrolled as node {other.name}; one TPM is one "
            "node, so use that name"
        )


def _require_clear(row: Node, *, clear: bool) -> None:
    """Refuse another TPM under a pinned name, unless it was cleared."""
    if row.state == BANNED:
        raise AccessDeniedError(f"node {row.name} is banned")
    if not clear:
        raise NodeIdentityError(
            f"node {row.name} is pinned to another TPM; if its board was "
            "swapped, enroll it with --clear"
        )
