"""Response codes are read as what they are, with numbers taken off."""

from __future__ import annotations

import pytest

from vmsec.errors import (
    PolicyMismatchError,
    TPMError,
    TPMIdentityError,
    TPMLockoutError,
    TPMUnavailableError,
)
from vmsec.tpm.fault import (
    REOPEN,
    RETRY,
    Fault,
    base_code,
    classify,
    error_for,
)

CODES = {
    0xA000A: Fault.DEAD,  # TCTI: IO failure, swtpm is gone
    0xA0001: Fault.DEAD,  # TCTI: anything
    0x70007: Fault.DEAD,  # ESYS: called in the wrong order after that
    0x80011: Fault.DEAD,  # SYS: malformed response
    0x7001B: Fault.FORGED,  # ESYS: response HMAC is wrong
    0x7000B: Fault.REFUSED,  # ESYS: bad value, our own mistake
    0x100: Fault.LOST,
    0x910: Fault.LOST,  # object handle is not there any more
    0x918: Fault.LOST,  # session handle is not there any more
    0x101: Fault.SUSPECT,
    0x902: Fault.FULL,
    0x903: Fault.FULL,
    0x921: Fault.LOCKOUT,
    0x922: Fault.BUSY,
    0x99D: Fault.POLICY,  # policy fail, session 1
    0x9A4: Fault.POLICY,  # policy command code, session 1
    0x126: Fault.POLICY,
    0x143: Fault.UNSUPPORTED,
    0x3DF: Fault.REFUSED,  # integrity, parameter 3
    0x12F: Fault.REFUSED,  # auth unavailable
    0x9A2: Fault.REFUSED,  # bad auth
    0xB0902: Fault.FULL,  # the same from a resource manager
    0xC099D: Fault.POLICY,
}


@pytest.mark.parametrize("code", CODES, ids=hex)
def test_code_is_classified(code: int) -> None:
    assert classify(code) is CODES[code]


@pytest.mark.parametrize(
    ("code", "base"),
    [(0x99D, 0x9D), (0x1C4, 0x84), (0x2DB, 0x9B), (0x921, 0x921)],
    ids=hex,
)
def test_numbers_of_handles_and_parameters_are_taken_off(
    code: int, base: int
) -> None:
    assert base_code(code) == base


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault.DEAD, TPMUnavailableError),
        (Fault.LOST, TPMUnavailableError),
        (Fault.FULL, TPMUnavailableError),
        (Fault.BUSY, TPMUnavailableError),
        (Fault.LOCKOUT, TPMLockoutError),
        (Fault.POLICY, PolicyMismatchError),
        (Fault.FORGED, TPMIdentityError),
        (Fault.REFUSED, TPMError),
        (Fault.UNSUPPORTED, TPMError),
    ],
)
def test_error_names_the_operation_and_the_code(
    fault: Fault, kind: type[TPMError]
) -> None:
    error = error_for("make a VM key", 0x99D, fault)
    assert type(error) is kind
    assert "make a VM key" in str(error)
    assert "0x99d" in str(error)


def test_what_looks_forged_or_refused_is_never_tried_again() -> None:
    assert Fault.FORGED not in RETRY
    assert Fault.POLICY not in RETRY
    assert RETRY < REOPEN
