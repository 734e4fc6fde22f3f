"""The hybrid pump: what its options do, and what becomes of records when MDCB fails."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.pumps.config import loaded, opened
from tests.servers.mdcb import PURGES, Answer, Call, Mdcb
from tests.servers.tls import Authority
from tests.worker.bench import run
from tyk_pump import channel
from tyk_pump.config.load import load
from tyk_pump.errors import RejectedRecords, TransientError
from tyk_pump.pumps.hybrid import WAITS, HybridOptions, HybridPump
from tyk_pump.pumps.protocol import Batch, Pump
from tyk_pump.record import wire
from tyk_pump.record.analytics import AnalyticsRecord, GraphQLStats, MCPStats, Network

NINE = (1_741_165_200, 0)
"""2025-03-05 09:00."""
RECORDS, API, MCP = PURGES
COUNTED = {"aggregated": True}
ALL_COUNTED = {"aggregated": True, "enable_mcp_aggregation": True}


@pytest.fixture
def mdcb() -> Iterator[Mdcb]:
    """An MDCB that takes any key."""
    with Mdcb(key=None) as server:
        yield server
        assert server.failures == []


class Open:
    """Makes pumps that are closed after the test."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: list[Pump] = []

    def __call__(self, server: Mdcb, **meta: Any) -> Pump:
        about = {"connection_string": server.place, "api_key": "key", **meta}
        self._made.append(opened(self._folder, "hybrid", about))
        return self._made[-1]

    def close(self) -> None:
        for pump in self._made:
            pump.close()


@pytest.fixture
def pump(tmp_path: Path) -> Iterator[Open]:
    """Make open pumps."""
    make = Open(tmp_path)
    yield make
    make.close()


def record(name: str = "a", **fields: Any) -> AnalyticsRecord:
    """Return a record of nine o'clock."""
    values: dict[str, Any] = {
        "alias": name,
        "org_id": "o",
        "api_id": "i",
        "timestamp": NINE,
        "expire_at": NINE,
        "response_code": 200,
    }
    return AnalyticsRecord(**{**values, **fields})


def mcp(name: str = "a", **fields: Any) -> AnalyticsRecord:
    """Return the record of an MCP call."""
    stats = MCPStats(True, "tools/call", "tool", name)
    return record(name, **{"mcp_stats": stats, **fields})


def graphql(name: str = "a") -> AnalyticsRecord:
    """Return the record of a GraphQL call."""
    return record(name, graphql_stats=GraphQLStats(is_graphql=True))


def batch(*records: AnalyticsRecord, first: int = 7) -> Batch:
    """Return a batch of records."""
    return Batch("S", 0, "list", range(first, first + len(records)), records)


def names(server: Mdcb) -> list[str]:
    """Return the names of the records that were accepted."""
    return [one["alias"] for one in server.records()]


def hits(server: Mdcb, *, mcp: bool = False) -> int:
    """Return how many records were counted."""
    return sum(one["Total"]["hits"] for one in server.aggregates(mcp=mcp))


# Options


@pytest.mark.parametrize(
    ("meta", "fault"),
    [
        (None, "connection_string: missing"),
        ({}, "connection_string: missing"),
        ({"connection_string": "mdcb"}, "connection_string: 'mdcb' is not host:port"),
        ({"connection_string": "h:99999"}, "there is no port 99999"),
        ({"connection_string": "h:1", "call_timeout": -1}, "call_timeout: "),
        ({"connection_string": "h:1", "batch_size": 0}, "batch_size: "),
        ({"connection_string": "h:1", "aggregated": "yes"}, "aggregated: "),
        ({"connection_string": "h:1", "ssl_cert_file": "c"}, "ssl_key_file: missing"),
    ],
)
def test_faults(tmp_path: Path, meta: dict[str, Any] | None, fault: str) -> None:
    """The option at fault is named; an absent `meta` kills nobody."""
    faults = loaded(tmp_path, "hybrid", meta).every_fault()
    assert len(faults) == 1 and fault in faults[0]
    assert faults[0].startswith("pumps.x.meta")


