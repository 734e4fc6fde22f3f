"""What is owed of one stream: its claims, and where each pump stands in them.

Plain arithmetic: nothing here is written anywhere. `books.py` makes rows of it.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence

import msgspec

from tyk_pump.coordinator.lanes import Lane
from tyk_pump.source.claims import Claim, Progress, Stream
from tyk_pump.state.ledger import Row
from tyk_pump.ulid import ulid_time


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
        self.rest: Stream | None = None
        """The stream, or what follows its part on the disk, while it is in Redis and
        ours; it is met anew when it was out of our hands in between."""
        self.jumped: set[str] = set()
        """Cursors in Redis that were moved to what is trimmed there, while their pumps
        have something before them in the part on the disk."""
        self.cursors: set[str] = set()
        """Those in Redis that were compared with what is settled."""
        self.noted: dict[tuple[str, bool], int] = {}
        """By cursor, and whether it is ours in Redis: how far its claims have rows."""

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

    def shorten(self, since: int) -> None:
        """Forget claims that end before a position, but for the last one."""
        passed = self.index(since)
        if passed and self.claims[-1].end > since:
            del self.claims[:passed]

    def row(self, lane: Lane, claim: Held, where: Where) -> Row:
        """Return the open row of a claim, with what the cursors are owed of it."""
        claimed = where.known(lane, claim)
        if not where.ours:
            claimed += where.beyond(lane, claim)
        return Row(
            stream=self.stream,
            claim=claim.name,
            cursor=lane.field,
            at=claim.at,
            base=claim.base,
            end=claim.end,
            claimed=claimed,
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

    def pending_in(self, part: Stream, lane: Lane, progress: Progress) -> int:
        """Return the same of a part that is on our disk."""
        if progress.position >= part.end:
            return 0
        behind = Progress(position=part.end)
        others = without(lane, progress.position, part.end, part.gaps)
        return self.pending(lane, progress) - self.pending(lane, behind) - others


class Where(msgspec.Struct):
    """Where a pump is in a stream: on the disk, then in Redis."""

    cursor: str
    here: Progress | None
    there: Progress | None
    kept: int
    """Where the part on the disk ends, 0 where there is none."""
    ours: bool
    """True where the rest is ours in Redis."""
    gaps: Sequence[tuple[int, int]] = ()
    """What of the part on the disk others had."""

    @property
    def upto(self) -> int:
        """Where that ends of which the cursor on the disk knows."""
        return self.kept if self.here is None else max(self.kept, self.here.position)

    def at(self, lane: Lane) -> int:
        """Return the first position that the lane has before it."""
        first = 0
        if self.here is not None:
            first = lane.own(self.here.position)
            if first < self.kept:
                return first
        if self.there is not None:
            first = max(first, lane.own(self.there.position))
        return first

    def counting(self, claim: Held | Row) -> list[Progress]:
        """Return what has counted, or will count, records of a claim."""
        here = self.here if claim.base < self.upto else None
        return [p for p in (here, self.there) if p is not None and p.since < claim.end]

    def known(self, lane: Lane, claim: Held | Row) -> int:
        """Return how many records of a claim the cursors count, or will count."""
        count = 0
        for one in self.counting(claim):
            first = max(claim.base, one.since)
            if one.since >= claim.base:
                # What it went over without counting was another's.
                count, first = count + one.counts.total, max(first, one.position)
            if one is self.here:
                count += self.share_here(lane, first, min(claim.end, self.upto))
            else:
                count += lane.share(first, claim.end)
        return count

    def share_here(self, lane: Lane, first: int, end: int) -> int:
        """Return how many positions on our disk are the lane's own, and ours."""
        return lane.share(first, end) - without(lane, first, end, self.gaps)

    def left(self, lane: Lane, claim: Held | Row) -> int:
        """Return how many of those are not settled."""
        count = 0
        if self.here is not None and claim.base < self.upto:
            first = max(claim.base, self.here.position)
            count += self.share_here(lane, first, min(claim.end, self.kept))
        if self.there is not None:
            count += lane.share(max(claim.base, self.there.position), claim.end)
        return count

    def beyond(self, lane: Lane, claim: Held | Row) -> int:
        """Return how many records of a claim on the disk are behind that part."""
        return lane.share(max(claim.base, self.upto), claim.end)


def without(lane: Lane, first: int, end: int, gaps: Iterable[tuple[int, int]]) -> int:
    """Return how many of a lane's positions between two are in gaps."""
    return sum(lane.share(max(first, at), min(end, upto)) for at, upto in gaps)


def held(name: str, claim: Claim) -> Held:
    """Return a claim as the books know it."""
    return Held(name, claim.base, claim.end, claim.at or ulid_time(name))
