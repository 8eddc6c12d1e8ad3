"""``vmsec doctor`` on one node: does all of the agent really work?

Each check does the thing itself where that is harmless: it derives a key in
the TPM, asks libvirt and the KMC, takes an image lock.
"""

from __future__ import annotations

import logging
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from vmsec.agent import hookinstall, hookwire
from vmsec.agent.state import read_limited
from vmsec.errors import (
    ConfigurationError,
    ImageBusyError,
    ImageIOError,
    VmsecError,
)
from vmsec.keysync.messages import FAULT
from vmsec.sealing.image import open_device
from vmsec.sealing.model import ImageRef
from vmsec.units import MIB, format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmsec.agent.hostview import HostView
    from vmsec.agent.keyring import NodeKeys
    from vmsec.agent.outbox import Outbox
    from vmsec.agent.state import NodeState
    from vmsec.keysync.client import KMCClient

LOG = logging.getLogger(__name__)

Findings = dict[str, str | int | bool | None]

MIN_FREE_BYTES = 256 * MIB
"""Room for the journals of a few large disks; most need below 50 MiB."""

EARLIEST_CLOCK = 1_735_689_600
"""2025-01-01: a host whose clock is before this has lost its time."""


class Places(NamedTuple):
    """This node's name, and where things are on it."""

    node: str
    hooks: Path
    socket: Path
    state: Path
    deadline_seconds: int


class SelfTest:
    """Examines this node.

    Args:
        places: Where things are.
        host: libvirt.
        kmc: The key-management centre.
        state: What the agent remembers.
        keys: This node's keys.
        outbox: The reports that wait.
        probe_tpm: Makes the TPM do something, or raises a ``TPMError``.
    """

    def __init__(
        self,
        *,
        places: Places,
        host: HostView,
        kmc: KMCClient,
        state: NodeState,
        keys: NodeKeys,
        outbox: Outbox,
        probe_tpm: Callable[[], object],
    ) -> None:
        self._places, self._host = places, host
        self._kmc = kmc
        self._state, self._keys, self._outbox = state, keys, outbox
        self._probe_tpm = probe_tpm

    def run(self) -> Findings:
        """Do all checks.

        Returns:
            By name of the check: a text that says what was found; one that
            begins with ``FAULT`` says what is wrong and what to do.
        """
        checks: dict[str, Callable[[], str]] = {
            "hook installed": self._check_hook,
            "hook called": self._check_called,
            "libvirt": self._check_libvirt,
            "image lock": self._check_lock,
            "tpm": self._check_tpm,
            "kmc": self._check_kmc,
            "clock": _check_clock,
            "journal space": self._check_space,
            "reports": self._check_reports,
        }
        findings: Findings = {}
        for name, check in checks.items():
            try:
                findings[name] = check()
            except VmsecError as err:
                LOG.warning("self-test: %s: %s", name, err)
                findings[name] = f"{FAULT}{err}"
        return findings

    def _check_hook(self) -> str:
        """Check that the hook is ours, executable, and runs."""
        places = self._places
        hookinstall.check_hook(
            places.hooks, places.socket, places.state, places.deadline_seconds
        )
        return str(places.hooks / "qemu.d" / hookinstall.HOOK_NAME)

    def _check_called(self) -> str:
        """Check that libvirtd really calls the hook, by its stamp."""
        stamp = read_limited(
            Path(hookwire.stamp_path(str(self._state.directory)))
        )
        if stamp:
            when, _, operation = stamp.decode("ascii", "replace").partition(
                " "
            )
            return f"last at {when}, {operation.strip()}"
        if any(domain.active for domain in self._host.domains()):
            raise ConfigurationError(
                "VMs run, but libvirtd never called the hook; run systemctl "
                "reload libvirtd and restart the VMs"
            )
        return "not yet; no VM was started since it was installed"

    def _check_libvirt(self) -> str:
        """Check that libvirt answers."""
        return f"libvirt {self._host.version()} answers"

    def _check_lock(self) -> str:
        """Check that an image lock keeps a second opener out."""
        path = self._state.directory / "lock-test"
        try:
            path.write_bytes(bytes(MIB))
            require_working_locks(path)
        except OSError as err:
            raise ImageIOError("write", str(path), err.strerror or "") from err
        finally:
            path.unlink(missing_ok=True)
        return "a second opener is refused"

    def _check_tpm(self) -> str:
        """Check the TPM by deriving a key with it."""
        for vm in self._state.vms():
            known = self._state.load_vm(vm)
            if known and self._state.load_key(vm, known.key_version):
                begin = time.monotonic()
                self._keys.open(vm, known.key_version).wipe()
                took = round((time.monotonic() - begin) * 1000)
                return f"derived the key of VM {vm} in {took} ms"
        self._probe_tpm()
        return "answers; no VM key is held here yet"

    def _check_kmc(self) -> str:
        """Check that the KMC answers and knows this node."""
        name = self._places.node
        states = {node.name: node.state for node in self._kmc.node_list()}
        if name not in states:
            raise ConfigurationError(
                f"the KMC answers, but does not know node {name}; run "
                f"vmsec node enroll {name}"
            )
        if states[name] != "enrolled":
            raise ConfigurationError(
                f"the KMC answers, but node {name} is {states[name]}"
            )
        return f"answers; node {name} is enrolled"

    def _check_space(self) -> str:
        """Check that journals find room."""
        places = {Path(self._state.directory)}
        for vm in self._state.vms():
            for disk in self._state.disks(vm):
                if Path(disk.path).parent.is_dir():
                    places.add(Path(disk.path).parent)
        least, where = min((shutil.disk_usage(p).free, str(p)) for p in places)
        if least < MIN_FREE_BYTES:
            raise ConfigurationError(
                f"{where}: only {format_bytes(least)} are free; journals "
                f"need {format_bytes(MIN_FREE_BYTES)}"
            )
        return f"{format_bytes(least)} free at {where}"

    def _check_reports(self) -> str:
        """Say how many reports wait for the KMC."""
        return f"{self._outbox.waiting()} wait for the KMC"


def require_working_locks(path: Path) -> None:
    """Check that an image lock on this file keeps a second opener out.

    Raises:
        ConfigurationError: It does not: images there must not be sealed.
    """
    image = ImageRef(path)
    with open_device(image, writable=True):
        try:
            with open_device(image, writable=True):
                pass
        except ImageBusyError:
            return
    raise ConfigurationError(
        f"{path.parent}: image locks do not work on this file system; do "
        "not keep images there"
    )


def _check_clock() -> str:
    """Check that the host has not lost its time."""
    now = time.time()
    if now < EARLIEST_CLOCK:
        raise ConfigurationError("this host's clock is wrong; set it")
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
