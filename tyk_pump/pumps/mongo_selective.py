"""MongoDB, a collection per organisation: a document per record."""

from __future__ import annotations

import logging
from typing import ClassVar, Final

from tyk_pump.errors import RejectedRecords, TransientError
from tyk_pump.pumps.protocol import Batch
from tyk_pump.record import bson
from tyk_pump.record.text import clean
from tyk_pump.transport import mongo
from tyk_pump.transport.mongo import Indexes, InsertOptions, Inserts, Mongo

log = logging.getLogger(__name__)

INDEXES: Final = (
    mongo.single("apiid"),
    mongo.single("expireAt", ttl=True),
    mongo.log_browser("apiid"),
)


class MongoSelectivePump:
    """Insert the records of each organisation into its own collection."""

    options_type: ClassVar[type[InsertOptions]] = InsertOptions
    fields: Final = bson.FIELDS
    guarantee: Final = mongo.GUARANTEE
    differences: Final = (
        "Records without an organisation, of MCP calls, and those with the code -1 are "
        "left out, as ever, and count as filtered; of the first a warning tells once. "
        "None is lost beside them.",
        "A record that is too large (`max_document_size_bytes`) becomes a dead letter; "
        "before it was dropped.",
        "So does one whose organisation makes a name that no collection can have.",
        *mongo.DIFFERENCES,
        "Each collection's indexes are asked for once, not before every insert.",
    )

    def __init__(self, options: InsertOptions) -> None:
        self._mongo = Mongo(options)
        self._indexes = Indexes(self._mongo, options, INDEXES)
        self._inserts = Inserts(
            self._mongo,
            options,
            kind="mongo-pump-selective",
            make=bson.unless_mcp,
            oversize="refuse",
            below=True,
            judge_name=True,
        )
        self._warned = False

    def open(self) -> None:
        """Connect."""
        self._mongo.open()

    def probe(self) -> str:
        """Ask the server what it is, logged in."""
        return self._mongo.probe()

    def write(self, batch: Batch) -> None:
        """Insert documents; return when the server has confirmed each."""
        rejected: dict[int, str] = {}
        grouped = self._groups(batch)
        batch.left_out = len(batch) - sum(map(len, grouped.values()))
        groups = list(grouped.items())
        while groups:
            org, indexes = groups.pop(0)
            try:
                self._send(batch.part(indexes), collection(org))
            except RejectedRecords as exc:
                rejected |= {indexes[at]: why for at, why in exc.rejected.items()}
            except TransientError as exc:
                rejected |= {indexes[at]: why for at, why in exc.rejected.items()}
                failed = range(len(indexes)) if exc.pending is None else exc.pending
                pending = [indexes[at] for at in failed if indexes[at] not in rejected]
                pending += [index for _, later in groups for index in later]
                raise TransientError(
                    exc.reason,
                    pending=sorted(pending),
                    rejected=rejected,
                    retry_after=exc.retry_after,
                ) from exc
        if rejected:
            raise RejectedRecords(next(iter(rejected.values())), rejected=rejected)

    def close(self) -> None:
        """Close every connection."""
        self._mongo.close()

    def _groups(self, batch: Batch) -> dict[str, list[int]]:
        """Return organisation -> indexes of its records that are to be stored."""
        groups: dict[str, list[int]] = {}
        for index, record in enumerate(batch.records):
            if bson.is_left_out(record):
                continue
            if record.org_id:
                groups.setdefault(record.org_id, []).append(index)
            elif not self._warned:
                self._warned = True
                log.warning("records without an organisation are left out")
        return groups

    def _send(self, batch: Batch, name: str) -> None:
        self._indexes.ensure(name)
        self._inserts.send(batch, name)


def collection(org: str) -> str:
    """Return the name of an organisation's collection."""
    return f"z_tyk_analyticz_{clean(org)}"
