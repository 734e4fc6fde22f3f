"""The Mongo aggregate pumps: whatever fails, each record is counted once."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from bson.datetime_ms import DatetimeMS
from bson.objectid import ObjectId

from tests.golden.test_mongo_aggregate import check_whole, counters, stored
from tests.servers import mongowire
from tests.servers.mongo import MongoServer
from tests.servers.mongowire import TOO_LARGE, Answer, Command, MongoWire
from tyk_pump import pumps
from tyk_pump.aggregate.aggregator import Aggregator
from tyk_pump.aggregate.counter import Counter
from tyk_pump.aggregate.dimensions import TWO_LEVELS
from tyk_pump.aggregate.model import TOTAL, Aggregate
from tyk_pump.config.options import Secret
from tyk_pump.errors import RejectedRecords, TransientError
from tyk_pump.pumps.protocol import Batch, Pump
from tyk_pump.record.analytics import AnalyticsRecord, Latency, MCPStats, Network
from tyk_pump.transport.mongo_aggregates import AggregateOptions

HOUR = 1_773_478_800
"""2026-03-14 09:00 UTC."""
PER_ORG = "z_tyk_analyticz_aggregate_"


@pytest.fixture
def server(mongo_server: MongoServer) -> MongoServer:
    """A server that counts, empty."""
    mongo_server.clear()
    return mongo_server


@pytest.fixture
def wire(server: MongoServer) -> Iterator[MongoWire]:
    """What stands between the pumps and the server, and fails on demand."""
    with MongoWire(upstream=server.port) as wire:
        yield wire


@pytest.fixture
def opened(wire: MongoWire) -> Iterator[Callable[..., Pump]]:
    """Make open pumps; they are closed after the test."""
    made: list[Pump] = []

    def open_pump(kind: str = "mongo-pump-aggregate", **options: Any) -> Pump:
        url = Secret(wire.url())
        while True:
            pump = pumps.load(kind)(AggregateOptions(mongo_url=url, **options))
            try:
                pump.open()
            except TransientError:
                continue
            made.append(pump)
            return pump

    yield open_pump
    for pump in made:
        pump.close()


def record(at: int = HOUR, **fields: Any) -> AnalyticsRecord:
    """Return a record of an organisation."""
    made = AnalyticsRecord(
        org_id="org",
        api_id="api",
        api_name="Name",
        response_code=200,
        timestamp=(at, 0),
        expire_at=(at + 86_400, 0),
        request_time=10,
        latency=Latency(total=7, upstream=5),
    )
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def traffic(rng: random.Random, count: int) -> list[AnalyticsRecord]:
    """Return records of two organisations, two hours, odd keys among them."""
    return [
        record(
            HOUR + rng.randrange(7200),
            org_id=rng.choice(("org", "other")),
            api_id=rng.choice(("a", "b.c", "$d")),
            api_key=rng.choice(("", "key", "a.b", "%2E")),
            oauth_id=rng.choice(("", "client")),
            tags=rng.sample(["x", "y.z", "$t"], rng.randrange(3)),
            path=rng.choice(("/a", "/b.json", "")),
            track_path=rng.random() < 0.3,
            response_code=rng.choice((200, 200, 302, 404, 500, -1)),
            request_time=rng.randrange(100),
            latency=Latency(total=rng.randrange(50), upstream=rng.randrange(20)),
            network=Network(bytes_in=rng.randrange(9), open_connections=1),
        )
        for _ in range(count)
    ]


def batch(
    records: Sequence[AnalyticsRecord], first: int = 0, stream: str = "S", **more: Any
) -> Batch:
    """Return records as a batch."""
    positions = range(first, first + len(records))
    return Batch(stream, 0, "l", positions, list(records), cursor="p.x", **more)


def expected(records: Sequence[AnalyticsRecord]) -> dict[tuple[str, int], Aggregate]:
    """Return what an independent run over all records counts."""
    found = Aggregator("api").aggregate(records)
    return {(key.org_id, key.start): aggregate for key, aggregate in found.items()}


def check(server: MongoServer | MongoWire, records: Sequence[AnalyticsRecord]) -> None:
    """See that each collection of an organisation has each record once."""
    rows = stored(server)
    check_whole(rows)
    mine = [row["document"] for row in rows if row["collection"].startswith("z_")]
    check_counts(mine, records)
    mixed = [row["document"] for row in rows if not row["collection"].startswith("z_")]
    if mixed:
        check_counts(mixed, records)


def check_counts(
    documents: Sequence[dict[str, Any]], records: Sequence[AnalyticsRecord]
) -> None:
    """See that the documents of an hour have together what its records count."""
    found: dict[tuple[str, int], dict[tuple[str, ...], dict[str, Any]]] = {}
    for document in documents:
        start = int(document["timestamp"]) // 1000
        kept = found.setdefault((document["orgid"], start - start % 3600), {})
        for place, counter in counters(document).items():
            values = values_of(counter)
            kept[place] = added(kept[place], values) if place in kept else values
    wanted = {
        owner: {
            place_name(place): wanted_of(counter) for place, counter in aggregate.all()
        }
        for owner, aggregate in expected(records).items()
    }
    assert found == wanted


def place_name(place: Any) -> tuple[str, ...]:
    if place == TOTAL:
        return ("total",)
    two = place.dimension in TWO_LEVELS
    return place.dimension, f"{place.key}.{place.inner}" if two else place.key


SUMS = {
    "hits": "hits",
    "success": "success",
    "errors": "errortotal",
    "total_request_time": "totalrequesttime",
    "total_latency": "totallatency",
    "total_upstream_latency": "totalupstreamlatency",
    "bytes_in": "bytesin",
    "open_connections": "openconnections",
}


def values_of(counter: dict[str, Any]) -> dict[str, Any]:
    return {
        **{name: counter[field] for name, field in SUMS.items()},
        "max": int(counter["maxlatency"]),
        "min": counter.get("minlatency"),
        "last": int(counter["lasttime"]),
        "map": counter.get("errormap", {}),
    }


def wanted_of(counter: Counter) -> dict[str, Any]:
    return {
        **{name: getattr(counter, name) for name in SUMS},
        "max": counter.max_latency,
        "min": counter.min_latency,
        "last": counter.last_time[0] * 1000,
        "map": counter.error_map,
    }


def added(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    minima = [v["min"] for v in (one, other) if v["min"] is not None]
    codes = one["map"] | other["map"]
    return {
        **{name: one[name] + other[name] for name in SUMS},
        "max": max(one["max"], other["max"]),
        "min": min(minima, default=None),
        "last": max(one["last"], other["last"]),
        "map": {c: one["map"].get(c, 0) + other["map"].get(c, 0) for c in codes},
    }


class Stream:
    """A worker's way through one stream: frames of any size, repeated at will."""

    def __init__(self, name: str, records: list[AnalyticsRecord], made: Any) -> None:
        self.name = name
        self.records = records
        self.settled = 0
        self._made = made
        self._pump = made()

    def step(self, rng: random.Random) -> None:
        """Write some more; after a failure perhaps in a new process, cut anew."""
        if rng.random() < 0.1:
            self._pump = self._made()
        # What was settled shortly before may not be known to be so.
        first = max(0, self.settled - rng.choice((0, 0, 0, 3)))
        end = min(len(self.records), first + rng.randrange(1, 40))
        part = batch(self.records[first:end], first, self.name)
        while len(part):
            try:
                self._pump.write(part)
                break
            except TransientError as exc:
                if rng.random() < 0.5:
                    return  # the frame is not answered: it comes again, cut anew
                if exc.pending is not None:
                    part = part.part(exc.pending)
        self.settled = max(self.settled, end)

    @property
    def done(self) -> bool:
        """Whether all is settled."""
        return self.settled == len(self.records)


