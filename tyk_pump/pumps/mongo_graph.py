"""MongoDB, GraphQL: a document per GraphQL call with what was asked for."""

from __future__ import annotations

from typing import Any, ClassVar, Final

from bson.int64 import Int64

from tyk_pump.pumps.protocol import Batch
from tyk_pump.record import bson, graph
from tyk_pump.record.analytics import AnalyticsRecord
from tyk_pump.transport import mongo
from tyk_pump.transport.mongo import Collection, CollectionOptions


class MongoGraphPump:
    """Insert the records of GraphQL calls, with their types, fields and errors."""

    options_type: ClassVar[type[CollectionOptions]] = CollectionOptions
    fields: Final = tuple(dict.fromkeys((*bson.RAW_FIELDS, *graph.FIELDS)))
    guarantee: Final = mongo.GUARANTEE
    differences: Final = (
        "Records of other calls and those with the code -1 are left out, as ever, and "
        "count as filtered. None is lost beside them.",
        "A record goes without its raw request and response where MongoDB cannot hold "
        "it with them; `max_document_size_bytes` alone removes nothing, as ever.",
        "The collection is the configured one, whatever other pumps there are.",
        *mongo.DIFFERENCES,
        *mongo.ONE_COLLECTION,
    )

    def __init__(self, options: CollectionOptions) -> None:
        self._collection = Collection(
            options, kind="mongo-graph", make=document, oversize="keep"
        )

    def open(self) -> None:
        """Connect; make the collection and its indexes, where they are wanted."""
        self._collection.open()

    def probe(self) -> str:
        """Ask the server what it is, logged in."""
        return self._collection.probe()

    def write(self, batch: Batch) -> None:
        """Insert documents; return when the server has confirmed each."""
        self._collection.send(batch)

    def close(self) -> None:
        """Close every connection."""
        self._collection.close()


def document(record: AnalyticsRecord) -> dict[str, Any] | None:
    """Return the document of a record; None for what this pump leaves out."""
    if record.response_code == -1 or (call := graph.derive(record)) is None:
        return None
    return {
        "types": call.types,
        **bson.raw(record),
        "operationtype": call.operation_type,
        "variables": call.variables,
        "rootfields": call.root_fields,
        "errors": [_error(error) for error in call.errors],
        "haserrors": call.has_errors,
    }


def _error(error: dict[str, Any]) -> dict[str, Any]:
    """Return an error with the places in its path as the reference writes numbers."""
    path = [Int64(part) if type(part) is int else part for part in error["path"]]
    return {**error, "path": path}
