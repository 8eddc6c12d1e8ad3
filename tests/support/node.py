"""A compute node of one's own: KMC and agent in a process that can be killed.

``NodeProcess`` starts this module as a program: it runs a KMC and an agent
over ``fake://``, obeys requests on standard input (one JSON list per line:
method, arguments) and answers on standard output. It ends with its input.
Used by the functional tests and the benchmarks; knows no pytest.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from vmsec.agent.hookinstall import install_hook
from vmsec.sealing.inspection import read_status
from vmsec.sealing.model import ImageRef, SealSettings

if TYPE_CHECKING:
    from types import TracebackType
    from uuid import UUID

ROOT = pathlib.Path(__file__).parents[2]
START_SECONDS = 90
STOP_SECONDS = 30
NODES = ("node-a", "node-b")
NODE = NODES[0]


class _Place(NamedTuple):
    """Where the agent of one host keeps its things."""

    hooks: pathlib.Path
    socket: pathlib.Path
    state: pathlib.Path

    @classmethod
    def of(cls, directory: pathlib.Path, number: int) -> Self:
        """Return the place of host number 0 or 1."""
        tail = ("", "-b")[number]
        return cls(
            directory / f"hooks{tail}",
            directory / f"agent{tail}.sock",
            directory / f"agent{tail}",
        )


def _install_dispatcher(hooks: pathlib.Path) -> None:
    """Both daemons share one hook directory: choose by their host names."""
    script = hooks / "qemu.d" / "50-vmsec"
    first = script.rename(hooks / "first")
    second = hooks.with_name("hooks-b") / "qemu.d" / "50-vmsec"
    script.write_text(
        "#!/bin/sh\n"
        f'case $(hostname) in vmsec-b) exec {second} "$@" ;; esac\n'
        f'exec {first} "$@"\n'
    )
    script.chmod(0o755)


class NodeProcess:
    """KMC and agent of one node; a context manager that may be restarted.

    Attributes:
        directory: Holds the state of both, the log and the socket.
        hooks: The directory for libvirt's hooks.
    """

    def __init__(
        self,
        directory: pathlib.Path,
        *,
        hosts: int = 1,
        **overrides: Any,
    ) -> None:
        self.directory = directory
        self.uris = ["test:///default"] * hosts
        self.hooks = directory / "hooks"
        self.socket = directory / "agent.sock"
        self.state = directory / "agent"
        self.log = directory / "node.log"
        self.overrides = overrides
        self._process: subprocess.Popen[str] | None = None
        directory.mkdir(exist_ok=True)
        # Before libvirtd starts: it looks then whether there is any hook.
        for number in range(hosts):
            place = _Place.of(directory, number)
            install_hook(place.hooks, place.socket, place.state)
        if hosts > 1:
            _install_dispatcher(self.hooks)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The process of KMC and agent."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start and wait until hooks are answered."""
        config = {
            "directory": str(self.directory),
            "uris": self.uris,
            **self.overrides,
        }
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tests.support.node",
                    json.dumps(config),
                ],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        if self._answer() != "READY":
            raise RuntimeError(f"the node did not start: {self.tail()}")

    def stop(self) -> None:
        """Stop in order; nothing happens if it was killed."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(STOP_SECONDS)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()

    def kill(self) -> None:
        """Kill it at once (SIGKILL), and the TPM's process with it."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self.stop()

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of :class:`_Node`; errors come back as NodeError."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([method, *arguments]) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        if isinstance(answer, dict) and "error" in answer:
            raise NodeError(answer["error"])
        return answer

    def answers(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    def protect(self, vm: UUID, *, level: str = "metadata") -> None:
        """Protect a VM."""
        self.call("protect", str(vm), level)

    def status(self, image: pathlib.Path, image_format: str = "raw") -> str:
        """Return an image's state: plain, sealed or interrupted."""
        return str(image_status(image, image_format).state)

    def passes(self) -> int:
        """Count the passes that the reconcile loop has made."""
        return self.log.read_text(errors="replace").count("a pass is done")

    def tail(self) -> str:
        """Return the end of the log."""
        return self.log.read_text(errors="replace")[-3000:]

    def _answer(self) -> Any:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the node is gone: {self.tail()}")
        return json.loads(line)


class NodeError(RuntimeError):
    """A method of the node refused; the text is the operator's."""


def image_status(image: pathlib.Path, image_format: str = "raw") -> Any:
    """Read an image's status, without key or lock."""
    return read_status(ImageRef(image, image_format), settings=SealSettings())


def wait_until(what: str, condition: Any, timeout: float = 60) -> None:
    """Poll until a condition holds.

    Raises:
        TimeoutError: It did not in time.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not in {timeout} s")
        time.sleep(0.02)


class _Node:
    """What runs in the process."""

    def __init__(self, config: dict[str, Any]) -> None:
        from vmsec.agent.service import AgentService
        from vmsec.keysync.client import AgentClient, KMCClient
        from vmsec.keysync.transport import open_transport
        from vmsec.kmc.service import KMCService

        directory = pathlib.Path(config["directory"])
        transport = open_transport()
        self._kmc_service = KMCService(_kmc_settings(directory), transport)
        self._agents = [
            AgentService(
                _agent_settings(directory, number, config),
                transport,
                sealing=_sealing_settings(),
                kmc_timeout_seconds=config.get("kmc_timeout", 5),
                hook_directory=_Place.of(directory, number).hooks,
            )
            for number in range(len(config["uris"]))
        ]
        self._clients = {
            name: AgentClient(transport, name, 120) for name in NODES
        }
        self.agent = self._clients[NODE]
        self.kmc = KMCClient(transport, 10)
        self._kmc_runs = False

    def start(self) -> None:
        """Start the KMC, the agents, and enrol their nodes."""
        self.kmc_start()
        for name, agent in zip(NODES, self._agents, strict=False):
            agent.start()
            identity = self._clients[name].node_identity()
            self.kmc.node_enroll(name, identity)

    def stop(self) -> None:
        """Stop all."""
        for agent in self._agents:
            agent.stop()
        self.kmc_stop()

    def kmc_start(self) -> None:
        """Start the KMC."""
        self._kmc_service.start()
        self._kmc_runs = True

    def kmc_stop(self) -> None:
        """Stop the KMC: it does not answer any more."""
        if self._kmc_runs:
            self._kmc_runs = False
            self._kmc_service.stop()

    def protect(self, vm: str, level: str) -> None:
        """Protect a VM."""
        self.kmc.vm_protect(
            vm, name="test", project="test", level=level, node=NODE
        )

    def place(self, vm: str, node: str) -> None:
        """Place a VM on a node."""
        self.kmc.vm_place(vm, node)

    def rotate(self, vm: str) -> int:
        """Make a new key version."""
        return self.kmc.key_rotate(vm).version

    def vm_show(self, vm: str) -> Any:
        """Show a VM."""
        return dataclasses.asdict(self.kmc.vm_show(vm))

    def job(self, method: str, vm: str) -> Any:
        """Run a manual operation: vm_seal, vm_unseal or vm_rekey."""
        job = getattr(self.agent, method)(vm)
        return {
            "disks": [
                [disk.target, disk.state, disk.generation, disk.key_version]
                for disk in job.disks
            ],
            "notes": list(job.notes),
        }

    def self_test(self) -> Any:
        """Examine the node."""
        return self.agent.self_test()


def _agent_settings(
    directory: pathlib.Path, number: int, config: dict[str, Any]
) -> Any:
    from vmsec.conf.agent import AgentSettings

    place = _Place.of(directory, number)
    return AgentSettings(
        host=NODES[number],
        state_directory=place.state,
        socket=place.socket,
        protect_all=config.get("protect_all", False),
        hook_deadline_seconds=config.get("hook_deadline", 60),
        seal_budget_seconds=config.get("seal_budget", 10),
        offline_start=config.get("offline_start", True),
        libvirt_uri=config["uris"][number],
        reconcile_interval_seconds=config.get("reconcile_interval", 3600),
        tcti="",
        tpm_timeout_seconds=30,
    )


def _sealing_settings() -> Any:
    from vmsec.conf.sealing import SealingSettings
    from vmsec.ondisk.extent import Level

    return SealingSettings(
        level=Level.METADATA, fallback_bytes=4 << 20, journal_directory=None
    )


def _kmc_settings(directory: pathlib.Path) -> Any:
    from vmsec.conf.database import DatabaseSettings
    from vmsec.conf.kmc import KMCSettings

    return KMCSettings(
        host="kmc",
        state_directory=directory / "kmc",
        database=DatabaseSettings(
            connection=f"sqlite:///{directory}/kmc/vmsec.sqlite"
        ),
        tcti="",
        tpm_timeout_seconds=30,
        threads=8,
        manifests_kept=3,
    )


def _obey(node: _Node, line: str) -> Any:
    """Do one request."""
    from vmsec.errors import VmsecError

    method, *arguments = json.loads(line)
    try:
        return getattr(node, method)(*arguments)
    except VmsecError as err:
        return {"error": f"{err.code}: {err}"}


def main() -> None:
    """Serve until standard input ends."""
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    logging.getLogger("vmsec.agent").setLevel(logging.DEBUG)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    node = _Node(json.loads(sys.argv[1]))
    node.start()
    try:
        print(json.dumps("READY"), file=out, flush=True)
        for line in sys.stdin:
            print(json.dumps(_obey(node, line)), file=out, flush=True)
    finally:
        node.stop()


if __name__ == "__main__":
    main()
