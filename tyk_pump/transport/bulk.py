"""Split a batch into requests by count and bytes; gather what became of each record.

A pump says how one record is encoded and how a part of a batch is sent; here stands
what all of them share: the limits, the halving of a part that is refused as a whole,
and the error that names every position.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

import msgspec

from tyk_pump.errors import CodecError, RejectedRecords, TransientError, WriteError
from tyk_pump.pumps.protocol import Batch


class Part(msgspec.Struct):
    """Records of a batch that go into one request."""

    indexes: list[int]
    """Where each stands in the batch."""
    items: list[Any]
    """Each in its encoded form."""
    size: int = 0
    """Bytes of all of them."""

    def __len__(self) -> int:
        return len(self.indexes)


class Verdict(msgspec.Struct):
    """What became of a part; the numbers are offsets into it, unnamed have arrived."""

    rejected: dict[int, str] = msgspec.field(default_factory=dict)
    """Refused for good, with the back end's words."""
    pending: list[int] = msgspec.field(default_factory=list)
    """Not taken now; the worker sends them again after a pause."""
    again: list[int] = msgspec.field(default_factory=list)
    """Not looked at by the back end; sent again at once."""
    reason: str = ""
    """Why some are pending."""
    retry_after: float | None = None


class Refused(Exception):
    """The back end refused a part as a whole, without saying which record it means."""


class TooLarge(Refused):
    """A part has more bytes than the back end takes at once."""


Encode = Callable[[Batch, int], Any]
"""Makes the item of the record with this index; None where there is nothing to send,
and the record is left out (`Batch.left_out`); CodecError refuses the record."""
Post = Callable[[Part], Verdict | None]
"""Sends a part; None = all of it has arrived."""


