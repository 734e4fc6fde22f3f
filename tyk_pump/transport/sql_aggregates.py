"""Aggregates as rows of SQL tables: a row per counter, as a Dashboard reads them.

A row's id is made from what it counts, in the reference's way: its rows are added to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final

import msgspec

from tyk_pump.aggregate.counter import Counter, saturated
from tyk_pump.aggregate.model import Key, Place
from tyk_pump.record.analytics import MAX_INT
from tyk_pump.record.columns import Column, Kind
from tyk_pump.transport.sql_dialects import Index, Upsert

_COUNTER: Final = (
    Column("counter_hits", Kind.INT),
    Column("counter_success", Kind.INT),
    Column("counter_error", Kind.INT),
    Column("counter_request_time", Kind.FLOAT),
    Column("counter_total_request_time", Kind.FLOAT),
    Column("counter_identifier", Kind.TEXT),
    Column("counter_human_identifier", Kind.TEXT),
    Column("counter_last_time", Kind.TIME),
    Column("counter_open_connections", Kind.INT),
    Column("counter_closed_connections", Kind.INT),
    Column("counter_bytes_in", Kind.INT),
    Column("counter_bytes_out", Kind.INT),
    Column("counter_max_upstream_latency", Kind.INT),
    Column("counter_min_upstream_latency", Kind.MAYBE),
    Column("counter_total_upstream_latency", Kind.INT),
    Column("counter_upstream_latency", Kind.FLOAT),
    Column("counter_max_latency", Kind.INT),
    Column("counter_min_latency", Kind.MAYBE),
    Column("counter_total_latency", Kind.INT),
    Column("counter_latency", Kind.FLOAT),
    Column("counter_error_map", Kind.TEXT),
    Column("counter_error_list", Kind.TEXT),
)
_OWN_CODES: Final = (
    *("1x", "200", "201", "2x", "301", "302", "303", "304", "3x", "400", "401", "403"),
    *("404", "429", "4x", "500", "501", "502", "503", "504", "5x"),
)
_CODES: Final = tuple(Column(f"code_{code}", Kind.INT) for code in _OWN_CODES)
_PLACE_OF: Final = {code: at for at, code in enumerate(_OWN_CODES)}
_NO_CODES: Final = (0,) * len(_OWN_CODES)

_ID: Final = Column("id", Kind.KEY)
_START: Final = Column("timestamp", Kind.INT)
_WHAT: Final = (
    Column("org_id", Kind.TEXT),
    Column("dimension", Kind.TEXT),
    Column("dimension_value", Kind.TEXT),
)
BY_ORG: Final = (_ID, *_COUNTER, _START, *_WHAT, *_CODES)
"""The columns of an organisation's rows."""
BY_API: Final = (_ID, *_WHAT, Column("api_id", Kind.TEXT), *_COUNTER, *_CODES, _START)
"""The columns of an API's rows: of GraphQL and MCP."""

INDEX: Final = Index(
    "idx_dimension", ("dimension", "timestamp", "org_id", "dimension_value")
)

LONG_ID: Final = 2400
LONG_TEXT: Final = 400
"""Beyond so many characters PostgreSQL may refuse a text in an index, which has room
for 2700 bytes of a row after compression."""
SHORT: Final = 191
"""Characters of a text that is too long, made shorter."""


class Layout(msgspec.Struct, frozen=True):
    """How the rows of a family are made."""

    columns: tuple[Column, ...]
    by_api: bool
    """Ids are made from the API's id, not from the organisation's."""
    least: int | None = None
    """What stands in the column of a minimum that there is not."""

    def row(
        self, key: Key, place: Place, counter: Counter, *, shared: bool = False
    ) -> list[Any]:
        """Return the values of a row.

        `shared` is for an API id that is another organisation's, too: both go into
        the row's id.
        """
        value = place.dimension_value
        owner = key.api_id if self.by_api else key.org_id
        if shared:
            owner = f"{key.org_id}{owner}"
        text = f"{key.start}{owner}{place.dimension}{value}"
        name = text.encode("utf-8", "surrogateescape").hex()
        cells = self._cells(counter)
        codes = _codes(counter.error_map) if counter.error_map else _NO_CODES
        what = key.org_id, place.dimension, value
        if self.by_api:
            return [name, *what, key.api_id, *cells, *codes, key.start]
        return [name, *cells, key.start, *what, *codes]

    def _cells(self, counter: Counter) -> tuple[Any, ...]:
        least, least_upstream = counter.min_latency, counter.min_upstream_latency
        if least is None:
            least = least_upstream = self.least
        time = counter.total_request_time
        return (
            counter.hits,
            counter.success,
            counter.errors,
            counter.request_time,
            time if -MAX_INT <= time <= MAX_INT else float(time),
            counter.identifier,
            counter.human_identifier,
            counter.last_time,
            saturated(counter.open_connections),
            saturated(counter.closed_connections),
            saturated(counter.bytes_in),
            saturated(counter.bytes_out),
            counter.max_upstream_latency,
            least_upstream,
            saturated(counter.total_upstream_latency),
            counter.upstream_latency,
            counter.max_latency,
            least,
            saturated(counter.total_latency),
            counter.latency,
            "{}",
            "[]",
        )


