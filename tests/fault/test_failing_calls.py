"""Every system call of every action fails once: EIO, ENOSPC, a dead disk.

What comes out is one of vmsec's errors, nothing is written after the failure
(I9), and when the disk works again nothing is lost.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.support import images
from tests.support.failing import ERRORS, FailingCalls
from tests.support.images import (
    DISK,
    KEY,
    MIB,
    SETTINGS,
    VM,
    Store,
    digest,
    run,
)
from tests.support.refusal import copy, half_sealed
from tests.support.tools import require_tool
from vmsec.errors import VmsecError
from vmsec.sealing.engine import recover_image, rekey_image
from vmsec.sealing.model import ImageRef, SealIdentity

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STEP = {"seal": 3, "unseal": 1, "rekey": 1, "recover": 1}
"""Every how many calls one fails: a seal starts a process for its second
reader, so it is slow."""


class Disks(NamedTuple):
    plain: Path
    sealed: Path
    half: Path
    journal: bytes
    store: Store


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> Disks:
    """One small disk in every state."""
    require_tool("mke2fs", "sfdisk")
    where = tmp_path_factory.mktemp("failing")
    plain = images.empty(where / "plain.img", 8)
    run("sfdisk", "-q", plain, stdin="start=2048, type=83\n")
    options = ["-t", "ext4", "-b", "4096", "-O", "^has_journal", "-N", "64"]
    run("mke2fs", "-q", *options, "-E", f"offset={MIB}", plain, "7168k")
    store = Store()
    half = copy(plain, where / "half.img")
    journal = where / "half.img.vmsec-journal"
    half_sealed(half, plain, store, journal)
    whole = journal.read_bytes()
    sealed = copy(half, where / "sealed.img")
    images_journal = where / "sealed.img.vmsec-journal"
    images_journal.write_bytes(whole)
    recover_image(ImageRef(sealed), settings=SETTINGS)
    return Disks(plain, sealed, half, whole, store)


def _seal(disk: Path, store: Store) -> None:
    images.seal(disk, store)


def _unseal(disk: Path, store: Store) -> None:
    images.unseal(disk, store)


def _rekey(disk: Path, store: Store) -> None:
    rekey_image(
        ImageRef(disk),
        SealIdentity(VM, DISK, 2, 2),
        keys=lambda *_: KEY,
        settings=SETTINGS,
        manifests=store,
    )


def _recover(disk: Path, _: Store) -> None:
    recover_image(ImageRef(disk), settings=SETTINGS)


ACTIONS: dict[str, Callable[[Path, Store], None]] = {
    "seal": _seal,
    "unseal": _unseal,
    "rekey": _rekey,
    "recover": _recover,
}


def _prepare(name: str, disks: Disks, disk: Path) -> None:
    source = {"seal": disks.plain, "recover": disks.half}
    copy(source.get(name, disks.sealed), disk)
    if name == "recover":
        journal = disk.with_name(disk.name + ".vmsec-journal")
        journal.write_bytes(disks.journal)


def _fail(
    action: Callable[[], None], number: int, code: int, *, lasting: bool
) -> FailingCalls:
    """Run the action with a failing call; what it raises is vmsec's."""
    raised = None
    with pytest.MonkeyPatch.context() as patch:
        calls = FailingCalls(patch, number, code, lasting=lasting)
        try:
            action()
        except VmsecError as err:
            raised = err
    assert raised is None or calls.failed, raised
    assert "\n" not in str(raised)
    return calls


@pytest.mark.slow
@pytest.mark.parametrize("name", ACTIONS)
def test_each_call_may_fail(name: str, disks: Disks, tmp_path: Path) -> None:
    disk, raw = tmp_path / "disk.img", digest(disks.plain)
    action = partial(ACTIONS[name], disk, disks.store)
    _prepare(name, disks, disk)
    total = _fail(action, -1, 0, lasting=False).count
    assert total > 20
    for number in range(0, total, STEP[name]):
        _prepare(name, disks, disk)
        code, lasting = ERRORS[number % 2], number % 3 == 0
        calls = _fail(action, number, code, lasting=lasting)
        assert calls.written_after == 0 or not calls.failed, number
        state = recover_image(ImageRef(disk), settings=SETTINGS).state
        if state == "sealed":
            images.unseal(disk, disks.store)
        assert digest(disk) == raw, (number, calls.failed)
