"""The storage root key: made once, persistent, pinned at first use.

The pin is the SRK's public area in a file. What the TPM says is believed once,
and only if the Name fits the key; from then on another SRK is another TPM.

Source:
    TCG TPM v2.0 Provisioning Guidance 1.0, 7.5.1 and 7.8 (handles).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from typing import TYPE_CHECKING

from vmsec.errors import TPMError
from vmsec.tpm.objects import SRKAlgorithm, matches, srk_template
from vmsec.tpm.session import encrypted_session, flushed, salt_key
from vmsec.tpm.tss import (
    ESAPI,
    ESYS_TR,
    TPM2_CAP,
    TPM2B_PRIVATE,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmsec.tpm.context import TPM
    from vmsec.tpm.pin import Pin


@dataclasses.dataclass(frozen=True)
class Parent:
    """The SRK and an encrypted session, lent for one operation.

    ``key`` and ``session`` are ESYS_TR; the session authorizes the SRK's use
    and encrypts whatever else the command carries.
    """

    esapi: ESAPI
    key: ESYS_TR
    session: ESYS_TR

    def create(self, template: TPM2B_PUBLIC) -> tuple[bytes, bytes]:
        """Have the TPM make an object; return (public, private)."""
        private, public, *_rest = self.esapi.create(
            self.key,
            TPM2B_SENSITIVE_CREATE(),
            template,
            session1=self.session,
        )
        return bytes(public.marshal()), bytes(private.marshal())

    @contextlib.contextmanager
    def loaded(
        self, public: TPM2B_PUBLIC, private: TPM2B_PRIVATE
    ) -> Iterator[ESYS_TR]:
        """Load an object under the SRK for the block."""
        handle = self.esapi.load(
            self.key, private, public, session1=self.session
        )
        with flushed(self.esapi, handle):
            yield handle


class StorageRoot:
    """The pinned SRK of one TPM.

    Args:
        tpm: The TPM; the SRK is made in it if there is none.
        pin: Where the SRK is pinned; checked here, written by the owner.
        algorithm: Which SRK.

    Raises:
        TPMIdentityError: The TPM's SRK is not the pinned one.
        TPMError: The handle holds something else.
    """

    def __init__(self, tpm: TPM, pin: Pin, algorithm: SRKAlgorithm) -> None:
        self._handle = algorithm.value
        self.public: bytes = tpm.run(
            "provision the storage root key",
            functools.partial(provision, algorithm=algorithm),
            idempotent=True,
        )
        pin.verify(self.public)

    @contextlib.contextmanager
    def opened(self, esapi: ESAPI) -> Iterator[Parent]:
        """Lend the SRK and an encrypted session salted to it.

        Raises:
            TPMIdentityError: The TPM's SRK is no longer the pinned one.
        """
        with (
            salt_key(esapi, self._handle, self.public) as key,
            encrypted_session(esapi, key) as session,
        ):
            yield Parent(esapi, key, session)


def provision(esapi: ESAPI, *, algorithm: SRKAlgorithm) -> bytes:
    """Return the SRK's marshalled public area; make and persist it if absent.

    Raises:
        TPMError: The handle holds an object of another template, or the TPM
            answers with a Name that is not that of the public area.

    Crash:
        Until EvictControl is done nothing is kept; run again safely.
    """
    handle, template = algorithm.value, srk_template(algorithm)
    if handle not in handles(esapi, handle):
        _persist(esapi, template, handle)
    public = _read_public(esapi, handle)
    if not matches(public, template):
        raise TPMError(
            f"TPM handle 0x{handle:08x} holds another object than the "
            f"{algorithm.name} storage root key; evict it, or choose the "
            "other algorithm"
        )
    return bytes(public.marshal())


def handles(esapi: ESAPI, first: int) -> tuple[int, ...]:
    """List the TPM's handles of one kind, from ``first`` upwards."""
    # the holder must live while its field is read, see vmsec.tpm.tss
    _more, holder = esapi.get_capability(TPM2_CAP.HANDLES, first, 64)
    return tuple(int(handle) for handle in holder.data.handles)


def _persist(esapi: ESAPI, template: TPM2B_PUBLIC, handle: int) -> None:
    created = esapi.create_primary(
        TPM2B_SENSITIVE_CREATE(), template, ESYS_TR.OWNER
    )
    with flushed(esapi, created[0]) as primary:
        persistent = esapi.evict_control(ESYS_TR.OWNER, primary, handle)
        esapi.tr_close(persistent)


def _read_public(esapi: ESAPI, handle: int) -> TPM2B_PUBLIC:
    """Read a persistent object's public area; its Name must fit it."""
    resource = esapi.tr_from_tpmpublic(handle)
    try:
        public, name, _qualified = esapi.read_public(resource)
    finally:
        esapi.tr_close(resource)
    if bytes(public.get_name()) != bytes(name):
        raise TPMError(f"TPM handle 0x{handle:08x}: Name and key differ")
    return public