def _codes(error_map: Mapping[str, int]) -> Sequence[int]:
    """Return the hits by code, or by the first digit of one without a column."""
    found = list(_NO_CODES)
    for code, hits in error_map.items():
        at = _PLACE_OF.get(code)
        if at is None:
            at = _PLACE_OF.get(f"{code[:1]}x")
        if at is not None:
            found[at] += hits
    return found


class Texts:
    """Makes the texts of rows fit into the columns of one table."""

    def __init__(self, columns: Sequence[Column], widths: Mapping[str, int]) -> None:
        """`widths` are the lengths of the columns that have one."""
        names = [column.name for column in columns]
        self._distinct = [
            (names.index(name), widths.get(name, SHORT), name)
            for name in ("id", "org_id", "dimension_value", "api_id")
            if name in names
        ]
        self._narrow = [spot for spot in self._distinct if spot[2] in widths]
        self._cut = [
            (at, widths[name])
            for at, name in enumerate(names)
            if name in widths and name not in {spot[2] for spot in self._distinct}
        ]
        self._bounded = bool(widths)

    def fit(self, row: list[Any]) -> list[Any]:
        """Shorten what is longer than its column; keys stay distinct."""
        if self._bounded:
            for at, width, _ in self._narrow:
                if len(row[at]) > width:
                    row[at] = shortened(row[at], width)
            for at, width in self._cut:
                if len(row[at]) > width:
                    row[at] = row[at][:width]
        return row

    def doubtful(self, row: Sequence[Any]) -> bool:
        """Say whether an index may have no room for a row that fits the columns."""
        if self._bounded:
            return False
        return len(row[0]) > LONG_ID or any(
            len(row[at]) > LONG_TEXT for at, _, _ in self._distinct[1:]
        )

    def short(self, row: Sequence[Any]) -> list[Any]:
        """Return a row that any index has room for."""
        made = list(row)
        for at, width, _ in self._distinct:
            made[at] = shortened(made[at], min(width, SHORT))
        return made


def shortened(text: str, width: int) -> str:
    """Return a text cut to a width, with a check sum of what was longer."""
    if len(text) <= width:
        return text
    sum_ = sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
    head = text[: max(0, width - len(sum_) - 1)]
    return f"{head}:{sum_}" if head else sum_[:width]


_AVERAGES: Final = {
    "counter_request_time": "counter_total_request_time",
    "counter_upstream_latency": "counter_total_upstream_latency",
    "counter_latency": "counter_total_latency",
}
_LEAST: Final = ("counter_min_upstream_latency", "counter_min_latency")
_LATEST: Final = (
    *("counter_max_upstream_latency", "counter_max_latency", "counter_last_time"),
)
_SUMS: Final = (
    *("counter_hits", "counter_success", "counter_error", "counter_total_request_time"),
    *(column.name for column in _CODES),
)
_BOUNDED_SUMS: Final = (
    *("counter_open_connections", "counter_closed_connections", "counter_bytes_in"),
    *("counter_bytes_out", "counter_total_upstream_latency", "counter_total_latency"),
)


def conflict(words: Upsert, quote: Mapping[str, str]) -> str:
    """Return the end of an INSERT that adds to the rows that are there.

    `quote` has the quoted names. MySQL assigns from left to right and reads what it
    has assigned: what reads several columns comes before these are changed.
    """
    made = dict(_assignments(words, quote))
    head = words.update.format(quote["id"])
    return head + ", ".join(f"{quote[name]} = {made[name]}" for name in made)


def untouched(words: Upsert, quote: Mapping[str, str]) -> str:
    """Return the end of an INSERT that leaves the rows that are there as they are."""
    key = quote["id"]
    return f"{words.update.format(key)}{key} = {words.stored}.{key}"


def _assignments(words: Upsert, quote: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield columns and what they become, in an order that is good everywhere."""

    def old(name: str) -> str:
        return f"{words.stored}.{quote[name]}"

    def had(name: str) -> str:
        # A column that the table was given later is empty in older rows.
        return f"COALESCE({old(name)}, 0)"

    def new(name: str) -> str:
        return words.incoming.format(quote[name])

    hits = f"({had('counter_hits')} + {new('counter_hits')})"
    for name, total in _AVERAGES.items():
        yield (
            name,
            f"CASE WHEN {hits} = 0 THEN 0"
            f" ELSE ({words.one} * {had(total)} + {new(total)}) / {hits} END",
        )
    # A number of a row without a hit that is no error is not of such a hit.
    some = f"{had('counter_hits')} > {had('counter_error')}"
    for name in _LEAST:
        yield (
            name,
            f"CASE WHEN {some} AND ({new(name)} IS NULL OR {old(name)} < {new(name)})"
            f" THEN {old(name)} ELSE {new(name)} END",
        )
    for name in _LATEST:
        yield (
            name,
            f"CASE WHEN {old(name)} IS NULL OR {new(name)} > {old(name)}"
            f" THEN {new(name)} ELSE {old(name)} END",
        )
    for name in _SUMS:
        yield name, f"{had(name)} + {new(name)}"
    for name in _BOUNDED_SUMS:
        yield (
            name,
            f"CASE WHEN {had(name)} >= 0 AND {new(name)} > {MAX_INT} - {had(name)}"
            f" THEN {MAX_INT}"
            f" WHEN {had(name)} < 0 AND {new(name)} < -{MAX_INT} - 1 - {had(name)}"
            f" THEN -{MAX_INT} - 1 ELSE {had(name)} + {new(name)} END",
        )
