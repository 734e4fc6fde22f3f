"""The raw Mongo pumps: options, errors with their positions, and a real server."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from bson.objectid import ObjectId

from tests.pumps.config import loaded
from tests.servers import mongowire
from tests.servers.mongo import MongoServer
from tests.servers.mongowire import Answer, Command, MongoWire, failed, refused
from tests.servers.tls import Authority
from tests.worker.bench import StillClock, run
from tyk_pump import channel, pumps
from tyk_pump.config.options import Secret
from tyk_pump.errors import ConfigError, RejectedRecords, TransientError
from tyk_pump.pumps.protocol import Batch, Pump
from tyk_pump.record import wire as codec
from tyk_pump.record.analytics import AnalyticsRecord, GraphQLStats, MCPStats
from tyk_pump.transport.mongo import NOTICE, Mongo, MongoOptions, address, identity

Open = Callable[..., Pump]
MEBI = 1024 * 1024
PASSWORD = "p w@x/y?z:%&"


@pytest.fixture
def opened() -> Iterator[Open]:
    """Open pumps; they are closed after the test."""
    with contextlib.ExitStack() as stack:

        def give(url: str, kind: str = "mongo", **options: Any) -> Pump:
            found = pumps.load(kind)
            if kind != "mongo-pump-selective":
                options.setdefault("collection_name", "c")
            pump = found(found.options_type(mongo_url=Secret(url), **options))
            pump.open()
            stack.callback(pump.close)
            return pump

        yield give


@pytest.fixture
def wire() -> Iterator[MongoWire]:
    """A server that listens."""
    with MongoWire() as made:
        yield made


def record(number: int = 0, **fields: Any) -> AnalyticsRecord:
    """Return a record that is known by its alias."""
    made = AnalyticsRecord(alias=f"n{number}", org_id="o", timestamp=(1_741_176_000, 0))
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def batch(*records: AnalyticsRecord, first: int = 0) -> Batch:
    """Return records as a pump gets them."""
    positions = range(first, first + len(records))
    return Batch("S", 0, "analytics", positions, list(records), cursor="X")


def some(count: int, **fields: Any) -> Batch:
    """Return a batch of as many records."""
    return batch(*(record(number, **fields) for number in range(count)))


def aliases(documents: list[dict[str, Any]]) -> list[str]:
    """Return which records documents are of."""
    return [document["alias"] for document in documents]


def answering(*answers: Answer | None, to: str = "insert") -> mongowire.Judge:
    """Answer the first commands of a name so, and the rest as usual."""
    left = list(answers)

    def judge(command: Command) -> Answer | None:
        return left.pop(0) if left and command.name == to else None

    return judge


# Addresses


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("mongodb://h/db", "mongodb://h/db"),
        ("mongodb://u:p@h:1,h2/db", "mongodb://u:p@h:1,h2/db"),
        ("MONGODB+SRV://u:p@h/db", "mongodb+srv://u:p@h/db"),
        ("mongodb://u:p w@x@h/db", "mongodb://u:p%20w%40x@h/db"),
        ("mongodb://u:p%20w%40x@h/db", "mongodb://u:p%20w%40x@h/db"),
        ("mongodb://u:a/b?c@h/db", "mongodb://u:a%2Fb%3Fc@h/db"),
        ("mongodb://u:a+b:c@h/db", "mongodb://u:a%2Bb%3Ac@h/db"),
        ("mongodb://u:100%@h/db", "mongodb://u:100%25@h/db"),
        ("mongodb://CN=me@h/db", "mongodb://CN%3Dme@h/db"),
        ("mongodb://u:p@h/db?x=y@z", "mongodb://u:p@h/db?x=y@z"),
        ("mongodb://h/db?ssl=true;w=2", "mongodb://h/db?tls=true&w=2"),
        ("mongodb://h/db?connect=direct", "mongodb://h/db?directconnection=true"),
        ("mongodb://h/db?connect=automatic", "mongodb://h/db"),
        ("mongodb://h/db?sslInsecure=true", "mongodb://h/db?tlsinsecure=true"),
    ],
)
def test_addresses(url: str, seen: str) -> None:
    """Passwords as they are or encoded; what the reference's driver calls otherwise."""
    assert address(url).url() == seen


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("", "missing"),
        ("http://h/db", "does not begin with mongodb:// or mongodb+srv://"),
        ("mongodb://h", "names no database"),
        ("mongodb://h/", "names no database"),
        ("mongodb:///db", "names no database"),
        ("mongodb://h/db?x", "an option behind the ? is not of the form name=value"),
    ],
)
def test_addresses_that_are_none(url: str, fault: str, tmp_path: Path) -> None:
    """They are told by the option's path, before anything starts."""
    meta = {"mongo_url": url, "collection_name": "c"}
    (said,) = loaded(tmp_path, "mongo", meta).every_fault()
    assert said.startswith(f"pumps.x.meta.mongo_url: {fault}")