def test_the_section_of_the_references_page(tmp_path: Path) -> None:
    """Every key of it is known, and call_timeout is in seconds."""
    meta = {
        "rpc_key": "5b5fd341e6355b5eb194765e",
        "api_key": "008d6d1525104ae77240f687bb866974",
        "connection_string": "localhost:9090",
        "aggregated": False,
        "use_ssl": False,
        "ssl_insecure_skip_verify": False,
        "group_id": "",
        "call_timeout": 30,
        "ping_timeout": 60,
        "rpc_pool_size": 30,
    }
    config = loaded(tmp_path, "hybrid", meta)
    assert config.every_fault() == [] and config.warnings == []
    options = config.pumps[0].options
    assert isinstance(options, HybridOptions)
    assert (options.patience, options.pool) == (30, 30)
    assert "008d6d" not in repr(options)


@pytest.mark.parametrize(
    ("meta", "patience", "pool"),
    [
        ({}, 10, 5),
        ({"call_timeout": 0, "rpc_pool_size": 0}, 10, 5),
        ({"call_timeout": "1m", "rpc_pool_size": -3}, 60, 1),
    ],
)
def test_defaults(
    tmp_path: Path, meta: dict[str, Any], patience: float, pool: int
) -> None:
    """As the reference's."""
    meta = {"connection_string": "h:1", **meta}
    options = loaded(tmp_path, "hybrid", meta).pumps[0].options
    assert isinstance(options, HybridOptions)
    assert (options.patience, options.pool) == (patience, pool)


def test_the_environment(tmp_path: Path) -> None:
    """Under the pump's own name and `meta_env_prefix`: the reference knows neither."""
    path = tmp_path / "pump.conf"
    own = {"type": "hybrid", "meta": {}}
    prefixed = {"type": "hybrid", "meta": {"meta_env_prefix": "EDGE"}}
    path.write_text(json.dumps({"pumps": {"far": own, "near": prefixed}}))
    options = {
        "CONNECTIONSTRING": "h:1",
        "APIKEY": "s3cret",
        "RPCKEY": "org",
        "CALLTIMEOUT": "3",
        "RPCPOOLSIZE": "2",
        "AGGREGATED": "true",
        "TRACKALLPATHS": "true",
        "STOREANALYTICSPERMINUTE": "true",
        "ENABLEMCPAGGREGATION": "true",
        "IGNORETAGPREFIXLIST": "a,b",
        "USESSL": "true",
        "SSLINSECURESKIPVERIFY": "true",
    }
    prefixes = ("TYK_PMP_PUMPS_FAR_META", "EDGE")
    environment = {
        f"{p}_{key}": text for p in prefixes for key, text in options.items()
    }
    config = load(str(path), environment)
    assert config.every_fault() == []
    for found in config.pumps:
        made = found.options
        assert isinstance(made, HybridOptions)
        assert made.connection_string == "h:1"
        assert made.api_key.reveal() == "s3cret"
        assert (made.patience, made.pool) == (3, 2)
        assert made.ignore_tag_prefix_list == ["a", "b"]
        assert made.use_ssl and made.ssl_insecure_skip_verify and made.aggregated
        assert made.track_all_paths and made.enable_mcp_aggregation
        assert made.store_analytics_per_minute


def test_only_what_is_counted_is_decoded() -> None:
    """Bodies are not, when aggregates are sent."""
    counting = HybridPump(HybridOptions(aggregated=True))
    assert "raw_request" not in counting.fields
    assert "raw_request" in HybridPump(HybridOptions()).fields


# Who we are


def test_a_key_in_clear_text_is_warned_of(
    mdcb: Mdcb, pump: Open, caplog: pytest.LogCaptureFixture
) -> None:
    """It can be read on the way."""
    pump(mdcb)
    assert "use_ssl is off: the API key can be read" in caplog.text
    caplog.clear()
    pump(mdcb, api_key="")
    assert caplog.text == ""


