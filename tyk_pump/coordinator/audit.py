"""The audit: what was claimed for each pump against what is known of it.

What was claimed stands in the ledger since the claim was seen. What became of it is
what outcomes said; what is left is counted from cursors and claims. None of the three
is made from the others, so a difference means that something was skipped, counted
twice, or lost by us.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from tyk_pump import cursors
from tyk_pump.coordinator.book import Where, held
from tyk_pump.coordinator.books import Books, Fate, abandoned
from tyk_pump.coordinator.lanes import Lane
from tyk_pump.coordinator.snapshot import Numbers
from tyk_pump.source.claims import Claim, Progress, Source, Stream
from tyk_pump.state.ledger import Ledger, LetterSums, ReplaySums, Row, hour_of


class Line(Numbers, kw_only=True):
    """A pump, or an hour of one, as `audit` shows it."""

    pump: str
    hour: int | None = None
    """When the records were claimed: seconds since the epoch; None for all hours."""


class Letters(LetterSums, kw_only=True):
    """A pump's dead letters as `audit` shows them, of all times."""

    pump: str
    difference: int = 0


class Replays(ReplaySums, kw_only=True):
    """A pump's replays of kept records as `audit` shows them, of all times."""

    pump: str
    difference: int = 0


class Audit(msgspec.Struct, kw_only=True):
    """The whole result."""

    balanced: bool
    pumps: Sequence[Line]
    hours: Sequence[Line]
    letters: Sequence[Letters]
    replays: Sequence[Replays] = ()


class View(msgspec.Struct, kw_only=True):
    """What is known of a stream at the moment of the audit."""

    progress: Mapping[str, Progress] = {}
    claims: Mapping[str, Claim] | None = None
    """Those that Redis has; None where nothing can have been lost."""
    part: Mapping[str, Progress] = {}
    """The cursors in what is on our disk, of a stream whose head is there."""
    kept: int = 0
    """Where that ends."""
    gaps: Sequence[tuple[int, int]] = ()
    """What of it others had."""
    fate: Fate = Fate.OURS
    """What became of it in Redis."""
    shared: bool = False
    """True where another instance may have settled a part of it meanwhile."""
    ours: bool = True
    """True where claims that the ledger does not have yet are ours to book."""

    def where(self, cursor: str) -> Where:
        """Return where a pump is."""
        return Where(
            cursor,
            self.part.get(cursor),
            self.progress.get(cursor),
            self.kept,
            self.fate is Fate.OURS,
            self.gaps,
        )


def live(books: Books, source: Source | None) -> dict[str, View]:
    """Return the views of a running instance."""
    views = {name: View(fate=books.fate(name)) for name in books.ledger.open_streams()}
    for stream in source.streams.values() if source is not None else ():
        views[stream.id] = View(progress=stream.progress)
    for name, part in books.parts.items():
        view = views.setdefault(name, View(fate=books.fate(name)))
        view.part, view.kept, view.gaps = part.progress, part.end, part.gaps
    return views


def audit(
    ledger: Ledger,
    views: Mapping[str, View],
    *,
    pump: str = "",
    since: float = 0.0,
) -> Audit:
    """Return the books, per pump and per hour; what has open rows has a view."""
    found = {
        key: Line(pump=key[0], hour=key[1], **msgspec.structs.asdict(sums))
        for key, sums in ledger.hours(since).items()
    }
    rows = ledger.open_rows()
    known = {row.key for row in rows}
    for row in rows:
        _look_at(_line(found, row), row, views[row.stream])
    for row in _unnoted(ledger, views, known):
        line = _line(found, row)
        line.claimed += row.claimed
        _look_at(line, row, views[row.stream])
    first = hour_of(since)
    hours = [
        line
        for (name, hour), line in sorted(found.items())
        if hour >= first and pump in ("", name)
    ]
    for line in hours:
        line.balance()
    pumps = _by_pump(hours)
    letters = [
        _letters(name, sums)
        for name, sums in sorted(ledger.letters().items())
        if pump in ("", name)
    ]
    replays = [
        _replays(name, sums)
        for name, sums in sorted(ledger.replays().items())
        if pump in ("", name)
    ]
    differences = [
        *(line.difference for line in hours),
        *(one.difference for one in letters),
        *(one.difference for one in replays),
    ]
    return Audit(
        balanced=not any(differences),
        pumps=pumps,
        hours=hours,
        letters=letters,
        replays=replays,
    )


