"""References in the operator's texts, and what a pointer picks out of a secret.

kv://STORE/PATH#POINTER            the whole text
...$kv{STORE:PATH#POINTER}...      anywhere in a text, as often as wanted
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from tyk_pump.errors import SecretError

WHOLE = "kv://"
INLINE = "$kv{"
_TOKENS = re.compile(rb'("(?:[^"\\]|\\.)*")|\s+')


class Reference(msgspec.Struct, frozen=True):
    """Where one secret, or a part of it, is kept."""

    store: str
    path: str
    pointer: str = ""


def is_reference(value: Any) -> bool:
    """Whether a text refers to a store, or anything within a list or an object."""
    if isinstance(value, str):
        return value.startswith(WHOLE) or INLINE in value
    if isinstance(value, dict):
        return any(map(is_reference, value.values()))
    return isinstance(value, list) and any(map(is_reference, value))


def parts(text: str) -> Iterator[str | Reference]:
    """Yield what a text consists of; SecretError where a reference is malformed.

    The message does not repeat it: whoever mistook the form may have written a
    secret in its place.
    """
    if text.startswith(WHOLE):
        yield _reference(text.removeprefix(WHOLE), "/", "kv://store/path#pointer")
        return
    while INLINE in text:
        before, _, rest = text.partition(INLINE)
        inner, end, text = rest.partition("}")
        if not end:
            raise SecretError("a reference begins with $kv{ and has no }")
        if before:
            yield before
        yield _reference(inner, ":", "$kv{store:path#pointer}")
    if text:
        yield text


def _reference(text: str, separator: str, form: str) -> Reference:
    store, found, rest = text.partition(separator)
    path, _, pointer = rest.partition("#")
    if not found or not store or not path:
        raise SecretError(f"a reference is malformed, its form is {form}")
    return Reference(store, path, pointer)


def pick(text: str, pointer: str) -> str:
    """Return what a JSON pointer leads to: a text as it is, all else as its JSON."""
    if not pointer:
        return text
    try:
        raw = msgspec.Raw(text.encode())
        for step in pointer.removeprefix("/").split("/"):
            raw = _step(raw, step.replace("~1", "/").replace("~0", "~"))
        if bytes(raw).lstrip().startswith(b'"'):
            return msgspec.json.decode(raw, type=str)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        # What is wrong with it would quote it.
        raise SecretError("is no JSON, a pointer finds nothing in it") from None
    # Numbers stay as they are written, and keys in their order.
    return _TOKENS.sub(lambda found: found[1] or b"", bytes(raw)).decode()


def _step(raw: msgspec.Raw, step: str) -> msgspec.Raw:
    first = bytes(raw).lstrip()[:1]
    inside: msgspec.Raw | None = None
    if first == b"{":
        inside = msgspec.json.decode(raw, type=dict[str, msgspec.Raw]).get(step)
    elif first == b"[":
        items = msgspec.json.decode(raw, type=list[msgspec.Raw])
        if re.fullmatch(r"0|[1-9]\d{0,8}", step, re.ASCII) and int(step) < len(items):
            inside = items[int(step)]
    else:
        msgspec.json.decode(raw)  # no JSON at all is said as such
    if inside is None:
        raise SecretError(f"has no {step!r} where the pointer leads")
    return inside
