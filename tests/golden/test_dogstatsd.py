"""The dogstatsd pump sends the messages that the reference sent."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from pathlib import Path

import pytest

from tests.golden import loader
from tests.golden.deliver import deliver
from tests.golden.loader import Case
from tests.golden.run import configuration
from tests.servers.receiver import (
    DatagramReceiver,
    UdpReceiver,
    UnixReceiver,
    keeping_up,
)
from tyk_pump.pumps.dogstatsd import MESSAGES, TAGS
from tyk_pump.transport.packets import UDP_SIZE, UNIX_SIZE

CASES = loader.cases("dogstatsd")
NOT_RUN: dict[str, str] = {}
"""Case -> why it is left out."""
FAULTS = {
    "unknown-tag": "pumps.dogstatsd.meta.tags: undefined tag 'host', there are ",
    "sample-rate-negative": "pumps.dogstatsd.meta.sample_rate: ",
}
"""Cases whose configuration is said to be wrong, and what is said of it."""


@pytest.fixture
def udp() -> Iterator[UdpReceiver]:
    """Takes datagrams."""
    with UdpReceiver() as made:
        yield made


@pytest.fixture
def unix(tmp_path: Path) -> Iterator[UnixReceiver]:
    """Takes datagrams on a unix socket."""
    with UnixReceiver(tmp_path / "dsd.sock") as made:
        yield made


def captured(case: Case) -> list[bytes]:
    """Return the datagrams of the capture."""
    rows = loader.json_lines(case.expected("jsonl")[""])
    return [
        row["data"].encode() if "data" in row else base64.b64decode(row["data_b64"])
        for row in rows
    ]


def messages(datagrams: list[bytes]) -> list[bytes]:
    """Return the messages of datagrams."""
    return [line for data in datagrams for line in data.split(b"\n")]


def expected(case: Case) -> list[bytes]:
    """Return the right messages."""
    found = messages(captured(case))
    if case.name == "telemetry":
        # The library's counters of itself are not sent.
        found = [line for line in found if b".datadog.dogstatsd.client." not in line]
    if case.name == "dd-env-service-version-entity":
        # The order is random there.
        tags = [b"env:prod", b"service:svc", b"version:1.2"]
        found = [line.replace(b",".join(tags) + b",", b"") for line in found]
        found = [line.replace(b"ent-1", b",".join([b"ent-1", *tags])) for line in found]
    return [_repaired(line) for line in found]


def _repaired(line: bytes) -> bytes:
    """Return a line whose values do not end a tag, and whose number is exact."""
    line = line.replace(b":9007199254740992|", b":9007199254740993|")
    head, mark, tags = line.partition(b"|#tyk-pump")
    parts = tags.replace(b"|", b"_").split(b",")
    made = parts[0]
    for part in parts[1:]:
        known = part.partition(b":")[0].decode("utf-8", "replace") in TAGS
        made += (b"," if known else b"_") + part
    return head + mark + made


def dropped(case: Case) -> int:
    """Return how many messages the reference drops for their size, and we do not."""
    if case.name == "uds" or case.about["corpus"] == "traffic":
        return 0
    if case.name in ("size-limit", "size-limit-buffered"):
        return len(case.pushed()) - len(messages(captured(case)))
    return len(case.about.get("defect_records", ()))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_dogstatsd_case(
    case: Case,
    udp: UdpReceiver,
    unix: UnixReceiver,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each message is byte for byte the reference's, in its order."""
    if case.name in NOT_RUN:
        pytest.skip(NOT_RUN[case.name])
    live = {"host": "127.0.0.1", "port": str(udp.port), "uds": str(unix.path)}
    if case.name in FAULTS:
        _assert_fault(case, live, tmp_path)
        return
    on_unix = "{uds}" in case.about["pump"]["meta"].get("address", "")
    receiver: DatagramReceiver = unix if on_unix else udp
    # A unix socket waits for its reader by itself.
    waiting: AbstractContextManager[None] = nullcontext()
    if not on_unix:
        waiting = keeping_up(udp)
    with waiting:
        done = deliver(case, live, tmp_path, monkeypatch)
    if on_unix:
        assert unix.lines
    assert done.refused == {} and done.delivered == len(case.pushed())
    found, wanted = messages(receiver.datagrams), expected(case)
    if case.about["compare"] == "subset":
        assert set(found) <= set(wanted)
        return
    long = [line for line in found if len(line) > UDP_SIZE]
    if (extra := dropped(case)) and not on_unix:
        assert len(long) == extra
        found = [line for line in found if len(line) <= UDP_SIZE]
    assert found == wanted
    assert_packed(receiver.datagrams, case, UNIX_SIZE if on_unix else UDP_SIZE)


def assert_packed(datagrams: list[bytes], case: Case, size: int) -> None:
    """See that datagrams are as full as they may be, as the capture's are if asked."""
    meta = case.about["pump"]["meta"]
    if meta.get("buffered") and not dropped(case) and case.name != "odd-values":
        assert [data.count(b"\n") for data in datagrams] == [
            data.count(b"\n") for data in captured(case)
        ]
    most = meta.get("buffered_max_messages") or MESSAGES
    for data, after in pairwise(datagrams):
        first = after.partition(b"\n")[0]
        full = len(data) + 1 + len(first) > size
        assert full or data.count(b"\n") + 1 == most or "batches" in case.about
        assert len(data) <= size or b"\n" not in data


def _assert_fault(case: Case, live: Mapping[str, str], tmp_path: Path) -> None:
    config = configuration(case, tmp_path / "out", live)
    (fault,) = config.every_fault()
    assert fault.startswith(FAULTS[case.name])
