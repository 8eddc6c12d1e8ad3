"""The libvirt hook: a thin client of the agent, and the wire between the two.

libvirtd runs this file for every step of a domain's life, with the domain's
XML on standard input::

    /usr/bin/python3 -I -S hookwire.py --socket S --state D --seconds N \
        NAME OPERATION SUBOPERATION EXTRA

It hands the call to the agent over a UNIX socket and turns the answer into an
exit status and at most one line on standard error, which reaches the operator
("Hook script execution failed: ... <line>") and nova's fault. It imports the
standard library only, so that a broken environment cannot break it, starts no
process, never calls libvirt, and writes nothing on standard output (at
``migrate`` and ``restore`` that would replace the domain's XML).

Invariants:
    1. Only ``prepare`` vetoes; every other operation exits 0 whatever
       happens (``reconnect`` and ``started`` would kill a running guest).
    2. Agent away at ``prepare``: refused where a mark file says that the VM
       is protected or a disk bears the seal header, else allowed.
    3. Agent away at ``release``: exit 0; the reconcile loop seals later.
    4. VMs that nobody protects never wait for an agent that is away.

A frame is a big-endian 32-bit length and that many bytes of JSON, one frame
each way. The caller is trusted no further than its uid (the socket's mode and
SO_PEERCRED); still every length is limited.

Source:
    DESIGN section 5; https://libvirt.org/hooks.html
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import sys
import time
from typing import Any, BinaryIO, NamedTuple

WIRE_VERSION = 1

MAX_XML_BYTES = 4 << 20
"""libvirt itself refuses messages of more than 32 MiB; real domains have 4 to
40 KiB."""

MAX_FRAME_BYTES = 26 << 20
"""An XML of the limit whose every byte becomes a six-character JSON escape."""

MAX_LINE = 2000
"""Characters of the line for the operator; nova cuts faults at 255 anyway."""

CONNECT_SECONDS = 3.0
"""How long an agent that restarts is waited for, where it matters."""

CONCERNS_AGENT = ("prepare", "started", "release", "migrate", "reconnect")
"""Calls that the agent wants to know of; the others end here at once."""

MARK_OFFSET = 256
MARK_MAGIC = b"\x93vmsec\r\n"
MARK_STUB = bytes.fromhex("fa31c08ed88ed0bc007cfcea107c0000")
"""The seal header's magic, and how its boot stub begins (sealing.header)."""

_LENGTH = struct.Struct(">I")
_OPTIONS = ("--socket", "--state", "--seconds")


class WireError(Exception):
    """The peer does not keep to the protocol, or is gone."""


class HookRequest(NamedTuple):
    """One call of the hook, as libvirt made it."""

    name: str
    operation: str
    suboperation: str
    extra: str
    xml: str


class HookAnswer(NamedTuple):
    """What the agent says: exit status and the line for the operator."""

    status: int
    message: str


def pack_frame(value: dict[str, Any]) -> bytes:
    """Return one frame.

    Raises:
        WireError: Longer than :data:`MAX_FRAME_BYTES`.
    """
    body = json.dumps(value).encode("ascii")
    if len(body) > MAX_FRAME_BYTES:
        raise WireError("message too long")
    return _LENGTH.pack(len(body)) + body


def read_frame(stream: BinaryIO) -> dict[str, Any]:
    """Read one frame: a JSON object.

    Raises:
        WireError: Cut off, too long, or not a JSON object.
    """
    head = stream.read(_LENGTH.size)
    if len(head) != _LENGTH.size:
        raise WireError("the peer closed the connection")
    (length,) = _LENGTH.unpack(head)
    if length > MAX_FRAME_BYTES:
        raise WireError(f"message of {length} bytes is too long")
    body = stream.read(length)
    if len(body) != length:
        raise WireError("message cut off")
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as err:
        raise WireError("message is not JSON") from err
    if not isinstance(value, dict):
        raise WireError("message is not an object")
    return value


def request_to_dict(request: HookRequest) -> dict[str, Any]:
    """Return the request's JSON form."""
    return {"version": WIRE_VERSION, **request._asdict()}


def request_from_dict(value: dict[str, Any]) -> HookRequest:
    """Check a request strictly.

    Raises:
        WireError: Another version, or a field missing, unknown or no text.
    """
    fields = dict(value)
    if fields.pop("version", None) != WIRE_VERSION:
        raise WireError("another protocol version; reinstall the hook")
    if fields.keys() != set(HookRequest._fields):
        raise WireError("a field is missing or unknown")
    if not all(isinstance(item, str) for item in fields.values()):
        raise WireError("a field is not text")
    if len(fields["xml"]) > MAX_XML_BYTES:
        raise WireError("the domain XML is too long")
    return HookRequest(**fields)


def answer_from_dict(value: dict[str, Any]) -> HookAnswer:
    """Check an answer strictly.

    Raises:
        WireError: Not an answer.
    """
    status, message = value.get("status"), value.get("message")
    if status not in (0, 1) or not isinstance(message, str):
        raise WireError("not an answer")
    return HookAnswer(int(status), one_line(message))


