"""One entry per registered pump: how to set it up, break it, and read what arrived.

A new pump adds one `Case` to CASES; a test compares the table with the registry.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import resource
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from tests.daemon.harness import csv_rows
from tests.servers import aws, free_port, logzio, mdcb, mongowire, segment, splunk
from tests.servers.cluster import ClusterServer, refused
from tests.servers.database import Database, Databases
from tests.servers.http import Answer, HttpServer, Request
from tests.servers.influx import Influx, Influx1, Influx2
from tests.servers.kafka import ProxiedKafka, topic_name
from tests.servers.mdcb import Mdcb
from tests.servers.moesif import Moesif
from tests.servers.mongo import MongoServer
from tests.servers.mongowire import MongoWire
from tests.servers.process import listening
from tests.servers.receiver import TcpReceiver, UnixReceiver
from tests.servers.resurface import Capture
from tests.servers.splunk import Collector
from tests.servers.timestream import Timestream
from tyk_pump.pumps.prometheus import PrometheusOptions, PrometheusPump
from tyk_pump.record.analytics import GraphQLStats, MCPStats

FAULTY = "tests.faults.plugins.faulty_pump:FaultyPump"
STDOUT = 1


class Seen:
    """Where the output of an in-process pump is found."""

    def __init__(
        self,
        folder: Path,
        capfd: pytest.CaptureFixture[str],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        self.folder = folder
        self.server: Any = None
        """What `server` of the case has made."""
        self._capfd = capfd
        self._printed = ""
        self.log = caplog

    def printed(self) -> list[str]:
        """Return all whole lines that standard output has had so far."""
        self._printed += self._capfd.readouterr().out
        return self._printed.splitlines()


Server = Callable[[pytest.FixtureRequest], AbstractContextManager[Any]]
"""Gets the test's request, for the fixtures of shared servers and certificates."""
Broken = Callable[[Seen], AbstractContextManager[None]]


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """What the suite has to know of one pump."""

    type: str
    meta: Callable[[Seen], dict[str, Any]]
    """Makes the options; the folder is empty and the test's own."""
    arrived: Callable[[Seen], list[str]]
    """Names of what has arrived, in order, by alias or the API's name; "" where
    neither is kept."""
    server: Server | None = None
    """Starts what stands in for the back end; `seen.server` holds it meanwhile."""
    touched: Callable[[Seen], bool] = lambda seen: any(seen.folder.iterdir())
    """Whether anything was made or asked there."""
    broken: Broken | None = None
    """While this context lasts, a write fails after a part; None: it never fails."""
    once: bool = False
    """True where a repeated frame adds nothing."""
    exact: bool = True
    """False where what had arrived before a failure cannot be known, and a retry
    sends it again."""
    empty_answer: bool = False
    """True where an HTTP status is the whole answer, and its body is empty."""
    secret: Callable[[Seen, str], str] = lambda seen, text: text
    """Puts a made-up text into a secret option that has a form."""
    names: bool = True
    """False where records are counted, and no name is kept of each."""
    fields: dict[str, Any] = {}
    """What every record has, so that the pump takes it."""
    unfit: dict[str, Any] | None = None
    """Fields of a record that the back end refuses for good; None: it takes all."""
    mended: Callable[[Seen], object] | None = None
    """Makes the back end take what it refused; None: the pump itself refuses it."""
    unheard: bool = False
    """True where a record may be there whose write has failed in `broken`."""


def _csv_arrived(seen: Seen) -> list[str]:
    return [row["Alias"] for row in csv_rows(seen.folder)]


def _stdout_arrived(seen: Seen) -> list[str]:
    names = []
    for line in seen.printed():
        # What a failing write left of a line is no JSON; it is printed again.
        with contextlib.suppress(ValueError):
            names.append(json.loads(line)["tyk-analytics-record"]["alias"])
    return names


def _dummy_arrived(seen: Seen) -> list[str]:
    counts = [
        int(entry.getMessage().split()[1])
        for entry in seen.log.records
        if entry.getMessage().startswith("Writing ")
    ]
    return [""] * sum(counts)


