"""Seal, unseal, re-key, verify and recover disk images.

The functions are the whole of what agents and the command line use. Each
opens the image, holds its lock to the end and leaves the disk wholly plain or
wholly sealed; after a crash the next call (or :func:`recover_image`) finishes
first. The numbers in the code are the steps of DESIGN 3.8.

Example::

    image = ImageRef(Path("disk.raw"))
    identity = SealIdentity(vm, disk, generation=1, key_version=1)
    report = seal_image(image, identity, key, settings=SealSettings(),
                        manifests=None)
"""

from __future__ import annotations

import contextlib
import os
import time
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from vmsec.crypto.context import SALT_BYTES, SealContext
from vmsec.errors import (
    AlreadySealedError,
    CorruptImageError,
    ForeignImageError,
    HeaderError,
    ManifestError,
    NotSealedError,
    UnsupportedFormatError,
)
from vmsec.ondisk.layout import read_layout
from vmsec.ondisk.probe import Status
from vmsec.sealing.header import (
    SealHeader,
    is_marked,
    parse_header,
    verify_header,
)
from vmsec.sealing.image import (
    MIN_DISK_BYTES,
    open_device,
    open_journal,
    resolve,
)
from vmsec.sealing.labelcheck import SecondReader
from vmsec.sealing.manifest import (
    Manifest,
    ManifestStore,
    TagError,
    read_blob,
)
from vmsec.sealing.model import (
    ImageRef,
    KeySource,
    Progress,
    RecoveryReport,
    SealIdentity,
    SealReport,
    SealSettings,
)
from vmsec.sealing.overwrite import require_overwritable
from vmsec.sealing.placement import find_place, holds_orphan
from vmsec.sealing.plan import plan_extents
from vmsec.sealing.transaction import Recovery, recover, run
from vmsec.sealing.work import (
    Cipher,
    RekeyWork,
    SealPlan,
    SealWork,
    UnsealWork,
    make_cipher,
    open_extent,
)
from vmsec.units import SEAL_BLOCK_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from uuid import UUID

    from vmsec.ondisk.extent import Extent
    from vmsec.ondisk.layout import DiskLayout
    from vmsec.sealing.device import BlockDevice, FileDevice
    from vmsec.sealing.journalfile import FileJournal
    from vmsec.secret import SecretBytes


def _silent(done: int, total: int) -> None:
    """Report nothing."""


@contextlib.contextmanager
def _opened(
    image: ImageRef, settings: SealSettings
) -> Iterator[tuple[FileDevice, FileJournal, Recovery]]:
    """Open an image for a change and finish what a crash interrupted."""
    image = resolve(image)
    journal = open_journal(image, settings)
    with open_device(image, writable=True) as device:
        yield device, journal, recover(device, journal)  # 1.3, 2.3


def read_mark(device: BlockDevice) -> bytes:
    """Return the block with LBA 0.

    Raises:
        CorruptImageError: The device does not even hold that.
    """
    size = min(SEAL_BLOCK_BYTES, device.size_bytes)
    if size < SEAL_BLOCK_BYTES:
        raise CorruptImageError(f"{device.name}: too small to be a disk")
    return device.read_at(0, size)


def seal_image(
    image: ImageRef,
    identity: SealIdentity,
    key: SecretBytes,
    *,
    settings: SealSettings,
    manifests: ManifestStore | None,
    progress: Progress = _silent,
) -> SealReport:
    """Seal a plain disk.

    Args:
        image: The disk; no guest runs on it.
        identity: Under which name; the generation is fresh and durable.
        key: The VM's key, 32 bytes.
        settings: Level, journal place, fallback.
        manifests: Where copies of the manifest go, made durable before the
            disk is touched; None: the disk alone must be able to hold it.
        progress: Called with bytes.

    Raises:
        AlreadySealedError: It bears a mark (1.4); nothing was changed.
        FormatError: It cannot be read with certainty; nothing was changed.
        ManifestError: It cannot hold the manifest and ``manifests`` is None.
        ImageBusyError, ImageFullError, ImageIOError: As they say.

    Crash:
        The next operation finds the disk wholly plain or wholly sealed.
    """
    begin = time.monotonic()
    with _opened(image, settings) as (device, journal, _):
        require_plain(device)  # 1.4
        require_overwritable(image)
        with SecondReader(str(device.path)) as second:
            # It reads beside us; the first write waits for what it says.
            layout = read_layout(device)  # 1.2
            _require_own_content(layout, device.name)
            context = SealContext(*identity, os.urandom(SALT_BYTES))
            extents = plan_extents(
                layout, settings.level, settings.fallback_bytes
            )
            place = _place_finder(device, layout, extents, manifests)
            check = partial(second.require_same, layout)
            work = SealWork(
                device,
                make_cipher(key, context),
                manifests,
                plan=SealPlan(settings.level, extents, place, check),
                progress=progress,
            )
            run(device, journal, work)  # 1.6, 1.7
    return _report(work.manifest, begin, work.blob)


