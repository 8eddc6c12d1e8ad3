"""The only way to start a session, and to give back what a TPM lends.

Every session is salted to the storage root key and that key is compared with
the pinned one first, each time: a man in the middle of the bus cannot supply
a key of his own. What carries a secret goes through
:func:`encrypted_session`, which encrypts the first parameter both ways and
authenticates every command and response.

A policy session never encrypts: with an encrypting policy session the
parameter key would include the object's authValue, and an object with another
authValue than assumed would yield wrong bytes and no error. Use
:func:`encrypted_session` beside it.

Invariant:
    Whatever is entered here as a context is flushed when it is left: a TPM
    has three slots for objects and three for sessions.

Source:
    TPM 2.0 Part 1, sections 17.6 (sessions) and 19 (session encryption).
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from vmsec.errors import TPMIdentityError
from vmsec.tpm.fault import base_code
from vmsec.tpm.tss import (
    ESAPI,
    ESYS_TR,
    TPM2_ALG,
    TPM2_SE,
    TPM2B_PUBLIC,
    TPMA_SESSION,
    TPMT_SYM_DEF,
    TPMU_SYM_KEY_BITS,
    TPMU_SYM_MODE,
    TSS2_Exception,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

_TPM_RC_HANDLE = 0x08B
_KEY_RESOURCE = (1).to_bytes(4, "big")
"""IESYSC_KEY_RSRC, the kind of a key in a serialized ESYS_TR."""


@contextlib.contextmanager
def flushed(esapi: ESAPI, handle: ESYS_TR) -> Iterator[ESYS_TR]:
    """Lend a transient object or session; flush it at the end of the block.

    Where the block fails, its error is the one that counts: a failing flush
    after it is dropped (the next context flushes strays).
    """
    try:
        yield handle
    except BaseException:
        with contextlib.suppress(TSS2_Exception):
            esapi.flush_context(handle)
        raise
    esapi.flush_context(handle)


@contextlib.contextmanager
def salt_key(esapi: ESAPI, handle: int, pinned: bytes) -> Iterator[ESYS_TR]:
    """Lend the storage root key, once it is sure to be the pinned one.

    Args:
        esapi: The context.
        handle: Its persistent handle.
        pinned: Its marshalled TPM2B_PUBLIC, as it was at first use.

    Raises:
        TPMIdentityError: Another key is there, or none.
    """
    try:
        resource = esapi.tr_from_tpmpublic(handle)
    except TSS2_Exception as err:
        if base_code(int(err.rc)) == _TPM_RC_HANDLE:
            raise _other_key(handle) from err
        raise
    try:
        # what the library will salt to is what the resource holds
        if bytes(esapi.tr_serialize(resource)) != _resource(handle, pinned):
            raise _other_key(handle)
        yield resource
    finally:
        esapi.tr_close(resource)


@contextlib.contextmanager
def encrypted_session(esapi: ESAPI, salt: ESYS_TR) -> Iterator[ESYS_TR]:
    """Start an HMAC session that encrypts parameters both ways.

    Args:
        esapi: The context.
        salt: The key of :func:`salt_key`.
    """
    with flushed(esapi, _start(esapi, salt, TPM2_SE.HMAC)) as session:
        flags = (
            TPMA_SESSION.CONTINUESESSION
            | TPMA_SESSION.DECRYPT
            | TPMA_SESSION.ENCRYPT
        )
        esapi.trsess_set_attributes(session, flags, 0xFF)
        yield session


@contextlib.contextmanager
def policy_session(esapi: ESAPI, salt: ESYS_TR) -> Iterator[ESYS_TR]:
    """Start a policy session; it authorizes and encrypts nothing."""
    with flushed(esapi, _start(esapi, salt, TPM2_SE.POLICY)) as session:
        flags = TPMA_SESSION.CONTINUESESSION
        esapi.trsess_set_attributes(session, flags, 0xFF)
        yield session


def _start(esapi: ESAPI, salt: ESYS_TR, kind: TPM2_SE) -> ESYS_TR:
    return esapi.start_auth_session(
        tpm_key=salt,
        bind=ESYS_TR.NONE,
        session_type=kind,
        symmetric=TPMT_SYM_DEF(
            algorithm=TPM2_ALG.AES,
            keyBits=TPMU_SYM_KEY_BITS(aes=128),
            mode=TPMU_SYM_MODE(aes=TPM2_ALG.CFB),
        ),
        auth_hash=TPM2_ALG.SHA256,
    )


def _resource(handle: int, public: bytes) -> bytes:
    """Return the serialized ESYS_TR of a persistent key: handle, Name, key."""
    name = bytes(TPM2B_PUBLIC.unmarshal(public)[0].get_name())
    head = handle.to_bytes(4, "big") + len(name).to_bytes(2, "big") + name
    return head + _KEY_RESOURCE + public


def _other_key(handle: int) -> TPMIdentityError:
    return TPMIdentityError(
        f"TPM handle 0x{handle:08x} does not hold the pinned storage root "
        "key; the TPM was swapped or cleared, or its bus is tampered with"
    )
