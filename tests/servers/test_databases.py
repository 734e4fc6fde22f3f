"""The database servers of the tests: what is committed outlives a kill."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pymongo
import pymysql
import pytest
import sqlalchemy
from pymongo.errors import DuplicateKeyError, PyMongoError

from tests.servers.database import Database, Databases
from tests.servers.mariadb import MariaServer
from tests.servers.mongo import JavaMongo, MongoServer
from tests.servers.postgres import PostgresServer
from tests.servers.tls import Authority

SQL = ("postgres", "maria")
SqlServer = PostgresServer | MariaServer
DRIVER_ERRORS = (psycopg.Error, pymysql.Error)


@pytest.fixture(params=SQL)
def databases(request: pytest.FixtureRequest) -> Databases:
    """The shared server of each kind."""
    found: Databases = request.getfixturevalue(f"{request.param}_server")
    return found


@pytest.fixture(params=SQL)
def make_sql(request: pytest.FixtureRequest) -> Callable[..., SqlServer]:
    """Make servers of each kind."""
    found: Callable[..., SqlServer] = request.getfixturevalue(f"make_{request.param}")
    return found


def test_sql_database(databases: Databases) -> None:
    """Each test has databases of its own, which SQLAlchemy reaches by their address."""
    one, other = databases.database(), databases.database()
    one.query("CREATE TABLE t (a integer)")
    one.query("INSERT INTO t VALUES (%s), (%s)", 1, 2)
    assert one.query("SELECT a FROM t ORDER BY a") == [(1,), (2,)]
    assert one.tables() == ["t"]
    assert other.tables() == []
    engine = sqlalchemy.create_engine(one.url)
    with engine.connect() as connection:
        assert connection.execute(sqlalchemy.text("SELECT count(*) FROM t")).scalar()
        # It is in use now, and can be dropped all the same.
        databases.clear()
        connection.invalidate()
    engine.dispose()
    with pytest.raises(DRIVER_ERRORS):
        other.query("SELECT 1")


def test_sql_killed(make_sql: Callable[..., SqlServer]) -> None:
    """What was committed is there after a kill; what was not is gone."""
    server = make_sql()
    database = server.database()
    database.query("CREATE TABLE t (a integer)")
    connection = database.connect()
    with connection.cursor() as cursor:
        for number in range(100):
            cursor.execute("INSERT INTO t VALUES (%s)", (number,))
        cursor.execute("BEGIN")
        cursor.execute("INSERT INTO t VALUES (1000)")
        server.kill()
        with pytest.raises(DRIVER_ERRORS):
            database.query("SELECT 1")
        server.restart()
        with pytest.raises(DRIVER_ERRORS):
            cursor.execute("COMMIT")
    connection.close()
    assert database.query("SELECT count(*), max(a) FROM t") == [(100, 99)]


@pytest.mark.parametrize("demand", [False, True])
def test_sql_tls(
    make_sql: Callable[..., SqlServer], authority: Authority, demand: bool
) -> None:
    """A certificate of the client is asked for where that is wanted."""
    server = make_sql(authority, demand=demand)
    database = server.database()
    assert database.query("SELECT 1") == [(1,)]
    plain: Database = type(database)(server.port, database.name)
    if demand:
        with pytest.raises(DRIVER_ERRORS):
            plain.query("SELECT 1")
    else:
        assert plain.query("SELECT 1") == [(1,)]


@pytest.mark.parametrize(("kind", "code"), [("postgres", "53100"), ("maria", "1021")])
def test_sql_refuses(request: pytest.FixtureRequest, kind: str, code: str) -> None:
    """A table can be made to refuse inserts as it would with a full disk."""
    databases: Databases = request.getfixturevalue(f"{kind}_server")
    database = databases.database()
    database.query("CREATE TABLE t (a integer)")
    database.refuse("t", code)
    with pytest.raises(DRIVER_ERRORS) as caught:
        database.query("INSERT INTO t VALUES (1)")
    if isinstance(caught.value, psycopg.Error):
        assert caught.value.sqlstate == code
    else:
        assert caught.value.args[0] == int(code)
    database.accept("t")
    database.query("INSERT INTO t VALUES (1)")
    assert database.query("SELECT count(*) FROM t") == [(1,)]


def test_sql_wrong_password(databases: Databases) -> None:
    """Who does not know the password is sent away."""
    url = sqlalchemy.make_url(databases.database().url).set(password="wrong")
    engine = sqlalchemy.create_engine(url)
    with pytest.raises(sqlalchemy.exc.OperationalError):
        engine.connect()
    engine.dispose()


@pytest.fixture
def documents(mongo_server: MongoServer) -> Iterator[Any]:
    """A collection of the shared server."""
    with mongo_server.client() as client:
        yield client["tyk_analytics"]["t"]


def test_mongo(mongo_server: MongoServer, documents: Any) -> None:
    """Documents, counters, indexes and duplicate keys are as in MongoDB."""
    documents.insert_many([{"_id": number} for number in range(3)])
    with pytest.raises(DuplicateKeyError):
        documents.insert_one({"_id": 1})
    documents.update_one({"_id": 9}, {"$inc": {"a.b": 2}}, upsert=True)
    documents.update_one({"_id": 9}, {"$inc": {"a.b": 2}}, upsert=True)
    assert mongo_server.documents("t")[-1] == {"_id": 9, "a": {"b": 4}}
    documents.create_index([("orgid", pymongo.ASCENDING)], background=True)
    assert "orgid_1" in documents.index_information()
    assert mongo_server.collections() == ["t"]
    mongo_server.renew()
    assert mongo_server.collections() == []


def test_mongo_killed(mongo_server: MongoServer, documents: Any) -> None:
    """What was acknowledged is there after a kill."""
    documents.insert_many([{"n": number} for number in range(1000)])
    mongo_server.kill()
    mongo_server.restart()
    assert len(mongo_server.documents("t")) == 1000


@pytest.mark.parametrize("demand", [False, True])
def test_mongo_tls(
    make_mongo: Callable[..., MongoServer], authority: Authority, demand: bool
) -> None:
    """A certificate of the client is asked for where that is wanted."""
    server = make_mongo(authority, demand=demand)
    with server.client() as client:
        assert client.admin.command("ping")["ok"] == 1
    options: dict[str, Any] = {"serverSelectionTimeoutMS": 1000}
    options |= {"tlsCertificateKeyFile": None} if demand else {"tlsCAFile": None}
    with server.client(**options) as client, pytest.raises(PyMongoError):
        client.admin.command("ping")


def test_java_mongo(java_mongo: JavaMongo) -> None:
    """It keeps TTL indexes, and starts with nothing for each test."""
    index = {"key": {"expireAt": 1}, "name": "expiry", "expireAfterSeconds": 0}
    java_mongo.ask("db", {"createIndexes": "t", "indexes": [index]})
    answer = java_mongo.ask("db", {"listIndexes": "t"})
    assert answer["cursor"]["firstBatch"][1]["expireAfterSeconds"] == 0
    assert "import of ours works" in java_mongo.python(
        "import tyk_pump; print('import of ours works')"
    )
    java_mongo.renew()
    listed = java_mongo.ask("admin", {"listDatabases": 1})
    assert listed["databases"] == []
    assert (
        os.environ.get("PYTHONPATH", "")
        in java_mongo.environment_of_driver["PYTHONPATH"]
    )
