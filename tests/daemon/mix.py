"""Back ends of many pumps at once, and the moods that they answer in."""

from __future__ import annotations

import contextlib
import json
import random
import re
import tempfile
import threading
import urllib.request
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tests.daemon.harness import count_lines, csv_names, record, wait_for
from tests.servers import aws, free_port, mdcb
from tests.servers.aws import Aws
from tests.servers.cluster import ClusterServer, Document
from tests.servers.http import Answer, HttpServer, Request
from tests.servers.influx import Influx1
from tests.servers.kafka import Kafka
from tests.servers.logzio import TOKEN as LOGZIO_TOKEN
from tests.servers.logzio import Listener
from tests.servers.mdcb import Mdcb
from tests.servers.receiver import TcpReceiver, UnixReceiver
from tests.servers.segment import KEY, Api
from tests.servers.splunk import TOKEN as SPLUNK_TOKEN
from tests.servers.splunk import Collector
from tests.servers.timestream import Timestream as TimestreamServer
from tests.servers.tls import Authority

PER_PATH = re.compile(r'^tyk_http_status_per_path\{.*path="([^"]*)"\} (\d+)', re.M)
PATH_OF = re.compile(rb" path:(\S*) raw_path:")
TIMEOUT = 1.0
"""Seconds that a pump waits for an answer."""
LONG = 3600.0


def named(name: str) -> bytes:
    """Return a record whose path, which every pump sends, is its name.

    Its second is one of a million: of two streams, points in the same millisecond may
    replace each other in InfluxDB.
    """
    second = 1_700_000_000 + zlib.crc32(name.encode()) % 1_000_000
    return record(name, path=name, timestamp=(second, 0))


class Side:
    """One back end: how a pump is pointed to it, and what it has got."""

    once = False
    """Whether a record that was sent again is there only once."""

    def __init__(self, name: str, meta: dict[str, Any]) -> None:
        self.name = name
        self.section: dict[str, Any] = {
            "type": name,
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

    def check(self, pushed: Iterable[str]) -> None:
        """Assert that exactly these records are there."""
        expected, found = set(pushed), self.names()
        missing = expected - set(found)
        assert not missing, f"{self.name}: {len(missing)} lost, {sorted(missing)[:3]}"
        foreign = set(found) - expected
        assert not foreign, f"{self.name}: unknown {sorted(foreign)[:3]}"
        twice = [name for name, times in found.items() if times > 1]
        assert not (self.once and twice), f"{self.name}: doubled {twice[:3]}"


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

    def __init__(self) -> None:
        self.mdcb = Mdcb()
        meta = {
            "connection_string": self.mdcb.place,
            "api_key": "key",
            "call_timeout": TIMEOUT,
        }
        super().__init__("hybrid", meta)
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


class Syslog(Side):
    """Over TCP; what a connection left half is none."""

    def __init__(self) -> None:
        self.receiver = TcpReceiver()
        address = f"127.0.0.1:{self.receiver.port}"
        meta = {"network_addr": address, "transport": "tcp", "send_timeout": TIMEOUT}
        super().__init__("syslog", meta)

    def names(self) -> Counter[str]:
        found = map(PATH_OF.search, self.receiver.messages())
        return Counter(one[1].decode() for one in found if one)

    def trouble(self, chance: random.Random) -> None:
        self.receiver.stalled.clear()
        self.receiver.reset_after = None
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


MAKERS: tuple[Callable[[], Side], ...] = (
    *(Elasticsearch, Splunk, Logzio, Segment, Influx, Syslog),
    *(Kinesis, Sqs, Timestream, Statsd, Dogstatsd, Hybrid, Prometheus),
)


class Mix:
    """All of them."""

    def __init__(self, folder: Path, kafka: Topic | None = None) -> None:
        self._stack = contextlib.ExitStack()
        self.sides: list[Side] = [Csv(folder)]
        for make in MAKERS:
            self.sides.append(made := make())
            self._stack.callback(made.close)
        if kafka is not None:
            self.sides.append(kafka)

    def __enter__(self) -> Mix:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    @property
    def sections(self) -> dict[str, Any]:
        """Return the pumps of the configuration."""
        return {side.name: side.section for side in self.sides}

    def side(self, name: str) -> Side:
        """Return the one of this name."""
        return next(side for side in self.sides if side.name == name)