def _faulty_arrived(seen: Seen) -> list[str]:
    path = seen.folder / "arrived"
    lines = path.read_text().splitlines() if path.exists() else []
    return [line.split()[0] for line in lines]


@contextlib.contextmanager
def _small_files(size: int) -> Iterator[None]:
    """No file of this process grows beyond this size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _csv_broken(seen: Seen) -> AbstractContextManager[None]:
    sizes = [path.stat().st_size for path in seen.folder.glob("*.csv")]
    return _small_files(max(sizes, default=0) + 2000)


def _stdout_broken(seen: Seen) -> AbstractContextManager[None]:
    return _small_files(os.fstat(STDOUT).st_size + 5000)


def _scraped(seen: Seen) -> list[str]:
    """What a scraper counts; a pump that is closed is opened once more for it."""
    with contextlib.ExitStack() as stack:
        if not listening(seen.server):
            address = f"127.0.0.1:{seen.server}"
            options = PrometheusOptions(listen_address=address, persist="batch")
            pump = PrometheusPump(options)
            pump.keep_in(seen.folder / "kept")
            pump.open()
            stack.callback(pump.close)
        with urllib.request.urlopen(f"http://127.0.0.1:{seen.server}/metrics") as reply:
            lines = reply.read().decode().splitlines()
    numbers = [int(x.split()[1]) for x in lines if x.startswith("tyk_http_status{")]
    return [""] * sum(numbers)


def _no_room(seen: Seen) -> AbstractContextManager[None]:
    """The disk has no room for what is stored."""
    return _small_files(1)


@contextlib.contextmanager
def _influx(kind: type[Influx]) -> Iterator[Influx]:
    server = kind()
    try:
        yield server
    finally:
        server.close()


@contextlib.contextmanager
def _influx_broken(seen: Seen) -> Iterator[None]:
    """The first request is taken, the next ones are not."""
    left = [1]

    def answer(request: Request) -> Answer:
        left[0] -= 1
        whole = left[0] >= 0 or not request.path.endswith("/write")
        return seen.server.respond(request) if whole else Answer(503)

    with seen.server.http.answering(answer):
        yield


@contextlib.contextmanager
def _faulty_broken(seen: Seen) -> Iterator[None]:
    switch = seen.folder / "half"
    switch.touch()
    try:
        yield
    finally:
        switch.unlink()


def _tcp(request: pytest.FixtureRequest) -> TcpReceiver:
    return TcpReceiver()


def _tcp_broken(seen: Seen) -> AbstractContextManager[None]:
    receiver: TcpReceiver = seen.server
    return receiver.resetting(after=5000)


def _graylog_arrived(seen: Seen) -> list[str]:
    found = [json.loads(message) for message in seen.server.messages(b"\0")]
    return [json.loads(message["message"])["alias"] for message in found]


def _syslog_arrived(seen: Seen) -> list[str]:
    lines = [line.decode() for line in seen.server.messages()]
    return [line.partition("map[alias:")[2].partition(" ")[0] for line in lines]


def _unix(request: pytest.FixtureRequest) -> AbstractContextManager[Any]:
    return UnixReceiver(request.getfixturevalue("tmp_path") / "s.sock")


def _unix_broken(seen: Seen) -> AbstractContextManager[None]:
    """It leaves, and its socket takes no more."""
    return seen.server.leaving(after=12)  # type: ignore[no-any-return]


def _statsd_arrived(seen: Seen) -> list[str]:
    return [
        line.partition(".")[2].partition(":")[0]
        for line in seen.server.lines
        if line.endswith("|ms")
    ]


def _dogstatsd_arrived(seen: Seen) -> list[str]:
    return [line.rpartition("api_name:")[2] for line in seen.server.lines]


def _cluster(request: pytest.FixtureRequest) -> AbstractContextManager[Any]:
    server = ClusterServer()
    server.judge = lambda document: (
        refused(400) if '"request_uri":"unfit"' in document.line else None
    )
    return server


def _cluster_arrived(seen: Seen) -> list[str]:
    return [document.source["alias"] for document in seen.server.documents]


@contextlib.contextmanager
def _cluster_broken(seen: Seen) -> Iterator[None]:
    """The second request is not answered, and all that follow."""
    http = seen.server.http
    usual, first = http.respond, True

    def respond(request: Request) -> Answer:
        nonlocal first
        if not first:
            return Answer(hang_up=True)
        first = False
        return usual(request)  # type: ignore[no-any-return]

    with http.answering(respond):
        yield


@contextlib.contextmanager
def _splunk(request: pytest.FixtureRequest) -> Iterator[Collector]:
    with Collector(authority=request.getfixturevalue("authority")) as made:
        made.refuses = lambda event: event["event"]["method"] == "UNFIT"
        yield made


def _splunk_meta(seen: Seen) -> dict[str, Any]:
    return {
        "collector_url": seen.server.url,
        "collector_token": splunk.TOKEN,
        "ssl_ca_file": str(seen.server.http.authority.ca_file),
        "fields": ["alias", "method", "raw_request"],
        "enable_batch": True,
        "batch_max_content_length": 10_000,
    }


@contextlib.contextmanager
def _splunk_broken(seen: Seen) -> Iterator[None]:
    seen.server.room = 1
    try:
        yield
    finally:
        seen.server.room = None


def _moesif_meta(seen: Seen) -> dict[str, Any]:
    server: Moesif = seen.server
    return {
        "application_id": "app-1",
        "enable_bulk": True,
        "bulk_config": {"api_endpoint": server.url, "batch_size": 30},
    }


def _moesif_arrived(seen: Seen) -> list[str]:
    return [event["user_id"] for event in seen.server.events]


@contextlib.contextmanager
def _moesif_broken(seen: Seen) -> Iterator[None]:
    """One batch is taken, then Moesif is away."""
    server: Moesif = seen.server
    first = len(server.asked("POST"))
    server.before = lambda request: (
        Answer(503) if len(server.asked("POST")) > first + 1 else None
    )
    try:
        yield
    finally:
        server.before = lambda request: None


@contextlib.contextmanager
def refusing(server: HttpServer) -> Iterator[None]:
    """While this lasts the server has no time."""
    with server.answering(lambda request: Answer(503, b"busy")):
        yield


def _listener(request: pytest.FixtureRequest) -> logzio.Listener:
    return logzio.Listener(request.getfixturevalue("authority"))


def _segment(request: pytest.FixtureRequest) -> segment.Api:
    return segment.Api(request.getfixturevalue("authority"))


@contextlib.contextmanager
def _aws(request: pytest.FixtureRequest) -> Iterator[aws.Aws]:
    with aws.Aws(request.getfixturevalue("authority")) as made:
        made.fails = lambda text: (
            "InvalidMessageContents" if '"alias":"unfit' in text else ""
        )
        yield made


def _aws_meta(seen: Seen) -> dict[str, Any]:
    return {
        "aws_region": aws.REGION,
        "aws_key": aws.KEY,
        "aws_secret": aws.SECRET,
        "aws_endpoint": seen.server.url,
        **trusting(seen),
    }


@contextlib.contextmanager
def _aws_broken(seen: Seen) -> Iterator[None]:
    """The first call does its work, the next ones are throttled."""
    left = [1]

    def before(operation: str, asked: Any) -> aws.Wrong | None:
        left[0] -= 1
        return None if left[0] >= 0 else aws.Wrong("ThrottlingException", "slower")

    seen.server.before = before
    try:
        yield
    finally:
        seen.server.before = lambda operation, asked: None


def asked(seen: Seen) -> bool:
    """Whether a request has been made."""
    return bool(seen.server.requests)


def trusting(seen: Seen) -> dict[str, Any]:
    """Return the option that makes a pump believe the test's authority."""
    return {"ssl_ca_file": str(seen.server.authority.ca_file)}