@pytest.mark.parametrize(
    ("meta", "fault"),
    [
        (None, "mongo_url: missing"),
        ({}, "collection_name: missing"),
        ({"collection_name": ""}, "collection_name: "),
        ({"collection_name": "a$b"}, "collection_name: must not hold $ or NUL"),
        ({"collection_name": "c", "driver": "x"}, "driver: "),
        ({"collection_name": "c", "mongo_db_type": "0"}, "mongo_db_type: expected int"),
        ({"collection_name": "c", "mongo_db_type": 3}, "mongo_db_type: "),
    ],
)
def test_faults(meta: dict[str, Any] | None, fault: str, tmp_path: Path) -> None:
    """Each is said with its place, and no fault ends the process."""
    own = None if meta is None else {"mongo_url": "mongodb://h/db", **meta}
    faults = loaded(tmp_path, "mongo", own).every_fault()
    assert any(line.startswith(f"pumps.x.meta.{fault}") for line in faults)


@pytest.mark.parametrize("driver", ["mongo-go", "mgo", ""])
def test_both_drivers_of_the_reference(driver: str, tmp_path: Path) -> None:
    """And the uptime pump's spelling of the key."""
    for key in ("driver", "mongo_driver_type"):
        meta = {"mongo_url": "mongodb://h/db", "collection_name": "c", key: driver}
        assert loaded(tmp_path, "mongo", meta).every_fault() == []


# Log-in and options of the connection


@pytest.mark.parametrize("raw", [True, False])
def test_log_in(raw: bool, opened: Open) -> None:
    """With any password, as it is or percent-encoded."""
    password = PASSWORD.replace("%", "%25")
    if not raw:
        password = quote(PASSWORD, safe="")
    with MongoWire(user=("tyk", PASSWORD)) as wire:
        url = f"mongodb://tyk:{password}@127.0.0.1:{wire.port}/d?authSource=admin"
        pump = opened(url)
        assert pump.probe().endswith(f"127.0.0.1:{wire.port}, database d, collection c")
        pump.write(some(2))
        assert aliases(wire.documents("c", "d")) == ["n0", "n1"]


def test_a_wrong_password(opened: Open) -> None:
    """Somebody has to put it right; until then we wait, and tell it to nobody."""
    with (
        MongoWire(user=("tyk", "right")) as wire,
        pytest.raises(TransientError, match="Authentication failed") as caught,
    ):
        opened(f"mongodb://tyk:wr0ng@127.0.0.1:{wire.port}/d")
    assert "wr0ng" not in repr(caught.value)


def test_nobody_there(opened: Open) -> None:
    """It is tried again, and the reason is one line."""
    with pytest.raises(TransientError, match="refused") as caught:
        opened("mongodb://tyk:s3cret@127.0.0.1:1/d", operation_timeout=0.2)
    assert len(caught.value.reason) < 200 and "s3cret" not in caught.value.reason