def one_line(text: str) -> str:
    """Fold a text into one printable line of at most :data:`MAX_LINE`."""
    folded = " ".join(text.split())
    shown = "".join(char if char.isprintable() else "?" for char in folded)
    return shown[:MAX_LINE]


class AgentAwayError(Exception):
    """No agent, or one that went away or answered nonsense."""


def ask_agent(
    path: str, request: HookRequest, deadline: float, patience: float = 0.0
) -> HookAnswer:
    """Ask the agent.

    Args:
        path: The agent's UNIX socket.
        request: The call.
        deadline: On the monotonic clock, in seconds.
        patience: For how many seconds a missing agent is tried again.

    Raises:
        AgentAwayError: No whole answer until the deadline.
    """
    frame = pack_frame(request_to_dict(request))
    with _connect(path, deadline, patience) as link:
        try:
            link.settimeout(max(0.01, deadline - time.monotonic()))
            link.sendall(frame)
            with link.makefile("rb") as stream:
                return answer_from_dict(read_frame(stream))
        except (OSError, WireError) as err:
            raise AgentAwayError(str(err) or type(err).__name__) from err


def _connect(path: str, deadline: float, patience: float) -> socket.socket:
    """Connect; an agent that is just restarting may be waited for."""
    until = min(deadline, time.monotonic() + patience)
    while True:
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            link.settimeout(max(0.01, deadline - time.monotonic()))
            link.connect(path)
        except OSError as err:
            link.close()
            if time.monotonic() >= until:
                raise AgentAwayError(err.strerror or str(err)) from err
            time.sleep(0.05)
        else:
            return link


class _DomainFacts(NamedTuple):
    """The few facts that decide while the agent is away."""

    uuid: str
    disks: tuple[tuple[str, str], ...]


class _FactsReader:
    """Takes UUID and (driver type, path) of each disk out of the XML."""

    def __init__(self) -> None:
        self._where: list[str] = []
        self._kind = ""
        self.uuid = ""
        self.disks: list[tuple[str, str]] = []

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """Note what an element of a disk says."""
        self._where.append(tag)
        if self._where[:3] != ["domain", "devices", "disk"]:
            return
        if len(self._where) == 3:
            self._kind = ""
        elif self._where[3:] == ["driver"]:
            self._kind = attributes.get("type", "")
        elif self._where[3:] == ["source"]:
            path = attributes.get("file") or attributes.get("dev")
            self.disks += [(self._kind, path)] if path else []

    def end(self, _tag: str) -> None:
        """Leave an element."""
        self._where.pop()

    def text(self, data: str) -> None:
        """Collect the UUID."""
        if self._where == ["domain", "uuid"]:
            self.uuid += data

    def refuse(self, *_: object) -> None:
        """Refuse document types, and with them every entity."""
        raise ValueError("the domain XML declares a document type")


def _read_facts(xml: str) -> _DomainFacts:
    """Read the facts.

    Raises:
        ValueError: Not well formed, or it declares a document type.
    """
    from xml.parsers import expat  # noqa: PLC0415 - start-up time

    reader, parser = _FactsReader(), expat.ParserCreate()
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    parser.StartDoctypeDeclHandler = reader.refuse
    try:
        parser.Parse(xml.encode("utf-8", "surrogateescape"), True)
    except expat.ExpatError as err:
        raise ValueError("the domain XML is not well formed") from err
    return _DomainFacts(reader.uuid.strip().lower(), tuple(reader.disks))


def read_first_sector(kind: str, path: str) -> bytes:
    """Read LBA 0 of a raw or qcow2 disk cheaply, by whatever is there.

    Args:
        kind: The driver type; other than ``qcow2`` counts as raw.
        path: The image.

    Returns:
        512 bytes, or fewer where nothing was written or can be read.
    """
    try:
        with open(path, "rb") as disk:  # noqa: PTH123 - start-up time
            if kind != "qcow2":
                return disk.read(512)
            return _first_qcow2_sector(disk)
    except (OSError, struct.error, ValueError, OverflowError):
        return b""


def _first_qcow2_sector(disk: BinaryIO) -> bytes:
    """Follow a qcow2's tables to its first cluster.

    Source:
        QEMU docs/interop/qcow2.txt: bit 62 is a compressed cluster, which
        vmsec never writes; bits 9 to 55 are an offset.
    """
    if disk.read(4) != b"QFI\xfb":
        return b""
    disk.seek(40)
    (position,) = struct.unpack(">Q", disk.read(8))
    for _level in ("L1 table", "L2 table"):
        disk.seek(position)
        (entry,) = struct.unpack(">Q", disk.read(8))
        position = entry & 0x00FF_FFFF_FFFF_FE00
        if not position or entry >> 62 & 1:
            return b""
    disk.seek(position)
    return disk.read(512)