class Bulk:
    """Sends batches in parts; remembers the size that the back end has refused."""

    def __init__(
        self,
        *,
        max_bytes: int,
        flush_bytes: int | None = None,
        max_count: int | None = None,
        workers: int = 1,
        overhead: int = 0,
        size: Callable[[Any], int] = len,
    ) -> None:
        """No part has more than `max_bytes`, and none of several records more than
        `flush_bytes`. `overhead` bytes stand around the items of a part.

        More than one worker sends parts side by side, in no order.
        """
        self._max_bytes = max_bytes
        self._learnt = min(max_bytes, flush_bytes or max_bytes)
        self._max_count = max_count or 2**31
        self._overhead = overhead
        self._size = size
        self._workers = max(1, workers)
        self._pool: ThreadPoolExecutor | None = None
        if workers > 1:
            self._pool = ThreadPoolExecutor(workers, thread_name_prefix="bulk")

    def send(self, batch: Batch, encode: Encode, post: Post) -> None:
        """Return when every record has arrived, else raise a WriteError."""
        outcome = _Outcome(len(batch))
        parts = self._parts(batch, encode, outcome)
        if self._pool is None:
            for part in parts:
                self._deliver(part, post, outcome)
                if outcome.failed:
                    break
        else:
            self._deliver_side_by_side(parts, post, outcome)
        batch.left_out += outcome.left_out
        outcome.raise_if_incomplete()

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()

    def _parts(self, batch: Batch, encode: Encode, outcome: _Outcome) -> Iterator[Part]:
        # Local names: this runs once for every record.
        measure, overhead, most = self._size, self._overhead, self._max_count
        indexes: list[int] = []
        items: list[Any] = []
        total = overhead
        for index in range(len(batch)):
            try:
                item = encode(batch, index)
            except CodecError as exc:
                outcome.rejected[index] = str(exc)
                continue
            if item is None:
                outcome.leave_out(index)
                continue
            size = measure(item)
            if size + overhead > self._max_bytes:
                limit = self._max_bytes
                why = f"too large: {size + overhead} bytes, the limit is {limit}"
                outcome.rejected[index] = why
                continue
            if indexes and (total + size > self._learnt or len(indexes) >= most):
                yield Part(indexes, items, total)
                indexes, items, total = [], [], overhead
            indexes.append(index)
            items.append(item)
            total += size
        if indexes:
            yield Part(indexes, items, total)

    def _deliver(self, part: Part, post: Post, outcome: _Outcome) -> None:
        """Send a part; in halves where it is refused as a whole."""
        left = deque([part])
        while left:
            part = left.popleft()
            try:
                verdict = post(part)
            except TransientError as exc:
                outcome.note_failure(part, exc)
                return
            except RejectedRecords as exc:
                rejected = exc.rejected or dict.fromkeys(range(len(part)), exc.reason)
                outcome.note(part, Verdict(rejected))
                continue
            except Refused as exc:
                if len(part) == 1:
                    outcome.rejected[part.indexes[0]] = str(exc)
                    continue
                if isinstance(exc, TooLarge):
                    # Something on the way takes less than we were told.
                    self._learnt = min(self._learnt, part.size // 2)
                left.extendleft(reversed(self._halves(part)))
                continue
            if verdict is None:
                outcome.arrived(part)
                continue
            outcome.note(part, verdict)
            if 0 < len(verdict.again) < len(part):
                left.appendleft(self._some(part, verdict.again))

    def _deliver_side_by_side(
        self, parts: Iterator[Part], post: Post, outcome: _Outcome
    ) -> None:
        assert self._pool is not None
        running: set[Future[None]] = set()
        for part in parts:
            running.add(self._pool.submit(self._deliver, part, post, outcome))
            if len(running) >= self._workers:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for one in done:
                    one.result()
            if outcome.failed:
                break
        for one in running:
            one.result()

    def _halves(self, part: Part) -> list[Part]:
        middle = len(part) // 2
        offsets = range(len(part))
        return [
            self._some(part, offsets[:middle]),
            self._some(part, offsets[middle:]),
        ]

    def _some(self, part: Part, offsets: Sequence[int]) -> Part:
        items = [part.items[offset] for offset in offsets]
        size = self._overhead + sum(map(self._size, items))
        return Part([part.indexes[offset] for offset in offsets], items, size)


class _Outcome:
    """Which records of a batch have arrived, and what became of the others.

    Threads add to it side by side; each names other records.
    """

    def __init__(self, count: int) -> None:
        self.rejected: dict[int, str] = {}
        self.failed = False
        self.left_out = 0
        self._open = [True] * count
        self._reasons: list[str] = []
        self._retry_after: float | None = None

    def leave_out(self, index: int) -> None:
        """Nothing of this record is to be sent."""
        self._open[index] = False
        self.left_out += 1

    def arrived(self, part: Part) -> None:
        """All of a part have arrived."""
        for index in part.indexes:
            self._open[index] = False

    def note(self, part: Part, verdict: Verdict) -> None:
        """Some of a part have not."""
        stay = {*verdict.pending, *verdict.again}
        for offset, index in enumerate(part.indexes):
            if offset in verdict.rejected:
                self.rejected[index] = verdict.rejected[offset]
            elif offset not in stay:
                self._open[index] = False
        if verdict.pending:
            self._fail(verdict.reason, verdict.retry_after)

    def note_failure(self, part: Part, exc: WriteError) -> None:
        """The back end fails: what of the part is not named has arrived."""
        self.failed = True
        pending = range(len(part)) if exc.pending is None else exc.pending
        self.note(part, Verdict(exc.rejected, list(pending)))
        self._fail(exc.reason, exc.retry_after)

    def raise_if_incomplete(self) -> None:
        """Raise the error that names what has not arrived."""
        pending = [
            index
            for index, open_ in enumerate(self._open)
            if open_ and index not in self.rejected
        ]
        if pending:
            raise TransientError(
                next(filter(None, self._reasons), "not confirmed"),
                pending=pending,
                rejected=self.rejected,
                retry_after=self._retry_after,
            )
        if self.rejected:
            reason = next(iter(self.rejected.values()))
            raise RejectedRecords(reason, rejected=self.rejected)

    def _fail(self, reason: str, retry_after: float | None) -> None:
        self._reasons.append(reason)
        if retry_after is not None:
            self._retry_after = max(self._retry_after or 0.0, retry_after)