def test_no_name_server(opened: Open) -> None:
    """A name that is not known now may be known later."""
    with pytest.raises(TransientError):
        opened("mongodb+srv://nowhere.invalid/d", operation_timeout=0.2)


@pytest.mark.parametrize("url", ["mongodb://h/a b", "mongodb://h/d?tlsCAFile=/none"])
def test_what_the_driver_does_not_take(url: str, opened: Open) -> None:
    """The option is named."""
    with pytest.raises(ConfigError, match=r"^mongo_url: "):
        opened(url, operation_timeout=0.2)


def test_time_limit(wire: MongoWire, opened: Open) -> None:
    """Each operation has the limit, 10 s by default; the URL comes first."""
    for url, options, most in (
        (wire.url(), {}, 10_000),
        (wire.url(), {"operation_timeout": 3.0}, 3000),
        (f"{wire.url()}?timeoutMS=7000", {"operation_timeout": 3.0}, 7000),
    ):
        wire.commands.clear()
        opened(url, **options).write(some(1))
        (insert,) = wire.named("insert")
        assert most - 1000 < insert.body["maxTimeMS"] <= most
        wire.databases.clear()


@pytest.mark.parametrize(
    ("options", "url", "mode"),
    [
        ({}, "", "primary"),
        ({"mongo_session_consistency": "nonsense"}, "", "primary"),
        ({"mongo_session_consistency": "eventual"}, "", "nearest"),
        ({"mongo_session_consistency": "Monotonic"}, "", "primaryPreferred"),
        (
            {"mongo_session_consistency": "eventual"},
            "?readPreference=secondary",
            "secondary",
        ),
    ],
)
def test_session_consistency(
    options: dict[str, Any], url: str, mode: str, wire: MongoWire
) -> None:
    """Reads follow it; the URL comes first."""
    made = Mongo(MongoOptions(mongo_url=Secret(f"{wire.url()}{url}"), **options))
    made.open()
    made.close()
    assert made.database.read_preference.document["mode"] == mode


@pytest.mark.parametrize(
    ("option", "url", "found"),
    [
        (False, "", False),
        (True, "", True),
        (False, "?directConnection=true", True),
        (False, "?connect=direct", True),
        (True, "?directConnection=false", True),
    ],
)
def test_direct_connection(option: bool, url: str, found: bool, opened: Open) -> None:
    """A member of a set that knows no primary is spoken to only directly."""
    with MongoWire(replica_set="rs") as wire:
        usual = wire.hello
        wire.hello = lambda: {  # type: ignore[method-assign]
            **usual(),
            "isWritablePrimary": False,
            "ismaster": False,
            "secondary": True,
            "primary": "127.0.0.1:1",
        }
        trouble = contextlib.nullcontext() if found else pytest.raises(TransientError)
        with trouble:
            opened(
                f"{wire.url()}{url}",
                mongo_direct_connection=option,
                operation_timeout=0.3,
            )


def test_writes_are_confirmed_whatever_the_url_says(
    wire: MongoWire, opened: Open
) -> None:
    """`w=0` would lose records; another concern is followed."""
    opened(f"{wire.url()}?w=0").write(some(1))
    opened(f"{wire.url()}?w=2&journal=true").write(batch(record(), first=9))
    first, second = wire.named("insert")
    assert "writeConcern" not in first.body
    assert second.body["writeConcern"] == {"w": 2, "j": True}
    assert len(wire.documents("c")) == 2


# TLS


