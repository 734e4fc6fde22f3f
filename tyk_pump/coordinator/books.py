"""The ledger's rows in the making: what is owed of each claim, what became of it.

What is owed is noted when a claim is seen, from its length; what became of it is added
up from outcomes, whatever the positions say. The two meet in the row that closes when a
cursor passes the claim's end. It is in the state file before the cursor is written.

A stream has one book, also where its head is a part on the disk. Of a claim that is in
both places each of the two cursors knows its own share.
"""

from __future__ import annotations

import bisect
from collections.abc import Collection, Iterable, Mapping

import msgspec

from tyk_pump import cursors
from tyk_pump.clock import Clock
from tyk_pump.coordinator.lanes import Lane, add
from tyk_pump.cursors import Counts
from tyk_pump.source.claims import Claim, Progress, Source, Stream
from tyk_pump.state.file import StateFile
from tyk_pump.state.ledger import ROWS_KEPT, Row
from tyk_pump.ulid import ulid_time

FOLD_SECONDS = 600.0


class Held(msgspec.Struct, frozen=True):
    """A claim that somebody is owed."""

    name: str
    base: int
    end: int
    at: float


class Book:
    """What is to be known of one stream that we own."""

    def __init__(self, stream: str, claims: Iterable[Held], *, adopted: bool) -> None:
        self.stream = stream
        self.adopted = adopted
        self.claims: list[Held] = []
        self.whole = True
        """False where a claim was lost and the numbering has a hole."""
        for claim in sorted(claims, key=lambda one: one.base):
            self._append(claim)
        self.noted: dict[str, int] = {}
        """By cursor: the position up to which its claims have rows."""

    @property
    def end(self) -> int:
        """Position behind the last claim."""
        return self.claims[-1].end if self.claims else 0

    def _append(self, claim: Held) -> None:
        self.whole = self.whole and (not self.claims or claim.base == self.end)
        self.claims.append(claim)

    def index(self, position: int) -> int:
        """Return where the first claim stands that ends behind a position."""
        return bisect.bisect_right(self.claims, position, key=lambda one: one.end)

    def find(self, position: int) -> Held | None:
        """Return the first claim that ends behind a position."""
        at = self.index(position)
        return self.claims[at] if at < len(self.claims) else None

    def extend(self, stream: Stream) -> None:
        """Take in the claims that have come; they are behind all others."""
        fresh = []
        for name, claim in reversed(stream.claims.items()):
            if claim.end <= self.end:
                break
            fresh.append(held(name, claim))
        for claim_ in reversed(fresh):
            self._append(claim_)

    def row(self, lane: Lane, claim: Held, start: int) -> Row:
        """Return the open row of a claim for a cursor that counts from `start` on."""
        return Row(
            stream=self.stream,
            claim=claim.name,
            cursor=lane.field,
            at=claim.at,
            base=claim.base,
            end=claim.end,
            claimed=lane.share(max(claim.base, start), claim.end),
            adopted=self.adopted,
        )

    def pending(self, lane: Lane, progress: Progress) -> int:
        """Return how many records of claims the cursor has before it."""
        first = progress.position
        at = self.index(first)
        if at == len(self.claims):
            return 0
        if self.whole:
            return lane.share(max(first, self.claims[at].base), self.end)
        rest = self.claims[at:]
        return sum(lane.share(max(first, one.base), one.end) for one in rest)

    def pending_before(self, lane: Lane, progress: Progress, end: int) -> int:
        """Return the same up to a position: for a part that is on our disk."""
        if progress.position >= end:
            return 0
        behind = Progress(position=end)
        return self.pending(lane, progress) - self.pending(lane, behind)


