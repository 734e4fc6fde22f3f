"""Back ends of many pumps at once, and the moods that they answer in."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import sqlite3
import tempfile
import threading
import urllib.request
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

from tests.daemon.harness import count_lines, csv_names, record, wait_for
from tests.faults.plant import Plant
from tests.servers import aws, free_port, mdcb, mongowire
from tests.servers.aws import Aws
from tests.servers.cluster import ClusterServer, Document
from tests.servers.database import Database
from tests.servers.http import Answer, HttpServer, Request
from tests.servers.influx import Influx1, Influx2
from tests.servers.kafka import Kafka
from tests.servers.logzio import TOKEN as LOGZIO_TOKEN
from tests.servers.logzio import Listener
from tests.servers.mdcb import Mdcb
from tests.servers.moesif import Moesif as MoesifServer
from tests.servers.mongo import MongoServer
from tests.servers.mongowire import MongoWire
from tests.servers.receiver import TcpReceiver, UnixReceiver
from tests.servers.resurface import Capture
from tests.servers.segment import KEY, Api
from tests.servers.splunk import TOKEN as SPLUNK_TOKEN
from tests.servers.splunk import Collector
from tests.servers.timestream import Timestream as TimestreamServer
from tests.servers.tls import Authority
from tyk_pump.record.analytics import GraphQLStats, MCPStats

PER_PATH = re.compile(r'^tyk_http_status_per_path\{.*path="([^"]*)"\} (\d+)', re.M)
PATH_OF = re.compile(rb" path:(\S*) raw_path:")
TIMEOUT = 1.0
"""Seconds that a pump waits for an answer."""
LONG = 3600.0


PLAIN, GRAPHQL, MCP = "plain", "graphql", "mcp"
KINDS = (GRAPHQL, MCP, *[PLAIN] * 8)
"""What kinds of calls there are: some pumps are for one of them."""


def kind_of(name: str) -> str:
    """Return what kind of a call the record of this name tells of."""
    return KINDS[zlib.crc32(name.encode()) % len(KINDS)]


def named(name: str) -> bytes:
    """Return a record whose path, which every pump sends, is its name.

    Its second is one of a million: of two streams, points in the same millisecond may
    replace each other in InfluxDB.
    """
    second = 1_700_000_000 + zlib.crc32(name.encode()) % 1_000_000
    fields: dict[str, Any] = {"path": name, "timestamp": (second, 0)}
    if kind_of(name) == GRAPHQL:
        fields["graphql_stats"] = GraphQLStats(is_graphql=True)
    if kind_of(name) == MCP:
        fields["mcp_stats"] = MCPStats(is_mcp=True, jsonrpc_method="tools/call")
    return record(name, **fields)


class Side:
    """One back end: how a pump is pointed to it, and what it has got."""

    once = False
    """Whether a record that was sent again is there only once."""
    kinds: Collection[str] = KINDS
    """Which calls it is for."""

    def __init__(self, name: str, meta: dict[str, Any], kind: str = "") -> None:
        self.name = name
        self.section: dict[str, Any] = {
            "type": kind or name,
            "meta": meta,
            "retry": {"initial": 0.05, "max": 0.3},
        }

    def names(self) -> Counter[str]:
        """Return how often each record is there."""
        raise NotImplementedError

    def count(self) -> int:
        """Return how many records are there, while more may come."""
        return len(self.names())

    def trouble(self, chance: random.Random) -> None:
        """Go wrong in a way that is not an answer."""

    def calm(self) -> None:
        """Be well from now on."""

    def last_look(self) -> None:
        """See what is only there while the command runs."""

    def close(self) -> None:
        """Go away."""

    def expected(self, pushed: Iterable[str]) -> set[str]:
        """Return which of these records belong here."""
        return {name for name in pushed if kind_of(name) in self.kinds}

    def check(self, pushed: Iterable[str]) -> None:
        """Assert that exactly these records are there."""
        expected, found = self.expected(pushed), self.names()
        missing = expected - set(found)
        assert not missing, f"{self.name}: {len(missing)} lost, {sorted(missing)[:3]}"
        foreign = set(found) - expected
        assert not foreign, f"{self.name}: unknown {sorted(foreign)[:3]}"
        twice = [name for name, times in found.items() if times > 1]
        assert not (self.once and twice), f"{self.name}: doubled {twice[:3]}"


class Counted(Side):
    """One that keeps no names, and counts each record once."""

    once = True

    def count(self) -> int:
        raise NotImplementedError

    def names(self) -> Counter[str]:
        raise TypeError("no names are kept")

    def check(self, pushed: Iterable[str]) -> None:
        expected, found = len(self.expected(pushed)), self.count()
        assert found == expected, f"{self.name}: {found} counted, not {expected}"


class HttpSide(Side):
    """A back end that answers as its vendor's does, but not always."""

    def __init__(self, name: str, meta: dict[str, Any], server: HttpServer) -> None:
        super().__init__(name, {**meta, "request_timeout": TIMEOUT})
        self.server = server
        self.well = threading.Event()
        self.held: threading.Event | None = None
        """While there is one, requests wait for it."""
        self._chance = random.Random(name)
        self._lock = threading.Lock()
        self._respond = server.respond
        server.respond = self.respond
        self.well.set()

    def respond(self, request: Request) -> Answer:
        """Answer; the requests are not kept: there are many."""
        if self.held is not None:
            self.held.wait()
            return Answer(hang_up=True)
        with self._lock:
            self.server.requests.clear()
            mood = "well" if self.well.is_set() else self._chance.choice(MOODS)
            return self._in_mood(mood, request)

    def _in_mood(self, mood: str, request: Request) -> Answer:
        if mood == "busy":
            return Answer(503, b"busy")
        if mood == "throttled":
            return Answer(429, headers={"Retry-After": "0"})
        if mood == "deaf":
            return Answer(hang_up=True)
        if mood == "hung":
            return Answer(delay=LONG, hang_up=True)
        answer = self._respond(request)
        if mood == "unheard":
            return Answer(hang_up=True)
        if mood == "late":
            return Answer(answer.status, answer.body, answer.headers, delay=LONG)
        if mood == "cut":
            return Answer(answer.status, answer.body, answer.headers, cut=3)
        return answer

    def trouble(self, chance: random.Random) -> None:
        """Be ill, or be away for a moment."""
        self.well.clear()
        if chance.random() < 0.2:
            self.server.close()
            self.server.restart()

    def calm(self) -> None:
        self.well.set()

    def close(self) -> None:
        if self.held is not None:
            self.held.set()
        self.server.close()


