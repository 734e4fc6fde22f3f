"""The books are audited: what the stores hold against what was sent, record by record.

Two instances write the same records into raw and aggregate stores while processes are
killed and databases restart. What has to be in the aggregates is counted here once
more, by a plain loop over the records as they went into Redis.
"""

from __future__ import annotations

import base64
import contextlib
import os
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgpack
import pytest
import redis

from tests.daemon.harness import (
    KILLS,
    KILLS_TIMEOUT,
    LIST,
    SETTLE_SECONDS,
    Daemon,
)
from tests.daemon.test_mix import dead_letters, strike, wait_settled
from tests.golden import loader
from tests.servers.database import Database, Databases
from tests.servers.mongo import MongoServer
from tests.servers.mongo_turns import Turns
from tests.servers.postgres import PostgresServer
from tests.servers.server import Server

RECORDS = int(os.environ.get("TYK_PUMP_RECORDS", "2000"))
"""Records in all; `make torture` sends many more."""
COUNTED_IN_MONGO = RECORDS <= 20_000
"""FerretDB takes some hundred records a second into aggregates: with more of them they
go to all stores but there."""
ROUNDS = max(5, KILLS // 6)
"""A round has a kill or a stop of a process, and sometimes the end of a database."""
HOURS = 3
START = 1_773_489_600
"""A full hour."""
LATE = 600
"""Seconds that a record comes late at most: it is counted in the hour before, then."""
STRIKES = ("worker", "coordinator", "worker", "pause", "worker")
"""What happens by turns. No worker is frozen: so many of them start slowly that they
must be given a long time for a sign of life."""
KINDS = 6
"""One in so many kinds of records: FerretDB takes seconds for a large document."""
CODES = (
    *("1x", "200", "201", "2x", "301", "302", "303", "304", "3x", "400", "401", "403"),
    *("404", "429", "4x", "500", "501", "502", "503", "504", "5x"),
)
"""The codes that have a column of their own."""

Record = dict[str, Any]
Name = tuple[str, int, str, str]
"""Organisation, hour, dimension, key."""


# Traffic


def traffic(chance: random.Random) -> Iterator[Record]:
    """Yield records as gateways send them, each under a name of its own.

    One in ten is special: a call of GraphQL or MCP, a report of the network, a
    redirection, keys with dots.
    """
    usual = _unpacked("traffic")[::KINDS]
    special = [each for each in _unpacked("agg-extra") if _is_plain(each)]
    for number in range(RECORDS):
        made = dict(chance.choice(usual if chance.random() < 0.9 else special))
        second = START + number * HOURS * 3600 // RECORDS - chance.randrange(LATE)
        made["TimeStamp"] = [second, chance.randrange(1000) * 1_000_000]
        made["RequestTime"] = chance.randrange(2000)
        total = chance.randrange(1, 2000)
        made["Latency"] = {"Total": total, "Upstream": chance.randrange(total)}
        # None of the counters depends on it.
        made["RawPath"] = f"/audit/{number:06}"
        yield made


def _unpacked(name: str) -> list[Record]:
    forms = [wire.msgpack for wire in loader.corpus(name).values()]
    return [msgpack.unpackb(form) for form in forms if form is not None]


def _is_plain(record: Record) -> bool:
    """Say whether every store shows the texts of a record as they are."""
    texts = "".join([record["APIKey"], record["OauthID"], *(record["Tags"] or ())])
    return "\0" not in texts and not set("$%") & set(texts)


def is_mcp(record: Record) -> bool:
    """Say whether it is a call of MCP, which the raw stores leave out."""
    return bool(record["MCPStats"]["IsMCP"])


# Counting

NUMBERS = (
    *("hits", "success", "errors", "request_time", "latency", "upstream"),
    *("max_latency", "max_upstream", "min_latency", "min_upstream"),
    *("open", "closed", "bytes_in", "bytes_out"),
)
"""The attributes of sums, in the order in which columns are asked for."""
NEVER = (-62135596800, 0)


@dataclass
class Sums:
    """What a counter has to show."""

    hits: int = 0
    success: int = 0
    errors: int = 0
    request_time: int = 0
    latency: int = 0
    upstream: int = 0
    max_latency: int = 0
    max_upstream: int = 0
    min_latency: int | None = None
    min_upstream: int | None = None
    open: int = 0
    closed: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    codes: dict[str, int] = field(default_factory=dict)
    last: tuple[int, int] = NEVER

    def hit(self, record: Record) -> None:
        """Count a request."""
        code, time_ = record["ResponseCode"], record["RequestTime"]
        total, upstream = record["Latency"]["Total"], record["Latency"]["Upstream"]
        self.hits += 1
        self.request_time += time_
        self.latency += total
        self.upstream += upstream
        self.max_latency = max(self.max_latency, total)
        self.max_upstream = max(self.max_upstream, upstream)
        if code >= 400:
            self.errors += 1
            self.codes[str(code)] = self.codes.get(str(code), 0) + 1
        else:
            least, least_up = self.min_latency, self.min_upstream
            self.min_latency = total if least is None else min(least, total)
            self.min_upstream = (
                upstream if least_up is None else min(least_up, upstream)
            )
        if 200 <= code < 300:
            self.success += 1
        self.last = max(self.last, tuple(record["TimeStamp"]))


def counted(records: list[Record]) -> dict[Name, Sums]:
    """Return what the aggregates of these records have to be."""
    found: dict[Name, Sums] = defaultdict(Sums)
    for record in records:
        org, api = record["OrgID"], record["APIID"]
        if not org or record["GraphQLStats"]["IsGraphQL"] or is_mcp(record):
            continue
        second = record["TimeStamp"][0]
        hour = second - second % 3600
        total = found[org, hour, "", "total"]
        if record["ResponseCode"] == -1:
            network = record["Network"]
            total.open += network["OpenConnections"]
            total.closed += network["ClosedConnection"]
            total.last = max(total.last, tuple(record["TimeStamp"]))
            places = [("", "total"), ("apiid", api)] if api else [("", "total")]
            for dimension, key in places:
                sums = found[org, hour, dimension, key]
                sums.bytes_in += network["BytesIn"]
                sums.bytes_out += network["BytesOut"]
            continue
        total.hit(record)
        for dimension, key in touched(record):
            found[org, hour, dimension, key].hit(record)
    return dict(found)


def touched(record: Record) -> Iterator[tuple[str, str]]:
    """Yield the counters of a request beside the total."""
    api, version, path = record["APIID"], record["APIVersion"], record["Path"]
    code, key, oauth = record["ResponseCode"], record["APIKey"], record["OauthID"]
    if api:
        yield "apiid", api
    if code >= 400:
        yield "errors", str(code)
    if version:
        yield "versions", base64_of(f"{api}:{version}")
    if key:
        yield "apikeys", key
    if oauth:
        yield "oauthids", oauth
    if country := record["Geo"]["Country"]["ISOCode"]:
        yield "geo", country
    for tag in record["Tags"] or ():
        cleaned = tag.strip().replace(".", "")
        if cleaned and not tag.startswith("key-"):
            yield "tags", cleaned
    if record["TrackPath"]:
        yield "endpoints", path.replace(".", "\\u2e")
        yield "apiendpoints", f"{api}:{version}:{path}".encode().hex()
        if key:
            yield "keyendpoints", f"{key}.{base64_of(f'{api}:{path}')}"
        if oauth:
            yield "oauthendpoints", f"{oauth}.{base64_of(f'{api}:{path}')}"


def base64_of(text: str) -> str:
    """Return what stands for a text in a key."""
    return base64.b64encode(text.encode()).decode().rstrip("=")


# What is stored


def stored_in_sql(database: Database) -> dict[Name, Sums]:
    """Return the rows of the aggregates."""
    columns = (
        *("org_id", "timestamp", "dimension", "dimension_value"),
        *("counter_hits", "counter_success", "counter_error"),
        *("counter_total_request_time", "counter_total_latency"),
        *("counter_total_upstream_latency", "counter_max_latency"),
        *("counter_max_upstream_latency", "counter_min_latency"),
        *("counter_min_upstream_latency", "counter_open_connections"),
        *("counter_closed_connections", "counter_bytes_in", "counter_bytes_out"),
        *("counter_last_time", "counter_request_time", "counter_latency"),
        *("counter_upstream_latency", *(f"code_{code}" for code in CODES)),
    )
    # No name but this one is a word of SQL.
    quote = '"timestamp"' if database.dialect == "postgres" else "`timestamp`"
    words = ", ".join(quote if name == "timestamp" else name for name in columns)
    found: dict[Name, Sums] = {}
    for values in database.query(f"SELECT {words} FROM tyk_aggregated"):
        row = dict(zip(columns, values, strict=True))
        name = tuple(row.pop(column) for column in columns[:4])
        assert name not in found, f"{database.dialect}: {name} is there twice"
        averages = [row[f"counter_{which}"] for which in AVERAGES]
        codes = {code: row[f"code_{code}"] for code in CODES if row[f"code_{code}"]}
        sums = found[name] = Sums(codes=codes, last=_instant(row["counter_last_time"]))
        for attribute, column in zip(NUMBERS, columns[4:18], strict=True):
            setattr(sums, attribute, row[column])
        check_averages(f"{database.dialect}: {name}", sums, averages)
    return found


def stored_in_mongo(server: MongoServer, collection: str) -> dict[Name, Sums]:
    """Return the counters of the documents of a collection, their lists checked."""
    found: dict[Name, Sums] = {}
    for document in server.documents(collection):
        org, hour = document["orgid"], _instant(document["timestamp"])[0]
        about = f"{collection}: {org}, {hour}"
        assert (org, hour, "", "total") not in found, f"{about} is there twice"
        counters = dict(_counters(document))
        for (dimension, key), counter in counters.items():
            sums = found[org, hour, dimension, key] = _of_mongo(counter)
            averages = [counter[name] for name in MONGO_AVERAGES]
            check_averages(f"{about}, {dimension}, {key}", sums, averages)
        shown = Counter(map(_listed, counters.values()))
        shown[_listed(document["total"])] -= 1
        lists = Counter(_listed(element) for element in _elements(document["lists"]))
        assert lists == +shown, f"{about}: the lists do not show the counters"
    return found


AVERAGES = ("request_time", "latency", "upstream_latency")
MONGO_AVERAGES = ("requesttime", "latency", "upstreamlatency")


def check_averages(about: str, sums: Sums, averages: list[float]) -> None:
    """Assert that averages are those of the sums beside them."""
    totals = (sums.request_time, sums.latency, sums.upstream)
    right = [float(total) / sums.hits if sums.hits else 0 for total in totals]
    assert [float(each) for each in averages] == pytest.approx(right), about


def _counters(document: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str], Any]]:
    yield ("", "total"), document["total"]
    for dimension, counters in document.items():
        if dimension.startswith("_") or dimension in {"total", "lists", "timeid"}:
            continue
        for name, value in counters.items() if isinstance(counters, dict) else ():
            key = name.replace("%2E", ".")
            if dimension not in {"keyendpoints", "oauthendpoints"}:
                yield (dimension, key), value
                continue
            for inner, counter in value.items():
                yield (dimension, f"{key}.{inner}"), counter


