"""The KMC's approval key: made in its TPM once, kept under its SRK.

Its Name stands in the policy of every VM key, so it must never be replaced
while there are any: losing the file means that no VM key can be migrated any
more. Back up the state directory (the file is useless without the TPM).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmsec.durable import write_durable
from vmsec.encoding import decode, encode, field
from vmsec.errors import ConfigurationError, SchemaError
from vmsec.tpm.blob import parse
from vmsec.tpm.objects import approval_key_template, is_approval_key
from vmsec.tpm.policy import approval_key_policy
from vmsec.tpm.tss import ESAPI, ESYS_TR, TPM2B_PRIVATE, TPM2B_PUBLIC

if TYPE_CHECKING:
    import contextlib
    from pathlib import Path

    from vmsec.tpm.context import TPM
    from vmsec.tpm.storage import Parent, StorageRoot


class ApprovalKey:
    """An ECDSA P-256 key whose signatures VM keys obey.

    Args:
        public: Its public area.
        private: Its private area, wrapped by the SRK.
    """

    def __init__(self, public: TPM2B_PUBLIC, private: TPM2B_PRIVATE) -> None:
        self.public, self._private = public, private
        self.name = bytes(public.get_name())

    def loaded(
        self, parent: Parent
    ) -> contextlib.AbstractContextManager[ESYS_TR]:
        """Load the key for a block."""
        return parent.loaded(self.public, self._private)


def read_approval_key(path: Path) -> ApprovalKey | None:
    """Read the key's file; ``None`` if there is none.

    Raises:
        ConfigurationError: The file cannot be read.
        SchemaError: It is not what :func:`make_approval_key` wrote.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as err:
        raise ConfigurationError(f"{path}: {err.strerror}") from err
    record, what = decode(data, what=str(path)), str(path)
    public = field(record, "public", bytes, what=what)
    private = field(record, "private", bytes, what=what)
    parsed = parse(TPM2B_PUBLIC, public, what=what)
    if not is_approval_key(parsed, approval_key_policy()):
        raise SchemaError(f"{path}: not an approval key")
    return ApprovalKey(parsed, parse(TPM2B_PRIVATE, private, what=what))


def make_approval_key(tpm: TPM, root: StorageRoot, path: Path) -> ApprovalKey:
    """Have the TPM make the key; keep it in a file.

    Crash:
        The file is there whole or not at all. No VM key exists yet.
    """

    def create(esapi: ESAPI) -> tuple[bytes, bytes]:
        with root.opened(esapi) as parent:
            return parent.create(approval_key_template(approval_key_policy()))

    public, private = tpm.run("make the approval key", create, idempotent=True)
    write_durable(path, encode({"public": public, "private": private}))
    return ApprovalKey(
        parse(TPM2B_PUBLIC, public, what="approval key"),
        parse(TPM2B_PRIVATE, private, what="approval key"),
    )


def verify_loads(tpm: TPM, root: StorageRoot, key: ApprovalKey) -> None:
    """Pass if the key belongs to this TPM.

    Raises:
        TPMError: It does not; the file or the TPM was exchanged.
    """

    def load(esapi: ESAPI) -> None:
        with root.opened(esapi) as parent, key.loaded(parent):
            pass

    tpm.run("load the approval key", load, idempotent=True)
