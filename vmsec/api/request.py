"""Take requests apart, strictly: bodies, UUIDs, names, levels.

Everything that does not have exactly the agreed form is refused with a text
that says which part is wrong, before any service is asked.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from vmsec.errors import RequestError, SchemaError
from vmsec.keysync import wire

if TYPE_CHECKING:
    import falcon

T = TypeVar("T")

MAX_BODY_BYTES = 16 << 10
"""The longest request, a VM with a name of 255 characters, has under 2 KiB
even if every character is escaped."""

MAX_NAME = 255
"""Characters; what nova and keystone allow."""

MAX_VERSION_DIGITS = 9

LEVELS = ("boot", "metadata")
"""Sealing levels (DESIGN 3.1)."""

_UUID = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
)
_NODE_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtectRequest:
    """The body of ``POST /v1/vms``."""

    vm: str
    name: str
    project: str
    level: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionRequest:
    """The body of ``POST /v1/vms/{vm}/actions``."""

    action: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrollRequest:
    """The body of ``POST /v1/nodes``."""

    name: str
    clear: bool


def read_protect(req: falcon.Request) -> ProtectRequest:
    """Read the body of ``POST /v1/vms``.

    Raises:
        RequestError: It is not one.
    """
    defaults = {"name": "", "project": "", "level": "metadata"}
    body = _read_record(ProtectRequest, req, defaults)
    require_uuid(body.vm, "vm")
    for what, text in (("name", body.name), ("project", body.project)):
        if len(text) > MAX_NAME:
            raise RequestError(f"{what}: longer than {MAX_NAME} characters")
    if body.level not in LEVELS:
        raise RequestError(f"level: not one of {', '.join(LEVELS)}")
    return body


def read_action(req: falcon.Request, known: tuple[str, ...]) -> str:
    """Read which action a body asks for.

    Raises:
        RequestError: It is not one of ``known``.
    """
    action = _read_record(ActionRequest, req, {}).action
    if action not in known:
        raise RequestError(f"action: not one of {', '.join(known)}")
    return action


def read_enroll(req: falcon.Request) -> EnrollRequest:
    """Read the body of ``POST /v1/nodes``.

    Raises:
        RequestError: It is not one.
    """
    body = _read_record(EnrollRequest, req, {"clear": False})
    if not _NODE_NAME.fullmatch(body.name):
        raise RequestError("name: not a host name")
    return body


def require_uuid(text: str, what: str) -> str:
    """Refuse whatever is no lower-case UUID with dashes (RFC 9562)."""
    if not _UUID.fullmatch(text):
        raise RequestError(f"{what}: not a UUID in lower case with dashes")
    return text


def require_version(text: str) -> int:
    """Refuse whatever is no key version: a number from 1."""
    digits = text.isascii() and text.isdigit()
    if not digits or len(text) > MAX_VERSION_DIGITS or text.startswith("0"):
        raise RequestError("version: not a number from 1")
    return int(text)


def query_uuid(req: falcon.Request, name: str) -> str | None:
    """Take an optional UUID from the query; nothing else may be there."""
    if unknown := sorted(req.params.keys() - {name}):
        raise RequestError(f"query: unknown parameter {unknown[0]!r}")
    value = req.params.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise RequestError(f"{name}: given more than once")
    return require_uuid(value, name)


def _read_record(
    kind: type[T], req: falcon.Request, defaults: dict[str, Any]
) -> T:
    """Read a JSON body as a dataclass."""
    body = _read_json(req)
    if not isinstance(body, dict):
        raise RequestError("body: not a JSON object")
    try:
        return wire.decode(kind, {**defaults, **body}, what="body")
    except SchemaError as err:
        raise RequestError(str(err)) from err


def _read_json(req: falcon.Request) -> Any:  # noqa: ANN401 - any JSON value
    content_type = (req.content_type or "").partition(";")[0].strip()
    if content_type.lower() != "application/json":
        raise RequestError("body: Content-Type is not application/json")
    if req.content_length is None or req.content_length > MAX_BODY_BYTES:
        raise RequestError(f"body: needs 1 to {MAX_BODY_BYTES} bytes")
    raw = req.bounded_stream.read(MAX_BODY_BYTES)
    try:
        return json.loads(raw, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as err:
        raise RequestError("body: not valid JSON") from err


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse an object that names a member twice (RFC 8259 section 4)."""
    record = dict(pairs)
    if len(record) != len(pairs):
        raise ValueError("a member is named twice")
    return record
