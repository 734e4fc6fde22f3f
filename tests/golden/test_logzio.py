"""The logzio pump sends the lines that the reference sent, and those it lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.golden import loader
from tests.golden.deliver import deliver
from tests.golden.loader import Case
from tests.golden.run import configuration
from tests.servers.http import Answer, HttpServer, Request

CASES = loader.cases("logzio")
FAULTS = {
    "bad-drain": "drain_duration",
    "bad-threshold": "disk_threshold",
    "bad-type": "disk_threshold",
    "no-meta": "token: missing",
    "no-token": "token: missing",
}
"""Configurations that the pump does not start with: the option that is named."""
LOST = {
    "answer-dropped": "the second attempt was empty and taken for delivered",
    "answer-413": "every attempt but the first was empty",
    "answer-500": "every attempt but the first was empty",
    "last-tick": "nothing was sent at the stop",
    "stop-before-drain": "nothing was sent at the stop",
    "over-3mib": "the line at the boundary of two bodies was dropped",
    "zone-far-future": "the records after the one that JSON cannot express were lost",
}
"""Cases in which the reference lost records: ours sends them all."""


def _lines(text: str) -> list[str]:
    assert text == "" or text.endswith("\n")
    return text.splitlines()


def _captured(case: Case) -> list[str]:
    """Return the lines of the first delivery of each body."""
    rows = loader.json_lines(case.expected("jsonl")[""])
    return [line for row in rows for line in _lines(row["body"])]


def _respond(case: Case) -> HttpServer:
    script = case.about.get("server", {})
    failing = script.get("every request") or script.get("requests 1,2")
    answers: list[Answer] = []
    if failing == "connection closed":
        answers = [Answer(hang_up=True)] * 2
    elif failing is not None:
        # For ever too large means that each is a dead letter in the end.
        answers = [Answer(failing)] * (1 if failing == 413 else 3)

    def respond(request: Request) -> Answer:
        return answers.pop(0) if answers else Answer()

    return HttpServer(respond)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_logzio_case(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each line is byte for byte as captured, and each arrives."""
    if case.name in FAULTS:
        live = {"url": "http://127.0.0.1:1"}
        (tmp_path / "out").mkdir()
        config = configuration(case, tmp_path / "out", live)
        (fault,) = config.every_fault()
        assert f"meta.{FAULTS[case.name]}" in fault
        return
    with _respond(case) as server:
        done = deliver(case, {"url": server.url}, tmp_path, monkeypatch)
        asked = server.requests
    taken = asked[-1:] if "answer" in case.name else asked
    lines = [line for request in taken for line in _lines(request.body.decode())]
    if case.name == "answer-413":
        lines = [line for r in asked[1:] for line in _lines(r.body.decode())]
    captured = _captured(case)
    if case.name in LOST:
        assert set(captured) <= set(lines)
        assert len(lines) == len(done.names) - len(done.refused) > 0
    elif case.name == "edge-protobuf":
        # A zone that the reference does not know costs it the time.
        zero = '"@timestamp":"0001-01-01T00:00:00Z"'
        right = '"@timestamp":"2026-03-14T09:26:53.589793238Z"'
        assert lines == [line.replace(zero, right) for line in captured]
    else:
        assert lines == captured
    if case.name == "zone-far-future":
        assert list(done.refused) == ["time-far-future"]
    else:
        assert done.refused == {}
    row = loader.json_lines(case.expected("jsonl")[""] or b"{}")[0]
    for request in asked:
        assert len(request.body) <= 3 * 1024 * 1024
        assert request.headers["content-type"] == "text/plain"
        if case.name == "url-path":
            # The reference put "/?token=" behind the query.
            assert request.target == "/in?x=1&token=tok-1"
        elif case.name == "url-slash":
            # The reference doubled the slash.
            assert request.target == "/?token=tok-1"
        elif row:
            assert request.target == row["path"]
    assert not any("tok-1" in message for message in done.messages)


def test_edge_lines_are_json() -> None:
    """The captured lines are what a listener takes: one object each."""
    case = next(case for case in CASES if case.name == "edge")
    assert all(isinstance(json.loads(line), dict) for line in _captured(case))
