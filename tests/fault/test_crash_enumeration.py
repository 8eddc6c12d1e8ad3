"""Every crash of seal, unseal and re-key ends wholly on one side.

The real transaction, journal and works run on a simulated computer
(:mod:`tests.simulators.crash`). Dropping any one sync must be noticed: that is
the test of the test.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

import pytest

from tests.simulators.crash import (
    CrashDevice,
    CrashJournal,
    CrashStore,
    PowerCutError,
    World,
)
from vmsec.crypto.context import SealContext
from vmsec.errors import VmsecError
from vmsec.ondisk.extent import Extent, Level, MetadataClass
from vmsec.sealing.header import parse_header
from vmsec.sealing.manifest import TagError, read_blob
from vmsec.sealing.transaction import recover, run
from vmsec.sealing.work import (
    RekeyWork,
    SealPlan,
    SealWork,
    UnsealWork,
    make_cipher,
)
from vmsec.secret import SecretBytes

if TYPE_CHECKING:
    from collections.abc import Callable

VM, DISK = UUID(int=1), UUID(int=2)
KEY = SecretBytes(bytes(range(32)))
OLD = SealContext(VM, DISK, 1, 1, b"s" * 16)
NEW = SealContext(VM, DISK, 2, 2, b"t" * 16)
EXTENTS = (
    Extent(512, 3584, MetadataClass.LBA0),
    Extent(8192, 4096, MetadataClass.INODE_TABLE),
    Extent(20480, 1024, MetadataClass.DIRECTORY),
)
PLACE = (28672, 12288)
SAMPLES = 16


def _plain() -> bytes:
    body = bytearray(random.Random(7).randbytes(40960))
    body[510:512] = b"\x55\xaa"
    body[PLACE[0] :] = bytes(len(body) - PLACE[0])
    return bytes(body)


PLAIN = _plain()


class Parts(NamedTuple):
    world: World
    device: CrashDevice
    journal: CrashJournal
    store: CrashStore


def parts_of(world: World) -> Parts:
    device, journal = CrashDevice(world), CrashJournal(world)
    return Parts(world, device, journal, CrashStore(world))


def _seal(parts: Parts) -> None:
    work = SealWork(
        parts.device,
        make_cipher(KEY, OLD),
        parts.store,
        plan=SealPlan(Level.METADATA, EXTENTS, lambda _: PLACE, lambda: None),
        progress=lambda *_: None,
    )
    run(parts.device, parts.journal, work)


def _unseal(parts: Parts) -> None:
    cipher = make_cipher(KEY, OLD)
    manifest = read_blob(parts.world.manifests[-1], OLD, cipher.keys)
    mark = parts.device.read_at(0, 512)
    work = UnsealWork(
        parts.device,
        cipher,
        manifest,
        mark=mark,
        progress=lambda *_: None,
    )
    run(parts.device, parts.journal, work)


def _rekey(parts: Parts) -> None:
    cipher = make_cipher(KEY, OLD)
    manifest = read_blob(parts.world.manifests[-1], OLD, cipher.keys)
    work = RekeyWork(
        parts.device,
        make_cipher(KEY, NEW),
        parts.store,
        old=cipher,
        old_manifest=manifest,
        old_mark=parts.device.read_at(0, 512),
        progress=lambda *_: None,
    )
    run(parts.device, parts.journal, work)


def done(world: World, action: Callable[[Parts], None]) -> World:
    """Carry out one of the three and return the same world."""
    action(parts_of(world))
    return world


def _sealed_world() -> World:
    world = done(World(PLAIN), _seal)
    after = World(bytes(world.content["image"]))
    after.manifests = list(world.manifests)
    return after


def start(name: str) -> World:
    return World(PLAIN) if name == "seal" else _sealed_world()


ACTIONS = {"seal": _seal, "unseal": _unseal, "rekey": _rekey}


class Outcome(NamedTuple):
    states: int
    wrong: int
    leaks: int


def recovered(world: World) -> bytes | None:
    """The image after recovery, or None where recovery refused."""
    parts = parts_of(world)
    try:
        recover(parts.device, parts.journal)
        recover(parts.device, parts.journal)  # I8
    except VmsecError:
        return None
    lost = [name for name, _ in world.renames if name != "draft"]
    if world.pending or lost or parts.journal.exists():
        return None
    return bytes(world.content["image"])


def _leaks(world: World) -> bool:
    secrets = [
        PLAIN[at : at + 64]
        for extent in EXTENTS
        for at in range(extent.offset, extent.end, 512)
    ]
    files = [v for k, v in world.content.items() if k != "image"]
    return any(s in bytes(body) for s in secrets for body in files)


def enumerate_crashes(name: str, drop: int | None = None) -> Outcome:
    """Crash at every operation; return states, wrong ones, leaks."""
    rng = random.Random(1)
    action = ACTIONS[name]
    before = bytes(start(name).content["image"])
    after = bytes(done(start(name), action).current("image"))
    total = done(start(name), action).operations
    states = wrong = leaks = 0
    for stop in range(total + 1):
        world = start(name)
        world.crash_after, world.drop_sync = stop, drop
        finished = True
        try:
            action(parts_of(world))
        except PowerCutError:
            finished = False
        for found in world.crash_states(rng, SAMPLES):
            states += 1
            leaks += _leaks(found)
            hot = CrashJournal(found).exists()
            image = recovered(found)
            allowed = (after,) if finished else (before, after)
            wrong += image not in allowed or (finished and hot)
            wrong += not _can_be_opened(found, image)
    return Outcome(states, wrong, leaks)


def _can_be_opened(world: World, image: bytes | None) -> bool:
    """A sealed image has its manifest outside as well, durable."""
    if image is None or image == PLAIN:
        return True
    try:
        header = parse_header(image[:512], target="image")
        keys = make_cipher(KEY, header.context).keys
        place = header.manifest
        embedded = image[place.offset : place.offset + place.length]
        read_blob(embedded, header.context, keys)
    except (VmsecError, TagError):
        return False
    return embedded in world.manifests


@pytest.mark.parametrize("name", ACTIONS)
def test_every_crash_ends_plain_or_sealed(name: str) -> None:
    """I1 to I8: no state is wrong, no plaintext is in the journal."""
    outcome = enumerate_crashes(name)
    assert outcome.states > 2000
    assert outcome.wrong == 0
    assert outcome.leaks == 0


SYNCS = [(name, n) for name in ACTIONS for n in range(5)]


@pytest.mark.parametrize(("name", "drop"), SYNCS)
def test_each_missing_sync_is_noticed(name: str, drop: int) -> None:
    """The test of the test: without any one sync some state is wrong."""
    assert enumerate_crashes(name, drop).wrong > 0


@pytest.mark.parametrize("name", ACTIONS)
def test_there_are_five_syncs(name: str) -> None:
    """So that the mutants above are all of them."""
    assert done(start(name), ACTIONS[name]).syncs == 5


@pytest.mark.parametrize("name", ACTIONS)
def test_a_crash_in_recovery_is_recovered(name: str) -> None:
    """I8: recovery may be cut at any operation and run again."""
    rng = random.Random(3)
    before = bytes(start(name).content["image"])
    after = bytes(done(start(name), ACTIONS[name]).current("image"))
    total = done(start(name), ACTIONS[name]).operations
    checked = 0
    for stop in range(total // 2, total, 3):
        world = start(name)
        world.crash_after = stop
        with pytest.raises(PowerCutError):
            ACTIONS[name](parts_of(world))
        for found in world.crash_states(rng, 2):
            checked += _cut_recovery(found, rng, (before, after))
    assert checked > 50


def _cut_recovery(
    found: World, rng: random.Random, allowed: tuple[bytes, bytes]
) -> int:
    checked = 0
    cut = 0
    while True:
        again = next(found.crash_states(rng, 1))
        again.crash_after = again.operations + cut
        parts = parts_of(again)
        try:
            recover(parts.device, parts.journal)
        except PowerCutError:
            for state in again.crash_states(rng, 2):
                assert recovered(state) in allowed
                checked += 1
            cut += 7
        else:
            return checked


def test_a_journal_that_returns_after_use_overwrites_nothing() -> None:
    """Its removal was lost, the guest has written since: dropped."""
    world = _sealed_world()
    parts = parts_of(world)
    kept: dict[str, bytearray] = {}
    remove = parts.journal.remove

    def keep_and_remove() -> None:
        kept["journal"] = world.current(world.current_names()["journal"])
        remove()

    parts.journal.remove = keep_and_remove  # type: ignore[method-assign]
    _unseal(parts)
    used = bytearray(world.content["image"])
    used[8192:8704] = b"guest" * 102 + b"!!"
    world.content["image"] = used
    world.content["zombie"] = kept["journal"]
    world.names["journal"] = "zombie"
    assert recovered(world) == bytes(used)
