"""Metrics as a scraper sees them: counters and histograms, a series per label set.

Adding a batch is cheap: the values of a record, as they come, lead to their series by
one look-up, and texts are made once per series. A budget bounds how many series a
metric has; what comes beyond it is counted with the value `other`.
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, repeat
from operator import attrgetter
from typing import Any, Final, Generic, TypeVar

import msgspec

from tyk_pump.record.text import clean

log = logging.getLogger(__name__)

OTHER: Final = "other"
KIND: Final = "type"
"""Label that tells what a histogram has measured."""
LONGEST: Final = 30 * 86_400_000
"""Milliseconds. A time beyond would make a sum so large that it grows no more."""
_SHORT: Final = 10_000
"""Times below it are looked up and not searched for."""
_FEW: Final = 8
"""So few times are not worth to be brought together first."""
SORTED: Final = 50_000
"""So many series are shown in order. To sort more would hold up the writing."""


class Label(msgspec.Struct, frozen=True):
    """Where the value of a label comes from."""

    name: str
    attributes: tuple[str, ...]
    """What is read of a record; dots lead into it."""
    text: Callable[..., str]
    """Attributes -> value."""
    open: bool = True
    """False where only few values are to be expected, so that they are kept apart
    when the budget is spent."""


class Count(msgspec.Struct, gc=False, eq=False):
    """One series of a counter."""

    metric: int
    values: tuple[str, ...]
    """Label values in the order of the label names."""
    text: str
    """The labels as they are shown, without braces."""
    created: float
    n: int = 0
    row: int = 0
    """Where it is stored; 0: nowhere yet."""

    def state(self) -> Any:
        """Return what has been counted, for the disk."""
        return self.n

    def restore(self, state: Any) -> None:
        """Go on from there."""
        self.n = int(state)


class Observed(msgspec.Struct, gc=False, eq=False):
    """One series of a histogram."""

    metric: int
    values: tuple[str, ...]
    text: str
    created: float
    counts: list[int]
    """How many fell into each bucket and into none of the smaller ones."""
    total: int = 0
    row: int = 0

    def state(self) -> Any:
        """Return what has been counted, for the disk."""
        return msgspec.msgpack.encode([self.total, self.counts])

    def restore(self, state: Any) -> None:
        """Go on from there."""
        self.total, self.counts = msgspec.msgpack.decode(
            state, type=tuple[int, list[int]]
        )


Series = Count | Observed
S = TypeVar("S", bound=Series)
Touched = set[Series] | None
"""Takes in what has changed; None where nobody asks."""


class Table(Generic[S]):
    """The series of a metric; of a histogram those of one type."""

    def __init__(
        self, labels: Sequence[Label], limit: int, new: Callable[..., S], kind: str = ""
    ) -> None:
        self.series: dict[tuple[str, ...], S] = {}
        self.overflow = 0
        """How many records the budget had no room for."""
        self.index: dict[Any, S] = {}
        """What `raws` gives of a record -> its series, where that was asked before."""
        self.kind = kind
        """The value of its label `type`, of a histogram."""
        self._limit = limit
        self._new = new
        self._attributes = tuple(chain.from_iterable(x.attributes for x in labels))
        kinds = [Label(KIND, (), lambda: kind, open=False)] if kind else []
        # The order of names is the order of texts; the attributes keep theirs.
        ordered, at = [*kinds, *labels], 0
        self._parts: list[tuple[Label, slice]] = []
        for label in ordered:
            self._parts.append((label, slice(at, at + len(label.attributes))))
            at += len(label.attributes)
        self._parts.sort(key=lambda part: part[0].name)
        self.names = tuple(label.name for label, _ in self._parts)

    def raws(self, records: Sequence[Any]) -> Iterable[Any]:
        """Return what tells the series of each record."""
        if not self._attributes:
            return repeat((), len(records))
        return map(attrgetter(*self._attributes), records)

    def find(self, raw: Any, number: int) -> S:
        """Return the series of so many records that the index does not know."""
        parts = (raw,) if len(self._attributes) == 1 else raw
        values = tuple(clean(label.text(*parts[place])) for label, place in self._parts)
        found = self.series.get(values)
        if found is None:
            # The last tenth is for sums over values that are told apart no more.
            if len(self.series) >= self._limit - max(1, self._limit // 10):
                return self._beyond(values, number)
            found = self.put(values, time.time())
        if len(self.index) < 2 * self._limit:
            self.index[raw] = found
        return found

    def put(self, values: tuple[str, ...], created: float) -> S:
        """Return a new series."""
        pairs = zip(self.names, values, strict=True)
        text = ",".join([f'{name}="{escaped(value)}"' for name, value in pairs])
        made = self.series[values] = self._new(values, text, created)
        return made

    def _beyond(self, values: tuple[str, ...], number: int) -> S:
        self.overflow += number
        labels = [label for label, _ in self._parts]
        summed = tuple(
            OTHER if label.open else value
            for label, value in zip(labels, values, strict=True)
        )
        if summed not in self.series and len(self.series) >= self._limit - 1:
            summed = tuple(self.kind if x.name == KIND else OTHER for x in labels)
        return self.series.get(summed) or self.put(summed, time.time())


class Family:
    """A metric: its name, and its series in one or more tables."""

    kind = ""

    def __init__(self, name: str, help: str, number: int) -> None:
        self.name = name
        self.help = help
        self.number = number
        """Tells its series from those of others; for the disk."""
        self.form = ""
        """How its values are made, where that may change; for the disk."""
        self.tables: list[Table[Any]] = []
        self._warned = False
        self._order: list[Any] = []

    @property
    def overflow(self) -> int:
        """How many records the budget had no room for."""
        # Of a histogram each type has had all records.
        return self.tables[0].overflow

    def shape(self) -> list[Any]:
        """Return what must be the same for stored series to be still of use."""
        return [self.kind, self.name, list(self.tables[0].names), self.form]

    def add(self, records: Sequence[Any], touched: Touched) -> None:
        """Count records."""
        raise NotImplementedError

    def restore(self, values: tuple[str, ...], created: float, state: Any) -> Series:
        """Return a series as it was stored."""
        names = self.tables[0].names
        kind = values[names.index(KIND)] if len(self.tables) > 1 else ""
        for table in self.tables:
            if not kind or table.kind == kind:
                break
        made: Series = table.put(values, created)
        made.restore(state)
        return made

    def all(self) -> list[Any]:
        """Return all series, in the order of their values unless they are very many."""
        count = sum(len(table.series) for table in self.tables)
        if len(self._order) != count:
            found = chain.from_iterable(t.series.values() for t in self.tables)
            order = list(found)
            if count <= SORTED:
                order.sort(key=attrgetter("values"))
            self._order = order
        return self._order

    def warn(self) -> None:
        """Say once that the budget is spent."""
        if self.overflow and not self._warned:
            self._warned = True
            log.warning(
                "metric has as many series as it may, new values are counted as other",
                extra={"reason": self.name},
            )


class CounterFamily(Family):
    """Counts records."""

    kind = "counter"

    def __init__(
        self, name: str, help: str, labels: Sequence[Label], limit: int, number: int
    ) -> None:
        super().__init__(name, help, number)
        self._table: Table[Count] = Table(
            labels, limit, lambda *place: Count(number, *place)
        )
        self.tables = [self._table]

    def add(self, records: Sequence[Any], touched: Touched) -> None:
        """Count records."""
        table = self._table
        raws = list(table.raws(records))
        try:
            found = list(map(table.index.__getitem__, raws))
        except KeyError:
            known = table.index.get
            found = [known(raw) or table.find(raw, 1) for raw in raws]
        for series in found:
            series.n += 1
        if touched is not None:
            touched.update(found)
        if table.overflow:
            self.warn()


class HistogramFamily(Family):
    """Sorts times in milliseconds into buckets, by type and labels."""

    kind = "histogram"

    def __init__(
        self,
        name: str,
        help: str,
        labels: Sequence[Label],
        limit: int,
        number: int,
        *,
        times: Sequence[tuple[str, str]],
        bounds: Sequence[float],
        averaged: bool = False,
    ) -> None:
        """`times` has the types, and for each the attribute that is its time."""
        super().__init__(name, help, number)
        self.bounds = list(bounds)
        self._averaged = averaged
        buckets = {time: bisect_left(self.bounds, time) for time in range(_SHORT)}
        self._bucket_of = buckets.__getitem__
        self._times = [attrgetter(attribute) for _, attribute in times]
        self.tables: list[Table[Observed]] = [
            Table(labels, limit, self._new, kind) for kind, _ in times
        ]

    def shape(self) -> list[Any]:
        """Return what must be the same for stored series to be still of use."""
        return [*super().shape(), self.bounds]

    def add(self, records: Sequence[Any], touched: Touched) -> None:
        """Observe the times of records."""
        groups: defaultdict[Any, list[Any]] = defaultdict(list)
        for raw, record in zip(self.tables[0].raws(records), records, strict=True):
            groups[raw].append(record)
        for table, time_of in zip(self.tables, self._times, strict=True):
            known = table.index.get
            for raw, group in groups.items():
                series = known(raw) or table.find(raw, len(group))
                self._observe(series, list(map(time_of, group)))
                if touched is not None:
                    touched.add(series)
        if self.overflow:
            self.warn()

    def _observe(self, series: Observed, times: list[int]) -> None:
        counts, bounds = series.counts, self.bounds
        try:
            # A time that is not looked up is a long one, or none at all.
            buckets = list(map(self._bucket_of, times))
        except KeyError:
            # What no call can take: a sum must neither fall nor grow beyond what a
            # double can count on.
            times = [min(max(one, 0), LONGEST) for one in times]
            buckets = [bisect_left(bounds, one) for one in times]
        total = sum(times)
        series.total += total
        if self._averaged:
            # Each record counts, with the average as its time.
            number = len(times)
            counts[bisect_left(bounds, total / number)] += number
        elif len(times) < _FEW:
            for bucket in buckets:
                counts[bucket] += 1
        else:
            for bucket, number in Counter(buckets).items():
                counts[bucket] += number

    def _new(self, values: tuple[str, ...], text: str, created: float) -> Observed:
        buckets = [0] * (len(self.bounds) + 1)
        return Observed(self.number, values, text, created, buckets)


def escaped(text: str) -> str:
    """Return a label's value as it stands between quotes."""
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def parts(series: list[Any], size: int) -> Iterator[list[Any]]:
    """Cut a long list."""
    for start in range(0, len(series), size):
        yield series[start : start + size]