MOODS = (
    *["well"] * 12,
    *("busy", "throttled", "deaf", "hung", "unheard", "late", "cut"),
)
"""`hung` keeps the client waiting with nothing done, `late` with all done."""


class Index(ClusterServer):
    """Keeps documents by their ids, however many."""

    def __init__(self, authority: Authority | None = None) -> None:
        self.by_id: dict[str, Document] = {}
        super().__init__(authority=authority)

    def _take(self, document: Document, action: str) -> dict[str, Any]:
        where = {"_index": document.index, "_id": document.id}
        if document.id in self.by_id:
            return {**where, "status": 409, "error": {"type": "version_conflict"}}
        self.by_id[document.id] = document
        return {**where, "status": 201}


class Elasticsearch(HttpSide):
    """By `_id`."""

    once = True

    def __init__(self) -> None:
        self.index = Index()
        super().__init__(
            "elasticsearch", {"elasticsearch_url": self.index.url}, self.index.http
        )

    def names(self) -> Counter[str]:
        found = list(self.index.by_id.values())
        return Counter(document.source["request_uri"] for document in found)


class Splunk(HttpSide):
    """With batches."""

    def __init__(self) -> None:
        self.collector = Collector()
        meta = {
            "collector_url": self.collector.url,
            "collector_token": SPLUNK_TOKEN,
            "enable_batch": True,
        }
        super().__init__("splunk", meta, self.collector.http)

    def names(self) -> Counter[str]:
        return Counter(self.collector.values("path"))


class Logzio(HttpSide):
    """Lines."""

    def __init__(self) -> None:
        self.listener = Listener()
        meta = {"url": self.listener.url, "token": LOGZIO_TOKEN}
        super().__init__("logzio", meta, self.listener)

    def names(self) -> Counter[str]:
        return Counter(str(one["request_uri"]) for one in self.listener.documents)


class Segment(HttpSide):
    """By `messageId`."""

    once = True

    def __init__(self) -> None:
        self.api = Api()
        meta = {"segment_url": self.api.url, "segment_write_key": KEY}
        super().__init__("segment", meta, self.api)

    def names(self) -> Counter[str]:
        events = list(self.api.events.values())
        return Counter(event["properties"]["path"] for event in events)


