"""Windows of claims as frames: read once, encoded once, shared by workers in step."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable

import msgspec

from tyk_pump import channel
from tyk_pump.config.root import RootOptions
from tyk_pump.coordinator.lanes import Span
from tyk_pump.source.claims import Source

logger = logging.getLogger(__name__)

FIRST_RECORDS = 64
CACHED_FRAMES = 8


class Frame(msgspec.Struct):
    """One encoded window; without data where there is nothing to deliver."""

    first: int
    end: int
    data: bytes
    lost: bool = False
    """True where its records are lost; False for a gap that others have settled."""


class Windows:
    """Reads windows that fit the limits and keeps the last few frames."""

    def __init__(
        self, root: RootOptions, on_disk: Callable[[Span], Frame | None] | None = None
    ) -> None:
        self.root = root
        self.lost = 0
        self.mean = 0.0
        """Bytes of a record in the frames of late."""
        self._on_disk = on_disk
        self._records = FIRST_RECORDS
        self._largest = 0
        self._cache: OrderedDict[tuple[str, int], Frame] = OrderedDict()
        self._ahead: set[tuple[str, int]] = set()

    @property
    def ahead(self) -> int:
        """Frames at hand that were read to be copied, and that no pump has had yet."""
        return len(self._ahead)

    def records(self) -> int:
        """Return how many records the next window may have."""
        limit = self.root.window_records
        if self.root.purge_chunk > 0:
            limit = min(limit, self.root.purge_chunk)
        return max(1, min(self._records, limit))

    def frame(self, source: Source, span: Span, *, ahead: bool = False) -> Frame | None:
        """Return the frame at the span's start; None when nothing is there yet.

        It comes from the disk where that has the position, else from Redis. `ahead`
        says that it is not for a pump.
        """
        key = (span.stream, span.first)
        if not ahead:
            self._ahead.discard(key)
        found = self._cache.get(key)
        if found is not None and found.end <= span.end:
            self._cache.move_to_end(key)
            return found
        kept = self._on_disk(span) if self._on_disk is not None else None
        if kept is not None:
            if kept.data:
                self._keep(key, kept)
            return kept
        limit = min(self.records(), span.end - span.first)
        window = source.read(span.stream, span.first, limit)
        if window.lost:
            return Frame(span.first, span.first + window.lost, b"", lost=True)
        if not window.records:
            return None
        data = channel.encode_frame(
            window.stream, window.list, window.codec, window.first, None, window.records
        )
        self._learn(len(data), len(window.records), max(map(len, window.records)))
        frame = Frame(window.first, window.first + len(window.records), data)
        if ahead:
            self._ahead.add(key)
        self._keep(key, frame)
        return frame

    def given_up(self, stream: str, frame: Frame) -> None:
        """Count and tell what is lost, once a cursor goes over it."""
        self.lost += frame.end - frame.first
        logger.error(
            "claimed records are lost",
            extra={"batch": stream, "records": frame.end - frame.first},
        )

    def clear(self) -> None:
        """Forget all frames: another instance may own their streams."""
        self._cache.clear()
        self._ahead.clear()

    def _keep(self, key: tuple[str, int], frame: Frame) -> None:
        self._cache[key] = frame
        size = sum(len(one.data) for one in self._cache.values())
        while len(self._cache) > 1 and (
            len(self._cache) > CACHED_FRAMES or size > self.root.queue_bytes
        ):
            key, dropped = self._cache.popitem(last=False)
            self._ahead.discard(key)
            size -= len(dropped.data)

    def _learn(self, size: int, records: int, largest: int) -> None:
        """Start small, grow towards the byte limit; shrink at once for large records.

        The largest record seen lately counts four times less than the mean: a single
        giant must not make every window tiny, and may not burst one either.
        """
        mean = size / records
        self.mean = mean if not self.mean else 0.9 * self.mean + 0.1 * mean
        self._largest = max(largest, self._largest * 9 // 10)
        by_mean = self.root.window_bytes // max(1, size // records)
        by_largest = 4 * self.root.window_bytes // max(1, self._largest)
        self._records = max(1, min(self._records * 4, by_mean, by_largest))
