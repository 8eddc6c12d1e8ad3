"""The log's line for each decision."""

from __future__ import annotations

import logging

import pytest

from vmsec.errors import LeaseHeldError
from vmsec.kmc.decision import Decision, logged


def test_a_grant_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        with logged(Decision("acquire", vm="v", node="n")) as decision:
            decision.version = "1,2"
        assert caplog.messages == [
            "decision=granted action=acquire vm=v node=n version=1,2 "
            "request=- reason=allowed"
        ]


def test_a_refusal_is_one_line_with_its_reason_and_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with (
        pytest.raises(LeaseHeldError),
        logged(Decision("acquire", vm="v", node="n", request="r")),
    ):
        raise LeaseHeldError("held by b")
    assert caplog.messages == [
        "decision=refused action=acquire vm=v node=n version=- request=r "
        "reason=custody.lease: held by b"
    ]


def test_a_name_cannot_forge_fields_of_the_line() -> None:
    line = Decision("enroll", node="a version=9").line("refused", "why")
    assert ' node="a version=9" version=- ' in line
