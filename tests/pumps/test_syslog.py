"""The syslog pump: what its options do, and what daemons understand."""

from __future__ import annotations

import json
import os
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.pumps.config import loaded, opened
from tests.servers.receiver import TcpReceiver, UdpReceiver
from tests.servers.rsyslog import Message, Rsyslog
from tests.servers.syslogng import SyslogNg
from tests.servers.tls import Authority
from tyk_pump.errors import RejectedRecords, TransientError
from tyk_pump.pumps.protocol import Batch
from tyk_pump.pumps.syslog import SyslogOptions, SyslogPump
from tyk_pump.record.analytics import ZERO_TIME, AnalyticsRecord, Latency

TIME = (1_741_183_629, 120_456_789)
IDENTITY = "01JZ"


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


def record(alias: str = "a", **fields: Any) -> AnalyticsRecord:
    """Return a record of some moment."""
    values = {"timestamp": TIME, "zone": "UTC", "method": "GET", "path": "/p"}
    return AnalyticsRecord(alias=alias, **{**values, **fields})


def batch(*records: AnalyticsRecord) -> Batch:
    """Return a batch of these."""
    return Batch(IDENTITY, 0, "list", range(7, 7 + len(records)), records)


def sent(folder: Path, meta: dict[str, Any], *records: AnalyticsRecord) -> None:
    """Write records with a pump of these options."""
    pump = opened(folder, "syslog", meta)
    try:
        pump.write(batch(*records))
    finally:
        pump.close()


def to(port: int, **meta: Any) -> dict[str, Any]:
    """Return options for a receiver here."""
    return {"network_addr": f"127.0.0.1:{port}", **meta}


# Options


@pytest.mark.parametrize(
    ("meta", "fault"),
    [
        ({"transport": "sctp"}, "transport: 'sctp' is not one of udp, tcp, tls"),
        ({"log_level": 192}, "log_level: "),
        ({"log_level": -1}, "log_level: "),
        ({"network_addr": "localhost"}, "network_addr: 'localhost' is not host:port"),
        ({"network_addr": "::1:514"}, "network_addr: '::1:514' is not host:port"),
        ({"network_addr": "a:70000"}, "network_addr: 'a:70000': there is no port"),
        ({"tag": "a\nb"}, "tag: has a control character"),
        ({"hostname": "a\0b"}, "hostname: has a control character"),
        ({"structured_data": "a b"}, "structured_data: 1 to 32 visible ASCII"),
        ({"structured_data": "x" * 33}, "structured_data: 1 to 32 visible ASCII"),
        ({"max_datagram": 65_508}, "max_datagram: "),
        ({"ssl_cert_file": "c.pem"}, "ssl_key_file: missing beside ssl_cert_file"),
    ],
)
def test_a_fault_is_named_by_its_path(
    meta: dict[str, Any], fault: str, tmp_path: Path
) -> None:
    """The reference ends its process for these, or goes on with nonsense."""
    (found,) = loaded(tmp_path, "syslog", meta).every_fault()
    assert found.startswith(f"pumps.x.meta.{fault}")


def test_without_meta_the_defaults_hold(tmp_path: Path) -> None:
    """The reference ends with a nil dereference there."""
    config = loaded(tmp_path, "syslog", None)
    assert config.every_fault() == []
    assert config.pumps[0].options == SyslogOptions()


@pytest.mark.parametrize(
    ("text", "place"),
    [("box:514", "box:514"), (":514", "localhost:514"), ("[::1]:514", "::1:514")],
)
def test_addresses(text: str, place: str, tmp_path: Path) -> None:
    """Names, no name, and IPv6 in brackets."""
    pump = opened(tmp_path, "syslog", {"network_addr": text, "transport": "tcp"})
    assert pump._messages._place == place  # type: ignore[attr-defined]
    pump.close()


