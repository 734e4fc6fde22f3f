"""Aggregates as MongoDB holds them: updates that count, and what is derived of counts.

Pure functions: names and types of the fields are those that the Dashboard reads.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, TypeGuard

from bson.int64 import Int64

from tyk_pump.aggregate.counter import MIN_INT, Counter, saturated
from tyk_pump.aggregate.dimensions import MCP, TWO_LEVELS
from tyk_pump.aggregate.keys import bson_name
from tyk_pump.aggregate.model import TOTAL, Aggregate, Place
from tyk_pump.record.analytics import MAX_INT, ZERO_TIME
from tyk_pump.record.bson import date
from tyk_pump.record.text import clean

Document = dict[str, Any]

NEVER: Final = date(ZERO_TIME)
_ZERO: Final = Int64(0)


def update_of(aggregate: Aggregate) -> dict[str, Document]:
    """Return the operators that add an aggregate to a document, whatever is there."""
    inc: Document = {}
    put: Document = {}
    most: Document = {
        "expireAt": date(aggregate.expire_at),
        "lasttime": date(aggregate.last_time),
    }
    least: Document = {}
    for path, network, counter in _placed(aggregate):
        inc[path + "hits"] = saturated(counter.hits)
        inc[path + "success"] = saturated(counter.success)
        inc[path + "errortotal"] = saturated(counter.errors)
        for code, hits in counter.error_map.items():
            inc[f"{path}errormap.{code}"] = saturated(hits)
        inc[path + "totalrequesttime"] = float(counter.total_request_time)
        inc[path + "totalupstreamlatency"] = _long(counter.total_upstream_latency)
        inc[path + "totallatency"] = _long(counter.total_latency)
        if network:
            inc[path + "openconnections"] = _long(counter.open_connections)
            inc[path + "closedconnections"] = _long(counter.closed_connections)
            inc[path + "bytesin"] = _long(counter.bytes_in)
            inc[path + "bytesout"] = _long(counter.bytes_out)
        put[path + "identifier"] = clean(counter.identifier)
        put[path + "humanidentifier"] = clean(counter.human_identifier)
        most[path + "lasttime"] = date(counter.last_time)
        most[path + "maxupstreamlatency"] = _long(counter.max_upstream_latency)
        most[path + "maxlatency"] = _long(counter.max_latency)
        if counter.min_latency is not None:
            least[path + "minlatency"] = _long(counter.min_latency)
        if counter.min_upstream_latency is not None:
            least[path + "minupstreamlatency"] = _long(counter.min_upstream_latency)
    made = {"$inc": inc, "$set": put, "$max": most}
    return {**made, "$min": least} if least else made


def within_64_bits(increments: Document, document: Mapping[str, Any]) -> Document:
    """Return the increments, less what would lead a stored sum beyond 64 bits."""
    made = dict(increments)
    for path, number in increments.items():
        if isinstance(number, float):
            continue
        stored = _at(document, path)
        if isinstance(stored, int):
            room = max(MIN_INT - stored, min(MAX_INT - stored, number))
            made[path] = _long(room) if isinstance(number, Int64) else room
    return made


def derived(document: Mapping[str, Any], dimensions: Iterable[str]) -> Document:
    """Return path -> value of the averages and lists that are not as they should be.

    A list has its elements in the order of the counters, to which new ones are only
    added: of a large document that has changed a little, little is to be written.
    """
    changed: Document = {}
    lists = document.get("lists") or {}
    total = document.get("total")
    if _is_counter(total):
        _finish(changed, "total.", total)
    for dimension in dimensions:
        counters, known = document.get(dimension) or {}, lists.get(dimension)
        path = f"lists.{dimension}"
        if dimension not in TWO_LEVELS:
            _list(changed, path, known, _elements(changed, dimension, counters))
            continue
        for key, inner in counters.items():
            elements = _elements(changed, f"{dimension}.{key}", inner)
            _list(changed, f"{path}.{key}", (known or {}).get(key), elements)
    return changed


def is_list(path: str) -> bool:
    """Say whether a path of `derived` belongs to a list."""
    return path.startswith("lists.")


def _placed(aggregate: Aggregate) -> Iterator[tuple[str, bool, Counter]]:
    """Yield the paths of counters, whether they count the network, and the counters."""
    found: dict[str, Counter] = {}
    network: dict[str, bool] = {}
    for place, counter in aggregate.all():
        path = _path(place)
        known = found.get(path)
        if known is not None:
            # Keys that differ in bytes which are no UTF-8: the same name here.
            both = Counter()
            both.add(known)
            both.add(counter)
            counter = both
        found[path] = counter
        network[path] = place.dimension not in MCP
    for path, counter in found.items():
        yield path, network[path], counter


def _path(place: Place) -> str:
    if place == TOTAL:
        return "total."
    path = f"{place.dimension}.{_name(place.key)}."
    return f"{path}{_name(place.inner)}." if place.inner else path


@functools.lru_cache(maxsize=65_536)
def _name(key: str) -> str:
    return bson_name(clean(key))


def _long(number: int) -> Int64:
    return Int64(saturated(number))


def _at(document: Any, path: str) -> Any:
    for name in path.split("."):
        document = document.get(name) if isinstance(document, dict) else None
    return document


def _is_counter(value: Any) -> TypeGuard[Document]:
    """Tell a counter from what a key with a dot has led the reference to write."""
    return isinstance(value, dict) and isinstance(value.get("hits"), int | float)


def _finish(changed: Document, path: str, counter: Document) -> Document:
    """Note what is to be set of a counter; return what it derives."""
    hits = counter["hits"]
    totals = (
        ("requesttime", "totalrequesttime"),
        ("latency", "totallatency"),
        ("upstreamlatency", "totalupstreamlatency"),
    )
    made: Document = {
        name: counter.get(total, 0) / hits if hits else 0.0 for name, total in totals
    }
    made["errorlist"] = [
        {"code": code, "count": count}
        for code, count in sorted((counter.get("errormap") or {}).items())
    ]
    for name, value in made.items():
        if counter.get(name) != value:
            changed[path + name] = value
    return made


def _elements(
    changed: Document, path: str, counters: Mapping[str, Any]
) -> list[Document]:
    """Return the list of counters, noting what is to be set of them themselves."""
    found = []
    for key, counter in counters.items():
        if _is_counter(counter):
            made = _finish(changed, f"{path}.{key}.", counter)
            found.append(_EMPTY | counter | made)
    return found


_EMPTY: Final[Document] = {
    "hits": 0,
    "success": 0,
    "errortotal": 0,
    "requesttime": 0.0,
    "totalrequesttime": 0.0,
    "identifier": "",
    "humanidentifier": "",
    "lasttime": NEVER,
    "openconnections": _ZERO,
    "closedconnections": _ZERO,
    "bytesin": _ZERO,
    "bytesout": _ZERO,
    "maxupstreamlatency": _ZERO,
    "minupstreamlatency": _ZERO,
    "totalupstreamlatency": _ZERO,
    "upstreamlatency": 0.0,
    "maxlatency": _ZERO,
    "minlatency": _ZERO,
    "totallatency": _ZERO,
    "latency": 0.0,
    "errormap": {},
    "errorlist": [],
}
"""An element of a list has all fields, whether or not the counter has them."""


def _list(changed: Document, path: str, known: Any, elements: list[Document]) -> None:
    """Note what is to be set of a list."""
    if not isinstance(known, list) or len(known) > len(elements) or not known:
        if known != elements:
            changed[path] = elements
        return
    for index, element in enumerate(elements):
        if index >= len(known) or known[index] != element:
            changed[f"{path}.{index}"] = element