class Influx(HttpSide):
    """By series and time."""

    once = True

    def __init__(self) -> None:
        self.server1 = Influx1()
        meta = {
            "address": self.server1.url,
            "database_name": "tyk",
            "fields": ["path", "request_time"],
            "tags": ["method"],
        }
        super().__init__("influx", meta, self.server1.http)

    def respond(self, request: Request) -> Answer:
        self.server1.requests.clear()
        return super().respond(request)

    def names(self) -> Counter[str]:
        return Counter(point.fields["path"] for point in self.server1.points)


class SecondInflux(HttpSide):
    """By series and time, in a bucket."""

    once = True

    def __init__(self) -> None:
        self.server2 = Influx2()
        meta = {
            "address": self.server2.url,
            "organization": "acme",
            "bucket": "tyk",
            "fields": ["path", "request_time"],
            "tags": ["method"],
        }
        super().__init__("influx2", meta, self.server2.http)

    def respond(self, request: Request) -> Answer:
        self.server2.requests.clear()
        return super().respond(request)

    def names(self) -> Counter[str]:
        return Counter(point.fields["path"] for point in self.server2.points)


class Moesif(HttpSide):
    """By `transaction_id`."""

    once = True

    def __init__(self) -> None:
        self.collector = MoesifServer()
        bulk = {"api_endpoint": self.collector.url}
        meta = {"application_id": "app-1", "enable_bulk": True, "bulk_config": bulk}
        super().__init__("moesif", meta, self.collector.http)

    def names(self) -> Counter[str]:
        return Counter(event["request"]["uri"] for event in self.collector.events)


class Resurface(HttpSide):
    """Bundles."""

    def __init__(self) -> None:
        self.capture = Capture()
        meta = {"capture_url": self.capture.url, "rules": "allow_http_url"}
        super().__init__("resurfaceio", meta, self.capture.http)

    def names(self) -> Counter[str]:
        found = self.capture.values("request_url")
        return Counter(url.rpartition("/")[2] for url in found)


class AwsSide(HttpSide):
    """A service that AWS's pumps ask with signed requests."""

    def __init__(self, name: str, meta: dict[str, Any]) -> None:
        self.service = Aws()
        common = {
            "aws_endpoint": self.service.url,
            "aws_region": aws.REGION,
            "aws_key": aws.KEY,
            "aws_secret": aws.SECRET,
        }
        super().__init__(name, {**common, **meta}, self.service.http)


class Kinesis(AwsSide):
    """A stream; consumers may drop repeats by the partition key."""

    once = True

    def __init__(self) -> None:
        super().__init__("kinesis", {"stream_name": aws.STREAM})

    def names(self) -> Counter[str]:
        kept = {one.key: one.data for one in list(self.service.streams[aws.STREAM])}
        return Counter(json.loads(data)["path"] for data in kept.values())


class Sqs(AwsSide):
    """A FIFO queue, which drops repeats."""

    once = True

    def __init__(self) -> None:
        super().__init__(
            "sqs",
            {
                "aws_queue_name": "tyk.fifo",
                "aws_message_id_deduplication_enabled": True,
            },
        )
        self.service.queues["tyk.fifo"] = []

    def names(self) -> Counter[str]:
        kept = list(self.service.queues["tyk.fifo"])
        return Counter(json.loads(one["MessageBody"])["path"] for one in kept)


class Timestream(HttpSide):
    """By dimensions and time."""

    once = True

    def __init__(self) -> None:
        self.table = TimestreamServer()
        meta = self.table.meta(dimensions=["Path"], measures=["ResponseCode"])
        super().__init__("timestream", meta, self.table.http)

    def names(self) -> Counter[str]:
        return Counter(point.dimensions["Path"] for point in self.table.points)


class UnixSide(Side):
    """A datagram socket; who owns it leaves and returns, or does not read."""

    def __init__(self, name: str, meta: dict[str, Any]) -> None:
        # Its path has to be short.
        self._folder = tempfile.TemporaryDirectory(prefix="mix-")
        self.receiver = StallingReceiver(Path(self._folder.name) / "s")
        address = f"unix://{self.receiver.path}"
        super().__init__(name, {"address": address, **meta})

    def trouble(self, chance: random.Random) -> None:
        self.calm()
        what = chance.choice(("none", "away", "stalled", "leaving"))
        if what == "away":
            self.receiver.close()
        elif what == "stalled":
            self.receiver.reads.clear()
        elif what == "leaving":
            self.receiver.leave_after = chance.randrange(1, 20)

    def calm(self) -> None:
        self.receiver.reads.set()
        self.receiver.close()
        self.receiver.restart()

    def close(self) -> None:
        self.receiver.reads.set()
        self.receiver.close()
        self._folder.cleanup()


