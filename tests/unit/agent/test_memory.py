"""Manifests, reports and lanes: what is kept, and in which order."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from vmsec.agent.lanes import Lanes
from vmsec.agent.manifests import KEPT, NodeManifests
from vmsec.agent.outbox import Outbox
from vmsec.errors import (
    ImageBusyError,
    PeerTimeoutError,
    RemoteRefusedError,
)
from vmsec.keysync.messages import DiskReport
from vmsec.keysync.wire import MAX_BLOB_BYTES

if TYPE_CHECKING:
    from pathlib import Path

SECONDS = 10


def report(generation: int, manifest: bytes = b"m") -> DiskReport:
    return DiskReport(
        vm=str(uuid4()),
        disk=str(uuid4()),
        target="vda",
        state="sealed",
        generation=generation,
        key_version=1,
        level="metadata",
        sealed_bytes=1,
        disk_bytes=2,
        duration_ms=3,
        manifest=manifest,
    )


class Receiver:
    """Takes reports; may be away or refuse."""

    def __init__(self) -> None:
        self.got: list[DiskReport] = []
        self.away = False
        self.changed = threading.Condition()

    def __call__(self, item: DiskReport) -> None:
        with self.changed:
            if self.away:
                self.away = False
                raise PeerTimeoutError("away")
            if item.generation == 0:
                raise RemoteRefusedError("custody.generation", "no", 40)
            self.got.append(item)
            self.changed.notify_all()

    def wait(self, count: int) -> list[int]:
        with self.changed:
            assert self.changed.wait_for(
                lambda: len(self.got) >= count, SECONDS
            )
        return [item.generation for item in self.got]


def test_manifests_come_latest_first_and_the_kmcs_copy_last(
    tmp_path: Path,
) -> None:
    store = NodeManifests(tmp_path, uuid4(), lambda: b"kmc")
    for number in range(KEPT + 2):
        store.save(b"%d" % number)
    assert list(store.candidates()) == [b"4", b"3", b"2", b"kmc"]


def test_kmc_that_is_away_leaves_the_nodes_manifests(tmp_path: Path) -> None:
    def away() -> bytes:
        raise PeerTimeoutError("away")

    store = NodeManifests(tmp_path, uuid4(), away)
    store.save(b"mine")
    assert list(store.candidates()) == [b"mine"]


def test_manifests_of_two_disks_are_kept_apart(tmp_path: Path) -> None:
    one = NodeManifests(tmp_path, uuid4(), lambda: b"")
    two = NodeManifests(tmp_path, uuid4(), lambda: b"")
    one.save(b"one")
    assert list(two.candidates()) == []


def test_reports_wait_for_the_kmc_and_keep_their_order(
    tmp_path: Path,
) -> None:
    first = Outbox(tmp_path, Receiver())
    for generation in (1, 2, 3):
        first.put(report(generation))
    receiver = Receiver()
    receiver.away = True
    again = Outbox(tmp_path, receiver)
    again.start()
    again.put(report(4))
    assert receiver.wait(4) == [1, 2, 3, 4]
    again.stop()
    assert again.waiting() == 0


def test_report_that_the_kmc_refuses_blocks_no_other(tmp_path: Path) -> None:
    receiver = Receiver()
    box = Outbox(tmp_path, receiver)
    box.put(report(0))
    box.put(report(1))
    box.start()
    assert receiver.wait(1) == [1]
    box.stop()


def test_damaged_report_blocks_no_other(tmp_path: Path) -> None:
    (tmp_path / "1").write_bytes(b"\xff")
    receiver = Receiver()
    box = Outbox(tmp_path, receiver)
    box.put(report(2))
    box.start()
    assert receiver.wait(1) == [2]
    box.stop()


def test_manifest_too_long_for_the_bus_is_left_out(tmp_path: Path) -> None:
    receiver = Receiver()
    box = Outbox(tmp_path, receiver)
    box.put(report(1, bytes(MAX_BLOB_BYTES + 1)))
    box.start()
    receiver.wait(1)
    box.stop()
    assert receiver.got[0].manifest == b""


def test_work_on_one_vm_runs_in_order_and_never_together() -> None:
    lanes, seen, inside = Lanes(), [], threading.Lock()

    def work(number: int) -> None:
        assert inside.acquire(blocking=False)
        seen.append(number)
        inside.release()

    futures = [
        lanes.submit("vm", partial(work, number)) for number in range(200)
    ]
    for future in futures:
        future.result(SECONDS)
    assert seen == list(range(200))
    assert lanes.drain(SECONDS)


def test_work_on_other_vms_does_not_wait() -> None:
    lanes, gate = Lanes(), threading.Event()
    slow = lanes.submit("one", lambda: gate.wait(SECONDS))
    assert lanes.submit("two", lambda: 2).result(SECONDS) == 2
    assert not slow.done()
    gate.set()
    assert slow.result(SECONDS)


def test_cancelled_work_is_not_begun() -> None:
    lanes, gate, ran = Lanes(), threading.Event(), []
    lanes.submit("vm", lambda: gate.wait(SECONDS))
    late = lanes.submit("vm", lambda: ran.append(1))
    assert late.cancel()
    gate.set()
    assert lanes.drain(SECONDS)
    assert not ran


def test_failed_work_tells_its_caller_and_the_lane_goes_on() -> None:
    lanes = Lanes()

    def fail() -> None:
        raise ImageBusyError("busy")

    failed = lanes.submit("vm", fail)
    after = lanes.submit("vm", lambda: "went on")
    with pytest.raises(ImageBusyError):
        failed.result(SECONDS)
    assert after.result(SECONDS) == "went on"
