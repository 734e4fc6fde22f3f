"""The ledger's rows in the making: what is owed of each claim, what became of it.

What is owed is noted when a claim is seen, from its length; what became of it is added
up from outcomes, whatever the positions say. The two meet in the row that closes when a
cursor passes the claim's end. It is in the state file before the cursor is written.

A stream has one book, also where its head is a part on the disk. Of a claim that is in
both places each of the two cursors knows its own share, and the row has both.
"""

from __future__ import annotations

import copy
import enum
import logging
from collections.abc import Collection, Iterable, Mapping

from tyk_pump import cursors
from tyk_pump.clock import Clock
from tyk_pump.coordinator.book import Book, Held, Where, held
from tyk_pump.coordinator.lanes import Lane, add
from tyk_pump.cursors import Counts
from tyk_pump.source.claims import Claim, Progress, Source, Stream, pack
from tyk_pump.state.file import StateFile
from tyk_pump.state.ledger import ROWS_KEPT, Row
from tyk_pump.ulid import ulid_time

logger = logging.getLogger(__name__)

FOLD_SECONDS = 600.0


class Fate(enum.Enum):
    """What became of a stream in Redis, as far as we know."""

    OURS = "ours"
    WAITING = "waiting"
    """It is nobody's, or Redis has not been asked yet: it may come back to us."""
    ELSEWHERE = "elsewhere"
    """Another instance has it, or has finished it."""
    FINISHED = "finished"
    """By us: whatever is open in the books is a difference."""
    VANISHED = "vanished"
    """Nobody has finished it, and Redis does not have it."""


