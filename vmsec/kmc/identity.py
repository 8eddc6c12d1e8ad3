"""Names that come in over the bus: of VMs, disks, nodes and their TPMs."""

from __future__ import annotations

import hashlib
import re
import struct
import uuid

from vmsec.errors import SchemaError

SRK_NAME_BYTES = 34
"""A TPM Name: nameAlg (2 bytes) and the SHA-256 of the public area."""

TARGET_CHARACTERS = 64
"""Of a disk's name in its guest; libvirt's are far shorter (``vda``)."""

_NODE_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,253}[A-Za-z0-9])?")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")

# TCG TPM 2.0 part 2: TPM_ALG_ID (6.3) and TPMA_OBJECT (8.3).
_ALG_RSA = 0x0001
_ALG_SHA256 = 0x000B
_ALG_ECC = 0x0023
_FIXED_TPM = 1 << 1
_FIXED_PARENT = 1 << 4
_RESTRICTED = 1 << 16
_DECRYPT = 1 << 17
_SIGN = 1 << 18
_STORAGE = _FIXED_TPM | _FIXED_PARENT | _RESTRICTED | _DECRYPT


def require_uuid(text: str, *, what: str) -> str:
    """Refuse anything but a UUID in its one form, lower case with dashes.

    Raises:
        SchemaError: It is not.
    """
    try:
        canonical = str(uuid.UUID(text)) == text
    except ValueError:
        canonical = False
    if not canonical:
        raise SchemaError(f"{what} must be a UUID, lower case with dashes")
    return text


def require_node_name(text: str) -> str:
    """Refuse a node name that is no host name.

    Raises:
        SchemaError: It is not.
    """
    if _NODE_NAME.fullmatch(text) is None:
        raise SchemaError(
            "a node's name must be 1 to 255 letters, digits, dots, dashes "
            "and underscores, as in [DEFAULT] host of its agent"
        )
    return text


def require_request_id(text: str) -> str:
    """Refuse a request id that would not stand as one word in a log line.

    Raises:
        SchemaError: It would not.
    """
    if _REQUEST_ID.fullmatch(text) is None:
        raise SchemaError(
            "a request id must be 1 to 64 letters, digits, dots, colons, "
            "dashes and underscores"
        )
    return text


def srk_name(public: bytes) -> bytes:
    """Compute the TPM Name of a storage root key, refusing any other key.

    Args:
        public: A marshalled TPM2B_PUBLIC.

    Returns:
        34 bytes: nameAlg and the digest of the public area.

    Raises:
        SchemaError: Not the public area of a storage key that stays in its
            TPM.

    Source:
        TCG TPM 2.0 part 1 section 16 (Names), part 2 sections 8.3, 12.2.4
        and 12.2.5. That the key really is in a TPM is for attestation to
        prove; the operator's word stands for it at enrolment.
    """
    if len(public) < 10 or struct.unpack_from(">H", public)[0] != (
        len(public) - 2
    ):
        raise SchemaError("the SRK is not a TPM2B_PUBLIC")
    kind, name_algorithm, attributes = struct.unpack_from(">HHI", public, 2)
    if kind not in {_ALG_RSA, _ALG_ECC} or name_algorithm != _ALG_SHA256:
        raise SchemaError(
            "the SRK must be an RSA or ECC key with a SHA-256 name"
        )
    if attributes & _STORAGE != _STORAGE or attributes & _SIGN:
        raise SchemaError("the SRK must be a storage key fixed to its TPM")
    digest = hashlib.sha256(public[2:]).digest()
    return struct.pack(">H", name_algorithm) + digest