def _elements(lists: Any) -> Iterator[Any]:
    """Yield the elements of all lists, however deep."""
    if isinstance(lists, list):
        yield from lists
    else:
        for inner in lists.values():
            yield from _elements(inner)


def _listed(counter: Mapping[str, Any]) -> tuple[Any, ...]:
    names = ("identifier", "humanidentifier", "hits", "errortotal", "lasttime")
    sums = ("totalrequesttime", "totallatency", "bytesin", "maxlatency")
    codes = tuple((each["code"], each["count"]) for each in counter["errorlist"])
    return *(counter[name] for name in (*names, *sums, *MONGO_AVERAGES)), codes


def _of_mongo(counter: Mapping[str, Any]) -> Sums:
    errors = counter.get("errormap") or {}
    assert [(each["code"], each["count"]) for each in counter["errorlist"]] == sorted(
        errors.items()
    )
    return Sums(
        hits=counter["hits"],
        success=counter["success"],
        errors=counter["errortotal"],
        request_time=counter["totalrequesttime"],
        latency=counter["totallatency"],
        upstream=counter["totalupstreamlatency"],
        max_latency=counter["maxlatency"],
        max_upstream=counter["maxupstreamlatency"],
        min_latency=counter.get("minlatency"),
        min_upstream=counter.get("minupstreamlatency"),
        open=counter["openconnections"],
        closed=counter["closedconnections"],
        bytes_in=counter["bytesin"],
        bytes_out=counter["bytesout"],
        codes=errors,
        last=_instant(counter["lasttime"]),
    )