def test_tls(
    authority: Authority, pump: Open, caplog: pytest.LogCaptureFixture
) -> None:
    """With an authority of one's own, a client certificate and a server's name."""
    cert, key = authority.client("pump")
    with Mdcb(authority, demand_certificate=True) as server:
        made = pump(
            server,
            use_ssl=True,
            ssl_ca_file=str(authority.ca_file),
            ssl_cert_file=str(cert),
            ssl_key_file=str(key),
            ssl_server_name="mdcb.test",
        )
        made.write(batch(record()))
        assert names(server) == ["a"]
        assert server.server_names == ["mdcb.test"]
        assert "use_ssl" not in caplog.text


def test_a_certificate_that_is_not_believed(authority: Authority, pump: Open) -> None:
    """It is said at once; the reference speaks of a time-out."""
    with Mdcb(authority) as server:
        with pytest.raises(TransientError, match="certificate verify failed"):
            pump(server, use_ssl=True)
        pump(server, use_ssl=True, ssl_insecure_skip_verify=True).write(batch(record()))
        assert names(server) == ["a"]


def test_probe(mdcb: Mdcb, pump: Open) -> None:
    """It logs in, and says so in one line."""
    made = pump(mdcb)
    assert made.probe() == f"{mdcb.place} answers and takes the API key"
    mdcb.script({"Login": [Answer(False)]})
    with pytest.raises(TransientError, match="RPC login incorrect: the key is refused"):
        made.probe()


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (Answer(False), "RPC login incorrect: the key is refused"),
        (Answer(), "Login was answered with no yes and no no"),
        (Answer("true"), "Login was answered with no yes and no no"),
        (Answer(error="licence expired"), "Login: licence expired"),
        (Answer(panic="oops"), "server error: Panic occured: oops"),
    ],
)
def test_a_login_that_fails(mdcb: Mdcb, pump: Open, said: Answer, words: str) -> None:
    """At the start and at a write it is called what it is, and nothing is sent."""
    made = pump(mdcb, api_key="s3cret")
    mdcb.script({"Login": [said]})
    with pytest.raises(TransientError, match=words) as caught:
        made.write(batch(record("a"), record("b")))
    assert caught.value.pending == [0, 1]
    assert "s3cret" not in str(caught.value)
    assert RECORDS not in mdcb.names()
    with pytest.raises(TransientError, match=words):
        pump(mdcb)
    mdcb.respond = lambda call: None
    made.write(batch(record("a"), record("b")))
    assert names(mdcb) == ["a", "b"]


def test_a_refused_key_is_not_asked_again_in_the_same_write(
    mdcb: Mdcb, pump: Open
) -> None:
    """The reference calls four times at its start, and speaks of a connection."""
    made = pump(mdcb)
    mdcb.script({"Login": [Answer(False)]})
    before = len(mdcb.calls)
    with pytest.raises(TransientError, match="refused"):
        made.write(batch(record()))
    assert mdcb.names()[before:] == ["Login"]
    assert mdcb.dialled == 1


def test_a_login_without_an_answer_ends_the_write(mdcb: Mdcb, pump: Open) -> None:
    """One time-out is the longest that it takes; the worker decides what follows."""
    made = pump(mdcb, call_timeout=0.2)
    mdcb.script({"Login": [Answer(silent=True), Answer(True)]})
    before = len(mdcb.calls)
    with pytest.raises(TransientError, match="no answer within"):
        made.write(batch(record()))
    assert mdcb.names()[before:] == ["Login"]
    made.write(batch(record()))
    assert mdcb.names()[before + 1 :] == ["Ping", "Login", RECORDS]


def test_no_connection_is_left_behind(mdcb: Mdcb, pump: Open) -> None:
    """After any number of failed attempts there is one client."""
    made = pump(mdcb, rpc_pool_size=5)
    # The first attempt logs in twice, as one that is known and anew.
    mdcb.script({"Login": [*[Answer(error="no")] * 7, Answer(True)]})
    for _ in range(6):
        with pytest.raises(TransientError, match="no"):
            made.write(batch(record()))
    made.write(batch(record()))
    mdcb.wait_until(lambda: mdcb.open == 1)
    made.close()
    mdcb.wait_until_idle()


