"""Which positions one worker is owed, was offered and has settled.

A lane is one worker of one pump. A pump with `workers: N` has N lanes; lane i has
the blocks of BLOCK positions whose number modulo N is i. Nothing here knows of
processes or of Redis: it is arithmetic on positions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import msgspec

from tyk_pump import cursors
from tyk_pump.source.claims import Counts, Progress, Stream

DEATHS_BEFORE_SPLIT = 2


class Sent(msgspec.Struct):
    """A frame that is with the worker."""

    stream: str
    first: int
    end: int
    size: int


class Suspect(msgspec.Struct):
    """Positions in whose hands workers have died."""

    stream: str
    first: int
    end: int
    deaths: int


class Span(msgspec.Struct):
    """What a lane can be offered next: positions `first` to `end` of a stream."""

    stream: str
    first: int
    end: int


class Lane:
    """The book of one worker; `field` is its name in the stream's hash."""

    def __init__(self, pump: str, index: int, lanes: int) -> None:
        self.pump = pump
        self.index = index
        self.lanes = lanes
        self.field = cursors.name(pump, index, lanes)
        self.sent: deque[Sent] = deque()
        self.suspect: Suspect | None = None
        self._offered: dict[str, int] = {}

    # Positions

    def own(self, position: int) -> int:
        """Return the first position at or behind this one that is the lane's own."""
        return cursors.own(position, self.index, self.lanes)

    def share(self, first: int, end: int) -> int:
        """Return how many positions from `first` to `end` are the lane's own."""
        if first >= end:
            return 0
        return self._own_below(end) - self._own_below(first)

    def _own_below(self, position: int) -> int:
        rounds, rest = divmod(position, cursors.BLOCK * self.lanes)
        return rounds * cursors.BLOCK + min(
            max(rest - self.index * cursors.BLOCK, 0), cursors.BLOCK
        )

    def settled(self, stream: Stream) -> int:
        """Return the position up to which this lane leaves nothing to settle."""
        progress = stream.progress.get(self.field)
        if progress is None:
            return stream.end
        return min(self.own(progress.position), stream.end)

    def next_span(self, streams: Iterable[Stream]) -> Span | None:
        """Return what comes next, of the oldest stream that still owes us."""
        for stream in streams:
            progress = stream.progress.get(self.field)
            if progress is None:
                continue
            offered = self._offered.get(stream.id, progress.position)
            first = self.own(max(offered, progress.position))
            if first >= stream.end:
                continue
            end = stream.end
            if self.lanes > 1:
                end = min(end, (first // cursors.BLOCK + 1) * cursors.BLOCK)
            if self.suspect is not None and self.suspect.stream == stream.id:
                end = min(end, first + self._suspect_size())
            return Span(stream.id, first, end)
        return None

    def pending(self, streams: Iterable[Stream]) -> int:
        """Return how many claimed records this lane has not settled."""
        count = 0
        for stream in streams:
            progress = stream.progress.get(self.field)
            if progress is None:
                continue
            count += self.share(progress.position, stream.end)
        return count

    # Frames

    @property
    def bytes_sent(self) -> int:
        """Bytes that are with the worker."""
        return sum(frame.size for frame in self.sent)

    def offered(self, span: Span, end: int, size: int) -> None:
        """Note a frame that was put on the worker's queue."""
        self.sent.append(Sent(span.stream, span.first, end, size))
        self._offered[span.stream] = end

    def acknowledged(self, stream: str, first: int, end: int) -> bool:
        """Take the answered frame off; False for an answer nobody waits for."""
        if not self.sent:
            return False
        head = self.sent[0]
        if (head.stream, head.first, head.end) != (stream, first, end):
            return False
        self.sent.popleft()
        self._passed(stream, end)
        return True

    def skip(self, stream: str, end: int) -> None:
        """Note that positions up to `end` are settled without the worker."""
        self._offered[stream] = max(self._offered.get(stream, 0), end)
        self._passed(stream, end)

    def restarted(self) -> None:
        """Forget what was with a worker that is gone: it is offered again."""
        self.sent.clear()
        self._offered.clear()

    def drop_stream(self, stream: str) -> None:
        """Forget a stream that is no longer ours."""
        self._offered.pop(stream, None)

    # Poison

    def died(self, in_hand: int) -> Sent | None:
        """Blame the frame in hand; return it when it is a single proven record."""
        head = next((s for s in self.sent if s.first == in_hand), None)
        if head is None:
            return None
        suspect = self.suspect
        inside = (
            suspect is not None
            and suspect.stream == head.stream
            and suspect.first <= head.first < suspect.end
        )
        if inside and suspect is not None:
            suspect.deaths += 1
            suspect.end = min(suspect.end, head.end)
        else:
            self.suspect = Suspect(head.stream, head.first, head.end, 1)
            suspect = self.suspect
        assert suspect is not None
        alone = head.end - head.first == 1
        return head if alone and suspect.deaths >= DEATHS_BEFORE_SPLIT else None

    @property
    def splitting(self) -> bool:
        """True while a frame that killed workers is being taken apart."""
        return self.suspect is not None and self.suspect.deaths >= DEATHS_BEFORE_SPLIT

    def _suspect_size(self) -> int:
        suspect = self.suspect
        assert suspect is not None
        left = max(1, suspect.end - suspect.first)
        if suspect.deaths < DEATHS_BEFORE_SPLIT:
            return left
        return max(1, left // 2)

    def _passed(self, stream: str, end: int) -> None:
        suspect = self.suspect
        if suspect is None or suspect.stream != stream:
            return
        suspect.first = max(suspect.first, end)
        if suspect.first >= suspect.end:
            self.suspect = None


def add(progress: Progress, end: int, became: Counts) -> None:
    """Move a cursor forward with what became of the records; it never goes back."""
    progress.position = max(progress.position, end)
    progress.filtered += became.filtered
    progress.dead += became.dead
    counts = progress.counts
    counts.delivered += became.delivered
    counts.filtered += became.filtered
    counts.dead += became.dead
    counts.lost += became.lost
    counts.unknown += became.unknown


def owes(lanes: Iterable[tuple[Lane, int]], position: int) -> bool:
    """Say whether one of these lanes, each at a position, has this one before it."""
    return any(at <= position == lane.own(position) for lane, at in lanes)
