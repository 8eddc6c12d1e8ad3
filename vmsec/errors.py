"""The one error tree of vmsec.

Every exception that leaves a vmsec package is a :class:`VmsecError`; foreign
exceptions are wrapped (``raise X(...) from err``) by the package that owns
the library. ``TypeError``, ``ValueError`` and ``RuntimeError`` stay for
programmers' mistakes and are not caught.

The message (``str(error)``) is one line for the operator: what went wrong,
with which object, and what to do. It may name paths; it never holds secrets.
``public_message`` is all that may cross a trust boundary.

Source:
    DESIGN sections 2 and 10 (exit status by family).
"""

from __future__ import annotations

from typing import ClassVar


class VmsecError(Exception):
    """Root of the tree.

    ``code`` is stable on the wire and in logs; ``exit_status`` is stable for
    the command line; ``retryable`` says whether the same call may succeed
    later; ``public_message`` may be shown to anybody.
    """

    code: ClassVar[str] = "vmsec.error"
    exit_status: ClassVar[int] = 1
    retryable: ClassVar[bool] = False
    public_message: ClassVar[str] = "The request failed."


class ConfigurationError(VmsecError):
    """A setting, argument or installed file is wrong; fix it."""

    code = "configuration.invalid"
    exit_status = 10
    public_message = "The service is not configured correctly."


class RequestError(ConfigurationError):
    """A request to the API has a wrong path, body or value; correct it."""

    code = "request.invalid"
    public_message = "The request is not valid."


class ImageError(VmsecError):
    """Anything about the disk image itself."""

    code = "image.error"
    exit_status = 20
    public_message = "The disk image cannot be used."


class FormatError(ImageError):
    """The bytes of the image are not what they should be."""

    code = "image.format"


class UnsupportedFormatError(FormatError):
    """Valid, but not supported; the image is refused, never half sealed."""

    code = "image.unsupported"


class CorruptImageError(FormatError):
    """A structure contradicts itself, another one, or the device's size."""

    code = "image.corrupt"


class LimitExceededError(FormatError):
    """A number read from the image passes a named limit."""

    code = "image.limit"


class OverlapError(FormatError):
    """Extents that must be disjoint overlap."""

    code = "image.overlap"


class ReaderDisagreementError(FormatError):
    """libparted and vmsec read different partition tables; nothing written."""

    code = "image.readers-disagree"


class ImageIOError(ImageError):
    """Reading, writing or syncing failed.

    Args:
        op: ``"open"``, ``"read"``, ``"write"``, ``"sync"`` or ``"lock"``.
        target: What was accessed, for the operator.
        offset: Bytes from the start of the disk, or ``None``.
        reason: The system's word for it.
    """

    code = "image.io"

    def __init__(
        self, op: str, target: str, reason: str, offset: int | None = None
    ) -> None:
        self.op, self.target, self.offset = op, target, offset
        where = "" if offset is None else f" at byte {offset}"
        super().__init__(f"{target}: cannot {op}{where}: {reason}")


class ImageBusyError(ImageError):
    """Another process (QEMU, qemu-img, vmsec) uses the image; try later."""

    code = "image.busy"
    retryable = True
    public_message = "The disk image is in use."


class ImageFullError(ImageError):
    """No space (ENOSPC) for the journal or the image; free some and retry."""

    code = "image.full"
    retryable = True
    public_message = "There is no space left."


class SealError(VmsecError):
    """Anything about sealing and unsealing."""

    code = "seal.error"
    exit_status = 30
    public_message = "The disk image could not be sealed or unsealed."


class AlreadySealedError(SealError):
    """The image bears a seal header already; nothing was changed."""

    code = "seal.already"


class NotSealedError(SealError):
    """The image bears no seal header; nothing was changed."""

    code = "seal.not-sealed"


class HeaderError(SealError):
    """The image bears a seal header that is damaged or not understood.

    Never read as "not sealed". Restore the image or recover it from a
    manifest with the key.
    """

    code = "seal.header"


class ForeignImageError(SealError):
    """The image is sealed for another VM; nothing was changed."""

    code = "seal.foreign"


class ManifestError(SealError):
    """No usable manifest, or one of another disk or generation."""

    code = "seal.manifest"


