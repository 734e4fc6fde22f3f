"""Commands that read and change single documents of MongoDB, and what a no means."""

from __future__ import annotations

import re
from typing import Any, Final

import bson
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.raw_bson import RawBSONDocument
from pymongo.errors import DocumentTooLarge, OperationFailure

from tyk_pump.errors import TransientError
from tyk_pump.record.bson import MAX_DOCUMENT
from tyk_pump.transport import mongo
from tyk_pump.transport.mongo import Mongo

Document = dict[str, Any]

MAX_UPDATE: Final = MAX_DOCUMENT - 64 * 1024
"""Bytes of one update; what needs more is counted in several steps."""
_TOO_LARGE: Final = frozenset({10334, 17419, 17420})
_TOO_LARGE_TEXT: Final = re.compile(
    "Size must be between 0 and|Request size is too large"
    "|Resulting document after update is larger than"
)
_REFUSED: Final = frozenset({2, 9, 14, 22, 28, 52, 55, 56, 57, 121})
"""Codes by which a server refuses an update for what stands in it."""
_INVALID_NAMESPACE: Final = 73
_DUPLICATE: Final = 11000
# Times of any year stay as they are; what the reference stored may be no UTF-8.
_CODEC: Final[CodecOptions[dict[str, Any]]] = CodecOptions(
    datetime_conversion=DatetimeConversion.DATETIME_MS,
    unicode_decode_error_handler="replace",
)


class TooLarge(Exception):
    """The document cannot take what was to be added."""


class Refused(Exception):
    """The server refuses an update for what stands in it."""


class Taken(Exception):
    """There is a document with this `_id`."""


class NoCollection(Exception):
    """No collection can have the name that the records ask for."""


SUBJECT: Final = ("orgid", "timestamp", "owner_apiid")
"""Names of what the document of an aggregate is for."""


class Documents:
    """The documents of a database, one at a time."""

    def __init__(self, mongo: Mongo) -> None:
        self._mongo = mongo

    def about(self, collection: str, query: Document) -> list[Document]:
        """Return what the documents of aggregates say of themselves."""
        answer = self._run(
            {
                "find": collection,
                "filter": query,
                "projection": dict.fromkeys((*SUBJECT, "_tyk_pump"), 1),
                "batchSize": 10_000,
                "singleBatch": True,
            }
        )
        rows: list[Document] = answer["cursor"]["firstBatch"]
        return rows

    def read(self, collection: str, identity: Any) -> Document | None:
        """Return a document."""
        answer = self._run(
            {
                "find": collection,
                "filter": {"_id": identity},
                "limit": 1,
                "singleBatch": True,
            }
        )
        rows = answer["cursor"]["firstBatch"]
        return rows[0] if rows else None

    def counted(
        self, collection: str, query: Document, update: Document
    ) -> Document | None:
        """Change one document and return it; None where none fits."""
        answer = self._run(
            {
                "findAndModify": collection,
                "query": query,
                "update": _encoded(update),
                "new": True,
            },
            write=True,
        )
        value: Document | None = answer.get("value")
        return value

    def change(
        self,
        collection: str,
        query: Document,
        update: Document,
        *,
        upsert: bool = False,
    ) -> bool:
        """Change one document; say whether one fits, or with `upsert` is made."""
        change = {"q": query, "u": _encoded(update), "upsert": upsert}
        command = {"update": collection, "updates": [change]}
        answer = self._run(command, write=True)
        for error in answer.get("writeErrors", ()):
            text = str(error.get("errmsg", ""))
            raise _judged(error.get("code"), text) or TransientError(text)
        return bool(answer.get("upserted" if upsert else "n"))

    def _run(self, command: Document, *, write: bool = False) -> Document:
        """Run a command; what the server's no means is decided here."""
        database = self._mongo.database
        concern = database.write_concern
        if write and concern.document and concern.acknowledged:
            command["writeConcern"] = concern.document
        try:
            with mongo.translated():
                answer: Document = database.command(command, codec_options=_CODEC)
        except TransientError as exc:
            failure = exc.__cause__
            if isinstance(failure, DocumentTooLarge):
                raise Refused(exc.reason) from exc
            if isinstance(failure, OperationFailure):
                judged = _judged(failure.code, exc.reason)
                if judged is not None:
                    raise judged from exc
            raise
        if "writeConcernError" in answer:
            raise TransientError(str(answer["writeConcernError"].get("errmsg", "")))
        return answer


def _encoded(update: Document) -> RawBSONDocument:
    data = bson.encode(update)
    if len(data) > MAX_UPDATE:
        raise Refused(f"an update of {len(data)} bytes, the limit is {MAX_UPDATE}")
    return RawBSONDocument(data)


def _judged(code: int | None, text: str) -> Exception | None:
    """Return what a refusal means; None where it says nothing about the records."""
    if code in _TOO_LARGE or _TOO_LARGE_TEXT.search(text):
        return TooLarge(text)
    if code == _INVALID_NAMESPACE:
        return NoCollection(text)
    if code == _DUPLICATE:
        return Taken(text)
    return Refused(text) if code in _REFUSED else None