class StallingReceiver(UnixReceiver):
    """Reads only while it may."""

    def __init__(self, path: Path) -> None:
        self.reads = threading.Event()
        self.reads.set()
        super().__init__(path)

    def received(self, data: bytes) -> None:
        self.reads.wait()
        super().received(data)


class Statsd(UnixSide):
    """A timing per record."""

    def __init__(self) -> None:
        meta = {"fields": ["request_time"], "tags": ["path"], "separated_method": True}
        super().__init__("statsd", meta)

    def names(self) -> Counter[str]:
        found = (line.partition(".")[2] for line in self.receiver.lines)
        return Counter(name.rpartition(":")[0] for name in found if name)


class Dogstatsd(UnixSide):
    """A sample per record."""

    def __init__(self) -> None:
        super().__init__("dogstatsd", {"tags": ["path"]})

    def names(self) -> Counter[str]:
        found = (line.partition(",path:")[2] for line in self.receiver.lines)
        return Counter(name for name in found if name)


class Hybrid(Side):
    """MDCB: calls that are refused, half answered, late, or cut off."""

    def __init__(self, name: str = "hybrid", **meta: Any) -> None:
        self.mdcb = Mdcb()
        meta |= {
            "connection_string": self.mdcb.place,
            "api_key": "key",
            "call_timeout": TIMEOUT,
        }
        super().__init__(name, meta, "hybrid")
        self.well = threading.Event()
        self.well.set()
        self._chance = random.Random("hybrid")
        self._lock = threading.Lock()
        self.mdcb.respond = self._respond

    def names(self) -> Counter[str]:
        assert self.mdcb.failures == []
        return Counter(record["path"] for record in self.mdcb.records())

    def trouble(self, chance: random.Random) -> None:
        self.well.clear()
        if chance.random() < 0.4:
            self.mdcb.cut()
        if chance.random() < 0.2:
            self.mdcb.leave()
            self.mdcb.restart()

    def calm(self) -> None:
        self.well.set()

    def close(self) -> None:
        self.mdcb.close()

    def _respond(self, call: mdcb.Call) -> mdcb.Answer | None:
        if self.well.is_set():
            return None
        with self._lock:
            mood = self._chance.choice(("well",) * 8 + MDCB_MOODS)
        if mood == "well":
            return None
        if mood == "error":
            return mdcb.Answer(error="no room")
        result = None if call.name in mdcb.PURGES else True
        how: dict[str, Any] = {mood: True}
        return mdcb.Answer(result, **how)


class HybridAggregates(Hybrid):
    """MDCB, which gets what has been counted."""

    kinds = (PLAIN,)

    def __init__(self) -> None:
        super().__init__("hybrid-aggregated", aggregated=True, track_all_paths=True)

    def names(self) -> Counter[str]:
        assert self.mdcb.failures == []
        found: Counter[str] = Counter()
        for one in self.mdcb.aggregates():
            for path, counted in one["Endpoints"].items():
                found[path] += counted["hits"]
        return found


MDCB_MOODS = ("error", "cut", "half", "last")
"""All but the first have done what was asked."""


class Prometheus(Side):
    """A scraper: what it has seen once is there for good, and never twice."""

    once = True

    def __init__(self) -> None:
        port = free_port()
        self._url = f"http://127.0.0.1:{port}/metrics"
        self._seen: Counter[str] = Counter()
        super().__init__(
            "prometheus",
            {
                "listen_address": f"127.0.0.1:{port}",
                "persist": "batch",
                "track_all_paths": True,
            },
        )

    def names(self) -> Counter[str]:
        self._scrape()
        return self._seen

    def trouble(self, chance: random.Random) -> None:
        self._scrape()

    def last_look(self) -> None:
        wait_for("a scrape", self._scrape)

    def _scrape(self) -> bool:
        """Look, if somebody is there; what is gone since the last look is an error."""
        try:
            with urllib.request.urlopen(self._url, timeout=TIMEOUT) as reply:
                text = reply.read().decode()
        except OSError:
            return False
        seen = Counter({path: int(count) for path, count in PER_PATH.findall(text)})
        fallen = self._seen - seen
        assert not fallen, f"prometheus: {len(fallen)} fell"
        self._seen = seen
        return True


