"""The servers built with Go take what they should, and say what they took."""

from __future__ import annotations

import gzip
import json
import os
import socket
import ssl
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.servers.gelf import GelfReader
from tests.servers.hec import HecCollector
from tests.servers.influxd import InfluxServer
from tests.servers.telegraf import PASSWORD, TOKEN, USER, Telegraf
from tests.servers.tls import Authority

SPLUNK = {"Authorization": "Splunk abc"}


@pytest.fixture
def web() -> Iterator[requests.Session]:
    """A session that takes nothing from the environment."""
    with requests.Session() as session:
        session.trust_env = False
        yield session


def send(port: int, *datagrams: bytes) -> None:
    """Send datagrams."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        for datagram in datagrams:
            end.sendto(datagram, ("127.0.0.1", port))


def test_hec_event(hec_collector: HecCollector, web: requests.Session) -> None:
    """An event comes back with all that it came with."""
    event = {
        "time": 1700000000.123,
        "host": "h",
        "source": "s",
        "sourcetype": "t",
        "index": "i",
        "event": {"path": "/é", "code": 200, "tags": ["a", "b"], "none": {}},
        "fields": {"f": "1"},
    }
    reply = web.post(hec_collector.url, json=event, headers=SPLUNK)
    assert reply.status_code == 200
    assert reply.json()["code"] == 0
    assert hec_collector.events(1) == [
        {
            "event": {"path": "/é", "code": 200.0, "tags": ["a", "b"], "none": {}},
            "time": 1700000000.123,
            "fields": {"f": "1"},
            "host": "h",
            "source": "s",
            "sourcetype": "t",
            "index": "i",
            "token": "abc",
        }
    ]


@pytest.mark.parametrize("packed", [False, True])
def test_hec_batch(
    hec_collector: HecCollector, web: requests.Session, packed: bool
) -> None:
    """Objects in a row are as many events, also when they are packed."""
    body = b"".join(json.dumps({"event": {"n": n}}).encode() for n in range(100))
    headers = {**SPLUNK, "Content-Encoding": "gzip"} if packed else SPLUNK
    reply = web.post(
        hec_collector.url,
        data=gzip.compress(body) if packed else body,
        headers=headers,
    )
    assert reply.status_code == 200
    events = hec_collector.events(100)
    assert [event["event"]["n"] for event in events] == list(range(100))
    assert events[0]["time"] is None


@pytest.mark.parametrize(("body", "code"), [(b"", 5), (b"{nonsense", 6)])
def test_hec_refusals(
    hec_collector: HecCollector, web: requests.Session, body: bytes, code: int
) -> None:
    """What is no event is refused with the vendor's codes."""
    reply = web.post(hec_collector.url, data=body, headers=SPLUNK)
    assert reply.status_code == 400
    assert reply.json()["code"] == code


def test_hec_tls_and_restart(
    tmp_path: Path, authority: Authority, web: requests.Session
) -> None:
    """It speaks TLS, and after its death it is found where it was."""
    web.verify = str(authority.ca_file)
    with HecCollector(tmp_path, authority) as collector:
        assert web.post(collector.url, json={"event": "one"}, headers=SPLUNK).ok
        collector.events(1)
        collector.kill()
        with pytest.raises(requests.ConnectionError):
            web.post(collector.url, json={"event": "lost"}, headers=SPLUNK)
        collector.restart()
        assert web.post(collector.url, json={"event": "two"}, headers=SPLUNK).ok
        assert [event["event"] for event in collector.events(2)] == ["one", "two"]


def chunks(message: bytes, size: int) -> list[bytes]:
    """Cut a GELF message into chunks."""
    pieces = [message[at : at + size] for at in range(0, len(message), size)]
    head = b"\x1e\x0f" + os.urandom(8)
    return [
        head + bytes([number, len(pieces)]) + piece
        for number, piece in enumerate(pieces)
    ]


def test_gelf(gelf_reader: GelfReader) -> None:
    """Plain, packed and chunked messages are understood."""
    for number in range(4):
        text = json.dumps(
            {
                "version": "1.1",
                "host": "h",
                "short_message": "é" * (1 + 5000 * (number == 3)),
                "timestamp": 1700000000.5,
                "level": 6,
                "_number": number,
                "_path": "/a",
            }
        ).encode()
        if number == 3:
            send(gelf_reader.port, *chunks(text, 1000))
        else:
            send(gelf_reader.port, (bytes, zlib.compress, gzip.compress)[number](text))
    messages = gelf_reader.messages(4)
    assert [message["_number"] for message in messages] == [0, 1, 2, 3]
    assert messages[3]["short_message"] == "é" * 5001
    assert messages[0] == {
        "version": "1.1",
        "host": "h",
        "short_message": "é",
        "full_message": "",
        "timestamp": 1700000000.5,
        "level": 6,
        "facility": "",
        "_number": 0,
        "_path": "/a",
    }


def test_gelf_nonsense_and_restart(gelf_reader: GelfReader) -> None:
    """What is no message is left out; after its death it is found where it was."""
    send(gelf_reader.port, b"nonsense", b'{"short_message": "one"}')
    gelf_reader.messages(1)
    gelf_reader.kill()
    gelf_reader.restart()
    send(gelf_reader.port, b'{"short_message": "two"}')
    texts = [message["short_message"] for message in gelf_reader.messages(2)]
    assert texts == ["one", "two"]


LINE = 'hits,api=a\\ b n=3i,text="x y",share=0.5,ok=true 1700000000123456789'


def test_telegraf_influx2(telegraf: Telegraf, web: requests.Session) -> None:
    """A write needs the token; strings and integers keep their kind."""
    url = f"{telegraf.influx2_url}/api/v2/write"
    where = {"org": "o", "bucket": "b", "precision": "ns"}
    wrong = {"Authorization": "Token wrong"}
    assert web.post(url, params=where, data=LINE, headers=wrong).status_code == 401
    right = {"Authorization": f"Token {TOKEN}"}
    assert web.post(url, params=where, data=LINE, headers=right).status_code == 204
    assert web.post(url, params=where, data="x", headers=right).status_code == 400
    assert telegraf.metrics(1) == [
        {
            "name": "hits",
            "tags": {"api": "a b", "bucket": "b"},
            "fields": {"n": 3, "text": "x y", "share": 0.5, "ok": True},
            "timestamp": 1700000000123456789,
        }
    ]


def test_telegraf_influx1(telegraf: Telegraf, web: requests.Session) -> None:
    """A write needs the user, and says to which database it went."""
    url = f"{telegraf.influx1_url}/write"
    where = {"db": "d", "precision": "n"}
    assert web.post(url, params=where, data=LINE).status_code == 401
    web.auth = (USER, PASSWORD)
    assert web.post(url, params=where, data=LINE).status_code == 204
    [metric] = telegraf.metrics(1)
    assert metric["tags"] == {"api": "a b", "database": "d"}


def test_telegraf_statsd(telegraf: Telegraf) -> None:
    """Counters, timings and the tags of DogStatsD arrive."""
    send(telegraf.statsd, b"hits.total:3|c|#api:a,code:200", b"time:12|ms")
    until = time.monotonic() + 10
    names: dict[str, dict[str, object]] = {}
    while not {"hits.total", "time"} <= names.keys():
        assert time.monotonic() < until, names
        names = {metric["name"]: metric for metric in telegraf.metrics()}
        time.sleep(0.01)
    assert names["hits.total"]["fields"] == {"value": 3}
    assert names["hits.total"]["tags"] == {
        "api": "a",
        "code": "200",
        "metric_type": "counter",
    }


def test_telegraf_syslog_and_tls(
    tmp_path: Path, authority: Authority, web: requests.Session
) -> None:
    """All listeners on TCP speak TLS when there is an authority."""
    line = b"<134>1 2026-01-02T03:04:05.678Z h app 42 - - text"
    web.verify = str(authority.ca_file)
    web.headers["Authorization"] = f"Token {TOKEN}"
    context = ssl.create_default_context(cafile=str(authority.ca_file))
    with Telegraf(tmp_path, authority) as telegraf:
        address = ("127.0.0.1", telegraf.syslog)
        with (
            socket.create_connection(address) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as end,
        ):
            end.sendall(b"%d %s" % (len(line), line))
            end.unwrap().close()
        url = f"{telegraf.influx2_url}/api/v2/write?org=o&bucket=b"
        assert web.post(url, data=LINE).status_code == 204
        found = {metric["name"]: metric for metric in telegraf.metrics(2)}
    assert found.keys() == {"syslog", "hits"}
    assert found["syslog"]["fields"]["message"] == "text"


def test_influxd(influx_server: InfluxServer, web: requests.Session) -> None:
    """What is written can be queried, and is there after a death."""
    influx_server.create_database("d")
    where = {"db": "d", "precision": "n"}
    url = f"{influx_server.url}/write"
    assert web.post(url, params=where, data=LINE).status_code == 204
    assert web.post(url, params={"db": "none"}, data=LINE).status_code == 404
    influx_server.kill()
    influx_server.restart()
    assert "d" in influx_server.databases()
    [point] = influx_server.query("SELECT * FROM hits", "d")
    assert point == {
        "name": "hits",
        "time": "2023-11-14T22:13:20.123456789Z",
        "api": "a b",
        "n": 3,
        "ok": True,
        "share": 0.5,
        "text": "x y",
    }
    [total] = influx_server.query("SELECT sum(n) FROM hits GROUP BY api", "d")
    assert (total["api"], total["sum"]) == ("a b", 3)


def test_influxd_users_and_tls(
    tmp_path: Path, authority: Authority, web: requests.Session
) -> None:
    """With users and TLS, nothing is had without them."""
    web.verify = str(authority.ca_file)
    with InfluxServer(tmp_path, authority, auth=True) as server:
        server.create_database("d")
        url = f"{server.url}/write?db=d"
        assert web.post(url, data=LINE).status_code == 401
        assert web.post(url, data=LINE, auth=("root", "pw")).status_code == 204
        assert len(server.query("SELECT * FROM hits", "d")) == 1
