"""The Mongo aggregate pumps store what the reference did, its defects put right.

Documents are compared field by field, with their BSON
types. Where the reference has booked records of several hours in one, both sides are
summed up over all hours first.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import bson
import pytest
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.datetime_ms import DatetimeMS
from bson.int64 import Int64

from tests.golden import loader
from tests.golden.deliver import Delivered, deliver
from tests.golden.loader import Case
from tests.servers.mongo import MongoServer
from tests.servers.mongowire import Answer, Command, MongoWire, failed
from tyk_pump.aggregate.keys import bson_key

PUMPS = ("mongo-pump-aggregate", "mongo-mcp-aggregate")
CASES = {f"{case.pump}/{case.name}": case for p in PUMPS for case in loader.cases(p)}
DATABASE: Final = "tyk_analytics"

LOST: Final = {
    # The reference's write was refused, or it died: ours is asserted below.
    "mongo-pump-aggregate/edge-rejected-dollar-tag": 3,
    "mongo-pump-aggregate/edge-rejected-empty-path": 3,
    "mongo-pump-aggregate/network-crash": 1,
    "mongo-pump-aggregate/track-all-paths-nul": 2,
    "mongo-mcp-aggregate/rejected-dollar-name": 1,
    "mongo-mcp-aggregate/self-healing": 1,
}
"""Cases of which nothing is stored there -> hits that ours has."""
HELD: Final = {"mongo-pump-aggregate/self-healing-off": 5}
"""Cases in which the records wait until the document can take them."""
TWICE: Final = {
    "mongo-pump-aggregate/self-healing-step-two": 6,
    "mongo-pump-aggregate/self-healing-mixed": 4,
    "mongo-pump-aggregate/self-healing-until-1": 5,
}
"""Cases in which the reference counts records twice, or loses some."""
HEEDED: Final = {"mongo-mcp-aggregate/ignored-options"}
"""Cases whose options have an effect here."""
Counters = dict[tuple[str, ...], dict[str, Any]]
Owner = tuple[str, str, str, int | None]
"""Collection, organisation, API, and the begin where it is compared."""

TYPES: Final = {
    **dict.fromkeys(("hits", "success", "errortotal"), int),
    **dict.fromkeys(("requesttime", "totalrequesttime"), float),
    **dict.fromkeys(("latency", "upstreamlatency"), float),
    **dict.fromkeys(("identifier", "humanidentifier"), str),
    **dict.fromkeys(("maxlatency", "minlatency", "totallatency"), Int64),
    **dict.fromkeys(("maxupstreamlatency", "minupstreamlatency"), Int64),
    **dict.fromkeys(("totalupstreamlatency", "bytesin", "bytesout"), Int64),
    **dict.fromkeys(("openconnections", "closedconnections"), Int64),
    "lasttime": DatetimeMS,
    "errormap": dict,
    "errorlist": list,
}
NETWORK: Final = ("openconnections", "closedconnections", "bytesin", "bytesout")
MINIMA: Final = ("minlatency", "minupstreamlatency")
OWN: Final = ("methods", "primitives", "names")
LISTED: Final = (
    *("apiid", "errors", "versions", "apikeys", "oauthids", "geo", "tags"),
    *("endpoints", "apiendpoints"),
)


class Faults:
    """Answers some commands as the capture did."""

    def __init__(self, case: Case) -> None:
        self._left = [dict(fault) for fault in case.about.get("faults", ())]
        self.seen: list[Command] = []

    def __call__(self, command: Command) -> Answer | None:
        # Of our commands those that change what a document counts or derives.
        update = json.dumps(command.plain["body"].get("update", {}))
        if '"total.' not in update:
            return None
        self.seen.append(command)
        for fault in self._left:
            if fault.get("skip", 0):
                fault["skip"] -= 1
            elif fault["times"]:
                fault["times"] -= 1
                return failed(fault["code"], fault["name"], message=fault["msg"])
        return None


class Run:
    """Delivers a case to a server that counts, and fails on demand."""

    def __init__(self, deliver: Callable[..., Delivered]) -> None:
        self._deliver = deliver
        self.wire: MongoWire

    def __call__(self, case: Case) -> Delivered:
        with MongoWire(Faults(case)) as self.wire:
            live = {"host": "127.0.0.1", "port": str(self.wire.port)}
            return self._deliver(case, live)

    @property
    def stored(self) -> list[dict[str, Any]]:
        """Return all documents with counts, each with its collection."""
        return stored(self.wire)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Deliver cases to a server that counts."""
    return Run(lambda case, live: deliver(case, live, tmp_path, monkeypatch))


