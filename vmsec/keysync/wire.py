"""Messages as JSON: the one form in which values cross the bus.

``encode`` turns a value (a frozen dataclass of :mod:`vmsec.keysync.messages`,
or a plain one) into what JSON can hold; ``decode`` takes it back under the
type that the receiver expects. Decoding is strict: a field that is missing,
unknown or of another type, a number out of range, a text with control
characters or anything too large is a :class:`SchemaError`, whose text names
the place and never the value.

The closed table of types: ``str``, ``int`` (0 to 2**63 - 1), ``bool``,
``bytes`` (as base64), ``None``, ``tuple[X, ...]`` (as a list),
``dict[str, X]``, unions of these, and dataclasses (as a map of all fields).

Example:
    >>> from vmsec.keysync.messages import AgentJob
    >>> job = AgentJob(vm="a", disks=(), notes=("done",))
    >>> decode(AgentJob, encode(job), what="job") == job
    True
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import functools
import types
import typing
import unicodedata
from typing import Any, TypeVar

from vmsec.errors import SchemaError

T = TypeVar("T")

MAX_TEXT = 4096
"""Characters; twice the longest name or note that any peer makes."""

MAX_BLOB_BYTES = 8 << 20
"""Bytes of one blob (a manifest): 10.7 MiB as base64, under the 16 MiB that
RabbitMQ 4 takes as one message (rabbitmq.conf, ``max_message_size``)."""

MAX_ITEMS = 65_536
"""Entries of one list or map; a listing of a whole cloud's VMs fits."""

MAX_INTEGER = (1 << 63) - 1
"""What a BIGINT column holds; no counter or size of ours is negative."""

MAX_DEPTH = 8
"""Nesting; the deepest message (a VM with its disks in a list) has 4."""

_FORBIDDEN = {"Cc", "Cs", "Zl", "Zp"}
_SCALARS = (str, int, bool, bytes)


def encode(value: object, *, what: str = "message") -> Any:  # noqa: ANN401 - JSON
    """Turn a value into JSON types (dict, list, str, int, bool, None).

    Args:
        value: A dataclass, or a value of the closed table above.
        what: Named in errors, for example ``"report"``.

    Raises:
        SchemaError: The value passes a limit of this module.
        TypeError: A type outside the table; a programmer's mistake.
    """
    return _encode(value, what, 0)


def decode(kind: type[T], value: object, *, what: str) -> T:
    """Take back a value that :func:`encode` made, under the expected type.

    Args:
        kind: The type that must come out, for example ``NodeRecord`` or
            ``tuple[NodeRecord, ...]``.
        value: JSON types, from a peer that is not trusted.
        what: Named in errors, for example ``"report"``.

    Raises:
        SchemaError: The value has not the form of ``kind``.
    """
    return typing.cast(T, _decode(kind, value, what, 0))


def _encode(value: object, what: str, depth: int) -> Any:  # noqa: ANN401 - JSON
    """Encode one level."""
    _require_depth(depth, what)
    if value is None or isinstance(value, _SCALARS):
        _require_limits(value, what)
        return base64.b64encode(value).decode() if _is_bytes(value) else value
    if isinstance(value, tuple):
        _require_count(value, what)
        return [
            _encode(item, f"{what}[{index}]", depth + 1)
            for index, item in enumerate(value)
        ]
    if isinstance(value, dict):
        pairs = value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = (field.name for field in dataclasses.fields(value))
        pairs = {name: getattr(value, name) for name in names}
    else:
        raise TypeError(f"{what}: {type(value).__name__} has no wire form")
    _require_count(pairs, what)
    return {
        _require_key(key, what): _encode(item, f"{what}.{key}", depth + 1)
        for key, item in pairs.items()
    }


def _decode(kind: Any, value: object, what: str, depth: int) -> object:  # noqa: ANN401 - a type form
    """Decode one level."""
    _require_depth(depth, what)
    origin = typing.get_origin(kind)
    if origin in {types.UnionType, typing.Union}:
        return _decode_union(kind, value, what, depth)
    if origin is tuple:
        item_kind, _ = typing.get_args(kind)
        items = _require_type(list, value, what)
        _require_count(items, what)
        return tuple(
            _decode(item_kind, item, f"{what}[{index}]", depth + 1)
            for index, item in enumerate(items)
        )
    if origin is dict:
        _, item_kind = typing.get_args(kind)
        pairs = _require_type(dict, value, what)
        _require_count(pairs, what)
        return {
            _require_key(key, what): _decode(
                item_kind, item, f"{what}.{key}", depth + 1
            )
            for key, item in pairs.items()
        }
    if dataclasses.is_dataclass(kind):
        return _decode_record(kind, value, what, depth)
    return _decode_scalar(kind, value, what)


