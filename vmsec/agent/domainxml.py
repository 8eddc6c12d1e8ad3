"""What the agent takes from a domain's XML: who it is, and which disks.

The XML comes from libvirt, but what it says comes from whoever may define
domains: it is parsed without entities, document types or network, and with a
limit on its size. Nothing is guessed: a disk whose format the XML does not
say is refused, never probed (a raw disk's guest can write a qcow2 header and
so point a prober at any file of the host).

A disk is *protected*, *excluded* with a reason (DESIGN 3.2), or *refused*,
which stops the start of a protected VM.

Source:
    https://libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID

from lxml import etree

from vmsec.errors import LimitExceededError, SchemaError

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_XML_BYTES = 4 << 20
"""Real domains have 4 to 40 KiB; a thousand disks are below 1 MiB."""

MAX_DISKS = 1024
"""QEMU's PCI and SCSI buses hold fewer virtio disks than this."""

FORMATS: Final = frozenset({"raw", "qcow2"})
"""Driver types that the sealing engine writes."""

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class ProtectedDisk(NamedTuple):
    """A disk that is sealed while its VM is off.

    ``target`` is the guest's name for it (``vda``), for display only;
    ``path`` the top image, never its backing chain; ``format`` ``raw`` or
    ``qcow2``.
    """

    target: str
    path: Path
    format: str


class SkippedDisk(NamedTuple):
    """A disk that is left alone, or refused, and why."""

    target: str
    reason: str


class Domain(NamedTuple):
    """One domain, as far as the agent cares."""

    uuid: UUID
    name: str
    disks: tuple[ProtectedDisk, ...]
    excluded: tuple[SkippedDisk, ...]
    refused: tuple[SkippedDisk, ...]


def parse_domain(xml: bytes) -> Domain:
    """Read a domain's XML.

    Args:
        xml: The whole document, as the hook or libvirt gave it.

    Raises:
        LimitExceededError: Too long, or too many disks.
        SchemaError: Not well formed, has a document type, or is no domain
            with a UUID and a name.
    """
    if len(xml) > MAX_XML_BYTES:
        raise LimitExceededError(
            f"domain XML: {len(xml)} bytes are more than {MAX_XML_BYTES}"
        )
    root = _parse(xml)
    uuid, name = _identity(root)
    elements = root.findall("./devices/disk")
    if len(elements) > MAX_DISKS:
        raise LimitExceededError(f"domain {name}: more than {MAX_DISKS} disks")
    disks: list[ProtectedDisk] = []
    excluded: list[SkippedDisk] = []
    refused: list[SkippedDisk] = []
    for element in elements:
        _sort_disk(element, disks, excluded, refused)
    return Domain(uuid, name, tuple(disks), tuple(excluded), tuple(refused))


def _parse(xml: bytes) -> etree._Element:
    """Parse without entities, document types or network."""
    parser = etree.XMLParser(
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        dtd_validation=False,
        attribute_defaults=False,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )
    try:
        root = etree.fromstring(xml, parser)
    except (etree.XMLSyntaxError, ValueError) as err:
        raise SchemaError(f"domain XML: not well formed ({err})") from err
    docinfo = root.getroottree().docinfo
    if docinfo is None or docinfo.internalDTD is not None:
        raise SchemaError("domain XML: has a document type")
    return root


def _identity(root: etree._Element) -> tuple[UUID, str]:
    """Take UUID and name."""
    if root.tag != "domain":
        raise SchemaError("domain XML: its root element is not <domain>")
    uuid = (root.findtext("uuid") or "").strip().lower()
    name = (root.findtext("name") or "").strip()
    if not _UUID.fullmatch(uuid):
        raise SchemaError("domain XML: no valid <uuid>")
    if not name:
        raise SchemaError("domain XML: no <name>")
    return UUID(uuid), name


def _sort_disk(
    element: etree._Element,
    disks: list[ProtectedDisk],
    excluded: list[SkippedDisk],
    refused: list[SkippedDisk],
) -> None:
    """Put one ``<disk>`` where it belongs."""
    target = _attribute(element, "target", "dev") or "?"
    for applies, reason in _EXCLUSIONS:
        if applies(element):
            excluded.append(SkippedDisk(target, reason))
            return
    kind = _attribute(element, "driver", "type")
    path = Path(_source_path(element))
    if not kind:
        reason = f"{path}: its XML has no driver type; write type='raw' there"
        refused.append(SkippedDisk(target, reason))
    elif not path.is_absolute():
        reason = f"{path}: the source is not an absolute path"
        refused.append(SkippedDisk(target, reason))
    elif kind not in FORMATS:
        reason = f"the image format {kind!r} is not supported yet"
        excluded.append(SkippedDisk(target, reason))
    else:
        disks.append(ProtectedDisk(target, path, kind))


def _attribute(element: etree._Element, child: str, name: str) -> str:
    """Return an attribute of a child element, or an empty text."""
    found = element.find(child)
    return "" if found is None else (found.get(name) or "")


def _source_path(element: etree._Element) -> str:
    """Return the file or device of a disk, or an empty text."""
    return _attribute(element, "source", "file") or _attribute(
        element, "source", "dev"
    )


def _has(child: str) -> Callable[[etree._Element], bool]:
    """Return a predicate: the disk has such a child element."""
    return lambda element: element.find(child) is not None


def _is_device(*names: str) -> Callable[[etree._Element], bool]:
    """Return a predicate: the disk is such a device."""
    return lambda element: (element.get("device") or "disk") in names


def _is_named(*names: str) -> Callable[[etree._Element], bool]:
    """Return a predicate: the source file has such a name."""
    return lambda element: Path(_source_path(element)).name in names


# DESIGN 3.2. The order is that of the reasons which help most.
_EXCLUSIONS: Final[
    tuple[tuple[Callable[[etree._Element], bool], str], ...]
] = (
    (_is_device("cdrom"), "a CD-ROM"),
    (_is_device("floppy"), "a floppy"),
    (_is_device("lun"), "passed through as a SCSI device"),
    (_has("readonly"), "read-only"),
    (_has("shareable"), "shared with other VMs"),
    (_has("transient"), "transient: its changes are thrown away"),
    # os-brick formats a volume on which it finds no LUKS header.
    (_has("encryption"), "carries its own encryption"),
    (_has("source/encryption"), "carries its own encryption"),
    (_has("source/slices"), "only a slice of its source"),
    (
        lambda element: element.get("type", "file") not in ("file", "block"),
        "its source is neither a file nor a block device of this host",
    ),
    (lambda element: not _source_path(element), "has no source"),
    (_is_named("disk.config"), "nova's config drive"),
    (_is_named("disk.rescue"), "nova's rescue disk"),
)
