"""What arrives in Elasticsearch is what the reference sent, defects put right."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import msgspec
import pytest

from tests.golden import loader
from tests.golden.deliver import Delivered, deliver
from tests.golden.loader import Case
from tests.golden.run import configuration
from tests.servers.cluster import ClusterServer, Document, refused
from tests.servers.http import Answer, Request, of
from tests.servers.tls import Authority
from tyk_pump.worker import outcome

CASES = {case.name: case for case in loader.cases("elasticsearch")}
NUMBERS = {"3": "2.4.6", "5": "5.6.16", "6": "6.8.23", "7": "7.17.28", "8": "8.15.5"}
FAULT = "bad-type"
"""The configuration names what is wrong; the reference ended the whole process."""
REFUSED = "time-far-future"
"""Year 10000 in zones east of UTC, which JSON cannot express: a dead letter. The
reference dropped it without a word (6, 7) or sent nothing any more (3, 5)."""
LOST = {
    "bad-version": "version 8 ended the process; it is one of ours",
    "v3-zone-far-future": "one record stopped everything",
    "v5-far-future-long": "one record stopped everything",
    "v5-zone-far-future": "one record stopped everything",
    "v7-bulk-slow-timeout": "what was left at the deadline was lost",
    "v7-two-urls-blank": "a blank after the comma made it loop for ever",
}
"""Cases in which the reference lost records: they are to arrive nevertheless."""
TYPES = {"3": "tyk_analytics", "5": "tyk_analytics", "6": "tyk_analytics"}
Script = Callable[[int, Request], Answer | None]


class Placed(NamedTuple):
    """A document and where it is."""

    where: str
    type: str
    line: str


def documents(body: str) -> list[Placed]:
    """Return what a bulk body holds."""
    lines = body.split("\n")
    found = []
    for at in range(0, len(lines) - 1, 2):
        ((_, where),) = json.loads(lines[at]).items()
        found.append(Placed(where["_index"], where.get("_type", ""), lines[at + 1]))
    return found


def captured(name: str) -> list[list[Placed]]:
    """Return the documents of each request of a capture."""
    found = []
    for row in loader.json_lines(CASES[name].expected("jsonl")[""]):
        if row["path"].endswith("/_bulk"):
            found.append(documents(row["body"]))
        elif row["method"] != "HEAD" and row["path"] != "/_nodes/http":
            index, kind, *_ = (unquote(part) for part in row["path"].split("/")[1:])
            typed = "" if kind == "_doc" else kind
            found.append([Placed(index, typed, row["body"])])
    return found


@functools.cache
def truth(corpus: str) -> dict[str, str]:
    """Return the documents of all records by name, with times in UTC."""
    (lines,) = captured(f"v7-{corpus}")
    return {
        name: placed.line
        for name, placed in zip(loader.corpus(corpus), lines, strict=True)
    }


def in_tokyo(line: str) -> str:
    """Return a document as it is shown nine hours east of UTC."""
    stamp = json.loads(line)["@timestamp"]
    moved = datetime.fromisoformat(stamp[:19]) + timedelta(hours=9)
    shown = moved.isoformat() + stamp[19:].replace("Z", "+09:00")
    return line.replace(stamp, shown, 1)


def expected(case: Case) -> list[Placed]:
    """Return the documents that are to arrive, in order."""
    version = meta_of(case).get("version", "")
    if case.name in LOST:
        lines = truth(case.about["corpus"])
        names = [name for name in case.about["names"] if name != REFUSED]
        shown = in_tokyo if case.env["TZ"] == "Asia/Tokyo" else str
        where = "tyk_analytics", TYPES.get(version, "")
        return [Placed(*where, shown(lines[name])) for name in names]
    found = [placed for request in captured(case.name) for placed in request]
    if "repeat" not in case.about:
        found = list(dict.fromkeys(found))  # what was sent again
    if case.name == "v7-mcp-index-no-bulk":
        # mcp_index_name was not followed without bulk.
        found[1] = found[1]._replace(where="mcp_idx")
    if case.name == "v7-edge-protobuf":
        names = [wire.name for _, _, wire in case.pushed()]
        for at, name in enumerate(names):
            if name in ("time-zone-east", "time-zone-west"):
                # Times in zones of unknown names were lost.
                found[at] = found[at]._replace(line=truth("edge")[name])
    return found


def meta_of(case: Case) -> dict[str, Any]:
    """Return the options of a case."""
    (section,) = case.pumps.values()
    return dict(section.get("meta", {}))


def with_meta(case: Case, **options: Any) -> Case:
    """Return the case with other options and all that was pushed in it."""
    (section,) = case.pumps.values()
    section = {**section, "meta": {**meta_of(case), **options}}
    about = {**case.about, "pump": section}
    if "then" in about:
        about["batches"] = [about["names"], about["then"]["names"]]
    return msgspec.structs.replace(case, about=about)


class Run:
    """A case and what the server has seen of it."""

    def __init__(self, server: ClusterServer, delivered: Delivered) -> None:
        self.server = server
        self.delivered = delivered

    @property
    def placed(self) -> list[Placed]:
        """Return what has arrived."""
        return [Placed(d.index, d.type, d.line) for d in self.server.documents]

    @property
    def sent(self) -> list[Request]:
        """Return the requests with documents."""
        return [r for r in self.server.http.requests if r.method in ("PUT", "POST")]

    @property
    def sizes(self) -> list[int]:
        """Return how many documents each bulk request had."""
        return [one.body.count(b"\n") // 2 for one in self.server.bulks]

    @property
    def troubles(self) -> list[str]:
        """Return why attempts failed."""
        answers = self.delivered.end.answers
        return [one.reason for one in answers if isinstance(one, outcome.Trouble)]


Runner = Callable[..., Run]


@pytest.fixture
def run_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, authority: Authority
) -> Any:
    """Deliver a case to a server that answers by a script, and else as they do."""
    servers: list[ClusterServer] = []

    def run(
        case: Case,
        script: Script | None = None,
        attempts: int = 50,
        **options: Any,
    ) -> Run:
        case = with_meta(case, **options)
        number = NUMBERS.get(meta_of(case).get("version", ""), "")
        tls = bool((case.about.get("server") or {}).get("tls"))
        server = ClusterServer(number, authority=authority if tls else None)
        servers.append(server)
        seat = urlsplit(server.url).netloc
        published = {"http": {"publish_address": seat}}
        server.nodes = {
            "n1": {"http_address": seat} if number[:1] == "2" else published
        }
        usual, count = server.http.respond, 0

        def respond(request: Request) -> Answer:
            nonlocal count
            if script is None or request.method not in ("PUT", "POST"):
                return usual(request)
            count += 1
            return script(count, request) or usual(request)

        server.http.respond = respond
        live = {"url": server.url, "authority": seat}
        delivered = deliver(case, live, tmp_path, monkeypatch, attempts=attempts)
        return Run(server, delivered)

    yield run
    for server in servers:
        server.http.close()


def first(answer: Answer, times: int = 1) -> Script:
    """Answer so for a while."""
    return lambda count, request: answer if count <= times else None


def items(*statuses: int) -> Answer:
    """Answer a bulk request with these statuses."""
    made = [
        {"index": {"status": 201} if status == 201 else refused(status)}
        for status in statuses
    ]
    return of({"took": 1, "errors": any(s > 201 for s in statuses), "items": made})


PASSING: dict[str, Script] = {
    "v7-bulk-503-then-ok": first(Answer(503), 2),
    "v7-bulk-drop-then-ok": first(Answer(hang_up=True)),
    "v7-node-dead": first(Answer(hang_up=True), 3),
    # Always so in the capture; here for a while, and then they arrive.
    "v3-bulk-503-always": first(Answer(503), 11),
    "v7-bulk-401-always": first(Answer(401), 12),
    "v7-item-429-always": first(items(429, 429), 12),
    "v7-bulk-answer-not-json": first(Answer(200, b"<html></html>"), 11),
    # `{}` is no answer to a bulk: nothing is known to have arrived.
    "v7-bulk-answer-empty-object": first(of({}), 3),
    "v7-probe-401": first(Answer(401), 14),
}
"""Faults that pass; whatever was sent meanwhile arrives once."""
OWN = {
    FAULT,
    "no-meta",
    "keys-any-case",
    "v7-bulk-413-always",
    "v7-bulk-answer-201",
    "v7-item-400",
    "v5-item-429",
    "v6-item-429",
    "v7-item-429",
    "v7-no-bulk-errors",
    "v3-rolling",
    "v7-rolling",
    "v7-rolling-no-bulk",
    "v7-mcp-index-rolling",
    "v7-probe-401",
}
"""Cases with a test of their own."""


@pytest.mark.parametrize("name", sorted(CASES.keys() - OWN))
def test_elasticsearch_case(name: str, run_case: Runner) -> None:
    """Every document is where the reference put it, byte for byte, and once."""
    case = CASES[name]
    done = run_case(case, PASSING.get(name))
    if name == "v7-workers":
        assert sorted(done.placed) == sorted(expected(case))
    else:
        assert done.placed == expected(case)
    far = REFUSED in case.about.get("names", ()) and case.env["TZ"] == "Asia/Tokyo"
    assert list(done.delivered.refused) == ([REFUSED] if far else [])
    assert bool(done.troubles) == (name in PASSING)
    check_ids(case, done.server.documents)
    check_requests(case, done)


def check_ids(case: Case, found: list[Document]) -> None:
    """Every document has its own id; a generated one is from the content alone."""
    ids = [document.id for document in found]
    assert len(set(ids)) == len(ids)
    generated = meta_of(case).get("generate_id", False)
    # The reference's 8 raw bytes are broken by JSON; ours are plain characters.
    assert all(len(one) == 22 for one in ids) == generated
    assert all(one.startswith("01JZZZ") and ":" in one for one in ids) != generated


def check_requests(case: Case, done: Run) -> None:
    """Headers and addresses are as captured."""
    rows = [
        row
        for row in loader.json_lines(case.expected("jsonl")[""])
        if row["method"] in ("PUT", "POST")
    ]
    if not rows:
        return
    kinds = {row["headers"].get("Content-Type") for row in rows}
    assert {one.headers.get("content-type") for one in done.sent} == kinds
    assert {one.headers["accept"] for one in done.sent} == {"application/json"}
    given = {row["headers"].get("Authorization") for row in rows}
    if case.name == "v7-tls-api-key":
        given = {"ApiKey a2lkOmtzZWNyZXQ="}  # none was sent at all
    assert {one.headers.get("authorization") for one in done.sent} == given
    if rows[0]["path"].endswith("_bulk"):
        assert {one.path for one in done.sent} == {row["path"] for row in rows}


@pytest.mark.parametrize(
    "name", ["v7-bulk-actions", "v7-workers", "v7-default-actions", "v7-edge", "env"]
)
def test_requests_hold_as_many_records_as_captured(name: str, run_case: Runner) -> None:
    """Bounded by count, as the reference bounds them."""
    done = run_case(CASES[name])
    sizes = [len(request) for request in captured(name)]
    assert sorted(done.sizes) == sorted(sizes)


@pytest.mark.parametrize("name", [f"v{n}-bulk-size" for n in (3, 5, 6, 7)])
def test_requests_are_bounded_by_bytes(name: str, run_case: Runner) -> None:
    """No request is longer, where the reference goes one record further."""
    done = run_case(CASES[name])
    assert len(done.sizes) > 3
    assert max(len(one.body) for one in done.server.bulks) <= 4000


def test_bad_type(tmp_path: Path) -> None:
    """A wrong kind of value is the fault of one pump, with its place."""
    (section,) = configuration(CASES[FAULT], tmp_path / "x", {"url": "http://h"}).pumps
    assert "rolling_index" in section.fault


def test_no_meta(tmp_path: Path) -> None:
    """The defaults hold; the reference crashed."""
    (section,) = configuration(CASES["no-meta"], tmp_path / "x").pumps
    assert section.fault == ""
    assert section.options.elasticsearch_url == "http://localhost:9200"


def test_keys_in_any_case(run_case: Runner, tmp_path: Path) -> None:
    """Keys are known in any case. The reference cuts 2.9 to 2; we say what is wrong."""
    case = CASES["keys-any-case"]
    (section,) = configuration(case, tmp_path / "x", {"url": "http://h"}).pumps
    assert section.fault == (
        "pumps.elasticsearch.meta.Bulk_Config.BULK_ACTIONS: expected int, got float"
    )
    done = run_case(case, Bulk_Config={"BULK_ACTIONS": 2.0})
    assert done.placed == expected(case) and done.sizes == [2, 2, 1]


def test_bulk_413_always(run_case: Runner) -> None:
    """What alone is too large is a dead letter; the batch does not grow for ever."""
    case = CASES["v7-bulk-413-always"]
    done = run_case(case, lambda count, request: Answer(413))
    assert list(done.delivered.refused) == case.about["names"]
    assert all("413" in reason for reason in done.delivered.refused.values())
    assert max(done.sizes) == 3


def test_bulk_answer_201(run_case: Runner) -> None:
    """`errors: false` says enough, also without items."""
    answer = of({"took": 1, "errors": False, "items": []}, 201)
    done = run_case(CASES["v7-bulk-answer-201"], lambda count, request: answer)
    assert done.delivered.delivered == 3 and done.troubles == []
    assert [documents(one.body.decode()) for one in done.sent] == captured(
        "v7-bulk-answer-201"
    )


def test_item_400(run_case: Runner) -> None:
    """Refused documents become dead letters; the reference dropped them silently."""
    done = run_case(
        CASES["v7-item-400"], lambda count, request: items(201, 400, 201, 400)
    )
    reason = "mapper_parsing_exception: failed with 400"
    assert done.delivered.refused == {"traffic-1": reason, "traffic-3": reason}
    assert done.delivered.delivered == 2 and len(done.sent) == 1


@pytest.mark.parametrize("name", ["v5-item-429", "v6-item-429", "v7-item-429"])
def test_item_429(name: str, run_case: Runner) -> None:
    """Only the two items are sent again, in every version."""
    done = run_case(CASES[name], first(items(201, 429, 201, 429)))
    requests = [documents(one.body.decode()) for one in done.sent]
    captures = captured("v7-item-429")
    assert [[one.line for one in request] for request in requests] == [
        [one.line for one in request] for request in captures
    ]
    assert done.delivered.delivered == 4 and done.delivered.refused == {}


def test_no_bulk_errors(run_case: Runner) -> None:
    """A 503 is tried again, a 400 is a dead letter; the reference lost both."""
    error = {"type": "mapper_parsing_exception", "reason": "failed to parse"}

    def script(count: int, request: Request) -> Answer | None:
        if count == 2:
            return Answer(503)
        return of({"error": error}, 400) if count == 4 else None

    done = run_case(CASES["v7-no-bulk-errors"], script)
    assert done.delivered.refused == {
        "traffic-2": "400 Bad Request: mapper_parsing_exception: failed to parse"
    }
    right = [placed for request in captured("v7-no-bulk-errors") for placed in request]
    del right[2]
    assert done.placed == right


@pytest.mark.parametrize("name", sorted(one for one in OWN if "rolling" in one))
def test_rolling_index(name: str, run_case: Runner) -> None:
    """The pump's day on request, as captured; else the day of the record."""
    case = CASES[name]
    right = [placed for request in captured(name) for placed in request]
    before = time.strftime("%Y.%m.%d", time.gmtime())
    found = run_case(case, rolling_index_by="pump").placed
    if time.strftime("%Y.%m.%d", time.gmtime()) == before:
        for_today = [
            one._replace(where=one.where.replace("<YYYY.MM.DD>", before))
            for one in right
        ]
        assert found == for_today
    days = {"plain": "2026.03.14", "mcp-tool": "2026.03.14", "time-epoch": "1970.01.01"}
    own = [
        one._replace(where=one.where.replace("<YYYY.MM.DD>", days[record]))
        for one, record in zip(right, case.about["names"], strict=True)
    ]
    assert run_case(case).placed == own


def test_probe_401(run_case: Runner) -> None:
    """Wrong credentials block nobody else: the pump says so and tries again."""
    case = CASES["v7-probe-401"]
    done = run_case(case, PASSING["v7-probe-401"])
    assert all("401 Unauthorized" in reason for reason in done.troubles)
    assert [one.line for one in done.placed] == [truth("edge")["plain"]]


def test_generated_ids_are_of_the_content(run_case: Runner) -> None:
    """The same records have the same ids in another run."""
    case = CASES["v7-generate-id-edge"]
    ids = [
        [document.id for document in run_case(case).server.documents] for _ in range(2)
    ]
    assert ids[0] == ids[1] and len(set(ids[0])) == 116
