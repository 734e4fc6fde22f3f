"""The imitation of MongoDB answers drivers, records them and fails as it is told."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Any

import pymongo
import pytest
from bson import Int64
from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    NotPrimaryError,
    OperationFailure,
)

from tests.servers import mongowire
from tests.servers.mongo import MongoServer
from tests.servers.mongowire import Answer, Command, Judge, MongoWire
from tests.servers.tls import Authority

Client = pymongo.MongoClient[dict[str, Any]]


@pytest.fixture
def wire() -> Iterator[MongoWire]:
    """A server that does as it is told."""
    with MongoWire() as server:
        yield server


def client_of(server: MongoWire, **options: Any) -> Client:
    """Return a client that does nothing twice by itself."""
    chosen = {"retryWrites": False, "serverSelectionTimeoutMS": 5000, **options}
    return pymongo.MongoClient(server.url(), **chosen)


def once(name: str, answer: Answer) -> Judge:
    """Answer the first command of a name so."""
    left = [answer]

    def judge(command: Command) -> Answer | None:
        return left.pop() if command.name == name and left else None

    return judge


def test_records(wire: MongoWire) -> None:
    """Commands are recorded in the form of golden cases, greetings apart."""
    with client_of(wire, appname="tests") as client:
        moment = datetime.datetime(2026, 3, 15, tzinfo=datetime.UTC)
        document = {"_id": 1, "n": Int64(2), "t": moment}
        client["db"]["t"].insert_many([document], ordered=False)
        assert list(client["db"]["t"].find({"n": 2})) == wire.documents("t", "db")
        client["db"]["t"].create_index([("orgid", 1)], background=True)
        assert set(client["db"]["t"].index_information()) == {"_id_", "orgid_1"}
        client["db"].create_collection("c", capped=True, size=5)
        assert client["db"].list_collection_names() == ["t", "c"]
        assert client["db"]["c"].options() == {"capped": True, "size": 5}
    assert wire.commands[0].plain == {
        "command": "insert",
        "db": "db",
        "body": {
            "insert": "t",
            "ordered": False,
            "documents": [
                {
                    "_id": {"$numberInt": "1"},
                    "n": {"$numberLong": "2"},
                    "t": {"$date": {"$numberLong": "1773532800000"}},
                }
            ],
        },
    }
    assert wire.named("createIndexes")[0].collection == "t"
    assert any(
        one["client"]["application"]["name"] == "tests"
        for one in wire.greetings
        if "client" in one
    )


@pytest.mark.parametrize("ordered", [False, True])
def test_duplicates(wire: MongoWire, ordered: bool) -> None:
    """A key that is there is refused, and in an ordered write all behind it."""
    with client_of(wire) as client:
        client["tyk_analytics"]["t"].insert_one({"_id": 1})
        many = [{"_id": number} for number in range(3)]
        with pytest.raises(BulkWriteError) as caught:
            client["tyk_analytics"]["t"].insert_many(many, ordered=ordered)
    details = caught.value.details
    assert [(one["index"], one["code"]) for one in details["writeErrors"]] == [
        (1, 11000)
    ]
    assert len(wire.documents("t")) == (2 if ordered else 3)


@pytest.mark.parametrize(
    ("answer", "error", "kept"),
    [
        (mongowire.NOT_PRIMARY, NotPrimaryError, 0),
        (mongowire.STEPPED_DOWN, NotPrimaryError, 0),
        (mongowire.WRITE_CONFLICT, OperationFailure, 0),
        (mongowire.TOO_LARGE, OperationFailure, 0),
        (mongowire.refused(0, (0, 10334, "too large")), BulkWriteError, 0),
        (Answer(cut=True), AutoReconnect, 0),
        (Answer(lost=True), AutoReconnect, 1),
    ],
)
def test_faults(
    wire: MongoWire, answer: Answer, error: type[Exception], kept: int
) -> None:
    """Each fault reaches the client as what it is; afterwards all is well."""
    with client_of(wire) as client:
        collection = client["tyk_analytics"]["t"]
        with wire.judging(once("insert", answer)), pytest.raises(error):
            collection.insert_many([{"_id": 1}])
        assert len(wire.documents("t")) == kept
        collection.insert_many([{"_id": 2}])
        assert len(wire.documents("t")) == kept + 1


def test_replica_set(wire: MongoWire) -> None:
    """The driver repeats a write to the primary of a set by itself; it is done once."""
    wire.replica_set = "rs"
    with client_of(wire, retryWrites=True, replicaSet="rs") as client:
        collection = client["tyk_analytics"]["t"]
        for number, answer in enumerate((Answer(lost=True), mongowire.NOT_PRIMARY)):
            with wire.judging(once("insert", answer)):
                collection.insert_many([{"_id": number}])
    assert len(wire.named("insert")) == 4
    assert len(wire.documents("t")) == 2


def test_restart(wire: MongoWire) -> None:
    """It comes back on its port, with what it had."""
    with client_of(wire) as client:
        collection = client["tyk_analytics"]["t"]
        collection.insert_one({"_id": 1})
        wire.close()
        with pytest.raises(AutoReconnect):
            collection.insert_one({"_id": 2})
        wire.restart()
        collection.insert_one({"_id": 3})
    assert [one["_id"] for one in wire.documents("t")] == [1, 3]


def test_login(authority: Authority) -> None:
    """Only the right user with the right password may ask, over TLS too."""
    with MongoWire(user=("tyk", "p@ss/w:rd"), authority=authority) as wire:
        tls = {"tls": True, "tlsCAFile": str(authority.ca_file)}
        with client_of(wire, username="tyk", password="p@ss/w:rd", **tls) as client:
            client["tyk_analytics"]["t"].insert_one({"_id": 1})
        for options in ({}, {"username": "tyk", "password": "wrong"}):
            client = client_of(wire, **options, **tls)
            with client, pytest.raises(OperationFailure):
                client["tyk_analytics"]["t"].insert_one({"_id": 2})
    assert len(wire.documents("t")) == 1


def test_upstream(mongo_server: MongoServer) -> None:
    """In front of a real server it records, and loses an answer to what was done."""
    with MongoWire(upstream=mongo_server.port) as wire, client_of(wire) as client:
        counter = client["tyk_analytics"]["t"]
        counter.update_one({"_id": 1}, {"$inc": {"n": 1}}, upsert=True)
        lost = wire.judging(once("update", Answer(lost=True)))
        with lost, pytest.raises(AutoReconnect):
            counter.update_one({"_id": 1}, {"$inc": {"n": 1}})
        refused = wire.judging(once("update", mongowire.NOT_PRIMARY))
        with refused, pytest.raises(NotPrimaryError):
            counter.update_one({"_id": 1}, {"$inc": {"n": 1}})
        assert mongo_server.documents("t") == [{"_id": 1, "n": 2}]
        assert len(wire.named("update")) == 3