class _KafkaTopic(NamedTuple):
    """A topic of a broker behind a proxy."""

    kafka: ProxiedKafka
    name: str

    def aliases(self) -> list[str]:
        found = self.kafka.all_messages(self.name)
        return [json.loads(message.value)["alias"] for message in found]


@contextlib.contextmanager
def _kafka_topic(request: pytest.FixtureRequest) -> Iterator[_KafkaTopic]:
    kafka: ProxiedKafka = request.getfixturevalue("proxied_kafka")
    name = topic_name(f"contract-{request.node.name}")
    # What kafka-python has to say here, byte by byte, would bury everything.
    logging.getLogger("kafka").setLevel(logging.WARNING)
    kafka.create_topic(name)
    yield _KafkaTopic(kafka, name)


@contextlib.contextmanager
def _kafka_broken(seen: Seen) -> Iterator[None]:
    proxy = seen.server.kafka.proxy
    proxy.cut_after(20_000)
    try:
        yield
    finally:
        proxy.heal()


def _resurface_meta(seen: Seen) -> dict[str, Any]:
    rules = "allow_http_url"
    return {"capture_url": seen.server.url, "rules": rules, "bundle_size": 4000}


def _resurface(request: pytest.FixtureRequest) -> Capture:
    server = Capture()
    server.refuses = lambda message: ["custom_field:tyk-api-id", "unfit"] in message
    return server


