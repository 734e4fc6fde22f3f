"""The splunk pump sends the events that the reference sent, its defects put right."""

from __future__ import annotations

import calendar
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.golden import loader, repair
from tests.golden.deliver import Delivered, deliver
from tests.golden.loader import Case, Wire
from tests.golden.run import configuration
from tests.servers.http import Answer, HttpServer, Request
from tests.servers.splunk import says
from tests.servers.tls import Authority
from tyk_pump.record import codec
from tyk_pump.record.analytics import ALL
from tyk_pump.worker import outcome

CASES = {case.name: case for case in loader.cases("splunk")}
FAULTS = {
    "bad-type": {"pumps.splunk.meta.enable_batch: expected bool, got str"},
    "no-meta": {
        "pumps.splunk.meta.collector_url: missing",
        "pumps.splunk.meta.collector_token: missing",
    },
    "no-token": {"pumps.splunk.meta.collector_token: missing"},
    "no-url": {"pumps.splunk.meta.collector_url: missing"},
}
"""Cases in which the pump is not started, and what is said of it."""
NEVER = {"answer-201", "answer-503-retries-exhausted", "refused-retries"}
"""Cases whose back end takes nothing: the records stay with us."""
LOST = {
    "answer-400",
    "answer-400-batched",
    "answer-403-retries",
    "answer-503-no-retries",
    "answer-dropped-retries",
    "batch-limit-oversize-first",
    "timeout",
    "zone-far-future",
    "zone-far-future-batched",
}
"""Cases in which the reference lost records behind the first trouble: ours arrive."""
REFUSED = {
    "answer-400": {"traffic-2": "400 Bad Request: scripted"},
    "zone-far-future": {"time-far-future": "the year 10000 of a time"},
    "zone-far-future-batched": {"time-far-future": "the year 10000 of a time"},
}
"""Records that cannot arrive: dead letters that say why."""
SPLIT = {"batch-limit", "batch-limit-oversize-later", "batch-size-without-batch"}
"""Cases that show how events are divided into requests."""


class Sink:
    """Answers as in the capture and keeps what it has taken."""

    def __init__(self, case: Case, authority: Authority) -> None:
        about = case.about.get("server") or {}
        self.taken: list[Request] = []
        self._always = about.get("every request", 200)
        self._script: dict[int, Any] = {}
        for which, what in about.items():
            if match := re.fullmatch(r"request ([\d,]+)", which):
                numbers = map(int, match[1].split(","))
                self._script |= dict.fromkeys(numbers, what)
        self.http = HttpServer(
            self._answer, authority=authority if about.get("tls") else None
        )

    def _answer(self, request: Request) -> Answer:
        what = self._script.get(len(self.http.requests), self._always)
        if what == "connection closed without an answer":
            return Answer(hang_up=True)
        if not request.body:
            return says(5)
        if isinstance(what, int) and what != 200:
            return Answer(what, b"scripted")
        self.taken.append(request)
        return says(0)  # at once, where the capture was slow


Run = Callable[[Case], tuple[Sink, Delivered]]


@pytest.fixture
def run(
    request: pytest.FixtureRequest,
    authority: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    """Deliver a case to a back end that answers as in the capture."""

    def run_case(case: Case) -> tuple[Sink, Delivered]:
        sink = Sink(case, authority)
        request.addfinalizer(sink.http.close)
        live = {"url": sink.http.url}
        attempts = 3 if case.name in NEVER else 50
        return sink, deliver(case, live, tmp_path, monkeypatch, attempts=attempts)

    return run_case


def captured(case: Case) -> list[dict[str, Any]]:
    """Return the requests of the reference that were taken and had events."""
    rows = loader.json_lines(case.expected("jsonl")[""])
    return [row for row in rows if row["body"] and row.get("answered", 200) == 200]


def events(bodies: list[str]) -> list[str]:
    """Return the events of bodies, each as it stands there."""
    found, decoder = [], json.JSONDecoder()
    for body in bodies:
        at = 0
        while at < len(body):
            _, end = decoder.raw_decode(body, at)
            found.append(body[at:end])
            at = end
    return found


def of_reference(case: Case) -> list[str]:
    """Return the reference's events."""
    return events([row["body"] for row in captured(case)])


def whole(case: Case, names: list[str]) -> list[str]:
    """Return the events of these records from the case that has all of the corpus."""
    other = CASES[case.about["corpus"]]
    all_names = (wire.name for _, _, wire in other.pushed())
    known = dict(zip(all_names, of_reference(other), strict=True))
    zone = case.env["TZ"]
    return [known[n] if zone == "UTC" else in_tokyo(known[n]) for n in names]


def in_tokyo(event: str) -> str:
    """Return an event with the time of another zone."""

    def moved(found: re.Match[str]) -> str:
        seconds = calendar.timegm(time.strptime(found[1], "%Y-%m-%dT%H:%M:%S"))
        shown = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds + 9 * 3600))
        return f'"time_stamp":"{shown}{found[2]}+09:00"'

    return re.sub(r'"time_stamp":"([^.Z"]+)([.\d]*)Z"', moved, event)