def test_a_start_that_fails_leaves_no_connection(mdcb: Mdcb, pump: Open) -> None:
    """Whatever it fails of."""
    mdcb.script({"Login": [Answer(False)]})
    for _ in range(3):
        with pytest.raises(TransientError):
            pump(mdcb)
    mdcb.wait_until_idle()


# Records


def test_large_batches_go_in_several_calls(mdcb: Mdcb, pump: Open) -> None:
    """By count and by bytes; a record that is larger goes alone."""
    made = pump(mdcb, rpc_pool_size=1, batch_size=4)
    made.write(batch(*(record(f"n{n}") for n in range(10))))
    assert [len(call.body) for call in mdcb.accepted] == [4, 4, 2]
    mdcb.accepted.clear()
    made = pump(mdcb, rpc_pool_size=1, batch_bytes=4000)
    bodies = ["x", "x", "x" * 9000, "x", "x"]
    made.write(batch(*(record(f"n{n}", raw_request=b) for n, b in enumerate(bodies))))
    assert [[r["alias"] for r in c.body] for c in mdcb.accepted] == [
        ["n0", "n1"],
        ["n2"],
        ["n3", "n4"],
    ]
    assert all(len(c.argument or "") <= 4000 for c in mdcb.accepted if len(c.body) > 1)


def test_parts_go_side_by_side(mdcb: Mdcb, pump: Open) -> None:
    """As many as the pool has; of a failure the positions are exact."""
    together = threading.Barrier(3)

    def respond(call: Call) -> Answer | None:
        if call.name != RECORDS:
            return None
        together.wait(20)
        return Answer(error="full") if "n1" in str(call.argument) else None

    mdcb.respond = respond
    made = pump(mdcb, rpc_pool_size=3, batch_size=1)
    with pytest.raises(TransientError, match="PurgeAnalyticsData: full") as caught:
        made.write(batch(*(record(f"n{n}") for n in range(3))))
    assert caught.value.pending == [1]
    assert sorted(names(mdcb)) == ["n0", "n2"]


def test_a_retry_sends_only_what_was_not_accepted(mdcb: Mdcb, pump: Open) -> None:
    """What is before the failure is in, what is behind it was not sent."""
    mdcb.script({RECORDS: [Answer(), Answer(error="db down"), Answer()]})
    made = pump(mdcb, rpc_pool_size=1, batch_size=2)
    records = [record(f"n{n}") for n in range(6)]
    whole = batch(*records)
    with pytest.raises(TransientError, match="db down") as caught:
        made.write(whole)
    assert caught.value.pending == [2, 3, 4, 5]
    made.write(whole.part(caught.value.pending))
    assert names(mdcb) == [f"n{n}" for n in range(6)]


def test_what_json_cannot_express(mdcb: Mdcb, pump: Open) -> None:
    """It is a dead letter; the reference loses the whole batch."""
    made = pump(mdcb)
    place = record("nan")
    place.geo.location.latitude = float("nan")
    odd = record("far", timestamp=(10**12, 0))
    with pytest.raises(RejectedRecords) as caught:
        made.write(batch(record("a"), place, odd, record("b")))
    assert sorted(caught.value.rejected) == [1, 2]
    assert names(mdcb) == ["a", "b"]


# Late answers


def test_a_late_answer_is_not_repeated(mdcb: Mdcb, pump: Open) -> None:
    """The next attempt finds it, and sends what was not sent yet."""
    done = threading.Event()
    mdcb.script({RECORDS: [Answer(until=done), Answer()]})
    made = pump(mdcb, call_timeout=0.2, rpc_pool_size=1, batch_size=2)
    whole = batch(*(record(f"n{n}") for n in range(4)))
    with pytest.raises(TransientError, match="no answer within") as caught:
        made.write(whole)
    assert caught.value.pending == [0, 1, 2, 3]
    with pytest.raises(TransientError, match="no answer within") as caught:
        made.write(whole)
    # The rest went on another connection meanwhile.
    assert caught.value.pending == [0, 1]
    done.set()
    made.write(whole.part([0, 1]))
    assert sorted(names(mdcb)) == ["n0", "n1", "n2", "n3"]
    assert mdcb.names().count(RECORDS) == 2