@contextlib.contextmanager
def _resurface_broken(seen: Seen) -> Iterator[None]:
    """One bundle is taken, then the endpoint is away."""
    server: Capture = seen.server
    taken = len(server.bundles)
    server.before = lambda request: Answer(503) if len(server.bundles) > taken else None
    try:
        yield
    finally:
        server.before = lambda request: None


def _timestream(request: pytest.FixtureRequest) -> Timestream:
    server = Timestream()
    server.oldest = 1_741_000_000 * 10**9
    return server


@contextlib.contextmanager
def _timestream_broken(seen: Seen) -> Iterator[None]:
    """Of the first call the answer is lost; then the service is away."""
    http = seen.server.http
    usual, first = http.respond, [True]

    def respond(request: Request) -> Answer:
        if first:
            first.clear()
            usual(request)
        return Answer(hang_up=True)

    with http.answering(respond):
        yield


@contextlib.contextmanager
def _postgres(request: pytest.FixtureRequest) -> Iterator[Database]:
    databases: Databases = request.getfixturevalue("postgres_server")
    yield databases.database()


@contextlib.contextmanager
def _full_disk(seen: Seen, table: str) -> Iterator[None]:
    """The database says that its disk is full."""
    database: Database = seen.server
    if table in database.tables():
        database.refuse(table, "53100")
    try:
        yield
    finally:
        if table in database.tables():
            database.accept(table)


def _rows(seen: Seen, table: str, column: str) -> list[str]:
    database: Database = seen.server
    if table not in database.tables():
        return []
    return [text for (text,) in database.query(f'SELECT "{column}" FROM "{table}"')]


INCOMPRESSIBLE = "".join(sha256(b"%d" % n).hexdigest() for n in range(200))
"""What PostgreSQL does not take into an index."""


GRAPHQL = {"graphql_stats": GraphQLStats(is_graphql=True)}
MCP = {"mcp_stats": MCPStats(is_mcp=True)}
BEYOND = {"timestamp": (10**13, 0)}
"""In a year of six digits, which PostgreSQL does not have."""


def _without_indexes(seen: Seen) -> None:
    """Take the indexes from all columns: a text of any length has room then."""
    database: Database = seen.server
    wanted = "SELECT indexname FROM pg_indexes WHERE schemaname = 'public'"
    for (name,) in database.query(f"{wanted} AND indexdef NOT LIKE '% UNIQUE %'"):
        database.query(f'DROP INDEX "{name}"')