def _instant(when: datetime | str) -> tuple[int, int]:
    if isinstance(when, str):
        assert when.startswith("0000-00-00")  # MySQL's date that is none
        return NEVER
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    seconds = int(when.replace(microsecond=0).timestamp())
    return seconds, when.microsecond * 1000


def with_columns(wanted: dict[Name, Sums]) -> dict[Name, Sums]:
    """Return the counters as rows show them: codes without a column are summed up."""
    for sums in wanted.values():
        codes: dict[str, int] = {}
        for code, hits in sums.codes.items():
            column = code if code in CODES else f"{code[0]}x"
            codes[column] = codes.get(column, 0) + hits
        sums.codes = codes
    return wanted


def compare(where: str, wanted: dict[Name, Sums], found: dict[Name, Sums]) -> None:
    """Assert that these are the same counters, and say which is not."""
    missing, foreign = wanted.keys() - found.keys(), found.keys() - wanted.keys()
    assert not missing, f"{where}: {len(missing)} missing, {sorted(missing)[:3]}"
    assert not foreign, f"{where}: {len(foreign)} unknown, {sorted(foreign)[:3]}"
    wrong = [name for name in wanted if wanted[name] != found[name]]
    told = [f"{name}:\n  {wanted[name]}\n  {found[name]}" for name in wrong[:3]]
    assert not wrong, f"{where}: {len(wrong)} wrong\n" + "\n".join(told)