class TcpSide(Side):
    """A receiver on TCP; what a connection left half is none."""

    def __init__(self, name: str, meta: Callable[[int], dict[str, Any]]) -> None:
        self.receiver = TcpReceiver()
        how = {"transport": "tcp", "send_timeout": TIMEOUT}
        super().__init__(name, {**how, **meta(self.receiver.port)})

    def trouble(self, chance: random.Random) -> None:
        self.calm()
        what = chance.choice(("none", "stalled", "reset", "away"))
        if what == "stalled":
            self.receiver.stalled.set()
        elif what == "reset":
            self.receiver.reset_after = chance.randrange(1, 20_000)
        elif what == "away":
            self.receiver.close()
            self.receiver.restart()

    def calm(self) -> None:
        self.receiver.stalled.clear()
        self.receiver.reset_after = None

    def close(self) -> None:
        self.calm()
        self.receiver.close()


class Syslog(TcpSide):
    """Lines."""

    def __init__(self) -> None:
        super().__init__("syslog", lambda port: {"network_addr": f"127.0.0.1:{port}"})

    def names(self) -> Counter[str]:
        found = map(PATH_OF.search, self.receiver.messages())
        return Counter(one[1].decode() for one in found if one)


class Graylog(TcpSide):
    """GELF, each message with a NUL behind it."""

    def __init__(self) -> None:
        super().__init__(
            "graylog",
            lambda port: {"host": "127.0.0.1", "port": port, "tags": ["path"]},
        )

    def names(self) -> Counter[str]:
        found = map(json.loads, self.receiver.messages(b"\0"))
        return Counter(json.loads(one["message"])["path"] for one in found)


