"""Which disks of a domain are protected; what hostile XML cannot do."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmsec.agent.domainxml import (
    MAX_DISKS,
    MAX_XML_BYTES,
    Domain,
    parse_domain,
)
from vmsec.errors import LimitExceededError, SchemaError

UUID_TEXT = "1c9b7a3e-5d2f-4e6b-8a90-7f1e2d3c4b5a"
SOURCE = "<source file='/images/disk'/><target dev='vda'/>"
RAW = "<driver name='qemu' type='raw'/>"


def parse(disks: str, *, uuid: str = UUID_TEXT, name: str = "vm") -> Domain:
    text = (
        f"<domain type='qemu' id='3'><name>{name}</name><uuid>{uuid}</uuid>"
        f"<devices>{disks}</devices></domain>"
    )
    return parse_domain(text.encode())


def disk(inner: str, attributes: str = "type='file' device='disk'") -> str:
    return f"<disk {attributes}>{inner}</disk>"


def test_ordinary_disk_is_protected_with_its_declared_format() -> None:
    domain = parse(
        disk(SOURCE + RAW)
        + disk(
            "<driver type='qcow2'/><source dev='/dev/vg/lv'/>"
            "<target dev='vdb'/>",
            "type='block'",
        )
    )
    assert str(domain.uuid) == UUID_TEXT
    assert [tuple(item) for item in domain.disks] == [
        ("vda", Path("/images/disk"), "raw"),
        ("vdb", Path("/dev/vg/lv"), "qcow2"),
    ]
    assert not domain.excluded
    assert not domain.refused


def test_only_the_top_image_counts_never_its_backing_chain() -> None:
    chain = (
        "<backingStore type='file'><format type='raw'/>"
        "<source file='/images/_base/x'/></backingStore>"
    )
    domain = parse(disk("<driver type='qcow2'/>" + SOURCE + chain))
    assert [item.path for item in domain.disks] == [Path("/images/disk")]


@pytest.mark.parametrize(
    ("xml", "reason"),
    [
        (disk(SOURCE + RAW, "type='file' device='cdrom'"), "CD-ROM"),
        (disk(SOURCE + RAW, "type='file' device='floppy'"), "floppy"),
        (disk(SOURCE + RAW, "type='block' device='lun'"), "SCSI"),
        (disk(SOURCE + RAW + "<readonly/>"), "read-only"),
        (disk(SOURCE + RAW + "<shareable/>"), "shared"),
        (disk(SOURCE + RAW + "<transient/>"), "transient"),
        (disk(SOURCE + RAW + "<encryption format='luks'/>"), "encryption"),
        (
            disk(
                "<source file='/a'><encryption format='luks'/></source>" + RAW
            ),
            "encryption",
        ),
        (disk("<source file='/a'><slices/></source>" + RAW), "slice"),
        (
            disk(
                "<source protocol='rbd' name='p/i'/>" + RAW, "type='network'"
            ),
            "neither a file nor",
        ),
        (disk(RAW), "no source"),
        (disk("<driver type='vmdk'/>" + SOURCE), "not supported"),
        (disk("<source file='/i/disk.config'/>" + RAW), "config drive"),
        (disk("<source file='/i/disk.rescue'/>" + RAW), "rescue"),
    ],
)
def test_disk_is_excluded_with_its_reason(xml: str, reason: str) -> None:
    domain = parse(xml)
    assert not domain.disks
    assert not domain.refused
    assert reason in domain.excluded[0].reason


def test_disk_without_a_declared_format_is_refused_never_probed() -> None:
    domain = parse(disk(SOURCE))
    assert not domain.disks
    assert "driver type" in domain.refused[0].reason


def test_relative_source_is_refused() -> None:
    domain = parse(disk(RAW + "<source file='images/disk'/>"))
    assert not domain.disks
    assert "absolute" in domain.refused[0].reason


@pytest.mark.parametrize(
    "xml",
    [
        b"",
        b"<domain>",
        b"\x00\xff\xfe",
        b"<domain xmlns='x'><name>a</name></domain>",
        f"<network><uuid>{UUID_TEXT}</uuid></network>".encode(),
        b"<domain><name>vm</name></domain>",
        b"<domain><name>vm</name><uuid>../../etc/passwd</uuid></domain>",
        f"<domain><uuid>{UUID_TEXT}</uuid></domain>".encode(),
    ],
)
def test_what_is_no_domain_is_refused(xml: bytes) -> None:
    with pytest.raises(SchemaError):
        parse_domain(xml)


def test_uuid_deeper_in_the_document_is_not_the_domains() -> None:
    xml = (
        f"<domain><metadata><uuid>{UUID_TEXT}</uuid></metadata>"
        "<name>vm</name></domain>"
    )
    with pytest.raises(SchemaError):
        parse_domain(xml.encode())


@pytest.mark.parametrize(
    "doctype",
    [
        "<!DOCTYPE domain>",
        "<!DOCTYPE domain SYSTEM 'file:///etc/passwd'>",
        "<!DOCTYPE d [<!ENTITY x SYSTEM 'file:///etc/passwd'>]>",
        "<!DOCTYPE d [<!ENTITY a 'aaaa'><!ENTITY b '&a;&a;&a;&a;'>]>",
    ],
)
def test_document_types_and_entities_are_refused(doctype: str) -> None:
    xml = f"{doctype}<domain><name>vm</name><uuid>{UUID_TEXT}</uuid></domain>"
    with pytest.raises(SchemaError):
        parse_domain(xml.encode())


def test_long_xml_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(LimitExceededError):
        parse_domain(b"<" * (MAX_XML_BYTES + 1))


def test_more_disks_than_buses_hold_are_refused() -> None:
    with pytest.raises(LimitExceededError):
        parse(disk(SOURCE + RAW) * (MAX_DISKS + 1))
