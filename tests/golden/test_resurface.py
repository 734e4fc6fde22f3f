"""The Resurface pump tells what the reference told, its defects put right."""

from __future__ import annotations

import json
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.golden import loader
from tests.golden.deliver import Delivered, deliver
from tests.golden.loader import Case
from tests.golden.run import configuration
from tests.servers.http import Answer
from tests.servers.resurface import Capture, Message
from tests.servers.tls import Authority
from tyk_pump.pumps.resurface import drawn
from tyk_pump.record import codec
from tyk_pump.worker.outcome import Trouble

CASES = loader.cases("resurface")
BY_NAME = {case.name: case for case in CASES}
FAULTS = {
    "bad-rule": "pumps.resurfaceio.meta.rules: line 2: unknown rule: nonsense rule",
    "bad-type": "pumps.resurfaceio.meta.queue: expected array, got str",
    "default-rules-http": "pumps.resurfaceio.meta.capture_url: must begin with https://"
    " unless the rules say allow_http_url",
    "no-meta": "pumps.resurfaceio.meta.capture_url: missing",
    "no-url": "pumps.resurfaceio.meta.capture_url: missing",
}
"""Faults of the configuration; without meta the reference crashes."""
NOT_CONFIRMED = {
    "answer-200": "204 was expected",
    "answer-500": "500 Internal Server Error",
}
"""The reference loses these records, ours go on trying."""
SILENT = ("disable-env", "skip-submission")
NOTHING_RAW = {"zero-value", "zero-value-with-org-api", "raw-empty"}
"""Dropped with a warning by the reference too."""
STOPPED = {
    "rule-stop": {
        "base",
        "path-empty-raw",
        "no-slash",
        "host-empty",
        "method-empty",
        "xff",
        "dup-headers",
        "encoded-path",
        "zero-request-time",
        "gzip-resp",
        "unknown-encoding",
        "chunked",
        "trailers",
        "status-from-raw",
        "oauth",
        "no-fields",
    },
    "rule-stop-bare": {"method-POST"},
}
"""What the rules keep back."""
ABOUT_PLAIN = ("disable-pumping", "queue-empty-list", "queue-list")
WITHOUT_BODIES = ("own-default-rules", "own-include-default", "own-strict")
WITHOUT_URL = ("many-rules-include-both", "own-include-default", "own-strict")
FIELDS = {
    "custom_field:tyk-api-id": "b84fe1a04e5648927971c0557971565c",
    "custom_field:tyk-api-key": (
        "5e9d9544a1dcd60001d0ed20a1b2c3d4e5f60718293a4b5c6d7e8f90"
    ),
    "custom_field:tyk-api-name": "orders",
    "custom_field:tyk-api-version": "non versioned",
    "custom_field:tyk-org-id": "5e9d9544a1dcd60001d0ed20",
    "host": "pump-1",
}
UNREADABLE = {
    "raw-not-base64": ("20", "203.0.113.20", "25"),
    "large-raw": ("19", "203.0.113.19", "24"),
    "raw-binary": ("21", "203.0.113.21", "26"),
}
"""Records whose raw texts are no HTTP: the reference drops one and crashes of the
others; these are numbers of their paths, addresses and intervals."""

Pairs = Counter[tuple[str, str]]


def _pairs(message: Message) -> Pairs:
    return Counter((name, value) for name, value in message)


def _told(case: Case) -> list[Pairs]:
    """Return the messages of a capture."""
    rows = loader.json_lines(case.expected("jsonl")[""])
    lines = [line for row in rows for line in row["body"].split("\n") if line]
    return [_pairs(json.loads(line)) for line in lines]


def _names(case: Case) -> list[str]:
    names = [wire.name for _, _, wire in case.pushed()]
    return [*names, *case.about.get("then", {}).get("names", [])]


