"""Environment names <-> options; no other file reads the environment.

A name is the prefix, then each field's own name in capitals without underscores. All
variables are tried: a bad one is a fault of its own and stops no other.
"""

from __future__ import annotations

import json
import re
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from tyk_pump.config.fields import (
    Field,
    Unresolved,
    Wrong,
    convert,
    duration,
    fields_of,
    nearest,
)
from tyk_pump.config.options import Options, Secret
from tyk_pump.secrets.reference import is_reference

PREFIX = "TYK_PMP"
PUMPS = f"{PREFIX}_PUMPS"
STORAGE_PREFIXES = (
    f"{PREFIX}_ANALYTICSSTORAGECONFIG",
    f"{PREFIX}_REDIS",
    f"{PREFIX}_TEMPORAL_STORAGE",
)
"""What the names of the Redis options begin with; a later one wins."""

META_PREFIXES = {
    "mongo-pump-aggregate": "MONGOAGGREGATE",
    "mongo-pump-selective": "MONGOSELECTIVE",
    "mongo-graph": "MONGOGRAPH",
    "mongo-mcp": "MONGOMCP",
    "mongo-mcp-aggregate": "MONGOMCPAGGREGATE",
    "sql_aggregate": "SQLAGGREGATE",
    "sql-graph": "GRAPH_SQL",
    "sql-graph-aggregate": "SQLGRAPHAGGREGATE",
    "sql-mcp": "MCP_SQL",
    "sql-mcp-aggregate": "SQLMCPAGGREGATE",
}
"""Types whose variables are not named as the type in capitals."""

LEGACY_PREFIXES = {
    "mongo": "PMP_MONGO",
    "mongo-pump-selective": "PMP_MONGOSEL",
    "mongo-pump-aggregate": "PMP_MONGOAGG",
}
"""What the variables of a type began with in old versions; they win over the new."""

UPTIME = f"{PREFIX}_UPTIMEPUMPCONFIG"
"""What the names of the uptime pump's options begin with."""

Report = Callable[[str], None]
ReadItems = Callable[
    [tuple[type[Any], type[Options]], str, Any, str, Report, dict[str, Any]], None
]
"""Reads a list of options into the values, see the loader."""


class Variables:
    """The variables that are meant for us, and which of them anybody asked for."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._values: dict[str, str] = {}
        self._written: dict[str, str] = {}
        self._asked: set[str] = set()
        for name in sorted(environ, key=lambda name: name == name.upper()):
            # Pump names may be in small letters; written both ways, capitals win.
            known = name.upper() if name.startswith(f"{PUMPS}_") else name
            if name.startswith(PREFIX):
                self._values[known] = environ[name]
                self._written[known] = name

    def get(self, name: str) -> str | None:
        """Return a variable's value, if it is set, and remember that it is known."""
        self._asked.add(name)
        if name in self._values:
            return self._values[name]
        return self._environ.get(name)

    def peek(self, name: str) -> str:
        """Return a variable's value without taking it as known."""
        return self._values.get(name, "")

    def written(self, name: str) -> str:
        """Return the name as the operator wrote it."""
        return self._written.get(name, name)

    def starting(self, prefix: str) -> list[str]:
        """Return the names that are set and start so, in order."""
        return sorted(name for name in self._values if name.startswith(prefix))

    def unread(self, prefix: str) -> list[str]:
        """Return the names that start so and nobody has asked for."""
        return [name for name in self.starting(prefix) if name not in self._asked]

    def ignore(self, prefix: str) -> None:
        """Take all names that start so as known."""
        self._asked.update(self.starting(prefix))

    def unknown(self) -> Iterator[str]:
        """Yield a warning for each variable of ours that nothing reads."""
        for name in self.starting(f"{PREFIX}_"):
            if name not in self._asked:
                hint = nearest(name, sorted(self._asked))
                yield f"{self.written(name)}: unknown variable{hint}"


def overlay(
    options: type[Options],
    values: dict[str, Any],
    prefix: str,
    variables: Variables,
    fault: Report,
    *,
    references: bool | None = True,
    bare: bool = True,
    skip: Collection[str] = (),
    read_items: ReadItems | None = None,
) -> None:
    """Lay the variables that start with the prefix over an options' values.

    A list of options is JSON in a variable, and takes the place of the file's.
    References to stores of secrets are left to be looked up, with False they are texts
    as any other, and with None they are faults.
    """
    for field in fields_of(options):
        name = f"{prefix}_{field.env}"
        nested = field.nested()
        if field.name in skip:
            continue
        if nested is not None:
            inner = values.setdefault(field.name, {})
            overlay(nested, inner, name, variables, fault, references=references)
            continue
        text = variables.get(name)
        if text is None and bare and field.bare:
            name, text = field.bare, variables.get(field.bare)
        for other in field.env_aliases:
            also = variables.get(f"{prefix}_{other}")
            if other.endswith("*"):
                also = _gathered(f"{prefix}_{other[:-1]}", variables)
            if text is None and also is not None:
                name, text = f"{prefix}_{other}", also
        if text is None:
            continue
        written = variables.written(name)
        if references is None and is_reference(text):
            fault(f"{written}: {NO_REFERENCES}")
            continue
        items = field.items()
        try:
            if items is not None and items[0] is list and read_items is not None:
                found = _json(text)
                read_items(items, field.name, found, written, fault, values)
                continue
            parsed = parse(field, text)
            if references and not field.literal and is_reference(parsed):
                values[field.name] = Unresolved(parsed, written)
            else:
                values[field.name] = convert(field, parsed)
        except Wrong as exc:
            fault(f"{written}: {exc}")


