"""``/v1/health`` (is the API up?) and ``/v1/doctor`` (does all of it work?).

A finding is ``{"service", "check", "ok", "detail"}``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmsec.errors import VmsecError
from vmsec.keysync.messages import FAULT

if TYPE_CHECKING:
    import falcon

    from vmsec.api.services import Services
    from vmsec.keysync.client import AgentClient


class Health:
    """``/v1/health``: answers whenever the API does, and asks nobody."""

    def on_get(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """Say that the API is up."""
        resp.media = {"status": "ok"}


class Doctor:
    """``/v1/doctor``: asks the KMC and the agent of every enrolled node."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def on_get(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """Collect the findings of all services.

        A service that fails or is silent is a finding, not an error: the
        answer names everything that is wrong.
        """
        findings = self._examine()
        healthy = all(finding["ok"] for finding in findings)
        resp.media = {"healthy": healthy, "findings": findings}

    def _examine(self) -> list[dict[str, Any]]:
        try:
            nodes = self._services.kmc.node_list()
        except VmsecError as err:
            return [_finding("kmc", "answers", ok=False, detail=str(err))]
        count = f"{len(nodes)} node(s) enrolled"
        findings = [_finding("kmc", "answers", ok=bool(nodes), detail=count)]
        for node in nodes:
            agent = self._services.agent(node.name)
            findings.extend(_examine_agent(f"agent {node.name}", agent))
        return findings


def _examine_agent(service: str, agent: AgentClient) -> list[dict[str, Any]]:
    """Have an agent test itself; what begins with FAULT is one."""
    try:
        results = agent.self_test()
    except VmsecError as err:
        return [_finding(service, "answers", ok=False, detail=str(err))]
    findings = [_finding(service, "answers", ok=True, detail="")]
    for check, result in results.items():
        text = str(result)
        findings.append(
            _finding(
                service,
                check,
                ok=result is not False and not text.startswith(FAULT),
                detail=text.removeprefix(FAULT),
            )
        )
    return findings


def _finding(
    service: str, check: str, *, ok: bool, detail: str
) -> dict[str, Any]:
    return {"service": service, "check": check, "ok": ok, "detail": detail}
