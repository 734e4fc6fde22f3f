"""Uptime in MongoDB: a document per report, all in one collection."""

from __future__ import annotations

import logging
from typing import Annotated, Any, ClassVar, Final

import msgspec
from bson.int64 import Int64

from tyk_pump.config.options import doc
from tyk_pump.log import ONCE
from tyk_pump.pumps.protocol import Batch
from tyk_pump.record import bson
from tyk_pump.record.uptime import UptimeRecord
from tyk_pump.transport import mongo
from tyk_pump.transport.mongo import Collection, CollectionOptions, Index, single

log = logging.getLogger(__name__)

COLLECTION: Final = "tyk_uptime_analytics"
INDEXES: Final = (
    single("orgid"),
    single("apiid"),
    Index(
        {"timestamp": -1, "orgid": 1, "apiid": 1, "responsecode": 1}, "logBrowserIndex"
    ),
)


class UptimeMongoOptions(CollectionOptions, frozen=True, kw_only=True):
    """Where uptime reports are kept."""

    collection_name: Annotated[
        str,
        doc(f"Collection to write to, if not `{COLLECTION}`: see the next option."),
    ] = COLLECTION
    use_collection_name: Annotated[
        bool,
        doc(
            "Write to `collection_name`. Without it that has no effect, as ever: a "
            f"Dashboard looks in `{COLLECTION}`, whatever it is."
        ),
    ] = False

    @property
    def collection(self) -> str:
        """The collection that is written to."""
        if self.use_collection_name and self.collection_name:
            return self.collection_name
        return COLLECTION


class UptimeMongoPump:
    """Insert what the gateway's host checker reports."""

    options_type: ClassVar[type[UptimeMongoOptions]] = UptimeMongoOptions
    fields: Final = UptimeRecord.__struct_fields__
    guarantee: Final = mongo.GUARANTEE
    differences: Final = (
        *mongo.DIFFERENCES,
        "`collection_name` steers documents, indexes and capping together, with "
        "`use_collection_name`, and none of them without it.",
        "The index `logBrowserIndex` has no `apikey`: a report has none.",
        "A collection that is made a capped one gets its indexes on MongoDB too.",
        "What is no report becomes a dead letter; the process does not end.",
    )

    def __init__(self, options: UptimeMongoOptions) -> None:
        self._options = options
        self._collection = Collection(
            msgspec.structs.replace(options, collection_name=options.collection),
            kind="uptime",
            make=document,
            oversize="keep",
            bodies=_none,
            indexes=INDEXES,
        )

    def open(self) -> None:
        """Connect; make the collection and its indexes, where they are wanted."""
        given, used = self._options.collection_name, self._options.collection
        if given not in ("", used):
            log.warning(
                "collection_name has no effect without use_collection_name",
                extra={**ONCE, "reason": f"reports go to {used}"},
            )
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


def document(report: UptimeRecord) -> dict[str, Any]:
    """Return the document of a report, without `_id`."""
    return {
        "url": report.url,
        "requesttime": Int64(report.request_time),
        "responsecode": report.response_code,
        "tcperror": report.tcp_error,
        "servererror": report.server_error,
        "day": report.day,
        "month": report.month,
        "year": report.year,
        "hour": report.hour,
        "minute": report.minute,
        "timestamp": bson.date(report.timestamp),
        "expireAt": bson.date(report.expire_at),
        "apiid": report.api_id,
        "orgid": report.org_id,
    }


def _none(report: UptimeRecord) -> int:
    """A report has neither request nor response."""
    return 0
