"""Queries and updates as MongoDB documents them, for documents in memory.

Only what aggregates need, and strictly: another operator is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import bson
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.datetime_ms import DatetimeMS

Document = dict[str, Any]
_MISSING = object()


class UpdateRefusedError(Exception):
    """The server's answer to an update that it cannot apply: code and text."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


def matches(query: Document, document: Document) -> bool:
    """Tell whether a document is one that is asked for."""
    return all(_holds(name, wanted, document) for name, wanted in query.items())


def _holds(name: str, wanted: Any, document: Document) -> bool:
    if name == "$or":
        return any(matches(query, document) for query in wanted)
    value = _at(document, name)
    if not (isinstance(wanted, dict) and any(key[:1] == "$" for key in wanted)):
        return bool(_order(None if value is _MISSING else value) == _order(wanted))
    tests: dict[str, Callable[[Any], bool]] = {
        "$exists": lambda asked: (value is not _MISSING) == asked,
        "$ne": lambda other: value is _MISSING or _order(value) != _order(other),
        "$in": lambda some: (None if value is _MISSING else value) in some,
    }
    return all(tests[operator](operand) for operator, operand in wanted.items())


def inserted(query: Document, update: Document) -> Document:
    """Return the document that an upsert makes."""
    made = {n: v for n, v in query.items() if not isinstance(v, dict) and n[0] != "$"}
    made.setdefault("_id", bson.ObjectId())
    apply(made, {"$set": update.get("$setOnInsert", {})})
    apply(made, update)
    return made


def apply(document: Document, update: Document) -> None:
    """Change a document, wholly or not at all."""
    does = {"$inc": _inc, "$set": _set, "$max": _max, "$min": _min, "$unset": _unset}
    changed = bson.decode(bson.encode(document), _CODEC)
    touched: set[str] = set()
    for operator, fields in update.items():
        if operator == "$setOnInsert":
            continue
        for path, operand in fields.items():
            names = path.split(".")
            if "" in names:
                raise UpdateRefusedError(56, f"The update path '{path}' has an empty")
            if any(name[0] == "$" for name in names):
                raise UpdateRefusedError(52, f"The dollar ($) prefixed field in {path}")
            if path in touched:
                raise UpdateRefusedError(40, f"Updating '{path}' would conflict")
            touched.add(path)
            does[operator](*_parent(changed, names, path), operand)
    document.clear()
    document.update(changed)


_CODEC: CodecOptions[Document] = CodecOptions(
    datetime_conversion=DatetimeConversion.DATETIME_MS
)


def _at(document: Any, path: str) -> Any:
    for name in path.split("."):
        document = (
            document.get(name, _MISSING) if isinstance(document, dict) else _MISSING
        )
    return document


def _parent(document: Any, names: list[str], path: str) -> tuple[Any, Any]:
    """Return what holds the field, made where it is missing, and the field's name."""
    for name in names[:-1]:
        if isinstance(document, list):
            document = document[int(name)]
        else:
            document = document.setdefault(name, {})
        if not isinstance(document, dict | list):
            raise UpdateRefusedError(28, f"Cannot create field in element of '{path}'")
    last: Any = names[-1]
    if isinstance(document, list):
        assert re.fullmatch(r"\d+", last)
        last = int(last)
        document.extend([None] * (last + 1 - len(document)))
    return document, last


def _get(holder: Any, name: Any) -> Any:
    return holder[name] if isinstance(holder, list) else holder.get(name, _MISSING)


def _inc(holder: Any, name: Any, operand: Any) -> None:
    known = _get(holder, name)
    if known is _MISSING:
        holder[name] = operand
        return
    if not isinstance(known, int | float):
        raise UpdateRefusedError(14, "Cannot apply $inc to a value of non-numeric type")
    total = known + operand
    if isinstance(total, int):
        if not -(2**63) <= total < 2**63:
            text = f"Failed to apply $inc operations to current value ({known})"
            raise UpdateRefusedError(2, text)
        long = isinstance(known, bson.Int64) or isinstance(operand, bson.Int64)
        total = bson.Int64(total) if long else total
    holder[name] = total


def _set(holder: Any, name: Any, operand: Any) -> None:
    holder[name] = operand


def _max(holder: Any, name: Any, operand: Any) -> None:
    known = _get(holder, name)
    if known is _MISSING or _order(operand) > _order(known):
        holder[name] = operand


def _min(holder: Any, name: Any, operand: Any) -> None:
    known = _get(holder, name)
    if known is _MISSING or _order(operand) < _order(known):
        holder[name] = operand


def _unset(holder: Any, name: Any, operand: Any) -> None:
    holder.pop(name, None)


def _order(value: Any) -> Any:
    """Return what values are compared by: dates as milliseconds."""
    if isinstance(value, datetime):
        value = DatetimeMS(value.replace(tzinfo=UTC))
    return int(value) if isinstance(value, DatetimeMS) else value
