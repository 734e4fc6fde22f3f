"""Options as tables: every field with its key, variable, type, default and sentence.

The loader, the environment and the descriptions walk options through this file, so
that a key is known to all of them or to none.
"""

from __future__ import annotations

import difflib
import functools
import math
import re
import typing
from collections.abc import Iterable
from typing import Any

import msgspec

from tyk_pump.config.options import Options, Secret, dec_hook

REQUIRED = msgspec.NODEFAULT


class Wrong(ValueError):
    """A value does not fit its option; `where` leads into a list or an object."""

    def __init__(self, reason: str, where: str = "") -> None:
        super().__init__(reason)
        self.where = where


class Unresolved(msgspec.Struct, frozen=True):
    """A value with references to stores of secrets; they are looked up when it is
    certain that no other value takes its place."""

    value: Any
    where: str
    """The option or the variable, for messages."""


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """One option of a struct."""

    name: str
    """The attribute."""
    key: str
    aliases: tuple[str, ...]
    env: str
    """Last part of the environment name."""
    env_aliases: tuple[str, ...]
    kind: Any
    """The annotated type, with its limits."""
    base: Any
    """The bare type."""
    text: str
    default: Any
    """The default, or REQUIRED."""
    choices: tuple[str, ...]
    example: Any
    seconds: bool
    numeral: bool
    variable: str
    """A variable of another program, asked where nothing else is said; or nothing."""
    bare: str
    """A variable for all pumps that wins over the file; or nothing."""
    literal: bool
    """Whether its texts never refer to a store of secrets."""
    limits: tuple[tuple[str, float], ...]

    def nested(self) -> type[Options] | None:
        """Return the options that this field holds, if it holds options."""
        if isinstance(self.base, type) and issubclass(self.base, Options):
            return self.base
        return None

    def items(self) -> tuple[type[Any], type[Options]] | None:
        """Return (list or dict, options) where the field holds several options."""
        origin, args = typing.get_origin(self.base), typing.get_args(self.base)
        if origin not in (list, dict) or not isinstance(args[-1], type):
            return None
        return (origin, args[-1]) if issubclass(args[-1], Options) else None

    def textual(self) -> bool:
        """Whether a reference to a store of secrets can stand for the value."""
        texts = (str, Secret, Any)
        inner = typing.get_args(self.base)
        return self.base in texts or (bool(inner) and inner[-1] in texts)

    def secret(self) -> bool:
        """Whether the value must not be shown."""
        return self.base is Secret or Secret in typing.get_args(self.base)


@functools.cache
def fields_of(options: type[Options]) -> tuple[Field, ...]:
    """Return the options of a struct in the order they are written."""
    return tuple(_field(info) for info in msgspec.structs.fields(options))


@functools.cache
def keys_of(options: type[Options]) -> dict[str, Field]:
    """Return lower-case key to field, older spellings included."""
    found: dict[str, Field] = {}
    for field in fields_of(options):
        for key in (field.key, *field.aliases):
            found[key.lower()] = field
    return found


def _field(info: msgspec.structs.FieldInfo) -> Field:
    metas = [
        part
        for part in getattr(info.type, "__metadata__", ())
        if isinstance(part, msgspec.Meta)
    ]
    extra: dict[str, Any] = {}
    for meta in metas:
        extra.update(meta.extra or {})
    limits = [
        (sign, limit)
        for meta in metas
        for sign, limit in (("more than", meta.gt), ("at least", meta.ge))
        if limit is not None
    ]
    limits += [("at most", meta.le) for meta in metas if meta.le is not None]
    default: Any = info.default
    if info.default_factory is not msgspec.NODEFAULT:
        default = typing.cast(Any, info.default_factory)()
    return Field(
        name=info.name,
        key=info.encode_name,
        aliases=extra.get("aliases", ()),
        env=extra.get("env", info.encode_name.replace("_", "").upper()),
        env_aliases=extra.get("env_aliases", ()),
        kind=info.type,
        base=_bare(info.type),
        text=next((meta.description for meta in metas if meta.description), ""),
        default=default,
        choices=extra.get("choices", ()),
        example=extra.get("example"),
        seconds=bool(extra.get("seconds")),
        numeral=bool(extra.get("numeral")),
        variable=extra.get("variable", ""),
        bare=extra.get("bare", ""),
        literal=bool(extra.get("literal")),
        limits=tuple(limits),
    )


def _bare(kind: Any) -> Any:
    while hasattr(kind, "__metadata__"):
        kind = kind.__origin__
    return kind


def convert(field: Field, value: Any) -> Any:
    """Return the value in the option's type, or raise Wrong."""
    try:
        result = msgspec.convert(_prepared(field, value), field.kind, dec_hook=dec_hook)
    except msgspec.ValidationError as exc:
        raise _wrong(str(exc)) from exc
    if isinstance(result, float) and not math.isfinite(result):
        raise Wrong("expected a finite number")
    if field.choices and isinstance(result, str):
        return _chosen(field, result)
    return result


def _chosen(field: Field, text: str) -> Any:
    if not text:
        return field.default
    if text.lower() not in field.choices:
        known = ", ".join(field.choices)
        raise Wrong(f"{text!r} is not one of {known}")
    return text.lower()


def _prepared(field: Field, value: Any) -> Any:
    """Whole numbers may be written 5.0, durations "1m30s"."""
    if field.seconds and isinstance(value, str):
        return duration(value)
    if field.numeral and isinstance(value, str):
        return _numeral(value)
    if field.base is int:
        return _whole(value)
    if field.base == list[int] and isinstance(value, list):
        return [_whole(item) for item in value]
    return value


def _whole(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _numeral(text: str) -> int:
    if not re.fullmatch(r"-?\d{1,18}", text.strip(), re.ASCII):
        raise Wrong("expected a whole number, also as a text")
    return int(text)


_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}
_UNITS["h"] = 3600.0
_PART = r"(\d+\.?\d*|\.\d+)(ns|us|µs|ms|s|m|h)"


def duration(text: str) -> float:
    """Return the seconds of a text such as "1m30s", or "4.5"."""
    if re.fullmatch(r"\d+\.?\d*|\.\d+", text, re.ASCII):
        return float(text)
    if not re.fullmatch(f"(?:{_PART})+", text, re.ASCII):
        raise Wrong("expected seconds, or a text with units such as 1m30s")
    parts = re.findall(_PART, text, re.ASCII)
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def _wrong(message: str) -> Wrong:
    text, _, where = message.replace("`", "").partition(" - at ")
    where = where.removeprefix("$").replace("[...]", "")
    return Wrong(text[:1].lower() + text[1:], where)


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ", nearest is X" for the known word most like this one, or nothing."""
    words = list(known)
    squashed = {name.replace("_", "").lower(): name for name in reversed(words)}
    found = squashed.get(word.replace("_", "").replace("-", "").lower())
    close = [found] if found else difflib.get_close_matches(word, words, 1, 0.6)
    return f", nearest is {close[0]}" if close else ""