def _sql(
    kind: str,
    column: str,
    fields: dict[str, Any],
    table: str,
    unfit: dict[str, Any],
    mended: Callable[[Seen], object] | None = None,
) -> Case:
    """Return the case of a pump that writes rows to PostgreSQL."""
    return Case(
        type=kind,
        server=_postgres,
        meta=lambda seen: {
            "type": "postgres",
            "connection_string": seen.server.dsn,
            "batch_size": 30,
        },
        arrived=lambda seen: _rows(seen, table, column),
        touched=lambda seen: bool(seen.server.tables()),
        broken=lambda seen: _full_disk(seen, table),
        once=True,
        secret=lambda seen, text: f"{seen.server.dsn} application_name={text}",
        fields=fields,
        unfit=unfit,
        mended=mended,
    )


def _sql_aggregate(kind: str, fields: dict[str, Any], table: str) -> Case:
    """Return the case of a pump that counts records in PostgreSQL."""
    plain = _sql(kind, "", fields, table, BEYOND)
    return msgspec.structs.replace(
        plain, arrived=lambda seen: _hits(seen, table), names=False
    )


def _hits(seen: Seen, table: str) -> list[str]:
    database: Database = seen.server
    if table not in database.tables():
        return []
    counted = database.query(f"SELECT counter_hits FROM {table} WHERE dimension = ''")
    return [""] * sum(hits for (hits,) in counted)


def _mongo(request: pytest.FixtureRequest) -> MongoWire:
    wire = MongoWire()

    def judge(command: mongowire.Command) -> mongowire.Answer | None:
        documents = command.body.get("documents", [])
        bad = [i for i, one in enumerate(documents) if one["path"] == "unfit"]
        if not bad:
            return None
        good = [one for one in documents if one["path"] != "unfit"]
        body = {**command.body, "documents": good}
        reply = wire.answer(dataclasses.replace(command, body=body))
        errors = [{"index": i, "code": 121, "errmsg": "invalid"} for i in bad]
        return mongowire.Answer({**reply, "writeErrors": errors})

    wire.judge = judge
    return wire


def _mongo_arrived(seen: Seen) -> list[str]:
    collections = seen.server.databases.get("tyk_analytics", {})
    return [document["alias"] for kept in collections.values() for document in kept]


@contextlib.contextmanager
def _mongo_broken(seen: Seen) -> Iterator[None]:
    """The first insert is done; of the second the answer is lost, and no more."""
    done = [0]

    def judge(command: mongowire.Command) -> mongowire.Answer | None:
        if command.name != "insert":
            return None
        done[0] += 1
        return mongowire.Answer(lost=done[0] == 2, cut=done[0] > 2)

    with seen.server.judging(judge):
        yield


class _CountingMongo(NamedTuple):
    """A server that counts, behind one that fails on demand."""

    wire: MongoWire
    store: MongoServer


@contextlib.contextmanager
def _counting_mongo(request: pytest.FixtureRequest) -> Iterator[_CountingMongo]:
    store: MongoServer = request.getfixturevalue("mongo_server")
    store.clear()
    with MongoWire(upstream=store.port) as wire:
        yield _CountingMongo(wire, store)


def _mongo_counted(seen: Seen) -> list[str]:
    server: MongoServer = seen.server.store
    found = [
        document["total"]["hits"]
        for name in server.collections()
        for document in server.documents(name)
    ]
    return [""] * sum(found)


@contextlib.contextmanager
def _mongo_count_broken(seen: Seen) -> Iterator[None]:
    """The counts are done, the answer is lost, and then it is not heard at all."""
    done = [0]

    def judge(command: mongowire.Command) -> mongowire.Answer | None:
        if command.name != "findAndModify":
            return None
        done[0] += 1
        return mongowire.Answer(lost=done[0] == 1, cut=done[0] > 1)

    with seen.server.wire.judging(judge):
        yield


