"""The hybrid pump calls MDCB as the reference did, and loses nothing.

Records are compared byte for byte. Aggregates are compared by meaning: the reference
takes the hour of an organisation's first record for all, ours are of their own hours,
each in a call of its own. Where both have one hour, the rest is compared, too.
"""

from __future__ import annotations

import json
import threading
import zlib
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from tests.golden import loader, repair
from tests.golden.deliver import OPENINGS, Delivered, deliver
from tests.golden.loader import Case, corpus
from tests.golden.run import configuration
from tests.servers.mdcb import Answer, Call, Mdcb
from tests.worker.bench import StillClock
from tyk_pump.errors import TransientError
from tyk_pump.transport.gob import Decoder

CASES: Final = {case.name: case for case in loader.cases("hybrid")}
FAILING: Final = {name for name in CASES if name.startswith("fail-")}
COUNTED: Final = {
    n for n, c in CASES.items() if c.pumps["hybrid"]["meta"].get("aggregated")
}
WINDOWED: Final = {
    # The reference stays in the minute of an earlier purge.
    "purges-minute-late-then-early",
}
MEETING: Final = ["Ping", "Login"]
BITS: Final = 2**64

SAME: Final = (
    *("hits", "success", "error", "identifier"),
    *("max_upstream_latency", "max_latency"),
)
NETWORK: Final = ("open_connections", "closed_connections", "bytes_in", "bytes_out")
TOTALS: Final = ("total_latency", "total_upstream_latency")
MINIMA: Final = ("min_latency", "min_upstream_latency")
NESTED: Final = ("KeyEndpoint", "OauthEndpoint")
Counters = dict[tuple[str, ...], dict[str, Any]]


class Run:
    """Delivers cases to an MDCB."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._monkeypatch = monkeypatch

    def __call__(
        self, case: Case, server: Mdcb, clock: StillClock | None = None
    ) -> Delivered:
        live = {"host": "127.0.0.1", "port": str(server.port)}
        return deliver(case, live, self._folder, self._monkeypatch, clock=clock)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Deliver cases to an MDCB."""
    return Run(tmp_path, monkeypatch)


def rows_of(case: Case) -> list[dict[str, Any]]:
    """Return the calls of the reference."""
    rows = loader.json_lines(case.expected("calls.jsonl")[""])
    return [row for row in rows if "call" in row]


@pytest.mark.parametrize("name", sorted(CASES.keys() - FAILING - COUNTED))
def test_records(name: str, run: Run) -> None:
    """Each call has the name and the argument of the reference's."""
    case = CASES[name]
    with Mdcb() as server:
        delivered = run(case, server)
    assert server.failures == []
    rows = rows_of(case)
    assert server.names() == [row["call"] for row in rows]
    ours = [call.argument for call in server.calls]
    theirs = [row.get("arg") for row in rows]
    if case.codec == "protobuf":
        theirs[-1] = mended(case, str(theirs[-1]))
    if "names" in case.about and name == "raw-session-large":
        # There they came in another order.
        ours[-1], theirs[-1] = (
            "".join(sorted(taken_apart(str(one)))) for one in (ours[-1], theirs[-1])
        )
    assert ours == theirs
    assert delivered.refused == {}
    # One client, whose connections are opened when they are needed.
    assert len({peer.identity for peer in server.peers}) == 1
    assert len(server.peers) == 1 and server.peers[0].compressed


def mended(case: Case, argument: str) -> str:
    """Return the records of a purge without what the reference loses of protobuf."""
    wires = [wire for _, _, wire in case.pushed()]
    lines = [
        repair.json_line(case, record.encode(), wire).decode()
        for record, wire in zip(taken_apart(argument), wires, strict=True)
    ]
    return f"[{','.join(lines)}]"


def taken_apart(argument: str) -> list[str]:
    """Return the records of a purge, each as it is written."""
    return argument[1:-1].replace('},{"method":', '}\n{"method":').split("\n")