def test_tls(tmp_path: Path, authority: Authority, opened: Open) -> None:
    """Own authority, client certificate, checks off; pumps do not share any of it."""
    chain, key = authority.client()
    both = tmp_path / "both.pem"
    both.write_bytes(chain.read_bytes() + key.read_bytes())
    ours = {"mongo_ssl_ca_file": str(authority.ca_file)}
    shown = {"mongo_ssl_pem_keyfile": str(both)}
    short = {"operation_timeout": 0.5}
    with MongoWire(authority=authority, demand_certificate=True) as wire:
        url = wire.url()
        opened(url, mongo_use_ssl=True, **ours, **shown).write(some(1))
        opened(f"{url}?tls=true", **ours, **shown).write(some(1))
        unchecked = {"mongo_ssl_insecure_skip_verify": True}
        both_off = {**unchecked, "mongo_ssl_allow_invalid_hostnames": True}
        opened(url, mongo_use_ssl=True, **unchecked, **shown).write(some(1))
        opened(url, mongo_use_ssl=True, **both_off, **shown).write(some(1))
        for options in (
            {"mongo_use_ssl": True, **shown},
            {"mongo_use_ssl": True, **ours},
            {**ours, **shown},
        ):
            with pytest.raises(TransientError):
                opened(url, **options, **short)
        assert len(wire.documents("c")) == 1


def test_tls_host_names(authority: Authority, opened: Open) -> None:
    """A certificate for another name is taken where that is allowed; no stranger's."""
    ours = {"mongo_ssl_ca_file": str(authority.ca_file)}
    use = {"mongo_use_ssl": True, "operation_timeout": 0.5}
    anything = {"mongo_ssl_allow_invalid_hostnames": True}
    with MongoWire(authority=authority) as wire:
        # The same machine, by a name that the certificate does not have.
        url = f"mongodb://127.1:{wire.port}/d"
        with pytest.raises(TransientError, match=r"127\.1"):
            opened(url, **use, **ours)
        with pytest.raises(TransientError, match=r"127\.1"):
            opened(url, **use, **anything)
        opened(url, **use, **ours, **anything).write(some(1))
        assert len(wire.documents("c", "d")) == 1


@pytest.mark.parametrize("option", ["mongo_ssl_ca_file", "mongo_ssl_pem_keyfile"])
@pytest.mark.parametrize("content", [None, "nonsense"])
def test_tls_files_at_fault(
    option: str, content: str | None, tmp_path: Path, opened: Open
) -> None:
    """Missing or without a certificate: the option is named."""
    path = tmp_path / "file.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=f"^{option}: "):
        opened("mongodb://h/d", mongo_use_ssl=True, **{option: str(path)})


# What is stored


def test_identities() -> None:
    """Of one stream they are in order; of kinds, streams and positions all differ."""
    ids = [identity("mongo", f"S:{n}") for n in (0, 1, 255, 256, 2**32, 2**40 - 1)]
    assert ids == sorted(set(ids)) and {len(one) for one in ids} == {12}
    others = {identity("mongo-mcp", "S:0"), identity("mongo", "T:0"), ids[0]}
    assert len(others) == 3
    assert identity("mongo", "S:1").hex() == "47e820553e43eb0000000001"


def test_a_replay_keeps_the_identity(wire: MongoWire, opened: Open) -> None:
    """A dead letter that is replayed is the record that it was."""
    pump = opened(wire.url())
    pump.write(batch(record(7), first=7))
    again = batch(record(7))
    again.stream, again.ids = "REPLAY", ["S:7"]
    pump.write(again)
    (document,) = wire.documents("c")
    assert document["_id"] == ObjectId(identity("mongo", "S:7"))


def test_kinds_share_a_collection(wire: MongoWire, opened: Open) -> None:
    """A call of MCP over GraphQL stands there in both its forms."""
    both = {"graphql_stats": GraphQLStats(is_graphql=True), "mcp_stats": MCPStats(True)}
    for kind in ("mongo", "mongo-graph", "mongo-mcp"):
        opened(wire.url(), kind).write(some(1, **both))
    assert [("types" in d, "primitivename" in d) for d in wire.documents("c")] == [
        (True, False),
        (False, True),
    ]


