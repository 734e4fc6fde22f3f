"""Records to counters: nothing depends on order and splits, and defects put right."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.aggregate.plain import api_aggregates
from tyk_pump.aggregate.aggregator import Aggregator
from tyk_pump.aggregate.counter import Counter
from tyk_pump.aggregate.dimensions import GRAPHQL, MCP, SHARED, Family
from tyk_pump.aggregate.model import TOTAL, Aggregate, Key, Place
from tyk_pump.record.analytics import (
    ALL,
    MAX_INT,
    ZERO_TIME,
    AnalyticsRecord,
    Country,
    Geo,
    GraphQLStats,
    Latency,
    MCPStats,
    Network,
)

HOUR = 1_773_493_200
NUMBERS = st.one_of(st.integers(0, 50), st.sampled_from([-7, MAX_INT, MAX_INT - 1]))
TEXTS = st.sampled_from(["", "a", "a.b", "$c", "d"])
CODES = st.sampled_from([-1, 0, 100, 200, 204, 301, 400, 404, 500, 999])


def names(*found: str) -> st.SearchStrategy[str]:
    return st.sampled_from(found)


GRAPHS = st.builds(
    GraphQLStats,
    is_graphql=st.booleans(),
    has_errors=st.booleans(),
    operation_type=st.sampled_from([-1, 0, 1, 2, 3, 4]),
    types=st.one_of(
        st.none(),
        st.dictionaries(
            names("Query", "User"), st.one_of(st.none(), st.lists(names("id", "name")))
        ),
    ),
    root_fields=st.one_of(st.none(), st.lists(names("orders", "users"), max_size=3)),
)
CALLS = st.builds(
    MCPStats,
    is_mcp=st.booleans(),
    jsonrpc_method=names("", "tools/call"),
    primitive_type=names("", "tool"),
    primitive_name=names("", "weather", "x.y"),
)
RECORDS = st.builds(
    AnalyticsRecord,
    org_id=names("", "org1", "org2"),
    api_id=names("", "api1", "api2"),
    api_name=names("Users", "Orders"),
    api_version=names("", "v1"),
    api_key=TEXTS,
    alias=names("", "alice", "bob"),
    oauth_id=TEXTS,
    path=names("", "/users", "/a.b"),
    track_path=st.booleans(),
    response_code=CODES,
    request_time=NUMBERS,
    timestamp=st.one_of(
        st.tuples(st.integers(HOUR - 10, HOUR + 7300), st.integers(0, 2)),
        st.just(ZERO_TIME),
    ),
    expire_at=st.tuples(st.integers(HOUR, HOUR + 3), st.just(0)),
    tags=st.one_of(
        st.none(), st.lists(names("key-1", " x.y ", "xy", ".", "env-1"), max_size=3)
    ),
    geo=st.builds(Geo, country=st.builds(Country, iso_code=names("", "GB"))),
    latency=st.builds(Latency, total=NUMBERS, upstream=NUMBERS),
    network=st.builds(
        Network,
        open_connections=NUMBERS,
        closed_connection=NUMBERS,
        bytes_in=NUMBERS,
        bytes_out=NUMBERS,
    ),
    graphql_stats=st.one_of(st.builds(GraphQLStats), GRAPHS),
    mcp_stats=st.one_of(st.builds(MCPStats), CALLS),
    zone=names("", "Asia/Kolkata", "Asia/Kathmandu", "UTC"),
)
BATCHES = st.lists(RECORDS, max_size=30)
FAMILIES: list[Family] = ["api", "graphql", "mcp"]


def merged(parts: Iterable[dict[Key, Aggregate]]) -> dict[Key, Aggregate]:
    found: dict[Key, Aggregate] = {}
    for part in parts:
        for key, aggregate in part.items():
            found.setdefault(key, Aggregate()).merge(aggregate)
    return found


@settings(deadline=None)
@given(BATCHES, st.sampled_from([1, 7, 30, 60]), st.booleans())
def test_the_quick_way_counts_as_the_plain_one(
    records: list[AnalyticsRecord], window: int, all_paths: bool
) -> None:
    quick = Aggregator(
        "api",
        window=window,
        track_all_paths=all_paths,
        ignored_tag_prefixes=["env-"],
    )
    plain = api_aggregates(
        records, window=window, all_paths=all_paths, prefixes=["env-"]
    )
    assert quick.aggregate(records) == plain
    assert quick.aggregate(records) == plain  # what was kept changes nothing


@settings(deadline=None)
@given(BATCHES, st.sampled_from(FAMILIES), st.randoms(use_true_random=False))
def test_any_split_in_any_order_gives_the_same(
    records: list[AnalyticsRecord], family: Family, chance: random.Random
) -> None:
    """To the last digit: all sums are whole numbers, averages are made of them."""
    whole = Aggregator(family).aggregate(records)
    mixed = chance.sample(records, len(records))
    cuts = sorted(chance.randint(0, len(mixed)) for _ in range(3))
    pieces = [mixed[a:b] for a, b in zip([0, *cuts], [*cuts, len(mixed)], strict=True)]
    parts = [Aggregator(family).aggregate(piece) for piece in pieces]
    assert merged(parts) == whole
    assert merged([merged(parts[2:]), merged(parts[:2])]) == whole


@settings(deadline=None)
@given(BATCHES, st.sampled_from(FAMILIES))
def test_what_is_passed_over_is_of_no_family_or_of_another(
    records: list[AnalyticsRecord], family: Family
) -> None:
    subject = Aggregator(family)
    counted = [record for record in records if subject.counts(record)]
    whole = subject.aggregate(records)
    assert subject.passed_over == len(records) - len(counted)
    assert subject.aggregate(counted) == whole
    assert subject.passed_over == 0


@settings(deadline=None)
@given(BATCHES, st.sets(st.sampled_from(SHARED)), st.sampled_from(FAMILIES))
def test_ignored_dimensions_are_left_out_and_change_nothing_else(
    records: list[AnalyticsRecord], ignored: set[str], family: Family
) -> None:
    every = Aggregator(family).aggregate(records)
    for aggregate in every.values():
        for place in list(aggregate.counters):
            if place.dimension in ignored:
                del aggregate.counters[place]
    assert Aggregator(family, ignored=ignored).aggregate(records) == every


@settings(deadline=None)
@given(BATCHES, st.sampled_from(FAMILIES))
def test_nothing_is_read_but_the_fields(
    records: list[AnalyticsRecord], family: Family
) -> None:
    """The worker decodes no others."""
    subject = Aggregator(family)
    assert set(subject.fields) <= set(ALL)
    kept = (*subject.fields, "zone")
    partial = msgspec.defstruct("PartialRecord", kept)
    cut: list[Any] = [partial(*(getattr(r, name) for name in kept)) for r in records]
    assert subject.aggregate(cut) == subject.aggregate(records)


def record(**values: Any) -> AnalyticsRecord:
    usual: dict[str, Any] = {
        "org_id": "org1",
        "api_id": "api1",
        "api_name": "Users",
        "timestamp": (HOUR, 0),
        "response_code": 200,
    }
    return AnalyticsRecord(**(usual | values))


def only(found: dict[Key, Aggregate]) -> Aggregate:
    (aggregate,) = found.values()
    return aggregate


def api(*records: AnalyticsRecord, **options: Any) -> Aggregate:
    return only(Aggregator("api", **options).aggregate(records))


def test_each_record_is_booked_on_its_own_hour() -> None:
    late, early = record(timestamp=(HOUR + 3600, 0)), record(timestamp=(HOUR + 3599, 9))
    found = Aggregator("api").aggregate([late, early])
    assert {key.start for key in found} == {HOUR, HOUR + 3600}
    assert [aggregate.total.hits for aggregate in found.values()] == [1, 1]


def test_a_late_record_keeps_its_short_window() -> None:
    times = [HOUR + 31 * 60, HOUR + 29 * 60, HOUR + 30 * 60]
    records = [record(timestamp=(time, 0)) for time in times]
    found = Aggregator("api", window=30).aggregate(records)
    assert {key.start: a.total.hits for key, a in found.items()} == {
        HOUR: 1,
        HOUR + 1800: 2,
    }


def test_a_report_of_the_network_is_no_hit_and_harms_nothing() -> None:
    """In any order with errors and hits of the same API."""
    report = record(response_code=-1, network=Network(3, 2, 120, 340))
    failed = record(response_code=500, latency=Latency(total=9, upstream=8))
    found = api(report, failed, record(latency=Latency(total=25, upstream=24)), report)
    assert (found.total.hits, found.total.open_connections) == (2, 6)
    counter = found.counters[Place("apiid", "api1")]
    assert (counter.bytes_in, counter.bytes_out) == (240, 680)
    assert (counter.open_connections, counter.closed_connections) == (0, 0)
    assert (counter.hits, counter.error_map) == (2, {"500": 1})
    assert (counter.min_latency, counter.min_upstream_latency) == (25, 24)


def test_reports_alone_have_no_minimum_and_no_average() -> None:
    found = api(record(response_code=-1, network=Network(bytes_in=1)))
    counter = found.counters[Place("apiid", "api1")]
    assert (counter.hits, counter.latency, counter.request_time) == (0, 0.0, 0.0)
    assert (counter.min_latency, counter.max_latency) == (None, 0)
    assert counter.last_time == ZERO_TIME
    assert found.total.last_time == found.last_time == (HOUR, 0)


@pytest.mark.parametrize("turned", [False, True])
def test_an_error_sets_no_minimum(turned: bool) -> None:
    records = [
        record(response_code=500, latency=Latency(total=1, upstream=0)),
        record(response_code=302, latency=Latency(total=7, upstream=6)),
        record(response_code=200, latency=Latency(total=9, upstream=8)),
    ]
    found = api(*(reversed(records) if turned else records))
    for counter in (found.total, found.counters[Place("apiid", "api1")]):
        assert (counter.min_latency, counter.min_upstream_latency) == (7, 6)
        assert counter.max_latency == 9
    assert found.counters[Place("errors", "500")].min_latency is None


def test_times_are_those_of_the_latest_record_not_of_the_last_to_come() -> None:
    newer = record(timestamp=(HOUR + 9, 0), api_name="New", expire_at=(HOUR + 50, 0))
    older = record(timestamp=(HOUR + 1, 0), api_name="Old", expire_at=(HOUR + 90, 0))
    found = api(newer, older)
    counter = found.counters[Place("apiid", "api1")]
    assert counter.last_time == found.last_time == (HOUR + 9, 0)
    assert counter.human_identifier == "New"
    assert found.expire_at == (HOUR + 90, 0)


def test_sums_beyond_64_bits_stay_whole() -> None:
    big = record(latency=Latency(total=MAX_INT, upstream=MAX_INT), request_time=2**60)
    found = api(big, big)
    assert found.total.total_latency == 2 * MAX_INT
    assert found.total.latency == float(MAX_INT)
    assert found.total.request_time == float(2**60)


def test_a_key_names_the_day_where_tables_are_split() -> None:
    subject = Aggregator("api", by_day=True)
    midnight = record(timestamp=(HOUR, 0), zone="Asia/Kolkata")
    (key,) = subject.aggregate([midnight])
    assert key == Key("org1", "", HOUR - 1800, "20260314")


def test_two_organisations_share_no_api() -> None:
    both = [
        record(org_id=org, mcp_stats=MCPStats(is_mcp=True)) for org in ("org1", "org2")
    ]
    assert set(Aggregator("mcp").aggregate(both)) == {
        Key("org1", "api1", HOUR),
        Key("org2", "api1", HOUR),
    }


def test_records_of_other_families_are_passed_over() -> None:
    graph = record(graphql_stats=GraphQLStats(is_graphql=True))
    call = record(org_id="", mcp_stats=MCPStats(is_mcp=True))
    both = record(
        graphql_stats=GraphQLStats(is_graphql=True), mcp_stats=MCPStats(is_mcp=True)
    )
    plain, nobody = record(), record(org_id="")
    records = [graph, call, both, plain, nobody]

    def hits(family: Family) -> int:
        found = Aggregator(family).aggregate(records)
        return sum(aggregate.total.hits for aggregate in found.values())

    assert (hits("api"), hits("graphql"), hits("mcp")) == (1, 2, 2)


@pytest.mark.parametrize(
    ("code", "failed", "success", "errors"),
    [
        (200, False, 1, 0),
        (200, True, 0, 1),
        (302, False, 0, 0),
        (302, True, 0, 1),
        (500, False, 0, 1),
        (500, True, 0, 1),
    ],
)
def test_graphql_errors_are_errors_of_what_was_asked(
    code: int, failed: bool, success: int, errors: int
) -> None:
    """In the family's own dimensions; the shared ones follow the status."""
    stats = GraphQLStats(
        is_graphql=True,
        has_errors=failed,
        operation_type=1,
        types={"Query": ["orders", "orders"]},
        root_fields=["orders"],
    )
    found = only(
        Aggregator("graphql").aggregate(
            [record(response_code=code, graphql_stats=stats)]
        )
    )
    own = {p: c for p, c in found.counters.items() if p.dimension in GRAPHQL}
    assert set(own) == {
        Place("operation", "Query"),
        Place("types", "Query"),
        Place("fields", "Query_orders"),
        Place("rootfields", "orders"),
    }
    assert own[Place("fields", "Query_orders")].hits == 2
    counter = own[Place("operation", "Query")]
    assert (counter.success, counter.errors) == (success, errors)
    assert counter.error_map == ({"500": 1} if code == 500 else {})
    shared = found.counters[Place("apiid", "api1")]
    assert (shared.success, shared.errors) == (int(code == 200), int(code == 500))


