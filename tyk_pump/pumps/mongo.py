"""MongoDB: a document per record, all in one collection."""

from __future__ import annotations

from typing import ClassVar, Final

from tyk_pump.pumps.protocol import Batch
from tyk_pump.record import bson
from tyk_pump.transport import mongo
from tyk_pump.transport.mongo import Collection, CollectionOptions


class MongoPump:
    """Insert the records of all calls but those of MCP."""

    options_type: ClassVar[type[CollectionOptions]] = CollectionOptions
    fields: Final = bson.FIELDS
    guarantee: Final = mongo.GUARANTEE
    differences: Final = (
        "Records of MCP calls and those with the code -1 are left out, as ever, and "
        "count as filtered. None is lost beside them.",
        *mongo.DIFFERENCES,
        *mongo.ONE_COLLECTION,
    )

    def __init__(self, options: CollectionOptions) -> None:
        self._collection = Collection(
            options, kind="mongo", make=bson.unless_mcp, oversize="strip"
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
