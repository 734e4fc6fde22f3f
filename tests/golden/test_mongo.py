"""The raw Mongo pumps ask for and store what the reference did, its defects put right.

Inserts are compared by their documents, whose names and types are read by others; how
they are split into commands is seen in cases of its own.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.golden import loader
from tests.golden.deliver import Delivered, deliver
from tests.golden.loader import Case
from tests.golden.run import configuration
from tests.servers.mongowire import Answer, Command, MongoWire, failed

PUMPS = ("mongo", "mongo-pump-selective", "mongo-graph", "mongo-mcp")
CASES = {f"{case.pump}/{case.name}": case for p in PUMPS for case in loader.cases(p)}
FAULTS = {"mongo/collection-name-empty", *(f"{p}/no-collection-name" for p in PUMPS)}
"""Cases in which the pump is not started, and what is missing is said."""
SPLIT = [name for name in CASES if name.endswith(("batch-size", "batch-size-tiny"))]
SPLIT.append("mongo/document-size-and-batch")
CAPPED = [name for name in CASES if name.endswith(("/cap", "cap-default", "cap-size"))]
ZERO = {"$date": {"$numberLong": "-62135596800000"}}
REFUSED = {
    "mongo-pump-selective/document-size": {"large-raw"},
    "mongo-pump-selective/last-oversized": {"large-raw"},
}
"""Records that the reference dropped: dead letters."""
LOST = {
    "mongo/insert-error",
    "mongo/last-skipped",
    "mongo-graph/batch-size",
    "mongo-pump-selective/insert-error",
    "mongo-pump-selective/last-oversized",
    "mongo-pump-selective/last-skipped",
}
"""Cases in which the reference lost records: ours are all there."""

Run = Callable[[Case], tuple[MongoWire, Delivered]]


class Faults:
    """Answers some commands as the capture did."""

    def __init__(self, case: Case) -> None:
        self._left = [dict(fault) for fault in case.about.get("faults", ())]

    def __call__(self, command: Command) -> Answer | None:
        for fault in self._left:
            if fault["command"] != command.name:
                continue
            if fault.get("skip", 0):
                fault["skip"] -= 1
            elif fault["times"]:
                fault["times"] -= 1
                return failed(fault["code"], fault["name"], message=fault["msg"])
        return None


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Deliver a case to a server that answers as in the capture."""
    with contextlib.ExitStack() as stack:

        def run_case(case: Case) -> tuple[MongoWire, Delivered]:
            wire = stack.enter_context(MongoWire(Faults(case)))
            if "existing" in case.name:
                name = case.pumps[case.pump]["meta"]["collection_name"]
                wire.databases["tyk_analytics"] = {name: []}
            live = {"host": "127.0.0.1", "port": str(wire.port)}
            return wire, deliver(case, live, tmp_path, monkeypatch)

        yield run_case


def commands(case: Case) -> list[dict[str, Any]]:
    """Return the commands of the reference."""
    return loader.json_lines(case.expected("jsonl")[""])


def plain(document: Any) -> Any:
    """Return a document without its `_id`, odd bytes replaced, names in order.

    Names in a map of the record are in no order; those of the layout are.
    """
    if isinstance(document, dict):
        if "<bytes>" in document:
            text = base64.b64decode(document["<bytes>"])
            return clean(text.decode("utf-8", "surrogateescape"))
        made = {k: plain(v) for k, v in document.items() if k != "_id"}
        for name in ("names", "types"):
            if name in made:
                made[name] = dict(sorted(made[name].items()))
        return made
    if isinstance(document, list):
        return [plain(item) for item in document]
    return clean(document) if isinstance(document, str) else document


def clean(text: str) -> str:
    """Return a text with U+FFFD for each byte that is no UTF-8."""
    return "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)


def inserts(rows: list[dict[str, Any]]) -> dict[str, list[list[str]]]:
    """Return collection -> the documents of each insert, as texts."""
    found: dict[str, list[list[str]]] = {}
    for row in rows:
        if row["command"] == "insert" and "error" not in row:
            body = row["body"]
            documents = [json.dumps(plain(one)) for one in body["documents"]]
            found.setdefault(body["insert"], []).append(documents)
    return found


def together(found: dict[str, list[list[str]]]) -> dict[str, list[str]]:
    """Return collection -> all documents."""
    return {name: list(itertools.chain(*parts)) for name, parts in found.items()}


def asked(rows: list[dict[str, Any]]) -> list[Any]:
    """Return what was asked for beside inserts, once each."""
    found: list[Any] = []
    for row in rows:
        body = dict(row["body"])
        if row["command"] in ("insert", "find") or body in found:
            continue
        found.append(body)
    return found


def sent(wire: MongoWire) -> list[dict[str, Any]]:
    """Return our commands in the form of the golden ones."""
    return [command.plain for command in wire.commands]


