"""One line in the log for every grant and every refusal.

The line is ``decision=... action=... vm=... node=... version=...
request=... reason=...``; what does not apply is a dash.
"""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from oslo_log import log

from vmsec.errors import VmsecError

if TYPE_CHECKING:
    from collections.abc import Iterator

LOG = log.getLogger(__name__)

_WORD = re.compile(r"[A-Za-z0-9._:,-]+")


@dataclass(slots=True)
class Decision:
    """What is known of a decision so far; completed inside the block.

    ``version`` is a key version, or several as text; ``reason`` says why it
    was granted.
    """

    action: str
    vm: str | None = None
    node: str | None = None
    version: int | str | None = None
    request: str | None = None
    reason: str = "allowed"

    def line(self, outcome: str, reason: str) -> str:
        """Write the line of the log."""
        facts = {
            "decision": outcome,
            "action": self.action,
            "vm": self.vm,
            "node": self.node,
            "version": self.version,
            "request": self.request,
        }
        words = [f"{key}={_word(value)}" for key, value in facts.items()]
        return f"{' '.join(words)} reason={reason}"


def _word(value: object) -> str:
    """Write a value as one word; what could pass for several is quoted."""
    text = "-" if value is None else str(value)
    return text if _WORD.fullmatch(text) else json.dumps(text)


@contextlib.contextmanager
def logged(decision: Decision) -> Iterator[Decision]:
    """Log how the block ends: granted, or refused with the error's reason."""
    try:
        yield decision
    except VmsecError as err:
        LOG.warning(decision.line("refused", f"{err.code}: {err}"))
        raise
    LOG.info(decision.line("granted", decision.reason))