class Weather:
    """Lets commands fail before they are done, or their answers get lost.

    Mostly by an error that leaves the connection: a new one takes half a second.
    """

    def __init__(self, rng: random.Random, wire: MongoWire, often: float) -> None:
        self._rng = rng
        self._wire = wire
        self._often = often

    def __call__(self, command: Command) -> Answer | None:
        if self._rng.random() >= self._often:
            return None
        kind = self._rng.randrange(20)
        if kind == 0:
            return Answer(cut=True)
        if kind == 1:
            return Answer(lost=True)
        if kind > 10 and self._wire.upstream is None:
            self._wire.answer(command)
        return mongowire.WRITE_CONFLICT


@pytest.mark.parametrize("seed", range(6))
def test_each_record_is_counted_once(
    seed: int, server: MongoServer, wire: MongoWire, opened: Callable[..., Pump]
) -> None:
    """Two instances, one hour, failures between any two commands, frames repeated."""
    rng = random.Random(seed)
    real = seed == 0
    if not real:
        wire.upstream = None
    streams = [
        Stream(
            name,
            traffic(rng, 40 if real else 150),
            lambda: opened(use_mixed_collection=True),
        )
        for name in ("S1", "S2")
    ]
    wire.judge = Weather(rng, wire, 0.1)
    while left := [stream for stream in streams if not stream.done]:
        rng.choice(left).step(rng)
    check(server if real else wire, [r for one in streams for r in one.records])


