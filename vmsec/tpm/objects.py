"""Templates of the TPM objects that vmsec makes.

Every object has ``noDA``: with it no crash of a software TPM and no wrong
use can count towards dictionary-attack lockout. Every authValue is empty:
what must be guarded is guarded by policy.

Source:
    TCG TPM v2.0 Provisioning Guidance 1.0, 7.5.1 (storage primary keys);
    TPM 2.0 Part 2, 8.3 (TPMA_OBJECT), Part 1, 27.
"""

from __future__ import annotations

import enum

from vmsec.tpm.tss import (
    TPM2_ALG,
    TPM2_ECC,
    TPM2B_PUBLIC,
    TPMA_OBJECT,
    TPMS_ECC_PARMS,
    TPMS_ECC_POINT,
    TPMS_KEYEDHASH_PARMS,
    TPMS_RSA_PARMS,
    TPMS_SCHEME_HASH,
    TPMT_ECC_SCHEME,
    TPMT_KDF_SCHEME,
    TPMT_KEYEDHASH_SCHEME,
    TPMT_PUBLIC,
    TPMT_RSA_SCHEME,
    TPMT_SYM_DEF_OBJECT,
    TPMU_ASYM_SCHEME,
    TPMU_PUBLIC_ID,
    TPMU_PUBLIC_PARMS,
    TPMU_SCHEME_KEYEDHASH,
    TPMU_SYM_KEY_BITS,
    TPMU_SYM_MODE,
)


class SRKAlgorithm(enum.Enum):
    """Which storage root key a TPM gets; the value is its handle."""

    ECC_P256 = 0x81000001
    RSA_2048 = 0x81000002


_SHA256_SCHEME = TPMS_SCHEME_HASH(hashAlg=TPM2_ALG.SHA256)
_NO_SYMMETRIC = TPMT_SYM_DEF_OBJECT(algorithm=TPM2_ALG.NULL)
_AES_128_CFB = TPMT_SYM_DEF_OBJECT(
    algorithm=TPM2_ALG.AES,
    keyBits=TPMU_SYM_KEY_BITS(aes=128),
    mode=TPMU_SYM_MODE(aes=TPM2_ALG.CFB),
)
_STORAGE = (
    TPMA_OBJECT.FIXEDTPM
    | TPMA_OBJECT.FIXEDPARENT
    | TPMA_OBJECT.SENSITIVEDATAORIGIN
    | TPMA_OBJECT.USERWITHAUTH
    | TPMA_OBJECT.NODA
    | TPMA_OBJECT.RESTRICTED
    | TPMA_OBJECT.DECRYPT
)
_APPROVAL = (
    TPMA_OBJECT.SENSITIVEDATAORIGIN
    | TPMA_OBJECT.USERWITHAUTH
    | TPMA_OBJECT.NODA
    | TPMA_OBJECT.SIGN_ENCRYPT
)
_VM_KEY = (
    TPMA_OBJECT.SENSITIVEDATAORIGIN
    | TPMA_OBJECT.ADMINWITHPOLICY
    | TPMA_OBJECT.NODA
    | TPMA_OBJECT.SIGN_ENCRYPT
)
"""The TPM makes the key itself; neither fixedTPM nor fixedParent, so that it
can be duplicated; no userWithAuth and adminWithPolicy, so that nothing goes
without the policy."""


def srk_template(algorithm: SRKAlgorithm) -> TPM2B_PUBLIC:
    """Return the TCG provisioning template of a storage root key."""
    if algorithm is SRKAlgorithm.ECC_P256:
        kind, parameters = TPM2_ALG.ECC, _ecc_srk_parameters()
        unique = TPMU_PUBLIC_ID(ecc=TPMS_ECC_POINT(x=bytes(32), y=bytes(32)))
    else:
        kind, parameters = TPM2_ALG.RSA, _rsa_srk_parameters()
        unique = TPMU_PUBLIC_ID(rsa=bytes(256))
    return TPM2B_PUBLIC(
        TPMT_PUBLIC(
            type=kind,
            nameAlg=TPM2_ALG.SHA256,
            objectAttributes=_STORAGE,
            parameters=parameters,
            unique=unique,
        )
    )


