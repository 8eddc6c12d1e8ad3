"""AES-256-GCM over extents: length preserving, the tag kept elsewhere.

The nonce is the extent's offset: within one seal's key every offset is
encrypted once, so no nonce repeats. The AAD binds the whole seal context and
the extent's place, length and class, so that no extent can be moved, swapped
or taken from another generation. The digest of the plaintext is a GMAC (SP
800-38D with empty plaintext) under a key of its own: as fast as the cipher.

Source:
    NIST SP 800-38D sections 5.2.1.1 and 8.2.1 (deterministic construction);
    DESIGN 3.3, 3.5.
"""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

if TYPE_CHECKING:
    from vmsec.crypto.context import SealContext, SealKeys

TAG_BYTES = 16
MAX_EXTENT_BYTES = 1 << 20
"""Extents are cut at absolute 1 MiB borders, so none is longer."""

_AAD = struct.Struct(">60sQI")
_NONCE = struct.Struct(">IQ")


class TagError(Exception):
    """A tag is wrong; the caller raises its one opaque error."""


def _nonce(offset: int) -> bytes:
    return _NONCE.pack(0, offset)


class ExtentCipher:
    """Encrypts, decrypts and digests the extents of one seal.

    Args:
        keys: The keys of the seal.
        context: The same seal's context.
    """

    def __init__(self, keys: SealKeys, context: SealContext) -> None:
        self._data = AESGCM(keys.data)
        self._digest = AESGCM(keys.digest)
        self._context = context.pack()

    def _aad(self, offset: int, length: int, kind: str) -> bytes:
        place = _AAD.pack(self._context, offset, length)
        return place + kind.encode()

    def encrypt_into(
        self, offset: int, kind: str, plain: memoryview, out: memoryview
    ) -> None:
        """Encrypt one extent.

        Args:
            offset: Where it lies on the disk, in bytes.
            kind: Its metadata class.
            plain: The bytes, at most 1 MiB.
            out: ``len(plain) + 16`` bytes: ciphertext, then the tag.
        """
        aad = self._aad(offset, len(plain), kind)
        self._data.encrypt_into(_nonce(offset), plain, aad, out)

    def decrypt_into(
        self, offset: int, kind: str, sealed: memoryview, out: memoryview
    ) -> None:
        """Decrypt one extent; ``sealed`` is ciphertext, then the tag.

        Raises:
            TagError: Wrong key or changed bytes; ``out`` holds nothing.
        """
        aad = self._aad(offset, len(out), kind)
        try:
            self._data.decrypt_into(_nonce(offset), sealed, aad, out)
        except InvalidTag as err:
            raise TagError from err

    def digest(self, offset: int, plain: memoryview) -> bytes:
        """Return the keyed digest of an extent's plaintext, 16 bytes."""
        return self._digest.encrypt(_nonce(offset), b"", plain)


class RangeDigest:
    """A digest of many ranges of a disk, nearly as fast as memory.

    GMAC of each piece of a range, then SHA-256 over all of them. The key need
    not be secret: it tells ranges that changed by use, not by an attacker who
    knows the key.

    Args:
        key: 32 bytes, random, for one set of ranges only.
    """

    def __init__(self, key: bytes) -> None:
        self._piece, self._all = AESGCM(key), hashlib.sha256()

    def add(self, offset: int, data: memoryview) -> None:
        """Take one range; no two of a set overlap."""
        for done in range(0, len(data), MAX_EXTENT_BYTES):
            piece = data[done : done + MAX_EXTENT_BYTES]
            tag = self._piece.encrypt(_nonce(offset + done), b"", piece)
            self._all.update(tag)

    def digest(self) -> bytes:
        """Return the digest of what was added so far, 32 bytes."""
        return self._all.digest()


def encrypt_whole(key: bytes, data: bytes, aad: bytes) -> bytes:
    """Encrypt one message under a key that is used exactly once.

    The nonce is zero, which is right only because the key is never used
    again (every seal derives its own manifest key from a fresh salt).
    """
    return AESGCM(key).encrypt(bytes(12), data, aad)


def decrypt_whole(key: bytes, data: bytes, aad: bytes) -> bytes:
    """Decrypt what :func:`encrypt_whole` made.

    Raises:
        TagError: Wrong key or changed bytes.
    """
    try:
        return AESGCM(key).decrypt(bytes(12), data, aad)
    except (InvalidTag, ValueError) as err:
        raise TagError from err
