"""Approvals: policies signed by the KMC's approval key.

A VM key obeys whatever policy the approval key has signed for it (see
:mod:`vmsec.tpm.policy`). The KMC signs in its TPM; a node verifies in its
own, which turns the signature into a ticket that PolicyAuthorize accepts.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING

from vmsec.errors import PolicyMismatchError
from vmsec.tpm.fault import base_code
from vmsec.tpm.policy import approval_digest, vm_key_branches
from vmsec.tpm.session import flushed
from vmsec.tpm.tss import (
    ESAPI,
    ESYS_TR,
    TPM2_ALG,
    TPM2_RH,
    TPM2_ST,
    TPM2B_DIGEST,
    TPM2B_PUBLIC,
    TPML_DIGEST,
    TPMS_SCHEME_HASH,
    TPMT_SIG_SCHEME,
    TPMT_SIGNATURE,
    TPMT_TK_HASHCHECK,
    TPMT_TK_VERIFIED,
    TPMU_SIG_SCHEME,
    TSS2_Exception,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmsec.tpm.storage import Parent

_TPM_RC_VALUE = 0x084
_TPM_RC_SIGNATURE = 0x09B


@dataclasses.dataclass(frozen=True)
class Approval:
    """A policy that the approval key signed for one branch.

    ``public`` is the approval key, ``approved`` the policy's digest,
    ``reference`` the branch: USE_REFERENCE or DUPLICATE_REFERENCE.
    """

    public: TPM2B_PUBLIC
    approved: bytes
    reference: bytes
    signature: TPMT_SIGNATURE


def sign(
    parent: Parent, key: ESYS_TR, approved: bytes, reference: bytes
) -> TPMT_SIGNATURE:
    """Approve a policy with a loaded approval key.

    Args:
        parent: Lends the session.
        key: The approval key.
        approved: The policy's digest.
        reference: For which branch.
    """
    scheme = TPMT_SIG_SCHEME(
        scheme=TPM2_ALG.ECDSA,
        details=TPMU_SIG_SCHEME(
            ecdsa=TPMS_SCHEME_HASH(hashAlg=TPM2_ALG.SHA256)
        ),
    )
    # the key is not restricted, so the TPM wants no proof of the hashing
    no_ticket = TPMT_TK_HASHCHECK(
        tag=TPM2_ST.HASHCHECK, hierarchy=TPM2_RH.NULL
    )
    return parent.esapi.sign(
        key,
        approval_digest(approved, reference),
        scheme,
        no_ticket,
        session1=parent.session,
    )


def verify(parent: Parent, approval: Approval) -> TPMT_TK_VERIFIED:
    """Verify an approval in the TPM; return its ticket.

    The key goes into the owner hierarchy: PolicyAuthorize refuses tickets of
    the null hierarchy.

    Raises:
        PolicyMismatchError: Not the approval key's signature over this.
    """
    handle = parent.esapi.load_external(
        approval.public, hierarchy=ESYS_TR.OWNER
    )
    digest = approval_digest(approval.approved, approval.reference)
    with flushed(parent.esapi, handle), _mismatch(_TPM_RC_SIGNATURE):
        return parent.esapi.verify_signature(
            handle, digest, approval.signature, session1=parent.session
        )


def authorize(
    esapi: ESAPI,
    session: ESYS_TR,
    approval: Approval,
    ticket: TPMT_TK_VERIFIED,
) -> None:
    """Turn a session that holds an approved policy into a VM key's policy.

    Args:
        esapi: The context.
        session: A policy session that holds what was approved.
        approval: The approval.
        ticket: This TPM's word that the signature is good.

    Raises:
        PolicyMismatchError: The session holds another policy than the
            approved one, or the ticket is of another TPM.
    """
    name = bytes(approval.public.get_name())
    branches = [TPM2B_DIGEST(each) for each in vm_key_branches(name)]
    with _mismatch(_TPM_RC_VALUE):
        esapi.policy_authorize(
            session,
            approval.approved,
            name,
            ticket,
            policy_ref=approval.reference,
        )
        esapi.policy_or(session, TPML_DIGEST(branches))


@contextlib.contextmanager
def _mismatch(wanted: int) -> Iterator[None]:
    """Read one response code as a policy that is not satisfied."""
    try:
        yield
    except TSS2_Exception as err:
        if int(err.rc) >> 16 or base_code(int(err.rc)) != wanted:
            raise
        raise PolicyMismatchError(
            "the TPM does not accept the approval of the VM key's policy "
            f"(0x{int(err.rc):x}); ask the KMC for the key again"
        ) from err
