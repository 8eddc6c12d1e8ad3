"""The key blobs that leave a TPM, and the strict way back in.

Blobs cross networks and lie in databases, so nothing about them is believed:
size limited, parsed whole, no byte left over, and equal when marshalled
again. What parses may still be no key of ours; the custody classes check.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from vmsec.errors import SchemaError
from vmsec.tpm.tss import TSS2_Exception

MAX_BLOB_BYTES = 1024
"""Twice the largest that vmsec makes (an RSA-2048 public area is 282 bytes, an
encrypted secret for it 258)."""


@dataclasses.dataclass(frozen=True)
class SealedKey:
    """A VM key under the KMC's SRK; useless without the KMC's TPM.

    ``public`` is a marshalled TPM2B_PUBLIC, ``private`` a TPM2B_PRIVATE.
    """

    public: bytes
    private: bytes


@dataclasses.dataclass(frozen=True)
class MigratedKey:
    """A VM key on its way to one node; useless without that node's TPM.

    ``public``: TPM2B_PUBLIC; ``duplicate``: TPM2B_PRIVATE; ``seed``:
    TPM2B_ENCRYPTED_SECRET; ``approval``: TPMT_SIGNATURE over the use policy;
    ``approval_public``: the TPM2B_PUBLIC that verifies it. All marshalled.
    """

    public: bytes
    duplicate: bytes
    seed: bytes
    approval: bytes
    approval_public: bytes


@dataclasses.dataclass(frozen=True)
class NodeKey:
    """A VM key under a node's SRK; useless without that node's TPM.

    ``public``: TPM2B_PUBLIC; ``private``: TPM2B_PRIVATE; the rest as in
    :class:`MigratedKey`.
    """

    public: bytes
    private: bytes
    approval: bytes
    approval_public: bytes


def parse(kind: Any, data: object, *, what: str) -> Any:  # noqa: ANN401 - the TSS types have no stubs
    """Unmarshal a TPM structure strictly.

    Args:
        kind: One of the TPM2B or TPMT types.
        data: The bytes, from anywhere.
        what: Named in the error.

    Raises:
        SchemaError: No bytes, too many, left over, or not the one encoding.
    """
    if not isinstance(data, bytes) or not 0 < len(data) <= MAX_BLOB_BYTES:
        raise SchemaError(f"{what}: not 1 to {MAX_BLOB_BYTES} bytes")
    try:
        value, _used = kind.unmarshal(data)
        again = bytes(value.marshal())
    except (TSS2_Exception, ValueError, TypeError, NotImplementedError) as err:
        raise SchemaError(f"{what}: not a TPM structure") from err
    if again != data:
        raise SchemaError(f"{what}: trailing or ambiguous bytes")
    return value