def _place_finder(
    device: FileDevice,
    layout: DiskLayout,
    extents: tuple[Extent, ...],
    manifests: ManifestStore | None,
) -> Callable[[int], tuple[int, int] | None]:
    """Return what finds room in the disk for a manifest of a given length."""

    def place(length: int) -> tuple[int, int] | None:
        found = find_place(device, layout, extents, length)
        if found is None and manifests is None:
            raise ManifestError(
                f"{device.name}: no room for the manifest in the disk; give "
                "a place for it outside"
            )
        return found

    return place


def _require_own_content(layout: DiskLayout, target: str) -> None:
    """Refuse a disk that as a whole carries its own encryption (DESIGN 3.2).

    Overwriting LBA 0 of such a volume makes volume managers format it anew.
    """
    for part in layout.partitions:
        if part.number == 0 and part.status is Status.ENCRYPTED:
            raise UnsupportedFormatError(
                f"{target}: carries its own encryption ({part.note}); leave "
                "it out of protection"
            )


def require_plain(device: FileDevice) -> None:
    """Check that a disk bears neither a mark nor what a lost one left.

    Raises:
        AlreadySealedError: It bears a mark.
        CorruptImageError: It is too small.
        HeaderError: It was sealed and its LBA 0 then overwritten.
    """
    if device.size_bytes < MIN_DISK_BYTES:
        raise CorruptImageError(f"{device.name}: too small to be a disk")
    lba0 = read_mark(device)
    if is_marked(lba0):
        header = parse_header(lba0, target=device.name)
        raise AlreadySealedError(
            f"{device.name}: sealed already for VM {header.context.vm}, "
            f"generation {header.context.generation}"
        )
    if holds_orphan(device):
        raise HeaderError(
            f"{device.name}: holds a manifest of vmsec but no mark in LBA 0; "
            "it was sealed and then overwritten; restore LBA 0 from a copy"
        )


def _report(
    manifest: Manifest | None, begin: float, blob: bytes = b""
) -> SealReport:
    if manifest is None:
        raise RuntimeError("no manifest after the transaction")
    context = manifest.context
    return SealReport(
        vm=context.vm,
        disk=context.disk,
        generation=context.generation,
        key_version=context.key_version,
        level=manifest.level,
        extents=len(manifest.extents) + 1,
        sealed_bytes=manifest.sealed_bytes,
        disk_bytes=manifest.disk_bytes,
        seconds=time.monotonic() - begin,
        classes=manifest.classes(),
        manifest=blob,
        embedded=bool(manifest.embedded_at[1]),
    )


class SealedDisk(NamedTuple):
    """A sealed disk whose mark and manifest were verified."""

    mark: bytes
    header: SealHeader
    cipher: Cipher
    manifest: Manifest


def open_sealed(
    device: FileDevice,
    vm: UUID | None,
    keys: KeySource,
    manifests: ManifestStore | None,
) -> SealedDisk:
    """Find and verify mark and manifest (2.1, 2.2, 2.4); writes nothing.

    Raises:
        NotSealedError, HeaderError, ForeignImageError, IntegrityError,
        ManifestError: As they say; nothing was changed.
    """
    lba0 = read_mark(device)
    if not is_marked(lba0):
        raise NotSealedError(f"{device.name}: not sealed by vmsec")
    header = parse_header(lba0, target=device.name)
    context = header.context
    if vm is not None and context.vm != vm:
        raise ForeignImageError(
            f"{device.name}: sealed for VM {context.vm}, not for {vm}; start "
            "it under its own UUID"
        )
    if header.disk_bytes > device.size_bytes:
        raise CorruptImageError(
            f"{device.name}: has {device.size_bytes} bytes, had "
            f"{header.disk_bytes} when it was sealed; it was truncated"
        )
    cipher = make_cipher(keys(context.vm, context.key_version), context)
    verify_header(lba0, header, cipher.keys.header, target=device.name)
    manifest = _find_manifest(device, header, cipher, manifests)
    return SealedDisk(lba0[: header.sector_bytes], header, cipher, manifest)


def _find_manifest(
    device: FileDevice,
    header: SealHeader,
    cipher: Cipher,
    manifests: ManifestStore | None,
) -> Manifest:
    """Take the first copy that verifies: in the disk, then outside."""
    blobs = []
    if header.manifest.length:
        place = header.manifest
        blobs.append(device.read_at(place.offset, place.length))
    tried = 0
    for blob in _chain(blobs, manifests):
        tried += 1
        try:
            return read_blob(blob, cipher.context, cipher.keys)
        except (ManifestError, TagError):
            continue  # a damaged copy: the next one may be whole
    raise ManifestError(
        f"{device.name}: no usable manifest among {tried} copies; fetch the "
        "KMC's copy of this disk and generation"
    )