def test_an_operation_nobody_knows_has_no_name() -> None:
    for number, name in [(-1, ""), (0, ""), (3, "Subscription"), (4, "")]:
        stats = GraphQLStats(is_graphql=True, operation_type=number)
        found = only(Aggregator("graphql").aggregate([record(graphql_stats=stats)]))
        assert Place("operation", name) in found.counters


def test_mcp_names_stand_with_their_type() -> None:
    typed = MCPStats(True, "tools/call", "tool", "weather")
    bare = MCPStats(True, "", "", "weather")
    found = only(
        Aggregator("mcp").aggregate([record(mcp_stats=s) for s in (typed, bare)])
    )
    own = {p: c for p, c in found.counters.items() if p.dimension in MCP}
    assert {p: (c.identifier, c.human_identifier) for p, c in own.items()} == {
        Place("methods", "tools/call"): ("tools/call", "tools/call"),
        Place("primitives", "tool"): ("tool", "tool"),
        Place("names", "tool_weather"): ("tool_weather", "weather"),
        Place("names", "weather"): ("weather", "weather"),
    }


def test_options_hold_in_every_family() -> None:
    """The reference heeds them in one."""
    stats = MCPStats(is_mcp=True)
    tagged = record(mcp_stats=stats, path="/a.b", tags=["env-1", "x"])
    subject = Aggregator(
        "mcp",
        track_all_paths=True,
        ignored_tag_prefixes=["env-"],
        ignored=["apiendpoints"],
    )
    found = only(subject.aggregate([tagged]))
    assert set(found.counters) == {
        Place("apiid", "api1"),
        Place("tags", "x"),
        Place("endpoints", "/a\\u2eb"),
    }