def test_a_late_refusal_is_sent_again(mdcb: Mdcb, pump: Open) -> None:
    """Nothing was done, so nothing is twice."""
    done = threading.Event()
    mdcb.script({RECORDS: [Answer(error="db down", until=done), Answer()]})
    made = pump(mdcb, call_timeout=0.2)
    whole = batch(record("a"))
    with pytest.raises(TransientError, match="no answer within"):
        made.write(whole)
    done.set()
    made.write(whole)
    assert names(mdcb) == ["a"]


def test_an_answer_that_never_comes(
    mdcb: Mdcb, pump: Open, caplog: pytest.LogCaptureFixture
) -> None:
    """After some time it is sent again, and may be there twice: the log says so."""
    mdcb.script({RECORDS: [Answer(silent=True), Answer()]})
    made = pump(mdcb, call_timeout=0.05)
    whole = batch(record("a"))
    for _ in range(WAITS):
        with pytest.raises(TransientError, match="no answer within"):
            made.write(whole)
    made.write(whole)
    assert names(mdcb) == ["a", "a"]
    assert "no answer, sent again" in caplog.text


def test_a_batch_that_was_given_up_is_forgotten(mdcb: Mdcb, pump: Open) -> None:
    """Its call is waited for no longer."""
    mdcb.script({RECORDS: [Answer(silent=True), Answer()]})
    made = pump(mdcb, call_timeout=0.2)
    with pytest.raises(TransientError, match="no answer within"):
        made.write(batch(record("a")))
    made.write(batch(record("b"), first=100))
    made.close()
    mdcb.wait_until_idle()


# Aggregates


def test_each_record_in_its_own_hour(mdcb: Mdcb, pump: Open) -> None:
    """A call for each hour, an aggregate for each organisation."""
    made = pump(mdcb, **COUNTED)
    ten = (NINE[0] + 3600, 0)
    made.write(
        batch(
            record(),
            record(timestamp=ten),
            record(org_id="p"),
            record(timestamp=(ten[0] - 1, 0)),
        )
    )
    bodies = [call.body for call in mdcb.accepted]
    assert [
        {org: (one["TimeStamp"], one["TimeID"]["Hour"], one["Total"]["hits"])}
        for body in bodies
        for org, one in body.items()
    ] == [
        {"o": ("2025-03-05T09:00:00Z", 9, 2)},
        {"p": ("2025-03-05T09:00:00Z", 9, 1)},
        {"o": ("2025-03-05T10:00:00Z", 10, 1)},
    ]
    assert len(bodies) == 2


def test_each_record_in_its_own_minute(mdcb: Mdcb, pump: Open) -> None:
    """Whatever came before, and whatever MCP calls there are."""
    made = pump(mdcb, **ALL_COUNTED, store_analytics_per_minute=True)
    for minute in (5, 3, 4):
        when = (NINE[0] + 60 * minute, 0)
        made.write(batch(record(timestamp=when), mcp(timestamp=when)))
    assert [one["TimeStamp"][11:16] for one in mdcb.aggregates()] == [
        "09:05",
        "09:03",
        "09:04",
    ]
    assert [one["TimeStamp"][11:16] for one in mdcb.aggregates(mcp=True)] == [
        "09:05",
        "09:03",
        "09:04",
    ]


