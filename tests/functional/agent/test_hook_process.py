"""The installed hook as libvirtd runs it, against bad agents and none."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.node import wait_until
from vmsec.agent import hookinstall, hookwire
from vmsec.agent.hookwire import HookAnswer, HookRequest
from vmsec.agent.server import HookServer
from vmsec.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

UUID_TEXT = "1c9b7a3e-5d2f-4e6b-8a90-7f1e2d3c4b5a"
XML = f"<domain><name>vm</name><uuid>{UUID_TEXT}</uuid></domain>".encode()
NEVER_VETO = ["start", "started", "stopped", "release", "migrate", "restore"]
NEVER_VETO += ["reconnect", "attach", "of a later libvirt"]


class Hook:
    """An installed hook and the paths it knows."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket, self.state = directory / "agent.sock", directory / "state"
        (self.state / "protected").mkdir(parents=True)
        hookinstall.install_hook(
            directory / "hooks", self.socket, self.state, 5
        )
        self.script = directory / "hooks" / "qemu.d" / "50-vmsec"

    def protect(self) -> None:
        (self.state / "protected" / UUID_TEXT).touch()

    def run(
        self, operation: str, xml: bytes = XML
    ) -> subprocess.CompletedProcess[bytes]:
        sub = "end" if operation in ("stopped", "release") else "begin"
        return subprocess.run(
            [self.script, "vm", operation, sub, "-"],
            input=xml,
            capture_output=True,
            check=False,
            env={"LC_ALL": "C", "PATH": os.environ["PATH"]},
            cwd="/",
            timeout=60,
        )


@pytest.fixture
def hook(tmp_path: Path) -> Hook:
    return Hook(tmp_path)


@contextlib.contextmanager
def agent(
    hook: Hook, handle: Callable[[HookRequest], HookAnswer]
) -> Iterator[None]:
    """The real server with a handler of the test's."""
    server = HookServer(hook.socket, handle)
    server.start()
    try:
        yield
    finally:
        server.stop()