def numbers(books: Books, source: Source) -> dict[str, Numbers]:
    """Return the books per pump as the running instance knows them, cheaply."""
    found = {
        name: Numbers(**msgspec.structs.asdict(sums))
        for name, sums in books.ledger.totals().items()
    }
    for stream in source.streams.values():
        book = books.book(stream.id)
        for cursor, progress in stream.progress.items():
            lane = books.lane(cursor)
            one = found.get(lane.pump)
            if book is not None and one is not None:
                one.add(progress.counts)
                one.pending += book.pending(lane, progress)
    for part in books.parts.values():
        _add_part(found, books, part, alone=part.id not in source.streams)
    waiting = set(books.elsewhere) - set(books.parts)
    for row in books.ledger.open_rows(waiting) if waiting else ():
        found[cursors.parts(row.cursor)[0]].pending += row.claimed
    for one in found.values():
        one.balance()
    return found


def _add_part(
    found: Mapping[str, Numbers], books: Books, part: Stream, *, alone: bool
) -> None:
    """Add what is on our disk; alone, what comes behind it is another's, or waits."""
    if alone:
        view = live(books, None)[part.id]
        for row in books.ledger.open_rows([part.id]):
            line = Line(pump="")
            _look_at(line, row, view)
            one = found[cursors.parts(row.cursor)[0]]
            one.add(line.counts)
            one.pending += line.pending
            one.handed_over += line.handed_over
        return
    book = books.book(part.id)
    for cursor, progress in part.progress.items():
        lane = books.lane(cursor)
        whole = found.get(lane.pump)
        if book is not None and whole is not None:
            whole.add(progress.counts)
            whole.pending += book.pending_in(part, lane, progress)


def _line(found: dict[tuple[str, int], Line], row: Row) -> Line:
    pump, hour = cursors.parts(row.cursor)[0], hour_of(row.at)
    return found.setdefault((pump, hour), Line(pump=pump, hour=hour))


def _look_at(line: Line, row: Row, view: View) -> None:
    """Add what is known of an open row."""
    lane = Lane(*cursors.parts(row.cursor))
    where = view.where(row.cursor)
    for one in where.counting(row):
        if row.base <= one.since:
            line.add(one.counts)
    on_disk = where.here is not None and row.base < where.upto
    if where.here is not None and on_disk:
        first = max(row.base, where.here.position)
        line.pending += where.share_here(lane, first, min(row.end, where.kept))
    rest = row.claimed - where.known(lane, row) if on_disk else row.claimed
    if view.fate is Fate.OURS:
        _look_at_rest(line, row, view, where, lane, on_disk=on_disk)
    elif view.fate is Fate.WAITING:
        line.pending += rest
    elif view.fate is Fate.ELSEWHERE:
        line.handed_over += rest
    elif view.fate is Fate.VANISHED:
        line.lost += rest


def _look_at_rest(
    line: Line, row: Row, view: View, where: Where, lane: Lane, *, on_disk: bool
) -> None:
    """Add what is known of the records that are not on our disk."""
    if where.there is None:
        if on_disk:
            line.pending += where.beyond(lane, row)
            return
        left = abandoned(row, lane, view.progress)
        line.claimed -= left.relayed
        line.forgotten += left.forgotten
        return
    if view.shared:
        gap = row.claimed - where.known(lane, row)
        line.handed_over += max(0, gap)
        line.claimed += max(0, -gap)
    left_over = lane.share(max(row.base, where.there.position), row.end)
    if view.claims is not None and row.claim not in view.claims:
        line.lost += left_over
    else:
        line.pending += left_over


def _unnoted(
    ledger: Ledger, views: Mapping[str, View], known: set[tuple[str, str, str]]
) -> Iterable[Row]:
    """Yield rows of claims that we had no time to note before we were killed."""
    for stream, view in views.items():
        if view.claims is None or not view.ours:
            continue
        closed = ledger.closed(stream)
        for name, claim in view.claims.items():
            for cursor, progress in view.progress.items():
                lane = Lane(*cursors.parts(cursor))
                owed = held(name, claim)
                row = Row(
                    stream=stream,
                    claim=name,
                    cursor=cursor,
                    at=owed.at,
                    base=claim.base,
                    end=claim.end,
                    claimed=view.where(cursor).known(lane, owed),
                )
                passed = lane.own(progress.position) >= claim.end
                noted = row.key in known or closed.get((name, cursor), -1) >= claim.end
                if row.claimed and not passed and not noted:
                    yield row


def _by_pump(hours: Iterable[Line]) -> list[Line]:
    sums: dict[str, Line] = {}
    for line in hours:
        whole = sums.setdefault(line.pump, Line(pump=line.pump))
        for name in Numbers.__struct_fields__:
            setattr(whole, name, getattr(whole, name) + getattr(line, name))
    return list(sums.values())


def _letters(pump: str, sums: LetterSums) -> Letters:
    shown = Letters(pump=pump, **msgspec.structs.asdict(sums))
    shown.difference = sums.stored - sums.replayed - sums.dropped - sums.kept
    return shown


def _replays(pump: str, sums: ReplaySums) -> Replays:
    shown = Replays(pump=pump, **msgspec.structs.asdict(sums))
    shown.difference = sums.asked - sums.settled - sums.pending
    return shown
