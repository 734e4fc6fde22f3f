"""The syslog pump writes the messages that the reference wrote, none forged."""

from __future__ import annotations

import base64
import os
import re
import socket
from pathlib import Path

import pytest

from tests.golden import loader
from tests.golden.deliver import Delivered, deliver
from tests.golden.loader import Case
from tests.servers.receiver import TcpReceiver, UdpReceiver, keeping_up

CASES = loader.cases("syslog")
NOT_RUN: dict[str, str] = {}
"""Case -> why it is left out."""

HEAD = re.compile(rb"(<\d+>)(\S+) (\S+) (.*?)\[(\d+)\]: (map\[.*)", re.DOTALL)
TIME = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d)")
CONTROL = {b"\n": b"\\n", b"\r": b"\\r", b"\t": b"\\t"}


def messages(case: Case) -> list[bytes]:
    """Return the captured messages, with the control characters of fields escaped."""
    if streams := case.expected("stream"):
        # A line feed within a field splits a message in two, there and here.
        parts = re.split(rb"\n(?=<\d+><time>|\Z)", streams[""])[:-1]
        return [_escaped(part) + b"\n" for part in parts]
    rows = loader.json_lines(case.expected("jsonl")[""])
    found = [
        row["data"].encode() if "data" in row else base64.b64decode(row["data_b64"])
        for row in rows
    ]
    if case.name == "udp-edge-protobuf":
        # The zone's name is unknown, the instant is not: the reference sends year 1.
        found = [_in_utc(message) for message in found]
    return [_escaped(message[:-1]) + b"\n" for message in found]


def _escaped(message: bytes) -> bytes:
    front, middle, rest = re.split(
        rb"( raw_request:.* request_time_ms:)", message, flags=re.DOTALL
    )
    return _visible(front) + middle + _visible(rest)


def _visible(text: bytes) -> bytes:
    return re.sub(
        rb"[\x00-\x1f\x7f]",
        lambda found: CONTROL.get(found[0]) or b"\\x%02x" % found[0][0],
        text,
    )


def _in_utc(message: bytes) -> bytes:
    edge = next(case for case in CASES if case.name == "udp-edge")
    lost = b" timestamp:0001-01-01 00:00:00 +0000 UTC"
    if lost not in message or b"api_id: " in message:
        return message
    name = re.search(rb"ip_address:\S+", message)
    assert name is not None
    (twin,) = [m for m in messages(edge) if name[0] + b" " in m]
    right = re.search(rb" timestamp:.*? UTC", twin)
    assert right is not None
    return message.replace(lost, right[0])


def run(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Delivered, list[bytes]]:
    """Return what the worker said, and the messages as they came."""
    if case.expected("stream"):
        with TcpReceiver() as tcp:
            live = {"host": "127.0.0.1", "port": str(tcp.port)}
            done = deliver(case, live, tmp_path, monkeypatch)
        return done, [line + b"\n" for line in tcp.received.split(b"\n")[:-1]]
    with UdpReceiver() as udp, keeping_up(udp):
        live = {"host": "127.0.0.1", "port": str(udp.port)}
        done = deliver(case, live, tmp_path, monkeypatch)
    return done, udp.datagrams


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_syslog_case(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each message is byte for byte as captured; what forges messages is escaped."""
    if case.name in NOT_RUN:
        pytest.skip(NOT_RUN[case.name])
    done, found = run(case, tmp_path, monkeypatch)
    # The reference loses what does not fit a datagram; here it is a dead letter.
    lost = set(case.about.get("defect_records", ())) & {"large-raw"}
    assert set(done.refused) == lost
    for reason in done.refused.values():
        assert reason.startswith("too large for a datagram: ")
    host, pid = socket.gethostname().encode(), b"%d" % os.getpid()
    zone = case.about["observed"].get("header_time", ["T..Z"])[0].removeprefix("T..")
    shown = []
    for message in found:
        head = HEAD.fullmatch(message)
        assert head is not None, message
        time = TIME.fullmatch(head[2])
        assert time is not None
        if "Berlin" not in case.env["TZ"] and "New_York" not in case.env["TZ"]:
            # Elsewhere the offset depends on the day of the capture.
            assert time[1].decode() == zone
        assert (head[3], head[5]) == (host, pid)
        shown.append(b"%b<time> <hostname> %b[<pid>]: %b" % (head[1], head[4], head[6]))
    assert shown == messages(case)
