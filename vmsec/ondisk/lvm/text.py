"""The text that LVM2 describes a volume group in.

Only what LVM2 writes is read: sections, numbers, strings in double quotes,
lists of these, comments. A name may stand only once in its section.

Source:
    LVM2 ``lib/config/config.c`` and ``libdm/libdm-config.c``;
    lvmsystemid(7), lvm.conf(5) for the syntax.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeAlias

from vmsec.errors import CorruptImageError
from vmsec.ondisk import limits

if TYPE_CHECKING:
    from collections.abc import Iterator

Scalar: TypeAlias = str | int
Section: TypeAlias = "dict[str, Scalar | list[Scalar] | Section]"

_TOKEN = re.compile(
    r"(?:\s+|#[^\n]*)+"
    r'|"(?P<string>(?:[^"\\]|\\.)*)"'
    r"|(?P<word>[A-Za-z0-9_.+\-]+)"
    r"|(?P<mark>[{}=\[\],])",
    re.DOTALL,
)
_NUMBER = re.compile(r"-?[0-9]{1,19}")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)

Token: TypeAlias = tuple[str, str]


def parse_text(text: str) -> Section:
    """Parse a whole text.

    Raises:
        CorruptImageError: It is not what LVM2 writes.
        LimitExceededError: It is nested too deep or has too many words.
    """
    root: Section = {}
    stack = [root]
    tokens = _tokens(text)
    for kind, value in tokens:
        if (kind, value) == ("mark", "}") and len(stack) > 1:
            stack.pop()
            continue
        if kind != "word" or value in stack[-1]:
            raise _wrong(value)
        mark = next(tokens, ("end", ""))
        if mark == ("mark", "{"):
            inner: Section = {}
            stack[-1][value] = inner
            stack.append(inner)
            limits.require_limit(
                len(stack), limits.MAX_LVM_DEPTH, "LVM2: the depth of sections"
            )
        elif mark == ("mark", "="):
            stack[-1][value] = _value(tokens)
        else:
            raise _wrong(mark[1])
    if len(stack) != 1:
        raise _wrong("the end")
    return root


def section(parent: Section, name: str) -> Section:
    """Return a section of a section.

    Raises:
        CorruptImageError: There is none of that name.
    """
    value = parent.get(name)
    if not isinstance(value, dict):
        raise _missing(name, "section")
    return value


def number(parent: Section, name: str) -> int:
    """Return a number that is not negative.

    Raises:
        CorruptImageError: There is none of that name.
    """
    value = parent.get(name)
    if not isinstance(value, int) or value < 0:
        raise _missing(name, "number")
    return value


def string(parent: Section, name: str) -> str:
    """Return a string.

    Raises:
        CorruptImageError: There is none of that name.
    """
    value = parent.get(name)
    if not isinstance(value, str):
        raise _missing(name, "string")
    return value


def items(parent: Section, name: str) -> list[Scalar]:
    """Return a list.

    Raises:
        CorruptImageError: There is none of that name.
    """
    value = parent.get(name)
    if not isinstance(value, list):
        raise _missing(name, "list")
    return value


def _tokens(text: str) -> Iterator[Token]:
    """Yield words, strings and marks; white space and comments vanish."""
    at = count = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise _wrong(text[at : at + 10])
        at = match.end()
        if match.lastgroup is None:
            continue
        count += 1
        limits.require_limit(
            count, limits.MAX_LVM_TOKENS, "LVM2: the number of words"
        )
        yield match.lastgroup, match[match.lastgroup]


def _value(tokens: Iterator[Token]) -> Scalar | list[Scalar]:
    first = next(tokens, ("end", ""))
    if first != ("mark", "["):
        return _scalar(first)
    found: list[Scalar] = []
    for token in tokens:
        if token == ("mark", "]"):
            return found
        if token != ("mark", ","):
            found.append(_scalar(token))
    raise _wrong("the end")


def _scalar(token: Token) -> Scalar:
    kind, value = token
    if kind == "string":
        return _ESCAPE.sub(r"\1", value)
    if kind == "word" and _NUMBER.fullmatch(value):
        return int(value)
    raise _wrong(value)


def _wrong(found: str) -> CorruptImageError:
    return CorruptImageError(
        f"LVM2: {found[:32]!r} is where the metadata has no place for it; "
        "restore them with vgcfgrestore"
    )


def _missing(name: str, kind: str) -> CorruptImageError:
    return CorruptImageError(
        f"LVM2: the metadata lack the {kind} {name!r}; restore them with "
        "vgcfgrestore"
    )
