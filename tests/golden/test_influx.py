"""The InfluxDB pumps send the lines that the reference sent, their defects put right.

Only the times of points are others on purpose: those of the records.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.golden import loader
from tests.golden.deliver import Delivered, deliver
from tests.golden.loader import Case
from tests.golden.run import configuration
from tests.servers.http import Answer, HttpServer, Request, of
from tests.servers.influx import Point, lines_of, point
from tests.worker.bench import StillClock
from tyk_pump.errors import TransientError
from tyk_pump.record import codec
from tyk_pump.record.line_protocol import FIRST, LAST

CASES = [*loader.cases("influx"), *loader.cases("influx2")]
EDGE = {
    pump: next(c for c in CASES if (c.pump, c.name) == (pump, "edge"))
    for pump in ("influx", "influx2")
}
FAULTS = {
    "bad-type": ("fields", "flush"),
    "no-database": ("database_name",),
    "no-meta": ("address",),
    "no-scheme": ("address",),
    "only-unknown-field": ("fields[0]",),
    "unknown-field": ("fields[1]",),
    "unknown-tag": ("tags[0]",),
}
"""Faults of the configuration, with the option that is named. The reference ends its
process, tries for ever or sends what no server takes."""
NO_FIELDS = ("defaults", "no-fields")
"""The reference sends nothing there, although its documentation has a default."""
NOT_STARTED = (
    "create-bucket-fails-missing",
    "no-bucket",
    "no-org",
    "not-ready",
    "org-401",
    "ready-500-html",
    "ready-no-status",
    "ready-odd",
    "unreachable",
)
"""The reference goes on without its pump; ours asks until it may start."""
REFUSED = ("answer-400", "write-400")
UNAVAILABLE = (
    "answer-503",
    "write-429-retry-after",
    "write-503-no-traffic",
    "write-503-retry",
)
ORGANIZATION = "0badc0ffee000001"


class Recorder:
    """Answers as the back end of the capture did, and keeps what it was asked."""

    def __init__(self, case: Case) -> None:
        self._script: dict[str, Any] = dict(case.about.get("server", {}))
        self.asked: list[Request] = []
        self.points: list[Point] = []
        self.server = HttpServer(self.respond)

    @property
    def writes(self) -> list[Request]:
        """Return the requests with points."""
        return [one for one in self.asked if one.path.endswith("/write")]

    def respond(self, request: Request) -> Answer:
        """Answer by the script, else as a server that has everything."""
        self.asked.append(request)
        path = re.sub(r"^/inf/x", "", request.path)
        if path == "/ready":
            return self._ready(self._script.get("ready", ""))
        if path == "/api/v2/orgs":
            status = self._script.get("GET orgs")
            one = {"id": ORGANIZATION, "name": request.query["org"]}
            return _listed("orgs", status, [one])
        if path == "/api/v2/buckets" and request.method == "GET":
            # The reference does not say whose bucket it asks for.
            assert request.query["orgID"] == ORGANIZATION
            bucket = {"name": request.query["name"], "retentionRules": []}
            return _listed("buckets", self._script.get("GET buckets"), [bucket])
        if path == "/api/v2/buckets":
            status = self._script.get("POST buckets", 201)
            return of(request.json if status == 201 else {}, status)
        return self._write(request)

    def _ready(self, script: str) -> Answer:
        if script.startswith("503"):
            return of({"status": "starting"}, 503)
        if "html" in script:
            return Answer(200, b"<html>", {"Content-Type": "text/html"})
        if "{}" in script:
            return of({})
        status = "warming" if "warming" in script else "ready"
        return of({"status": status, "started": "2026-01-01T00:00:00Z", "up": "1h"})

    def _write(self, request: Request) -> Answer:
        script = self._script.get("every request") or self._script.get("write")
        script = self._script.pop("first write", script)
        if script and not str(script).startswith("204"):
            after = re.search(r"Retry-After: (\d+)", str(script))
            headers = {"Retry-After": after[1]} if after else {}
            return Answer(int(str(script)[:3]), headers=headers)
        unit = 1 if request.query["precision"] == "ns" else 1000
        self.points += [point(line, unit) for line in lines_of(request.body)]
        return Answer(204)


def _listed(key: str, script: Any, found: list[Any]) -> Answer:
    if isinstance(script, int):
        return of({}, script)
    return of({key: [] if script == "none" else found})


def _whole(case: Case) -> Case:
    """Return the case with what was pushed later in it."""
    about = case.about
    if "then" not in about:
        return case
    batches = [about["names"], about["then"]["names"]]
    return msgspec.structs.replace(case, about={**about, "batches": batches})


def _rows(case: Case) -> list[dict[str, Any]]:
    return loader.json_lines(case.expected("jsonl").get("", b""))


def _captured(case: Case) -> list[str]:
    """Return the lines of a case without their times, one for each record."""
    bodies: list[bytes] = []
    for row in _rows(case):
        if not row["path"].partition("?")[0].endswith("/write"):
            continue
        coded = row.get("body_b64")
        body = base64.b64decode(coded) if coded else row["body"].encode()
        if body not in bodies:  # else the reference's second attempt
            bodies.append(body)
    lines = b"".join(bodies).split(b" <now>\n")
    assert lines.pop() == b""
    return [line.decode("utf-8", "surrogateescape") for line in lines]


def _expected(case: Case) -> dict[int, str]:
    """Return by position the line of each record that a point can hold."""
    names = [wire.name for _, _, wire in case.pushed()]
    lines = _captured(case)
    if case.name in NO_FIELDS:
        edge = EDGE[case.pump]
        known = dict(zip(loader.corpus("edge"), _captured(edge), strict=True))
        lines = [_with_all_fields(case, known[name]) for name in names]
    lines = [_repaired(case, name, at) for name, at in zip(names, lines, strict=True)]
    return {
        at: line
        for at, (line, time) in enumerate(zip(lines, _times(case), strict=True))
        if FIRST <= time <= LAST
    }


def _with_all_fields(case: Case, line: str) -> str:
    head, _, fields = re.sub(r"\\ ", "\0", line).partition(" ")
    (section,) = case.pumps.values()
    path = re.search(r",path=[^, ]*", head) if section["meta"]["tags"] else None
    return f"analytics{path[0] if path else ''} {fields}".replace("\0", "\\ ")


def _repaired(case: Case, name: str, line: str) -> str:
    if case.codec == "protobuf" and name.startswith("time-zone"):
        # The reference loses the time of a zone that its host does not know.
        known = dict(
            zip(loader.corpus("edge"), _captured(EDGE[case.pump]), strict=True)
        )
        right = re.search(r'time_stamp="[^"]*"', known[name])
        assert right is not None
        return re.sub(r'time_stamp="[^"]*"', right[0], line)
    return line


def _times(case: Case) -> list[int]:
    """Return the nanoseconds of each record."""
    found = []
    for _, form, wire in case.pushed():
        seconds, rest = codec.decoder(form, ("timestamp",))(
            wire.bytes_in(form) or b""
        ).timestamp
        found.append(seconds * 10**9 + rest)
    return found


@pytest.fixture
def recorder(case: Case) -> Iterator[Recorder]:
    """The back end of the capture."""
    made = Recorder(case)
    yield made
    made.server.close()


def _live(recorder: Recorder) -> Mapping[str, str]:
    return {"url": recorder.server.url, "authority": recorder.server.url[7:]}


def _target(method: str, path: str) -> tuple[str, str, dict[str, str]]:
    """Return what a request is for, without what may differ."""
    request = Request(method, path, {}, b"", ("", 0))
    free = ("precision", "descending", "offset", "orgID")
    query = {k: v for k, v in request.query.items() if v and k not in free}
    return method, request.path, query


def _assert_same_requests(case: Case, recorder: Recorder) -> None:
    """Each request of the capture once, in its order, with its credentials."""
    rows = _rows(case)
    right = [_target(row["method"], row["path"]) for row in rows]
    found = [_target(one.method, one.target) for one in recorder.asked]
    assert list(_each(found)) == list(_each(right))
    for one in recorder.asked:
        assert one.headers.get("authorization") == rows[0]["headers"].get(
            "Authorization"
        )


def _each(found: list[tuple[str, str, dict[str, str]]]) -> Iterator[str]:
    return iter(dict.fromkeys(map(json.dumps, found)))


WRITTEN = [case for case in CASES if case.name not in (*FAULTS, *NOT_STARTED, *REFUSED)]


@pytest.mark.parametrize("case", WRITTEN, ids=lambda c: f"{c.pump}-{c.name}")
def test_influx_case(
    case: Case, recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each line is byte for byte as captured, and arrives; times are the records'."""
    case, clock = _whole(case), StillClock()
    done = _delivered(case, recorder, tmp_path, monkeypatch, clock)
    right = _expected(case)
    assert [p.line.rpartition(" ")[0] for p in recorder.points] == list(right.values())
    times = _times(case)
    for found, at in zip(recorder.points, right, strict=True):
        assert found.time // 10**6 == times[at] // 10**6
    assert len({p.key for p in recorder.points}) == len(recorder.points)
    names = [wire.name for _, _, wire in case.pushed()]
    refused = {name for at, name in enumerate(names) if at not in right}
    assert set(done.refused) == refused
    assert all("1677 to 2262" in reason for reason in done.refused.values())
    if case.name not in (*UNAVAILABLE, *NO_FIELDS):
        _assert_same_requests(case, recorder)
    if case.name == "write-429-retry-after":
        assert clock.monotonic() >= 2