class Stdout(Side):
    """A pipe that is standard output; sometimes nobody reads it for a while.

    A line that a killed process left half may stand there, alone.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)
        # Open for writing, too: it has no end while the command is away.
        self._end = os.open(path, os.O_RDWR)
        self._reads = threading.Event()
        self._reads.set()
        self._came = bytearray()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        super().__init__("stdout", {"format": "json"})

    def names(self) -> Counter[str]:
        found = []
        for line in bytes(self._came).split(b"\n")[:-1]:
            with contextlib.suppress(ValueError):
                found.append(json.loads(line)["tyk-analytics-record"]["path"])
        return Counter(found)

    def trouble(self, chance: random.Random) -> None:
        if chance.random() < 0.3:
            self._reads.clear()
        else:
            self._reads.set()

    def calm(self) -> None:
        self._reads.set()

    def close(self) -> None:
        self.calm()
        os.write(self._end, b"\0")
        self._thread.join()
        os.close(self._end)

    def _run(self) -> None:
        while not self._came.endswith(b"\0"):
            self._reads.wait()
            self._came += os.read(self._end, 1 << 16)


class Sqlite(Side):
    """Rows in a file that somebody else sometimes keeps locked."""

    once = True

    def __init__(self, kind: str, path: Path, query: str, *kinds: str) -> None:
        self._path, self._query = path, query
        self._lock: sqlite3.Connection | None = None
        self.kinds = kinds
        super().__init__(kind, {"type": "sqlite", "connection_string": str(path)})

    def names(self) -> Counter[str]:
        return Counter(str(name) for (name,) in self.rows())

    def rows(self) -> list[tuple[Any, ...]]:
        """Return what the query finds; nothing where there is no table yet."""
        with contextlib.closing(self._opened()) as db:
            try:
                return db.execute(self._query).fetchall()
            except sqlite3.OperationalError:
                return []

    def trouble(self, chance: random.Random) -> None:
        self.calm()
        if chance.random() < 0.3:
            self._lock = self._opened()
            self._lock.execute("BEGIN IMMEDIATE")

    def calm(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def close(self) -> None:
        self.calm()

    def _opened(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=30, isolation_level=None)


class CountedSqlite(Sqlite, Counted):
    """Sums in such a file."""

    names = Counted.names

    def count(self) -> int:
        return sum(hits for (hits,) in self.rows())


class Postgres(Side):
    """A real database, that has no room at times or ends all connections."""

    once = True

    def __init__(self, database: Database) -> None:
        self.database = database
        self._full = False
        meta = {"type": "postgres", "connection_string": database.dsn}
        super().__init__("postgres", meta, "sql")
        self.kinds = (PLAIN, GRAPHQL)

    def names(self) -> Counter[str]:
        found = self.database.query("SELECT path FROM tyk_analytics")
        return Counter(name for (name,) in found)

    def trouble(self, chance: random.Random) -> None:
        self.calm()
        if "tyk_analytics" not in self.database.tables():
            return
        what = chance.choice(("none", "full", "ended"))
        if what == "full":
            self.database.refuse("tyk_analytics", "53100")
            self._full = True
        elif what == "ended":
            self.database.query(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

    def calm(self) -> None:
        if self._full:
            self.database.accept("tyk_analytics")
            self._full = False


class Mongo(Side):
    """By `_id`; commands that are not heard, half heard, or not answered."""

    once = True

    def __init__(
        self, kind: str, meta: dict[str, Any], *kinds: str, upstream: int | None = None
    ) -> None:
        self.wire = MongoWire(self._judge, upstream=upstream)
        self.well = threading.Event()
        self.well.set()
        self._chance = random.Random(kind)
        self._lock = threading.Lock()
        name = "ferretdb" if upstream else kind
        super().__init__(name, {"mongo_url": self.wire.url(), **meta}, kind)
        self.kinds = kinds

    def documents(self) -> list[dict[str, Any]]:
        """Return all documents."""
        kept = dict(self.wire.databases.get("tyk_analytics", {}))
        return [one for collection in kept.values() for one in list(collection)]

    def names(self) -> Counter[str]:
        return Counter(one["path"] for one in self.documents())

    def trouble(self, chance: random.Random) -> None:
        self.well.clear()
        if chance.random() < 0.2:
            self.wire.restart()

    def calm(self) -> None:
        self.well.set()

    def close(self) -> None:
        self.wire.close()

    def _judge(self, command: mongowire.Command) -> mongowire.Answer | None:
        self.wire.commands.clear()
        if self.well.is_set() or command.name not in MONGO_WRITES:
            return None
        with self._lock:
            mood = self._chance.choice(("well",) * 8 + MONGO_MOODS)
        if mood == "full":
            return mongowire.NO_SPACE
        if mood == "late":
            return mongowire.Answer(delay=0.3)
        return mongowire.Answer(cut=mood == "cut", lost=mood == "lost")


MONGO_WRITES = ("insert", "update", "findAndModify")
MONGO_MOODS = ("full", "late", "cut", "lost")


class CountedMongo(Mongo, Counted):
    """Sums, each record in one."""

    names = Counted.names

    def count(self) -> int:
        return sum(one["total"]["hits"] for one in self.documents())


class Ferret(Mongo):
    """A real database behind the wire."""

    def __init__(self, store: MongoServer) -> None:
        store.clear()
        self._store = store
        meta = {"collection_name": "c"}
        super().__init__("mongo", meta, PLAIN, GRAPHQL, upstream=store.port)

    def documents(self) -> list[dict[str, Any]]:
        return self._store.documents("c")


class Faulty(Side):
    """The pump that misbehaves; each line has the record's id."""

    once = True

    def __init__(self, folder: Path) -> None:
        self.plant = Plant(folder)
        super().__init__("faulty", {"folder": str(folder)})

    def names(self) -> Counter[str]:
        found = {tuple(line.split()) for line in self.plant.lines("arrived")}
        return Counter(line[0] for line in found)

    def trouble(self, chance: random.Random) -> None:
        self.calm()
        if chance.random() < 0.5:
            self.plant.turn_on(chance.choice(FAULTS))

    def calm(self) -> None:
        for fault in FAULTS:
            (self.plant.folder / fault).unlink(missing_ok=True)


FAULTS = ("transient", "half", "shut")


class Csv(Side):
    """Files."""

    once = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        super().__init__("csv", {"csv_dir": str(folder)})

    def names(self) -> Counter[str]:
        return csv_names(self.folder)

    def count(self) -> int:
        return count_lines(self.folder) - len(list(self.folder.glob("*.csv")))


class Topic(Side):
    """A real broker; consumers drop what comes again under an id that they know."""

    once = True

    def __init__(self, broker: Kafka, topic: str) -> None:
        self.broker, self.topic = broker, topic
        broker.create_topic(topic)
        super().__init__("kafka", {"broker": [broker.plaintext], "topic": topic})

    def names(self) -> Counter[str]:
        """Read the topic to its end, which takes a while."""
        found = {}
        for message in self.broker.messages(self.topic, 10**9, seconds=2):
            headers = dict(message.headers)
            found[headers["_tyk_pump_id"]] = json.loads(message.value)["path"]
        return Counter(found.values())


