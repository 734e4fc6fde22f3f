"""The segment pump sends the calls that the reference sent, and those it lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.golden import loader
from tests.golden.deliver import STREAM, deliver
from tests.golden.loader import Case
from tests.golden.run import configuration
from tests.servers.http import Answer, HttpServer, Request, of
from tests.servers.tls import Authority
from tyk_pump.pumps.segment import EVENT_BYTES, KEYLESS

CASES = loader.cases("segment")
FAULTS = {"bad-type": "segment_write_key", "no-meta": "segment_write_key: missing"}
KEYLESS_NAMES = {"zero-value", "zero-value-with-org-api", "no-key"}
LOST = {"last-tick", "stop-before-flush"}
"""The reference sends nothing at the stop: ours had sent it before."""


def _captured(case: Case) -> list[dict[str, Any]]:
    rows = loader.json_lines(case.expected("jsonl")[""])
    events: dict[str, dict[str, Any]] = {}
    for row in rows:
        body = json.loads(row["body"], parse_float=str, parse_int=str)
        for event in body["batch"]:
            # Attempts repeat a batch.
            events[json.dumps(event["properties"])] = event
    return list(events.values())


def _big(properties: dict[str, Any]) -> bool:
    """Whether a whole number was beyond what a double holds."""
    numbers = [properties["content_length"], *properties["latency"].values()]
    return any(len(number) > 15 for number in numbers)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_segment_case(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, authority: Authority
) -> None:
    """Properties are byte for byte as captured; keyless calls arrive too."""
    (tmp_path / "out").mkdir()
    if case.name in FAULTS:
        config = configuration(case, tmp_path / "out")
        assert any(f"meta.{FAULTS[case.name]}" in f for f in config.every_fault())
        return
    script = case.about.get("server", {})
    failing = script.get("every request") or script.get("requests 1,2")
    # A 400 is about the event; the reference tries it again and again.
    answers = [] if failing in (None, 400) else [Answer(failing)] * 9
    alone = Answer(400, b'{"success":false,"message":"malformed JSON"}')

    def respond(request: Request) -> Answer:
        if failing == 400:
            return alone
        return answers.pop(0) if answers else of({"success": True})

    with HttpServer(respond, authority=authority, plain=True) as proxy:
        monkeypatch.setenv("https_proxy", proxy.url)
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca_file))
        done = deliver(case, {}, tmp_path, monkeypatch)
        asked = list(proxy.requests)
    assert {request.authority for request in asked} == {"api.segment.io:443"}
    row = next(iter(loader.json_lines(case.expected("jsonl")[""])), None)
    for request in asked:
        assert (request.method, request.target) == ("POST", "/v1/batch")
        if row is not None:
            wanted = row["headers"]["Authorization"]
            assert request.headers["authorization"] == wanted
    if case.name == "answer-400":
        assert done.refused == {"plain": done.refused["plain"]}
        assert "malformed JSON" in done.refused["plain"] and len(asked) == 1
        return
    if failing == 500:
        assert len(asked) == 10
        asked = asked[-1:]
    sent = [event for request in asked for event in _events(request)]
    assert [e["messageId"] for e in sent] == [
        f"{STREAM}:{position}"
        for position, name in enumerate(done.names)
        if name not in done.refused
    ]
    known = [event for event in sent if event["anonymousId"] != KEYLESS]
    keyless = {name for name in done.names if name in KEYLESS_NAMES}
    assert len(sent) - len(known) == len(keyless)
    if case.name in LOST:
        assert len(sent) == len(done.names) > 0
        return
    captured = _captured(case)
    if case.name == "edge":
        # More than Segment takes: the reference's capture had a server without limits.
        assert all(reason.startswith("too large") for reason in done.refused.values())
        captured = [event for event in captured if len(json.dumps(event)) < EVENT_BYTES]
    elif case.name == "zone-far-future":
        assert list(done.refused) == ["time-far-future"]
    else:
        assert done.refused == {}
    assert len(known) == len(captured)
    for ours, theirs in zip(known, captured, strict=True):
        if _big(ours["properties"]):
            # Whole numbers pass through a double there.
            assert _rounded(ours["properties"]) == _rounded(theirs["properties"])
        elif case.codec != "protobuf":
            assert list(ours["properties"]) == list(theirs["properties"])
            assert ours["properties"] == theirs["properties"]
        for key in ("anonymousId", "event", "type"):
            assert ours[key] == theirs[key]
        assert ours["timestamp"] == ours["properties"]["timestamp"]


def _rounded(properties: dict[str, Any]) -> Any:
    def through_double(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: through_double(item) for key, item in value.items()}
        if isinstance(value, str) and value.lstrip("-").isdigit() and len(value) > 15:
            return float(value)
        return value

    return through_double(properties)


def _events(request: Request) -> list[dict[str, Any]]:
    body = json.loads(request.body, parse_float=str, parse_int=str)
    assert list(body) == ["context", "batch", "messageId", "sentAt"]
    events: list[dict[str, Any]] = body["batch"]
    return events
