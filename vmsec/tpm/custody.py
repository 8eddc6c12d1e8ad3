"""VM keys: made in the KMC's TPM, migrated to a node's, used there.

A VM key is an HMAC object that a TPM made from its own random. Nothing ever
reveals it, in no process of any host: what a node gets from its TPM is
HMAC(VM key, label, context), the key of one VM in one version. See ADR 0002.

What each side checks:
    1. KMC, of a node: the public area is that of a storage root key by our
       templates (fixedTPM, fixedParent, restricted, decrypt). That it lives
       in a TPM at all is for enrolment to prove.
    2. Node, of the KMC: the approval key is the pinned one, the VM key's
       policy is the one under that key, and the approval names this very
       key. So nobody but the pinned KMC can slip a key to a node.
    3. Node's TPM, at every use: the approval's signature and the policy.

Source:
    CN103516728A, claim 1; TPM 2.0 Part 1, section 23 (duplication).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmsec.errors import ConfigurationError, PolicyMismatchError
from vmsec.secret import SecretBytes
from vmsec.tpm import approval, policy
from vmsec.tpm.approval import Approval
from vmsec.tpm.approvalkey import (
    make_approval_key,
    read_approval_key,
    verify_loads,
)
from vmsec.tpm.blob import MigratedKey, NodeKey, SealedKey, parse
from vmsec.tpm.objects import (
    SRKAlgorithm,
    is_approval_key,
    is_storage_key,
    is_vm_key,
    vm_key_template,
)
from vmsec.tpm.pin import Pin
from vmsec.tpm.session import flushed, policy_session
from vmsec.tpm.storage import StorageRoot
from vmsec.tpm.tss import (
    ESAPI,
    ESYS_TR,
    TPM2_ALG,
    TPM2B_ENCRYPTED_SECRET,
    TPM2B_PRIVATE,
    TPM2B_PUBLIC,
    TPMT_SIGNATURE,
    TPMT_SYM_DEF_OBJECT,
)

if TYPE_CHECKING:
    from pathlib import Path

    from vmsec.tpm.approvalkey import ApprovalKey
    from vmsec.tpm.context import TPM
    from vmsec.tpm.storage import Parent

DISK_KEY_LABEL = b"vmsec-disk-key\x00"
"""Before the context in every derivation, so that another purpose of a VM key
can never yield a disk key."""

MAX_CONTEXT_BYTES = 256
"""A UUID and a version take 24; the TPM takes 1,024 in one command."""

_NO_INNER_WRAPPER = TPMT_SYM_DEF_OBJECT(algorithm=TPM2_ALG.NULL)


class KMCCustody:
    """The KMC's side: makes VM keys and sends them to nodes.

    Args:
        tpm: The KMC's TPM.
        state_directory: Holds ``srk.pub`` (the pin) and ``approval-key``; it
            must exist and be backed up.
        algorithm: Which SRK the TPM has or gets.

    Raises:
        TPMIdentityError: Another TPM than at first use.
        ConfigurationError: The approval key's file is lost.

    Crash:
        The approval key is durable before the SRK is pinned; construct again.
    """

    def __init__(
        self,
        tpm: TPM,
        state_directory: Path,
        *,
        algorithm: SRKAlgorithm = SRKAlgorithm.ECC_P256,
    ) -> None:
        self._tpm = tpm
        pin = Pin(state_directory / "srk.pub", "the storage root key")
        self._root = StorageRoot(tpm, pin, algorithm)
        self._approval = self._approval_key(state_directory, pin)
        pin.require(self._root.public)
        self._policy = policy.vm_key_policy(self._approval.name)

    def srk_public(self) -> bytes:
        """Return the KMC's own SRK, a marshalled TPM2B_PUBLIC."""
        return self._root.public

    def approval_public(self) -> bytes:
        """Return the approval key's TPM2B_PUBLIC, for nodes to pin."""
        return bytes(self._approval.public.marshal())

    def create_key(self) -> SealedKey:
        """Have the TPM make a VM key from its own random.

        Raises:
            TPMError: The TPM refused or does not answer.
        """

        def create(esapi: ESAPI) -> SealedKey:
            with self._root.opened(esapi) as parent:
                return SealedKey(*parent.create(vm_key_template(self._policy)))

        return self._tpm.run("make a VM key", create, idempotent=True)

    def migrate(
        self, sealed: SealedKey, node_srk_public: bytes
    ) -> MigratedKey:
        """Duplicate a VM key to one node's SRK, and approve its use there.

        Args:
            sealed: What :meth:`create_key` returned.
            node_srk_public: What the node's :meth:`NodeCustody.srk_public`
                returned, as its enrolment has proved it.

        Raises:
            SchemaError: Bytes that are no TPM structure.
            PolicyMismatchError: The node's key is not a storage root key that
                stays in its TPM, or the VM key is not of this KMC.
            TPMError: The TPM refused or does not answer.
        """
        node = parse(TPM2B_PUBLIC, node_srk_public, what="node SRK")
        if not is_storage_key(node):
            raise PolicyMismatchError(
                "the node's storage root key does not have the attributes of "
                "one that stays in its TPM; no key is sent to it"
            )
        public = parse(TPM2B_PUBLIC, sealed.public, what="VM key")
        private = parse(TPM2B_PRIVATE, sealed.private, what="VM key")
        if not is_vm_key(public, self._policy):
            raise PolicyMismatchError(
                "not a VM key under this KMC's approval key; was the "
                "approval key replaced?"
            )

        def duplicate(esapi: ESAPI) -> MigratedKey:
            with self._root.opened(esapi) as parent:
                return self._duplicate(parent, public, private, node)

        return self._tpm.run("migrate a VM key", duplicate, idempotent=True)

    def _duplicate(
        self,
        parent: Parent,
        public: TPM2B_PUBLIC,
        private: TPM2B_PRIVATE,
        node: TPM2B_PUBLIC,
    ) -> MigratedKey:
        esapi, name = parent.esapi, bytes(public.get_name())
        node_name = bytes(node.get_name())
        use, move = self._approve(parent, name, node_name)
        ticket = approval.verify(parent, move)
        target = esapi.load_external(node, hierarchy=ESYS_TR.NULL)
        with (
            flushed(esapi, target),
            parent.loaded(public, private) as key,
            policy_session(esapi, parent.key) as session,
        ):
            esapi.policy_duplication_select(session, name, node_name, True)
            approval.authorize(esapi, session, move, ticket)
            _inner, duplicate, seed = esapi.duplicate(
                key, target, None, _NO_INNER_WRAPPER, session1=session
            )
        return MigratedKey(
            public=bytes(public.marshal()),
            duplicate=bytes(duplicate.marshal()),
            seed=bytes(seed.marshal()),
            approval=bytes(use.marshal()),
            approval_public=self.approval_public(),
        )

    def _approve(
        self, parent: Parent, name: bytes, node_name: bytes
    ) -> tuple[TPMT_SIGNATURE, Approval]:
        """Sign a key's use policy, and its duplication to one node."""
        moving = policy.duplicate_policy(name, node_name)
        reference = policy.DUPLICATE_REFERENCE
        with self._approval.loaded(parent) as key:
            use = approval.sign(
                parent, key, policy.use_policy(name), policy.USE_REFERENCE
            )
            signature = approval.sign(parent, key, moving, reference)
        public = self._approval.public
        return use, Approval(public, moving, reference, signature)

    def _approval_key(self, directory: Path, pin: Pin) -> ApprovalKey:
        """Read the approval key, or make it at the very first use."""
        path = directory / "approval-key"
        key = read_approval_key(path)
        if key is not None:
            verify_loads(self._tpm, self._root, key)
            return key
        if pin.read() is not None:
            raise ConfigurationError(
                f"{path} is lost, and with it the right to migrate VM keys; "
                "restore it from a backup"
            )
        return make_approval_key(self._tpm, self._root, path)