@pytest.mark.parametrize(
    ("kind", "stripped"), [("mongo", True), ("mongo-mcp", True), ("mongo-graph", False)]
)
def test_too_large_for_the_option(
    kind: str, stripped: bool, wire: MongoWire, opened: Open
) -> None:
    """Bodies go where the reference leaves them out; the record itself is stored."""
    both = {"graphql_stats": GraphQLStats(is_graphql=True)}
    if kind != "mongo":
        both["mcp_stats"] = MCPStats(is_mcp=True)  # type: ignore[assignment]
    raws = {"raw_request": "R" * 500, "raw_response": "ö" * 300}
    at, beyond = {**raws, "raw_response": "ö" * 238}, raws
    pump = opened(wire.url(), kind, max_document_size_bytes=2000)
    pump.write(batch(record(0, **both, **at), record(1, **both, **beyond)))
    first, second = wire.documents("c")
    assert first["rawrequest"] == raws["raw_request"]
    kept = ("", NOTICE) if stripped else (raws["raw_request"], raws["raw_response"])
    assert (second["rawrequest"], second["rawresponse"]) == kept


@pytest.mark.parametrize("kind", ["mongo", "mongo-graph", "mongo-pump-selective"])
def test_too_large_for_mongodb(kind: str, wire: MongoWire, opened: Open) -> None:
    """Without its bodies if that helps, else a dead letter; the others arrive."""
    graph = {"graphql_stats": GraphQLStats(is_graphql=True)}
    pump = opened(wire.url(), kind, max_document_size_bytes=64 * MEBI)
    name = "z_tyk_analyticz_o" if kind == "mongo-pump-selective" else "c"
    with pytest.raises(RejectedRecords) as caught:
        pump.write(
            batch(
                record(0, **graph),
                record(1, **graph, raw_request="R" * (17 * MEBI)),
                record(2, **graph, path="p" * (17 * MEBI)),
                record(3, **graph),
            )
        )
    stripped = kind != "mongo-pump-selective"
    assert set(caught.value.rejected) == ({2} if stripped else {1, 2})
    assert "MongoDB's limit is 16777216" in caught.value.rejected[2]
    there = ["n0", "n1", "n3"] if stripped else ["n0", "n3"]
    assert aliases(wire.documents(name)) == there


def test_selective_refuses_what_is_too_large(wire: MongoWire, opened: Open) -> None:
    """The reference dropped it."""
    pump = opened(wire.url(), "mongo-pump-selective", max_document_size_bytes=2000)
    with pytest.raises(RejectedRecords) as caught:
        pump.write(batch(record(0), record(1, raw_request="R" * 977), record(2)))
    why = "too large: 2001 bytes, the limit is 2000 (max_document_size_bytes)"
    assert caught.value.rejected == {1: why}
    assert aliases(wire.documents("z_tyk_analyticz_o")) == ["n0", "n2"]


def test_odd_values(wire: MongoWire, opened: Open) -> None:
    """Nothing that a record can hold keeps it or its batch from arriving."""
    odd = record(1, path="/\udcff\udcfe", tags=["\udc80"], day=2**40)
    odd.timestamp = (2**62, 0)
    odd.geo.city.names = {"a\0b": "\udcff", "a.b": "$"}
    odd.geo.city.geoname_id = 2**64 - 1
    odd.geo.location.latitude = float("nan")
    opened(wire.url()).write(batch(record(0), odd))
    document = wire.documents("c")[1]
    assert document["path"] == "/\ufffd\ufffd" and document["tags"] == ["\ufffd"]
    city = document["geo"]["city"]
    assert city == {
        "geonameid": 2**63 - 1,
        "names": {"a\ufffdb": "\ufffd", "a.b": "$"},
    }
    assert document["day"] == 2**40


# Collections and indexes


def test_a_capped_collection_that_cannot_be_made(wire: MongoWire, opened: Open) -> None:
    """It is said, and records are stored all the same."""
    wire.judge = answering(mongowire.NO_PERMISSION, to="create")
    opened(wire.url(), collection_cap_enable=True).write(some(1))
    assert aliases(wire.documents("c")) == ["n0"]


