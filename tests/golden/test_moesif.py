"""The moesif pump sends what the reference sent, its defects put right.

How events are split into requests is free. A body that is not masked goes out as it
came; the reference writes JSON objects anew, and so does the comparison.
"""

from __future__ import annotations

import base64
import functools
import json
import uuid
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
from tests.servers.moesif import ETAG
from tests.servers.tls import Authority
from tyk_pump.pumps import moesif
from tyk_pump.record import json as record_json

CASES = {case.name: case for case in loader.cases("moesif")}
NOT_RUN: dict[str, str] = {}
"""Case -> why it is left out."""
FAULTY = {"bad-type": "meta.user_id_header", "no-meta": "meta.application_id"}
"""Cases whose pump is refused -> the option at fault; the reference ends all of it."""
RIGHT = {
    "auth-field-case": "the claim is looked up as it is written",
    "claim-number": "a number is a claim",
    "masks": "masks hold in any case and within arrays",
    "raw-decoded": "what is no base64 is taken as it is",
    "raw-not-base64": "what is no base64 is taken as it is",
    "sampling-0": "nothing is sent",
    "sampling-50": "half is sent",
    "sampling-user-company": "a weight is at least 1",
    "time-far-future": "one record is refused, the others arrive",
}
"""Cases with another right value, asserted in a test of their own."""


class Back:
    """The recording back end of a case."""

    def __init__(self, case: Case, server: HttpServer) -> None:
        self.about: dict[str, Any] = case.about.get("server") or {}
        self.failures = 2 if self.about.get("POST") == 500 else 0
        self.http = server
        server.respond = self.respond

    def respond(self, request: Request) -> Answer:
        """Answer as in the capture; a back end that fails recovers in the end."""
        if request.method == "GET":
            return self._config()
        if self.failures:
            self.failures -= 1
            return Answer(500)
        tag = self.about.get("batch etag")
        return of({}, 201, headers={ETAG: tag} if tag else {})

    def _config(self) -> Answer:
        said = self.about.get("GET /v1/config", {"sample_rate": 100})
        if said == 500:
            return Answer(500, b"broken")
        if said == "200, not JSON":
            return Answer(200, b"no JSON")
        tag = self.about.get("config etag")
        return of(said, headers={ETAG: tag} if tag else {})

    @property
    def posted(self) -> list[Request]:
        """Return the batches that were taken."""
        found = [one for one in self.http.requests if one.method == "POST"]
        return found[2 if self.about.get("POST") == 500 else 0 :]

    @property
    def events(self) -> list[Any]:
        """Return the events, in the reference's form."""
        return [in_its_form(event) for one in self.posted for event in one.json]


@pytest.fixture
def server(authority: Authority) -> Iterator[HttpServer]:
    """A plain server that can also be the end of a tunnel."""
    with HttpServer() as made:
        made.authority = authority
        yield made


def in_its_form(event: Any) -> Any:
    """Return one of our events as the reference would write it."""
    assert uuid.UUID(event.pop("transaction_id")).version == 5
    assert list(event)[:3] == ["request", "response", "session_token"]
    for part in (event["request"], event["response"]):
        if part["body"]:
            part["body"] = _anew(part["body"])
    return event


def _anew(text: str) -> str:
    body = base64.b64decode(text)

    def double(number: str) -> msgspec.Raw:
        return msgspec.Raw(record_json.go_float(float(number)).encode())

    try:
        value = json.loads(body, parse_float=double, parse_int=double)
    except ValueError:
        return text
    if not isinstance(value, dict) and value is not None:
        return text
    return base64.b64encode(record_json.compact(value)).decode()


def sent(case: Case) -> list[Any]:
    """Return the events that the reference sent in a case."""
    lines = loader.json_lines(case.files["expected.jsonl"])
    bodies = [json.loads(one["body"]) for one in lines if one["method"] == "POST"]
    return [event for body in bodies for event in body]


@functools.cache
def known() -> Mapping[str, Any]:
    """Return name of a record -> what the reference sends for it by default."""
    found: dict[str, Any] = {}
    for name in ("edge", "traffic", "own-auth"):
        case = CASES[name]
        names = [wire.name for _, _, wire in case.pushed()]
        found.update(zip(names, sent(case), strict=True))
    return found


def names_of(case: Case) -> list[str]:
    """Return the records of a case, in order."""
    return [wire.name for _, _, wire in case.pushed()]


def prepared(case: Case, authority: Authority) -> Case:
    """Return the case with our authority, and the later batch as one of its own."""
    about = {**case.about}
    if (about.get("server") or {}).get("https_proxy"):
        section = about["pump"]
        meta = {**section["meta"], "ssl_ca_file": str(authority.ca_file)}
        about["pump"] = {**section, "meta": meta}
    if "then" in about:
        later = about["then"]["names"]
        about["batches"] = [about["names"], later]
        about["names"] = [*about["names"], *later]
    return msgspec.structs.replace(case, about=about)


def run(
    case: Case,
    server: HttpServer,
    authority: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[Back, Delivered]:
    """Deliver a case."""
    back = Back(case, server)
    for name in ("no_proxy", "NO_PROXY", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    if back.about.get("https_proxy"):
        monkeypatch.setenv("HTTPS_PROXY", server.url)
    live = {"url": server.url}
    done = deliver(prepared(case, authority), live, tmp_path, monkeypatch)
    return back, done


ORDINARY = [case for name, case in CASES.items() if name not in {*FAULTY, *RIGHT}]


@pytest.mark.parametrize("case", ORDINARY, ids=lambda case: case.name)
def test_moesif_case(
    case: Case,
    server: HttpServer,
    authority: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All records arrive, in order, each event as captured.

    What the reference loses (at the stop, in a short queue, after an error) is
    compared with its capture of the same record in another case.
    """
    if case.name in NOT_RUN:
        pytest.skip(NOT_RUN[case.name])
    if "then" in case.about:
        times = iter([0.0, 1.0, 64.0, 64.0, 64.0])
        monkeypatch.setattr(moesif, "monotonic", lambda: next(times))
    back, done = run(case, server, authority, tmp_path, monkeypatch)
    names = names_of(prepared(case, authority))
    captured = sent(case)
    assert done.refused == {} and done.settled == len(names)
    if case.about["corpus"] == "traffic" or not captured:
        assert back.events == [known()[name] for name in names]
        assert all(event in back.events for event in captured)
    else:
        assert _without_chance(back.events) == _in_time(_without_chance(captured))
    _check_requests(case, back)


def _without_chance(events: list[Any]) -> list[Any]:
    """Leave out the header of which the reference keeps a random spelling."""
    for event in events:
        event["request"]["headers"].pop("x-secret", None)
    return events


def _in_time(events: list[Any]) -> list[Any]:
    """Put back the time that is lost where a record names a zone that nobody knows."""
    for event in events:
        if event["request"]["time"].startswith("0001-") and event["request"]["verb"]:
            right = known()["time-zone-east"]
            for part in ("request", "response"):
                event[part]["time"] = right[part]["time"]
    return events


def _check_requests(case: Case, back: Back) -> None:
    """Headers, targets and the order of the requests are as captured."""
    lines = loader.json_lines(case.files["expected.jsonl"])
    requests = back.http.requests
    bulk = case.about["pump"]["meta"].get("bulk_config", {})
    most = int(bulk.get("batch_size", 200))
    assert all(len(one.json) <= most for one in back.posted)
    assert requests[0].method == "GET"
    gets = sum(line["method"] == "GET" for line in lines) or 1
    assert sum(one.method == "GET" for one in requests) == gets
    for line in lines:
        one = next(one for one in requests if one.method == line["method"])
        # The reference doubles the slash at the end of an address.
        assert one.path == line["path"].replace("//", "/")
        assert one.authority == line.get("authority", "")
        wanted = {key.lower(): value for key, value in line["headers"].items()}
        wanted.pop("user-agent", None)
        assert wanted.items() <= one.headers.items()


@pytest.mark.parametrize("name", FAULTY)
def test_a_pump_that_is_refused(name: str, tmp_path: Path) -> None:
    """The configuration names the option; the reference ended the process."""
    folder = tmp_path / "out"
    folder.mkdir()
    config = configuration(CASES[name], folder, {"url": "http://127.0.0.1:1"})
    assert config.faults == []
    (section,) = config.pumps
    assert FAULTY[name] in section.fault


def test_a_claim_in_its_own_case(
    server: HttpServer,
    authority: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`userId` is found; the reference looked for `userid` only."""
    case = CASES["auth-field-case"]
    back, _ = run(case, server, authority, tmp_path, monkeypatch)
    right = sent(case)
    assert [event["user_id"] for event in right] == ["u7", ""]
    right[0]["user_id"] = "U7"
    assert back.events == right


def test_a_claim_that_is_a_number(
    server: HttpServer,
    authority: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is taken as its digits; the reference panicked."""
    case = CASES["claim-number"]
    back, done = run(case, server, authority, tmp_path, monkeypatch)
    assert sent(case) == [] and done.settled == 2
    users = [event["user_id"] for event in back.events]
    assert users == ["mobile-app", "5"]


def test_masks(
    server: HttpServer,
    authority: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing that should be masked is clear."""
    case = CASES["masks"]
    back, _ = run(case, server, authority, tmp_path, monkeypatch)
    right = dict(zip(names_of(case), sent(case), strict=True))
    right["body-json-object"]["response"]["headers"]["set-cookie"] = "*****"
    right["headers-odd"]["request"]["headers"]["x-secret"] = "*****"
    clear, masked = b'[{"secret":"kept"}]', b'[{"secret":"*****"}]'
    for name in ("body-json-object", "body-json-array"):
        request = right[name]["request"]
        body = base64.b64decode(request["body"])
        assert clear in body
        request["body"] = base64.b64encode(body.replace(clear, masked)).decode()
    assert back.events == list(right.values())
    raw = b"".join(
        base64.b64decode(event["request"]["body"] or "")
        for one in back.posted
        for event in one.json
    )
    # The number stays what it was.
    assert b'"big":12345678901234567890' in raw and b'"n":1.0' in raw


@pytest.mark.parametrize("name", ["raw-decoded", "raw-not-base64"])
def test_text_that_is_no_base64(
    name: str,
    server: HttpServer,
    authority: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is read as it is; the reference ended the process."""
    case = CASES[name]
    back, done = run(case, server, authority, tmp_path, monkeypatch)
    assert sent(case) == [] and done.refused == {}
    events = dict(zip(names_of(case), back.events, strict=True))
    odd = events.pop("raw-not-base64", None)
    assert events == {name: known()[name] for name in events}
    if name == "raw-not-base64":
        assert odd["request"]["headers"] == {} and odd["request"]["body"] is None
        assert odd["request"]["uri"].startswith("/orders/")


def test_rate_0(
    server: HttpServer,
    authority: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is sent, and all is settled; the reference sent about 1 %."""
    case = CASES["sampling-0"]
    back, done = run(case, server, authority, tmp_path, monkeypatch)
    assert back.posted == [] and done.settled == len(names_of(case))


def test_rate_50(
    server: HttpServer,
    authority: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """About a half is sent, with the weight 2, else as ever."""
    case = CASES["sampling-50"]
    back, done = run(case, server, authority, tmp_path, monkeypatch)
    names = names_of(case)
    assert done.settled == len(names) == 60
    weighed = [{**known()[name], "weight": 2} for name in names]
    assert 20 <= len(back.events) <= 40
    assert [event for event in weighed if event in back.events] == back.events
    assert all(event in weighed for event in sent(case))


def test_weights_above_100(
    server: HttpServer,
    authority: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A rate of 120 has weight 1; the reference sent 0. A rate of 99 leaves out 1 %."""
    case = CASES["sampling-user-company"]
    back, _ = run(case, server, authority, tmp_path, monkeypatch)
    right = sent(case)
    assert [event["weight"] for event in right] == [0, 1, 1]
    right[0]["weight"] = 1
    assert back.events == right


def test_a_year_that_json_does_not_know(
    server: HttpServer,
    authority: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One record is refused; the reference lost the batch without a word."""
    case = CASES["time-far-future"]
    back, done = run(case, server, authority, tmp_path, monkeypatch)
    assert back.events == [known()["plain"], known()["unicode"]]
    assert list(done.refused) == ["time-far-future"]
    assert "year" in done.refused["time-far-future"]