class Small:
    """Lets no document of the imitation have more than so many hits."""

    def __init__(self, wire: MongoWire, most: int, then: Any = None) -> None:
        wire.upstream = None
        self._wire = wire
        self._most = most
        self._then = then or (lambda command: None)

    def __call__(self, command: Command) -> Answer | None:
        if command.name == "findAndModify":
            identity = command.body["query"]["_id"]
            kept = self._wire.documents(command.collection)
            known = sum(
                document.get("total", {}).get("hits", 0)
                for document in kept
                if document["_id"] == identity
            )
            if known + command.body["update"]["$inc"]["total.hits"] > self._most:
                return TOO_LARGE
        answer: Answer | None = self._then(command)
        return answer


@pytest.mark.parametrize("seed", range(5))
def test_self_healing_counts_each_record_once(
    seed: int, wire: MongoWire, opened: Callable[..., Pump]
) -> None:
    """Documents that are full, and failures at any command beside."""
    rng = random.Random(seed)

    def made() -> Pump:
        return opened(enable_aggregate_self_healing=True)

    streams = [Stream(name, traffic(rng, 120), made) for name in ("S1", "S2")]
    wire.judge = Small(wire, 20, Weather(rng, wire, 0.1))
    while left := [stream for stream in streams if not stream.done]:
        rng.choice(left).step(rng)
    check(wire, [r for stream in streams for r in stream.records])
    documents = wire.documents(f"{PER_ORG}org")
    assert len({d["_tyk_pump"]["window"] for d in documents}) > 1


def test_a_full_document_without_self_healing(
    wire: MongoWire, opened: Callable[..., Pump]
) -> None:
    """Its records wait and name the option; those of others are counted, and what
    nobody counts is left out."""
    pump = opened()
    other = record(mcp_stats=MCPStats(is_mcp=True))
    records = [record() for _ in range(9)] + [record(org_id="o2") for _ in range(3)]
    records.append(other)
    whole = batch(records)
    with (
        wire.judging(Small(wire, 5)),
        pytest.raises(TransientError, match="enable_aggregate_self_healing") as error,
    ):
        pump.write(whole)
    assert error.value.pending == list(range(9))
    assert whole.left_out == 1
    pump.write(whole.part(error.value.pending or []))
    check(wire, records)