class Books:
    """The books of all streams that we own, and the rows that are to be written."""

    def __init__(
        self, file: StateFile, parts: Mapping[str, Stream], clock: Clock
    ) -> None:
        self.ledger = file.ledger
        self._parts = parts
        self._claimed: Collection[str] = ()
        """Streams that are ours in Redis."""
        self._clock = clock
        self._file = file
        self._books: dict[str, Book] = {}
        self._lanes: dict[str, Lane] = {}
        self._opened: dict[tuple[str, str, str], Row] = {}
        self._closed: dict[tuple[str, str, str], Row] = {}
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
        """Drop everything: another instance may own our streams."""
        self._books.clear()
        self._opened.clear()
        self._closed.clear()
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

    # From outcomes to rows

    def record(self, lane: Lane, stream: Stream, end: int, became: Counts) -> None:
        """Move a cursor with what became of the records, and close what it passed."""
        if stream.id not in self._books:
            self.meet(stream)
        progress, book = stream.progress[lane.field], self._books[stream.id]
        book.extend(stream)
        self._note(book, lane.field, progress)
        # Claims of which nothing is the lane's own.
        self._pass(book, lane, progress, stream)
        add(progress, end, became)
        self._pass(book, lane, progress, stream)

    def _pass(self, book: Book, lane: Lane, progress: Progress, stream: Stream) -> None:
        """Close the row of each claim in which the lane has nothing left."""
        at = lane.own(progress.position)
        part = self._parts.get(stream.id)
        while (claim := book.find(progress.since)) is not None:
            rest = self._rest(part, claim, lane)
            end = part.end if part is not None and rest else claim.end
            if at < end:
                break
            row = book.row(lane, claim, progress.since)
            row.counts = progress.counts
            row.handed_over = rest
            if part is not None and not stream.disk and claim.base < part.end:
                before = part.progress.get(lane.field)
                if before is not None and lane.own(before.position) < part.end:
                    break  # its beginning still waits on the disk
                # It was settled there, and counted.
                if before is not None and claim.base <= before.since < part.end:
                    row.counts = before.counts + row.counts
            if row.claimed or row.counts.total:
                self._closed[row.key] = row
            progress.since = claim.end
            progress.counts = Counts()
        if claim is not None and progress.since < claim.base <= at:
            # A hole in the numbering: what was lost there is in a row of its own.
            progress.since = claim.base
            progress.counts = Counts()

    def _rest(self, part: Stream | None, claim: Held, lane: Lane) -> int:
        """Return what of a claim that is on our disk is in another's hands."""
        if part is None or part.id in self._claimed or claim.end <= part.end:
            return 0
        return lane.share(max(part.end, claim.base), claim.end)

    def _note(self, book: Book, cursor: str, progress: Progress) -> None:
        """Open a row of each claim of which a cursor has something before it."""
        upto = book.noted.get(cursor, progress.position)
        if cursor in book.noted and upto >= book.end:
            return
        lane = self.lane(cursor)
        for claim in book.claims[book.index(upto) :]:
            row = book.row(lane, claim, progress.since)
            if row.claimed:
                self._opened[row.key] = row
                self._closed.pop(row.key, None)  # handed over, and back again
        book.noted[cursor] = max(upto, book.end)

    # Streams and cursors that come and go

    def meet(self, stream: Stream) -> set[str]:
        """Open the book of a stream that is new in our hands; return moved cursors.

        A cursor stands behind a claim that the state file has as settled when we died
        before it was written: it goes on where we were.
        """
        rows = self.ledger.open_rows([stream.id])
        settled = self.ledger.settled(stream.id)
        adopted = stream.adopted and not self.ledger.is_own(stream.id)
        noted = {row.claim: Held(row.claim, row.base, row.end, row.at) for row in rows}
        seen = {name: held(name, claim) for name, claim in stream.claims.items()}
        # Of a claim in both places a part has the beginning only; its row has it all.
        claims = seen | noted if stream.disk else noted | seen
        book = Book(stream.id, claims.values(), adopted=adopted)
        moved = set()
        for cursor, progress in stream.progress.items():
            end = progress.position
            progress.position = before = stream.raised.pop(cursor, end)
            self._skip(book, cursor, progress, settled)
            claim = book.find(progress.since)
            if claim is None or claim.base > progress.since:
                # What was counted is of a claim that is finished, or was never ours.
                progress.since, progress.counts = progress.position, Counts()
            self._raise(book, cursor, progress, end, stream)
            if progress.position != before:
                moved.add(cursor)
        self._books[stream.id] = book
        for row in rows:
            self._judge(book, stream, row)
        return moved

    def _skip(
        self,
        book: Book,
        cursor: str,
        progress: Progress,
        settled: Mapping[tuple[str, str], int],
    ) -> None:
        lane = self.lane(cursor)
        while (
            claim := book.find(lane.own(progress.position))
        ) is not None and settled.get((claim.name, cursor), -1) >= claim.end:
            progress.position = progress.since = claim.end
            progress.counts = Counts()

    def _raise(
        self, book: Book, cursor: str, progress: Progress, end: int, stream: Stream
    ) -> None:
        """Move a cursor to what is trimmed: that is settled, but who knows how?

        Redis had no memory for the cursor, and we died before it had.
        """
        lane = self.lane(cursor)
        while (
            progress.position < end
            and (claim := book.find(progress.position)) is not None
        ):
            progress.position = max(progress.position, min(claim.base, end))
            self._pass(book, lane, progress, stream)
            last = min(claim.end, end)
            progress.counts.unknown += lane.share(progress.position, last)
            progress.position = last
            self._pass(book, lane, progress, stream)
        progress.position = max(progress.position, end)

    def _judge(self, book: Book, stream: Stream, row: Row) -> None:
        """See what is left of an open row of a stream that is in our hands again."""
        lane, progress = self.lane(row.cursor), stream.progress.get(row.cursor)
        if row.key in self._closed:
            return
        if progress is None:
            self._closed[row.key] = abandoned(row, lane, None, stream.progress)
        elif lane.own(progress.position) >= row.end:
            if stream.adopted:  # settled while others had it; else nobody has, or knows
                row.handed_over = row.claimed
                self._closed[row.key] = row
        elif row.claim in stream.claims or stream.disk:
            return  # what is not on our disk waits in Redis, whoever has it in hand
        elif stream.claims and not stream.own:
            # Redis came back without the claim: a hole. The cursor goes over it, and
            # what the source says of that is booked.
            stream.end = max(stream.end, row.end)
        else:
            if row.base <= progress.since < row.end:
                row.counts, progress.counts = progress.counts, Counts()
            row.counts.lost += lane.share(max(row.base, progress.position), row.end)
            self._closed[row.key] = row

    def leave(self, stream: Stream, cursor: str) -> None:
        """A cursor is about to be removed: book what it was still owed."""
        book, progress = self._books.get(stream.id), stream.progress.get(cursor)
        part = self._parts.get(stream.id)
        behind = part.progress.get(cursor) if part is not None else None
        if part is not None and behind is not None and behind.position < part.end:
            progress = behind  # what it is owed in Redis comes after that
        if book is None or progress is None:
            return
        book.extend(stream)
        self._note(book, cursor, progress)
        lane = self.lane(cursor)
        for claim in book.claims[book.index(progress.since) :]:
            row = book.row(lane, claim, progress.since)
            if row.claimed:
                row = abandoned(row, lane, progress, stream.progress)
                self._closed[row.key] = row
        book.noted.pop(cursor, None)

    # To the state file

    def sync(self, source: Source) -> dict[str, set[str]]:
        """Look at the streams in our hands; return the cursors that were moved."""
        moved: dict[str, set[str]] = {}
        self._claimed = set(source.streams)
        alone = [p for p in self._parts.values() if p.id not in source.streams]
        for stream in [*source.streams.values(), *alone]:
            book = self._books.get(stream.id)
            if book is None:
                moved[stream.id] = self.meet(stream)
                book = self._books[stream.id]
                self._elsewhere = None
            book.extend(stream)
            for cursor, progress in stream.progress.items():
                self._note(book, cursor, progress)
                self._pass(book, self.lane(cursor), progress, stream)
            self._shorten(book, stream)
        for finished in set(self._books) - set(source.streams) - set(self._parts):
            del self._books[finished]
            self._finished.add(finished)
            self._elsewhere = None
        return moved

    def _shorten(self, book: Book, stream: Stream) -> None:
        """Forget claims that every cursor has passed."""
        part = self._parts.get(stream.id, stream)
        begun = [*stream.progress.values(), *part.progress.values()]
        last = min((p.since for p in begun), default=book.end)
        passed = book.index(last)
        if passed and book.claims[-1].end > last:
            del book.claims[:passed]

    def write(self, source: Source) -> None:
        """Bring all rows to the disk, in one transaction; StateError when it refuses.

        Then what became of streams that are no longer in our hands is booked.
        """
        self._flush()
        if self._elsewhere is None:
            streams = self.ledger.open_streams()
            self._elsewhere = streams - set(source.streams)
        if self._elsewhere and source.owners is not None:
            waiting = set(self._file.pending())
            gone = {
                stream
                for stream in self._elsewhere - waiting
                if is_gone(stream, source.owners, source.owner)
            }
            for row in self.ledger.open_rows(gone) if gone else ():
                # Had it been handed over, we had not finished it: then what is open
                # was forgotten, and the difference is to be seen.
                part = self._parts.get(row.stream)
                if part is not None and row.base < part.end:
                    continue  # it is on our disk, or its beginning is
                if row.stream not in self._finished:
                    row.handed_over = row.claimed
                self._closed[row.key] = row
            self._flush()
            self._elsewhere -= gone
        now = self._clock.monotonic()
        if now >= self._fold_at:
            self._fold_at = now + FOLD_SECONDS
            self.ledger.fold(self._clock.now())

    def _flush(self) -> None:
        if self._opened or self._closed:
            opened, closed = self._opened.values(), self._closed.values()
            self.ledger.write(opened, closed, self._clock.now())
            self._opened.clear()
            self._closed.clear()


