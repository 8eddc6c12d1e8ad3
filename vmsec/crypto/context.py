"""What one seal of one disk is called, and the keys that follow from it.

A VM key is used for every disk and every seal of that VM, so each seal
derives keys of its own: HKDF-SHA256 (RFC 5869) with a fresh random salt and
the whole context in ``info``. The salt makes a repeat harmless: even if a
generation counter is rolled back (a restored node, a reverted snapshot), no
key and nonce pair is used twice.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from vmsec.crypto.labels import Label

if TYPE_CHECKING:
    from vmsec.secret import SecretBytes

VM_KEY_BYTES = 32
SALT_BYTES = 16
_PACKED = struct.Struct(">16s16sQI16s")
CONTEXT_BYTES = _PACKED.size


class SealContext(NamedTuple):
    """The public name of one seal.

    ``vm`` and ``disk`` identify whose disk it is; ``generation`` (1 or more)
    is raised by every seal of the disk, ``key_version`` (1 or more) by every
    re-key of the VM; ``salt`` is 16 random bytes, new for every seal.
    """

    vm: UUID
    disk: UUID
    generation: int
    key_version: int
    salt: bytes

    def pack(self) -> bytes:
        """Return the fixed form of 60 bytes that keys and tags bind."""
        return _PACKED.pack(
            self.vm.bytes,
            self.disk.bytes,
            self.generation,
            self.key_version,
            self.salt,
        )

    @classmethod
    def unpack(cls, data: bytes) -> SealContext:
        """Read what :meth:`pack` wrote (exactly 60 bytes)."""
        vm, disk, generation, version, salt = _PACKED.unpack(data)
        return cls(UUID(bytes=vm), UUID(bytes=disk), generation, version, salt)


class SealKeys(NamedTuple):
    """The keys of one seal, 32 bytes each."""

    data: bytes
    digest: bytes
    manifest: bytes
    header: bytes


def derive_seal_keys(vm_key: SecretBytes, context: SealContext) -> SealKeys:
    """Derive the four keys of one seal.

    Args:
        vm_key: 32 bytes, uniformly random.
        context: Which seal; its salt must be fresh for a new seal.

    Raises:
        ValueError: The VM key has another length.

    Source:
        RFC 5869 section 2; DESIGN 3.3.
    """
    if len(vm_key) != VM_KEY_BYTES:
        raise ValueError(f"a VM key has {VM_KEY_BYTES} bytes")
    packed = context.pack()

    def derive(label: Label) -> bytes:
        info = label.encode() + b"\0" + packed
        hkdf = HKDF(hashes.SHA256(), 32, context.salt, info)
        return hkdf.derive(vm_key.reveal())

    return SealKeys(
        data=derive(Label.EXTENT_DATA),
        digest=derive(Label.EXTENT_DIGEST),
        manifest=derive(Label.MANIFEST),
        header=derive(Label.HEADER),
    )