class Books:
    """The books of all streams that we own, and the rows that are to be written."""

    def __init__(
        self, file: StateFile, parts: Mapping[str, Stream], clock: Clock
    ) -> None:
        self.ledger = file.ledger
        self._parts = parts
        self._source: Source | None = None
        self._clock = clock
        self._file = file
        self._books: dict[str, Book] = {}
        self._lanes: dict[str, Lane] = {}
        self._opened: dict[tuple[str, str, str], Row] = {}
        self._gaps: dict[tuple[str, str, str], tuple[Row, int, int]] = {}
        self._closed: dict[tuple[str, str, str], Row] = {}
        self._touched: set[tuple[str, str]] = set()
        """Cursors in parts that count from somewhere else since a row was closed."""
        self._elsewhere: set[str] | None = None
        """Streams with open rows that are not in our hands; None before the look."""
        self._finished: set[str] = set()
        """Streams that we have removed from Redis ourselves."""
        self._fold_at = 0.0

    @property
    def unwritten(self) -> set[tuple[str, str]]:
        """Streams and cursors that have closed a row which the disk does not have."""
        return {(stream, cursor) for stream, _, cursor in self._closed}

    @property
    def elsewhere(self) -> Collection[str]:
        """Streams that we have booked and that nobody has settled, nor we in hand."""
        return self._elsewhere or ()

    @property
    def parts(self) -> Mapping[str, Stream]:
        """The parts of streams that are on our disk."""
        return self._parts

    @property
    def undecided(self) -> set[str]:
        """Streams whose part on the disk is to stay: what follows may come back."""
        return {one for one in self._parts if self.fate(one) is Fate.WAITING}

    def book(self, stream: str) -> Book | None:
        """Return what is known of a stream that we own."""
        return self._books.get(stream)

    def lane(self, cursor: str) -> Lane:
        """Return the arithmetic of a cursor."""
        found = self._lanes.get(cursor)
        if found is None:
            found = self._lanes[cursor] = Lane(*cursors.parts(cursor))
        return found

    def forget(self) -> None:
        """Drop what is known of streams: another instance may own them.

        Rows stay, also those that the disk refuses: what they say was done was done.
        """
        self._source = None
        self._books.clear()
        self._elsewhere = None

    def owed(self, stream: Stream, name: str, claim: Claim) -> list[str]:
        """Return the pumps that were owed a claim, whatever they have settled."""
        known = {key[2] for key in (*self._opened, *self._closed) if key[1] == name}
        known |= self.ledger.cursors(stream.id, name)
        found = {cursors.parts(cursor)[0] for cursor in known}
        if (claim.at or ulid_time(name)) < self._clock.now() - ROWS_KEPT:
            # Rows that are closed for long are gone; and so is who has settled it.
            found |= {
                cursors.parts(cursor)[0]
                for cursor, progress in stream.progress.items()
                if progress.since >= claim.end
            }
        return sorted(found)

    def fate(self, name: str) -> Fate:
        """Say what became of a stream in Redis."""
        source = self._source
        if source is None:
            return Fate.WAITING
        if name in source.streams:
            return Fate.OURS
        if name in self._finished:
            return Fate.FINISHED
        if source.owners is None:
            return Fate.WAITING
        us = source.owner.partition("#")[0]
        holder = source.owners.get(name)
        if holder is not None:
            who = holder.partition("#")[0]
            return Fate.ELSEWHERE if who and who != us else Fate.WAITING
        who_ = source.finished.get(name)
        if who_ is None:
            return Fate.WAITING
        if who_:
            return Fate.FINISHED if who_ == us else Fate.ELSEWHERE
        # The state file may have what Redis had no memory for.
        return Fate.WAITING if name in self._file.pending() else Fate.VANISHED

    def where(self, stream: str, cursor: str) -> Where:
        """Return where a pump is in a stream."""
        part, rest = self._parts.get(stream), self._rest(stream)
        return Where(
            cursor,
            part.progress.get(cursor) if part is not None else None,
            rest.progress.get(cursor) if rest is not None else None,
            part.end if part is not None else 0,
            # Who has held it meanwhile may have removed the cursor.
            rest is not None
            and (
                cursor in rest.progress or part is None or cursor not in part.progress
            ),
            part.gaps if part is not None else (),
        )

    def _rest(self, stream: str) -> Stream | None:
        """Return what is ours of a stream in Redis."""
        return self._source.streams.get(stream) if self._source is not None else None

    # From outcomes to rows

    def cuts(self, stream: str, first: int, end: int) -> list[int]:
        """Return where claims begin and end between two positions, and the last."""
        book = self._books.get(stream)
        claims = book.claims if book is not None else ()
        inner = {at for one in claims for at in (one.base, one.end) if first < at < end}
        return sorted({*inner, end})

    def record(self, lane: Lane, stream: Stream, end: int, became: Counts) -> None:
        """Move a cursor with what became of the records, and close what it passed."""
        book = self._books[stream.id]
        where = self.where(stream.id, lane.field)
        rest = self._rest(stream.id)
        if rest is not None:
            book.extend(rest)
        self._note(book, where)
        # Claims of which nothing is the lane's own.
        self._pass(book, lane, where)
        add(stream.progress[lane.field], end, became)
        if stream.disk and end > where.kept and where.there is not None:
            # Read in Redis, and its beginning copied since: counted as one, there.
            where.there.go_behind(end)
        self._pass(book, lane, where)

    def _pass(self, book: Book, lane: Lane, where: Where) -> None:
        """Close the row of each claim in which the lane has nothing left."""
        both = [one for one in (where.here, where.there) if one is not None]
        if not both:
            return
        at = where.at(lane)
        position = min(one.since for one in both)
        while (claim := book.find(position)) is not None:
            position = claim.end
            counting = where.counting(claim)
            if not counting:
                continue
            if not where.ours and claim.end > where.upto:
                self._pass_last(book, lane, where, claim)
                break
            for one in counting:
                if one.since < claim.base <= lane.own(one.position):
                    # A hole in the numbering: what was lost there is in a row of its
                    # own, or nobody has noted it.
                    one.since, one.counts = claim.base, Counts()
            if at < claim.end:
                break
            self._close(book, lane, where, claim).passed = True

    def _pass_last(self, book: Book, lane: Lane, where: Where, claim: Held) -> None:
        """Close the row of the claim at the end of a part, of which we have no more."""
        if where.at(lane) < where.kept:
            return
        fate, rest = self.fate(book.stream), self._rest(book.stream)
        if fate is Fate.WAITING:
            return  # it may come back
        if rest is not None and any(relays(lane, other) for other in rest.progress):
            return  # its new lanes have no place there yet
        beyond = self._beyond(book, lane, where, claim)
        row = self._close(book, lane, where, claim)
        if fate in (Fate.ELSEWHERE, Fate.OURS):
            row.handed_over = beyond
        else:
            row.counts.lost += beyond

    def _beyond(self, book: Book, lane: Lane, where: Where, claim: Held) -> int:
        """Return how many records of a claim are not those of the part on the disk."""
        for row in self._open_rows(book.stream):
            if (row.claim, row.cursor) == (claim.name, where.cursor):
                return max(0, row.claimed - where.known(lane, claim))
        return where.beyond(lane, claim)

    def _close(self, book: Book, lane: Lane, where: Where, claim: Held) -> Row:
        """Return the row of a claim, closed with what the cursors have counted."""
        counting = where.counting(claim)
        row = book.row(lane, claim, where)
        own = any(lane.share(max(claim.base, p.since), claim.end) for p in counting)
        self._take(row, where, counting)
        if row.claimed or row.counts.total or (own and self._is_open(row)):
            self._closed[row.key] = row
        return row

    def _is_open(self, row: Row) -> bool:
        return any(row.key == one.key for one in self._open_rows(row.stream))

    def _take(self, row: Row, where: Where, counting: Iterable[Progress]) -> None:
        """Bring what cursors have counted of a claim into its row."""
        for one in counting:
            row.counts += one.counts
            if one is where.here:
                row.begun = one.since
                self._touched.add((row.stream, where.cursor))
            one.since, one.counts = row.end, Counts()

    def _note(self, book: Book, where: Where) -> None:
        """Open a row of each claim of which a cursor has something before it."""
        cursor, key = where.cursor, (where.cursor, where.ours)
        if key in book.noted and book.noted[key] >= book.end:
            return
        lane = self.lane(cursor)
        if where.ours and (cursor, False) in book.noted:
            self._compare(book, where)
            del book.noted[cursor, False]
        upto = book.noted.get(key, where.at(lane))
        for claim in book.claims[book.index(upto) :]:
            if not where.ours and claim.base >= where.upto:
                break
            self._open(book, lane, where, claim)
        book.noted[key] = max(upto, book.end)

    def _open(self, book: Book, lane: Lane, where: Where, claim: Held) -> None:
        """Open the row of a claim, also one that was closed as handed over."""
        row = book.row(lane, claim, where)
        if row.claimed and where.counting(claim):
            # Open and not on the disk yet, it keeps what was noted first: what others
            # have done of it since is beside it.
            self._opened.setdefault(row.key, row)
            self._reopen(row, where)

    def _reopen(self, row: Row, where: Where) -> None:
        """It was handed over, and is back before the disk had room for its row.

        What does not come back stays what it was closed as.
        """
        old, here = self._closed.pop(row.key, None), where.here
        if old is None:
            return
        if old.handed_over > row.claimed:
            self._adjust(row, old.handed_over - row.claimed)
        again = max(0, row.claimed - old.handed_over)
        old.counts.lost -= min(old.counts.lost, again)
        if here is not None and here.since == old.end and old.begun >= 0:
            here.since, here.counts = old.begun, old.counts + here.counts

    def _compare(self, book: Book, where: Where) -> None:
        """A cursor is in Redis again, where another has moved it: see what is left."""
        rest, lane = self._rest(book.stream), self.lane(where.cursor)
        if rest is None or not rest.shared:
            return
        for row in self._open_rows(book.stream):
            gap = row.claimed - where.known(lane, row)
            if row.cursor == where.cursor and where.counting(row) and gap:
                self._adjust(row, gap)

    def _adjust(self, row: Row, gap: int, unknown: int = 0) -> None:
        """Note what others have done of an open row, beside what is noted already."""
        _, done, lost = self._gaps.get(row.key, (row, 0, 0))
        self._gaps[row.key] = row, done + gap, lost + unknown

    # Streams and cursors that come and go

    def _meet(self, name: str) -> set[str]:
        """Open the book of a stream that is new in our hands; return moved cursors.

        A cursor stands behind a claim that the state file has as settled when we died
        before it was written: it goes on where we were.
        """
        part, rest = self._parts.get(name), self._rest(name)
        rows = self._open_rows(name)
        closed = self._closed_rows(name)
        adopted = rest.adopted if rest is not None else bool(rows)
        if rest is None or not rest.maker:
            adopted = adopted and not self._is_own(name)
        claims: dict[str, Held] = {}
        for place in (part, rest):
            if place is not None:
                claims |= {n: held(n, claim) for n, claim in place.claims.items()}
            if place is part:
                claims |= {r.claim: Held(r.claim, r.base, r.end, r.at) for r in rows}
        book = Book(name, claims.values(), adopted=adopted)
        book.rest = rest
        self._books[name] = book
        for cursor, progress in part.progress.items() if part is not None else ():
            self._begin(book, cursor, progress)
        moved = self._catch_up(book, rest, closed) if rest is not None else set()
        for row in rows:
            self._judge(book, rest, row)
        return moved

    def _catch_up(
        self, book: Book, rest: Stream, closed: Mapping[tuple[str, str], int]
    ) -> set[str]:
        """Begin with the cursors of a stream as Redis has them; return moved ones."""
        moved = set()
        for cursor, progress in rest.progress.items():
            end = progress.position
            progress.position = rest.raised.pop(cursor, end)
            self._skip(book, cursor, progress, closed)
            book.cursors.add(cursor)
            self._begin(book, cursor, progress)
            self._raise(book, self.where(book.stream, cursor), end)
            if pack(progress) != rest.settled.get(cursor):
                moved.add(cursor)  # before anything is trimmed up to where it is now
        return moved

    def _begin(self, book: Book, cursor: str, progress: Progress) -> None:
        """Forget what was counted of a claim that is finished, or was never ours."""
        claim = book.find(progress.since)
        if claim is None or claim.base > self.lane(cursor).own(progress.since):
            progress.since = max(progress.since, progress.position)
            progress.counts = Counts()
        else:  # a lane has no share in some claims: they are gone, nothing was counted
            progress.since = max(progress.since, claim.base)

    def _skip(
        self,
        book: Book,
        cursor: str,
        progress: Progress,
        closed: Mapping[tuple[str, str], int],
    ) -> None:
        """Move a cursor over claims whose rows say more than it does."""
        lane = self.lane(cursor)
        while True:
            claim = book.find(max(progress.since, lane.own(progress.position)))
            if claim is None or closed.get((claim.name, cursor), -1) < claim.end:
                break
            progress.position = max(progress.position, claim.end)
            progress.since, progress.counts = claim.end, Counts()

    def _raise(self, book: Book, where: Where, end: int) -> None:
        """Move a cursor to what is trimmed: that is settled, but who knows how?

        Redis had no memory for the cursor, and we died before it had.
        """
        lane, progress = self.lane(where.cursor), where.there
        assert progress is not None
        if where.here is not None and lane.own(where.here.position) < where.kept:
            # It has counted nothing here yet, and what it skips is not counted with
            # what is on the disk: the rows have it.
            progress.go_behind(end)
            book.jumped.add(where.cursor)
        while (
            progress.position < end
            and (claim := book.find(progress.position)) is not None
        ):
            progress.position = max(progress.position, min(claim.base, end))
            self._pass(book, lane, where)
            self._open(book, lane, where, claim)
            last = min(claim.end, end)
            progress.counts.unknown += lane.share(progress.position, last)
            progress.position = last
            self._pass(book, lane, where)
        progress.position = max(progress.position, end)

    def _judge(self, book: Book, rest: Stream | None, row: Row) -> None:
        """See what is left of an open row of a stream that is in our hands again."""
        lane, where = self.lane(row.cursor), self.where(book.stream, row.cursor)
        if rest is None or row.key in self._closed:
            return
        counting = where.counting(row)
        if where.here is None and where.there is None:
            self._closed[row.key] = abandoned(row, lane, rest.progress)
            return
        if not counting:
            if rest.shared:  # settled by another
                row.handed_over = row.claimed
                self._closed[row.key] = row
            elif row.cursor in book.jumped:
                self._adjust(row, 0, row.claimed)
            elif where.there is None and row.claim not in rest.claims:
                row.counts.lost = row.claimed  # Redis has the stream's name only
                self._closed[row.key] = row
            return  # else nobody has, or knows
        gap = row.claimed - where.known(lane, row) if where.ours else 0
        if gap and rest.shared:
            self._adjust(row, gap)
        elif gap > 0 and row.cursor in book.jumped:
            self._adjust(row, 0, gap)
        if row.end <= where.kept or row.claim in rest.claims:
            return
        if rest.claims and not rest.own:
            # Redis came back without the claim: a hole. The cursor goes over it, and
            # what the source says of that is booked.
            rest.end = rest.hole = max(rest.end, row.end)
        elif where.there and max(row.base, where.at(lane)) >= where.kept:
            self._take(row, where, counting)
            row.counts.lost += lane.share(max(row.base, where.there.position), row.end)
            self._closed[row.key] = row

    def leave(self, stream: str, cursor: str) -> None:
        """A cursor is about to be removed: book what it was still owed."""
        book, where = self._books.get(stream), self.where(stream, cursor)
        both = [one for one in (where.here, where.there) if one is not None]
        if book is None or not both:
            return
        rest, part = self._rest(stream), self._parts.get(stream)
        if rest is not None:
            book.extend(rest)
        self._note(book, where)
        lane = self.lane(cursor)
        others = {f for s in (rest, part) if s is not None for f in s.progress}
        for claim in book.claims[book.index(min(one.since for one in both)) :]:
            counting = where.counting(claim)
            if not counting:
                continue
            row, left = book.row(lane, claim, where), where.left(lane, claim)
            beyond = 0 if where.ours else self._beyond(book, lane, where, claim)
            row.claimed = where.known(lane, claim) + beyond
            self._take(row, where, counting)
            if any(relays(lane, other) for other in others):
                row.relayed = left + beyond
            else:
                row.forgotten, row.handed_over = left, beyond
            if row.claimed:
                self._closed[row.key] = row
        for ours in (False, True):
            book.noted.pop((cursor, ours), None)

    # What is booked, on the disk or not yet

    def _open_rows(self, stream: str) -> list[Row]:
        """Return the open rows of a stream as they are once the disk takes all."""
        found = {row.key: row for row in self.ledger.open_rows([stream])}
        done = self._closed_rows(stream)
        for row in self._opened.values():
            if row.stream == stream and done.get((row.claim, row.cursor), -1) < 0:
                found.setdefault(row.key, copy.deepcopy(row))
        for key, (_, *gap) in self._gaps.items():
            if key in found:
                found[key].claimed -= sum(gap)
        rows = [row for key, row in found.items() if key not in self._closed]
        return sorted(rows, key=lambda row: (row.base, row.cursor))

    def _closed_rows(self, stream: str) -> dict[tuple[str, str], int]:
        """Return likewise up to where closed rows were passed, -1 if not."""
        found = self.ledger.closed(stream)
        for name, claim, cursor in self._closed:
            if name == stream:
                row = self._closed[name, claim, cursor]
                found[claim, cursor] = row.end if row.passed else -1
        return found

    def _is_own(self, stream: str) -> bool:
        """Say whether a stream's claims were ours from the beginning."""
        rows = (*self._opened.values(), *self._closed.values())
        ours = any(row.stream == stream and not row.adopted for row in rows)
        return ours or self.ledger.is_own(stream)

    # To the state file

    def sync(self, source: Source) -> dict[str, set[str]]:
        """Look at the streams in our hands; return the cursors that were moved."""
        self._source = source
        moved: dict[str, set[str]] = {}
        names = list(dict.fromkeys([*source.streams, *self._parts]))
        for name in names:
            book, rest = self._books.get(name), source.streams.get(name)
            if book is None or (rest is not None and book.rest is not rest):
                moved[name] = self._meet(name)
                book = self._books[name]
                self._elsewhere = None
            if rest is not None:
                book.extend(rest)
                if rest.raised:  # read again, and another has trimmed it
                    closed = self._closed_rows(name)
                    moved[name] = self._catch_up(book, rest, closed)
            elif book.rest is not None:
                book.rest = None
                self._finished.add(name)
                self._elsewhere = None
            for cursor in self._relayed(name, book):
                moved.setdefault(name, set()).add(cursor)
            progress = [s.progress for s in self._places(name)]
            for cursor in dict.fromkeys(c for fields in progress for c in fields):
                where = self.where(name, cursor)
                self._note(book, where)
                self._pass(book, self.lane(cursor), where)
            begun = [one.since for fields in progress for one in fields.values()]
            book.shorten(min(begun, default=book.end))
        for finished in set(self._books).difference(names):
            if self._books.pop(finished).rest is not None:
                self._finished.add(finished)
            self._elsewhere = None
        return moved

    def _relayed(self, name: str, book: Book) -> list[str]:
        """Return cursors that are new in Redis, and stand behind what is settled."""
        rest = self._rest(name)
        fresh = set(rest.progress) - book.cursors if rest is not None else set()
        if rest is None or not fresh:
            return []
        book.cursors |= fresh
        closed = self._closed_rows(name)
        for cursor in fresh:
            self._skip(book, cursor, rest.progress[cursor], closed)
        return sorted(fresh)

    def _places(self, name: str) -> list[Stream]:
        both = self._parts.get(name), self._rest(name)
        return [one for one in both if one is not None]

    def write(self, source: Source) -> None:
        """Bring all rows to the disk, in one transaction; StateError when it refuses.

        Then what became of streams that are no longer in our hands is booked.
        """
        self._flush()
        if self._elsewhere is None:
            self._elsewhere = self.ledger.open_streams() - set(source.streams)
        source.sought = self._elsewhere | set(self._parts)
        if self._elsewhere:
            for name in sorted(self._elsewhere):
                if (fate := self.fate(name)) is not Fate.WAITING:
                    self._settle_elsewhere(name, fate)
                    self._elsewhere.discard(name)
            self._flush()
        now = self._clock.monotonic()
        if now >= self._fold_at:
            self._fold_at = now + FOLD_SECONDS
            self.ledger.fold(self._clock.now())

    def _settle_elsewhere(self, name: str, fate: Fate) -> None:
        """Close the rows of a stream that does not come back."""
        lost = 0
        for row in self.ledger.open_rows([name]):
            where = self.where(name, row.cursor)
            if where.here is not None and row.base < where.upto:
                continue  # it is on our disk, or its beginning is
            if fate is Fate.ELSEWHERE:
                row.handed_over = row.claimed
            elif fate is Fate.VANISHED:
                row.counts.lost = row.claimed
                lost += row.claimed
            # Had it been handed over, we had not finished it: then what is open was
            # forgotten, and the difference is to be seen.
            self._closed[row.key] = row
        if lost:
            logger.error(
                "a stream has vanished from Redis, its records are lost",
                extra={"prefix": "main", "batch": name, "records": lost},
            )

    def _flush(self) -> None:
        if self._opened or self._gaps or self._closed:
            self.ledger.write(
                self._opened.values(),
                self._gaps.values(),
                self._closed.values(),
                self._clock.now(),
                self._part_cursors(),
            )
            self._opened.clear()
            self._gaps.clear()
            self._closed.clear()
            self._touched.clear()

    def _part_cursors(self) -> dict[str, dict[str, bytes]]:
        """Return cursors that must not count again what is in a row now."""
        found: dict[str, dict[str, bytes]] = {}
        for name, cursor in self._touched:
            part = self._parts.get(name)
            if part is not None and cursor in part.progress:
                found.setdefault(name, {})[cursor] = pack(part.progress[cursor])
        return found


def abandoned(row: Row, lane: Lane, others: Iterable[str]) -> Row:
    """Return an open row as it is closed when its cursor was removed elsewhere.

    What a pump was still owed is forgotten with it. Where only the number of its
    workers has changed, its new lanes are owed the rest, in rows of their own.
    """
    if any(relays(lane, cursor) for cursor in others):
        row.relayed = row.claimed
    else:
        row.forgotten = row.claimed
    return row


def relays(lane: Lane, cursor: str) -> bool:
    """Say whether a cursor is of the same pump with another number of workers."""
    pump, _, lanes = cursors.parts(cursor)
    return pump == lane.pump and lanes != lane.lanes
