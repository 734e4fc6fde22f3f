"""The graylog pump: what its options do, and what Graylog's own reader understands."""

from __future__ import annotations

import gzip
import json
import logging
import random
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.pumps.config import loaded, opened
from tests.servers.gelf import GelfReader
from tests.servers.receiver import TcpReceiver, UdpReceiver, keeping_up
from tests.servers.tls import Authority
from tyk_pump.errors import RejectedRecords, TransientError
from tyk_pump.pumps.graylog import TAGS, GraylogOptions, GraylogPump, seconds
from tyk_pump.pumps.protocol import Batch
from tyk_pump.record.analytics import ALL, AnalyticsRecord

TIME = (1_741_183_629, 120_456_789)


@pytest.fixture
def udp() -> Iterator[UdpReceiver]:
    """Takes datagrams."""
    with UdpReceiver() as receiver:
        yield receiver


@pytest.fixture
def tcp() -> Iterator[TcpReceiver]:
    """Takes connections."""
    with TcpReceiver() as receiver:
        yield receiver


def record(path: str = "/p", **fields: Any) -> AnalyticsRecord:
    """Return a record of some moment."""
    values = {"timestamp": TIME, "method": "GET", "response_code": 200}
    return AnalyticsRecord(path=path, **{**values, **fields})


def sent(folder: Path, port: int, *records: AnalyticsRecord, **meta: Any) -> None:
    """Write records with a pump of these options."""
    meta = {"host": "127.0.0.1", "port": port, "tags": ["path"], **meta}
    pump = opened(folder, "graylog", meta)
    try:
        pump.write(Batch("S", 0, "list", range(7, 7 + len(records)), records))
    finally:
        pump.close()


def noise(size: int) -> str:
    """Return a text of six bits of chance in each byte."""
    letters = [
        chr(number) for number in range(0x30, 0x70) if chr(number) not in '<>\\"'
    ]
    return "".join(random.Random(size).choices(letters, k=size))


# Options


@pytest.mark.parametrize(
    ("meta", "fault"),
    [
        ({"port": 65_536}, "port: "),
        ({"port": "1000"}, "port: expected int, got str"),
        ({"transport": "http"}, "transport: 'http' is not one of udp, tcp, tls"),
        ({"compression": "zstd"}, "compression: 'zstd' is not one of zlib, gzip, none"),
        ({"format": "2.0"}, "format: '2.0' is not one of legacy, gelf-1.1"),
        ({"chunk_size": 0}, "chunk_size: "),
        ({"ssl_key_file": "k.pem"}, "ssl_cert_file: missing beside ssl_key_file"),
    ],
)
def test_a_fault_is_named_by_its_path(
    meta: dict[str, Any], fault: str, tmp_path: Path
) -> None:
    """The reference ends its process for these, or goes on with nonsense."""
    (found,) = loaded(tmp_path, "graylog", meta).every_fault()
    assert found.startswith(f"pumps.x.meta.{fault}")


def test_without_meta_the_defaults_hold(tmp_path: Path) -> None:
    """The reference ends with a nil dereference there."""
    config = loaded(tmp_path, "graylog", None)
    assert config.every_fault() == []
    assert config.pumps[0].options == GraylogOptions()