def stored(server: MongoWire | MongoServer) -> list[dict[str, Any]]:
    """Return all documents of a server that count, each with its collection."""
    codec: CodecOptions[dict[str, Any]] = CodecOptions(
        datetime_conversion=DatetimeConversion.DATETIME_MS
    )
    if isinstance(server, MongoServer):
        with server.client() as client:
            database = client[DATABASE]
            found = {
                name: list(database.get_collection(name, codec).find())
                for name in database.list_collection_names()
            }
    else:
        found = {
            name: [bson.decode(bson.encode(one), codec) for one in documents]
            for name, documents in server.databases.get(DATABASE, {}).items()
        }
    return [
        {"collection": name, "document": document}
        for name, documents in found.items()
        for document in documents
        if "total" in document
    ]


def of_the_reference(case: Case) -> list[dict[str, Any]]:
    """Return the documents of the reference."""
    data = case.expected("documents.jsonl").get("", b"")
    rows = [json.loads(line, object_hook=parsed) for line in data.splitlines()]
    return [row for row in rows if "total" in row["document"]]


def parsed(value: dict[str, Any]) -> Any:
    """Return the value of an object of extended JSON."""
    if "<bytes>" in value:
        return replaced(b64decode(value["<bytes>"]).decode("utf-8", "surrogateescape"))
    if "$numberInt" in value:
        return int(value["$numberInt"])
    if "$numberLong" in value:
        return Int64(value["$numberLong"])
    if "$numberDouble" in value:
        return float(value["$numberDouble"])
    if "$date" in value:
        return DatetimeMS(int(value["$date"]))
    made: dict[str, Any] = {}
    for name, item in value.items():
        # Names with odd bytes: the server's answer had others than were sent.
        known = made.get(replaced(name))
        made[replaced(name)] = {**known, **item} if isinstance(known, dict) else item
    return made


def replaced(text: str) -> str:
    """Return a text with U+FFFD for each byte that is no UTF-8."""
    return "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)


def counters(document: dict[str, Any]) -> Counters:
    """Return the counters of a document by dimension and key, escapes undone."""
    found: Counters = {("total",): document["total"]}
    for dimension, keys in document.items():
        if dimension in (*LISTED, *OWN, "keyendpoints", "oauthendpoints"):
            for path, counter in nested(keys):
                found[(dimension, path)] = counter
    return found