def test_reports_of_the_network_before_an_error(mdcb: Mdcb, pump: Open) -> None:
    """The reference dies of it."""
    made = pump(mdcb, **COUNTED)
    report = record(response_code=-1, network=Network(1, 2, 3, 4))
    made.write(batch(report, record(response_code=500)))
    (one,) = mdcb.aggregates()
    counter = one["APIID"]["i"]
    assert (counter["hits"], counter["error"], counter["error_map"]) == (
        1,
        1,
        {"500": 1},
    )
    assert (counter["bytes_in"], counter["bytes_out"]) == (3, 4)
    made.write(batch(report))
    assert mdcb.aggregates()[-1]["APIID"]["i"]["error_map"] == {}


def test_paths_and_tags(mdcb: Mdcb, pump: Open) -> None:
    """Both options are for MCP calls, too."""
    made = pump(
        mdcb, **ALL_COUNTED, track_all_paths=True, ignore_tag_prefix_list=["x-"]
    )
    about: dict[str, Any] = {"path": "/v1.0/x", "tags": ["x-1", "key-2", "team.a"]}
    made.write(batch(record(**about), mcp(**about)))
    for one in (*mdcb.aggregates(), *mdcb.aggregates(mcp=True)):
        assert list(one["Endpoints"]) == ["/v1\\u2e0/x"]
        assert list(one["Tags"]) == ["teama"]


def test_mcp_calls_of_two_organisations(mdcb: Mdcb, pump: Open) -> None:
    """The same API id in two of them: the reference counts both to the first."""
    made = pump(mdcb, **ALL_COUNTED)
    made.write(batch(mcp("a"), mcp("b", org_id="p"), mcp("c", api_id="j"), mcp("d")))
    found = [
        (name, one["OrgID"], one["OwnerAPIID"], one["Total"]["hits"])
        for call in mdcb.accepted
        if call.name == MCP
        for name, one in call.body.items()
    ]
    assert found == [("i", "o", "i", 2), ("j", "o", "j", 1), ("i", "p", "i", 1)]
    assert [call.body for call in mdcb.accepted if call.name == API] == [{}]


def test_names_that_differ_in_bytes_that_are_no_text(mdcb: Mdcb, pump: Open) -> None:
    """They are one name in JSON: no count is lost to the other."""
    made = pump(mdcb, **COUNTED, track_all_paths=True)
    made.write(
        batch(
            record(path="/\udcff", org_id="o\udcff"),
            record(path="/\udcfe", org_id="o\udcff"),
            record(org_id="o\udcfe"),
        )
    )
    first, second = mdcb.accepted
    assert list(first.body) == list(second.body) == ["o\ufffd"]
    assert first.body["o\ufffd"]["Endpoints"]["/\ufffd"]["hits"] == 2
    assert hits(mdcb) == 3


def test_what_no_aggregate_counts_is_reported(
    mdcb: Mdcb, pump: Open, caplog: pytest.LogCaptureFixture
) -> None:
    """As filtered, and in the log once for each reason."""
    made = pump(mdcb, **COUNTED)
    records = [record(), graphql(), mcp(), record(org_id=""), graphql()]
    raws = [wire.pack(one) for one in records]
    frames = [
        channel.encode_frame("S", "list", "msgpack", first, None, raws)
        for first in (0, 5)
    ]
    caplog.set_level(logging.INFO)
    done = run(made, frames).outcomes
    assert [(one.delivered, one.filtered) for one in done] == [(1, 4), (1, 4)]
    assert [
        (entry.__dict__["reason"], entry.__dict__["records"])
        for entry in caplog.records
        if entry.getMessage() == "records that no aggregate counts"
    ] == [
        ("GraphQL call", 2),
        ("MCP call, and enable_mcp_aggregation is off", 1),
        ("no organisation", 1),
    ]
    assert hits(mdcb) == 2


def test_an_mcp_call_that_fails_after_the_others(mdcb: Mdcb, pump: Open) -> None:
    """What was accepted is not counted twice."""
    mdcb.script({MCP: [Answer(error="db down"), Answer()]})
    made = pump(mdcb, **ALL_COUNTED)
    whole = batch(record(), mcp(), record(), graphql())
    with pytest.raises(TransientError, match="db down") as caught:
        made.write(whole)
    assert caught.value.pending == [1] and whole.left_out == 1
    made.write(whole.part([1]))
    assert (hits(mdcb), hits(mdcb, mcp=True)) == (2, 1)


