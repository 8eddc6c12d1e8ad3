"""The hook's wire against hostile bytes, and its decision when alone."""

from __future__ import annotations

import io
import json
import struct
from typing import TYPE_CHECKING, Any

import pytest

from vmsec.agent import hookwire
from vmsec.agent.hookwire import HookAnswer, HookRequest, WireError
from vmsec.sealing import header

if TYPE_CHECKING:
    from pathlib import Path

UUID_TEXT = "1c9b7a3e-5d2f-4e6b-8a90-7f1e2d3c4b5a"
REQUEST = HookRequest("vm", "prepare", "begin", "-", "<domain/>")
MARK = bytes(256) + header.MAGIC + bytes(248)


def domain(path: Path | str, kind: str = "raw", uuid: str = UUID_TEXT) -> str:
    return (
        f"<domain><name>vm</name><uuid>{uuid}</uuid><devices><disk>"
        f"<driver type='{kind}'/><source file='{path}'/></disk></devices>"
        "</domain>"
    )


def decide(state: Path, xml: str) -> str:
    return hookwire.decide_alone(str(state), "/run/agent.sock", xml, "why")


def test_request_comes_back_as_it_went() -> None:
    odd = HookRequest("nämë", "prepare", "begin", "-", "\udcff\n\x00<a/>")
    frame = hookwire.pack_frame(hookwire.request_to_dict(odd))
    value = hookwire.read_frame(io.BytesIO(frame))
    assert hookwire.request_from_dict(value) == odd


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0",
        b"\0\0\0\5{}",
        b"\xff\xff\xff\xff",
        b"\0\0\0\2[]",
        b"\0\0\0\2\xff\xfe",
        struct.pack(">I", 200_000) + b"[" * 200_000,
        b"\0\0\0\4null",
    ],
)
def test_hostile_frames_are_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        hookwire.read_frame(io.BytesIO(data))


def test_announced_length_alone_allocates_nothing() -> None:
    huge = struct.pack(">I", hookwire.MAX_FRAME_BYTES + 1)
    with pytest.raises(WireError, match="too long"):
        hookwire.read_frame(io.BytesIO(huge))


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"version": "1"},
        {"name": 1},
        {"xml": None},
        {"more": "x"},
        {"xml": "x" * (hookwire.MAX_XML_BYTES + 1)},
    ],
)
def test_hostile_requests_are_refused(change: dict[str, Any]) -> None:
    value = hookwire.request_to_dict(REQUEST) | change
    with pytest.raises(WireError):
        hookwire.request_from_dict(value)


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"status": 2, "message": ""},
        {"status": 0},
        {"status": None, "message": ""},
        {"status": 0, "message": 5},
    ],
)
def test_hostile_answers_are_refused(value: dict[str, Any]) -> None:
    with pytest.raises(WireError):
        hookwire.answer_from_dict(value)


def test_answer_is_one_printable_line_whatever_it_says() -> None:
    text = "a\nb\r\x1b[31mc\0" + "x" * 9000
    answer = hookwire.answer_from_dict({"status": 1, "message": text})
    assert answer.message.isprintable()
    assert len(answer.message) <= hookwire.MAX_LINE


def test_mark_is_that_of_the_sealing_engine() -> None:
    assert header.MAGIC == hookwire.MARK_MAGIC
    assert header.STUB.startswith(hookwire.MARK_STUB)
    for lba0 in (MARK, header.STUB.ljust(512, b"\0"), bytes(512), b""):
        assert hookwire.is_marked(lba0) == header.is_marked(lba0)


def test_alone_an_unprotected_vm_starts(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(4096))
    assert decide(tmp_path, domain(disk)) == ""
    assert decide(tmp_path, domain(tmp_path / "missing")) == ""


def test_alone_a_protected_vm_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "protected").mkdir()
    (tmp_path / "protected" / UUID_TEXT).touch()
    refusal = decide(tmp_path, domain("/none", uuid=UUID_TEXT.upper()))
    assert "is protected" in refusal
    assert "systemctl start vmsec-agent" in refusal


def test_alone_a_sealed_raw_disk_does_not_start(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(MARK)
    assert f"{disk} is sealed" in decide(tmp_path, domain(disk))


def qcow2(lba0: bytes, *, flags: int = 0) -> bytes:
    """A qcow2 whose first cluster is at 192 KiB, as QEMU writes them."""
    image = bytearray(256 << 10)
    image[:4] = b"QFI\xfb"
    struct.pack_into(">Q", image, 40, 64 << 10)
    struct.pack_into(">Q", image, 64 << 10, 128 << 10 | 1 << 63)
    struct.pack_into(">Q", image, 128 << 10, 192 << 10 | 1 << 63 | flags)
    image[192 << 10 : (192 << 10) + len(lba0)] = lba0
    return bytes(image)


def test_alone_a_sealed_qcow2_disk_does_not_start(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(qcow2(MARK))
    assert "is sealed" in decide(tmp_path, domain(disk, "qcow2"))
    disk.write_bytes(qcow2(bytes(512)))
    assert decide(tmp_path, domain(disk, "qcow2")) == ""


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"QFI\xfb",
        b"QFI\xfb".ljust(48, b"\xff"),
        qcow2(MARK)[:100],
        qcow2(MARK, flags=1 << 62),
        MARK,
    ],
)
def test_hostile_qcow2_reads_as_empty(tmp_path: Path, data: bytes) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(data)
    sector = hookwire.read_first_sector("qcow2", str(disk))
    assert not hookwire.is_marked(sector)


@pytest.mark.parametrize(
    "xml",
    [
        "",
        "<domain>",
        "<!DOCTYPE d [<!ENTITY a 'x'>]><domain><uuid>&a;</uuid></domain>",
        "<domain><uuid>../../../etc</uuid></domain>",
        "<domain/>",
        "\udcff",
    ],
)
def test_alone_and_without_a_readable_domain_nothing_starts(
    tmp_path: Path, xml: str
) -> None:
    assert "does not answer" in decide(tmp_path, xml)


def test_wrong_installation_is_said_so() -> None:
    answer = hookwire.run(["vm", "prepare", "begin", "-"], io.BytesIO())
    assert answer == HookAnswer(1, "vmsec: the hook is installed wrongly")


def test_frame_is_ascii_json_with_its_length() -> None:
    frame = hookwire.pack_frame({"a": "ä"})
    assert struct.unpack(">I", frame[:4])[0] == len(frame) - 4
    assert json.loads(frame[4:].decode("ascii")) == {"a": "ä"}
