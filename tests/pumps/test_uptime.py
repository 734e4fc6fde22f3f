"""The uptime pumps beside what golden and whole-command tests show."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from tests.servers.mongo import MongoServer
from tests.servers.mongowire import MongoWire
from tests.servers.postgres import PostgresServer
from tyk_pump.config.options import Secret
from tyk_pump.pumps.protocol import Batch
from tyk_pump.pumps.uptime_mongo import UptimeMongoOptions, UptimeMongoPump
from tyk_pump.pumps.uptime_sql import UptimeSqlPump
from tyk_pump.record.uptime import UptimeRecord
from tyk_pump.source.lists import UPTIME_LIST
from tyk_pump.transport.sql import SqlOptions

STREAM = "01JZZZZZZZZZZZZZZZZZZZZZZZ"
TABLE = "tyk_uptime_analytics"


def batch(first: int, count: int, **fields: Any) -> Batch:
    """Return reports of one URL each."""
    reports: Any = [
        UptimeRecord(
            url=f"u{at}", org_id="o", response_code=200, timestamp=(at, 0), **fields
        )
        for at in range(first, first + count)
    ]
    return Batch(
        stream=STREAM,
        lane=0,
        list=UPTIME_LIST,
        positions=list(range(first, first + count)),
        records=reports,
        cursor="uptime",
    )


def test_a_repeated_report_is_there_once(mongo_server: MongoServer) -> None:
    """Its `_id` is made of its place in the stream, however the batch is cut."""
    options = UptimeMongoOptions(mongo_url=Secret(mongo_server.url()))
    pump = UptimeMongoPump(options)
    pump.open()
    assert f"collection {TABLE}" in pump.probe()
    for first, count in ((0, 5), (0, 3), (2, 6)):
        pump.write(batch(first, count))
    pump.close()
    found = [document["url"] for document in mongo_server.documents(TABLE)]
    assert sorted(found) == [f"u{at}" for at in range(8)]


@pytest.mark.parametrize("used", [False, True])
def test_another_collection_on_request_only(
    caplog: pytest.LogCaptureFixture, used: bool
) -> None:
    """Documents, capping and indexes go the same way; else a line says where."""
    with MongoWire() as wire, caplog.at_level(logging.WARNING):
        options = UptimeMongoOptions(
            mongo_url=Secret(f"mongodb://127.0.0.1:{wire.port}/tyk"),
            collection_name="mine",
            collection_cap_enable=True,
            use_collection_name=used,
        )
        pump = UptimeMongoPump(options)
        pump.open()
        pump.write(batch(0, 1))
        pump.close()
        named = {
            command.plain["body"][command.name]
            for command in wire.commands
            if command.name in ("insert", "create", "createIndexes")
        }
    assert named == {"mine" if used else TABLE}
    assert ("use_collection_name" in caplog.text) is not used


def test_a_huge_url_is_no_reason_to_lose_it(mongo_server: MongoServer) -> None:
    """The limit for documents counts requests and responses, and there are none."""
    options = UptimeMongoOptions(
        mongo_url=Secret(mongo_server.url()),
        max_document_size_bytes=10,
        max_insert_batch_size_bytes=10,
    )
    pump = UptimeMongoPump(options)
    pump.open()
    pump.write(batch(0, 3, api_id="x" * 100_000))
    pump.close()
    assert len(mongo_server.documents(TABLE)) == 3


def test_a_repeated_report_counts_once(postgres_server: PostgresServer) -> None:
    """Rows and watermark are one transaction, however the batch is cut."""
    database = postgres_server.database()
    pump = UptimeSqlPump(
        SqlOptions(type="postgres", connection_string=Secret(database.dsn))
    )
    pump.open()
    for first, count in ((0, 5), (0, 3), (2, 6)):
        pump.write(batch(first, count))
    pump.close()
    rows = database.query(
        f"SELECT dimension_value, counter_hits FROM {TABLE} WHERE dimension = 'url'"
    )
    assert sorted(rows) == [(f"u{at}", 1) for at in range(8)]


def test_a_table_of_the_reference_is_taken_over(
    postgres_server: PostgresServer,
) -> None:
    """With its index, under whatever name, and without a second one."""
    database = postgres_server.database()
    options = SqlOptions(type="postgres", connection_string=Secret(database.dsn))
    for _ in range(2):
        pump = UptimeSqlPump(options)
        pump.open()
        pump.write(batch(0, 1))
        pump.close()
        database.query(f"ALTER INDEX IF EXISTS {TABLE}_dimension RENAME TO dimension")
    found = database.query(
        "SELECT indexname FROM pg_indexes WHERE tablename = %s", TABLE
    )
    assert sorted(name for (name,) in found) == ["dimension", f"{TABLE}_pkey"]
