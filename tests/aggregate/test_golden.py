"""The counters are those that the reference stored, its defects put right.

The reference books a whole purge on the hour of an organisation's first record, and
lets short windows begin where traffic does. Its counters are therefore summed up over
all buckets before they are compared, and so are ours. Where all records of each purge
are of one bucket, as in the `*-hourly` cases, the buckets themselves are compared, too.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, Final

import msgspec
import pytest

from tests.golden.loader import Case, cases
from tests.golden.run import zone
from tyk_pump.aggregate.aggregator import Aggregator
from tyk_pump.aggregate.counter import Counter
from tyk_pump.aggregate.dimensions import GRAPHQL, MCP, SPELLINGS, TWO_LEVELS, Family
from tyk_pump.aggregate.model import TOTAL, Aggregate, Key, Place
from tyk_pump.aggregate.uptime import UptimeAggregator
from tyk_pump.config.root import PumpConfig, RootOptions
from tyk_pump.errors import CodecError
from tyk_pump.record import uptime
from tyk_pump.record.codec import decoder
from tyk_pump.worker import select

FAMILIES: Final[dict[str, Family]] = {
    "mongo-pump-aggregate": "api",
    "sql_aggregate": "api",
    "sql-graph-aggregate": "graphql",
    "mongo-mcp-aggregate": "mcp",
    "sql-mcp-aggregate": "mcp",
}
MYSQL: Final = "the reference's upsert is not valid for MySQL, nothing was stored"
DIED: Final = "the reference died, nothing was stored; see test_aggregator"
REFUSED: Final = "the reference's update was refused; see test_parts"
NUL: Final = "PostgreSQL refused the NUL of a text: for the tests of the pump"
FAILED: Final = "the reference's write failed: for the tests of the pump"
NOT_RUN: Final = {
    "mongo-pump-aggregate/network-crash": DIED,
    "sql_aggregate/network-crash": DIED,
    "uptime-sql/minus1-crash": DIED,
    "mongo-pump-aggregate/edge-rejected-dollar-tag": REFUSED,
    "mongo-pump-aggregate/edge-rejected-empty-path": REFUSED,
    "mongo-pump-aggregate/track-all-paths-nul": REFUSED,
    "mongo-mcp-aggregate/rejected-dollar-name": REFUSED,
    "mongo-mcp-aggregate/self-healing": FAILED,
    "sql_aggregate/edge-nul": NUL,
    "sql_aggregate/edge-control-untracked": NUL,
    "mongo-pump-aggregate/self-healing-off": FAILED,
    "mongo-pump-aggregate/self-healing-step-two": FAILED,
    "mongo-pump-aggregate/self-healing-mixed": FAILED,
    "mongo-pump-aggregate/self-healing-until-1": FAILED,
    "sql_aggregate/network-only-twice": FAILED,
    "sql-graph-aggregate/minus1-only": FAILED,
    "sql_aggregate/mysql-omit-index": MYSQL,
    "sql_aggregate/mysql-string-size": MYSQL,
    "sql_aggregate/mysql-traffic": MYSQL,
    "sql-graph-aggregate/mysql-edge": MYSQL,
    "sql-mcp-aggregate/mysql-edge": MYSQL,
    "uptime-sql/mysql": MYSQL,
}
ELSEWHERE: Final = {
    # A zone that nobody knows made the reference book on the zero time.
    "mongo-pump-aggregate/protobuf-unknown-zone",
    "sql_aggregate/protobuf-unknown-zone",
}
BITS: Final = 2**64

Owner = tuple[str, int | None]
"""Organisation or API, and the bucket's start where it is compared."""
Values = dict[str, Any]
"""What is known of a counter, by its names in `Counter`."""
Book = dict[Owner, dict[Place, Values]]


def name_of(case: Case) -> str:
    return f"{case.pump}/{case.name}"


def all_cases() -> Iterator[Any]:
    for pump in (*FAMILIES, "uptime-sql"):
        for case in cases(pump):
            reason = NOT_RUN.get(name_of(case))
            marks = pytest.mark.skip(reason) if reason else ()
            yield pytest.param(case, id=name_of(case), marks=marks)


