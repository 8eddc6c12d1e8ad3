"""Who may have which key when, as a table."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmsec.errors import (
    AccessDeniedError,
    CustodyError,
    GenerationMismatchError,
    KeyStateError,
    LeaseHeldError,
    UnknownKeyError,
    UnknownNodeError,
)
from vmsec.kmc.authority import (
    BANNED,
    ENROLLED,
    PLAIN,
    SEALED,
    DiskFacts,
    NodeFacts,
    Release,
    VMFacts,
    decide_release,
    require_progress,
    require_reporter,
)
from vmsec.kmc.state import RELEASABLE, TRANSITIONS, KeyState
from vmsec.kmc.state import require_transition as require

VM = "6f1c8a52-37f1-4c0b-9f37-0d4c1a6f2b10"
NODE = NodeFacts(name="a", state=ENROLLED)
ACTIVE = {1: KeyState.ACTIVE}
ROTATED = {1: KeyState.DEACTIVATED, 2: KeyState.ACTIVE}


def vm(**change: Any) -> VMFacts:
    facts: dict[str, Any] = {
        "vm": VM,
        "node": None,
        "holder": None,
        "keys": ACTIVE,
        "needed": frozenset(),
    }
    return VMFacts(**(facts | change))


@pytest.mark.parametrize(
    ("known", "versions", "active"),
    [
        (vm(), (1,), 1),
        (vm(node="a"), (1,), 1),
        (vm(node="a", holder="a"), (1,), 1),
        (vm(holder="a"), (1,), 1),
        (vm(keys=ROTATED), (2,), 2),
        (vm(keys=ROTATED, needed={1}), (1, 2), 2),
        (vm(keys=ROTATED, needed={2}), (2,), 2),
        (vm(keys=ROTATED, needed={1, 2}), (1, 2), 2),
    ],
)
def test_a_node_gets_the_active_key_and_those_that_disks_need(
    known: VMFacts, versions: tuple[int, ...], active: int
) -> None:
    release = decide_release(NODE, known, VM)
    assert release == Release(versions=versions, active=active)


@pytest.mark.parametrize(
    ("node", "known", "refusal"),
    [
        (NodeFacts(name="a", state=None), vm(), UnknownNodeError),
        (NodeFacts(name="a", state=None), None, UnknownNodeError),
        (NodeFacts(name="a", state=BANNED), vm(), AccessDeniedError),
        (NodeFacts(name="a", state="other"), vm(), AccessDeniedError),
        (NODE, None, UnknownKeyError),
        (NODE, vm(node="b"), UnknownKeyError),
        (NODE, vm(node="b", holder="b"), UnknownKeyError),
        (NODE, vm(node="b", holder="a"), UnknownKeyError),
        (NODE, vm(node="a", holder="b"), LeaseHeldError),
        (NODE, vm(holder="b"), LeaseHeldError),
        (NODE, vm(keys={}), KeyStateError),
        (NODE, vm(keys={1: KeyState.DEACTIVATED}), KeyStateError),
        (NODE, vm(keys={1: KeyState.SUSPENDED}), KeyStateError),
        (NODE, vm(keys=ACTIVE, needed={2}), KeyStateError),
        (
            NODE,
            vm(keys={1: KeyState.DESTROYED, 2: KeyState.ACTIVE}, needed={1}),
            KeyStateError,
        ),
        (
            NODE,
            vm(keys={1: KeyState.COMPROMISED, 2: KeyState.ACTIVE}, needed={1}),
            KeyStateError,
        ),
    ],
)
def test_every_other_request_is_refused(
    node: NodeFacts, known: VMFacts | None, refusal: type[CustodyError]
) -> None:
    with pytest.raises(refusal) as caught:
        decide_release(node, known, VM)
    assert type(caught.value) is refusal


def test_unknown_and_not_yours_are_the_same_to_the_letter() -> None:
    with pytest.raises(UnknownKeyError) as unknown:
        decide_release(NODE, None, VM)
    with pytest.raises(UnknownKeyError) as foreign:
        decide_release(NODE, vm(node="b", holder="b"), VM)
    with pytest.raises(UnknownKeyError) as reported:
        require_reporter(NODE, vm(node="b"), VM)
    texts = {str(e.value) for e in (unknown, foreign, reported)}
    assert len(texts) == 1
    assert " b" not in texts.pop()


NAMES = st.sampled_from(["a", "b", None])
STATES = st.sampled_from(KeyState)


@given(
    st.sampled_from([ENROLLED, BANNED, None]),
    NAMES,
    NAMES,
    st.dictionaries(st.integers(1, 4), STATES, max_size=4),
    st.frozensets(st.integers(1, 4)),
)
def test_whatever_is_released_obeys_every_rule(
    state: str | None,
    placed: str | None,
    holder: str | None,
    keys: dict[int, KeyState],
    needed: frozenset[int],
) -> None:
    node = NodeFacts(name="a", state=state)
    known = vm(node=placed, holder=holder, keys=keys, needed=needed)
    try:
        release = decide_release(node, known, VM)
    except CustodyError:
        return
    assert state == ENROLLED
    assert placed in {None, "a"}
    assert holder in {None, "a"}
    assert keys[release.active] is KeyState.ACTIVE
    assert set(release.versions) == {release.active} | needed
    assert all(keys[version] in RELEASABLE for version in release.versions)


@pytest.mark.parametrize(
    "known", [vm(node="a"), vm(node="b", holder="a"), vm(holder="a")]
)
def test_the_holder_and_the_node_of_placement_may_report(
    known: VMFacts,
) -> None:
    require_reporter(NODE, known, VM)


@pytest.mark.parametrize(
    ("node", "known", "refusal"),
    [
        (NODE, None, UnknownKeyError),
        (NODE, vm(), UnknownKeyError),
        (NODE, vm(node="b"), UnknownKeyError),
        (NODE, vm(node="b", holder="b"), UnknownKeyError),
        (NodeFacts(name="a", state=None), vm(node="a"), UnknownNodeError),
        (NodeFacts(name="a", state=BANNED), vm(node="a"), AccessDeniedError),
    ],
)
def test_no_other_node_may_report(
    node: NodeFacts, known: VMFacts | None, refusal: type[CustodyError]
) -> None:
    with pytest.raises(refusal):
        require_reporter(node, known, VM)


@pytest.mark.parametrize(
    ("old", "new", "allowed"),
    [
        (None, (SEALED, 7), True),
        (None, (PLAIN, 0), True),
        ((PLAIN, 0), (SEALED, 1), True),
        ((SEALED, 1), (PLAIN, 1), True),
        ((SEALED, 1), (SEALED, 1), True),
        ((SEALED, 1), (SEALED, 2), True),
        ((PLAIN, 1), (PLAIN, 1), True),
        ((PLAIN, 1), (SEALED, 2), True),
        ((PLAIN, 1), (SEALED, 1), False),
        ((SEALED, 2), (SEALED, 1), False),
        ((SEALED, 2), (PLAIN, 1), False),
        ((PLAIN, 2), (PLAIN, 1), False),
        ((PLAIN, 2), (SEALED, 1), False),
    ],
)
def test_a_report_never_goes_back(
    old: tuple[str, int] | None, new: tuple[str, int], *, allowed: bool
) -> None:
    recorded = (
        None if old is None else DiskFacts(state=old[0], generation=old[1])
    )
    reported = DiskFacts(state=new[0], generation=new[1])
    if allowed:
        require_progress(recorded, reported, what="disk")
        return
    with pytest.raises(GenerationMismatchError, match="put back from a copy"):
        require_progress(recorded, reported, what="disk")


@given(STATES, STATES)
def test_states_change_only_as_the_table_says(
    old: KeyState, new: KeyState
) -> None:
    if new in TRANSITIONS[old]:
        require(old, new, what="key")
        return
    with pytest.raises(KeyStateError, match=f"is {old}; it cannot become"):
        require(old, new, what="key")


def test_a_destroyed_key_stays_destroyed_and_none_comes_back_to_active() -> (
    None
):
    assert not TRANSITIONS[KeyState.DESTROYED]
    back = {old for old, news in TRANSITIONS.items() if "active" in news}
    assert back == {KeyState.PRE_ACTIVATION, KeyState.SUSPENDED}
    assert set(TRANSITIONS) == set(KeyState)