def test_averages_are_repaired(
    server: MongoServer, wire: MongoWire, opened: Callable[..., Pump]
) -> None:
    """Who dies after the counts leaves old averages; the retry sees it."""

    def judge(command: Command) -> Answer | None:
        update = str(command.body.get("updates", ""))
        return Answer(cut=True) if "averaged" in update and "total" in update else None

    records = [record(request_time=time) for time in (10, 20)]
    with wire.judging(judge), pytest.raises(TransientError):
        opened().write(batch(records))
    (document,) = server.documents(f"{PER_ORG}org")
    assert document["total"]["hits"] == 2 and "requesttime" not in document["total"]
    opened().write(batch(records))
    (document,) = server.documents(f"{PER_ORG}org")
    assert document["total"]["hits"] == 2 and document["total"]["requesttime"] == 15.0
    check(server, records)


def test_a_document_of_the_reference_is_gone_on_with(
    server: MongoServer, opened: Callable[..., Pump]
) -> None:
    """Whatever its `_id`: it gets the counts, and has no twin."""
    identity = ObjectId()
    total = {"hits": 4, "success": 4, "totalrequesttime": 40.0, "errortotal": 0}
    with server.client() as client:
        client["tyk_analytics"][f"{PER_ORG}org"].insert_one(
            {
                "_id": identity,
                "orgid": "org",
                "timestamp": DatetimeMS(HOUR * 1000),
                "total": total,
                "apikeys": {"a": {"b": {"hits": 1}}},
            }
        )
    opened().write(batch([record(api_key="a.b")] * 2))
    opened().write(batch([record()], 2))
    (document,) = server.documents(f"{PER_ORG}org")
    assert document["_id"] == identity
    assert document["total"]["hits"] == 7
    assert document["total"]["requesttime"] == 10.0
    assert document["apikeys"]["a%2Eb"]["hits"] == 2
    assert len(document["lists"]["apikeys"]) == 1


def test_a_replay_is_a_stream_of_its_own(
    server: MongoServer, opened: Callable[..., Pump]
) -> None:
    """Its records were refused before; repeated it adds nothing."""
    pump = opened()
    pump.write(batch([record()] * 3))
    again = batch([record()] * 2, stream="replay", ids=["S:9", "S:11"])
    pump.write(again)
    pump.write(again)
    check(server, [record()] * 5)