@pytest.mark.parametrize("case", list(all_cases()))
def test_the_counters_are_those_of_the_reference(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zone(case.about.get("timezone", "UTC"), monkeypatch):
        purges = [aggregated(case, records) for records in decoded(case)]
    whole = all(len(keys_of_owner) == 1 for keys_of_owner in by_owner(case, purges))
    whole = whole and window(case) in {1, 60} and name_of(case) not in ELSEWHERE
    mine, theirs = ours(case, purges, whole), reference(case, whole)
    assert {o: set(places) for o, places in mine.items()} == {
        o: set(places) for o, places in theirs.items()
    }
    wrong = [
        (owner, place, name, values[name], theirs[owner][place][name])
        for owner, places in mine.items()
        for place, values in places.items()
        for name in differing(case, place, values, theirs[owner][place])
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("pump", "name"),
    [("sql_aggregate", "sharded-hourly"), ("uptime-sql", "sharded-hourly")],
)
def test_the_days_are_those_of_the_references_tables(
    pump: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (case,) = (case for case in cases(pump) if case.name == name)
    with zone("UTC", monkeypatch):
        found = {
            (key.org_id, key.start, key.day)
            for records in decoded(case)
            for key in aggregated(case, records)
        }
    lines = map(json.loads, case.expected("jsonl")[""].splitlines())
    assert found == {
        (line["row"]["org_id"], line["row"]["timestamp"], line["table"][-8:])
        for line in lines
    }


def differing(case: Case, place: Place, mine: Values, theirs: Values) -> Iterator[str]:
    """Yield what is not as in the reference, but for what its defects touch."""
    names = {"hits", "errors", "identifier", "max_latency", "max_upstream_latency"}
    yield from (n for n in names if mine[n] != theirs[n])
    if mine["error_map"] != theirs.get("error_map", mine["error_map"]):
        yield "error_map"
    # GraphQL errors in an answer of 3xx have cost a success that was never counted.
    if mine["success"] - theirs["success"] not in REDIRECTED.get(name_of(case), {0}):
        yield "success"
    for name in ("total_latency", "total_upstream_latency"):
        # Beyond 64 bits the reference wraps around; modulo 2**64 it is right.
        if (mine[name] - theirs[name]) % BITS:
            yield name
    if mine["total_request_time"] != pytest.approx(
        theirs["total_request_time"], rel=1e-14
    ):
        yield "total_request_time"
    # No average is known of what was summed up, and none is right of what wrapped; that
    # of uptime stays what the first purge made of it.
    known = theirs["latency"] is not None and mine["total_latency"] < BITS // 2
    if case.pump == "uptime-sql" and len(case.purges()) > 1:
        known = False
    for name in AVERAGES:
        if known and mine[name] != pytest.approx(theirs[name], rel=1e-14):
            yield name
    # The name of a key or an API may change: ours is the latest, theirs the last that
    # came or, in SQL, the first.
    if place.dimension not in {"apikeys", "apiid"}:
        yield from (n for n in {"human_identifier"} if mine[n] != theirs[n])
    touched = any(mine[name] for name in NETWORK)
    # Where there are other answers, or reports of the network, the reference's minima
    # depend on the order; uptime has none.
    if mine["min_latency"] is not None and mine["success"] == mine["hits"]:
        names = {"min_latency", "min_upstream_latency"}
        yield from (n for n in names if mine[n] != theirs[n] and not touched)
    # In milliseconds, which is what Mongo keeps.
    mine_ms, theirs_ms = mine["last_time"] // 1000, theirs["last_time"] // 1000
    if (
        mine["hits"] == 1
        and not touched
        and place is not TOTAL
        and mine_ms != theirs_ms
    ):
        yield "last_time"
    # The next purge overwrites the network numbers in Mongo. In dimensions of GraphQL
    # and MCP the reference counts the first report and not the others, or none.
    if len(case.purges()) == 1 and place.dimension not in {*GRAPHQL, *MCP}:
        yield from (name for name in NETWORK if mine[name] != theirs[name])


AVERAGES: Final = ("request_time", "latency", "upstream_latency")
NETWORK: Final = ("open_connections", "closed_connections", "bytes_in", "bytes_out")
REDIRECTED: Final = {
    f"sql-graph-aggregate/{name}": {0, 1} for name in ("errors", "agg-extra", "sharded")
}


def decoded(case: Case) -> Iterator[list[Any]]:
    """Yield the records of each purge as the worker hands them on."""
    if case.pump == "uptime-sql":
        for purge in case.purges():
            yield [uptime.decode(wire.msgpack or b"") for _, _, wire in purge]
        return
    section = next(iter(case.pumps.values()))
    config = PumpConfig(
        name="P", type="dummy", ignore_fields=section.get("ignore_fields", [])
    )
    fields = aggregator(case).fields
    wanted = select.compile(config, RootOptions(), fields).select
    for purge in case.purges():
        records = []
        for _, codec, wire in purge:
            try:
                record = decoder(codec, fields)(wire.bytes_in(codec) or b"")
            except CodecError:
                continue
            if wanted is None or wanted(record):
                records.append(record)
        yield records


def meta(case: Case) -> dict[str, Any]:
    about = case.about
    if case.pump == "uptime-sql":
        return dict(about["uptime_pump_config"])
    found = next(iter(case.pumps.values()))["meta"]
    # Options that the reference takes and does not heed are heeded here.
    return {} if case.name == "ignored-options" else dict(found)


def window(case: Case) -> int:
    options = meta(case)
    if options.get("store_analytics_per_minute"):
        return 1
    minutes: int = options.get("aggregation_time", 60)
    return minutes if 1 <= minutes <= 60 else 60


def aggregator(case: Case) -> Aggregator:
    options = meta(case)
    unheeded = case.pump.startswith(("sql", "mongo-mcp"))
    names = () if unheeded else options.get("ignore_aggregations", ())
    return Aggregator(
        FAMILIES[case.pump],
        window=window(case),
        track_all_paths=options.get("track_all_paths", False),
        ignored_tag_prefixes=options.get("ignore_tag_prefix_list", ()),
        ignored=[SPELLINGS[name] for name in names if name in SPELLINGS],
        by_day=options.get("table_sharding", False),
    )


def aggregated(case: Case, records: list[Any]) -> dict[Key, Aggregate]:
    if case.pump == "uptime-sql":
        sharded = meta(case).get("table_sharding", False)
        return UptimeAggregator(by_day=sharded).aggregate(records)
    return aggregator(case).aggregate(records)


def owner_of(case: Case, key: Key) -> str:
    # Equal API ids of two organisations are one to the reference.
    return key.api_id if FAMILIES.get(case.pump, "api") != "api" else key.org_id


def by_owner(case: Case, purges: Iterable[dict[Key, Aggregate]]) -> Iterator[set[int]]:
    for purge in purges:
        starts = defaultdict(set)
        for key in purge:
            starts[owner_of(case, key)].add(key.start)
        yield from starts.values()


def ours(case: Case, purges: Iterable[dict[Key, Aggregate]], whole: bool) -> Book:
    book: dict[Owner, Aggregate] = defaultdict(Aggregate)
    for purge in purges:
        for key, aggregate in purge.items():
            start = key.start if whole else None
            book[owner_of(case, key), start].merge(aggregate)
    return {
        owner: {place: values_of(counter) for place, counter in aggregate.all()}
        for owner, aggregate in book.items()
    }


def values_of(counter: Counter) -> Values:
    values = msgspec.structs.asdict(counter)
    seconds, nanoseconds = counter.last_time
    values |= {name: getattr(counter, name) for name in AVERAGES}
    return {**values, "last_time": seconds * 1_000_000 + nanoseconds // 1000}


def reference(case: Case, whole: bool) -> Book:
    name = "documents.jsonl" if "mongo" in case.pump else "jsonl"
    data = case.expected(name).get("", b"")  # absent: nothing was stored
    rows = documents(data) if "mongo" in case.pump else table_rows(data)
    book: Book = defaultdict(dict)
    api = FAMILIES.get(case.pump, "api") == "api"
    for org_id, api_id, start, place, values in rows:
        owner = (org_id if api else api_id), (start if whole else None)
        known = book[owner].get(place)
        book[owner][place] = values if known is None else summed(known, values)
    return dict(book)


def summed(one: Values, other: Values) -> Values:
    def merged(name: str) -> Any:
        a, b = one[name], other[name]
        if name.startswith("max") or name == "last_time":
            return max(a, b)
        if name.startswith("min"):
            return b if a is None else a if b is None else min(a, b)
        if name in AVERAGES:
            return None
        if name == "error_map":
            return {k: a.get(k, 0) + b.get(k, 0) for k in a | b}
        return a if name.endswith("identifier") else a + b

    return {name: merged(name) for name in one}


Row = tuple[str, str, int, Place, Values]

BSON_NAMES: Final = {
    "hits": "hits",
    "success": "success",
    "errors": "errortotal",
    "total_request_time": "totalrequesttime",
    "identifier": "identifier",
    "human_identifier": "humanidentifier",
    "last_time": "lasttime",
    "request_time": "requesttime",
    "latency": "latency",
    "upstream_latency": "upstreamlatency",
    "max_latency": "maxlatency",
    "min_latency": "minlatency",
    "total_latency": "totallatency",
    "max_upstream_latency": "maxupstreamlatency",
    "min_upstream_latency": "minupstreamlatency",
    "total_upstream_latency": "totalupstreamlatency",
    "open_connections": "openconnections",
    "closed_connections": "closedconnections",
    "bytes_in": "bytesin",
    "bytes_out": "bytesout",
    "error_map": "errormap",
}
NO_COUNTERS: Final = {"_id", "orgid", "timeid", "lists", "owner_apiid", "total"} | {
    *("timestamp", "expireAt", "lasttime")
}


def plain(value: dict[str, Any]) -> Any:
    """Return the value of an object of extended JSON."""
    if "<bytes>" in value:
        return b64decode(value["<bytes>"]).decode("utf-8", "surrogateescape")
    if value.keys() <= {"$numberInt", "$numberLong"} and value:
        return int(next(iter(value.values())))
    if "$numberDouble" in value:
        return float(value["$numberDouble"])
    return value.get("$date", value)


def documents(data: bytes) -> Iterator[Row]:
    """Yield the counters of Mongo documents, those of mixed collections left out."""
    for line in data.splitlines():
        found = json.loads(line, object_hook=plain)
        document = found["document"]
        if not found["collection"].startswith("z_"):
            continue
        about = document["orgid"], document.get("owner_apiid", "")
        start = document["timestamp"] // 1000
        yield *about, start, TOTAL, bson_values(document["total"])
        for dimension in document.keys() - NO_COUNTERS:
            for key, counter in counters(document[dimension]):
                inner = ""
                if dimension in TWO_LEVELS:
                    key, _, inner = key.rpartition(".")
                place = Place(dimension, key, inner)
                yield *about, start, place, bson_values(counter)


def counters(found: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield counters by key; a key with dots has been nested by the server."""
    for name, value in found.items():
        if not isinstance(value, dict) or name == "errormap":
            continue  # an average of what stands above a nested counter
        if isinstance(value.get("hits"), int):
            yield path + name, value
        yield from counters(value, f"{path}{name}.")


def bson_values(counter: dict[str, Any]) -> Values:
    values = {name: counter.get(key) for name, key in BSON_NAMES.items()}
    # A map without entries is not stored.
    error_map = counter.get("errormap", {})
    return {**values, "last_time": counter["lasttime"] * 1000, "error_map": error_map}


SQL_NAMES: Final = {
    name: f"counter_{name.removesuffix('s') if name == 'errors' else name}"
    for name in BSON_NAMES
    if name != "error_map"
}


def table_rows(data: bytes) -> Iterator[Row]:
    """Yield the counters of SQL rows."""
    for line in data.splitlines():
        row = json.loads(line)["row"]
        key, inner = row["dimension_value"], ""
        if row["dimension"] in TWO_LEVELS:
            key, _, inner = key.rpartition(".")
        place = Place(row["dimension"], key, inner)
        values = {name: row[column] for name, column in SQL_NAMES.items()}
        for name in ("total_request_time", *AVERAGES):
            values[name] = float(values[name])
        values["last_time"] = micros(values["last_time"])
        yield row["org_id"], row.get("api_id", ""), row["timestamp"], place, values


def micros(text: str) -> int:
    time = datetime.fromisoformat(text)
    delta = time - datetime.fromisoformat("1970-01-01 00:00:00+00:00")
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds
