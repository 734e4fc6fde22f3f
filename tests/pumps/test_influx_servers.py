"""The InfluxDB pumps against real servers: InfluxDB 1, and Telegraf for 2."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.golden import loader
from tests.servers.http import Answer, Request
from tests.servers.influx import Influx2
from tests.servers.influxd import PASSWORD, USER, InfluxServer
from tests.servers.telegraf import TOKEN, Telegraf
from tests.servers.tls import Authority
from tyk_pump.config.options import Secret
from tyk_pump.errors import RejectedRecords, TransientError, WriteError
from tyk_pump.pumps.influx import InfluxOptions, InfluxPump
from tyk_pump.pumps.influx2 import Influx2Options, Influx2Pump
from tyk_pump.pumps.protocol import Batch
from tyk_pump.record import codec
from tyk_pump.record.analytics import AnalyticsRecord
from tyk_pump.record.line_protocol import NAMES
from tyk_pump.transport.influx import point_times

DATABASE = "tyk"
TAGS = ["method", "path", "api_name", "response_code", "time_stamp"]


def edge(pump: InfluxPump | Influx2Pump) -> list[AnalyticsRecord]:
    """Return the odd records that have a time that a point can have."""
    decode = codec.decoder("msgpack", pump.fields)
    records = [decode(w.msgpack or b"") for w in loader.corpus("edge").values()]
    return [one for one in records if 0 < one.timestamp[0] + 2**33 < 2**34]


def batch(records: list[AnalyticsRecord], first: int = 0) -> Batch:
    """Return a batch of records that follow each other."""
    positions = range(first, first + len(records))
    return Batch("S", 0, "analytics", positions, records)


def record(path: str, seconds: int = 1_741_183_629) -> AnalyticsRecord:
    """Return a record."""
    return AnalyticsRecord(path=path, timestamp=(seconds, 0))


def opened(url: str, **options: Any) -> InfluxPump:
    """Return an open pump that writes to the database."""
    given = {"database_name": DATABASE, "fields": ["path"], **options}
    pump = InfluxPump(InfluxOptions(address=url, **given))
    pump.open()
    return pump


def paths(server: InfluxServer, policy: str = "autogen") -> list[str]:
    """Return the paths of the points that are there, by time."""
    text = f'SELECT path FROM "{policy}".analytics'
    return [point["path"] for point in server.query(text, DATABASE)]


@pytest.fixture
def influxd(influx_server: InfluxServer) -> InfluxServer:
    """InfluxDB 1 with the database."""
    influx_server.create_database(DATABASE)
    return influx_server


def test_odd_records_come_back(influxd: InfluxServer) -> None:
    """Every value of every field and tag, and a point for each record."""
    pump = opened(influxd.url, fields=[], tags=TAGS)
    sent = batch(edge(pump))
    assert "InfluxDB 1.6" in pump.probe()
    pump.write(sent)
    pump.write(sent)
    found = influxd.query("SELECT * FROM analytics GROUP BY *", DATABASE)
    assert len(found) == len(sent) > 100
    texts = ("api_id", "api_key", "ip_address", "org_id", "raw_request", "raw_response")
    right = sorted(
        (r.response_code, *(_readable(getattr(r, name)) for name in texts))
        for r in sent.records
    )
    rows = [(p["response_code"], *(p[name] for name in texts)) for p in found]
    assert sorted(rows) == right
    kinds = influxd.query("SHOW FIELD KEYS", DATABASE)
    assert {one["fieldKey"]: one["fieldType"] for one in kinds} == {
        name: "integer" if name in ("response_code", "request_time") else "string"
        for name in NAMES
    }
    pump.close()


def _readable(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def test_escapes_of_both_dialects(influxd: InfluxServer) -> None:
    """Tags and texts with every special character are read as one value each."""
    texts = ['"', '"a"', "end\\", "\\", "a\\,b", "a\\ b", "=", ", ", "lf\n\ttab", "x y"]
    pump = opened(influxd.url, tags=["path"])
    pump.write(batch([record(text) for text in texts]))
    pump.close()
    found = influxd.query("SELECT path FROM analytics GROUP BY *", DATABASE)
    assert sorted(point["path"] for point in found) == sorted(texts)
    tagged = influxd.query('SHOW TAG VALUES WITH KEY = "path"', DATABASE)
    assert len({point["value"] for point in tagged}) == len(texts)
    options = Influx2Options(address=influxd.url, fields=["path"], tags=["path"])
    two = Influx2Pump(options)
    lines = two._points._lines
    body = b"".join(lines.encode(record(text), 1) for text in texts)
    address = f"{influxd.url}/write?db={DATABASE}&precision=ns"
    assert requests.post(address, body, timeout=10).status_code == 204


def test_killed_and_restarted_in_the_middle(influxd: InfluxServer) -> None:
    """What was not confirmed is written later; nothing is lost or twice."""
    pump = opened(influxd.url, batch_size=10)
    sent = batch([record(f"/{number:03}") for number in range(60)])
    pump.write(sent.part(range(25)))
    influxd.kill()
    with pytest.raises(TransientError) as raised:
        pump.write(sent)
    assert raised.value.pending == list(range(60))
    influxd.restart()
    pump.write(sent)
    assert sorted(paths(influxd)) == [f"/{number:03}" for number in range(60)]
    pump.close()


def test_points_beyond_retention(influxd: InfluxServer) -> None:
    """InfluxDB names their number only; the positions are exact all the same."""
    influxd.query(
        "CREATE RETENTION POLICY short ON tyk DURATION 1h REPLICATION 1", DATABASE
    )
    pump = opened(influxd.url, retention_policy="short")
    now = int(time.time())
    records = [record(f"/{n}", now if n % 5 else 1_000_000_000) for n in range(20)]
    with pytest.raises(RejectedRecords) as raised:
        pump.write(batch(records))
    assert sorted(raised.value.rejected) == [0, 5, 10, 15]
    assert "beyond retention policy" in raised.value.reason
    assert sorted(paths(influxd, "short")) == sorted(
        f"/{n}" for n in range(20) if n % 5
    )
    with pytest.raises(RejectedRecords) as raised:
        pump.write(batch(records[:1] * 30))
    assert len(raised.value.rejected) == 30
    pump.close()


def test_a_field_of_another_type(influxd: InfluxServer) -> None:
    """All are refused with InfluxDB's words."""
    address = f"{influxd.url}/write?db={DATABASE}"
    requests.post(address, b"analytics path=1.5 1741183629000000000", timeout=10)
    pump = opened(influxd.url)
    with pytest.raises(RejectedRecords, match="field type conflict") as raised:
        pump.write(batch([record("/a"), record("/b")]))
    assert sorted(raised.value.rejected) == [0, 1]
    pump.close()