def check_raw(where: str, wanted: list[Record], found: list[tuple[Any, ...]]) -> None:
    """Assert that each of these records is there, once and as it was."""
    right = {_brief(record) for record in wanted}
    times = Counter(found)
    missing, foreign = right - times.keys(), times.keys() - right
    assert not missing, f"{where}: {len(missing)} lost, {sorted(missing)[:3]}"
    assert not foreign, f"{where}: {len(foreign)} unknown, {sorted(foreign)[:3]}"
    twice = [name for name, number in times.items() if number > 1]
    assert not twice, f"{where}: {len(twice)} doubled, {twice[:3]}"


def _brief(record: Record) -> tuple[Any, ...]:
    names = ("RawPath", "OrgID", "APIKey", "ResponseCode", "RequestTime")
    return tuple(record[name] for name in names)


# The audit


class Stores:
    """The databases, and the pumps that write into them."""

    def __init__(
        self,
        mongo: MongoServer,
        turns: Turns,
        postgres: PostgresServer,
        maria: Database,
    ) -> None:
        self.mongo = mongo
        self.turns = turns
        self.servers: list[Server] = [mongo, postgres]
        self.postgres = postgres.database()
        self.maria = maria

    @property
    def sections(self) -> dict[str, Any]:
        """Return the pumps of the configuration."""
        address = {"mongo_url": self.turns.url()}
        into = {"type": "postgres", "connection_string": self.postgres.dsn}
        mysql = {"type": "mysql", "connection_string": self.maria.dsn}
        found: dict[str, Any] = {
            "mongo": {
                "type": "mongo",
                "meta": {**address, "collection_name": "tyk_analytics"},
            },
            "mongo-pump-aggregate": {
                "type": "mongo-pump-aggregate",
                "meta": address,
            },
            "sql": {"type": "sql", "meta": into},
            "sql_aggregate": {"type": "sql_aggregate", "meta": into},
            "maria": {"type": "sql_aggregate", "meta": mysql},
        }
        if not COUNTED_IN_MONGO:
            del found["mongo-pump-aggregate"]
        for section in found.values():
            section["retry"] = {"initial": 0.05, "max": 0.3}
        return found

    def restart(self, chance: random.Random) -> None:
        """Kill the database whose turn it is, and start it again after a moment."""
        self.servers.reverse()
        server = self.servers[0]
        server.kill()
        time.sleep(chance.random() * 0.5)
        server.restart()

    def check(self, records: list[Record]) -> None:
        """Assert that they hold these records, and what these add up to."""
        plain = [record for record in records if not is_mcp(record)]
        names = "rawpath, orgid, apikey, responsecode, requesttime"
        rows = self.postgres.query(f"SELECT {names} FROM tyk_analytics")
        check_raw("sql", plain, rows)
        hits = [record for record in plain if record["ResponseCode"] != -1]
        documents = self.mongo.documents("tyk_analytics")
        fields = names.split(", ")
        values = [tuple(each[name] for name in fields) for each in documents]
        check_raw("mongo", hits, values)

        wanted = counted(records)
        if COUNTED_IN_MONGO:
            self.check_mongo(wanted)
        rows_wanted = with_columns(wanted)
        compare("sql_aggregate", rows_wanted, stored_in_sql(self.postgres))
        compare("MariaDB", rows_wanted, stored_in_sql(self.maria))

    def check_mongo(self, wanted: dict[Name, Sums]) -> None:
        """Assert that MongoDB's aggregates are these."""
        own: dict[Name, Sums] = {}
        for org in {name[0] for name in wanted}:
            collection = f"z_tyk_analyticz_aggregate_{org}"
            own |= stored_in_mongo(self.mongo, collection)
        compare("mongo-pump-aggregate", wanted, own)