def approval_key_template(policy: bytes) -> TPM2B_PUBLIC:
    """Return the template of the approval key: ECDSA P-256, SHA-256."""
    details = TPMS_ECC_PARMS(
        symmetric=_NO_SYMMETRIC,
        curveID=TPM2_ECC.NIST_P256,
        scheme=TPMT_ECC_SCHEME(
            scheme=TPM2_ALG.ECDSA,
            details=TPMU_ASYM_SCHEME(ecdsa=_SHA256_SCHEME),
        ),
        kdf=TPMT_KDF_SCHEME(scheme=TPM2_ALG.NULL),
    )
    return TPM2B_PUBLIC(
        TPMT_PUBLIC(
            type=TPM2_ALG.ECC,
            nameAlg=TPM2_ALG.SHA256,
            objectAttributes=_APPROVAL,
            authPolicy=policy,
            parameters=TPMU_PUBLIC_PARMS(eccDetail=details),
            unique=TPMU_PUBLIC_ID(ecc=TPMS_ECC_POINT(x=b"", y=b"")),
        )
    )


def vm_key_template(policy: bytes) -> TPM2B_PUBLIC:
    """Return the template of a VM key: HMAC-SHA256, made by the TPM."""
    scheme = TPMT_KEYEDHASH_SCHEME(
        scheme=TPM2_ALG.HMAC,
        details=TPMU_SCHEME_KEYEDHASH(hmac=_SHA256_SCHEME),
    )
    return TPM2B_PUBLIC(
        TPMT_PUBLIC(
            type=TPM2_ALG.KEYEDHASH,
            nameAlg=TPM2_ALG.SHA256,
            objectAttributes=_VM_KEY,
            authPolicy=policy,
            parameters=TPMU_PUBLIC_PARMS(
                keyedHashDetail=TPMS_KEYEDHASH_PARMS(scheme=scheme)
            ),
            unique=TPMU_PUBLIC_ID(keyedHash=b""),
        )
    )


def matches(public: TPM2B_PUBLIC, template: TPM2B_PUBLIC) -> bool:
    """Whether a public area is the template in everything but ``unique``.

    This compares all attributes, algorithms, parameters and the policy, so
    nothing that a template does not say can slip in.
    """
    if int(public.publicArea.type) != int(template.publicArea.type):
        return False
    copy = TPM2B_PUBLIC.unmarshal(public.marshal())[0]
    copy.publicArea.unique = template.publicArea.unique
    return bytes(copy.marshal()) == bytes(template.marshal())


def is_storage_key(public: TPM2B_PUBLIC) -> bool:
    """Whether a public area is that of an SRK by one of the templates."""
    return any(matches(public, srk_template(kind)) for kind in SRKAlgorithm)


def is_approval_key(public: TPM2B_PUBLIC, policy: bytes) -> bool:
    """Whether a public area is that of an approval key."""
    return matches(public, approval_key_template(policy))


def is_vm_key(public: TPM2B_PUBLIC, policy: bytes) -> bool:
    """Whether a public area is that of a VM key with the policy."""
    return matches(public, vm_key_template(policy))


def _ecc_srk_parameters() -> TPMU_PUBLIC_PARMS:
    return TPMU_PUBLIC_PARMS(
        eccDetail=TPMS_ECC_PARMS(
            symmetric=_AES_128_CFB,
            scheme=TPMT_ECC_SCHEME(scheme=TPM2_ALG.NULL),
            curveID=TPM2_ECC.NIST_P256,
            kdf=TPMT_KDF_SCHEME(scheme=TPM2_ALG.NULL),
        )
    )


def _rsa_srk_parameters() -> TPMU_PUBLIC_PARMS:
    return TPMU_PUBLIC_PARMS(
        rsaDetail=TPMS_RSA_PARMS(
            symmetric=_AES_128_CFB,
            scheme=TPMT_RSA_SCHEME(scheme=TPM2_ALG.NULL),
            keyBits=2048,
            exponent=0,
        )
    )
