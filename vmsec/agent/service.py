"""The agent of a compute node, put together.

Order of the start: interrupted jobs first, which needs neither key nor KMC
nor libvirt; then the socket, so that no hook is answered by an agent that
does not know its disks; then the bus, libvirt and the reconcile loop.
"""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmsec.agent.authority import Authority, Policy
from vmsec.agent.endpoint import AgentEndpoint
from vmsec.agent.hookcall import Budget, HookHandler
from vmsec.agent.hostview import HostView
from vmsec.agent.keyring import NodeKeys
from vmsec.agent.lanes import Lanes
from vmsec.agent.manager import VMManager
from vmsec.agent.operation import Operations
from vmsec.agent.outbox import Outbox
from vmsec.agent.reconcile import Reconciler
from vmsec.agent.sealer import DiskSealer
from vmsec.agent.selftest import Places, SelfTest
from vmsec.agent.server import HookServer
from vmsec.agent.state import NodeState
from vmsec.keysync.client import KMCClient
from vmsec.keysync.messages import AGENT_TOPIC
from vmsec.keysync.transport import RPCServer
from vmsec.sealing.model import SealSettings
from vmsec.tpm import NodeCustody, SoftwareTPM, open_tpm

if TYPE_CHECKING:
    from uuid import UUID

    from vmsec.conf.agent import AgentSettings
    from vmsec.conf.sealing import SealingSettings
    from vmsec.keysync.messages import DiskReport

LOG = logging.getLogger(__name__)

HOOK_DIRECTORY = Path("/etc/libvirt/hooks")
"""Fixed in libvirt (``sysconfdir``)."""

DRAIN_SECONDS = 60.0
"""How long the end waits for jobs; a job cut off is recovered at the start."""


class AgentService:
    """Everything that runs on a compute node.

    Args:
        settings: The agent's own.
        transport: The bus, see :func:`vmsec.keysync.open_transport`; it
            stays the caller's.
        sealing: How disks are sealed.
        kmc_timeout_seconds: How long the KMC is waited for.
        hook_directory: Where libvirt's hooks are.
    """

    def __init__(
        self,
        settings: AgentSettings,
        transport: Any,  # noqa: ANN401 - oslo.messaging is not typed
        *,
        sealing: SealingSettings,
        kmc_timeout_seconds: float = 10.0,
        hook_directory: Path = HOOK_DIRECTORY,
    ) -> None:
        self._settings, self._sealing = settings, sealing
        self._transport = transport
        self._kmc = KMCClient(transport, kmc_timeout_seconds)
        self._hook_directory = hook_directory
        self._running = contextlib.ExitStack()

    def start(self) -> None:
        """Recover, then serve; returns when hooks are answered.

        Raises:
            ConfigurationError: A setting or the socket is not usable.
            TPMError: The TPM does not answer.
            SyncError: The bus cannot be reached.
        """
        with contextlib.ExitStack() as stack:
            self._start(stack)
            self._running = stack.pop_all()
        LOG.info(
            "agent of node %s serves hooks on %s",
            self._settings.host,
            self._settings.socket,
        )

    def stop(self) -> None:
        """Answer no more hooks, finish what is being done, and stop."""
        self._running.close()

    def _start(self, stack: contextlib.ExitStack) -> None:
        """Start all parts; the stack stops them in the reverse order."""
        settings = self._settings
        state = NodeState(settings.state_directory)
        tcti = settings.tcti or _start_software_tpm(settings, stack)
        tpm = open_tpm(tcti, timeout_seconds=settings.tpm_timeout_seconds)
        stack.callback(tpm.close)
        custody = NodeCustody(tpm, settings.state_directory)
        keys = NodeKeys(custody, state)
        outbox = Outbox(settings.state_directory / "reports", self._report)
        authority = self._authority(state, keys)
        sealer = DiskSealer(
            state, keys, self._seal_settings(), self._fetch_manifest
        )
        manager = VMManager(state, authority, sealer, outbox)
        lanes = Lanes()
        hooks = HookHandler(manager, lanes, self._budget())
        host = HostView(settings.libvirt_uri)
        shared: dict[str, Any] = {
            "state": state, "manager": manager, "sealer": sealer,
            "lanes": lanes, "hooks": hooks, "host": host,
        }  # fmt: skip
        reconciler = Reconciler(authority=authority, **shared)
        reconciler.recover_journals()
        outbox.start()
        stack.callback(outbox.stop)
        stack.callback(lanes.drain, DRAIN_SECONDS)
        server = HookServer(settings.socket, hooks.handle)
        server.start()
        stack.callback(server.stop)
        selftest = SelfTest(
            places=self._places(),
            host=host,
            kmc=self._kmc,
            state=state,
            keys=keys,
            outbox=outbox,
            probe_tpm=lambda: tpm.run(
                "self-test",
                lambda esapi: esapi.get_random(8),
                idempotent=True,
            ),
        )
        endpoint = AgentEndpoint(
            Operations(**shared),
            selftest,
            custody.srk_public,
        )
        self._start_rpc(endpoint, stack)
        host.start(reconciler.poke)
        stack.callback(host.stop)
        reconciler.start(settings.reconcile_interval_seconds)
        stack.callback(reconciler.stop)

    def _start_rpc(
        self, endpoint: AgentEndpoint, stack: contextlib.ExitStack
    ) -> None:
        """Serve the bus."""
        server = RPCServer(
            self._transport,
            topic=AGENT_TOPIC,
            server=self._settings.host,
            endpoint=endpoint,
        )
        server.start()
        stack.callback(server.stop)

    def _authority(self, state: NodeState, keys: NodeKeys) -> Authority:
        """Make the part that asks the KMC."""
        settings = self._settings
        policy = Policy(
            host=settings.host,
            offline_start=settings.offline_start,
            protect_all=settings.protect_all,
            level=self._sealing.level,
        )
        return Authority(self._kmc, state, keys, policy)

    def _places(self) -> Places:
        """Return where things are, for the self-test."""
        settings = self._settings
        return Places(
            node=settings.host,
            hooks=self._hook_directory,
            socket=settings.socket,
            state=settings.state_directory,
            deadline_seconds=settings.hook_deadline_seconds,
        )

    def _seal_settings(self) -> SealSettings:
        """Return the engine's settings."""
        return SealSettings(
            level=self._sealing.level,
            journal_directory=self._sealing.journal_directory,
            fallback_bytes=self._sealing.fallback_bytes,
        )

    def _budget(self) -> Budget:
        """Return how long hooks may take."""
        return Budget(
            prepare=self._settings.hook_deadline_seconds,
            release=self._settings.seal_budget_seconds,
        )

    def _report(self, report: DiskReport) -> None:
        """Send one report to the KMC."""
        self._kmc.report(self._settings.host, report)

    def _fetch_manifest(self, vm: UUID, disk: UUID) -> bytes:
        """Ask the KMC for its copy of a manifest."""
        return self._kmc.manifest_get(self._settings.host, str(vm), str(disk))


def _start_software_tpm(
    settings: AgentSettings, stack: contextlib.ExitStack
) -> str:
    """Run a software TPM for this node; returns how to reach it."""
    software = SoftwareTPM(settings.state_directory / "tpm", "node")
    software.start()
    stack.callback(software.stop)
    LOG.warning(
        "[tpm] node_tcti is not set: the keys are in a software TPM, which "
        "protects them no better than the files that hold its state"
    )
    return software.tcti
