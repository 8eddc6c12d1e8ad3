"""The three changes of a disk: seal, unseal, re-key.

Each yields its pieces to :mod:`vmsec.sealing.transaction`. The numbers are
the steps of the design's flows (DESIGN 3.8).
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING, NamedTuple

from vmsec.crypto.aead import TAG_BYTES, ExtentCipher, TagError
from vmsec.crypto.context import SealContext, SealKeys, derive_seal_keys
from vmsec.errors import IntegrityError
from vmsec.sealing.header import (
    NOT_EMBEDDED,
    EmbeddedManifest,
    SealHeader,
)
from vmsec.sealing.manifest import (
    Manifest,
    ManifestStore,
    SealedExtent,
    blob_bytes,
    write_blob,
)
from vmsec.sealing.reader import read_ahead, read_nonzero
from vmsec.sealing.transaction import Direction, Marks, Piece

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vmsec.ondisk.extent import Extent, Level
    from vmsec.sealing.device import BlockDevice
    from vmsec.sealing.model import Progress
    from vmsec.secret import SecretBytes


class Cipher(NamedTuple):
    """The context of one seal with its keys and cipher."""

    context: SealContext
    keys: SealKeys
    extents: ExtentCipher


def make_cipher(vm_key: SecretBytes, context: SealContext) -> Cipher:
    """Derive the keys of a seal and make its cipher."""
    keys = derive_seal_keys(vm_key, context)
    return Cipher(context, keys, ExtentCipher(keys, context))


class _Sealing:
    """What seal and re-key share: encrypt, then manifest, then mark."""

    direction = Direction.TO_SEALED

    def __init__(
        self, device: BlockDevice, cipher: Cipher, store: ManifestStore | None
    ) -> None:
        self._device, self._cipher, self._store = device, cipher, store
        self._sealed: list[SealedExtent] = []
        self.manifest: Manifest | None = None
        self.blob = b""

    def again(self, offset: int, journalled: bytes) -> bytes:
        """Return the journalled bytes: they are what the disk gets."""
        del offset
        return journalled

    def _encrypt(
        self, extent: Extent, plain: memoryview, other: memoryview
    ) -> Piece:
        out = memoryview(bytearray(extent.length + TAG_BYTES))
        cipher = self._cipher.extents
        cipher.encrypt_into(extent.offset, extent.kind, plain, out)
        body, tag = out[:-TAG_BYTES], bytes(out[-TAG_BYTES:])
        digest = cipher.digest(extent.offset, plain)
        self._sealed.append(SealedExtent(extent, tag, digest))
        return Piece(extent.offset, body, body, other)

    def _finish(
        self, level: Level, lba0: bytes, place: tuple[int, int] | None
    ) -> Iterator[Piece]:
        """Make the manifest and yield its place in the disk."""
        self.manifest = Manifest(
            context=self._cipher.context,
            disk_bytes=self._device.size_bytes,
            sector_bytes=self._device.sector_bytes,
            level=level,
            lba0=lba0,
            embedded_at=place or (0, 0),
            extents=tuple(self._sealed),
        )
        self.blob = write_blob(self.manifest, self._cipher.keys)
        if place:
            padded = memoryview(self.blob.ljust(place[1], b"\0"))
            other = memoryview(self._device.read_at(*place))
            yield Piece(place[0], padded, padded, other)

    def _mark(self, manifest: Manifest) -> bytes:
        embedded = NOT_EMBEDDED
        if manifest.embedded_at[1]:
            digest = hashlib.sha256(self.blob).digest()
            embedded = EmbeddedManifest(
                manifest.embedded_at[0], len(self.blob), digest
            )
        header = SealHeader(
            self._cipher.context,
            manifest.level,
            manifest.disk_bytes,
            manifest.sector_bytes,
            embedded,
        )
        return header.pack(self._cipher.keys.header)

    def _settle(self, other: bytes) -> Marks:
        if self.manifest is None:
            raise RuntimeError("settle before the last piece")
        if self._store is not None:
            self._store.save(self.blob)
        return Marks(self._cipher.context, self._mark(self.manifest), other)


class SealPlan(NamedTuple):
    """What a seal does and what it waits for.

    ``find_place`` gives, for a length in bytes, (offset, padded length) of
    zeros outside every partition, or None. ``before_write`` is called when
    all is journalled and nothing written yet; what it raises ends the seal.
    """

    level: Level
    extents: tuple[Extent, ...]
    find_place: Callable[[int], tuple[int, int] | None]
    before_write: Callable[[], object]


class SealWork(_Sealing):
    """Seal a plain disk (steps 1.6 and 1.7).

    Args:
        device: The disk.
        cipher: The new seal.
        store: Where the manifest is kept besides the disk, made durable
            before the disk is touched.
        plan: What is sealed.
        progress: Called with bytes.
    """

    def __init__(
        self,
        device: BlockDevice,
        cipher: Cipher,
        store: ManifestStore | None,
        *,
        plan: SealPlan,
        progress: Progress,
    ) -> None:
        super().__init__(device, cipher, store)
        self._plan, self._progress = plan, progress
        self._lba0 = device.read_at(0, device.sector_bytes)

    @property
    def expected_bytes(self) -> int:
        """An upper bound of what is journalled, in bytes."""
        data = sum(
            length
            for extent in self._plan.extents
            for _, length in self._device.data_ranges(
                extent.offset, extent.length
            )
        )
        return data + blob_bytes(len(self._plan.extents))

    def pieces(self) -> Iterator[Piece]:
        """Yield the encrypted extents, then the manifest."""
        done, total = 0, sum(extent.length for extent in self._plan.extents)
        for extent, plain in read_nonzero(self._device, self._plan.extents):
            yield self._encrypt(extent, plain, plain)  # 1.7
            done += extent.length
            self._progress(done, total)
        place = self._plan.find_place(blob_bytes(len(self._sealed)))
        yield from self._finish(self._plan.level, self._lba0, place)

    def settle(self) -> Marks:
        """Keep the manifest outside; name LBA 0 before and after."""
        self._plan.before_write()
        return self._settle(self._lba0)


class UnsealWork:
    """Unseal a sealed disk by its manifest (steps 2.5 to 2.7).

    Every tag is checked before the first write.
    """

    direction = Direction.TO_PLAIN

    def __init__(
        self,
        device: BlockDevice,
        cipher: Cipher,
        manifest: Manifest,
        *,
        mark: bytes,
        progress: Progress,
    ) -> None:
        self._device, self._cipher, self._manifest = device, cipher, manifest
        self._mark, self._progress = mark, progress
        self._tags = {s.extent.offset: s for s in manifest.extents}

    @property
    def expected_bytes(self) -> int:
        """What is journalled, in bytes."""
        return self._manifest.sealed_bytes + self._manifest.embedded_at[1]

    def pieces(self) -> Iterator[Piece]:
        """Yield ciphertext and plaintext of every extent.

        Raises:
            IntegrityError: A tag is wrong (2.5).
        """
        done, total = 0, self._manifest.sealed_bytes
        for extent in read_ahead(self._device, self._manifest.places()):
            item = self._tags[extent.offset]
            found = open_either(self._device, self._cipher, item)
            old = found.sealed[:-TAG_BYTES]
            yield Piece(extent.offset, old, found.plain, found.plain)
            done += extent.length
            self._progress(done, total)
        offset, length = self._manifest.embedded_at
        if length:
            old = memoryview(self._device.read_at(offset, length))
            zeros = memoryview(bytes(length))
            yield Piece(offset, old, zeros, zeros)

    def settle(self) -> Marks:
        """Name LBA 0 before and after."""
        return Marks(self._cipher.context, self._mark, self._manifest.lba0)

    def again(self, offset: int, journalled: bytes) -> memoryview | bytes:
        """Decrypt once more from the journal.

        Raises:
            IntegrityError: The journal changed under us.
        """
        if offset == self._manifest.embedded_at[0]:
            return bytes(len(journalled))
        item = self._tags[offset]
        return _decrypt(
            self._cipher,
            item,
            memoryview(journalled + item.tag),
            self._device.name,
        )


class RekeyWork(_Sealing):
    """Re-encrypt a sealed disk; no plaintext leaves memory (DESIGN 3.9)."""

    def __init__(
        self,
        device: BlockDevice,
        cipher: Cipher,
        store: ManifestStore | None,
        *,
        old: Cipher,
        old_manifest: Manifest,
        old_mark: bytes,
        progress: Progress,
    ) -> None:
        super().__init__(device, cipher, store)
        self._old, self._before = old, old_manifest
        self._old_mark, self._progress = old_mark, progress

    @property
    def expected_bytes(self) -> int:
        """What is journalled, in bytes."""
        return self._before.sealed_bytes + self._before.embedded_at[1]

    def pieces(self) -> Iterator[Piece]:
        """Yield the extents under the new key, then the manifest.

        Raises:
            IntegrityError: A tag is wrong.
        """
        done, total = 0, self._before.sealed_bytes
        items = iter(self._before.extents)
        for extent in read_ahead(self._device, self._before.places()):
            found = open_either(self._device, self._old, next(items))
            yield self._encrypt(extent, found.plain, found.current)
            done += extent.length
            self._progress(done, total)
        place = self._before.embedded_at
        yield from self._finish(
            self._before.level,
            self._before.lba0,
            place if place[1] else None,
        )

    def settle(self) -> Marks:
        """Keep the new manifest outside; name LBA 0 before and after."""
        return self._settle(self._old_mark)


def open_extent(
    device: BlockDevice, cipher: Cipher, item: SealedExtent
) -> tuple[memoryview, memoryview]:
    """Read and decrypt one sealed extent.

    Returns:
        Ciphertext with its tag, and plaintext.

    Raises:
        IntegrityError: Wrong key or changed bytes.
    """
    length = item.extent.length
    sealed = memoryview(bytearray(length + TAG_BYTES))
    device.read_into(item.extent.offset, sealed[:length])
    sealed[length:] = item.tag
    return sealed, _decrypt(cipher, item, sealed, device.name)


class Opened(NamedTuple):
    """One extent of a disk that may be half sealed.

    ``current`` is what the disk holds; ``sealed`` the ciphertext and its tag.
    """

    current: memoryview
    sealed: memoryview
    plain: memoryview


def open_either(
    device: BlockDevice, cipher: Cipher, item: SealedExtent
) -> Opened:
    """Read one extent of a disk that may be half sealed.

    Copied while a seal ran, or parted from its hot journal, a disk has the
    mark and extents that are still plain: the manifest's keyed digest knows
    them. Sealed again they give the same ciphertext: nothing new is
    encrypted under their nonce, and no plaintext gets into the journal.

    Raises:
        IntegrityError: Neither sealed nor plain: wrong key or changed bytes.
    """
    try:
        sealed, plain = open_extent(device, cipher, item)
    except IntegrityError:
        offset, length, kind = item.extent
        plain = memoryview(device.read_at(offset, length))
        digest = cipher.extents.digest(offset, plain)
        if not hmac.compare_digest(digest, item.digest):
            raise
        sealed = memoryview(bytearray(length + TAG_BYTES))
        cipher.extents.encrypt_into(offset, kind, plain, sealed)
        return Opened(plain, sealed, plain)
    return Opened(sealed[:-TAG_BYTES], sealed, plain)


def _decrypt(
    cipher: Cipher, item: SealedExtent, sealed: memoryview, target: str
) -> memoryview:
    plain = memoryview(bytearray(item.extent.length))
    offset, _, kind = item.extent
    try:
        cipher.extents.decrypt_into(offset, kind, sealed, plain)
    except TagError as err:
        raise IntegrityError(target) from err
    return plain