class IntegrityError(SealError):
    """An authentication tag is wrong: wrong key or changed bytes.

    One text for every tag failure, so that nothing is learned from it.
    """

    code = "seal.integrity"

    def __init__(self, target: str) -> None:
        super().__init__(
            f"{target}: wrong key, or the sealed data was changed; "
            "nothing was written"
        )


class JournalError(SealError):
    """Anything about the seal journal."""

    code = "journal.error"


class JournalCorruptError(JournalError):
    """The journal is not whole; the image was never touched by it."""

    code = "journal.corrupt"


class RecoveryRequiredError(JournalError):
    """A hot journal exists; run ``vmsec image recover`` first."""

    code = "journal.hot"


class StaleJournalError(JournalError):
    """The journal is of another image, size or generation; not replayed."""

    code = "journal.stale"


class EngineFaultedError(SealError):
    """The engine met an I/O error in a transaction; reopen and recover."""

    code = "seal.faulted"


class CustodyError(VmsecError):
    """Anything about who may hold which key."""

    code = "custody.error"
    exit_status = 40
    public_message = "The key is not available."


class UnknownKeyError(CustodyError):
    """No such key, or not yours: the two look the same."""

    code = "custody.unknown"


class UnknownNodeError(CustodyError):
    """No such node, or not enrolled; run ``vmsec node enroll``."""

    code = "custody.unknown-node"


class NodeIdentityError(CustodyError):
    """The node's name is pinned to another TPM; an operator must clear it."""

    code = "custody.node-identity"


class KeyStateError(CustodyError):
    """The key's state (SP 800-57) forbids this use."""

    code = "custody.state"


class GenerationMismatchError(CustodyError):
    """A report names a generation older than the one on record."""

    code = "custody.generation"


class LeaseHeldError(CustodyError):
    """Another node holds the VM's lease; it must release it first."""

    code = "custody.lease"
    retryable = True


class AccessDeniedError(CustodyError):
    """The authority refused; the reason is in the service's log only."""

    code = "custody.denied"


class HypervisorError(VmsecError):
    """libvirt does not answer, or refused; it is asked again later."""

    code = "host.hypervisor"
    retryable = True
    public_message = "The hypervisor does not answer."


class StoreError(CustodyError):
    """The KMC's database did not serve the request; see the KMC's log."""

    code = "custody.store"
    retryable = True


class StoreConflictError(StoreError):
    """Another request changed the same rows first; the same call may win."""

    code = "custody.conflict"


class TPMError(VmsecError):
    """Anything about a TPM."""

    code = "tpm.error"
    exit_status = 50
    public_message = "The TPM could not serve the request."


class TPMUnavailableError(TPMError):
    """The TPM does not answer; start it, or wait."""

    code = "tpm.unavailable"
    retryable = True


class PolicyMismatchError(TPMError):
    """The object's policy is not satisfied (for instance PCRs moved)."""

    code = "tpm.policy"


class TPMLockoutError(TPMError):
    """The TPM is in dictionary-attack lockout; reset or wait."""

    code = "tpm.lockout"


class TPMIdentityError(TPMError):
    """Not the TPM (or approval key) that was pinned at first use.

    It was swapped or cleared, or somebody sits on its bus. An operator who
    knows why removes the pin that the message names.
    """

    code = "tpm.identity"


class SyncError(VmsecError):
    """Anything about messages between services."""

    code = "message.error"
    exit_status = 70
    public_message = "The services could not talk to each other."


class PeerTimeoutError(SyncError):
    """A service did not answer in time; is it running?"""

    code = "message.timeout"
    retryable = True


class SchemaError(SyncError):
    """A message, file or row does not have the agreed form."""

    code = "message.schema"


class RemoteRefusedError(SyncError):
    """The other service refused.

    Args:
        remote_code: The ``code`` of the remote error.
        message: Its public text.
        status: Its exit status.
    """

    code = "message.refused"

    def __init__(self, remote_code: str, message: str, status: int) -> None:
        self.remote_code, self.status = remote_code, status
        super().__init__(message)


class RemoteBusyError(RemoteRefusedError):
    """The other service refused for now; the same call may succeed later."""

    code = "message.busy"
    retryable = True