def with_right_tags(case: Case) -> list[str]:
    """Return the events of a case with ignored prefixes, by what is said of these."""
    meta = case.about["pump"]["meta"]
    ignored = [prefix for prefix in meta["ignore_tag_prefix_list"] if prefix]
    made = []
    for _, _, wire in case.pushed():
        record = decoded(wire)
        tags = record.tags
        if tags is not None:
            tags = [tag for tag in tags if not tag.startswith(tuple(ignored))]
        event = {key: tags if key == "tags" else record.path for key in meta["fields"]}
        content = {"time": record.timestamp[0], "event": dict(sorted(event.items()))}
        made.append(json.dumps(content, separators=(",", ":"), ensure_ascii=False))
    return made


def decoded(wire: Wire) -> Any:
    """Return a record of the corpus."""
    assert wire.msgpack is not None
    return codec.decoder("msgpack", ALL)(wire.msgpack)


def without_losses(case: Case) -> list[str]:
    """Return events of the protobuf form with the city names and times it loses."""
    made = []
    for event, (_, _, wire) in zip(of_reference(case), case.pushed(), strict=True):
        right = repair.json_line(case, event.encode(), wire).decode()
        if wire.name in repair.UNKNOWN_ZONES:
            record = decoded(wire)
            right = right.replace(
                '"time":-62135596800', f'"time":{record.timestamp[0]}'
            )
            shown = repair.shown()[wire.name]["timestamp"]
            right = right.replace('"0001-01-01T00:00:00Z"', f'"{shown}"')
        made.append(right)
    return made


def right(case: Case, output: Delivered) -> list[str]:
    """Return the events that have to arrive."""
    if case.name in NEVER:
        return []
    if case.name in LOST:
        return whole(case, [n for n in output.names if n not in output.refused])
    if case.name.startswith("ignore-tags") and case.name != "ignore-tags-no-fields":
        return with_right_tags(case)
    if case.codec == "protobuf":
        return without_losses(case)
    found = of_reference(case)
    if case.name == "obfuscate-long":
        # The reference shows a key that has no more characters than may be read.
        return [event.replace("key.with$dots and spaces", "****") for event in found]
    return found


@pytest.mark.parametrize(
    "case",
    [case for name, case in CASES.items() if name not in FAULTS],
    ids=lambda case: case.name,
)
def test_splunk_case(case: Case, run: Run) -> None:
    """Events arrive byte for byte as captured, once, in order."""
    sink, output = run(case)
    bodies = [request.body.decode() for request in sink.taken]
    assert events(bodies) == right(case, output)
    refused = REFUSED.get(case.name, {})
    assert set(output.refused) == set(refused)
    for name, reason in refused.items():
        assert output.refused[name].startswith(reason)
    rows = captured(case)
    if case.name in SPLIT:
        assert bodies == [row["body"] for row in rows]
    for request in sink.http.requests:
        assert request.method == "POST"
        # The path of url-query, and nearly always the usual one.
        assert request.target in {row["path"] for row in rows} or not rows
        token = "tok-env" if case.name == "env" else "tok-1"
        assert request.headers["authorization"] == f"Splunk {token}"
        assert not {"content-type", "content-encoding"} & set(request.headers)


@pytest.mark.parametrize("name", sorted(NEVER))
def test_what_is_not_taken_stays_with_us(name: str, run: Run) -> None:
    """The reference loses it after its attempts; ours goes on until it is told."""
    _, output = run(CASES[name])
    assert output.end.outcomes == []
    troubles = [a for a in output.end.answers if isinstance(a, outcome.Trouble)]
    assert len(troubles) == 3


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_a_wrong_configuration_is_named(name: str, tmp_path: Path) -> None:
    """The pump is not started and says which option is at fault."""
    config = configuration(CASES[name], tmp_path, {"url": "http://127.0.0.1:1"})
    assert set(config.every_fault()) == FAULTS[name]


def test_every_case_runs() -> None:
    """None of the archive is left out."""
    assert len(CASES) == 47