def test_collections_that_may_not_be_listed(wire: MongoWire, opened: Open) -> None:
    """Nothing is made then, and records are stored."""
    wire.judge = answering(*[mongowire.NO_PERMISSION] * 2, to="listCollections")
    opened(wire.url(), collection_cap_enable=True).write(some(1))
    assert aliases(wire.documents("c")) == ["n0"]
    assert wire.named("create", "createIndexes") == []


def test_indexes_go_on_after_a_broken_connection(wire: MongoWire) -> None:
    """The collection exists then, by our own first index: it is no other's."""
    found = pumps.load("mongo")
    url = Secret(wire.url())
    pump = found(found.options_type(mongo_url=url, collection_name="c"))
    wire.judge = answering(None, Answer(cut=True), to="createIndexes")
    with pytest.raises(TransientError):
        pump.open()
    pump.open()
    pump.close()
    names = {index["name"] for index in wire.indexes["tyk_analytics", "c"]}
    assert names == {"orgid_1", "apiid_1", "logBrowserIndex"}


def test_selective_asks_once(wire: MongoWire, opened: Open) -> None:
    """Not before every insert."""
    pump = opened(wire.url(), "mongo-pump-selective")
    for first in range(3):
        pump.write(batch(record(0), record(1, org_id="p"), first=2 * first))
    assert len(wire.named("listCollections")) == 2
    assert len(wire.named("createIndexes")) == 6
    assert len(wire.named("insert")) == 6


# Errors, with their positions


@pytest.mark.parametrize("kind", ["mongo", "mongo-pump-selective"])
@pytest.mark.parametrize(
    "answer",
    [
        mongowire.NOT_PRIMARY,
        mongowire.STEPPED_DOWN,
        mongowire.SHUTTING_DOWN,
        mongowire.WRITE_CONFLICT,
        mongowire.NO_PERMISSION,
        mongowire.NO_SPACE,
        failed(50, "MaxTimeMSExpired"),
        failed(8000, "AtlasError"),
        failed(1, "SomethingNew"),
        Answer(cut=True),
        Answer(lost=True),
        Answer({"ok": 1.0}),
        Answer({"ok": 1.0, "n": 1}),
    ],
)
def test_what_passes(kind: str, answer: Answer, wire: MongoWire, opened: Open) -> None:
    """No record is blamed; sent again, each is there once."""
    pump = opened(wire.url(), kind)
    wire.judge = answering(answer)
    with pytest.raises(TransientError) as caught:
        pump.write(some(3))
    assert caught.value.rejected == {}
    assert caught.value.pending == [0, 1, 2]
    pump.write(some(3))
    name = "c" if kind == "mongo" else "z_tyk_analyticz_o"
    assert aliases(wire.documents(name)) == ["n0", "n1", "n2"]


def test_a_server_that_hangs(wire: MongoWire, opened: Open) -> None:
    """The operation's time limit ends the wait."""
    pump = opened(wire.url(), operation_timeout=0.3)
    wire.judge = answering(Answer(delay=5))
    with pytest.raises(TransientError, match="timed out"):
        pump.write(some(1))


def test_some_of_a_batch(wire: MongoWire, opened: Open) -> None:
    """Each document by itself: refused, later, there already, in."""
    taken = "E11000 duplicate key error collection: d.c index: _id_ dup key: {}"
    answer = refused(
        2, (1, 121, "Document failed validation"), (2, 11000, taken), (3, 112, "later")
    )
    pump = opened(wire.url())
    wire.judge = answering(answer)
    with pytest.raises(TransientError, match="later") as caught:
        pump.write(some(5))
    assert caught.value.rejected == {1: "Document failed validation"}
    assert caught.value.pending == [3]


