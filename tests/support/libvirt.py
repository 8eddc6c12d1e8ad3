"""A libvirtd of one's own, by ``devstack/lab/private_libvirt.sh``.

The host's libvirt is never touched; what runs in the private one is gone
when the context ends, also when the process that opened it is killed.
Used by the tests, the quickstart and the benchmarks; knows no pytest.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self
from uuid import UUID, uuid4

from tests.support.disk import CACHE, LAB, BootMarker, read_markers

if TYPE_CHECKING:
    from types import TracebackType

START_TIMEOUT_SECONDS = 90
VIRSH_TIMEOUT_SECONDS = 180
POLL_SECONDS = 0.1

DOMAIN_XML = """<domain type='qemu'>
  <name>{name}</name><uuid>{uuid}</uuid>
  <memory unit='MiB'>{memory_mib}</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type>
    <bios useserial='yes'/></os>
  <features><acpi/></features>
  <on_reboot>{on_reboot}</on_reboot>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='{image_format}'/>
      <source file='{image}'/><target dev='vda' bus='virtio'/>
    </disk>
    <serial type='file'><source path='{console}' append='on'/>
      <target port='0'/></serial>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
  </devices>
</domain>
"""


@dataclass(frozen=True, slots=True)
class Domain:
    """A small BIOS guest with one virtio disk and a console in a file."""

    name: str
    image: pathlib.Path
    console: pathlib.Path
    uuid: UUID
    image_format: str = "raw"
    memory_mib: int = 192
    on_reboot: str = "restart"

    def xml(self) -> str:
        """Return the definition that libvirt reads."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return DOMAIN_XML.format(**fields)

    def read_console(self) -> bytes:
        """Return all that the guest's console has shown in every run."""
        try:
            return self.console.read_bytes()
        except FileNotFoundError:
            return b""


def make_domain(
    name: str, image: pathlib.Path, *, image_format: str = "raw"
) -> Domain:
    """Describe a guest with a new UUID and its console beside its image."""
    console = image.with_name(f"{name}.console")
    return Domain(name, image, console, uuid4(), image_format=image_format)


class PrivateLibvirt:
    """One or two private daemons; a context manager.

    Attributes:
        uris: One connection URI for each daemon, A first.
        directory: Where they live; ``A/etc``, ``A/run``, ``A/log`` and so
            on below it are bound over the daemon's own paths.
    """

    def __init__(
        self,
        directory: pathlib.Path | None = None,
        *,
        hosts: int = 1,
        hooks: pathlib.Path | None = None,
    ) -> None:
        """Say where and how many; nothing runs before ``with``.

        Args:
            directory: A short path (sockets live there); a temporary
                directory without it.
            hosts: One or two daemons.
            hooks: Becomes ``/etc/libvirt/hooks`` of each.
        """
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._given = directory
        self._hosts = hosts
        self._hooks = hooks
        self._process: subprocess.Popen[str] | None = None
        self.directory = pathlib.Path()
        self.uris: list[str] = []

    @property
    def uri(self) -> str:
        """The first daemon's connection URI."""
        return self.uris[0]

    def __enter__(self) -> Self:
        if self._given is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="lv-")
            self.directory = pathlib.Path(self._temporary.name)
        else:
            self.directory = self._given
        command = [
            str(LAB / "private_libvirt.sh"), "--dir", str(self.directory),
            "--hosts", str(self._hosts),
            "--capabilities", str(CACHE / "capabilities"),
        ]  # fmt: skip
        if self._hooks is not None:
            command += ["--hooks", str(self._hooks)]
        # Its own log: a pipe of the caller's must not stay open in it.
        log = self.directory / "private_libvirt.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
                text=True,
            )
        self._read_uris(log)
        return self

    def _read_uris(self, log: pathlib.Path) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            word, _, rest = line.strip().partition(" ")
            if word == "URI":
                self.uris.append(rest)
            if word == "READY":
                return
        reason = log.read_text(errors="replace")
        self.__exit__(None, None, None)
        raise RuntimeError(f"the private libvirtd did not start: {reason}")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process is not None:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.close()
            self._process.wait(START_TIMEOUT_SECONDS)
            self._process.stdout.close()
        if self._temporary is not None:
            self._temporary.cleanup()

    def kill_daemon(self, *, host: int = 0) -> None:
        """Kill a daemon (SIGKILL) and wait until it is back.

        Its guests live on, as on a real host.
        """
        mark = str(self.directory / "AB"[host] / "libvirtd.pid").encode()
        for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                words = path.read_bytes().split(b"\0")
                if words[0].endswith(b"libvirtd") and mark in words:
                    os.kill(int(path.parent.name), signal.SIGKILL)
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(VirshError):
                self.virsh("uri", host=host)
                return
            time.sleep(POLL_SECONDS)
        raise TimeoutError("the killed libvirtd did not come back")

    def virsh(self, *arguments: str, host: int = 0) -> str:
        """Run virsh on one daemon and return what it printed.

        Raises:
            VirshError: It failed; the text is its standard error.
        """
        result = subprocess.run(
            ["virsh", "-q", "-c", self.uris[host], *arguments],
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=VIRSH_TIMEOUT_SECONDS,
        )
        if result.returncode:
            raise VirshError(result.stderr.strip())
        return result.stdout

    def define(self, domain: Domain, *, host: int = 0) -> None:
        """Define a domain; a present one of that name is redefined."""
        path = self.directory / f"{domain.name}.xml"
        path.write_text(domain.xml())
        self.virsh("define", str(path), host=host)

    def start(self, name: str, *, host: int = 0) -> float:
        """Start a defined domain; return the seconds that virsh took."""
        begin = time.monotonic()
        self.virsh("start", name, host=host)
        return time.monotonic() - begin

    def state(self, name: str, *, host: int = 0) -> str:
        """Return libvirt's word for the state, such as ``shut off``."""
        return self.virsh("domstate", name, host=host).strip()

    def shut_down(
        self, name: str, *, timeout: float = 60, host: int = 0
    ) -> None:
        """Press the ACPI power button and wait until the domain is off."""
        deadline = time.monotonic() + timeout
        pressed = 0.0
        while self.state(name, host=host) != "shut off":
            now = time.monotonic()
            if now > deadline:
                raise TimeoutError(f"{name} did not shut down in {timeout} s")
            if now - pressed > 3:  # a press during boot is lost
                self._press_button(name, host)
                pressed = now
            time.sleep(POLL_SECONDS)

    def _press_button(self, name: str, host: int) -> None:
        try:
            self.virsh("shutdown", name, "--mode", "acpi", host=host)
        except VirshError as error:
            if "not running" not in str(error):
                raise


class VirshError(RuntimeError):
    """virsh failed; the text is what it wrote to standard error."""


def wait_for_boot(
    domain: Domain, count: int, *, timeout: float = 120
) -> BootMarker:
    """Wait until the console holds ``count`` markers; return the last."""
    deadline = time.monotonic() + timeout
    while True:
        markers = read_markers(domain.read_console())
        if len(markers) >= count:
            return markers[count - 1]
        if time.monotonic() > deadline:
            tail = domain.read_console()[-400:].decode(errors="replace")
            raise TimeoutError(
                f"{domain.name}: {len(markers)} of {count} boots seen in "
                f"{timeout} s; the console ends with: {tail}"
            )
        time.sleep(POLL_SECONDS)
