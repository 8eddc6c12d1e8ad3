"""The table of what a hook call means, row by row."""

from __future__ import annotations

import itertools

import pytest

from vmsec.agent.hookwire import CONCERNS_AGENT
from vmsec.agent.lifecycle import (
    Action,
    ImageLock,
    Phase,
    asked_by,
    decide,
)

FREE, BUSY = ImageLock.FREE, ImageLock.BUSY
WRITES = {Action.UNSEAL, Action.SEAL}
REASONS = ["-", "shutdown", "destroyed", "crashed", "saved", "failed"]
REASONS += ["from snapshot", "daemon", "unknown", "migrated", "made up"]


def act(
    operation: str,
    sub: str,
    *,
    lock: ImageLock = FREE,
    phase: Phase = Phase.OFF,
    reason: str = "-",
) -> Action:
    asked = asked_by(operation, sub)
    return decide(asked, reason=reason, lock=lock, phase=phase)


def test_image_in_use_by_another_process_is_never_written() -> None:
    operations = ["prepare", "start", "started", "stopped", "release"]
    operations += ["migrate", "restore", "reconnect", "attach", "new one"]
    for operation, sub, reason, phase in itertools.product(
        operations, ("begin", "end", "-"), REASONS, Phase
    ):
        action = act(operation, sub, lock=BUSY, phase=phase, reason=reason)
        assert action not in WRITES


@pytest.mark.parametrize("phase", list(Phase))
def test_start_of_a_free_image_unseals(phase: Phase) -> None:
    assert act("prepare", "begin", phase=phase) is Action.UNSEAL


def test_start_of_an_image_in_use_is_refused() -> None:
    assert act("prepare", "begin", lock=BUSY) is Action.REFUSE_BUSY


def test_incoming_migration_takes_the_keys_and_leaves_the_disk() -> None:
    assert act("migrate", "begin") is Action.NOTE_INCOMING
    incoming = Phase.INCOMING
    action = act("prepare", "begin", lock=BUSY, phase=incoming)
    assert action is Action.TAKE_KEYS


@pytest.mark.parametrize("reason", [r for r in REASONS if r != "migrated"])
def test_stop_seals_whatever_its_reason(reason: str) -> None:
    action = act("release", "end", phase=Phase.RUNNING, reason=reason)
    assert action is Action.SEAL


@pytest.mark.parametrize("lock", list(ImageLock))
def test_guest_that_migrated_away_is_left_even_if_locks_do_not_work(
    lock: ImageLock,
) -> None:
    action = act(
        "release", "end", lock=lock, phase=Phase.RUNNING, reason="migrated"
    )
    assert action is Action.LEAVE_ELSEWHERE


def test_old_libvirts_migration_source_is_left_and_asked_about() -> None:
    action = act("release", "end", lock=BUSY, phase=Phase.RUNNING)
    assert action is Action.LEAVE_UNSURE


def test_failed_incoming_migration_leaves_the_source_alone() -> None:
    action = act("release", "end", lock=BUSY, phase=Phase.INCOMING)
    assert action is Action.LEAVE_ELSEWHERE


@pytest.mark.parametrize(
    ("operation", "sub", "action"),
    [
        ("started", "begin", Action.NOTE_RUNNING),
        ("reconnect", "begin", Action.NOTE_RUNNING),
        ("start", "begin", Action.NOTHING),
        ("stopped", "end", Action.NOTHING),
        ("restore", "begin", Action.NOTHING),
        ("attach", "begin", Action.NOTHING),
        ("release", "begin", Action.NOTHING),
        ("prepare", "end", Action.NOTHING),
        ("of a later libvirt", "begin", Action.NOTHING),
    ],
)
def test_other_calls_only_inform(
    operation: str, sub: str, action: Action
) -> None:
    assert act(operation, sub) is action
    assert act(operation, sub, lock=BUSY) is action


def test_hook_passes_on_every_call_that_means_anything() -> None:
    for operation in CONCERNS_AGENT:
        asked = {asked_by(operation, sub) for sub in ("begin", "end")}
        assert asked != {Action.NOTHING}