def _instants(case: Case) -> dict[str, str]:
    """Return the milliseconds of each record: the reference cuts them to seconds."""
    found = {}
    for _, form, wire in _whole(case).pushed():
        record = codec.decoder(form, ("timestamp",))(wire.bytes_in(form) or b"")
        seconds, nanoseconds = record.timestamp
        found[wire.name] = str(seconds * 1000 + nanoseconds // 1_000_000)
    return found


def _whole(case: Case) -> Case:
    """Return the case with what was pushed later in it."""
    about = dict(case.about)
    if "then" in about:
        about["batches"] = [about["names"], about["then"]["names"]]
    return msgspec.structs.replace(case, about=about)


def _by_name(case: Case) -> dict[str, Pairs]:
    """Return the captured messages by the record's name."""
    dropped = NOTHING_RAW | STOPPED.get(case.name, set()) | {"raw-not-base64"}
    names = [name for name in _names(case) if name not in dropped]
    return dict(zip(names, _told(case), strict=True))


def _replace(pairs: Pairs, name: str, value: str) -> None:
    for pair in [pair for pair in pairs if pair[0] == name]:
        del pairs[pair]
    pairs[name, value] = 1


def _from_fields(name: str, instant: str) -> Pairs:
    """Return what is known of a record whose raw texts say nothing."""
    path, address, interval = UNREADABLE[name]
    return Counter(
        {
            ("request_method", "GET"): 1,
            ("request_url", f"http://api.example.com/orders/{path}"): 1,
            ("response_code", "200"): 1,
            ("request_header:x-forwarded-for", address): 1,
            ("now", instant): 1,
            ("interval", interval): 1,
            **dict.fromkeys(FIELDS.items(), 1),
        }
    )


def _captured(case: Case) -> dict[str, Pairs]:
    """Return what the reference told, or would have told without its crashes."""
    if case.name.startswith("crash-"):
        found = _by_name(BY_NAME["edge"])
        if case.name == "crash-only-response":
            found["only-response"] = Counter(
                {
                    pair: count
                    for pair, count in found["plain"].items()
                    if not pair[0].startswith("request_header:")
                }
            )
            found["only-response"]["request_header:x-forwarded-for", "203.0.113.1"] = 1
        if case.name == "crash-no-status":
            found["no-status"] = Counter(
                {
                    pair: count
                    for pair, count in found["plain"].items()
                    if not pair[0].startswith("response_")
                }
            )
            found["no-status"]["response_code", "0"] = 1
        return found
    if case.name in ABOUT_PLAIN:
        return _by_name(BY_NAME["edge"])
    if case.name in ("last-tick-300", "rule-sample-1"):
        return _by_name(BY_NAME["traffic"])
    return _by_name(case)


def _right(case: Case) -> dict[str, Pairs]:
    """Return the right messages by the record's name, in the order of the records."""
    captured, instants = _captured(case), _instants(case)
    kept_back = NOTHING_RAW | STOPPED.get(case.name, set())
    right: dict[str, Pairs] = {}
    for name in _names(case):
        if name in kept_back:
            continue
        if name in UNREADABLE:
            right[name] = _from_fields(name, instants[name])
            continue
        pairs = Counter(captured[name])
        _replace(pairs, "now", instants[name])
        if name == "dup-headers":
            _replace(pairs, "request_header:x-colon", "a: b: c")
            pairs["request_header:x-nospace", "v"] = 1
        if name == "no-headers" and case.name not in WITHOUT_BODIES:
            pairs["request_body", "lost body"] = 1
        if case.name in WITHOUT_URL:
            strict = _by_name(BY_NAME["own-default-rules"])
            known = strict[name if name in strict else "base"]
            pairs.update({pair: 1 for pair in known if pair[0] == "request_url"})
        if ("host", "<hostname>") in pairs:
            _replace(pairs, "host", socket.gethostname())
        right[name] = pairs
    return right


def _deliver(
    case: Case, server: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Delivered:
    live = {"url": server.http.url}
    return deliver(_whole(case), live, tmp_path, monkeypatch, attempts=3)


def _path(case: Case) -> str:
    rows = loader.json_lines(case.expected("jsonl")[""])
    return rows[0]["path"] if rows else "/message"


@pytest.fixture
def server(request: pytest.FixtureRequest, authority: Authority) -> Any:
    """The endpoint of a case."""
    case: Case = request.getfixturevalue("case")
    tls = case.about.get("server", {}).get("tls")
    with Capture(path=_path(case), authority=authority if tls else None) as made:
        yield made


@pytest.mark.parametrize(
    "case", [c for c in CASES if c.name not in FAULTS], ids=lambda case: case.name
)
def test_resurface_case(
    case: Case,
    server: Capture,
    authority: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each message has the details of the capture, its defects put right."""
    if status := case.about.get("server", {}).get("every request"):
        server.before = lambda request: Answer(status)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SSL_CERT_FILE", str(authority.ca_file))
        done = _deliver(case, server, tmp_path, monkeypatch)
    if case.name in NOT_CONFIRMED:
        assert done.end.outcomes == []
        reasons = [one.reason for one in done.end.answers if isinstance(one, Trouble)]
        assert len(reasons) == 3
        assert all(NOT_CONFIRMED[case.name] in reason for reason in reasons)
        return
    assert done.refused == {}
    assert done.settled == len(_names(case))
    if case.name in SILENT:
        assert server.http.requests == []
        assert "nothing is sent" in done.messages
        return
    right = list(_right(case).values())
    if case.name == "rule-sample-1":
        chosen = [
            number
            for number in range(100)
            if drawn(f"01JZZZZZZZZZZZZZZZZZZZZZZZ:{number}") < 50
        ]
        right = [right[number] for number in chosen]
    assert [_pairs(message) for message in server.messages] == right
    assert any("detailed recording" in line for line in done.messages) == bool(
        NOTHING_RAW & set(_names(case))
    )
    _check_requests(case, server)


def _check_requests(case: Case, server: Capture) -> None:
    rows = loader.json_lines(case.expected("jsonl")[""])
    for request in server.http.requests:
        for row in rows[:1]:
            encoding = row["headers"].get("Content-Encoding")
            assert request.headers.get("content-encoding") == encoding
            assert request.headers["content-type"] == row["headers"]["Content-Type"]
            assert request.path == row["path"]
        assert request.body.endswith(b"]\n")
    if size := case.env.get("USAGE_LOGGERS_BUNDLE_SIZE"):
        # The reference adds the message that finds the bundle full.
        assert all(len(one.body) <= int(size) for one in server.http.requests)
        assert len(server.http.requests) == 3


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_fault_of_the_configuration(name: str, tmp_path: Path) -> None:
    """The pump says what is wrong and where; the process lives on."""
    folder = tmp_path / "out"
    folder.mkdir()
    config = configuration(BY_NAME[name], folder, {"url": "http://127.0.0.1:9"})
    (section,) = config.pumps
    assert section.fault == FAULTS[name]
    assert config.faults == []


def test_every_case_is_run() -> None:
    """No case of the archive is forgotten."""
    assert len(CASES) == 42
    assert set(FAULTS) | set(NOT_CONFIRMED) | set(SILENT) <= set(BY_NAME)
