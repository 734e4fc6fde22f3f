"""Aggregates in MongoDB: a document per organisation and hour, each record once in it.

A document notes under `_tyk_pump` up to which position it holds each stream (`marks`),
so that whatever is repeated adds nothing. Three commands, in this order:

A  where there is none yet: an upsert that only sets on insert, by an `_id` made of
   what the document is for. One that the reference has made is found first and used.
B  the counts, by $inc, $min and $max, together with the new mark, if the mark is the
   one that we know and the document is not full. Else the document is read again.
C  averages and lists, made of the document that B returned, if nobody has done another
   B since: each B raises `version`, C notes the one that it was made for (`averaged`).
   Who dies between B and C leaves a difference, which the retry of the records sees.

A document that can take no more is marked as full, without growing: what it does not
hold goes into documents of half its minutes. The way of a record is thus the same at
each attempt, and so are the marks that it meets.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from bson.int64 import Int64
from bson.objectid import ObjectId

from tyk_pump import cursors
from tyk_pump.aggregate import dimensions
from tyk_pump.aggregate.aggregator import Aggregator
from tyk_pump.aggregate.buckets import Buckets
from tyk_pump.aggregate.dimensions import MCP, SHARED, SPELLINGS, Family
from tyk_pump.aggregate.keys import bson_name
from tyk_pump.aggregate.model import Aggregate, Key
from tyk_pump.aggregate.tags import common_prefixes
from tyk_pump.config.options import doc
from tyk_pump.errors import RejectedRecords, TransientError
from tyk_pump.log import ONCE
from tyk_pump.pumps.protocol import Batch
from tyk_pump.record.analytics import AnalyticsRecord
from tyk_pump.record.bson import date
from tyk_pump.record.gotime import civil, rfc3339_any_year
from tyk_pump.record.text import clean
from tyk_pump.transport import mongo, mongo_counters
from tyk_pump.transport.mongo import Indexes, Mongo, MongoOptions
from tyk_pump.transport.mongo_documents import (
    Document,
    Documents,
    NoCollection,
    Refused,
    Taken,
    TooLarge,
)

log = logging.getLogger(__name__)

KEEP_SECONDS: Final = 30 * 86_400.0
"""A mark so old goes with the next counts: its stream has long been settled."""
ATTEMPTS: Final = 20
"""How often a document that others change is read again, before the worker waits."""
INDEXES: Final = (
    mongo.single("expireAt", ttl=True),
    mongo.single("timestamp"),
    mongo.single("orgid"),
)
_KNOWN: Final = 4096
_AT_ONCE: Final = 100


class AggregateOptions(MongoOptions, frozen=True, kw_only=True):
    """What is counted, and into which documents."""

    use_mixed_collection: Annotated[
        bool,
        doc(
            "Count into a collection of all organisations, too: "
            "`tyk_analytics_aggregates`, of MCP `tyk_mcp_analytics_aggregate`."
        ),
    ] = False
    track_all_paths: Annotated[
        bool, doc("Count the paths of all records, not only of those that ask for it.")
    ] = False
    ignore_tag_prefix_list: Annotated[
        list[str], doc("Tags that begin with one of these are not counted.")
    ] = []
    threshold_len_tag_list: Annotated[
        int,
        doc(
            "So many tags in a document give a warning. 0 stands for the default, -1 "
            "for none.",
            ge=-1,
        ),
    ] = 1000
    store_analytics_per_minute: Annotated[
        bool, doc("A document per minute, whatever `aggregation_time` is.")
    ] = False
    aggregation_time: Annotated[
        int,
        doc("Minutes per document, 1 to 60. Any other number stands for 60."),
    ] = 60
    enable_aggregate_self_healing: Annotated[
        bool,
        doc(
            "What a document that is too large cannot take goes into documents of half "
            "its minutes. Without it the pump waits, and says why."
        ),
    ] = False
    ignore_aggregations: Annotated[
        list[str],
        doc(
            "Dimensions that are not counted: apiid, errors, versions, apikeys, "
            "oauthids, geo, tags, endpoints, keyendpoints, oauthendpoints, "
            "apiendpoints.",
            env="IGNOREAGGREGATIONSLIST",
        ),
    ] = []

    @property
    def window(self) -> int:
        """Return the minutes of a document."""
        if self.store_analytics_per_minute:
            return 1
        return self.aggregation_time if 1 <= self.aggregation_time <= 60 else 60


class Kind(NamedTuple):
    """What one family's documents are called."""

    family: Family
    collection: str
    """The prefix of an organisation's collection."""
    mixed: str
    """The collection of all organisations."""


