"""The tour itself: one method for each step, in their order."""

from __future__ import annotations

import pathlib
import tempfile
import time
from typing import TYPE_CHECKING, Any

from devstack.quickstart import powercut, thief
from devstack.quickstart.site import CommandError, Site
from tests.support.disk import (
    BootMarker,
    allocated_bytes,
    build_bootable_disk,
    copy_sparse,
)
from tests.support.libvirt import Domain, make_domain, wait_for_boot
from tests.support.qemu import boot_in_qemu

if TYPE_CHECKING:
    from devstack.quickstart.screen import Screen

STUB_TEXT = b"sealed by vmsec"
STUB_SECONDS = 30
CUT_ATTEMPTS = 20
RECOVERY_SECONDS = 30


class Tour:
    """Takes one VM through its life; each check that fails ends it."""

    def __init__(self, site: Site, screen: Screen) -> None:
        self._site = site
        self._screen = screen
        self._domain = make_domain("shop", site.directory / "shop.img")
        self._digest = ""

    @property
    def domain(self) -> Domain:
        """The VM that is protected."""
        return self._domain

    def run(self) -> None:
        """Take all steps.

        Raises:
            TourFailedError: A check failed.
            CommandError: A vmsec command failed.
            VirshError: libvirt refused.
            TimeoutError: The guest did not do what it should in time.
        """
        self.build_disk()
        self.start_services()
        self.protect()
        self.first_life()
        self.steal()
        self.lose_power()
        self.start_again(2)
        self.rekey()
        self.start_again(3)

    def build_disk(self) -> None:
        """Build the guest's disk, with names that nobody may learn."""
        self._screen.step("A disk that boots by itself")
        with tempfile.TemporaryDirectory() as directory:
            tree = pathlib.Path(directory)
            thief.plant_names(tree)
            build_bootable_disk(self._domain.image, tree=tree)
        size = self._domain.image.stat().st_size
        self._screen.say(
            f"{self._domain.image}: {size >> 20} MiB, "
            f"{allocated_bytes(self._domain.image) >> 20} MiB used; MBR, "
            f"GRUB, kernel, ext4 with {thief.FILES} named files"
        )
        counts = self._try_tools(self._domain.image)
        self._screen.require(
            all(counts.values()), "a thief's tools work on the plain disk"
        )

    def start_services(self) -> None:
        """Start KMC, agent and API with two software TPMs."""
        self._screen.step("vmsec-allinone: KMC, agent, API, two software TPMs")
        seconds = self._site.start()
        nodes = self._site.vmsec("node", "list")
        names = ", ".join(node["name"] for node in nodes)
        self._screen.say(f"started in {seconds:.1f} s; nodes: {names}")
        findings = self._site.vmsec("doctor")
        self._screen.require(
            all(item["ok"] for item in findings),
            f"vmsec doctor is content: {len(findings)} findings",
            seen=findings,
        )

    def protect(self) -> None:
        """Define the VM and put it under protection."""
        self._screen.step("A VM is defined in libvirt and protected")
        self._site.libvirt.define(self._domain)
        self._site.vmsec("vm", "protect", self._uuid, "--name", "shop")
        key = self._site.vmsec("key", "show", self._uuid)
        self._screen.say(
            f"vmsec vm protect {self._uuid}\n"
            f"key version {key['version']}, {key['state']}, in the KMC's TPM"
        )

    def first_life(self) -> None:
        """Start the plain disk, shut the guest down: now it is sealed."""
        self._screen.step("First start, then the guest shuts down")
        self._boot(1)
        plain = allocated_bytes(self._domain.image)
        self._shut_down()
        grown = allocated_bytes(self._domain.image) - plain
        self._screen.require(
            abs(grown) <= plain // 100,
            "the disk is as sparse as before (within 1 %)",
            seen=f"{grown} bytes more",
        )

    def steal(self) -> None:
        """Copy the sealed disk, as a thief would, and try everything."""
        self._screen.step("A thief copies the disk")
        copy = self._site.directory / "stolen.img"
        copy_sparse(self._domain.image, copy)
        console = boot_in_qemu(
            copy, until=STUB_TEXT, timeout=STUB_SECONDS, snapshot=True
        )
        lines = console.decode(errors="replace").splitlines()
        shown = [line for line in lines if STUB_TEXT.decode() in line]
        self._screen.require(
            bool(shown) and b"VMSEC-BOOT-MARKER" not in console,
            "it does not boot; its console says:",
            seen=console[-200:],
        )
        self._screen.say(f"    | {shown[0].strip()}")
        counts = self._try_tools(copy)
        self._screen.require(
            not any(counts.values()), "it does not mount, no tool names a file"
        )
        copy.unlink()

    def _try_tools(self, image: pathlib.Path) -> dict[str, int]:
        """Run every tool; return what each found."""
        counts = {name: tool(image) for name, tool in thief.TOOLS.items()}
        found = ", ".join(f"{name} {count}" for name, count in counts.items())
        self._screen.say(f"found: {found}")
        return counts

    def lose_power(self) -> None:
        """Cut the power while the disk is being sealed, then recover."""
        self._screen.step("The power fails in the middle of the next seal")
        for attempt in range(1, CUT_ATTEMPTS + 1):
            self._site.vmsec("vm", "unseal", self._uuid)
            self._screen.require(
                self._status()["state"] == "plain",
                "unsealed by hand; vmsec vm seal starts, kill -9 follows",
            )
            if powercut.cut_in_the_middle(
                self._domain.image, self._seal, self._site.cut_power
            ):
                break
            self._screen.say(f"attempt {attempt} missed the moment; again")
            self._site.start()
        state = self._status()["state"]
        self._screen.require(
            state == "interrupted", f"vmsec image status: {state}"
        )
        self._site.start()
        self._wait_for_state("sealed", RECOVERY_SECONDS)
        journal = powercut.journal_of(self._domain.image)
        self._screen.require(
            not journal.exists() and self._site.has_replayed(),
            "vmsec starts again and replays the journal: the disk is sealed",
            seen=self._site.last_words(),
        )

    def _seal(self) -> None:
        self._site.vmsec("vm", "seal", self._uuid)

    def start_again(self, count: int) -> None:
        """Start the sealed disk: everything is as the guest left it."""
        self._screen.step("The VM starts again in its own cloud")
        self._boot(count)
        self._shut_down()

    def rekey(self) -> None:
        """Give the VM a new key while it is off."""
        self._screen.step("A new key for the VM")
        before = self._status()["key_version"]
        self._site.vmsec("vm", "rekey", self._uuid)
        after = self._status()["key_version"]
        self._screen.require(
            after == before + 1,
            f"vmsec vm rekey: key version {before} -> {after}, still sealed",
            seen=after,
        )

    def _boot(self, count: int) -> None:
        """Start the VM and wait for its marker."""
        hook = self._site.libvirt.start(self._domain.name)
        marker = wait_for_boot(self._domain, count)
        self._screen.say(f"virsh start took {hook:.2f} s, hook included")
        self._require_marker(marker, count)

    def _require_marker(self, marker: BootMarker, count: int) -> None:
        self._digest = self._digest or marker.digest
        self._screen.require(
            marker.boot == count and marker.digest == self._digest,
            f"the console shows boot={marker.boot} sum={marker.digest}",
            seen=marker,
        )

    def _shut_down(self) -> None:
        """Press the power button; when the VM is off its disk is sealed."""
        self._site.libvirt.shut_down(self._domain.name)
        status = self._status()
        self._screen.require(
            status["state"] == "sealed",
            "the guest is off and its disk is sealed",
            seen=status,
        )
        disk = self._disk_record(status["generation"])
        milliseconds = self._site.last_seal_ms()
        self._screen.say(
            f"{disk['sealed_bytes']} bytes of {disk['disk_bytes']} sealed "
            f"in {milliseconds} ms, generation {disk['generation']}, "
            f"key version {disk['key_version']}"
        )

    def _disk_record(self, generation: int) -> dict[str, Any]:
        """Wait until the KMC has the node's report of this seal."""
        deadline = time.monotonic() + RECOVERY_SECONDS
        while True:
            disks = self._site.vmsec("vm", "show", self._uuid)["disks"]
            for disk in disks:
                if disk["generation"] == generation:
                    record: dict[str, Any] = disk
                    return record
            if time.monotonic() > deadline:
                raise CommandError(
                    f"the KMC knows no generation {generation}: {disks}"
                )
            time.sleep(0.2)

    def _wait_for_state(self, state: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self._status()["state"] != state:
            if time.monotonic() > deadline:
                return
            time.sleep(0.2)

    def _status(self) -> dict[str, Any]:
        return self._site.image_status(self._domain.image)

    @property
    def _uuid(self) -> str:
        return str(self._domain.uuid)