def legacy(
    kind: str,
    options: type[Options],
    values: dict[str, Any],
    variables: Variables,
    fault: Report,
) -> list[str]:
    """Lay the variables of old versions over an options' values; return their names."""
    prefix = LEGACY_PREFIXES.get(kind)
    if prefix is None:
        return []
    names = [f"{prefix}_{field.env}" for field in fields_of(options)]
    found = [name for name in names if variables.get(name) is not None]
    if found:
        overlay(options, values, prefix, variables, fault, references=None, bare=False)
    return found


def fall_back(
    options: type[Options], values: dict[str, Any], variables: Variables, fault: Report
) -> None:
    """Ask the variables of other programs for what nobody has said."""
    for field in fields_of(options):
        if not field.variable or values.get(field.name) not in (None, "", Secret()):
            continue
        try:
            if text := variables.get(field.variable):
                values[field.name] = convert(field, parse(field, text))
        except Wrong as exc:
            fault(f"{field.variable}: {exc}")


NO_REFERENCES = "this old variable takes no references to stores of secrets"


def parse(field: Field, text: str) -> Any:
    """Return what a variable's text says, for `convert` to judge."""
    origin, args = typing.get_origin(field.base), typing.get_args(field.base)
    if origin is list and args[0] in _SCALARS:
        if not text.strip():
            return []
        # Not trimmed: the reference does not, and a space may be meant.
        return [_SCALARS[args[0]](item) for item in text.split(",")]
    if origin is dict and args[1] is str:
        return _addresses(text) if field.name == "hosts" else _pairs(text)
    if field.seconds:
        return _seconds(text)
    if field.base in _SCALARS:
        return _SCALARS[field.base](text)
    raise Wrong("this option can only be set in the file")


def _json(text: str) -> Any:
    try:
        return json.loads(text or "[]")
    except ValueError as exc:
        raise Wrong(f"is no JSON: {exc}") from exc


def _text(text: str) -> str:
    return text


def _bool(text: str) -> bool:
    if text in ("1", "t", "T", "TRUE", "true", "True"):
        return True
    if text in ("0", "f", "F", "FALSE", "false", "False"):
        return False
    raise Wrong(f"expected true or false, got {text!r}")


def _int(text: str) -> int:
    """Read a whole number as Go does: 0x10, 0b11, 0o7, 1_000, and 010 is eight."""
    octal = re.fullmatch(r"([+-]?)0_?([0-7](?:_?[0-7])*)", text, re.ASCII)
    try:
        if octal:
            number = int("".join(octal.groups()), 8)
        elif text != text.strip() or not text.isascii():
            raise ValueError
        else:
            number = int(text, 0)
    except ValueError:
        raise Wrong(f"expected a whole number, got {text!r}") from None
    if not -(2**63) <= number < 2**63:
        raise Wrong(f"{text} is out of range")
    return number


def _float(text: str) -> float:
    try:
        if text != text.strip() or "_" in text or not text.isascii():
            raise ValueError
        return float(text)
    except ValueError:
        raise Wrong(f"expected a number, got {text!r}") from None


def _seconds(text: str) -> float:
    """Whole numbers first: these were whole in the reference, with 010 for eight."""
    for reader in (_int, _float, duration):
        try:
            return float(reader(text))
        except Wrong:
            continue
    raise Wrong(f"expected a number of seconds, got {text!r}")


def _pairs(text: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for item in text.split(",") if text.strip() else ():
        if item.count(":") != 1:
            raise Wrong(f"expected key:value pairs, got {item!r}")
        key, _, value = item.partition(":")
        pairs[key] = value
    return pairs


def _gathered(prefix: str, variables: Variables) -> str | None:
    """Return the pairs that variables of one entry each make together."""
    pairs = [
        f"{variables.written(name)[len(prefix) :]}:{variables.get(name)}"
        for name in variables.starting(prefix)
    ]
    return ",".join(pairs) if pairs else None


def _addresses(text: str) -> dict[str, str]:
    """Read host:port pairs; an item without a colon says nothing."""
    pairs = (item.rpartition(":") for item in text.split(","))
    return {host: port for host, colon, port in pairs if colon}


_SCALARS: dict[Any, Callable[[str], Any]] = {
    bool: _bool,
    int: _int,
    float: _float,
    str: _text,
    Secret: _text,
}


def meta_prefix(kind: str) -> str:
    """Return what the variables of a type's own options begin with."""
    return f"{PUMPS}_{META_PREFIXES.get(kind, kind.upper())}_META"


def pump_names(
    variables: Variables, in_file: Collection[str], types: Collection[str]
) -> dict[str, list[str]]:
    """Return each pump that variables speak of, with these variables.

    Names and types that are known are tried longest first, so that SQL_AGGREGATE is
    not taken for SQL; of other names only what stands before the first underscore.
    """
    known = {*in_file, *(kind.upper() for kind in types), *META_PREFIXES.values()}
    for name in variables.starting(f"{PUMPS}_"):
        owner = name.removeprefix(f"{PUMPS}_").removesuffix("_TYPE")
        value = variables.peek(name)
        # A new name is known, underscores and all, once its TYPE is a known type.
        typed = name.endswith("_TYPE") and value.lower() in types
        if typed and not re.search(r"_META(_|$)", owner):
            known.add(owner)
    longest = sorted(known, key=len, reverse=True)
    found: dict[str, list[str]] = {}
    for name in variables.starting(f"{PUMPS}_"):
        rest = name.removeprefix(f"{PUMPS}_")
        fits = (one for one in longest if rest == one or rest.startswith(f"{one}_"))
        owner = next(fits, rest.partition("_")[0])
        if owner:
            found.setdefault(owner, []).append(name)
    return found