def test_an_hour_that_fails_after_another(mdcb: Mdcb, pump: Open) -> None:
    """Each call's records are known."""
    mdcb.script({API: [Answer(), Answer(error="db down"), Answer()]})
    made = pump(mdcb, **COUNTED)
    times = [(NINE[0] + 3600 * hour, 0) for hour in (1, 0, 2, 1)]
    whole = batch(*(record(timestamp=time) for time in times))
    with pytest.raises(TransientError, match="db down") as caught:
        made.write(whole)
    assert caught.value.pending == [0, 2, 3]
    made.write(whole.part([0, 2, 3]))
    assert hits(mdcb) == 4


def test_an_aggregate_whose_answer_is_late(mdcb: Mdcb, pump: Open) -> None:
    """It is counted once."""
    done = threading.Event()
    mdcb.script({API: [Answer(until=done), Answer()]})
    made = pump(mdcb, **COUNTED, call_timeout=0.2)
    whole = batch(record(), record())
    with pytest.raises(TransientError, match="no answer within") as caught:
        made.write(whole)
    done.set()
    made.write(whole.part(caught.value.pending or []))
    assert hits(mdcb) == 2


def test_an_mdcb_without_the_mcp_function(mdcb: Mdcb, pump: Open) -> None:
    """MCP calls are dead letters with its words; others are counted, once."""
    mdcb.functions.discard(MCP)
    made = pump(mdcb, **ALL_COUNTED)
    with pytest.raises(RejectedRecords, match="unknown method") as caught:
        made.write(batch(record(), mcp(), mcp(), record()))
    assert sorted(caught.value.rejected) == [1, 2]
    assert hits(mdcb) == 2


def test_an_mdcb_without_the_function_of_all(mdcb: Mdcb, pump: Open) -> None:
    """Something else answers there: the records wait."""
    mdcb.functions.discard(API)
    made = pump(mdcb, **COUNTED)
    with pytest.raises(TransientError, match="unknown method") as caught:
        made.write(batch(record(), record()))
    assert caught.value.pending == [0, 1]


def test_large_aggregates_are_divided(mdcb: Mdcb, pump: Open) -> None:
    """By count and by bytes; nothing is lost or counted twice."""
    records = [record(f"n{n}", path=f"/{n}", api_key=f"k{n}") for n in range(40)]
    made = pump(mdcb, **COUNTED, track_all_paths=True, rpc_pool_size=1, batch_size=16)
    made.write(batch(*records))
    assert [one["Total"]["hits"] for one in mdcb.aggregates()] == [16, 16, 8]
    mdcb.accepted.clear()
    made = pump(mdcb, **COUNTED, track_all_paths=True, batch_bytes=20_000)
    made.write(batch(*records))
    assert hits(mdcb) == 40
    assert len(mdcb.accepted) > 3
    assert all(len(call.argument or "") <= 20_000 for call in mdcb.accepted)


def test_times_that_have_no_form(mdcb: Mdcb, pump: Open) -> None:
    """Those records are dead letters; the others of their hour are counted."""
    made = pump(mdcb, **COUNTED)
    with pytest.raises(RejectedRecords, match="year") as caught:
        made.write(
            batch(
                record(),
                record(timestamp=(10**12, 0)),
                record(expire_at=(10**12, 0)),
                record(),
            )
        )
    assert sorted(caught.value.rejected) == [1, 2]
    assert hits(mdcb) == 2


def test_sums_stay_within_64_bits(mdcb: Mdcb, pump: Open) -> None:
    """A reader of them would refuse the payload."""
    made = pump(mdcb, **COUNTED)
    made.write(batch(*(record(request_time=2**62) for _ in range(3))))
    (one,) = mdcb.aggregates()
    assert one["Total"]["total_request_time"] == 2**63 - 1