def _mongo_aggregate_case(kind: str, fields: dict[str, Any]) -> Case:
    return Case(
        type=kind,
        server=_counting_mongo,
        meta=lambda seen: {"mongo_url": seen.server.wire.url()},
        arrived=_mongo_counted,
        touched=lambda seen: bool(seen.server.wire.greetings),
        broken=_mongo_count_broken,
        names=False,
        fields=fields,
        unfit={"org_id": "no$name"},
        unheard=True,
        once=True,
        secret=lambda seen, text: f"{seen.server.wire.url()}?appName={text}",
    )


@contextlib.contextmanager
def _hybrid_broken(seen: Seen) -> Iterator[None]:
    """MDCB takes one purge more and answers the next ones with an error."""
    server: Mdcb = seen.server
    before = len(server.accepted)

    def respond(call: mdcb.Call) -> mdcb.Answer | None:
        full = call.name in mdcb.PURGES and len(server.accepted) > before
        return mdcb.Answer(error="db down") if full else None

    server.respond = respond
    try:
        yield
    finally:
        server.respond = lambda call: None


def _hybrid(arrived: Callable[[Seen], list[str]], names: bool, **meta: Any) -> Case:
    return Case(
        type="hybrid",
        # A test makes up an API key.
        server=lambda request: Mdcb(key=None),
        meta=lambda seen: {
            "connection_string": seen.server.place,
            "api_key": "key",
            "rpc_pool_size": 1,
            "batch_size": 30,
            **meta,
        },
        arrived=arrived,
        touched=lambda seen: bool(seen.server.dialled),
        broken=_hybrid_broken,
        names=names,
        fields={"org_id": "o"},
        unfit={"timestamp": (10**12, 0)},
    )


def _mongo_case(kind: str, fields: dict[str, Any], **meta: Any) -> Case:
    return Case(
        type=kind,
        server=_mongo,
        meta=lambda seen: {
            "mongo_url": seen.server.url(),
            "max_insert_batch_size_bytes": 20_000,
            **meta,
        },
        arrived=_mongo_arrived,
        touched=lambda seen: bool(seen.server.greetings),
        broken=_mongo_broken,
        fields=fields,
        secret=lambda seen, text: f"{seen.server.url()}?appName={text}",
        unfit={"path": "unfit"},
        mended=lambda seen: setattr(seen.server, "judge", lambda command: None),
        unheard=True,
        once=True,
    )


UNFIT = [f"unfit{number}" for number in range(16)]
"""Names for records that are refused."""