Maker = Callable[[Path], Side]
"""Makes a side; what it keeps in files is in a folder that all share."""


def _sqlite(kind: str, table: str, column: str, *kinds: str) -> Maker:
    query = f'SELECT "{column}" FROM "{table}"'
    return lambda folder: Sqlite(kind, folder / f"{kind}.db", query, *kinds)


def _sums(kind: str, table: str, *kinds: str) -> Maker:
    query = f"SELECT counter_hits FROM \"{table}\" WHERE dimension = ''"
    return lambda folder: CountedSqlite(kind, folder / f"{kind}.db", query, *kinds)


def _mongo(kind: str, *kinds: str, **meta: Any) -> Maker:
    return lambda folder: Mongo(kind, meta, *kinds)


MAKERS: dict[str, Maker] = {
    "csv": lambda folder: Csv(folder / "csv"),
    "faulty": lambda folder: Faulty(folder / "faulty"),
    "elasticsearch": lambda folder: Elasticsearch(),
    "splunk": lambda folder: Splunk(),
    "logzio": lambda folder: Logzio(),
    "segment": lambda folder: Segment(),
    "influx": lambda folder: Influx(),
    "influx2": lambda folder: SecondInflux(),
    "moesif": lambda folder: Moesif(),
    "resurfaceio": lambda folder: Resurface(),
    "syslog": lambda folder: Syslog(),
    "graylog": lambda folder: Graylog(),
    "kinesis": lambda folder: Kinesis(),
    "sqs": lambda folder: Sqs(),
    "timestream": lambda folder: Timestream(),
    "statsd": lambda folder: Statsd(),
    "dogstatsd": lambda folder: Dogstatsd(),
    "hybrid": lambda folder: Hybrid(),
    "hybrid-aggregated": lambda folder: HybridAggregates(),
    "prometheus": lambda folder: Prometheus(),
    "stdout": lambda folder: Stdout(folder / "stdout"),
    "sql": _sqlite("sql", "tyk_analytics", "path", PLAIN, GRAPHQL),
    "sql-graph": _sqlite("sql-graph", "tyk_analytics_graph", "analytics_path", GRAPHQL),
    "sql-mcp": _sqlite("sql-mcp", "tyk_analytics_mcp", "analytics_path", MCP),
    "sql_aggregate": _sums("sql_aggregate", "tyk_aggregated", PLAIN),
    "sql-graph-aggregate": _sums(
        "sql-graph-aggregate", "tyk_graph_aggregated", GRAPHQL
    ),
    "sql-mcp-aggregate": _sums("sql-mcp-aggregate", "tyk_mcp_aggregated", MCP),
    "mongo": _mongo("mongo", PLAIN, GRAPHQL, collection_name="c"),
    "mongo-pump-selective": _mongo("mongo-pump-selective", PLAIN, GRAPHQL),
    "mongo-graph": _mongo("mongo-graph", GRAPHQL, collection_name="c"),
    "mongo-mcp": _mongo("mongo-mcp", MCP, collection_name="c"),
    "mongo-pump-aggregate": lambda folder: CountedMongo(
        "mongo-pump-aggregate", {}, PLAIN
    ),
    "mongo-mcp-aggregate": lambda folder: CountedMongo("mongo-mcp-aggregate", {}, MCP),
}
"""Every type that needs no server of its own."""


class Mix:
    """Some of them, with others that somebody has made."""

    def __init__(
        self, folder: Path, chosen: Iterable[str], *others: Callable[[], Side]
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.sides: list[Side] = []
        with contextlib.ExitStack() as stack:
            for name in chosen:
                self._add(stack, MAKERS[name](folder))
            for make in others:
                self._add(stack, make())
            self._stack = stack.pop_all()

    def __enter__(self) -> Mix:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _add(self, stack: contextlib.ExitStack, side: Side) -> None:
        self.sides.append(side)
        stack.callback(side.close)

    @property
    def sections(self) -> dict[str, Any]:
        """Return the pumps of the configuration."""
        return {side.name: side.section for side in self.sides}

    def side(self, name: str) -> Side:
        """Return the one of this name."""
        return next(side for side in self.sides if side.name == name)