def nested(keys: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield counters by key; dots in a key have nested the reference's."""
    for name, value in keys.items():
        if not isinstance(value, dict) or name == "errormap":
            continue
        if isinstance(value.get("hits"), int):
            yield path + bson_key(name), value
        yield from nested(value, f"{path}{bson_key(name)}.")


def owners(
    rows: list[dict[str, Any]], *, by_time: bool, by_org: bool
) -> dict[Owner, Counters]:
    """Return the counters of the documents of each owner, summed up."""
    found: dict[Owner, Counters] = {}
    for row in rows:
        document = row["document"]
        start = int(document["timestamp"]) if by_time else None
        org = document["orgid"] if by_org else ""
        owner = (
            (row["collection"] if by_org else ""),
            org,
            document.get("owner_apiid", ""),
            start,
        )
        kept = found.setdefault(owner, {})
        for place, counter in counters(document).items():
            kept[place] = summed(kept[place], counter) if place in kept else counter
    return found


def summed(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return what two counters of the same place have counted, without averages."""
    made: dict[str, Any] = {}
    for name in one.keys() | other.keys():
        a, b = one.get(name), other.get(name)
        if a is None or b is None:
            made[name] = b if a is None else a
        elif name == "errormap":
            made[name] = {code: a.get(code, 0) + b.get(code, 0) for code in a | b}
        elif name.startswith("max") or name == "lasttime":
            made[name] = max(a, b)
        elif name in MINIMA:
            made[name] = min(a, b)
        elif name in (*NETWORK, "hits", "success", "errortotal") or "total" in name:
            made[name] = a + b
        elif name.endswith("identifier"):
            made[name] = b
    return made


def differing(
    case: Case, place: tuple[str, ...], ours: dict[str, Any], theirs: dict[str, Any]
) -> Iterator[str]:
    """Yield the names of what is not as it is in the reference."""
    for name in ("hits", "success", "errortotal", "identifier"):
        if ours[name] != theirs[name]:
            yield name
    for name in ("maxlatency", "maxupstreamlatency"):
        if ours[name] != theirs[name]:
            yield name
    if ours.get("errormap", {}) != theirs.get("errormap", {}):
        yield "errormap"
    if ours["totalrequesttime"] != pytest.approx(theirs["totalrequesttime"]):
        yield "totalrequesttime"
    for name in ("totallatency", "totalupstreamlatency"):
        # The reference's wrap around (13.27); modulo 2**64 they are right, ours stay
        # at the end.
        if ours[name] != theirs[name] and abs(ours[name]) < 2**63 - 1:
            yield name
    if ours["hits"] == 1 and ours["humanidentifier"] != theirs["humanidentifier"]:
        yield "humanidentifier"
    # Counters that a network report makes have the zero time there; a counter's is
    # that of the first hit of a purge (13.7).
    if ours["lasttime"] < theirs["lasttime"]:
        yield "lasttime"
    # Minima of errors and network reports (13.5).
    quiet = not any(int(ours.get(name) or 0) for name in NETWORK)
    if ours["hits"] and ours["success"] == ours["hits"] and quiet:
        for name in MINIMA:
            if ours.get(name) != theirs.get(name):
                yield name
    # The next purge overwrites them there (13.4).
    if len(case.purges()) == 1 and place[0] not in OWN:
        for name in NETWORK:
            if ours[name] != theirs[name]:
                yield name


def one_window(case: Case) -> bool:
    """Say whether the reference's buckets are right, too."""
    meta = case.pumps[case.pump]["meta"]
    windows = "aggregation_time" in meta or meta.get("store_analytics_per_minute")
    return "unknown-zone" not in case.name and (
        case.name.endswith("hourly") or (not windows and not case.about["defects"])
    )


@pytest.mark.parametrize(
    "name", [n for n in CASES if n not in {*LOST, *HELD, *TWICE, *HEEDED}]
)
def test_documents(name: str, run: Run) -> None:
    """The counters are the reference's, each in its document."""
    case = CASES[name]
    delivered = run(case)
    assert delivered.refused == {}
    rows, expected = run.stored, of_the_reference(case)
    check_whole(rows)
    by_time = one_window(case) and len(rows) == len(expected)
    assert by_time or not case.name.endswith("hourly")
    by_org = "same API id in two orgs" not in str(case.about["defects"])
    ours = owners(rows, by_time=by_time, by_org=by_org)
    theirs = owners(expected, by_time=by_time, by_org=by_org)
    assert {o: set(places) for o, places in ours.items()} == {
        o: set(places) for o, places in theirs.items()
    }
    wrong = [
        (owner, place, field, counter.get(field), theirs[owner][place].get(field))
        for owner, places in ours.items()
        for place, counter in places.items()
        for field in differing(case, place, counter, theirs[owner][place])
    ]
    assert wrong == []
    if by_time and by_org:
        assert tops(rows) == tops(expected)


def tops(rows: list[dict[str, Any]]) -> list[Any]:
    """Return what a document says of itself, but for what may be later here."""
    return sorted(
        (
            row["collection"],
            row["document"]["orgid"],
            int(row["document"]["timestamp"]),
            sorted(row["document"]["timeid"].items()),
            sorted(row["document"]["lists"]),
            sorted(row["document"].keys() - {"_tyk_pump"}),
        )
        for row in rows
    )


def check_whole(rows: list[dict[str, Any]]) -> None:
    """See that counters have all fields, types and averages, lists their elements."""
    for row in rows:
        document = row["document"]
        about = document["_tyk_pump"]
        assert about["version"] == about["averaged"]
        for place, counter in counters(document).items():
            check_counter(place, counter)
        wanted = LISTED if "mcp" not in row["collection"] else (*LISTED, *OWN)
        for dimension in wanted:
            listed = document["lists"][dimension]
            kept = [c for p, c in counters(document).items() if p[0] == dimension]
            assert len(listed) == len(kept)
            for element, counter in zip(listed, kept, strict=True):
                assert {n: element[n] for n in counter} == counter
                assert element.keys() == TYPES.keys()
                check_types(element)
        for dimension in ("keyendpoints", "oauthendpoints"):
            keys = document.get(dimension, {})
            assert document["lists"].get(dimension, {}).keys() == keys.keys()
            for key, inner in keys.items():
                assert len(document["lists"][dimension][key]) == len(inner)


def check_counter(place: tuple[str, ...], counter: dict[str, Any]) -> None:
    """See that a counter is whole."""
    check_types(counter)
    hits = counter["hits"]
    for average, total in (
        ("requesttime", "totalrequesttime"),
        ("latency", "totallatency"),
        ("upstreamlatency", "totalupstreamlatency"),
    ):
        assert counter[average] == (counter[total] / hits if hits else 0.0)
    errors = counter.get("errormap", {})
    assert sum(errors.values()) == counter["errortotal"]
    assert counter["errorlist"] == [
        {"code": code, "count": count} for code, count in sorted(errors.items())
    ]
    optional = {*MINIMA, "errormap", *(NETWORK if place[0] in OWN else ())}
    assert TYPES.keys() - optional <= counter.keys() <= TYPES.keys()


def check_types(counter: dict[str, Any]) -> None:
    """See that each field has the reference's type."""
    assert {n: type(v) for n, v in counter.items()} == {n: TYPES[n] for n in counter}


@pytest.mark.parametrize("name", LOST)
def test_what_the_reference_lost(
    name: str, run: Run, mongo_server: MongoServer
) -> None:
    """Odd keys, a report before an error, a full document: all is counted."""
    case = CASES[name]
    assert run(case).refused == {}
    assert hits(run.stored) == LOST[name]
    check_whole(run.stored)


@pytest.mark.parametrize("name", [*HELD, *TWICE])
def test_each_once(name: str, run: Run) -> None:
    """Whether a document is too large for counts, or for averages: each is in once."""
    case = CASES[name]
    run(case)
    check_whole(run.stored)
    for rows in by_collection(run.stored).values():
        assert (
            sum(document["total"]["hits"] for document in rows)
            == ({**HELD, **TWICE}[name])
        )


def test_options_that_the_reference_ignores(
    run: Run, mongo_server: MongoServer
) -> None:
    """Of MCP, too, dimensions and tags are left out, and all paths are tracked."""
    run(CASES["mongo-mcp-aggregate/ignored-options"])
    for row in run.stored:
        assert "apikeys" not in row["document"]
        assert "endpoints" in row["document"]
        assert not any(t.startswith("mcp") for t in row["document"].get("tags", ()))


def by_collection(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["collection"], []).append(row["document"])
    return found


def hits(rows: list[dict[str, Any]]) -> int:
    """Return the hits of all documents."""
    return sum(row["document"]["total"]["hits"] for row in rows)


@pytest.mark.parametrize(
    "name", [n for n in CASES if n.endswith(("/mixed", "db", "omit-index-creation"))]
)
def test_indexes(name: str, run: Run) -> None:
    """The indexes that are asked for are the reference's, in its order, once each."""
    case = CASES[name]
    delivered = run(case)
    asked = [c.plain["body"] for c in run.wire.named("createIndexes")]
    expected = loader.json_lines(case.expected("jsonl")[""])
    wanted = [c["body"] for c in expected if c["command"] == "createIndexes"]
    once = [body for at, body in enumerate(wanted) if body not in wanted[:at]]
    assert sorted(map(str, asked)) == sorted(map(str, once))
    assert delivered.refused == {}