def test_ipv6(tmp_path: Path) -> None:
    """A daemon may listen there alone."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as end:
        try:
            end.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6")
        end.settimeout(30)
        sent(tmp_path, {"network_addr": f"[::1]:{end.getsockname()[1]}"}, record())
        assert b"map[alias:a " in end.recv(1 << 16)


def test_the_header_has_hostname_tag_and_priority(
    udp: UdpReceiver, tmp_path: Path
) -> None:
    """Each as the options say, the number of the process behind the tag."""
    meta = to(udp.port, hostname="gw-1", tag="tyk", log_level=134)
    sent(tmp_path, meta, record())
    (line,) = udp.take(1)
    pattern = rb"<134>\S+ gw-1 tyk\[%d\]: map\[.*\]\n" % os.getpid()
    assert re.fullmatch(pattern, line)


def test_no_field_ends_a_message(tcp: TcpReceiver, tmp_path: Path) -> None:
    """Line ends and other control characters of clients are shown, not sent."""
    agent = "x\r\n<0>2026-01-01T00:00:00Z h sshd[1]: forged\x1b\x7f\0"
    noisy = record(
        user_agent=agent, path="/\t\n", raw_request="a\r\nb", raw_path="/\xa0"
    )
    sent(tmp_path, to(tcp.port, transport="tcp"), noisy, record("b"))
    first, second = (line.decode() for line in tcp.messages())
    shown = r"user_agent:x\r\n<0>2026-01-01T00:00:00Z h sshd[1]: forged\x1b\x7f\x00]"
    assert first.endswith(shown)
    assert r" path:/\t\n " in first and " raw_path:/\xa0 " in first
    assert " raw_request:a\r\\nb " in first
    assert "map[alias:b " in second
    # The record itself stays as it was, for a retry or another pump.
    assert noisy.user_agent == agent


def test_a_message_too_large_for_a_datagram_is_refused(
    udp: UdpReceiver, tmp_path: Path
) -> None:
    """The others arrive; its reason has both sizes."""
    large = record("large", raw_response="x" * 65_507)
    with pytest.raises(RejectedRecords) as caught:
        sent(tmp_path, to(udp.port), record(), large, record("b"))
    assert list(caught.value.rejected) == [1]
    reason = caught.value.rejected[1]
    assert re.fullmatch(r"too large for a datagram: \d+ bytes of 65507", reason)
    assert len(udp.take(2)) == 2


def test_a_datagram_that_the_kernel_refuses_is_refused(
    udp: UdpReceiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way to the daemon may carry less than we were told."""
    monkeypatch.setattr(SyslogPump, "_datagram", lambda self, message: message)
    pump = opened(tmp_path, "syslog", to(udp.port))
    pump._frame = pump._datagram  # type: ignore[attr-defined]
    with pytest.raises(RejectedRecords) as caught:
        pump.write(batch(record(), record(raw_response="x" * 70_000), record("b")))
    pump.close()
    assert list(caught.value.rejected) == [1]
    assert caught.value.rejected[1].endswith("bytes do not fit a datagram")
    assert len(udp.take(2)) == 2


@pytest.mark.parametrize("limit", [200, 201, 202, 203])
def test_a_datagram_is_cut_on_request(
    limit: int, udp: UdpReceiver, tmp_path: Path
) -> None:
    """At most so many bytes, whole characters, and the line feed at the end."""
    meta = to(udp.port, max_datagram=limit, truncate_datagrams=True, hostname="h")
    sent(tmp_path, meta, record("日本" * 100))
    (line,) = udp.take(1)
    assert limit - 3 <= len(line) <= limit
    assert line.endswith(b"\n") and "日本" in line.decode()


# RFC 5424


def test_rfc5424_with_json(tcp: TcpReceiver, tmp_path: Path) -> None:
    """The record's own time, numbers that are numbers, tags, latency and the id."""
    meta = to(tcp.port, transport="tcp", format="rfc5424", log_level=134)
    meta |= {"hostname": "gw 1", "tag": "tyk pump"}
    latency = Latency(total=12, upstream=9, gateway=3)
    full = record(response_code=200, tags=["x"], latency=latency, user_agent='"\n]')
    sent(tmp_path, meta, full, record(timestamp=ZERO_TIME))
    first, second = (line.decode() for line in tcp.messages())
    head, text = first.split(" - ", 1)
    assert head == (
        f"<134>1 2025-03-05T14:07:09.120456Z gw_1 tyk_pump {os.getpid()} analytics"
    )
    assert json.loads(text) == {
        "record_id": f"{IDENTITY}:7",
        **dict.fromkeys(("api_id", "api_key", "api_name", "api_version", "host"), ""),
        **dict.fromkeys(("ip_address", "oauth_id", "org_id", "raw_path"), ""),
        **dict.fromkeys(("raw_request", "raw_response"), ""),
        "alias": "a",
        "content_length": 0,
        "latency": {"total": 12, "upstream": 9, "gateway": 3},
        "method": "GET",
        "path": "/p",
        "request_time_ms": 0,
        "response_code": 200,
        "tags": ["x"],
        "timestamp": "2025-03-05T14:07:09.120456789Z",
        "user_agent": '"\n]',
    }
    assert second.startswith("<134>1 - gw_1 ")


def test_rfc5424_with_structured_data(tcp: TcpReceiver, tmp_path: Path) -> None:
    """Values are escaped as the RFC says, and lines end nowhere else."""
    meta = to(tcp.port, transport="tcp", format="rfc5424", message="text")
    meta |= {"structured_data": "tyk@32473"}
    sent(tmp_path, meta, record(path="/a\nb", user_agent='q"\\]\n', response_code=404))
    (line,) = tcp.messages()
    data, _, text = line.decode().partition("[")[2].rpartition("] ")
    assert text == r"GET /a\nb 404"
    assert data.startswith(f'tyk@32473 record_id="{IDENTITY}:7" alias="a" api_id=""')
    assert data.endswith(r'user_agent="q\"\\\]\n"')
    assert 'response_code="404"' in data and "raw_request" not in data


def test_a_year_that_json_does_not_know_is_refused(
    udp: UdpReceiver, tmp_path: Path
) -> None:
    """The reference's form takes it, RFC 5424 has no such year."""
    odd = record(timestamp=(10**12, 0))
    with pytest.raises(RejectedRecords, match="the year 33658 of a time"):
        sent(tmp_path, to(udp.port, format="rfc5424"), odd)
    sent(tmp_path, to(udp.port), odd)
    assert b" timestamp:33658-" in udp.take(1)[0]


def test_octet_counting(tcp: TcpReceiver, tmp_path: Path) -> None:
    """The count is of bytes; no line feed ends a message."""
    meta = to(tcp.port, transport="tcp", framing="octet-counting")
    sent(tmp_path, meta, record("ü"), record("b"))
    rest, found = tcp.received, []
    while rest:
        size, _, rest = rest.partition(b" ")
        found.append(rest[: int(size)])
        rest = rest[int(size) :]
    assert [message.endswith(b"]") for message in found] == [True, True]
    assert b"map[alias:\xc3\xbc api_id" in found[0]


def test_only_what_is_written_is_decoded() -> None:
    """A short text needs no body."""

    def fields(**options: Any) -> set[str]:
        return set(SyslogPump(SyslogOptions(**options)).fields)

    short = fields(format="rfc5424", message="text")
    assert short == {"method", "path", "response_code", "timestamp"}
    with_data = fields(format="rfc5424", message="text", structured_data="a@1")
    assert "user_agent" in with_data and "raw_request" not in with_data
    assert "tags" in fields(format="rfc5424") and "tags" not in fields()


def test_probe(udp: UdpReceiver, tcp: TcpReceiver, tmp_path: Path) -> None:
    """It says what was reached, and fails where nobody is."""

    def said(meta: dict[str, Any]) -> str:
        pump = opened(tmp_path, "syslog", meta)
        try:
            return pump.probe()
        finally:
            pump.close()

    assert said(to(udp.port)) == f"127.0.0.1:{udp.port} over udp, which nobody confirms"
    meta = to(tcp.port, transport="tcp")
    assert said(meta) == f"127.0.0.1:{tcp.port} takes connections over tcp"
    tcp.close()
    with pytest.raises(TransientError, match=r"127\.0\.0\.1:\d+: Connection refused"):
        said(meta)
    with pytest.raises(TransientError, match=r"name\.invalid:514"):
        said({"network_addr": "name.invalid:514"})


# Daemons

SEND: list[tuple[str, str, dict[str, Any]]] = [
    ("udp", "udp", {}),
    ("tcp", "tcp", {}),
    ("tcp", "tcp", {"framing": "octet-counting"}),
    ("tcp", "tcp", {"confirm": "received"}),
    ("tls", "tls", {}),
    ("tls", "tls", {"framing": "octet-counting"}),
    ("tls", "tls", {"confirm": "received"}),
]