def _delivered(
    case: Case,
    recorder: Recorder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    clock: StillClock | None = None,
) -> Delivered:
    if case.name == "answer-503":
        # It never ends in the capture. Ours waits until it does.
        recorder._script = {"first write": 503}
    return deliver(case, _live(recorder), tmp_path, monkeypatch, clock=clock)


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if case.name in REFUSED],
    ids=lambda c: f"{c.pump}-{c.name}",
)
def test_refused(
    case: Case, recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer of 400 makes dead letters, where the reference says nothing."""
    case = _whole(case)
    done = _delivered(case, recorder, tmp_path, monkeypatch)
    assert set(done.refused) == set(done.names)
    assert set(done.refused.values()) == {"400 Bad Request"}
    first = lines_of(recorder.writes[0].body)
    names = case.about["names"]
    right = _captured(case)[: len(names)]
    assert [line.rpartition(" ")[0] for line in first] == right


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if case.name in FAULTS],
    ids=lambda c: f"{c.pump}-{c.name}",
)
def test_fault(case: Case, recorder: Recorder, tmp_path: Path) -> None:
    """The option is named, the process goes on, and nothing is asked."""
    folder = tmp_path / "out"
    folder.mkdir()
    config = configuration(case, folder, _live(recorder))
    (section,) = config.pumps
    assert any(f".{key}: " in section.fault for key in FAULTS[case.name])
    assert recorder.asked == []


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if case.name in NOT_STARTED],
    ids=lambda c: f"{c.pump}-{c.name}",
)
def test_not_started(
    case: Case, recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The start is tried again with the same questions; nothing is written."""
    with pytest.raises(TransientError) as raised:
        deliver(case, _live(recorder), tmp_path, monkeypatch)
    assert raised.value.reason and "tok-1" not in raised.value.reason
    assert recorder.writes == []
    if case.name != "unreachable":
        _assert_same_requests(case, recorder)


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if case.name in ("edge", "traffic", "zone")],
    ids=lambda c: f"{c.pump}-{c.name}",
)
def test_times_of_the_reference(
    case: Case, recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `point_time` `write` all lines are there, with the clock's time and unit."""
    (section,) = case.pumps.values()
    meta = {**section["meta"], "point_time": "write"}
    about = {**case.about, "pump": {**section, "meta": meta}}
    case = msgspec.structs.replace(case, about=about)
    done = _delivered(case, recorder, tmp_path, monkeypatch)
    assert done.refused == {}
    cut = [p.line.rpartition(" ") for p in recorder.points]
    assert [line for line, _, _ in cut] == [
        _repaired(case, wire.name, line)
        for (_, _, wire), line in zip(case.pushed(), _captured(case), strict=True)
    ]
    digits = {"influx": 19, "influx2": 16}[case.pump]
    assert {len(time) for _, _, time in cut} == {digits}


def test_a_new_bucket_is_made_as_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As captured, but for the type of a rule, which the reference leaves empty."""
    case = next(c for c in CASES if c.name == "create-bucket")
    recorder = Recorder(case)
    try:
        deliver(case, _live(recorder), tmp_path, monkeypatch)
    finally:
        recorder.server.close()
    (made,) = [r.json for r in recorder.asked if r.path.endswith("/buckets")]
    right = json.loads(next(r["body"] for r in _rows(case) if r["method"] == "POST"))
    right["retentionRules"][1]["type"] = "expire"
    assert made == right
