"""Aggregates in SQL: rows are added to, each record once, by many instances at a time.

With the rows of a batch, in the same transaction, its stream's watermark moves (see
`transport/sql.py`): a retry aggregates only the records that are at or beyond it,
wherever its windows begin. Rows are written in the order of their ids, so instances
that add to the same hour wait for each other, and do not lock each other out.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Annotated, Any, Final, Protocol

import sqlalchemy as sa

from tyk_pump.aggregate import dimensions
from tyk_pump.aggregate.aggregator import Aggregator
from tyk_pump.aggregate.counter import Counter
from tyk_pump.aggregate.dimensions import SPELLINGS, Family
from tyk_pump.aggregate.model import TOTAL, Aggregate, Key, Place
from tyk_pump.aggregate.tags import common_prefixes
from tyk_pump.config.options import doc
from tyk_pump.errors import CodecError, RejectedRecords, TransientError
from tyk_pump.log import ONCE
from tyk_pump.pumps.protocol import Batch
from tyk_pump.record.text import clean
from tyk_pump.transport import sql_aggregates
from tyk_pump.transport.sql import (
    AllRefused,
    Refused,
    SqlOptions,
    Store,
    Table,
    Work,
)
from tyk_pump.transport.sql_aggregates import BY_API, BY_ORG, INDEX, Layout, Texts
from tyk_pump.transport.sql_dialects import Upsert

log = logging.getLogger(__name__)

MANY_TAGS: Final = 1000
LOOKED_UP: Final = 500
"""Ids of one look-up."""


ORGANISATIONS: Final = Layout(BY_ORG, by_api=False)
APIS: Final = Layout(BY_API, by_api=True)


class AggregateOptions(SqlOptions, frozen=True, kw_only=True):
    """What is counted, and into which rows."""

    track_all_paths: Annotated[
        bool, doc("Count the paths of all records, not only of those that ask for it.")
    ] = False
    ignore_tag_prefix_list: Annotated[
        list[str], doc("Tags that begin with one of these are not counted.")
    ] = []
    store_analytics_per_minute: Annotated[
        bool, doc("A row for each minute instead of each hour.")
    ] = False
    threshold_len_tag_list: Annotated[
        int,
        doc(
            "A warning when the records of one write bring more tags than this into "
            "one hour; 0 means 1000, -1 never.",
            ge=-1,
            numeral=True,
        ),
    ] = 0
    ignore_aggregations: Annotated[
        list[str],
        doc(
            "Dimensions without rows, such as `apikeys` or `geo`.",
            env="IGNOREAGGREGATIONSLIST",
        ),
    ] = []
    omit_index_creation: Annotated[
        bool, doc("Give no table an index; another one takes care of that.")
    ] = False

    def aggregator(self, family: Family) -> Aggregator:
        """Return what counts the records of a family."""
        return Aggregator(
            family,
            window=1 if self.store_analytics_per_minute else 60,
            track_all_paths=self.track_all_paths,
            ignored_tag_prefixes=self.ignore_tag_prefix_list,
            ignored=dimensions.known(self.ignore_aggregations),
            by_day=self.table_sharding,
        )

    def store(self, family: Family, name: str) -> AggregateStore:
        """Return what counts the records of a family into the rows of a table."""
        layout = ORGANISATIONS if family == "api" else APIS
        indexes = () if self.omit_index_creation else (INDEX,)
        return AggregateStore(
            self,
            self.aggregator(family),
            Table(name, layout.columns, indexes),
            layout,
            many_tags=self.threshold_len_tag_list or MANY_TAGS,
        )

    def say_unknown(self) -> None:
        """Warn of ignored dimensions that there are not."""
        for name in self.ignore_aggregations:
            if name not in SPELLINGS:
                log.warning("no dimension to ignore", extra={**ONCE, "reason": name})


COUNTED_ONCE: Final = (
    "Each record is counted once, across crashes, restarts and answers that were lost, "
    "by any number of instances: the rows and the position up to which they count, in "
    "`_tyk_pump_watermarks`, are one transaction. With `once` off, and in tables "
    "without transactions, at least once. A replay of dead letters is counted."
)
DIFFERENCES: Final[tuple[str, ...]] = (
    "A record is counted in its own hour or minute, not in that of the first record of "
    "its purge.",
    "A minimum is NULL until there is a hit that is no error, and no error's latency "
    "is one; the row of an hour that the reference began is put right by the next hit.",
    "`counter_last_time` is the time of the latest record, whatever their order.",
    "Averages are exact and 0 without hits; sums end at the greatest 64-bit number.",
    "Rows are also added to on MySQL and MariaDB.",
    "`ignore_aggregations` and `threshold_len_tag_list` have an effect, unknown names "
    "are warned of at the start.",
    "A table for a day is made when there is something to count in it.",
    "Texts that are too long for a column or an index are cut, ids and keys with a "
    "check sum; bytes that are no UTF-8 are U+FFFD, in PostgreSQL NUL characters too.",
    "Records whose rows the database refuses are dead letters; all others are counted.",
    "`type` may be `sqlite`.",
)
DIFFERENCES_BY_API: Final = (
    "Where two organisations have an API of the same id, each has its rows; ids of the "
    "second one's have the organisation in them.",
    "Tables have the index on `dimension`, too, and those of days are migrated.",
    "`track_all_paths` and `ignore_tag_prefix_list` have an effect.",
)


class Counts(Protocol):
    """What turns records into counters."""

    passed_over: int
    """Records of the last `aggregate` that are in no counter."""

    def aggregate(self, records: Iterable[Any]) -> dict[Key, Aggregate]:
        """Return the counters of the records by key."""


class AggregateStore(Store):
    """Adds what batches count to the rows of their hours."""

    def __init__(
        self,
        options: SqlOptions,
        counts: Counts,
        table: Table,
        layout: Layout,
        *,
        many_tags: int = -1,
    ) -> None:
        """Warn when a write brings more tags than `many_tags` into a key's rows."""
        super().__init__(options, table)
        self._counts = counts
        self._layout = layout
        self._many_tags = many_tags
        self._texts: dict[str, Texts] = {}
        self._indexed: set[str] = set()

    def open(self) -> None:
        """Connect, and have the tables and their indexes ready."""
        super().open()
        quote = self._opened().quote
        self._quoted = {c.name: quote(c.name) for c in self._table.columns}
        try:
            if not self._options.table_sharding:
                self._index(self._table.name)
        except BaseException:
            self.close()
            raise

    def write(self, batch: Batch, records: Sequence[Any] | None = None) -> None:
        """Add what the records count that the database has not counted yet.

        `records` are what is counted, where that is not the batch's own.
        """
        items = batch.records if records is None else records
        groups = self._counts.aggregate(items)
        passed_over = self._counts.passed_over
        if not groups:
            batch.left_out = passed_over
            return
        try:
            self._prepare(groups)
            try:
                refused = self._apply(batch, items, groups, singly=False)
            except Refused:
                refused = self._apply(batch, items, groups, singly=True)
        except AllRefused as exc:
            self._texts.clear()
            refused = exc.refused
        except Refused as exc:
            # Not of the rows, then: of the table, say.
            self._texts.clear()
            raise TransientError(str(exc)) from exc
        except TransientError:
            self._texts.clear()
            raise
        batch.left_out = passed_over
        self._look_at_tags(groups)
        if refused:
            raise RejectedRecords(next(iter(refused.values())), rejected=refused)

    def _look_at_tags(self, groups: Mapping[Key, Aggregate]) -> None:
        most = self._many_tags
        for aggregate in groups.values() if most >= 0 else ():
            if len(aggregate.counters) <= most:
                continue
            tags = [p.key for p in aggregate.counters if p.dimension == "tags"]
            if len(tags) > most:
                prefixes = ", ".join(common_prefixes(tags))
                log.warning(
                    "more tags than threshold_len_tag_list",
                    extra={"records": len(tags), "reason": f"common: {prefixes}"},
                )

    def _name(self, key: Key) -> str:
        return f"{self._table.name}_{key.day}" if key.day else self._table.name

    def _prepare(self, groups: Mapping[Key, Aggregate]) -> None:
        """Have the tables, and learn what they and the server take."""
        database = self._opened()
        names = sorted({self._name(key) for key in groups})
        for name in names:
            self._tables.ensure(name)
        new = [name for name in names if name not in self._texts]
        if not new:
            return
        for name in new:
            self._index(name)
        with database.transaction() as connection:
            for name in new:
                widths = database.dialect.widths(connection, database.quote(name))
                self._texts[name] = Texts(self._table.columns, widths)
        if self._encoder is None or self._generation != database.generation:
            quoted = list(self._quoted.values())
            self._encoder = database.dialect.upserter(self._table.columns, quoted)
            self._generation = database.generation

    def _index(self, name: str) -> None:
        """Have the table's index; it is looked for once."""
        if name not in self._indexed:
            self._tables.index(name)
            self._indexed.add(name)

    def _apply(
        self,
        batch: Batch,
        items: Sequence[Any],
        groups: Mapping[Key, Aggregate],
        *,
        singly: bool,
    ) -> dict[int, str]:
        """Write in one transaction; with `singly`, find out what is refused."""
        positions = batch.positions
        refused: dict[int, str] = {}
        with self._marks.begin(batch) as work:
            fresh = work.fresh
            whole = len(fresh) == len(items)
            for index in () if whole else set(range(len(items))).difference(fresh):
                if positions[index] in work.refused:
                    refused[index] = work.refused[positions[index]]
            if not fresh:
                return refused
            if singly:
                some = self._isolate(work, items, fresh, refused)
                if not some:
                    # The worker takes that for a fault of ours, and will ask again.
                    raise AllRefused(refused)
            else:
                if not whole:
                    some_items = [items[index] for index in fresh]
                    groups = self._counts.aggregate(some_items)
                self._put(work.connection, groups)
            work.position = positions[-1] + 1
            work.refused.update({positions[i]: why for i, why in refused.items()})
        return refused

    def _isolate(
        self,
        work: Work,
        items: Sequence[Any],
        part: Sequence[int],
        refused: dict[int, str],
    ) -> bool:
        """Count all records but those that are refused; False: nothing was written.

        Halves what is refused until each record stands alone.
        """
        groups = self._counts.aggregate([items[index] for index in part])
        if not groups:
            return False
        try:
            with self._opened().savepoint(work.connection):
                self._put(work.connection, groups)
        except Refused as exc:
            if len(part) == 1:
                refused[part[0]] = str(exc)
                return False
            middle = len(part) // 2
            first = self._isolate(work, items, part[:middle], refused)
            return self._isolate(work, items, part[middle:], refused) or first
        return True

    def _put(self, connection: sa.Connection, groups: Mapping[Key, Aggregate]) -> None:
        """Add aggregates to their rows, in the order of tables and ids."""
        by_table: dict[str, list[Key]] = {}
        for key in groups:
            by_table.setdefault(self._name(key), []).append(key)
        for name in sorted(by_table):
            keys = sorted(by_table[name])
            shared: set[Key] = set()
            if self._layout.by_api:
                shared = self._shared(connection, name, keys)
            rows = self._rows(name, groups, keys, shared)
            self._upsert(connection, name, rows)

    def _rows(
        self,
        name: str,
        groups: Mapping[Key, Aggregate],
        keys: Sequence[Key],
        shared: Collection[Key],
    ) -> list[Sequence[Any]]:
        """Return the rows of a table in the order of their ids."""
        rows: dict[str, Sequence[Any]] = {}
        made_of: dict[str, tuple[Key, Place, Counter]] = {}
        make, fit = self._layout.row, self._texts[name].fit
        for key in keys:
            both = key in shared
            for place, counter in groups[key].all():
                row = fit(make(key, place, counter, shared=both))
                id_ = row[0]
                if id_ in rows:
                    # An id has no separators: two of them may be one. It must not be
                    # twice in a statement.
                    first, where, before = made_of[id_]
                    both_counters = Counter(identifier=before.identifier)
                    both_counters.add(before)
                    both_counters.add(counter)
                    counter = both_counters
                    row = fit(make(first, where, counter, shared=first in shared))
                    made_of[id_] = first, where, counter
                else:
                    made_of[id_] = key, place, counter
                rows[id_] = row
        return [rows[id_] for id_ in sorted(rows)]

    def _upsert(
        self, connection: sa.Connection, name: str, rows: Sequence[Sequence[Any]]
    ) -> None:
        """Insert rows, or add them to those that are there, in their order."""
        texts = self._texts[name]
        end = sql_aggregates.conflict(self._words(name), self._quoted)
        for doubtful, run in groupby(rows, texts.doubtful):
            part = list(run)
            size = 1 if doubtful else self._size
            for first in range(0, len(part), size):
                some = part[first : first + size]
                if not doubtful:
                    self._insert(connection, name, some, end)
                    continue
                # It depends on what compression makes of it, so always the same.
                try:
                    with self._opened().savepoint(connection):
                        self._insert(connection, name, some, end)
                except Refused:
                    self._insert(connection, name, [texts.short(some[0])], end)

    def _insert(
        self,
        connection: sa.Connection,
        name: str,
        rows: Sequence[Sequence[Any]],
        conflict: str,
    ) -> None:
        assert self._encoder is not None
        try:
            made = [self._encoder.row(row) for row in rows]
        except CodecError as exc:
            raise Refused(str(exc)) from exc
        cursor = connection.connection.cursor()
        try:
            self._encoder.insert(cursor, self._words(name).table, made, conflict)
        finally:
            cursor.close()

    def _words(self, name: str) -> Upsert:
        database = self._opened()
        return database.dialect.upsert(database.quote(name))

    def _shared(
        self, connection: sa.Connection, name: str, keys: Sequence[Key]
    ) -> set[Key]:
        """Return the keys whose API's rows belong to another organisation.

        Ids of such rows are made from the API's id alone. Whose they are says the row
        of the total, and an instance that finds none makes one without a hit.
        """
        totals = {
            key: self._texts[name].fit(self._layout.row(key, TOTAL, Counter()))
            for key in keys
        }
        owners = self._owners(connection, name, totals.values(), "")
        missing = {row[0]: row for row in reversed(totals.values())}
        for id_ in owners:
            del missing[id_]
        if missing:
            words = self._words(name)
            end = sql_aggregates.untouched(words, self._quoted)
            self._insert(connection, name, [missing[i] for i in sorted(missing)], end)
            owners |= self._owners(connection, name, missing.values(), words.lock)
        return {
            key
            for key, row in totals.items()
            # An empty one is of a table that had no such column.
            if owners.get(row[0]) not in {None, row[1], _plain(row[1])}
        }

    def _owners(
        self,
        connection: sa.Connection,
        name: str,
        rows: Iterable[Sequence[Any]],
        lock: str,
    ) -> dict[str, str | None]:
        """Return ids of rows that are there, with their organisations."""
        ids = sorted({row[0] for row in rows})
        quote = self._quoted
        statement = sa.text(
            f"SELECT {quote['id']}, {quote['org_id']}"
            f" FROM {self._opened().quote(name)}"
            f" WHERE {quote['id']} IN :ids{lock}"
        ).bindparams(sa.bindparam("ids", expanding=True))
        found: dict[str, str | None] = {}
        for first in range(0, len(ids), LOOKED_UP):
            some = ids[first : first + LOOKED_UP]
            for id_, owner in connection.execute(statement, {"ids": some}):
                found[id_] = owner
        return found


def _plain(text: str) -> str:
    """Return a text as a database may show it that takes not every character."""
    return clean(text).replace("\0", "\ufffd")
