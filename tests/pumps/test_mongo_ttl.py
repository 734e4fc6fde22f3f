"""Indexes that remove documents, on a server that has them (FerretDB has none)."""

from __future__ import annotations

import json

from tests.servers.mongo import JavaMongo

WRITE = """\
import json, sys
from tyk_pump.config.options import Secret
from tyk_pump.pumps.mongo_selective import MongoSelectivePump as Pump
from tyk_pump.pumps.protocol import Batch
from tyk_pump.record.analytics import AnalyticsRecord
import pymongo

options = Pump.options_type(
    mongo_url=Secret(sys.argv[1]), mongo_db_type=int(sys.argv[2]), driver="mgo"
)
pump = Pump(options)
pump.open()
records = [AnalyticsRecord(org_id="o", alias=str(n)) for n in range(3)]
for _ in range(2):
    pump.write(Batch("S", 0, "analytics", range(3), records, cursor="X"))
pump.close()
with pymongo.MongoClient(sys.argv[1]) as client:
    collection = client["tyk_analytics"]["z_tyk_analyticz_o"]
    print(json.dumps([collection.count_documents({}), collection.index_information()]))
"""


def _written(server: JavaMongo, kind: int) -> tuple[int, dict[str, dict[str, object]]]:
    count, indexes = json.loads(server.python(WRITE, str(kind)))
    return count, indexes


def test_documents_go_at_their_time(java_mongo: JavaMongo) -> None:
    """With either driver's name; the reference made a plain index with one of them."""
    count, indexes = _written(java_mongo, 0)
    assert count == 3
    assert indexes["expireAt_1"]["expireAfterSeconds"] == 0
    assert set(indexes) == {"_id_", "apiid_1", "expireAt_1", "logBrowserIndex"}


def test_cosmos_db_keeps_them(java_mongo: JavaMongo) -> None:
    """It has no such index on a field of ours."""
    _, indexes = _written(java_mongo, 2)
    assert set(indexes) == {"_id_", "apiid_1", "logBrowserIndex"}