@pytest.mark.parametrize(
    ("meta", "warnings"),
    [
        (
            {},
            [
                "port is 1000, GELF inputs listen on 12201 as a rule",
                "tags is empty, messages say nothing of a record",
            ],
        ),
        ({"port": 12_201, "tags": ["path", "Method"]}, ["tags has an unknown name"]),
        ({"port": 12_201, "tags": ["path", "tracked"]}, []),
        (
            {"port": 0, "tags": ["path"]},
            ["port is 1000, GELF inputs listen on 12201 as a rule"],
        ),
    ],
)
def test_what_is_odd_is_said_at_start(
    meta: dict[str, Any],
    warnings: list[str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The reference is silent about it."""
    with caplog.at_level(logging.WARNING):
        opened(tmp_path, "graylog", meta).close()
    assert [entry.getMessage() for entry in caplog.records] == warnings


@pytest.mark.parametrize(
    ("compression", "plain"),
    [("zlib", zlib.decompress), ("gzip", gzip.decompress), ("none", bytes)],
)
def test_compression(
    compression: str,
    plain: Callable[[bytes], bytes],
    udp: UdpReceiver,
    tmp_path: Path,
) -> None:
    """One of the forms that a receiver tells apart by the first bytes."""
    sent(tmp_path, udp.port, record(), compression=compression)
    assert plain(udp.take(1)[0]) == (
        b'{"host":"tyk-pumps","message":"{\\"path\\":\\"/p\\"}","timestamp":1741183629}'
    )


def test_a_message_beyond_the_limit_of_chunks_is_refused(
    udp: UdpReceiver, tmp_path: Path
) -> None:
    """A receiver would drop it without a word; the others arrive."""
    large = record(noise(260_000))
    with pytest.raises(RejectedRecords) as caught:
        sent(tmp_path, udp.port, record("/a"), large, record("/b"))
    assert list(caught.value.rejected) == [1]
    assert caught.value.rejected[1].startswith("too large: ")
    assert caught.value.rejected[1].endswith("chunks, GELF has 128 at most")
    assert len(udp.take(2)) == 2


def test_what_only_just_fits_is_compressed_harder(
    udp: UdpReceiver, tmp_path: Path
) -> None:
    """The quick level leaves more; a record is not lost for that."""
    text = "".join(f"{number % 977:03}-{number // 7:04}" for number in range(9000))
    quick, hard = (len(zlib.compress(text.encode(), level)) for level in (1, 9))
    size = hard // 128 + 40
    assert quick > size * 128 > hard
    with keeping_up(udp):
        sent(tmp_path, udp.port, record(text), chunk_size=size)
    count = udp.take(1)[0][11]
    data = b"".join(part[12:] for part in udp.take(count))
    assert text in json.loads(zlib.decompress(data))["message"]


def test_gelf_1_1(udp: UdpReceiver, tmp_path: Path) -> None:
    """Each value is a field of its own, beside the fields that the format asks for."""
    tags = ["path", "response_code", "tracked", "raw_request"]
    full = record(raw_request="R0VUIC8=", track_path=True)
    sent(tmp_path, udp.port, full, tags=tags, format="gelf-1.1")
    assert json.loads(zlib.decompress(udp.take(1)[0])) == {
        "version": "1.1",
        "host": "tyk-pumps",
        "short_message": "GET /p 200",
        "timestamp": 1741183629.120456789,
        "level": 6,
        "_record_id": "S:7",
        "_path": "/p",
        "_response_code": 200,
        "_tracked": "true",
        "_raw_request": "GET /",
    }


def test_gelf_1_1_without_tags(udp: UdpReceiver, tmp_path: Path) -> None:
    """What the format asks for is there."""
    sent(tmp_path, udp.port, record("/\u2028\x00<"), tags=[], format="gelf-1.1")
    text = zlib.decompress(udp.take(1)[0])
    assert b'"short_message":"GET /\\u2028\\u0000\\u003c 200"' in text
    assert json.loads(text)["_record_id"] == "S:7"


@pytest.mark.parametrize(
    ("time", "text"),
    [
        ((0, 0), b"0"),
        ((1, 500_000_000), b"1.5"),
        ((1_741_183_629, 1), b"1741183629.000000001"),
        ((-1, 750_000_000), b"-0.25"),
        ((-62135596800, 0), b"-62135596800"),
    ],
)
def test_seconds(time: tuple[int, int], text: bytes) -> None:
    """A number that loses nothing, also before 1970."""
    assert seconds(time) == text


def test_every_tag_is_sent(udp: UdpReceiver, tmp_path: Path) -> None:
    """Under its own name; and only these fields are decoded."""
    sent(tmp_path, udp.port, record(), tags=list(TAGS))
    message = json.loads(zlib.decompress(udp.take(1)[0]))["message"]
    assert list(json.loads(message)) == sorted(TAGS)
    assert set(GraylogPump.fields) <= set(ALL)
    pump = GraylogPump(GraylogOptions(tags=["tracked", "raw_request"]))
    assert set(pump.fields) == {"track_path", "raw_request", "timestamp"}


# Transports


@pytest.mark.parametrize("form", ["legacy", "gelf-1.1"])
def test_tcp(form: str, tcp: TcpReceiver, tmp_path: Path) -> None:
    """A zero byte ends each message, nothing is compressed, nothing is too large."""
    large = noise(300_000)
    paths = ["/a", "/\0\n", large]
    records = [record(path) for path in paths]
    sent(tmp_path, tcp.port, *records, transport="tcp", format=form)
    found = [json.loads(message) for message in tcp.messages(b"\0")]
    if form == "legacy":
        found = [json.loads(message["message"]) for message in found]
    assert [m.get("path", m.get("_path")) for m in found] == paths


def test_tls(authority: Authority, tmp_path: Path) -> None:
    """With an authority of its own."""
    with TcpReceiver(authority) as receiver:
        meta = {"transport": "tls", "ssl_ca_file": str(authority.ca_file)}
        sent(tmp_path, receiver.port, record(), **meta)
        assert len(receiver.messages(b"\0")) == 1


def test_probe(udp: UdpReceiver, tcp: TcpReceiver, tmp_path: Path) -> None:
    """It says what was reached, and fails where nobody is."""

    def said(**meta: Any) -> str:
        pump = opened(tmp_path, "graylog", {"host": "127.0.0.1", **meta})
        try:
            return pump.probe()
        finally:
            pump.close()

    place = f"127.0.0.1:{udp.port}"
    assert said(port=udp.port) == f"{place} over udp, which nobody confirms"
    place = f"127.0.0.1:{tcp.port}"
    assert said(port=tcp.port, transport="tcp") == f"{place} takes connections over tcp"
    tcp.close()
    with pytest.raises(TransientError, match=f"{place}: Connection refused"):
        said(port=tcp.port, transport="tcp")


# Graylog's reader


@pytest.mark.parametrize("compression", ["zlib", "gzip", "none"])
def test_graylogs_reader(
    compression: str, gelf_reader: GelfReader, tmp_path: Path
) -> None:
    """It understands GELF 1.1, in one datagram and in chunks."""
    body = noise(20_000)
    records = [record("/a", api_id="x"), record("/b", raw_response=body, api_id="ü")]
    tags = ["path", "api_id", "response_code", "raw_response"]
    meta: dict[str, Any] = {"tags": tags}
    # Its buffer has no room for the head of a chunk beside 1420 bytes.
    meta |= {"chunk_size": 1408, "format": "gelf-1.1", "compression": compression}
    sent(tmp_path, gelf_reader.port, *records, **meta)
    first, second = gelf_reader.messages(2)
    assert (first["version"], first["host"]) == ("1.1", "tyk-pumps")
    assert first["short_message"] == "GET /a 200"
    assert first["timestamp"] == pytest.approx(1741183629.120456789)
    assert (first["_api_id"], first["_record_id"]) == ("x", "S:7")
    assert first["_response_code"] == 200
    assert (second["_api_id"], second["_raw_response"]) == ("ü", body)


def test_graylogs_reader_takes_the_legacy_form(
    gelf_reader: GelfReader, tmp_path: Path
) -> None:
    """What it knows of it: the host and the time."""
    sent(tmp_path, gelf_reader.port, record())
    (message,) = gelf_reader.messages(1)
    assert (message["host"], message["timestamp"]) == ("tyk-pumps", 1741183629)
