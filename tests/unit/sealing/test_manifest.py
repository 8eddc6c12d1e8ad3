"""Manifests: one form, bound to their seal, strict when read."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmsec.crypto.context import SealContext, derive_seal_keys
from vmsec.errors import ManifestError
from vmsec.ondisk.extent import Extent, Level, MetadataClass
from vmsec.sealing import manifest as manifest_module
from vmsec.sealing.manifest import (
    Manifest,
    SealedExtent,
    TagError,
    blob_bytes,
    read_blob,
    read_context,
    write_blob,
)
from vmsec.secret import SecretBytes

if TYPE_CHECKING:
    from typing import Any

CONTEXT = SealContext(UUID(int=1), UUID(int=2), 3, 4, b"s" * 16)
PLACE = (1 << 29, 4096)
KEYS = derive_seal_keys(SecretBytes(bytes(32)), CONTEXT)


def _manifest(extents: list[Extent], sector: int = 512) -> Manifest:
    sealed = tuple(SealedExtent(e, b"t" * 16, b"d" * 16) for e in extents)
    lba0 = b"L" * sector
    return Manifest(
        CONTEXT, 1 << 30, sector, Level.METADATA, lba0, PLACE, sealed
    )


@given(st.integers(0, 300))
def test_what_is_written_is_read(count: int) -> None:
    kinds = list(MetadataClass)
    extents = [
        Extent(4096 * (n + 1), 4096, kinds[n % len(kinds)])
        for n in range(count)
    ]
    manifest = _manifest(extents)
    blob = write_blob(manifest, KEYS)
    assert len(blob) <= blob_bytes(count)
    assert read_context(blob) == CONTEXT
    assert read_blob(blob + bytes(500), CONTEXT, KEYS) == manifest


BLOB = write_blob(_manifest([Extent(4096, 4096, MetadataClass.JOURNAL)]), KEYS)


@given(st.integers(0, len(BLOB) - 1), st.integers(0, 7))
def test_no_flipped_bit_is_accepted(byte: int, bit: int) -> None:
    blob = bytearray(BLOB)
    blob[byte] ^= 1 << bit
    with pytest.raises((ManifestError, TagError)):
        read_blob(bytes(blob), CONTEXT, KEYS)


@given(st.integers(0, len(BLOB) - 1))
def test_cut_short(length: int) -> None:
    with pytest.raises((ManifestError, TagError)):
        read_blob(BLOB[:length], CONTEXT, KEYS)


@given(st.binary(max_size=400))
def test_garbage(blob: bytes) -> None:
    with pytest.raises(ManifestError):
        read_context(blob)


@pytest.mark.parametrize(
    "extents",
    [
        [Extent(4096, 8192, MetadataClass.MFT)] * 2,
        [Extent(1 << 30, 4096, MetadataClass.MFT)],
        [Extent(4096, 0, MetadataClass.MFT)],
        [Extent(4096, (1 << 20) + 1, MetadataClass.MFT)],
        [Extent(0, 4096, MetadataClass.MFT)],
        [Extent(508, 4096, MetadataClass.MFT)],
        [Extent(PLACE[0], 4096, MetadataClass.MFT)],
        [Extent(PLACE[0] - 4096, 8192, MetadataClass.MFT)],
    ],
)
def test_an_authentic_but_wrong_manifest_is_refused(
    extents: list[Extent],
) -> None:
    """The writer is authentic, not trusted: overlaps, bounds, lengths."""
    blob = write_blob(_manifest(extents), KEYS)
    with pytest.raises(ManifestError):
        read_blob(blob, CONTEXT, KEYS)


@pytest.mark.parametrize(
    "place",
    [
        (4096, 4096),  # on an extent
        (0, 4096),  # on LBA 0
        (1 << 30, 4096),  # behind the disk
        ((1 << 30) - 4096, 8192),
        (8192, 0),
        (-4096, 4096),
        (8192, 1 << 40),
        ("8192", 4096),
        (8192, None),
        (8192, 4096, 1),
        (),
    ],
)
def test_an_embedded_copy_lies_in_a_place_of_its_own(place: Any) -> None:
    """Elsewhere unsealing would zero what it has just restored."""
    whole = _manifest([Extent(4096, 4096, MetadataClass.MFT)])
    blob = write_blob(whole._replace(embedded_at=place), KEYS)
    with pytest.raises(ManifestError):
        read_blob(blob, CONTEXT, KEYS)


def test_what_no_reader_takes_is_not_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A disk sealed under such a manifest could not be unsealed."""
    monkeypatch.setattr(manifest_module, "MAX_MANIFEST_BYTES", 1000)
    with pytest.raises(ManifestError, match="too long"):
        write_blob(
            _manifest(
                [Extent(4096 * n, 4096, MetadataClass.MFT) for n in range(99)]
            ),
            KEYS,
        )