class _Held(Exception):
    """The records of a document cannot be counted before an operator has acted."""


class _Known(msgspec.Struct):
    """What we know of a document."""

    id: Any
    mark: int | None
    """Of our stream and cursor."""
    others: Mapping[str, int]
    """Marks of those who had or have the stream beside us, by name."""
    window: int | None
    """Minutes; None where the reference has made it."""
    full: bool = False
    repair: bool = False
    """Averages and lists are not those of the last counts."""
    stale: Mapping[str, Any] = {}
    """Marks that are of no use, with their times."""


class _Task(msgspec.Struct):
    """Records of a batch that belong into one document."""

    batch: Batch
    key: Key
    collection: str
    start: int
    window: int
    indexes: Sequence[int] = ()
    aggregate: Aggregate | None = None
    """Of just these records; None: not known yet."""
    refused: dict[int, str] = {}
    """Index -> reason, of all tasks of a batch."""

    @property
    def place(self) -> tuple[Any, ...]:
        """Return what identifies the document, and whose progress in it we know."""
        return self.collection, self.key, self.start, self.window, self.mark

    @property
    def mark(self) -> str:
        """Return the name of our mark."""
        return self._mark_of(self.batch.watermark)

    def fresh(self, marks: Mapping[str, int]) -> Sequence[int]:
        """Return those of our indexes that the document does not hold."""
        positions = [self.batch.positions[index] for index in self.indexes]
        fresh = cursors.fresh(positions, self._mark_of(self.batch.cursor), marks)
        return [self.indexes[at] for at in fresh]

    def knows(self, mark: str) -> bool:
        """Say whether a mark is of our cursor in our stream, whoever's it is."""
        return cursors.start_of(mark, self._mark_of(self.batch.cursor)) is not None

    def _mark_of(self, cursor: str) -> str:
        return bson_name(clean(f"{self.batch.stream} {cursor}"))

    def __str__(self) -> str:
        org, api, time_ = self.key.org_id, self.key.api_id, rfc3339_any_year
        owner = f"{org!r}, API {api!r}" if api else f"{org!r}"
        begin = time_((self.start, 0), "UTC")
        return f"{self.collection}, {owner}, {begin}, {self.window} min"


