"""What a TSS or TPM response code means for us. Pure; knows no TPM.

A response code is 32 bits: bits 16 to 23 say which layer of the TSS speaks
(0: the TPM itself), the lower ones what happened. Codes of format one carry
the number of the parameter, handle or session too, which :func:`base_code`
removes.

Source:
    TPM 2.0 Part 2, section 6.6 (TPM_RC); TCG TSS 2.0 Overview and Common
    Structures, section 4.4 (TSS2_RC).
"""

from __future__ import annotations

import enum

from vmsec.errors import (
    PolicyMismatchError,
    TPMError,
    TPMIdentityError,
    TPMLockoutError,
    TPMUnavailableError,
)


class Fault(enum.Enum):
    """What to do about a failed command."""

    DEAD = "the TPM does not answer"
    LOST = "the TPM was reset meanwhile"
    FULL = "the TPM has no free slot for objects or sessions"
    SUSPECT = "the TPM reports a failure"
    BUSY = "the TPM asks to wait"
    LOCKOUT = "the TPM is in dictionary-attack lockout; wait, or reset it"
    POLICY = "the object's policy is not satisfied"
    FORGED = "the response is not authentic; is this the pinned TPM?"
    UNSUPPORTED = "this TPM does not have the command"
    REFUSED = "the TPM refused"


_TPM_LAYERS = frozenset({0, 11, 12})  # the TPM; a resource manager for it
_TCTI_LAYER = 10
_SILENT = frozenset({7, 8, 9, 10, 17, 19})
"""Base codes of ESYS and SYS after which the context is of no more use:
BAD_SEQUENCE (an earlier command never ended), NO_CONNECTION, TRY_AGAIN,
IO_ERROR, MALFORMED_RESPONSE, INSUFFICIENT_RESPONSE."""
_RSP_AUTH_FAILED = 27
_REFERENCES = range(0x910, 0x91F)
"""TPM_RC_REFERENCE_H0 to S6: a handle that was valid is not there: a restart
between two commands of one operation."""

_TPM_FAULTS = {
    0x100: Fault.LOST,  # TPM_RC_INITIALIZE: it waits for TPM2_Startup
    0x101: Fault.SUSPECT,  # TPM_RC_FAILURE
    0x126: Fault.POLICY,  # TPM_RC_POLICY
    0x143: Fault.UNSUPPORTED,  # TPM_RC_COMMAND_CODE
    0x901: Fault.FULL,  # TPM_RC_CONTEXT_GAP
    0x902: Fault.FULL,  # TPM_RC_OBJECT_MEMORY
    0x903: Fault.FULL,  # TPM_RC_SESSION_MEMORY
    0x904: Fault.FULL,  # TPM_RC_MEMORY
    0x905: Fault.FULL,  # TPM_RC_SESSION_HANDLES
    0x906: Fault.FULL,  # TPM_RC_OBJECT_HANDLES
    0x908: Fault.BUSY,  # TPM_RC_YIELDED
    0x909: Fault.BUSY,  # TPM_RC_CANCELED
    0x90A: Fault.BUSY,  # TPM_RC_TESTING
    0x920: Fault.BUSY,  # TPM_RC_NV_RATE
    0x921: Fault.LOCKOUT,  # TPM_RC_LOCKOUT
    0x922: Fault.BUSY,  # TPM_RC_RETRY
    0x923: Fault.BUSY,  # TPM_RC_NV_UNAVAILABLE
    0x09D: Fault.POLICY,  # TPM_RC_POLICY_FAIL
    0x0A3: Fault.POLICY,  # TPM_RC_EXPIRED
    0x0A4: Fault.POLICY,  # TPM_RC_POLICY_CC
    0x128: Fault.POLICY,  # TPM_RC_PCR_CHANGED
}

_ERRORS: dict[Fault, type[TPMError]] = {
    Fault.DEAD: TPMUnavailableError,
    Fault.LOST: TPMUnavailableError,
    Fault.FULL: TPMUnavailableError,
    Fault.BUSY: TPMUnavailableError,
    Fault.LOCKOUT: TPMLockoutError,
    Fault.POLICY: PolicyMismatchError,
    Fault.FORGED: TPMIdentityError,
}

REOPEN = frozenset({Fault.DEAD, Fault.LOST, Fault.FULL, Fault.FORGED})
"""After these the context is closed; the next one starts with a clean TPM."""

RETRY = frozenset({Fault.DEAD, Fault.LOST, Fault.FULL})
"""After these an idempotent operation is tried once more."""


def base_code(code: int) -> int:
    """Take layer, parameter, handle and session numbers off a code.

    Source:
        TPM 2.0 Part 2, 6.6.2: bit 7 set means format one, with the error in
        bits 0 to 5, the number and its kind in bits 6 and 8 to 11.
    """
    number = code & 0xFFF
    return 0x080 | number & 0x03F if number & 0x080 else number


def classify(code: int) -> Fault:
    """Say what a response code means.

    Args:
        code: A TSS2_RC other than success.
    """
    layer = code >> 16 & 0xFF
    if layer in _TPM_LAYERS:
        if code & 0xFFF in _REFERENCES:
            return Fault.LOST
        return _TPM_FAULTS.get(base_code(code), Fault.REFUSED)
    if layer == _TCTI_LAYER or code & 0xFFFF in _SILENT:
        return Fault.DEAD
    return Fault.FORGED if code & 0xFFFF == _RSP_AUTH_FAILED else Fault.REFUSED


def error_for(operation: str, code: int, fault: Fault) -> TPMError:
    """Make the error that tells what failed, why, and the code in hex."""
    kind = _ERRORS.get(fault, TPMError)
    return kind(f"TPM, {operation}: {fault.value} (0x{code:x})")