@pytest.mark.parametrize("name", [name for name in CASES if name not in FAULTS])
def test_documents(name: str, run: Run) -> None:
    """Every document, in its order, in its collection; none is lost or doubled."""
    case = CASES[name]
    wire, delivered = run(case)
    ours, theirs = together(inserts(sent(wire))), together(inserts(commands(case)))
    ours = {collection: dedup(documents) for collection, documents in ours.items()}
    if case.codec == "protobuf":
        other = together(inserts(commands(CASES[f"{case.pump}/edge"])))
        theirs = {name: repaired(theirs[name], other[name]) for name in theirs}
    if case.about["compare"] == "unordered":
        ours = {collection: sorted(found) for collection, found in ours.items()}
        theirs = {collection: sorted(found) for collection, found in theirs.items()}
    if name in LOST:
        assert all(set(theirs[each]) <= set(ours[each]) for each in theirs)
        assert sum(map(len, ours.values())) > sum(map(len, theirs.values()))
    else:
        assert ours == theirs
    assert set(delivered.refused) == REFUSED.get(name, set())
    assert len(delivered.names) == delivered.settled + len(delivered.refused)
    assert delivered.openings == []


def repaired(protobuf: list[str], msgpack: list[str]) -> list[str]:
    """Put in what the reference lost of protobuf: the names of a city, and the times of
    records whose zone it did not know.

    The capture of the other codec has them, and one record that has no other form.
    """
    made = []
    other = [json.loads(text) for text in msgpack if "\\ufffd" not in text]
    for text, right in zip(protobuf, other, strict=True):
        document = json.loads(text)
        document["geo"]["city"]["names"] = right["geo"]["city"]["names"]
        if document["timestamp"] == ZERO:
            document |= {"timestamp": right["timestamp"], "expireAt": right["expireAt"]}
        made.append(json.dumps(document))
    return made


def dedup(documents: list[str]) -> list[str]:
    """Return documents once each: a failed insert is repeated."""
    return list(dict.fromkeys(documents))


@pytest.mark.parametrize(
    "name", [name for name in CASES if name not in {*FAULTS, *CAPPED}]
)
def test_collections_and_indexes(name: str, run: Run) -> None:
    """What is asked of the server, in its order; each question is put once."""
    case = CASES[name]
    wire, _ = run(case)
    ours, theirs = asked(sent(wire)), asked(commands(case))
    if name.endswith("index-error"):
        # The reference stopped at the first index that failed.
        assert ours[: len(theirs)] == theirs
        made = [body["indexes"][0]["name"] for body in ours]
        assert made == ["apiid_1", "expireAt_1", "logBrowserIndex"]
    elif name in LOST:
        # It also made no index for what it lost.
        assert by_collection(ours).items() >= by_collection(theirs).items()
    else:
        assert by_collection(ours) == by_collection(theirs)
    rows = [row for row in sent(wire) if row["command"] != "insert"]
    # Before a collection is capped and before it is indexed.
    assert len(ours) == len(rows) - (name == "mongo/cap-existing")


def by_collection(bodies: list[Any]) -> dict[str, list[str]]:
    """Return collection -> commands: collections are served in any order.

    The order of names in an index' key counts, that of arguments does not.
    """
    found: dict[str, list[str]] = {}
    for body in bodies:
        name = body.get("filter", {}).get("name") or next(iter(body.values()))
        found.setdefault(name, []).append(json.dumps(dict(sorted(body.items()))))
    return found


@pytest.mark.parametrize("name", CAPPED)
def test_capped_collections_get_their_indexes(name: str, run: Run) -> None:
    """The reference made the collection, saw that it existed, and made no index."""
    case = CASES[name]
    wire, _ = run(case)
    (theirs,) = [row["body"] for row in commands(case) if row["command"] == "create"]
    (ours,) = [row["body"] for row in sent(wire) if row["command"] == "create"]
    assert ours == theirs
    indexes = [row["body"] for row in sent(wire) if row["command"] == "createIndexes"]
    names = [body["indexes"][0]["name"] for body in indexes]
    assert names == ["orgid_1", "apiid_1", "logBrowserIndex"]


@pytest.mark.parametrize("name", SPLIT)
def test_batches(name: str, run: Run) -> None:
    """An insert has as many documents as the limit lets it have."""
    case = CASES[name]
    wire, _ = run(case)
    ours, theirs = inserts(sent(wire)), inserts(commands(case))
    for collection, parts in theirs.items():
        more = [part for part in ours[collection] if part not in parts]
        # One batch that the reference lost stands behind the ones it sent.
        assert len(more) == (name in LOST)
        assert len(ours[collection]) == len(parts) + len(more)


@pytest.mark.parametrize("name", [name for name in sorted(FAULTS) if name in CASES])
def test_a_missing_collection_name_is_said(name: str, tmp_path: Path) -> None:
    """The reference asked for indexes without a name, and died or failed later."""
    case = CASES[name]
    folder = tmp_path / "out"
    folder.mkdir()
    config = configuration(case, folder, {"host": "127.0.0.1", "port": "1"})
    place = f"pumps.{case.pump}.meta.collection_name"
    assert config.pumps[0].fault == f"{place}: missing"