def test_another_unique_index(wire: MongoWire, opened: Open) -> None:
    """A duplicate of something else than `_id` is a refusal, unless it is there."""
    pump = opened(wire.url())
    pump.write(some(1))
    text = "E11000 duplicate key error collection: d.c. Failed _id or unique index"
    errors = refused(0, (0, 11000, text), (1, 11000, text))

    def judge(command: Command) -> Answer | None:
        if command.name == "insert":
            return errors
        wanted = command.body["filter"]["_id"]["$in"]
        assert [one.binary for one in wanted] == [
            identity("mongo", "S:0"),
            identity("mongo", "S:1"),
        ]
        rows = [{"_id": wanted[0]}]
        cursor = {"id": 0, "ns": "d.c", "firstBatch": rows}
        return Answer({"ok": 1.0, "cursor": cursor})

    wire.judge = judge
    with pytest.raises(RejectedRecords) as caught:
        pump.write(some(2))
    assert set(caught.value.rejected) == {1}


def test_throttled(wire: MongoWire, opened: Open) -> None:
    """Cosmos DB says how long it wants to be left alone."""
    text = "Error=16500, RetryAfterMs=340, Details='Request rate is large"
    pump = opened(wire.url())
    for answer in (
        refused(1, (1, 16500, text)),
        failed(16500, "TooManyRequests", message=text),
    ):
        wire.judge = answering(answer)
        with pytest.raises(TransientError) as caught:
            pump.write(some(2))
        assert caught.value.retry_after == 0.34


def test_not_replicated_yet(wire: MongoWire, opened: Open) -> None:
    """Written and not safe: sent again, and there once."""
    concern = {"code": 64, "errmsg": "waiting for replication timed out"}
    pump = opened(wire.url())
    wire.judge = answering(Answer({"ok": 1.0, "n": 2, "writeConcernError": concern}))
    with pytest.raises(TransientError, match="replication") as caught:
        pump.write(some(2))
    assert caught.value.pending == [0, 1]


def test_a_command_refused_for_one_document(wire: MongoWire, opened: Open) -> None:
    """It is sent in halves until the culprit stands alone."""

    def judge(command: Command) -> Answer | None:
        documents = command.body.get("documents", [])
        return mongowire.TOO_LARGE if "n3" in aliases(documents) else None

    pump = opened(wire.url())
    wire.judge = judge
    with pytest.raises(RejectedRecords) as caught:
        pump.write(some(6))
    assert set(caught.value.rejected) == {3}
    assert sorted(aliases(wire.documents("c"))) == ["n0", "n1", "n2", "n4", "n5"]


def test_a_message_has_no_more_bytes_than_servers_take(
    wire: MongoWire, opened: Open
) -> None:
    """Also where the count of a batch's bytes leaves most of them out."""
    opened(wire.url()).write(some(3, path="p" * (7 * MEBI)))
    most = 64 * MEBI
    pump = opened(
        wire.url(), max_insert_batch_size_bytes=most, max_document_size_bytes=most
    )
    pump.write(batch(*(record(n, raw_request="r" * (7 * MEBI)) for n in range(3, 6))))
    counts = [len(insert.body["documents"]) for insert in wire.named("insert")]
    assert counts == [1, 2, 2, 1]


def test_selective_goes_on_beside_a_bad_name(wire: MongoWire, opened: Open) -> None:
    """An organisation that makes no name is refused; others have their records."""

    def judge(command: Command) -> Answer | None:
        bad = command.name == "insert" and "$" in command.collection
        return failed(73, "InvalidNamespace", message="Invalid name") if bad else None

    wire.judge = judge
    pump = opened(wire.url(), "mongo-pump-selective")
    with pytest.raises(RejectedRecords) as caught:
        pump.write(batch(record(0), record(1, org_id="a$b"), record(2)))
    assert set(caught.value.rejected) == {1}
    assert "Invalid name" in caught.value.rejected[1]
    assert aliases(wire.documents("z_tyk_analyticz_o")) == ["n0", "n2"]


