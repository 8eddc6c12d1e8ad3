"""Every label that separates one derived key from another, in one place."""

from __future__ import annotations

import enum


class Label(enum.StrEnum):
    """HKDF ``info`` prefixes. A label is never used for two purposes."""

    EXTENT_DATA = "vmsec extent data v1"
    """AES-256-GCM over the extents."""
    EXTENT_DIGEST = "vmsec extent digest v1"
    """GMAC over the plaintext of the extents."""
    MANIFEST = "vmsec manifest v1"
    """AES-256-GCM over the manifest."""
    HEADER = "vmsec header v1"
    """HMAC-SHA256 over the seal header."""