class Aggregates:
    """Counts records into the documents of one family."""

    def __init__(self, options: AggregateOptions, kind: Kind) -> None:
        self._options = options
        self._kind = kind
        self._mongo = Mongo(options)
        self._documents = Documents(self._mongo)
        self._indexes = Indexes(self._mongo, options, INDEXES)
        self._buckets = Buckets(options.window)
        self._aggregator = Aggregator(
            kind.family,
            window=options.window,
            track_all_paths=options.track_all_paths,
            ignored_tag_prefixes=options.ignore_tag_prefix_list,
            ignored=dimensions.known(options.ignore_aggregations),
        )
        self._known: OrderedDict[tuple[Any, ...], _Known] = OrderedDict()
        # What was found of documents of this batch that are not known yet.
        self._ahead: dict[tuple[Any, ...], list[Document]] = {}
        self._warned: OrderedDict[Any, None] = OrderedDict()
        self.fields = self._aggregator.fields

    def open(self) -> None:
        """Connect; say what of the options has no meaning."""
        for name in self._options.ignore_aggregations:
            if name not in SPELLINGS:
                log.warning(
                    "ignore_aggregations: no such dimension: %s", name, extra=ONCE
                )
        minutes = self._options.aggregation_time
        if not 1 <= minutes <= 60:
            log.warning(
                "aggregation_time is not 1 to 60, taken as 60: %d", minutes, extra=ONCE
            )
        self._mongo.open()

    def probe(self) -> str:
        """Say what answers."""
        return self._mongo.probe()

    def close(self) -> None:
        """Close every connection."""
        self._mongo.close()

    def write(self, batch: Batch) -> None:
        """Return when every record is counted, else raise a WriteError."""
        refused: dict[int, str] = {}
        held: list[Key] = []
        why = ""
        groups = self._grouped(batch.records)
        batch.left_out = self._aggregator.passed_over
        self._look_ahead(batch, groups)
        left = list(groups)
        while left:
            key = left[0]
            try:
                self._count(batch, key, groups[key], refused)
            except _Held as exc:
                # Of no other document is anything known: they are not to wait.
                held.append(key)
                why = why or str(exc)
            except TransientError as exc:
                pending = self._members(batch.records, {*held, *left})
                raise TransientError(
                    exc.reason,
                    pending=[index for index in pending if index not in refused],
                    rejected=refused,
                    retry_after=exc.retry_after,
                ) from exc
            left.pop(0)
        if held:
            pending = self._members(batch.records, set(held))
            pending = [index for index in pending if index not in refused]
            raise TransientError(why, pending=pending, rejected=refused)
        if refused:
            raise RejectedRecords(next(iter(refused.values())), rejected=refused)

    def _grouped(self, records: Sequence[AnalyticsRecord]) -> dict[Key, Aggregate]:
        """Return the aggregates by keys whose names MongoDB can hold."""
        found: dict[Key, Aggregate] = {}
        for key, aggregate in self._aggregator.aggregate(records).items():
            plain = key._replace(org_id=clean(key.org_id), api_id=clean(key.api_id))
            if plain in found:
                found[plain].merge(aggregate)
            else:
                found[plain] = aggregate
        return found

    def _members(self, records: Sequence[AnalyticsRecord], keys: set[Key]) -> list[int]:
        """Return the indexes of the records that are counted under the keys."""
        by_api = self._kind.family != "api"
        found = []
        for index, record in enumerate(records):
            org, api = clean(record.org_id), clean(record.api_id) if by_api else ""
            bucket, _ = self._buckets.of(record.timestamp, record.zone)
            if Key(org, api, bucket.start) not in keys:
                continue
            if self._aggregator.counts(record):
                found.append(index)
        return found

    def _count(
        self, batch: Batch, key: Key, aggregate: Aggregate, refused: dict[int, str]
    ) -> None:
        """Count the records of a key in each collection."""
        indexes: Sequence[int] = range(len(batch))
        whole: Aggregate | None = aggregate
        for collection in self._collections(key):
            before = len(refused)
            task = self._task(batch, key, collection)
            self._book(
                msgspec.structs.replace(
                    task, indexes=indexes, aggregate=whole, refused=refused
                )
            )
            if len(refused) > before:
                # Nowhere, rather than in one of two.
                indexes, whole = [i for i in indexes if i not in refused], None

    def _collections(self, key: Key) -> list[str]:
        own = f"{self._kind.collection}{key.org_id}"
        return [own, self._kind.mixed] if self._options.use_mixed_collection else [own]

    def _task(self, batch: Batch, key: Key, collection: str) -> _Task:
        return _Task(
            batch=batch,
            key=key,
            collection=collection,
            start=key.start,
            window=self._options.window,
        )

    # One document

    def _book(self, task: _Task) -> None:
        """See that the document of a task holds its records, each once."""
        known: _Known | None = None
        for _ in range(ATTEMPTS):
            try:
                known = self._known.get(task.place) or self._find(task)
                known = known or self._make(task)
                if known is None:
                    continue
                if self._settle(task, known):
                    return
            except NoCollection as exc:
                self._refuse(task, self._of_key(task), str(exc))
                return
            except Refused as exc:
                self._divide(task, str(exc))
                return
            except TooLarge as exc:
                if self._is_narrowed(task, known, str(exc)):
                    return
            self._known.pop(task.place, None)
        raise TransientError(f"others change this document all the time: {task}")

    def _settle(self, task: _Task, known: _Known) -> bool:
        """Add what the document does not hold; say whether it holds all now."""
        marks = dict(known.others)
        if known.mark is not None:
            marks[task.mark] = known.mark
        if marks:
            left = task.fresh(marks)
            if len(left) < len(task.indexes):
                task.indexes, task.aggregate = left, None
        if known.full:
            self._narrow(task)
            return self._confirm(task, known)
        if task.aggregate is None:
            records = [task.batch.records[index] for index in task.indexes]
            task.aggregate = self._grouped(records).get(task.key)
        if task.aggregate is None:
            return self._confirm(task, known)
        document = self._add(task, known, mongo_counters.update_of(task.aggregate))
        if document is None:
            return False
        mark = task.batch.positions[task.indexes[-1]] + 1
        fresh = _Known(known.id, mark, known.others, task.window, repair=True)
        _keep(self._known, task.place, fresh)
        self._derive(task, document)
        fresh.repair = False
        return True

    def _find(self, task: _Task) -> _Known | None:
        """Look for the document, whoever has made it."""
        rows = self._ahead.pop((task.collection, _named(self._subject(task))), None)
        if rows is None:
            self._indexes.ensure(task.collection)
            rows = self._documents.about(task.collection, self._subject(task))
        identity = self._identity(task)
        found = []
        for row in rows:
            ours = row.get("_tyk_pump") or {}
            window, full = ours.get("window"), ours.get("full", False)
            if window is not None and window != task.window and full:
                # A wider document that is full: we come from there.
                continue
            marks = ours.get("marks") or {}
            mark = marks.get(task.mark)
            rank = (
                window != task.window,
                window is not None,
                mark is None,
                row["_id"] != identity,
                repr(row["_id"]),
            )
            known = _Known(
                row["_id"],
                None if mark is None else int(mark["p"]),
                {
                    name: int(other["p"])
                    for name, other in marks.items()
                    if name != task.mark and task.knows(name)
                },
                window,
                full,
                ours.get("version", 0) != ours.get("averaged", 0),
                _stale(marks, task.mark),
            )
            found.append((rank, known))
        if not found:
            return None
        _, known = min(found, key=lambda one: one[0])
        _keep(self._known, task.place, known)
        return known

    def _look_ahead(self, batch: Batch, keys: Collection[Key]) -> None:
        """Look for all documents at once that are not known yet."""
        self._ahead.clear()
        wanted: dict[str, list[Document]] = {}
        for key in keys:
            for collection in self._collections(key):
                task = self._task(batch, key, collection)
                if task.place not in self._known:
                    wanted.setdefault(collection, []).append(self._subject(task))
        for collection, subjects in wanted.items():
            if len(subjects) == 1:
                continue
            self._ahead |= {(collection, _named(one)): [] for one in subjects}
            rows: list[Document] = []
            try:
                self._indexes.ensure(collection)
                for at in range(0, len(subjects), _AT_ONCE):
                    query = {"$or": subjects[at : at + _AT_ONCE]}
                    rows += self._documents.about(collection, query)
            except (NoCollection, Refused):
                # Said again, and judged, where the records are counted.
                self._ahead.clear()
                continue
            for row in rows:
                found = self._ahead.get((collection, _named(row)))
                if found is not None:
                    found.append(row)

    def _make(self, task: _Task) -> _Known | None:
        """A: make sure that there is a document; return it if it is a new one."""
        zone = task.aggregate.zone if task.aggregate else self._zone(task)
        shown = civil(task.start, zone)
        ours = {"window": task.window, "version": 0, "averaged": 0, "full": False}
        names = ("year", "month", "day", "hour")
        made = {
            **self._subject(task),
            "timeid": {name: getattr(shown, name) for name in names},
            "_tyk_pump": {**ours, "marks": {}},
        }
        # Where it is taken, another instance has made it in the same moment.
        with contextlib.suppress(Taken):
            query = {"_id": self._identity(task)}
            if self._documents.change(
                task.collection, query, {"$setOnInsert": made}, upsert=True
            ):
                known = _Known(query["_id"], None, {}, task.window)
                _keep(self._known, task.place, known)
                return known
        return None

    def _add(
        self, task: _Task, known: _Known, update: dict[str, Document]
    ) -> Document | None:
        """B: count; return the document, None where it is not as we know it."""
        path, end = f"_tyk_pump.marks.{task.mark}", task.indexes[-1]
        position = Int64(task.batch.positions[end] + 1)
        query = {
            "_id": known.id,
            f"{path}.p": {"$exists": False} if known.mark is None else known.mark,
            "_tyk_pump.full": {"$ne": True},
        }
        for name, other in known.others.items():
            query[f"_tyk_pump.marks.{name}.p"] = other
        now = date((int(time.time()), 0))
        put = {**update["$set"], path: {"p": position, "t": now}}
        if known.window != task.window:
            put["_tyk_pump.window"] = task.window
        made = {**update, "$inc": {**update["$inc"], "_tyk_pump.version": 1}}
        made["$set"] = put
        if known.stale:
            made["$unset"] = {f"_tyk_pump.marks.{name}": "" for name in known.stale}
            for name, at in known.stale.items():
                query[f"_tyk_pump.marks.{name}.t"] = at
        try:
            return self._documents.counted(task.collection, query, made)
        except Refused as exc:
            if "$inc" not in str(exc):
                raise
        # A sum would leave the 64 bits of the server: it stays at their end.
        document = self._documents.read(task.collection, known.id)
        if document is None:
            return None
        made["$inc"] = mongo_counters.within_64_bits(made["$inc"], document)
        query["_tyk_pump.version"] = _version(document) or {"$in": [0, None]}
        return self._documents.counted(task.collection, query, made)

    def _derive(self, task: _Task, document: Document) -> None:
        """C: averages and lists, unless another B has been done since."""
        dimensions = SHARED if self._kind.family == "api" else (*SHARED, *MCP)
        changed = mongo_counters.derived(document, dimensions)
        version = _version(document)
        query = {"_id": document["_id"], "_tyk_pump.version": version}
        done = {"_tyk_pump.averaged": version}
        averages = {p: v for p, v in changed.items() if not mongo_counters.is_list(p)}
        for wanted in (changed, averages, {}):
            try:
                self._documents.change(
                    task.collection, query, {"$set": {**wanted, **done}}
                )
                break
            except (TooLarge, Refused) as exc:
                log.warning(
                    "document is too large for its averages and lists: %s",
                    task,
                    extra={"reason": str(exc)},
                )
        self._watch_tags(task, document)

    def _confirm(self, task: _Task, known: _Known) -> bool:
        """See that what a document holds already is safe, and derived of."""
        if known.mark is not None:
            path = f"_tyk_pump.marks.{task.mark}.p"
            query = {"_id": known.id, path: known.mark}
            if not self._documents.change(
                task.collection, query, {"$max": {path: Int64(known.mark)}}
            ):
                return False
        if known.repair:
            document = self._documents.read(task.collection, known.id)
            if document is not None:
                self._derive(task, document)
            known.repair = False
        return True

    # What does not fit

    def _divide(self, task: _Task, why: str) -> None:
        """Find the records for which an update is refused."""
        task.indexes = self._of_key(task)
        if len(task.indexes) <= 1:
            self._refuse(task, task.indexes, why)
            return
        middle = len(task.indexes) // 2
        for half in (task.indexes[:middle], task.indexes[middle:]):
            part = msgspec.structs.replace(task, indexes=half, aggregate=None)
            self._book(part)

    def _refuse(self, task: _Task, indexes: Sequence[int], why: str) -> None:
        task.refused.update(dict.fromkeys(indexes, why))

    def _is_narrowed(self, task: _Task, known: _Known | None, why: str) -> bool:
        """Close a document that is full; say whether the task is done by that."""
        if not self._options.enable_aggregate_self_healing:
            raise _Held(
                f"too large: {task}: {why}. enable_aggregate_self_healing would go on "
                "in documents of fewer minutes"
            )
        if task.window == 1:
            task.indexes = self._of_key(task)
            if len(task.indexes) > 1:
                self._divide(task, why)
                return True
            raise _Held(
                f"too large even for a minute: {task}: {why}. ignore_aggregations, "
                "ignore_tag_prefix_list and track_all_paths decide on what is counted"
            )
        log.warning(
            "document is too large, going on in smaller ones: %s",
            task,
            extra={"reason": why},
        )
        if known is not None:
            put: Document = {"_tyk_pump.full": True}
            if known.window != task.window:
                put["_tyk_pump.window"] = task.window
            try:
                self._documents.change(
                    task.collection, {"_id": known.id}, {"$set": put}
                )
            except TooLarge:
                # The reference's, and so full that not even this fits: nor will counts.
                known.full = True
                return self._settle(task, known)
        return False

    def _narrow(self, task: _Task) -> None:
        """Count what a full document does not hold into those of half its minutes."""
        window = task.window // 2
        parts: dict[int, list[int]] = {}
        for index in self._of_key(task):
            seconds = task.batch.records[index].timestamp[0]
            # From its begin on: each lies within this one, whatever divides 60.
            start = seconds - (seconds - task.start) % (window * 60)
            parts.setdefault(start, []).append(index)
        for start, indexes in sorted(parts.items()):
            part = msgspec.structs.replace(
                task, start=start, window=window, indexes=indexes, aggregate=None
            )
            self._book(part)

    def _of_key(self, task: _Task) -> list[int]:
        """Return the indexes of a task without the records of other keys."""
        members = self._members(
            [task.batch.records[index] for index in task.indexes], {task.key}
        )
        return [task.indexes[index] for index in members]

    def _zone(self, task: _Task) -> str:
        return max((task.batch.records[i].zone for i in task.indexes), default="")

    def _watch_tags(self, task: _Task, document: Document) -> None:
        """Warn once of a document with many tags."""
        limit = self._options.threshold_len_tag_list or 1000
        tags = document.get("tags") or {}
        if limit < 0 or len(tags) <= limit or repr(document["_id"]) in self._warned:
            return
        _keep(self._warned, repr(document["_id"]), None)
        log.warning(
            "more than %d tags in a document, which may slow down analytics: most "
            "have in common %s; leave tags out with ignore_tag_prefix_list",
            limit,
            common_prefixes(tags),
        )

    # Commands

    def _subject(self, task: _Task) -> Document:
        """Return what a document is found by, in the reference's words."""
        found = {"orgid": task.key.org_id, "timestamp": date((task.start, 0))}
        if self._kind.family != "api":
            found["owner_apiid"] = task.key.api_id
        return found

    def _identity(self, task: _Task) -> ObjectId:
        """Return the `_id` of a document that we make."""
        # One of narrower minutes may begin where the wider one does.
        narrow = task.window if task.window != self._options.window else 0
        key = task.key
        parts = (self._kind.family, key.org_id, key.api_id, task.start, narrow)
        seconds = (task.start % 2**32).to_bytes(4, "big")
        digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
        return ObjectId(seconds + digest)