def test_selective_names_the_positions_of_every_collection(
    wire: MongoWire, opened: Open
) -> None:
    """One collection had its records, one of another's is refused, one fails."""
    pump = opened(wire.url(), "mongo-pump-selective")
    wire.judge = answering(None, refused(1, (1, 121, "bad")), mongowire.NOT_PRIMARY)
    orgs = "abcabcd"
    with pytest.raises(TransientError) as caught:
        pump.write(batch(*(record(n, org_id=org) for n, org in enumerate(orgs))))
    assert caught.value.rejected == {4: "bad"}
    assert caught.value.pending == [2, 5, 6]


def test_records_that_a_pump_leaves_out(
    wire: MongoWire, opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    """They count as filtered; records without an organisation are told once."""
    pump = opened(wire.url(), "mongo-pump-selective")
    for first in (0, 4):
        whole = batch(
            record(0, response_code=-1),
            record(1, mcp_stats=MCPStats(is_mcp=True)),
            record(2, org_id=""),
            record(3),
            first=first,
        )
        pump.write(whole)
        assert whole.left_out == 3
    assert aliases(wire.documents("z_tyk_analyticz_o")) == ["n3", "n3"]
    told = [line for line in caplog.messages if "without an organisation" in line]
    assert len(told) == 1


def test_secrets_are_not_shown() -> None:
    """The URL is one, for it holds a password."""
    options = MongoOptions(mongo_url=Secret("mongodb://u:s3cret@h/d"))
    assert "s3cret" not in repr(options)


# A real server


def _frames(count: int, size: int) -> list[bytes]:
    return [
        channel.encode_frame(
            "S",
            "analytics",
            "msgpack",
            first,
            None,
            [codec.pack(record(n)) for n in range(first, first + size)],
        )
        for first in range(0, count, size)
    ]


def test_a_real_server(mongo_server: MongoServer, opened: Open) -> None:
    """Documents, indexes, duplicates as FerretDB has them."""
    pump = opened(mongo_server.url())
    assert pump.probe().startswith("MongoDB 7.0")
    pump.write(some(50))
    pump.write(batch(*(record(n) for n in range(100))))
    there = aliases(mongo_server.documents("c"))
    assert sorted(there) == sorted(f"n{n}" for n in range(100))
    with mongo_server.client() as client:
        indexes = client["tyk_analytics"]["c"].index_information()
    assert set(indexes) == {"_id_", "orgid_1", "apiid_1", "logBrowserIndex"}


def test_a_real_server_refuses_a_document(
    mongo_server: MongoServer, opened: Open
) -> None:
    """FerretDB has no names with dots; the others are stored."""
    dotted = record(1)
    dotted.geo.city.names = {"a.b": "x"}
    pump = opened(mongo_server.url())
    with pytest.raises(RejectedRecords) as caught:
        pump.write(batch(record(0), dotted, record(2)))
    assert set(caught.value.rejected) == {1}
    assert sorted(aliases(mongo_server.documents("c"))) == ["n0", "n2"]


class _Restarting(StillClock):
    """Brings the server back at the first pause."""

    def __init__(self, server: MongoServer) -> None:
        super().__init__()
        self._server: MongoServer | None = server

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        if self._server is not None:
            self._server.restart()
        self._server = None


def test_a_restart_in_the_middle(mongo_server: MongoServer, opened: Open) -> None:
    """Killed behind an insert whose answer is lost: none is missing, none is twice."""
    done = [0]

    def judge(command: Command) -> Answer | None:
        if command.name == "insert":
            done[0] += 1
            if done[0] == 3:
                mongo_server.kill()
        return None

    with MongoWire(judge, upstream=mongo_server.port) as front:
        pump = opened(front.url(), operation_timeout=2.0)
        clock = _Restarting(mongo_server)
        end = run(pump, _frames(500, 100), clock=clock)
    assert sum(outcome.delivered for outcome in end.outcomes) == 500
    there = aliases(mongo_server.documents("c"))
    assert sorted(there) == sorted(f"n{n}" for n in range(500))