@pytest.mark.parametrize("name", sorted(COUNTED - FAILING))
def test_aggregates(name: str, run: Run) -> None:
    """The counters are the reference's, each in the hour of its records."""
    case = CASES[name]
    with Mdcb() as server:
        delivered = run(case, server)
    assert server.failures == [] and delivered.refused == {}
    rows = rows_of(case)
    assert server.names()[:2] == MEETING
    assert dict.fromkeys(server.names()) == dict.fromkeys(row["call"] for row in rows)
    for function in {row["call"] for row in rows} - {*MEETING}:
        mine = [call.body for call in server.calls if call.name == function]
        theirs = [json.loads(row["arg"]) for row in rows if row["call"] == function]
        compare(mine, theirs)
        if len(mine) == len(theirs) and name not in WINDOWED:
            compare_each(mine, theirs)


def compare(mine: list[Any], theirs: list[Any]) -> None:
    """See that all calls together have counted the same."""
    ours, wanted = summed(mine), summed(theirs)
    assert {o: set(places) for o, places in ours.items()} == {
        o: set(places) for o, places in wanted.items()
    }
    wrong = [
        (owner, place, field, counter[field], wanted[owner][place][field])
        for owner, places in ours.items()
        for place, counter in places.items()
        for field in differing(counter, wanted[owner][place])
    ]
    assert wrong == []
    for body in mine:
        for aggregate in body.values():
            for _, counter in counters(aggregate):
                check(counter)


def compare_each(mine: list[Any], theirs: list[Any]) -> None:
    """See that each call says the same, field by field and in order."""
    for body, wanted in zip(mine, theirs, strict=True):
        assert list(body) == list(wanted)
        for owner, aggregate in body.items():
            known = wanted[owner]
            assert list(aggregate) == list(known)
            for field in ("OrgID", "OwnerAPIID", "Lists"):
                assert aggregate.get(field) == known.get(field)
            assert list(aggregate["Total"]) == list(known["Total"])
            if len(body) == 1 and name_of_hour(aggregate) == name_of_hour(known):
                assert aggregate["TimeStamp"] == known["TimeStamp"]
                assert aggregate["TimeID"] == known["TimeID"]


def name_of_hour(aggregate: dict[str, Any]) -> Any:
    """Return the hour of the bucket."""
    return aggregate["TimeStamp"][:13]


