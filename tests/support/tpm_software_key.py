"""Keys made in software, as an attacker or an auditor would."""

from __future__ import annotations

import hashlib
import os

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from tpm2_pytss import (
    TPM2B_SENSITIVE,
    TPMT_SENSITIVE,
    TPMU_SENSITIVE_COMPOSITE,
)
from tpm2_pytss.utils import unwrap, wrap

from vmsec.tpm import MigratedKey, SRKAlgorithm, policy
from vmsec.tpm.blob import parse
from vmsec.tpm.objects import srk_template, vm_key_template
from vmsec.tpm.tss import (
    TPM2_ALG,
    TPM2B_ENCRYPTED_SECRET,
    TPM2B_PRIVATE,
    TPM2B_PUBLIC,
    TPMA_OBJECT,
    TPMS_ECC_POINT,
    TPMU_PUBLIC_ID,
)

FIXED = TPMA_OBJECT.FIXEDTPM | TPMA_OBJECT.FIXEDPARENT


class SoftwareParent:
    """A storage key whose private part lies in this process.

    Args:
        honest: Whether it admits that it is not fixed to a TPM. Only proof
            of the endorsement key unmasks one that lies.
    """

    def __init__(self, *, honest: bool) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        numbers = self._key.public_key().public_numbers()
        self.public = srk_template(SRKAlgorithm.ECC_P256)
        self.public.publicArea.unique = TPMU_PUBLIC_ID(
            ecc=TPMS_ECC_POINT(
                x=numbers.x.to_bytes(32, "big"),
                y=numbers.y.to_bytes(32, "big"),
            )
        )
        if honest:
            self.public.publicArea.objectAttributes &= ~FIXED

    def public_bytes(self) -> bytes:
        """The marshalled TPM2B_PUBLIC."""
        return bytes(self.public.marshal())

    def open(self, grant: MigratedKey) -> bytes:
        """Read the VM key out of a grant to this parent."""
        pem = self._key.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
        opened = unwrap(
            self.public.publicArea,
            TPMT_SENSITIVE.from_pem(pem),
            parse(TPM2B_PUBLIC, grant.public, what="public"),
            parse(TPM2B_PRIVATE, grant.duplicate, what="duplicate"),
            parse(TPM2B_ENCRYPTED_SECRET, grant.seed, what="seed"),
        )
        return bytes(opened.sensitiveArea.sensitive.bits)


def software_grant(
    secret: bytes,
    node_srk_public: bytes,
    approval_public: bytes,
    *,
    more: int = 0,
) -> MigratedKey:
    """Wrap a known VM key to a node's SRK; its approval is left empty.

    ``more`` are attributes that a VM key should not have.
    """
    approval = parse(TPM2B_PUBLIC, approval_public, what="approval key")
    wanted = policy.vm_key_policy(bytes(approval.get_name()))
    obfuscation = os.urandom(32)
    public = vm_key_template(wanted)
    public.publicArea.objectAttributes |= more
    public.publicArea.unique = TPMU_PUBLIC_ID(
        keyedHash=hashlib.sha256(obfuscation + secret).digest()
    )
    sensitive = TPM2B_SENSITIVE(
        TPMT_SENSITIVE(
            sensitiveType=TPM2_ALG.KEYEDHASH,
            seedValue=obfuscation,
            sensitive=TPMU_SENSITIVE_COMPOSITE(bits=secret),
        )
    )
    parent = parse(TPM2B_PUBLIC, node_srk_public, what="node SRK")
    _inner, duplicate, seed = wrap(parent.publicArea, public, sensitive)
    return MigratedKey(
        public=bytes(public.marshal()),
        duplicate=bytes(duplicate.marshal()),
        seed=bytes(seed.marshal()),
        approval=b"",
        approval_public=approval_public,
    )