def test_the_total_comes_first_of_all() -> None:
    found = api(record())
    assert [place for place, _ in found.all()] == [TOTAL, Place("apiid", "api1")]
    assert Place("keyendpoints", "k", "YQ").dimension_value == "k.YQ"


def test_what_clients_make_long_is_counted_and_not_kept() -> None:
    """Else paths and tags that never come again would stay in memory."""
    long = record(path="/" + "x" * 100_000, track_path=True)
    many = record(tags=[f"t{number}" for number in range(1000)])
    subject = Aggregator("api")
    for _ in range(2):
        found = only(subject.aggregate([long, many]))
        assert found.total.hits == 2
        assert len(found.counters) == 1003
    assert subject._plans == {}
    assert len(subject._planner._wides) == 1


def test_merged_aggregates_share_no_counters() -> None:
    first, second = api(record(response_code=500)), Aggregate()
    second.merge(first)
    second.merge(first)
    assert first.counters[Place("apiid", "api1")].error_map == {"500": 1}
    assert second.counters[Place("apiid", "api1")].error_list == [("500", 2)]


def test_codes_of_errors_are_sorted_as_texts() -> None:
    assert Counter(error_map={"500": 1, "1000": 2}).error_list == [
        ("1000", 2),
        ("500", 1),
    ]