def understood(messages: list[Message], transport: str, host: str) -> None:
    """Check the parts of three messages in the form of RFC 5424."""
    assert [json.loads(m.text)["alias"] for m in messages] == ["a", "ü", "c"]
    for message in messages:
        assert (message.transport, message.pri) == (transport, 134)
        assert message.time.startswith("2025-03-05T14:07:09.120456")
        assert (message.host, message.app) == (host, "tyk")
        assert (message.pid, message.msgid) == (str(os.getpid()), "analytics")
        assert 'path="/p\\"\\\\\\]"' in message.structured
        assert json.loads(message.text)["path"] == '/p"\\]'


NAME = re.compile(r"map\[alias:(n\d+) ")
RFC5424 = {"format": "rfc5424", "log_level": 134, "tag": "tyk", "hostname": "gw-1"} | {
    "structured_data": "tyk@32473"
}


def three() -> list[AnalyticsRecord]:
    """Return records with characters that need escapes."""
    return [record(name, path='/p"\\]') for name in ("a", "ü", "c")]


@pytest.mark.parametrize(("name", "transport", "meta"), SEND)
def test_rsyslog(
    name: str,
    transport: str,
    meta: dict[str, Any],
    rsyslog: Rsyslog,
    authority: Authority,
    tmp_path: Path,
) -> None:
    """It takes the reference's form as it comes, and understands RFC 5424."""
    port: int = getattr(rsyslog, name)
    meta = to(port, transport=transport, ssl_ca_file=str(authority.ca_file), **meta)
    sent(tmp_path, {**meta, **RFC5424}, *three())
    understood(rsyslog.messages(3), transport, "gw-1")
    rsyslog.clear()
    sent(tmp_path, {**meta, "log_level": 6}, record("a"), record("b\nc"))
    found = rsyslog.messages(2)
    assert [message.pri for message in found] == [6, 6]
    assert "map[alias:a api_id" in found[0].raw
    assert r"map[alias:b\nc api_id" in found[1].raw


@pytest.mark.parametrize(
    ("name", "meta"),
    [
        ("udp", {}),
        ("tcp", {}),
        ("octets", {"framing": "octet-counting"}),
        ("tls", {"framing": "octet-counting"}),
        ("tls", {"framing": "octet-counting", "confirm": "received"}),
    ],
)
def test_syslog_ng(
    name: str,
    meta: dict[str, Any],
    syslog_ng: SyslogNg,
    authority: Authority,
    tmp_path: Path,
) -> None:
    """It understands RFC 5424 on every transport."""
    port: int = getattr(syslog_ng, name)
    transport = "tcp" if name == "octets" else name
    meta = to(port, transport=transport, ssl_ca_file=str(authority.ca_file), **meta)
    sent(tmp_path, {**meta, **RFC5424}, *three())
    understood(syslog_ng.messages(3), name, "gw-1")


@pytest.mark.parametrize("transport", ["tcp", "tls"])
def test_a_restart_of_rsyslog_loses_nothing(
    transport: str, rsyslog: Rsyslog, authority: Authority, tmp_path: Path
) -> None:
    """It ends in good order while batches come; what it has not read is sent again."""
    port: int = getattr(rsyslog, transport)
    meta = to(port, transport=transport, ssl_ca_file=str(authority.ca_file))
    pump = opened(tmp_path, "syslog", meta)
    written: list[str] = []
    trouble, back = threading.Event(), threading.Event()

    def write(count: int) -> None:
        names = [f"n{len(written) + number:06}" for number in range(count)]
        while True:
            try:
                pump.write(batch(*map(record, names)))
            except TransientError:
                trouble.set()
                assert back.wait(60)
                continue
            written.extend(names)
            return

    def write_through_the_restart() -> None:
        while not trouble.is_set():
            write(250)
        write(250)

    write(1000)
    writer = threading.Thread(target=write_through_the_restart)
    writer.start()
    try:
        assert rsyslog.process is not None
        rsyslog.process.stop()
        assert trouble.wait(60)
        rsyslog.restart()
    finally:
        back.set()
        writer.join()
        pump.close()
    messages = rsyslog.messages(len(written))
    arrived = {match[1] for m in messages if (match := NAME.search(m.raw))}
    assert arrived == set(written)