@contextlib.contextmanager
def bad_agent(hook: Hook, reply: bytes) -> Iterator[None]:
    """Something on the agent's socket that answers nonsense."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(hook.socket))
        listener.listen()

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    link, _ = listener.accept()
                    with link:
                        link.recv(65536)
                        link.sendall(reply)

        threading.Thread(target=serve, daemon=True).start()
        yield
        listener.shutdown(socket.SHUT_RDWR)


def test_hook_hands_over_what_libvirt_said_and_the_answer_back(
    hook: Hook,
) -> None:
    seen: list[HookRequest] = []

    def handle(request: HookRequest) -> HookAnswer:
        seen.append(request)
        return HookAnswer(1, "the KMC\nrefused")

    with agent(hook, handle):
        result = hook.run("prepare")
    assert seen == [HookRequest("vm", "prepare", "begin", "-", XML.decode())]
    assert result.returncode == 1
    assert result.stderr == b"vmsec: the KMC refused\n"
    assert result.stdout == b""


@pytest.mark.parametrize("operation", NEVER_VETO)
def test_only_prepare_vetoes_and_nothing_reaches_standard_output(
    hook: Hook, operation: str
) -> None:
    with agent(hook, lambda _: HookAnswer(1, "no")):
        result = hook.run(operation)
    assert (result.returncode, result.stdout) == (0, b"")


@pytest.mark.parametrize("operation", NEVER_VETO)
def test_agent_away_stops_nothing_but_a_start(
    hook: Hook, operation: str
) -> None:
    hook.protect()
    result = hook.run(operation)
    assert (result.returncode, result.stdout) == (0, b"")
    assert (b"does not answer" in result.stderr) == (operation == "release")


def test_unprotected_vm_never_waits_for_an_agent_that_is_away(
    hook: Hook,
) -> None:
    begin = time.monotonic()
    for operation in ("prepare", *NEVER_VETO):
        assert hook.run(operation).stderr == b""
    assert time.monotonic() - begin < hookwire.CONNECT_SECONDS * 5


def test_agent_away_refuses_a_protected_vm_only(hook: Hook) -> None:
    assert hook.run("prepare").returncode == 0
    hook.protect()
    result = hook.run("prepare")
    assert result.returncode == 1
    assert result.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"\0\0\0\2[]",
        struct.pack(">I", 1 << 31),
        b'\0\0\0\x0b{"status":9}',
    ],
)
def test_agent_that_answers_nonsense_counts_as_away(
    hook: Hook, reply: bytes
) -> None:
    hook.protect()
    with bad_agent(hook, reply):
        assert hook.run("prepare").returncode == 1
        assert hook.run("release").returncode == 0


def test_agent_that_never_answers_is_given_up_at_the_deadline(
    hook: Hook,
) -> None:
    hook.protect()
    gate = threading.Event()

    def handle(_: HookRequest) -> HookAnswer:
        gate.wait(60)
        return HookAnswer(0, "")

    begin = time.monotonic()
    with agent(hook, handle):
        result = hook.run("prepare")
        gate.set()
    assert result.returncode == 1
    wanted = 5 + hookinstall.GRACE_SECONDS
    assert wanted - 1 < time.monotonic() - begin < wanted + 10


def test_agent_that_is_just_restarting_is_waited_for(hook: Hook) -> None:
    hook.protect()
    done: list[subprocess.CompletedProcess[bytes]] = []
    caller = threading.Thread(target=lambda: done.append(hook.run("prepare")))
    caller.start()
    stamp = hook.state / "hook.stamp"
    wait_until("called", lambda: stamp.exists() and stamp.stat().st_size)
    with agent(hook, lambda _: HookAnswer(0, "")):
        caller.join(30)
    assert done[0].returncode == 0


def test_endless_domain_is_refused(hook: Hook) -> None:
    result = hook.run("prepare", b"x" * (hookwire.MAX_XML_BYTES + 10))
    assert result.returncode == 1
    assert b"longer than 4 MiB" in result.stderr


def test_hook_whose_package_is_gone_refuses_starts_and_kills_nothing(
    hook: Hook,
) -> None:
    text = hook.script.read_text()
    hook.script.write_text(text.replace("hookwire.py", "gone.py"))
    assert hook.run("prepare").returncode != 0
    assert hook.run("reconnect").returncode == 0
    assert hook.run("started").returncode == 0


def test_hook_is_quick(hook: Hook) -> None:
    with agent(hook, lambda _: HookAnswer(0, "")):
        hook.run("prepare")
        begin = time.process_time(), os.times()
        for _ in range(10):
            hook.run("prepare")
        after = os.times()
    # Processor time, not the clock: the machine may be busy.
    used = after.children_user - begin[1].children_user
    used += after.children_system - begin[1].children_system
    assert used / 10 < 0.1


def test_other_users_are_not_served(hook: Hook) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to become somebody else")
    calls: list[HookRequest] = []

    def handle(request: HookRequest) -> HookAnswer:
        calls.append(request)
        return HookAnswer(0, "")

    with agent(hook, handle):
        assert hook.socket.stat().st_mode & 0o777 == 0o600
        hook.socket.chmod(0o666)
        for path in (hook.directory, *hook.directory.parents):
            if path.stat().st_uid == 0 and str(path).startswith("/tmp/"):
                path.chmod(0o755)
        subprocess.run(
            [
                "/usr/bin/python3", "-I", "-c",
                "import socket,sys;s=socket.socket(socket.AF_UNIX);"
                "s.connect(sys.argv[1]);print(s.recv(9))",
                hook.socket,
            ],
            check=False,
            user=65534,
            timeout=30,
        )  # fmt: skip
    assert not calls


def test_dead_socket_is_replaced_and_a_living_one_is_not(hook: Hook) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(hook.socket))
    with (
        agent(hook, lambda _: HookAnswer(0, "")),
        pytest.raises(ConfigurationError, match="another vmsec-agent"),
    ):
        HookServer(hook.socket, lambda _: HookAnswer(0, ""))
    hook.socket.write_text("somebody's file")
    with pytest.raises(ConfigurationError, match="no socket"):
        HookServer(hook.socket, lambda _: HookAnswer(0, ""))
    assert hook.socket.read_text() == "somebody's file"
