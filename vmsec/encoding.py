"""Deterministic CBOR for everything that is signed, authenticated or stored.

Encoding is RFC 8949 section 4.2.1 (core deterministic). Decoding accepts only
what encoding would have produced, so that one value has one form.
"""

from __future__ import annotations

from typing import Any

import cbor2

from vmsec.errors import SchemaError


def encode(value: Any) -> bytes:  # noqa: ANN401 - any CBOR value
    """Encode a value of ints, bytes, text, bools, None, lists and dicts.

    Source:
        RFC 8949 section 4.2.1.
    """
    return cbor2.dumps(value, canonical=True)


def decode(data: bytes, *, what: str) -> Any:  # noqa: ANN401 - any CBOR value
    """Decode what :func:`encode` made.

    Args:
        data: The whole encoding.
        what: Named in the error, for example ``"manifest"``.

    Raises:
        SchemaError: Not CBOR, trailing bytes, or not the deterministic form.
    """
    try:
        value = cbor2.loads(data)
        again = encode(value)
    except (cbor2.CBORError, ValueError, TypeError, RecursionError) as err:
        raise SchemaError(f"{what}: not a valid encoding") from err
    if again != data:
        raise SchemaError(f"{what}: not a deterministic encoding")
    return value


def field(record: Any, name: str, kind: type, *, what: str) -> Any:  # noqa: ANN401 - any value
    """Take a field of the given type from a decoded map.

    Raises:
        SchemaError: No map, no such field, or another type.
    """
    value = record.get(name) if isinstance(record, dict) else None
    if type(value) is not kind:
        raise SchemaError(f"{what}: field {name!r} is missing or wrong")
    return value