def test_lines_that_influxdb_cannot_read(influxd: InfluxServer) -> None:
    """A tag beyond its limit is quoted by InfluxDB: only it is refused."""
    pump = opened(influxd.url, tags=["path"])
    records = [record("/a"), record("/'%s': " % ("x" * 70_000)), record("/b\n")]
    with pytest.raises(RejectedRecords) as raised:
        pump.write(batch(records))
    pump.close()
    assert list(raised.value.rejected) == [1]
    assert raised.value.rejected[1].startswith("max key length exceeded")
    assert sorted(paths(influxd)) == ["/a", "/b\n"]


def test_no_such_policy_or_database(influxd: InfluxServer) -> None:
    """Both are waited for, until somebody makes them."""
    for options in ({"retention_policy": "none"}, {"database_name": "none"}):
        pump = opened(influxd.url, **options)
        with pytest.raises(TransientError, match="not found"):
            pump.write(batch([record("/a")]))
        pump.close()


def test_users(tmp_path: Path) -> None:
    """The right password is taken; a wrong one is said and waited for."""
    with InfluxServer(tmp_path / "influxd", auth=True) as server:
        server.create_database(DATABASE)
        right = {"username": USER, "password": Secret(PASSWORD)}
        pump = opened(server.url, **right)
        pump.write(batch([record("/a")]))
        assert pump.probe().endswith("database 'tyk' is there")
        pump.close()
        for wrong in ({}, {**right, "password": Secret("s3cret")}):
            pump = opened(server.url, **wrong)
            with pytest.raises(TransientError, match="401") as raised:
                pump.write(batch([record("/b")]))
            assert "s3cret" not in raised.value.reason
            with pytest.raises(TransientError, match="401"):
                pump.probe()
            pump.close()
        assert paths(server) == ["/a"]


