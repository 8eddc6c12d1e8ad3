"""``python -m devstack.quickstart [--keep | --stop]``."""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
import signal
import sys
import time
from typing import TYPE_CHECKING

from devstack.quickstart.screen import Screen, TourFailedError
from devstack.quickstart.site import CommandError, Site
from devstack.quickstart.tour import Tour
from tests.support.disk import ROOT
from tests.support.libvirt import VirshError

if TYPE_CHECKING:
    from types import FrameType

DIRECTORY = ROOT / ".work" / "quickstart"
KEEPER = ROOT / ".work" / "quickstart.pid"
STOP_SECONDS = 60


def take_tour(site: Site, screen: Screen) -> int:
    """Take the tour and give the verdict as an exit status."""
    failure = ""
    try:
        Tour(site, screen).run()
    except (TourFailedError, CommandError, VirshError, TimeoutError) as error:
        failure = str(error) or type(error).__name__
        screen.say(f"logs: {site.directory}")
    screen.verdict(failure)
    return 1 if failure else 0


def run_once() -> int:
    """Take the tour; leave nothing running or defined."""
    screen = Screen()
    try:
        with Site(DIRECTORY) as site:
            return take_tour(site, screen)
    except (CommandError, RuntimeError) as error:
        screen.verdict(str(error))
        return 1


def run_and_keep() -> int:
    """Take the tour in a process that keeps everything running after it."""
    reader, writer = os.pipe()
    if os.fork():
        os.close(writer)
        answer = os.read(reader, 1)
        return answer[0] if answer else 1
    os.close(reader)
    KEEPER.parent.mkdir(exist_ok=True)
    KEEPER.write_text(f"{os.getpid()}\n")
    try:
        with Site(DIRECTORY) as site:
            status = take_tour(site, Screen())
            _tell_how_to_go_on(site)
            os.setsid()
            os.write(writer, bytes([status]))
            os.close(writer)
            _leave_terminal()
            signal.pause()
    finally:
        KEEPER.unlink(missing_ok=True)
    return 0


def _tell_how_to_go_on(site: Site) -> None:
    sys.stdout.write(
        f"\nEverything goes on. Try:\n"
        f"   {site.command} vm list\n"
        f"   virsh -c '{site.libvirt.uri}' list --all\n"
        f"End it with: ./quickstart --stop\n"
    )
    sys.stdout.flush()


def _leave_terminal() -> None:
    """Let the caller's terminal or pipe go."""
    with pathlib.Path("/dev/null").open("r+b") as null:
        for descriptor in range(3):
            os.dup2(null.fileno(), descriptor)


def stop_kept() -> None:
    """End what an earlier ``--keep`` left running."""
    try:
        pid = int(KEEPER.read_text())
        command = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ValueError):
        return
    if b"devstack.quickstart" not in command:
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while KEEPER.exists() and time.monotonic() < deadline:
        time.sleep(0.1)


def _end(number: int, _frame: FrameType | None) -> None:
    """Turn a signal into an orderly end: every context is closed."""
    raise SystemExit(128 + number)


def main() -> int:
    """Read the arguments, run, return the exit status."""
    parser = argparse.ArgumentParser(prog="quickstart", description=__doc__)
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--keep", action="store_true", help="leave everything running"
    )
    group.add_argument(
        "--stop", action="store_true", help="end what --keep left running"
    )
    arguments = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, _end)
    stop_kept()
    if arguments.stop:
        return 0
    return run_and_keep() if arguments.keep else run_once()


if __name__ == "__main__":
    sys.exit(main())