def is_marked(lba0: bytes) -> bool:
    """Whether LBA 0 bears the seal header, be it whole or damaged."""
    magic = lba0[MARK_OFFSET : MARK_OFFSET + len(MARK_MAGIC)]
    return magic == MARK_MAGIC or lba0[: len(MARK_STUB)] == MARK_STUB


def decide_alone(state: str, socket_path: str, xml: str, why: str) -> str:
    """Decide on ``prepare`` while the agent is away.

    Args:
        state: The agent's state directory, for its marks.
        socket_path: Named in the refusal.
        xml: The domain.
        why: Why the agent did not answer.

    Returns:
        The refusal for the operator, or an empty text: may start.
    """
    away = (
        f"vmsec-agent does not answer on {socket_path} ({why}); start it "
        "(systemctl start vmsec-agent) and start the VM again"
    )
    try:
        facts = _read_facts(xml)
    except ValueError as err:
        return f"{away}; besides, {err}"
    # The UUID becomes a file name: nothing but a UUID may do that.
    if not _is_uuid(facts.uuid):
        return f"{away}; besides, the domain XML has no UUID"
    if os.path.lexists(os.path.join(state, "protected", facts.uuid)):  # noqa: PTH118 - start-up time
        return f"VM {facts.uuid} is protected and {away}"
    for kind, path in facts.disks:
        if is_marked(read_first_sector(kind, path)):
            return f"{path} is sealed and {away}"
    return ""


def _is_uuid(text: str) -> bool:
    """Whether this is the canonical text of a UUID."""
    parts = text.split("-")
    return [len(part) for part in parts] == [8, 4, 4, 4, 12] and all(
        char in "0123456789abcdef" for char in "".join(parts)
    )


def stamp_path(state: str) -> str:
    """Where the hook notes that it was called (for ``vmsec doctor``)."""
    return os.path.join(state, "hook.stamp")  # noqa: PTH118 - start-up time


def _stamp(state: str, operation: str) -> None:
    """Note that libvirtd does call this hook; failing is no harm."""
    with contextlib.suppress(OSError):
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        text = f"{when} {operation[:16]}\n"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        handle = os.open(stamp_path(state), flags, 0o600)
        try:
            os.write(handle, text.encode("ascii", "replace"))
        finally:
            os.close(handle)


def run(arguments: list[str], stdin: BinaryIO) -> HookAnswer:
    """Do one call of the hook.

    Args:
        arguments: ``--socket S --state D --seconds N`` and libvirt's four.
        stdin: The domain XML.

    Returns:
        Exit status and line; the status may be 1 at ``prepare`` only.
    """
    if len(arguments) != 10 or arguments[:6:2] != list(_OPTIONS):
        return HookAnswer(1, "vmsec: the hook is installed wrongly")
    path, state, seconds = arguments[1:6:2]
    name, operation, suboperation, extra = arguments[6:]
    _stamp(state, operation)
    deadline = time.monotonic() + float(seconds)
    if operation not in CONCERNS_AGENT:
        return HookAnswer(0, "")
    raw = stdin.read(MAX_XML_BYTES + 1)
    if len(raw) > MAX_XML_BYTES:
        return HookAnswer(1, "vmsec: the domain XML is longer than 4 MiB")
    xml = raw.decode("utf-8", "surrogateescape")
    request = HookRequest(name, operation, suboperation, extra, xml)
    try:
        return ask_agent(path, request, deadline)
    except AgentAwayError as err:
        return _go_on_alone(state, path, request, deadline, str(err))


def _go_on_alone(
    state: str, path: str, request: HookRequest, deadline: float, why: str
) -> HookAnswer:
    """Answer while the agent is away; wait for it only if it matters."""
    if request.operation not in ("prepare", "release"):
        return HookAnswer(0, "")
    refusal = decide_alone(state, path, request.xml, why)
    if not refusal:
        return HookAnswer(0, "")
    try:
        return ask_agent(path, request, deadline, CONNECT_SECONDS)
    except AgentAwayError:
        if request.operation == "prepare":
            return HookAnswer(1, refusal)
        return HookAnswer(
            0,
            f"vmsec-agent does not answer on {path} ({why}); the disks of "
            f"{request.name} are sealed when it runs again",
        )


def main() -> int:
    """Run the hook; the exit status is libvirt's verdict."""
    arguments = sys.argv[1:]
    vetoes = arguments[7:8] == ["prepare"]
    try:
        answer = run(arguments, sys.stdin.buffer)
    except Exception as err:  # noqa: BLE001 - the hook's boundary: fail closed
        answer = HookAnswer(1, f"the hook failed: {type(err).__name__}: {err}")
    if answer.message:
        line = one_line(answer.message)
        sys.stderr.write(f"vmsec: {line.removeprefix('vmsec: ')}\n")
    return answer.status if vetoes else 0


if __name__ == "__main__":
    sys.exit(main())
