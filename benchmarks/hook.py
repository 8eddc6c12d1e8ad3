"""What the hook adds to a VM's start and stop, on the 10 GiB Debian disk.

A private libvirtd starts and destroys a VM on a copy of the disk, with
vmsec-allinone (KMC, agent, two software TPMs) behind its hook. A wrapper
around the installed hook takes the time of every call, so what is measured is
what libvirt waits for: Python's start, the socket, the TPM, the journal, all.
The cache is cold before each start (Python's own files included) unless
``--warm`` is given.

Run as root on an idle machine: ``python -m benchmarks.hook``.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import sys
import tempfile
import time

from benchmarks.debian_disk import DIRECTORY, debian_disk
from benchmarks.seal import cool_down
from devstack.quickstart.site import Site
from tests.support.disk import copy_sparse
from tests.support.libvirt import make_domain

WANTED_SECONDS = 0.3
"""The hook's share of a start (issue's word for this disk, idle machine)."""

WRAPPER = """#!/bin/bash
begin=$(date +%s%N)
{hook} "$@"
status=$?
echo "$2 $(($(date +%s%N) - begin))" >> {log}
exit $status
"""


class Clock:
    """Stands between libvirt and the installed hook and takes the time."""

    def __init__(self, site: Site, log: pathlib.Path) -> None:
        self._log = log
        installed = site.directory / "hooks" / "qemu.d" / "50-vmsec"
        real = site.directory / "50-vmsec.real"
        installed.rename(real)
        installed.write_text(WRAPPER.format(hook=real, log=log))
        installed.chmod(0o755)

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each operation since the last question."""
        taken: dict[str, float] = {}
        for line in self._log.read_text().splitlines():
            operation, nanoseconds = line.split()
            taken[operation] = int(nanoseconds) / 1e9
        self._log.write_text("")
        return taken


def measure(
    site: Site, image: pathlib.Path, rounds: int, *, warm: bool
) -> dict[str, float]:
    """Start and destroy the VM; return the medians in seconds."""
    log = site.directory / "hook.log"
    log.touch()
    clock = Clock(site, log)
    domain = make_domain("benchmark", image)
    site.libvirt.define(domain)
    site.vmsec("vm", "protect", str(domain.uuid))
    found: dict[str, list[float]] = {}
    for number in range(rounds + 1):
        if not warm:
            cool_down()
        begin = time.perf_counter()
        site.libvirt.virsh("start", domain.name)
        started = time.perf_counter() - begin
        before = clock.seconds()
        begin = time.perf_counter()
        site.libvirt.virsh("destroy", domain.name)
        stopped = time.perf_counter() - begin
        if number == 0:
            continue  # the first start is plain: nothing is unsealed yet
        after = clock.seconds()
        sample = {
            "start": started,
            "start: hooks": sum(before.values()),
            "start: prepare": before["prepare"],
            "stop": stopped,
            "stop: hooks": sum(after.values()),
            "stop: release": after["release"],
        }
        for name, value in sample.items():
            found.setdefault(name, []).append(value)
        print(sample, file=sys.stderr)
    return {name: statistics.median(each) for name, each in found.items()}


def main() -> int:
    """Run the benchmark; 1 if the hook's share of a start is too large."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-f", "--format", choices=("text", "json"),
                        default="text")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--warm", action="store_true", help="do not drop the page cache"
    )
    arguments = parser.parse_args()
    original = debian_disk()
    with tempfile.TemporaryDirectory(dir=DIRECTORY) as directory:
        image = copy_sparse(original, pathlib.Path(directory) / "vm.img")
        with Site(DIRECTORY / "site") as site:
            site.start()
            median = measure(
                site, image, arguments.rounds, warm=arguments.warm
            )
    reached = median["start: hooks"] <= WANTED_SECONDS
    if arguments.format == "json":
        print(json.dumps({"seconds": median, "reached": reached}, indent=2))
    else:
        for name, value in median.items():
            print(f"{name:20} {value:8.3f} s")
        print("reached" if reached else "NOT reached")
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
