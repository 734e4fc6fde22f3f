"""MongoDB, MCP: a document per call of the Model Context Protocol."""

from __future__ import annotations

from typing import Any, ClassVar, Final

from tyk_pump.pumps.protocol import Batch
from tyk_pump.record import bson, mcp
from tyk_pump.record.analytics import AnalyticsRecord
from tyk_pump.transport import mongo
from tyk_pump.transport.mongo import Collection, CollectionOptions


class MongoMCPPump:
    """Insert the records of MCP calls, with the method and primitive called."""

    options_type: ClassVar[type[CollectionOptions]] = CollectionOptions
    fields: Final = tuple(dict.fromkeys((*bson.RAW_FIELDS, *mcp.FIELDS)))
    guarantee: Final = mongo.GUARANTEE
    differences: Final = (
        "Records of other calls and those with the code -1 are left out, as ever, and "
        "count as filtered. None is lost beside them.",
        "The collection is the configured one, whatever other pumps there are.",
        *mongo.DIFFERENCES,
        *mongo.ONE_COLLECTION,
    )

    def __init__(self, options: CollectionOptions) -> None:
        self._collection = Collection(
            options, kind="mongo-mcp", make=document, oversize="strip"
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
    if record.response_code == -1 or (call := mcp.derive(record)) is None:
        return None
    return {
        "jsonrpcmethod": call.jsonrpc_method,
        "primitivetype": call.primitive_type,
        "primitivename": call.primitive_name,
        **bson.raw(record),
    }
