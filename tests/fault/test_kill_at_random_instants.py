"""``kill -9`` at any instant of seal, unseal, re-key and of the recovery.

Real processes on real images. After each kill, recovery without a key leaves
the disk wholly plain, byte for byte, or sealed and unsealing to the same
bytes. ``VMSEC_TEST_KILLS`` sets the number of kills per case (default 8).
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.support import images
from tests.support.images import (
    DISK,
    KEY,
    MIB,
    SETTINGS,
    VM,
    Place,
    digest,
    run,
)
from tests.support.killing import (
    DirectoryStore,
    kill,
    seconds,
    start,
    wait_for,
)
from tests.support.refusal import copy
from tests.support.tools import require_tool
from vmsec.errors import ImageBusyError
from vmsec.sealing.engine import (
    recover_image,
    rekey_image,
    seal_image,
    unseal_image,
)
from vmsec.sealing.model import ImageRef, SealIdentity

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KILLS = int(os.environ.get("VMSEC_TEST_KILLS", "8"))
SEED = int(os.environ.get("VMSEC_TEST_SEED", "4"))
BUSY_SECONDS = 20.0


class Case(NamedTuple):
    """An image, its copies in the state before each action, its place."""

    image: ImageRef
    store: DirectoryStore
    before: dict[str, Path]
    temporary: Path
    raw: str


def _seal(case: Case) -> None:
    seal_image(
        case.image,
        SealIdentity(VM, DISK, 1, 1),
        KEY,
        settings=SETTINGS,
        manifests=case.store,
    )


def _unseal(case: Case) -> None:
    unseal_image(
        case.image,
        vm=VM,
        keys=lambda *_: KEY,
        settings=SETTINGS,
        manifests=case.store,
    )


def _rekey(case: Case) -> None:
    rekey_image(
        case.image,
        SealIdentity(VM, DISK, 2, 2),
        keys=lambda *_: KEY,
        settings=SETTINGS,
        manifests=case.store,
    )


def _recover(case: Case) -> str:
    """Recover; QEMU's daemon of the killed process may be ending still."""
    end = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            return recover_image(case.image, settings=SETTINGS).state
        except ImageBusyError:
            assert time.monotonic() < end
            time.sleep(0.02)


ACTIONS: dict[str, Callable[[Case], None]] = {
    "seal": _seal,
    "unseal": _unseal,
    "rekey": _rekey,
}


def _small(path: Path, whole: bool) -> Path:
    """24 MiB of ext4, in a partition or not (then nothing is embedded)."""
    images.empty(path, 24)
    place = Place(0, 24 * MIB) if whole else Place(MIB, 22 * MIB)
    if not whole:
        run("sfdisk", "-q", path, stdin="start=2048, type=83\n")
    run(
        "mke2fs", "-q", "-t", "ext4", "-b", "1024", "-d",
        images.tree(path.parent), "-E", f"offset={place.offset}", path,
        f"{place.length >> 10}k",
    )  # fmt: skip
    return path


def _as_raw(case: Case) -> str:
    """The digest of the guest-visible disk."""
    if case.image.format == "raw":
        return digest(case.image.path)
    raw = case.temporary / "raw"
    source = ["-f", case.image.format, case.image.path]
    run("qemu-img", "convert", *source, "-O", "raw", raw)
    return digest(raw)


@pytest.fixture(params=["mbr-raw", "whole-raw", "mbr-qcow2"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    """One image in each state."""
    require_tool("mke2fs", "sfdisk", "qemu-img", "qemu-storage-daemon")
    kind, fmt = request.param.split("-")
    plain = _small(tmp_path / "plain.raw", kind == "whole")
    if fmt != "raw":
        target = tmp_path / "plain.qcow2"
        run("qemu-img", "convert", "-f", "raw", "-O", fmt, plain, target)
        plain = target
    path, temporary = tmp_path / f"disk.{fmt}", tmp_path / "temporary"
    temporary.mkdir()
    store = DirectoryStore(tmp_path / "manifests")
    image = ImageRef(copy(plain, path), fmt)
    case = Case(image, store, {}, temporary, "")
    raw = _as_raw(case)
    _seal(case)
    sealed = copy(path, tmp_path / f"sealed.{fmt}")
    before = {"seal": plain, "unseal": sealed, "rekey": sealed}
    return case._replace(before=before, raw=raw)


def _kill(
    case: Case, work: Callable[[], object], rng: random.Random, whole: float
) -> None:
    """Kill somewhere in the whole time, or after the journal is there."""
    child = start(work, case.temporary)
    path = case.image.path
    late = rng.choice(["", ".vmsec-journal.draft", ".vmsec-journal"])
    if late:
        wait_for(path.with_name(path.name + late), whole)
        whole /= 10
    time.sleep(rng.uniform(0, whole))
    kill(child)


def _require_whole(case: Case) -> None:
    """Recover without a key; check that nothing was lost."""
    state = _recover(case)
    assert _recover(case) == state
    if state == "sealed":
        assert _as_raw(case) != case.raw
        _unseal(case)
    assert _as_raw(case) == case.raw
    path = case.image.path
    assert [p.name for p in path.parent.glob(f"{path.name}.*")] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ACTIONS)
def test_killed_at_any_instant_nothing_is_lost(case: Case, name: str) -> None:
    """In half of the cases the recovery is killed as well."""
    rng = random.Random(f"{SEED}{name}{case.image.format}{case.raw}")
    work = partial(ACTIONS[name], case)
    copy(case.before[name], case.image.path)
    whole = seconds(work, case.temporary)
    for number in range(KILLS):
        copy(case.before[name], case.image.path)
        _kill(case, work, rng, whole)
        if number % 2:
            _kill(case, partial(_recover, case), rng, whole / 2)
        with contextlib.suppress(FileNotFoundError):
            (case.temporary / "raw").unlink()
        _require_whole(case)