def _decode_union(kind: Any, value: object, what: str, depth: int) -> object:  # noqa: ANN401 - a type form
    """Decode by the only member of the union whose JSON type this is."""
    for member in typing.get_args(kind):
        if type(value) is _json_type(member):
            return _decode(member, value, what, depth)
    raise SchemaError(f"{what}: has the wrong type")


def _json_type(kind: Any) -> type:  # noqa: ANN401 - a type form
    """Say as which JSON type a type of the table travels."""
    if kind is bytes:
        return str
    if kind in (str, int, bool, types.NoneType):
        return typing.cast(type, kind)
    return list if typing.get_origin(kind) is tuple else dict


def _decode_record(kind: Any, value: object, what: str, depth: int) -> object:  # noqa: ANN401 - a dataclass
    """Decode a dataclass: exactly its fields, each of its type."""
    pairs = _require_type(dict, value, what)
    fields = _fields(kind)
    if pairs.keys() != fields.keys():
        missing = sorted(fields.keys() - pairs.keys())
        problem = f"misses {missing}" if missing else "has unknown fields"
        raise SchemaError(f"{what}: {kind.__name__} {problem}")
    return kind(
        **{
            name: _decode(field, pairs[name], f"{what}.{name}", depth + 1)
            for name, field in fields.items()
        }
    )


@functools.cache
def _fields(kind: type) -> dict[str, Any]:
    """Resolve the fields of a dataclass and their types, once."""
    hints = typing.get_type_hints(kind)
    fields = dataclasses.fields(kind)
    return {field.name: hints[field.name] for field in fields}


def _decode_scalar(kind: Any, value: object, what: str) -> object:  # noqa: ANN401 - a type form
    """Decode text, a number, a truth value, bytes or nothing."""
    if kind is types.NoneType:
        kind = type(None)
    elif kind not in _SCALARS:
        raise TypeError(f"{what}: {kind} has no wire form")
    if kind is bytes:
        result: object = _decode_blob(_require_type(str, value, what), what)
    else:
        result = _require_type(kind, value, what)
    _require_limits(result, what)
    return result


def _decode_blob(text: str, what: str) -> bytes:
    """Decode base64, the one canonical spelling only (RFC 4648 3.5)."""
    if len(text) > MAX_BLOB_BYTES * 4 // 3 + 4:
        raise SchemaError(f"{what}: larger than {MAX_BLOB_BYTES} bytes")
    try:
        blob = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as err:
        raise SchemaError(f"{what}: not base64") from err
    if base64.b64encode(blob).decode() != text:
        raise SchemaError(f"{what}: not canonical base64")
    return blob


def _require_limits(value: object, what: str) -> None:
    """Refuse a scalar that passes its limit."""
    if isinstance(value, int) and not 0 <= value <= MAX_INTEGER:
        raise SchemaError(f"{what}: number out of range")
    if isinstance(value, bytes) and len(value) > MAX_BLOB_BYTES:
        raise SchemaError(f"{what}: larger than {MAX_BLOB_BYTES} bytes")
    if isinstance(value, str):
        if len(value) > MAX_TEXT:
            raise SchemaError(f"{what}: longer than {MAX_TEXT} characters")
        if any(unicodedata.category(char) in _FORBIDDEN for char in value):
            raise SchemaError(f"{what}: contains control characters")


def _require_type(kind: type[T], value: object, what: str) -> T:
    """Refuse any other type; a bool is no int here."""
    if type(value) is not kind:
        raise SchemaError(f"{what}: has the wrong type")
    return value


def _require_key(key: object, what: str) -> str:
    """Refuse a map key that is no decent text."""
    text = _require_type(str, key, f"{what} key")
    _require_limits(text, f"{what} key")
    return text


def _require_count(items: typing.Sized, what: str) -> None:
    """Refuse a list or map with too many entries."""
    if len(items) > MAX_ITEMS:
        raise SchemaError(f"{what}: more than {MAX_ITEMS} entries")


def _require_depth(depth: int, what: str) -> None:
    """Refuse what is nested too deeply."""
    if depth > MAX_DEPTH:
        raise SchemaError(f"{what}: nested too deeply")


def _is_bytes(value: object) -> typing.TypeGuard[bytes]:
    """Whether the value travels as base64."""
    return isinstance(value, bytes)
