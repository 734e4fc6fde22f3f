"""Uptime reports in MongoDB: the reference's documents, its defects put right."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.golden import loader
from tests.golden.deliver import Delivered, deliver
from tests.golden.loader import Case
from tests.golden.test_mongo import asked, commands, inserts, sent, together
from tests.servers.mongowire import MongoWire

CASES = {case.name: case for case in loader.cases("uptime-mongo")}
COLLECTION = "tyk_uptime_analytics"

Run = Callable[[Case], tuple[MongoWire, Delivered]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Deliver a case to a server that answers as in the capture."""
    with contextlib.ExitStack() as stack:

        def run_case(case: Case) -> tuple[MongoWire, Delivered]:
            wire = stack.enter_context(MongoWire())
            live = {"host": "127.0.0.1", "port": str(wire.port)}
            return wire, deliver(case, live, tmp_path, monkeypatch)

        yield run_case


@pytest.mark.parametrize("name", CASES)
def test_documents(name: str, run: Run) -> None:
    """Every report, in its order, in the one collection; none is lost."""
    case = CASES[name]
    wire, delivered = run(case)
    ours = together(inserts(sent(wire)))
    assert ours == together(inserts(commands(case)))
    assert list(ours) == [COLLECTION]
    assert delivered.settled == len(delivered.names)
    assert delivered.refused == {}
    assert delivered.openings == []


@pytest.mark.parametrize("name", CASES)
def test_collections_and_indexes(name: str, run: Run) -> None:
    """What is asked of the server is about the collection that is written to.

    The reference asked about `collection_name`, whatever it was, gave the index for
    logs a key that no report has, and left a capped collection without indexes.
    """
    case = CASES[name]
    wire, _ = run(case)
    ours, theirs = asked(sent(wire)), asked(commands(case))
    given = case.uptime.get("collection_name", "")
    if name in ("cap", "no-collection-name"):
        # The reference found the collection that it had just made, or had no name.
        theirs = [b for b in theirs if "createIndexes" not in b and given]
        theirs += asked(commands(CASES["default"]))[len(theirs) > 0 :]
    for body in theirs:
        put_right(body, given)
    assert as_texts(ours) == as_texts(theirs)


def put_right(body: dict[str, Any], given: str) -> None:
    """Change what the reference asked for into what it should have."""
    for name in ("createIndexes", "create"):
        if body.get(name) == given:
            body[name] = COLLECTION
    if body.get("filter", {}).get("name") == given:
        body["filter"]["name"] = COLLECTION
    for index in body.get("indexes", ()):
        index["key"].pop("apikey", None)


def as_texts(bodies: list[Any]) -> list[str]:
    """Return commands once each; the order of an index' key counts."""
    found = (json.dumps(dict(sorted(body.items()))) for body in bodies)
    return list(dict.fromkeys(found))