class NodeCustody:
    """A compute node's side: receives VM keys and derives disk keys.

    Args:
        tpm: The node's TPM.
        state_directory: Holds the pins ``srk.pub`` and ``approval.pub``; it
            must exist.
        algorithm: Which SRK the TPM has or gets.

    Raises:
        TPMIdentityError: Another TPM than at first use.
    """

    def __init__(
        self,
        tpm: TPM,
        state_directory: Path,
        *,
        algorithm: SRKAlgorithm = SRKAlgorithm.ECC_P256,
    ) -> None:
        self._tpm = tpm
        pin = Pin(state_directory / "srk.pub", "the storage root key")
        self._root = StorageRoot(tpm, pin, algorithm)
        pin.require(self._root.public)
        self._kmc = Pin(
            state_directory / "approval.pub", "the KMC's approval key"
        )

    def srk_public(self) -> bytes:
        """Return the SRK, a marshalled TPM2B_PUBLIC, for the KMC."""
        return self._root.public

    def trust(self, approval_public: bytes) -> None:
        """Pin the KMC's approval key, best at enrolment.

        Without it the first key that is imported pins it.

        Raises:
            SchemaError: Not a TPM2B_PUBLIC.
            PolicyMismatchError: Not an approval key.
            TPMIdentityError: Another one is pinned.
        """
        _parse_approval_public(approval_public)
        self._kmc.require(approval_public)

    def import_key(self, migrated: MigratedKey) -> NodeKey:
        """Import a VM key into this TPM.

        Raises:
            SchemaError: Bytes that are no TPM structure.
            TPMIdentityError: Not from the KMC that is pinned.
            PolicyMismatchError: Not a VM key, or its approval is not good.
            TPMError: Made for another TPM, or the TPM does not answer.
        """
        public, use = self._verify(
            migrated.public, migrated.approval, migrated.approval_public
        )
        what = "migrated VM key"
        duplicate = parse(TPM2B_PRIVATE, migrated.duplicate, what=what)
        seed = parse(TPM2B_ENCRYPTED_SECRET, migrated.seed, what=what)

        def take(esapi: ESAPI) -> bytes:
            with self._root.opened(esapi) as parent:
                approval.verify(parent, use)
                private = esapi.import_(
                    parent.key,
                    b"",
                    public,
                    duplicate,
                    seed,
                    _NO_INNER_WRAPPER,
                    session1=parent.session,
                )
                return bytes(private.marshal())

        private = self._tpm.run("import a VM key", take, idempotent=True)
        self._kmc.require(migrated.approval_public)
        return NodeKey(
            public=migrated.public,
            private=private,
            approval=migrated.approval,
            approval_public=migrated.approval_public,
        )

    def unseal(self, key: NodeKey, context: bytes) -> SecretBytes:
        """Have the TPM derive a disk key; the VM key stays inside.

        Args:
            key: What :meth:`import_key` returned.
            context: What the key is for: binds VM UUID and key version; 1 to
                256 bytes. Other bytes give another key.

        Returns:
            32 bytes, the same for the same VM key and context on every node.

        Raises:
            SchemaError: Bytes that are no TPM structure.
            TPMIdentityError: Another TPM, or not from the pinned KMC.
            PolicyMismatchError: The policy does not hold.
            TPMError: Not this TPM's key, or the TPM does not answer.
        """
        if not 0 < len(context) <= MAX_CONTEXT_BYTES:
            raise ValueError(f"context: not 1 to {MAX_CONTEXT_BYTES} bytes")
        public, use = self._verify(
            key.public, key.approval, key.approval_public
        )
        private = parse(TPM2B_PRIVATE, key.private, what="VM key")

        def derive(esapi: ESAPI) -> SecretBytes:
            with self._root.opened(esapi) as parent:
                ticket = approval.verify(parent, use)
                with (
                    parent.loaded(public, private) as handle,
                    policy_session(esapi, parent.key) as session,
                ):
                    _assert_use(esapi, session, bytes(public.get_name()))
                    approval.authorize(esapi, session, use, ticket)
                    derived = esapi.hmac(
                        handle,
                        DISK_KEY_LABEL + context,
                        TPM2_ALG.SHA256,
                        session1=session,
                        session2=parent.session,
                    )
                    return SecretBytes(bytes(derived))

        return self._tpm.run("derive a disk key", derive, idempotent=True)

    def _verify(
        self, public: bytes, signature: bytes, approval_public: bytes
    ) -> tuple[TPM2B_PUBLIC, Approval]:
        """Check all of a grant that needs no TPM (checks 2)."""
        approver = _parse_approval_public(approval_public)
        self._kmc.verify(approval_public)
        key = parse(TPM2B_PUBLIC, public, what="VM key")
        wanted = policy.vm_key_policy(bytes(approver.get_name()))
        if not is_vm_key(key, wanted):
            raise PolicyMismatchError(
                "not a VM key under the approval key that came with it"
            )
        approved = policy.use_policy(bytes(key.get_name()))
        signed = parse(TPMT_SIGNATURE, signature, what="approval")
        return key, Approval(approver, approved, policy.USE_REFERENCE, signed)


def _parse_approval_public(data: bytes) -> TPM2B_PUBLIC:
    public = parse(TPM2B_PUBLIC, data, what="approval key")
    if not is_approval_key(public, policy.approval_key_policy()):
        raise PolicyMismatchError("the KMC's key is not an approval key")
    return public


def _assert_use(esapi: ESAPI, session: ESYS_TR, name: bytes) -> None:
    """Assert what :func:`vmsec.tpm.policy.use_policy` describes."""
    esapi.policy_command_code(session, policy.HMAC)
    esapi.policy_name_hash(session, policy.sha256(name))