CASES = [
    _mongo_case("mongo", {}, collection_name="c"),
    _mongo_case("mongo-pump-selective", {"org_id": "o"}),
    _mongo_case("mongo-graph", GRAPHQL, collection_name="c"),
    _mongo_case("mongo-mcp", MCP, collection_name="c"),
    _mongo_aggregate_case("mongo-pump-aggregate", {"org_id": "o"}),
    _mongo_aggregate_case("mongo-mcp-aggregate", {**MCP, "org_id": "o"}),
    _sql(
        *("sql", "alias", {}, "tyk_analytics", {"api_key": INCOMPRESSIBLE}),
        mended=_without_indexes,
    ),
    _sql("sql-graph", "analytics_alias", GRAPHQL, "tyk_analytics_graph", BEYOND),
    _sql("sql-mcp", "analytics_alias", MCP, "tyk_analytics_mcp", BEYOND),
    _sql_aggregate("sql_aggregate", {"org_id": "o"}, "tyk_aggregated"),
    _sql_aggregate("sql-graph-aggregate", GRAPHQL, "tyk_graph_aggregated"),
    _sql_aggregate("sql-mcp-aggregate", MCP, "tyk_mcp_aggregated"),
    Case(
        type="elasticsearch",
        meta=lambda seen: {
            "elasticsearch_url": seen.server.url,
            "version": "7",
            "bulk_config": {"bulk_actions": 30},
        },
        server=_cluster,
        arrived=_cluster_arrived,
        touched=lambda seen: bool(seen.server.http.requests),
        broken=_cluster_broken,
        once=True,
        unfit={"path": "unfit"},
        mended=lambda seen: setattr(seen.server, "judge", lambda document: None),
    ),
    _hybrid(lambda seen: [r["alias"] for r in seen.server.records()], names=True),
    _hybrid(
        lambda seen: (
            [""] * sum(one["Total"]["hits"] for one in seen.server.aggregates())
        ),
        names=False,
        aggregated=True,
    ),
    Case(
        type="csv",
        meta=lambda seen: {"csv_dir": str(seen.folder)},
        arrived=_csv_arrived,
        broken=_csv_broken,
        once=True,
    ),
    Case(
        type="resurfaceio",
        server=_resurface,
        meta=_resurface_meta,
        arrived=lambda seen: seen.server.values("custom_field:tyk-api-name"),
        touched=lambda seen: bool(seen.server.http.requests),
        broken=_resurface_broken,
        unfit={"api_id": "unfit"},
        mended=lambda seen: setattr(seen.server, "refuses", lambda message: False),
    ),
    Case(
        type="splunk",
        server=_splunk,
        meta=_splunk_meta,
        arrived=lambda seen: seen.server.values("alias"),
        touched=lambda seen: bool(seen.server.http.requests),
        broken=_splunk_broken,
        unfit={"method": "UNFIT"},
        mended=lambda seen: setattr(seen.server, "refuses", lambda event: False),
    ),
    Case(
        type="moesif",
        # A test makes up an application id.
        server=lambda request: Moesif(application_id=None),
        meta=_moesif_meta,
        arrived=_moesif_arrived,
        touched=lambda seen: bool(seen.server.http.requests),
        broken=_moesif_broken,
        once=True,
        unfit={"timestamp": (10**12, 0)},
    ),
    Case(
        type="prometheus",
        server=lambda request: contextlib.nullcontext(free_port()),
        meta=lambda seen: {
            "listen_address": f"127.0.0.1:{seen.server}",
            "persist": "batch",
        },
        arrived=_scraped,
        broken=_no_room,
        unheard=True,
        names=False,
        once=True,
    ),
    Case(
        type="stdout",
        meta=lambda seen: {"format": "json"},
        arrived=_stdout_arrived,
        broken=_stdout_broken,
        unfit={"timestamp": (10**12, 0)},
    ),
    Case(
        type="graylog",
        server=_tcp,
        meta=lambda seen: {
            "host": "127.0.0.1",
            "port": seen.server.port,
            "transport": "tcp",
            "tags": ["alias", "raw_request"],
        },
        arrived=_graylog_arrived,
        touched=lambda seen: bool(seen.server.streams),
        broken=_tcp_broken,
        exact=False,
    ),
    Case(
        type="syslog",
        server=_tcp,
        meta=lambda seen: {
            "network_addr": f"127.0.0.1:{seen.server.port}",
            "transport": "tcp",
        },
        arrived=_syslog_arrived,
        touched=lambda seen: bool(seen.server.streams),
        broken=_tcp_broken,
        exact=False,
    ),
    Case(
        type="statsd",
        server=_unix,
        meta=lambda seen: {
            "address": f"unix://{seen.server.path}",
            "fields": ["request_time"],
            "tags": ["api_name"],
            "counters": ["path"],
            "packet_size": 60,
        },
        arrived=_statsd_arrived,
        touched=lambda seen: bool(seen.server.datagrams),
        broken=_unix_broken,
        unfit={"path": "x" * 1_000_000},
    ),
    Case(
        type="dogstatsd",
        server=_unix,
        meta=lambda seen: {
            "address": f"unix://{seen.server.path}",
            "buffered_max_messages": 3,
            "tags": ["path", "api_name"],
        },
        arrived=_dogstatsd_arrived,
        touched=lambda seen: bool(seen.server.datagrams),
        broken=_unix_broken,
        unfit={"path": "x" * 9000},
    ),
    Case(
        type="influx",
        server=lambda request: _influx(Influx1),
        meta=lambda seen: {
            "address": seen.server.url,
            "database_name": "tyk",
            "username": "pump",
            "password": "pw",
            "batch_size": 30,
        },
        arrived=lambda seen: [p.fields["api_name"] for p in seen.server.points],
        touched=lambda seen: bool(seen.server.http.requests),
        broken=_influx_broken,
        once=True,
        unfit={"timestamp": (10**12, 0)},
    ),
    Case(
        type="influx2",
        server=lambda request: _influx(Influx2),
        meta=lambda seen: {
            "address": seen.server.url,
            "token": "tok-1",
            "organization": "acme",
            "bucket": "tyk",
            "batch_size": 30,
        },
        arrived=lambda seen: [p.fields["api_name"] for p in seen.server.points],
        touched=lambda seen: bool(seen.server.http.requests),
        broken=_influx_broken,
        once=True,
    ),
    Case(
        type="kafka",
        server=_kafka_topic,
        meta=lambda seen: {
            "broker": [seen.server.kafka.plaintext],
            "topic": seen.server.name,
            "batch_bytes": 8000,
        },
        arrived=lambda seen: seen.server.aliases(),
        touched=lambda seen: bool(seen.server.aliases()),
        broken=_kafka_broken,
        unfit={"timestamp": (10**12, 0)},
    ),
    Case(type="dummy", meta=lambda seen: {}, arrived=_dummy_arrived),
    Case(
        type="logzio",
        empty_answer=True,
        server=_listener,
        meta=lambda seen: {
            "url": seen.server.url,
            "token": logzio.TOKEN,
            **trusting(seen),
        },
        arrived=lambda seen: [d["api_name"] for d in seen.server.documents],
        touched=asked,
        broken=lambda seen: refusing(seen.server),
        unfit={"path": "/unfit"},
        mended=lambda seen: setattr(seen.server, "unfit", None),
        exact=False,
    ),
    Case(
        type="segment",
        server=_segment,
        meta=lambda seen: {
            "segment_url": seen.server.url,
            "segment_write_key": segment.KEY,
            **trusting(seen),
        },
        arrived=lambda seen: [
            event["properties"]["alias"] for event in seen.server.events.values()
        ],
        touched=asked,
        broken=lambda seen: refusing(seen.server),
        unfit={"path": "unfit"},
        mended=lambda seen: setattr(seen.server, "unfit", "nothing"),
        once=True,
    ),
    Case(
        type="timestream",
        server=_timestream,
        meta=lambda seen: seen.server.meta(measures=["RawRequest"]),
        arrived=lambda seen: [p.dimensions["APIName"] for p in seen.server.points],
        touched=lambda seen: bool(seen.server.http.requests),
        broken=_timestream_broken,
        unfit={"timestamp": (1_600_000_000, 0)},
        mended=lambda seen: setattr(seen.server, "oldest", 0),
        unheard=True,
        once=True,
    ),
    Case(
        type="kinesis",
        server=_aws,
        meta=lambda seen: {
            **_aws_meta(seen),
            "stream_name": aws.STREAM,
            "batch_size": 20,
        },
        arrived=lambda seen: [
            json.loads(record.data)["alias"] for record in seen.server.streams["tyk"]
        ],
        touched=lambda seen: bool(seen.server.operations),
        broken=_aws_broken,
        unfit={"timestamp": (10**12, 0)},
    ),
    Case(
        type="sqs",
        server=_aws,
        meta=lambda seen: {**_aws_meta(seen), "aws_queue_name": aws.QUEUE},
        arrived=lambda seen: [
            json.loads(entry["MessageBody"])["alias"]
            for entry in seen.server.queues["tyk"]
        ],
        touched=lambda seen: bool(seen.server.operations),
        broken=_aws_broken,
        unfit={},
        mended=lambda seen: setattr(seen.server, "fails", lambda text: ""),
    ),
    Case(
        type="faulty",
        meta=lambda seen: {"folder": str(seen.folder), "reject": UNFIT},
        arrived=_faulty_arrived,
        broken=_faulty_broken,
        unfit={},
    ),
]