def _chain(
    blobs: list[bytes], manifests: ManifestStore | None
) -> Iterator[bytes]:
    yield from blobs
    if manifests is not None:
        yield from manifests.candidates()


def unseal_image(
    image: ImageRef,
    *,
    vm: UUID | None,
    keys: KeySource,
    settings: SealSettings,
    manifests: ManifestStore | None,
    progress: Progress = _silent,
) -> SealReport:
    """Make a sealed disk byte for byte what it was before.

    Args:
        image: The disk.
        vm: Whose it must be; None: whoever's the mark says.
        keys: Where the VM's key comes from.
        settings: Journal place (the level is the manifest's).
        manifests: Where copies of the manifest are, besides the disk.
        progress: Called with bytes.

    Raises:
        NotSealedError: It bears no mark (2.4).
        IntegrityError: Wrong key, or something was changed (2.5); the disk is
            as it was.
        ForeignImageError, HeaderError, ManifestError: As they say.
        ImageBusyError, ImageFullError, ImageIOError: As they say.

    Crash:
        The next operation finds the disk wholly sealed or wholly plain.
    """
    begin = time.monotonic()
    with _opened(image, settings) as (device, journal, _):
        sealed = open_sealed(device, vm, keys, manifests)
        work = UnsealWork(
            device,
            sealed.cipher,
            sealed.manifest,
            mark=sealed.mark,
            progress=progress,
        )
        run(device, journal, work)  # 2.5, 2.6, 2.7
    return _report(sealed.manifest, begin)


def rekey_image(
    image: ImageRef,
    identity: SealIdentity,
    *,
    keys: KeySource,
    settings: SealSettings,
    manifests: ManifestStore | None,
    progress: Progress = _silent,
) -> SealReport:
    """Re-encrypt a sealed disk under another key version and generation.

    Args:
        image: The sealed disk.
        identity: The new name; its VM is the one that the mark names.
        keys: Gives both the old and the new key version.
        settings: Journal place.
        manifests: As for :func:`seal_image`.
        progress: Called with bytes.

    Raises:
        As :func:`unseal_image`; the disk is as it was.

    Crash:
        The next operation finds the disk wholly under the old or wholly
        under the new key; no plaintext was written anywhere.
    """
    begin = time.monotonic()
    with _opened(image, settings) as (device, journal, _):
        old = open_sealed(device, identity.vm, keys, manifests)
        context = SealContext(*identity, os.urandom(SALT_BYTES))
        key = keys(identity.vm, identity.key_version)
        work = RekeyWork(
            device,
            make_cipher(key, context),
            manifests,
            old=old.cipher,
            old_manifest=old.manifest,
            old_mark=old.mark,
            progress=progress,
        )
        run(device, journal, work)
    return _report(work.manifest, begin, work.blob)


def verify_image(
    image: ImageRef,
    *,
    keys: KeySource,
    settings: SealSettings,
    manifests: ManifestStore | None,
    progress: Progress = _silent,
) -> SealReport:
    """Check mark, manifest and every tag of a sealed disk; writes nothing.

    An interrupted operation is finished first, as before any other.

    Raises:
        As :func:`unseal_image`.
    """
    begin = time.monotonic()
    with _opened(image, settings) as (device, _, _):
        sealed = open_sealed(device, None, keys, manifests)
        done, total = 0, sealed.manifest.sealed_bytes
        for item in sealed.manifest.extents:
            open_extent(device, sealed.cipher, item)
            done += item.extent.length
            progress(done, total)
    return _report(sealed.manifest, begin)


def recover_image(
    image: ImageRef, *, settings: SealSettings
) -> RecoveryReport:
    """Finish or undo what a crash interrupted; needs no key, may run twice.

    Raises:
        StaleJournalError, JournalCorruptError: Nothing is changed.
    """
    with _opened(image, settings) as (device, _, action):
        marked = is_marked(read_mark(device))
        return RecoveryReport(
            action=action, state="sealed" if marked else "plain"
        )


def roll_back_image(
    image: ImageRef,
    *,
    vm: UUID | None,
    keys: KeySource,
    settings: SealSettings,
    manifests: ManifestStore | None,
) -> SealReport | None:
    """Undo an interrupted seal, to the plain state; a deliberate act.

    Recovery first makes the disk wholly sealed, then the key unseals it.

    Returns:
        The unsealing's report; None if the disk was plain already.
    """
    if recover_image(image, settings=settings).state == "plain":
        return None
    return unseal_image(
        image, vm=vm, keys=keys, settings=settings, manifests=manifests
    )