def test_tls(tmp_path: Path, authority: Authority) -> None:
    """Believed with its own authority, and not without."""
    with InfluxServer(tmp_path / "influxd", authority) as server:
        server.create_database(DATABASE)
        pump = opened(server.url, ssl_ca_file=str(authority.ca_file))
        pump.write(batch([record("/a")]))
        assert "is there" in pump.probe()
        pump.close()
        pump = opened(server.url)
        with pytest.raises(WriteError, match=r"(?i)certificate"):
            pump.write(batch([record("/b")]))
        pump.close()
        assert paths(server) == ["/a"]


# Telegraf in the place of InfluxDB 2


@pytest.fixture
def listener(telegraf: Telegraf) -> Iterator[Influx2]:
    """The end points of the start by an imitation, the writes by Telegraf."""
    front = Influx2()

    def respond(request: Request) -> Answer:
        if not request.path.endswith("/write"):
            return front.respond(request)
        kept = ("authorization", "content-type", "content-encoding")
        reply = requests.post(
            f"{telegraf.influx2_url}{request.target}",
            request.raw,
            headers={name: request.headers.get(name) for name in kept},
            timeout=10,
        )
        return Answer(reply.status_code, reply.content)

    with front.http.answering(respond):
        yield front
    front.close()


def opened2(front: Influx2, token: str = TOKEN, **options: Any) -> Influx2Pump:
    """Return an open pump that writes to Telegraf."""
    given = {"address": front.url, "organization": "acme", "bucket": "tyk", **options}
    pump = Influx2Pump(Influx2Options(token=Secret(token), **given))
    pump.open()
    return pump


def test_telegraf_takes_the_points(listener: Influx2, telegraf: Telegraf) -> None:
    """Odd records too; types, tags and times are what they were."""
    pump = opened2(listener, tags=TAGS[:-1], compress=True)
    # Its parser does not know the escapes of control characters, InfluxDB's does.
    odd = [r for r in edge(pump) if "\t" in r.path or "\n" in r.path]
    assert len(odd) == 2
    sent = batch([r for r in edge(pump) if r not in odd])
    pump.write(sent)
    found = telegraf.metrics(at_least=len(sent))
    pump.close()
    assert len(found) == len(sent)
    assert sorted(point["timestamp"] for point in found) == sorted(point_times(sent))
    assert {point["tags"]["bucket"] for point in found} == {"tyk"}
    right = sorted(
        (r.latency.total, r.request_time, r.ip_address) for r in sent.records
    )
    names = ("total_latency", "request_time", "ip_address")
    rows = [tuple(point["fields"][name] for name in names) for point in found]
    assert sorted(rows) == right


def test_telegraf_cannot_read_a_line(listener: Influx2, telegraf: Telegraf) -> None:
    """It gives no position, and quotes the record, which stays out of the reason."""
    pump = opened2(listener, fields=["path"])
    with pytest.raises(RejectedRecords, match="metric parse error") as raised:
        pump.write(batch([record("/a"), record("/s3cret\n"), record("/b")]))
    pump.close()
    assert list(raised.value.rejected) == [1]
    assert "s3cret" not in raised.value.reason
    found = {p["fields"]["path"] for p in telegraf.metrics(at_least=2)}
    assert found == {"/a", "/b"}


def test_telegraf_refuses_the_token(listener: Influx2) -> None:
    """It is waited for."""
    pump = opened2(listener, token="wrong")
    with pytest.raises(TransientError, match="401"):
        pump.write(batch([record("/a")]))
    pump.close()


def test_telegraf_away(listener: Influx2, telegraf: Telegraf) -> None:
    """It dies and comes back: all points are there."""
    pump = opened2(listener, fields=["path"])
    sent = batch([record(f"/{number}") for number in range(20)])
    pump.write(sent.part(range(10)))
    telegraf.metrics(at_least=10)
    telegraf.kill()
    away = listener.http.answering(lambda request: Answer(502))
    with away, pytest.raises(TransientError) as raised:
        pump.write(sent.part(range(10, 20)))
    assert raised.value.pending == list(range(10))
    telegraf.restart()
    pump.write(sent.part(range(10, 20)))
    found = {p["fields"]["path"] for p in telegraf.metrics(at_least=20)}
    assert found == {f"/{number}" for number in range(20)}
    pump.close()