def held(name: str, claim: Claim) -> Held:
    """Return a claim as the books know it."""
    return Held(name, claim.base, claim.end, claim.at or ulid_time(name))


def is_gone(stream: str, owners: Mapping[str, str], owner: str) -> bool:
    """Say whether a stream that was ours is another's now, or was finished by one."""
    holder = owners.get(stream)
    if holder is None:
        return True
    name = owner.partition("#")[0]
    return bool(holder) and holder.partition("#")[0] != name


def abandoned(
    row: Row,
    lane: Lane,
    progress: Progress | None,
    others: Iterable[str],
) -> Row:
    """Return the row as it is closed when its cursor is removed.

    What a pump was still owed is forgotten with it. Where only the number of its
    workers has changed, its new lanes are owed the rest, in rows of their own.
    """
    at = row.base if progress is None else max(row.base, progress.position)
    if progress is not None and row.base <= progress.since < row.end:
        row.counts = progress.counts
    rest = row.claimed if progress is None else lane.share(at, row.end)
    if any(relays(lane, cursor) for cursor in others):
        row.claimed -= rest
        row.corrected = True
    else:
        row.forgotten = rest
    return row


def relays(lane: Lane, cursor: str) -> bool:
    """Say whether a cursor is of the same pump with another number of workers."""
    pump, _, lanes = cursors.parts(cursor)
    return pump == lane.pump and lanes != lane.lanes