def test_old_marks_are_removed(
    server: MongoServer, opened: Callable[..., Pump], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream of which nothing was heard for a month has no mark any more."""
    opened().write(batch([record()], stream="old"))
    opened().write(batch([record()], stream="new"))
    month = 31 * 86_400
    monkeypatch.setattr("time.time", lambda real=HOUR * 2 + month: float(real))
    opened().write(batch([record()], stream="now"))
    (document,) = server.documents(f"{PER_ORG}org")
    assert list(document["_tyk_pump"]["marks"]) == ["now p%2Ex"]
    check(server, [record()] * 3)


def test_sums_stay_at_the_end_of_64_bits(
    server: MongoServer, opened: Callable[..., Pump]
) -> None:
    """Whether they leave them in one batch or in several."""
    huge = record(latency=Latency(total=2**63 - 10, upstream=2**62))
    pump = opened()
    for first in range(3):
        pump.write(batch([huge], first))
    (document,) = server.documents(f"{PER_ORG}org")
    total = document["total"]
    assert total["hits"] == 3
    assert total["totallatency"] == total["totalupstreamlatency"] == 2**63 - 1
    assert total["totalrequesttime"] == 30.0


def test_keys_that_differ_in_odd_bytes(
    server: MongoServer, opened: Callable[..., Pump]
) -> None:
    """They have one name in BSON, and none is lost; so have organisations."""
    records = [
        record(api_key="a\udcff", org_id="o\udcff"),
        record(api_key="a\udcfe", org_id="o\udcfe"),
    ]
    opened().write(batch(records))
    (document,) = server.documents(f"{PER_ORG}o\ufffd")
    assert document["total"]["hits"] == 2
    assert document["apikeys"]["a\ufffd"]["hits"] == 2


def test_an_organisation_without_a_possible_collection(
    server: MongoServer, opened: Callable[..., Pump]
) -> None:
    """Its records become dead letters, and are in no other collection."""
    pump = opened(use_mixed_collection=True)
    bad = record(org_id="no$")
    other = record(org_id="no$", mcp_stats=MCPStats(is_mcp=True))
    with pytest.raises(RejectedRecords) as error:
        pump.write(batch([record(), bad, other, record()]))
    assert list(error.value.rejected) == [1]
    check(server, [record()] * 2)


def test_a_record_that_no_update_can_hold(
    server: MongoServer, opened: Callable[..., Pump], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It alone becomes a dead letter; a batch that is too large goes in parts."""
    monkeypatch.setattr("tyk_pump.transport.mongo_documents.MAX_UPDATE", 20_000)
    pump = opened()
    fat = record(tags=[f"tag{number}" for number in range(100)])
    several = [record(tags=[f"t{number}"], api_id=f"a{number}") for number in range(20)]
    with pytest.raises(RejectedRecords, match="bytes") as error:
        pump.write(batch([*several[:9], fat, *several[9:]]))
    assert list(error.value.rejected) == [9]
    check(server, several)


def test_many_tags(
    opened: Callable[..., Pump], caplog: pytest.LogCaptureFixture
) -> None:
    """One warning per document names what they have in common."""
    pump = opened(threshold_len_tag_list=3)
    quiet = opened(threshold_len_tag_list=-1)
    tags = ["env-a", "env-b", "env-c", "x"]
    for first in range(2):
        pump.write(batch([record(tags=tags)], first))
        quiet.write(batch([record(tags=tags)], first, "S2"))
    warned = [e.getMessage() for e in caplog.records if "tags" in e.getMessage()]
    assert len(warned) == 1 and "more than 3" in warned[0] and "env-" in warned[0]


def test_options_are_judged_at_the_start(
    opened: Callable[..., Pump], caplog: pytest.LogCaptureFixture
) -> None:
    """A dimension that nobody knows, minutes that no hour has."""
    opened(ignore_aggregations=["APIID", "nonsense"], aggregation_time=61)
    found = [e.getMessage() for e in caplog.records if e.levelno == logging.WARNING]
    assert found == [
        "ignore_aggregations: no such dimension: nonsense",
        "aggregation_time is not 1 to 60, taken as 60: 61",
    ]


def test_a_server_that_dies(server: MongoServer, opened: Callable[..., Pump]) -> None:
    """It is killed between two batches, and comes back with its data."""
    pump = opened()
    pump.write(batch([record()] * 3))
    server.kill()
    with pytest.raises(TransientError):
        pump.write(batch([record()] * 2, 3))
    server.restart()
    pump.write(batch([record()] * 4, 1))
    check(server, [record()] * 5)


def test_apis_of_two_organisations(
    server: MongoServer, opened: Callable[..., Pump]
) -> None:
    """Equal API ids are two documents in the MCP family, each with its owner."""
    stats = MCPStats(is_mcp=True, jsonrpc_method="tools/call")
    records = [record(org_id=org, mcp_stats=stats) for org in ("a", "b", "")]
    opened("mongo-mcp-aggregate", use_mixed_collection=True).write(batch(records))
    mixed = server.documents("tyk_mcp_analytics_aggregate")
    assert sorted(d["orgid"] for d in mixed) == ["", "a", "b"]
    for document in mixed:
        assert document["owner_apiid"] == "api" and document["total"]["hits"] == 1
        assert list(document["methods"]) == ["tools/call"]
        (own,) = server.documents(f"z_tyk_mcp_analyticz_aggregate_{document['orgid']}")
        assert own["total"]["hits"] == 1