def _keep(kept: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > _KNOWN:
        kept.popitem(last=False)


def _named(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what a document is for."""
    return row.get("orgid"), int(row.get("timestamp", 0)), row.get("owner_apiid")


def _stale(marks: Mapping[str, Any], ours: str) -> dict[str, Any]:
    oldest = (time.time() - KEEP_SECONDS) * 1000
    return {
        name: mark["t"]
        for name, mark in marks.items()
        if name != ours and int(mark["t"]) < oldest
    }


def _version(document: Mapping[str, Any]) -> int:
    return int((document.get("_tyk_pump") or {}).get("version", 0))


GUARANTEE: Final = (
    "Each record is counted once: a document notes, with the counts, up to which place "
    "of the stream it holds the records. So it is whatever fails in between, however "
    "often a batch is repeated, and with several instances at the same hour. After a "
    "crash `aggregation_time` must not change before the rest is delivered."
)
DIFFERENCES: Final = (
    "Each record is counted in its own hour (or minutes); before, all records of a "
    "purge went into the hour of an organisation's first one.",
    "Windows of 2 to 59 minutes begin at the minutes of the hour that are multiples of "
    "them, whatever the traffic; before they began with the first record. Nothing is "
    "read at the start.",
    "One document per organisation (with MCP: and API) and window: its `_id` is made "
    "of them. A document that is there already is used, whoever has made it.",
    "A field `_tyk_pump` in each document has the places up to which it holds streams. "
    "Places that are 30 days old are removed.",
    "Network numbers add up; before, each purge overwrote them.",
    "Minima are those of answers below 400, without what -1 records and errors made of "
    "them. `lasttime` is the latest; `expireAt` too, so that a record with a short "
    "life does not end that of a whole hour.",
    "`requesttime` in `lists` is the present one; before it was one write old.",
    "Sums stay at the end of 64 bits; before they became negative.",
    "All keys are escaped: a dot is written `%2E`, a `$` at the begin `%24`, NUL "
    "`%00`, a `%` that would be read as one of these `%25`, the empty key `%`. Dots in "
    "paths stay `\\u2e`. Bytes that are no UTF-8 are stored as U+FFFD.",
    "Self-healing closes the document that is full and goes on in documents of half "
    "its minutes, for that organisation and hour alone; nothing is counted twice. "
    "Where it is off, or a minute is too large, the records wait, and the others go "
    "on.",
    "Records of an organisation whose name no collection can have become dead letters.",
    "Of `lists`, only elements that have changed are written.",
    "Reads go to the primary, whatever `mongo_session_consistency` is.",
    "A failure with one document does not keep the others from being counted.",
    "Unknown names in `ignore_aggregations` give one warning, at the start. The "
    "warning of many tags is given once per document.",
    "A connection that cannot be made is tried again; the process does not end.",
    "`w=0` in the URL is not followed: a write that nobody confirms cannot be trusted.",
)
