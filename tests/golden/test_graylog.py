"""The graylog pump sends the messages that the reference sent, compressed anew."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.golden import loader, repair
from tests.golden.deliver import deliver
from tests.golden.loader import Case
from tests.servers.receiver import UdpReceiver, keeping_up

CASES = loader.cases("graylog")
NOT_RUN: dict[str, str] = {}
"""Case -> why it is left out."""


@pytest.fixture
def receiver() -> Iterator[UdpReceiver]:
    """Takes what is sent."""
    with UdpReceiver() as made:
        yield made


def aimed(case: Case, receiver: UdpReceiver) -> tuple[Case, dict[str, str]]:
    """Return the case with the receiver's port as a number, and what is filled in."""
    pump = case.about["pump"]
    meta = dict(pump["meta"])
    if meta["port"] == "{port}":
        meta["port"] = receiver.port
    about = {**case.about, "pump": {**pump, "meta": meta}}
    live = {"host": "127.0.0.1", "port": str(receiver.port)}
    return msgspec.structs.replace(case, about=about), live


def assembled(datagrams: list[bytes]) -> list[bytes]:
    """Return the messages, by the rules of GELF's chunks."""
    messages: list[bytes] = []
    parts: list[bytes] = []
    for datagram in datagrams:
        if datagram[:2] != b"\x1e\x0f":
            assert parts == [] and len(datagram) <= 1420
            messages.append(datagram)
            continue
        number, count = datagram[10], datagram[11]
        assert number == len(parts) and 1 < count <= 128
        assert len(datagram) == 1432 or number == count - 1
        if parts:
            assert parts[-1][:10] == datagram[:10]
        parts.append(datagram)
        if len(parts) == count:
            messages.append(b"".join(part[12:] for part in parts))
            parts = []
    assert parts == []
    return messages


def expected(case: Case) -> dict[str, dict[str, Any]]:
    """Return what is known of each text, by the name of the record."""
    rows = loader.json_lines(case.expected("decoded.jsonl")[""])
    names = [wire.name for _, _, wire in case.pushed()]
    found = dict(zip(names, rows, strict=True))
    if case.name == "edge-protobuf":
        # The zone's name is unknown, the instant is not: the reference sends year 1.
        edge = next(other for other in CASES if other.name == "edge")
        found["time-zone-east"] = expected(edge)["time-zone-east"]
    if case.name == "unknown-tags":
        # Documented, and without effect in the reference.
        for name, row in found.items():
            row["text"] = _tracked(name, row["text"])
    if case.name == "chunked-over-128":
        # GELF's limit is 128 chunks: the reference sends more, a server drops them.
        assert found.pop("text-260k")["datagrams"] == 140
    return found


def _tracked(name: str, text: str) -> str:
    outer = json.loads(text)
    inner = json.loads(outer["message"])
    inner["tracked"] = repair.shown()[name]["track_path"]
    outer["message"] = json.dumps(inner, separators=(",", ":"), ensure_ascii=False)
    return json.dumps(outer, separators=(",", ":"), ensure_ascii=False)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_graylog_case(
    case: Case,
    receiver: UdpReceiver,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each message is byte for byte the reference's before its compression."""
    if case.name in NOT_RUN:
        pytest.skip(NOT_RUN[case.name])
    with keeping_up(receiver):
        done = deliver(*aimed(case, receiver), tmp_path, monkeypatch)
    wanted = expected(case)
    dead = set(case.about.get("defect_records", ())) & {"text-260k"}
    assert set(done.refused) == dead
    texts = [zlib.decompress(data) for data in assembled(receiver.datagrams)]
    assert len(texts) == len(wanted) == done.delivered
    for text, (name, row) in zip(texts, wanted.items(), strict=True):
        if "text" in row:
            assert text.decode() == row["text"], name
        else:
            assert len(text.decode()) == row["text_length"], name
            assert hashlib.sha256(text).hexdigest() == row["text_sha256"], name


def test_a_body_that_is_no_base64_goes_out_as_it_is(
    receiver: UdpReceiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record that the capture leaves out: it ends the reference's process."""
    edge = next(case for case in CASES if case.name == "edge")
    about = {**edge.about, "names": ["raw-not-base64", "plain"], "exclude": []}
    case = Case("graylog", "raw-not-base64", about, {})
    assert deliver(*aimed(case, receiver), tmp_path, monkeypatch).delivered == 2
    texts = [json.loads(zlib.decompress(data)) for data in receiver.take(2)]
    message = json.loads(texts[0]["message"])
    assert message["raw_request"] == "not base64!!"
    assert message["raw_response"] == "also not base64 %%%"