def counters(aggregate: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the counters of an aggregate with their places."""
    for field, value in aggregate.items():
        if field == "Total":
            yield (field,), value
        elif field in NESTED:
            for key, inner in value.items():
                for path, counter in inner.items():
                    yield (field, key, path), counter
        elif isinstance(value, dict) and field not in {"Lists", "TimeID"}:
            for key, counter in value.items():
                yield (field, key), counter


def summed(bodies: list[Any]) -> dict[tuple[str, str], Counters]:
    """Return the counters of each owner, summed up over the calls."""
    found: dict[tuple[str, str], Counters] = {}
    for body in bodies:
        for name, aggregate in body.items():
            kept = found.setdefault((name, aggregate["OrgID"]), {})
            for place, counter in counters(aggregate):
                known = kept.get(place)
                kept[place] = joined(known, counter) if known else counter
    return found


def joined(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return what two counters have counted."""
    made = {**one}
    for field in ("hits", "success", "error", "total_request_time", *NETWORK, *TOTALS):
        made[field] = one[field] + other[field]
    for field in ("max_latency", "max_upstream_latency", "last_time"):
        made[field] = max(one[field], other[field])
    for field in MINIMA:
        made[field] = min(one[field], other[field])
    codes = [counter["error_map"] or {} for counter in (one, other)]
    made["error_map"] = {
        code: codes[0].get(code, 0) + codes[1].get(code, 0)
        for code in {**codes[0], **codes[1]}
    }
    return made


def differing(ours: dict[str, Any], theirs: dict[str, Any]) -> Iterator[str]:
    """Yield the names of what is not as it is in the reference."""
    yield from (field for field in (*SAME, *NETWORK) if ours[field] != theirs[field])
    if ours["total_request_time"] != pytest.approx(
        theirs["total_request_time"], rel=1e-14
    ):
        yield "total_request_time"
    if ours["error_map"] != (theirs["error_map"] or {}):
        yield "error_map"
    for field in TOTALS:
        # The reference's wrap around; ours stay at the end.
        if (ours[field] - theirs[field]) % BITS and abs(ours[field]) < BITS // 2 - 1:
            yield field
    if ours["hits"] == 1 and ours["human_identifier"] != theirs["human_identifier"]:
        yield "human_identifier"
    # There a counter keeps the time of its first hit, and one of the network none.
    if ours["last_time"] < theirs["last_time"]:
        yield "last_time"
    # There errors and network reports make a minimum.
    if ours["success"] == ours["hits"] == theirs["hits"] and not any(
        ours[field] for field in NETWORK
    ):
        yield from (field for field in MINIMA if ours[field] != theirs[field])


def check(counter: dict[str, Any]) -> None:
    """See what is true of each counter that we send."""
    assert counter["latency"] == counter["upstream_latency"] == 0
    assert counter["error_list"] is None and counter["error_map"] is not None
    hits, total = counter["hits"], counter["total_request_time"]
    assert counter["request_time"] == pytest.approx(total / hits if hits else 0)


# The bytes


@pytest.mark.parametrize("name", [n for n in CASES if n.startswith("raw-session")])
def test_the_streams_of_the_reference(name: str) -> None:
    """We read what both ends wrote, from their first byte, and find the calls."""
    case = CASES[name]
    rows = loader.json_lines(case.expected("raw.jsonl")[""])
    found: list[Any] = []
    for number in sorted({row["conn"] for row in rows}):
        up, down = (
            b"".join(
                b64decode(row["data_b64"])
                for row in rows
                if row["conn"] == number and row.get("dir") == direction
            )
            for direction in ("C>S", "S>C")
        )
        if not up:
            continue  # dialled while it was stopping
        asked, said = values(up[44:]), values(down)
        assert up[:7] == b"proto2$"
        assert [one["ID"] for one in asked] == [one["ID"] for one in said]
        assert [one["ID"] for one in asked] == list(range(1, len(asked) + 1))
        found += [one["Request"][1] for one in asked]
    wanted = [(f".{row['call']}", row.get("arg")) for row in rows_of(case)]
    calls = [(one["Name"], (one.get("Request") or ("", None))[1]) for one in found]
    if "large" in name:
        # The list of calls has its size alone.
        assert [call for call, _ in calls] == [call for call, _ in wanted]
    else:
        assert sorted(map(str, calls)) == sorted(map(str, wanted))


def values(data: bytes) -> list[Any]:
    """Return the values of a compressed stream."""
    return list(Decoder().feed(zlib.decompressobj(-15).decompress(data)))


# What fails


def scenario(name: str, *sizes: int, **meta: Any) -> Case:
    """Return a case with batches of so many records, and other options."""
    case = CASES[name]
    known = iter(corpus("traffic"))
    batches = [[next(known) for _ in range(size)] for size in sizes]
    pump = {**case.about["pump"], "meta": {**case.about["pump"]["meta"], **meta}}
    about = {**case.about, "batches": batches, "pump": pump}
    return msgspec.structs.replace(case, about=about)


def names_of(case: Case) -> list[str]:
    """Return the names of the records of a case."""
    return [wire.name for _, _, wire in case.pushed()]


def arrived(case: Case, server: Mdcb) -> list[str]:
    """Return the names of the records that MDCB has accepted, as often as it has."""
    named = {
        (shown["timestamp"], shown["path"]): name
        for name, shown in repair.shown().items()
        if name in names_of(case)
    }
    return [named[record["timestamp"], record["path"]] for record in server.records()]


SCRIPTS: Final[dict[str, dict[str, list[Answer]]]] = {
    "fail-login-error-at-write": {
        "Login": [Answer(True), Answer(error="boom error"), Answer(True)]
    },
    "fail-login-panic-at-write": {
        "Login": [Answer(True), Answer(panic="oops"), Answer(True)]
    },
    "fail-login-refused-at-write": {
        "Login": [Answer(True), Answer(False), Answer(True)]
    },
    "fail-login-timeout-at-write": {
        "Login": [Answer(True), Answer(silent=True), Answer(True)]
    },
    "fail-ping-error": {"Ping": [Answer(error="no ping"), Answer(True)]},
    "fail-ping-false": {"Ping": [Answer(False)]},
    "fail-purge-error": {"PurgeAnalyticsData": [Answer(error="db down"), Answer()]},
    "fail-connection-cut-between-writes": {
        "PurgeAnalyticsData": [Answer(last=True), Answer()]
    },
    "fail-empty-api-key": {},
}
SIZES: Final = {"fail-empty-api-key": (2,)}
REPEATED: Final = {
    # What follows a failure: the reference gives up, ours goes on.
    "fail-login-refused-at-write": ["Login", "PurgeAnalyticsData"],
    "fail-purge-error": ["Login", "PurgeAnalyticsData"],
}


@pytest.mark.parametrize("name", list(SCRIPTS))
def test_failures_that_pass(name: str, run: Run) -> None:
    """All records arrive, once and in order, after the calls of the reference."""
    case = scenario(name, *SIZES.get(name, (2, 3)))
    with Mdcb(key=None) as server:
        server.script(SCRIPTS[name])
        delivered = run(case, server)
    assert arrived(case, server) == names_of(case)
    assert delivered.refused == {} and server.failures == []
    names = [row["call"] for row in rows_of(case)]
    if name in REPEATED:
        # Its call of the first batch failed, and comes once more.
        at = names.index("Login", 2) + 1
        while names[at : at + 1] == ["PurgeAnalyticsData"] and at < 4:
            at += 1
        names[at:at] = REPEATED[name]
    if name == "fail-connection-cut-between-writes":
        # A connection that ends just now is found out by the log-in.
        assert purges_of(server.names()) == purges_of(names)
    else:
        assert sorted(server.names()) == sorted(names)
    # The reference leaves its first client behind, open for ever.
    assert server.dialled <= 2
    if name == "fail-empty-api-key":
        assert server.calls[1].argument == ""


def purges_of(names: list[str]) -> list[str]:
    """Return the calls without those of a meeting."""
    return [name for name in names if name not in MEETING]


def test_nothing_for_an_empty_batch(run: Run) -> None:
    """Where all is filtered, nobody logs in."""
    case = scenario("fail-all-filtered", 2)
    with Mdcb() as server:
        delivered = run(case, server)
    assert server.names() == MEETING == [row["call"] for row in rows_of(case)]
    assert [done.filtered for done in delivered.end.outcomes] == [2]


class Clock(StillClock):
    """Does something at the given pauses."""

    def __init__(self, at: dict[int, Callable[[], None]]) -> None:
        super().__init__()
        self._at = at
        self.pauses = 0

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        self.pauses += 1
        self._at.get(self.pauses, lambda: None)()


def test_a_late_answer_to_a_purge(run: Run) -> None:
    """fail-purge-timeout: what MDCB was working on is not sent again."""
    done = threading.Event()
    case = scenario("fail-purge-timeout", 2, 3)
    with Mdcb() as server:
        server.script({"PurgeAnalyticsData": [Answer(until=done), Answer()]})
        run(case, server, Clock({1: done.set}))
    assert arrived(case, server) == names_of(case)
    assert server.names().count("PurgeAnalyticsData") == 2


def test_a_connection_that_is_cut_during_a_purge(run: Run) -> None:
    """fail-cut-during-purge: nobody can know, so it is sent again under the same id."""
    case = scenario("fail-cut-during-purge", 2, 3)
    with Mdcb() as server:
        server.script({"PurgeAnalyticsData": [Answer(cut=True), Answer()]})
        run(case, server)
    first, rest = names_of(case)[:2], names_of(case)[2:]
    assert arrived(case, server) == [*first, *first, *rest]
    assert len(server.peers) == 2 and len({p.identity for p in server.peers}) == 1


def test_an_aggregate_that_is_answered_with_an_error(run: Run) -> None:
    """fail-aggregated-error: it comes again, and counts once."""
    case = scenario("fail-aggregated-error", 3)
    function = "PurgeAnalyticsDataAggregated"
    with Mdcb() as server:
        server.script({function: [Answer(error="db down"), Answer()]})
        run(case, server)
    assert sum(one["Total"]["hits"] for one in server.aggregates()) == 3
    assert server.names().count("Login") == 3


def test_an_mdcb_without_the_mcp_function(run: Run) -> None:
    """fail-mcp-function-missing: those calls are dead letters, the rest is counted."""
    case = scenario("fail-mcp-function-missing")
    about = {**case.about, "corpus": "edge", "batches": [["plain", "mcp-tool"]]}
    with Mdcb() as server:
        server.functions.discard("PurgeAnalyticsDataMCPAggregated")
        delivered = run(msgspec.structs.replace(case, about=about), server)
    assert sum(one["Total"]["hits"] for one in server.aggregates()) == 1
    assert list(delivered.refused) == ["mcp-tool"]
    reason = "unknown method [.PurgeAnalyticsDataMCPAggregated]"
    assert reason in delivered.refused["mcp-tool"]
    assert server.names().count("PurgeAnalyticsDataAggregated") == 1


def test_an_outage(run: Run) -> None:
    """fail-outage: what came meanwhile arrives; one client, and no call too late."""
    case = scenario("fail-outage", 2, 3, 1, 4)
    with Mdcb() as server:
        left: list[bool] = []

        def respond(call: Call) -> Answer | None:
            if call.name != "PurgeAnalyticsData" or left:
                return None
            left.append(True)
            server.leave()
            return Answer(last=True)

        server.respond = respond
        run(case, server, Clock({40: server.restart}))
    assert arrived(case, server) == names_of(case)
    assert server.dialled <= 3
    assert purges_of(server.names()) == ["PurgeAnalyticsData"] * 4
    assert len({peer.identity for peer in server.peers}) == 2


@pytest.mark.parametrize(
    "name",
    [
        "fail-down-at-start",
        "fail-nothing-listens-at-start",
        "fail-login-refused-at-start",
    ],
)
def test_failures_at_the_start(name: str, run: Run) -> None:
    """The pump says why, as often as it is asked to open; it is asked for ever."""
    with Mdcb() as server:
        if name == "fail-down-at-start":
            server.hangs_up = True
        elif name == "fail-nothing-listens-at-start":
            server.leave()
        else:
            server.script({"Login": [Answer(False)]})
        words = {"fail-login-refused-at-start": "RPC login incorrect"}
        with pytest.raises(
            TransientError, match=words.get(name, "refused|closed|reset")
        ):
            run(scenario(name, 2), server)
        assert server.dialled == (0 if "listens" in name else OPENINGS)
        server.wait_until_idle()


def test_a_late_start(run: Run) -> None:
    """fail-late-at-start: the failed attempts leave no connection behind."""
    case = scenario("fail-late-at-start", 2)
    with Mdcb() as server:
        server.script({"Ping": [Answer(cut=True), Answer(cut=True), Answer(True)]})
        delivered = run(case, server)
    assert len(delivered.openings) == 2
    assert server.dialled == 3
    assert arrived(case, server) == names_of(case)


def test_no_connection_string(tmp_path: Path) -> None:
    """fail-no-connection-string: `check` and the start say which option it is."""
    (tmp_path / "out").mkdir()
    case = CASES["fail-no-connection-string"]
    (fault,) = configuration(case, tmp_path / "out").every_fault()
    assert fault == "pumps.hybrid.meta.connection_string: missing"


def test_every_case_has_a_test() -> None:
    """Those with a scenario of their own are named by their tests."""
    text = Path(__file__).read_text()
    assert len(CASES) == 49
    assert [name for name in FAILING if f'"{name}' not in text] == []
