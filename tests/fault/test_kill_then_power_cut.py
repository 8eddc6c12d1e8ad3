"""The program is killed, recovery runs, and then the power goes.

After a kill the page cache still shows what was never made durable, so the
recovering program sees another disk than the one that a power cut leaves. It
must not decide by what is only in the cache.
"""

from __future__ import annotations

import copy
import random
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.fault.test_crash_enumeration import (
    ACTIONS,
    done,
    parts_of,
    recovered,
    start,
)
from tests.simulators.crash import PowerCutError
from vmsec.sealing.transaction import recover

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.simulators.crash import World

SAMPLES = 4


class Outcome(NamedTuple):
    states: int
    wrong: int


def _killed(name: str) -> Iterator[World]:
    """The computer after a kill at every operation: nothing is lost."""
    for stop in range(done(start(name), ACTIONS[name]).operations):
        world = start(name)
        world.crash_after = stop
        with pytest.raises(PowerCutError):
            ACTIONS[name](parts_of(world))
        yield world


def _recovering(killed: World, drop: int | None) -> Iterator[World]:
    """The computer in and after its recovery; then the power goes."""
    cut, ended = 0, False
    while not ended:
        world = copy.deepcopy(killed)
        world.crash_after = world.operations + cut
        world.drop_sync = None if drop is None else world.syncs + drop
        parts = parts_of(world)
        try:
            recover(parts.device, parts.journal)
            ended = True
        except PowerCutError:
            cut += 7
        yield world


def _power_cuts(name: str, drop: int | None = None) -> Outcome:
    rng = random.Random(11)
    sides = (
        bytes(start(name).content["image"]),
        bytes(done(start(name), ACTIONS[name]).current("image")),
    )
    states = wrong = 0
    for killed in _killed(name):
        for world in _recovering(killed, drop):
            for found in world.crash_states(rng, SAMPLES):
                states += 1
                wrong += recovered(found) not in sides
    return Outcome(states, wrong)


@pytest.mark.parametrize("name", ACTIONS)
def test_killed_then_power_cut_in_or_after_recovery(name: str) -> None:
    """Whenever it was killed, whenever the power goes: one side, wholly."""
    outcome = _power_cuts(name)
    assert outcome.states > 1000
    assert outcome.wrong == 0


NEEDED = [("unseal", 1), ("seal", 2), ("unseal", 2), ("seal", 3), ("rekey", 3)]
"""By number: the journal, its name, LBA 0, the records (the journal itself
was durable before it got its name)."""


@pytest.mark.parametrize(("name", "drop"), NEEDED)
def test_each_sync_of_the_recovery_is_needed(name: str, drop: int) -> None:
    """The test of the test: without it some state is wrong."""
    assert _power_cuts(name, drop).wrong > 0