@pytest.fixture
def stores(
    make_mongo: Callable[..., MongoServer],
    make_postgres: Callable[..., PostgresServer],
    maria_server: Databases,
) -> Iterator[Stores]:
    """Give all of them; MariaDB is not restarted: that takes too long."""
    mongo = make_mongo()
    with Turns(mongo.port) as turns:
        yield Stores(mongo, turns, make_postgres(), maria_server.database())


@pytest.mark.timeout(KILLS_TIMEOUT)
def test_audit_after_kills_and_restarts(
    tmp_path: Path, make_redis: Callable[..., Any], stores: Stores
) -> None:
    """Raw stores hold each record once, the aggregates are what a plain loop counts."""
    server = make_redis()
    client: redis.Redis = server.client()
    chance = random.Random(5)
    records = list(traffic(chance))
    settings: dict[str, Any] = {
        "window_records": min(1000, RECORDS // 12),
        "beat_timeout": 10,
    }
    instances = [
        Daemon(tmp_path / name, server.port, stores.sections, **settings)
        for name in ("a", "b")
    ]
    with contextlib.ExitStack() as stack:
        for instance in instances:
            stack.enter_context(instance)
            instance.start()
        for instance in instances:
            instance.wait_ready()
        size = -(-len(records) // ROUNDS)
        for number in range(ROUNDS):
            push(client, records[number * size : (number + 1) * size])
            time.sleep(chance.random() * 0.5)
            what = STRIKES[number % len(STRIKES)]
            strike(chance.choice(instances), chance, [what])
            if number % 2:
                stores.restart(chance)
            time.sleep(chance.random())
        wait_settled(instances[0], client, SETTLE_SECONDS)
        for instance in instances:
            assert dead_letters(instance) == [], instance.tail()
            assert instance.stop() == 0, instance.tail()
    stores.check(records)


def push(client: redis.Redis, records: list[Record]) -> None:
    """Push records as gateways do."""
    for first in range(0, len(records), 500):
        part = records[first : first + 500]
        client.rpush(LIST, *(msgpack.packb(record) for record in part))
