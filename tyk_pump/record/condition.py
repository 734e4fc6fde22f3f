"""Conditions on records, as a person writes them: `api_id=abc`, `latency.total=5`."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

import msgspec

from tyk_pump.config.fields import nearest
from tyk_pump.record import analytics, edit
from tyk_pump.record.analytics import AnalyticsRecord
from tyk_pump.record.uptime import UptimeRecord

Test = Callable[[Any], bool]

_WORDS: Final = {"true": True, "1": True, "false": False, "0": False}


class Condition(msgspec.Struct):
    """What is asked of one field; kinds of records that lack it never fit."""

    text: str
    reads: frozenset[str]
    """The attribute of an analytics record that it looks at."""
    tests: dict[str, Test]
    """By kind of record: whether one fits."""


def parse(text: str) -> Condition:
    """Return the condition that a text stands for; ValueError says what is wrong."""
    name, equals, value = text.partition("=")
    name = name.strip()
    if not (equals and name):
        raise ValueError(f"{text!r}: expected FIELD=VALUE")
    tests: dict[str, Test] = {}
    fault = ""
    reads: frozenset[str] = frozenset()
    for kind, struct in _KINDS.items():
        path = _PATHS[kind].get(_squashed(name))
        if path is None:
            continue
        wanted = _type(struct, path)
        try:
            tests[kind] = _test(path, wanted, value)
        except ValueError as exc:
            fault = f"{name}: {exc}"
            continue
        if kind == "":
            reads = frozenset({path[0]})
    if tests:
        return Condition(text, reads, tests)
    if fault:
        raise ValueError(fault)
    raise ValueError(f"there is no field {name}{nearest(name, _shown_names())}")


def fits(conditions: Sequence[Condition], kind: str) -> Test | None:
    """Return whether a record of a codec fits all conditions; None: none can."""
    key = edit.UPTIME if kind == edit.UPTIME else ""
    tests = [one.tests.get(key) for one in conditions]
    known = [test for test in tests if test is not None]
    if len(known) < len(tests):
        return None
    return lambda record: all(test(record) for test in known)


def reads(conditions: Collection[Condition]) -> frozenset[str]:
    """Return the attributes of an analytics record that conditions look at."""
    return frozenset().union(*(one.reads for one in conditions))


def _test(path: Sequence[str], wanted: Any, value: str) -> Test:
    get: Callable[[Any], Any] = operator.attrgetter(".".join(path))
    if wanted == "list":
        return lambda record: value in (get(record) or ())
    expected: Any = value
    if wanted == "time":
        raise ValueError("times are chosen with --from and --to")
    if wanted == "int":
        try:
            expected = int(value)
        except ValueError:
            raise ValueError(f"expected a whole number, not {value!r}") from None
    elif wanted == "float":
        try:
            expected = float(value)
        except ValueError:
            raise ValueError(f"expected a number, not {value!r}") from None
    elif wanted == "bool":
        if value.lower() not in _WORDS:
            raise ValueError(f"expected true or false, not {value!r}")
        expected = _WORDS[value.lower()]
    elif wanted != "str":
        raise ValueError("name one of its fields, such as latency.total")
    return lambda record: bool(get(record) == expected)


def _type(struct: type[Any], path: Sequence[str]) -> str:
    value: Any = struct()
    for name in path:
        value = getattr(value, name)
    if path[-1] in ("timestamp", "expire_at"):
        return "time"
    if value is None:
        return "list" if path[-1] in ("tags", "root_fields") else "other"
    return type(value).__name__


def _paths(struct: type[Any], names: dict[str, str]) -> dict[str, tuple[str, ...]]:
    """Return the squashed name -> attributes of every field and field's field."""
    found: dict[str, tuple[str, ...]] = {}
    for name, attribute in names.items():
        found[_squashed(name)] = (attribute,)
        value = getattr(struct(), attribute)
        if isinstance(value, msgspec.Struct):
            found |= _below(_squashed(name), (attribute,), value)
    return found


def _below(
    place: str, path: tuple[str, ...], value: msgspec.Struct
) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for name in value.__struct_fields__:
        here, inner = f"{place}.{_squashed(name)}", getattr(value, name)
        found[here] = (*path, name)
        if isinstance(inner, msgspec.Struct):
            found |= _below(here, (*path, name), inner)
    return found


def _squashed(name: str) -> str:
    # `closed_connections` is the JSON name of `closed_connection`.
    text = name.replace("_", "").lower()
    return text.removesuffix("s") if text.endswith("connections") else text


def _shown_names() -> list[str]:
    return list(dict.fromkeys([*analytics.JSON_NAMES, *edit.names(edit.UPTIME)]))


_KINDS: Final[dict[str, type[Any]]] = {"": AnalyticsRecord, edit.UPTIME: UptimeRecord}
_PATHS: Final = {
    kind: _paths(struct, dict(edit.names(kind))) for kind, struct in _KINDS.items()
}
