"""What is measured end to end: a pump, its options, and what takes its records.

The options are what an operator sets who wants speed; whatever is not named here has
its default. A way is called by the pump's type, with a word behind it where one pump
is measured in several forms.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from benchmarks.sinks import KINDS, Sink
from tyk_pump.pumps import REGISTRY

Meta = Callable[[str], dict[str, Any]]
"""Makes the options from what the sink is reached by: `host:port`, a DSN, a folder."""


class Target(msgspec.Struct, frozen=True):
    """One way to measure."""

    meta: Meta
    sink: str = "http"
    """Kind of the sink, or a server of the tests; "" where a folder or nothing at all
    takes the records."""


class AbsentError(Exception):
    """The server that a way needs is not here."""


GRAYLOG: Final = (
    *("method", "path", "response_code", "api_key", "api_id", "org_id"),
    *("request_time", "raw_response"),
)
AGENT: Final = 8192
"""Bytes that an agent reads at once; on the same machine the way takes them."""
LATENCIES: Final = ("latency_total", "latency_upstream", "latency_gateway")


def _nothing(_: str) -> dict[str, Any]:
    return {}


def _postgres(dsn: str) -> dict[str, Any]:
    return {"type": "postgres", "connection_string": dsn}


def _aws(at: str) -> dict[str, Any]:
    keys = {"aws_key": "k", "aws_secret": "s"}
    return {"aws_region": "eu-west-1", "aws_endpoint": f"http://{at}", **keys}


TARGETS: Final[dict[str, Target]] = {
    "dummy": Target(_nothing, ""),
    "csv": Target(lambda folder: {"csv_dir": f"{folder}/csv"}, ""),
    "stdout": Target(lambda _: {"format": "json"}, ""),
    "elasticsearch": Target(
        lambda at: {"elasticsearch_url": f"http://{at}", "version": "8"}
    ),
    # All that a document can have: bodies in base64 as they came.
    "elasticsearch-extended": Target(
        lambda at: {
            "elasticsearch_url": f"http://{at}",
            "version": "8",
            "extended_stats": True,
        }
    ),
    "mongo": Target(
        lambda at: {"mongo_url": f"mongodb://{at}/b", "collection_name": "c"}, "mongo"
    ),
    # Documents come back from an update and are read: that takes a real server.
    "mongo-pump-aggregate": Target(
        lambda at: {"mongo_url": f"mongodb://{at}/b"}, "ferretdb"
    ),
    "sql": Target(_postgres, "postgres"),
    "sql_aggregate": Target(_postgres, "postgres"),
    "kafka": Target(lambda at: {"broker": [at], "topic": "bench"}, "kafka"),
    "splunk": Target(
        lambda at: {
            "collector_url": f"http://{at}",
            "collector_token": "t",
            "enable_batch": True,
        }
    ),
    "graylog": Target(
        lambda at: {
            "host": at.partition(":")[0],
            "port": int(at.partition(":")[2]),
            "tags": [*GRAYLOG],
        },
        "udp",
    ),
    "syslog": Target(lambda at: {"network_addr": at}, "udp"),
    "syslog-tcp": Target(lambda at: {"network_addr": at, "transport": "tcp"}, "tcp"),
    "statsd": Target(
        lambda at: {
            "address": at,
            "fields": ["request_time", *LATENCIES],
            "tags": ["path", "response_code", "api_name"],
            "packet_size": AGENT,
        },
        "udp",
    ),
    "dogstatsd": Target(
        lambda at: {
            "address": at,
            "buffered_max_messages": 100,
            "packet_size": AGENT,
        },
        "udp",
    ),
    "logzio": Target(lambda at: {"url": f"http://{at}", "token": "t"}),
    "hybrid": Target(lambda at: {"connection_string": at, "api_key": "k"}, "mdcb"),
    "hybrid-aggregated": Target(
        lambda at: {"connection_string": at, "api_key": "k", "aggregated": True},
        "mdcb",
    ),
    "moesif": Target(
        lambda at: {
            "application_id": "a",
            "enable_bulk": True,
            "bulk_config": {"api_endpoint": f"http://{at}"},
        }
    ),
    "segment": Target(
        lambda at: {"segment_url": f"http://{at}", "segment_write_key": "k"}
    ),
    "influx": Target(
        lambda at: {
            "address": f"http://{at}",
            "database_name": "d",
            "fields": ["request_time", "response_code"],
            "tags": ["api_id", "method", "path"],
        }
    ),
    "influx2": Target(
        lambda at: {
            "address": f"http://{at}",
            "organization": "o",
            "bucket": "b",
            "token": "t",
            "fields": ["request_time", "response_code"],
            "tags": ["api_id", "method", "path"],
        }
    ),
    "timestream": Target(
        lambda at: {
            **_aws(f"{at}/timestream"),
            "timestream_database_name": "d",
            "timestream_table_name": "t",
            "dimensions": ["Method", "Path", "APIName", "APIID", "OrgID"],
            "measures": [
                *("ResponseCode", "RequestTime", "Latency.Total", "Latency.Upstream"),
                *("UserAgent", "IPAddress", "GeoData.Country.ISOCode"),
            ],
        }
    ),
    # Nobody scrapes meanwhile; whoever does finds as many series as there are.
    "prometheus": Target(lambda _: {"listen_address": "127.0.0.1:0"}, ""),
    "prometheus-paths": Target(
        lambda _: {"listen_address": "127.0.0.1:0", "track_all_paths": True}, ""
    ),
    "prometheus-persist": Target(
        lambda _: {
            "listen_address": "127.0.0.1:0",
            "track_all_paths": True,
            "persist": "batch",
        },
        "",
    ),
    "kinesis": Target(
        lambda at: {**_aws(at), "stream_name": "s", "batch_size": 500}, "aws"
    ),
    "sqs": Target(lambda at: {**_aws(at), "aws_queue_name": "q"}, "aws"),
    "resurfaceio": Target(
        lambda at: {"capture_url": f"http://{at}/message", "rules": "include debug"}
    ),
}

ALONE: Final = tuple(TARGETS)


def kind(way: str) -> str:
    """Return the type of the pump that a way measures."""
    return way if way in REGISTRY else way.partition("-")[0]


@contextlib.contextmanager
def sections(ways: list[str], folder: Path) -> Iterator[dict[str, Any]]:
    """Start the sinks of these ways; give the `pumps` of a configuration."""
    with contextlib.ExitStack() as stack:
        found: dict[str, Any] = {}
        for way in ways:
            target = TARGETS[way]
            at = str(folder)
            if target.sink in SERVERS:
                at = stack.enter_context(SERVERS[target.sink](folder / way))
            elif target.sink in KINDS:
                at = f"127.0.0.1:{stack.enter_context(Sink(target.sink)).port}"
            meta = target.meta(at)
            # As if it had been read from a file.
            section = {"name": way, "type": kind(way), "meta": meta}
            found[way] = json.loads(json.dumps(section))
        yield found


@contextlib.contextmanager
def broker(folder: Path) -> Iterator[str]:
    """Start the broker that the tests use; AbsentError where it is not prepared."""
    from tests.servers import java, kafka, tls

    if not java.KAFKA.folder.is_dir():
        raise AbsentError("the broker is not prepared: run `make servers`")
    authority = tls.authority(folder / "authority")
    server = kafka.KafkaServer(folder / "broker", authority)
    try:
        server.create_topic("bench")
        yield server.plaintext
    finally:
        server.kill()


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """Start PostgreSQL as the tests do; AbsentError where it is not installed."""
    from tests.servers.postgres import PostgresServer, programs

    if programs() is None:
        raise AbsentError("PostgreSQL is not installed")
    room = {"shared_buffers": "256MB", "max_wal_size": "4GB"}
    with PostgresServer(folder, settings=room) as server:
        yield server.database().dsn


@contextlib.contextmanager
def ferretdb(folder: Path) -> Iterator[str]:
    """Start the MongoDB of the tests; AbsentError where it is not prepared."""
    from tests.servers.go import FERRETDB
    from tests.servers.mongo import MongoServer

    if not FERRETDB.folder.is_dir():
        raise AbsentError("FerretDB is not prepared: run `make servers`")
    with MongoServer(folder) as server:
        yield f"127.0.0.1:{server.port}"


SERVERS: Final = {"kafka": broker, "postgres": postgres, "ferretdb": ferretdb}
"""What is more than a sink: programs that the tests start, too."""
