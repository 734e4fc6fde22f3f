"""The disk's share: windows copied out of Redis, and where every pump is in them.

Positions of a stream are in two places that touch. Its head may be on the disk, as
frames in the state file; the rest is in Redis. Each place is a `Stream` with cursors
of its own: a cursor in Redis that stands before what was copied is moved behind it, so
that trimming goes on, and whoever adopts the stream begins there. What is on our disk
stays ours to deliver.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Sequence, Set
from typing import Final

import msgspec

from tyk_pump import channel, cursors
from tyk_pump.clock import Clock
from tyk_pump.config.root import RootOptions
from tyk_pump.coordinator.lanes import Lane, Span
from tyk_pump.coordinator.windows import Frame, Windows
from tyk_pump.errors import StateError
from tyk_pump.source.claims import (
    Claim,
    Progress,
    Source,
    Stream,
    Window,
    pack,
    unpack,
)
from tyk_pump.state import journal as disk
from tyk_pump.state.file import StateFile

logger = logging.getLogger(__name__)

BATCH_FRAMES: Final = 8
"""Frames copied in one transaction."""
DISK_PAUSE: Final = 1.0
"""Seconds until a refused disk write is tried again."""
PRUNE_PAUSE: Final = 1.0
REST: Final = 0.9
"""Copying for want of room in Redis goes on until this share of the limit is left."""
WITHOUT_LIMIT: Final = 1 << 30
"""Bytes that may wait in a Redis that has no limit of its own."""


class Journal:
    """Copies windows to the disk that should not wait in Redis, and gives them out."""

    def __init__(self, root: RootOptions, state: StateFile, clock: Clock) -> None:
        self.root = root
        self.parts: dict[str, Stream] = {}
        self.frames = 0
        self.bytes = 0
        self.error = ""
        """Why nothing can be copied now, empty when it can."""
        self.full = False
        """True while copying has stopped at `journal.max_bytes`."""
        self.hurry = False
        """True while Redis is nearly full: then what waits there is copied at once."""
        self.redis_limit = 0
        """The `maxmemory` of Redis, 0 where it has none or does not tell."""
        self._store = disk.FrameStore(state)
        self._clock = clock
        self._kept: dict[str, int] = {}
        self._moved: set[tuple[str, str]] = set()
        self._disk_at = 0.0
        self._ahead = 0
        """Frames at hand that no pump had had at the last look."""
        self._prune_at = 0.0
        self._relieving = False
        self._load()

    # What there is

    def _load(self) -> None:
        for part in self._store.parts():
            stream = Stream(id=part.stream, own=False, disk=True, registered=False)
            stream.end = self._kept[part.stream] = part.kept
            for name, value in part.cursors.items():
                stream.progress[name] = unpack(value, Progress)
            for one in part.claims:
                stream.claims[one.name] = _claim(one)
            stream.gaps = list(part.gaps)
            stream.uptime = any(map(cursors.of_uptime, stream.progress))
            at = [one.position for one in stream.progress.values()]
            stream.trimmed = min([part.kept, *at])
            self.parts[part.stream] = stream
        self.frames, self.bytes = self._store.size()

    def streams(self, claimed: Iterable[Stream]) -> list[Stream]:
        """Return all places to read from: the parts on the disk before the rest."""
        return [*self.parts.values(), *claimed]

    def part_at(self, stream: str, position: int) -> Stream | None:
        """Return the part on the disk that has a position of a stream."""
        part = self.parts.get(stream)
        return part if part is not None and position < part.end else None

    def backlog(self) -> int:
        """Return how many records are on the disk that not all pumps have settled."""
        return sum(part.end - part.trimmed for part in self.parts.values())

    # The source's shelf

    def kept(self, stream: str) -> int:
        """Return the position up to which a stream was copied."""
        return self._kept.get(stream, 0)

    def reached(self, stream: str, field: str) -> int:
        """Return where a cursor is in Redis at least: behind what the disk knows."""
        kept, part = self.kept(stream), self.parts.get(stream)
        here = part.progress.get(field) if part is not None else None
        return max(kept, here.position) if here is not None else kept

    # From Redis to the disk

    @property
    def limit(self) -> int:
        """Bytes that may wait: in Redis with `redis`, on the disk with `disk`."""
        options = self.root.journal
        if options.max_bytes:
            return options.max_bytes
        return self.redis_limit // 4 or WITHOUT_LIMIT

    def wanted(self, source: Source, windows: Windows) -> int:
        """Return how many bytes are to be copied now, about."""
        if self._clock.monotonic() < self._disk_at:
            return 0
        before, self._ahead = self._ahead, windows.ahead
        if 0 < self._ahead < before:
            return 0  # pumps are about to take what is at hand: it costs no reading
        return self._wanted(source, windows)

    def copy(
        self,
        source: Source,
        windows: Windows,
        wanted: int,
        owed: Callable[[Stream, str, Claim], Sequence[str]] = lambda *_: (),
    ) -> list[Stream]:
        """Copy so many bytes, about; return the streams that they were copied from.

        `owed` says which pumps are owed a claim, for replays.

        The cursors that stood before it stand behind it afterwards; the caller has them
        written and the claims trimmed. While there is something returned there may be
        more at once.
        """
        wanted = min(wanted, self.root.queue_bytes)
        frames: list[disk.Frame] = []
        places: list[tuple[Stream, Claim]] = []
        pumps: dict[str, Sequence[str]] = {}
        for stream in source.streams.values():
            if wanted <= 0 or len(frames) >= BATCH_FRAMES:
                break
            position = max(stream.trimmed, self.kept(stream.id))
            if self._is_ahead(stream, position):
                continue
            while wanted > 0 and len(frames) < BATCH_FRAMES and position < stream.end:
                found = stream.find(position)
                if found is None or found[1].base > position:
                    break  # a hole: nothing to copy until it is passed over
                name, claim = found
                span = Span(stream.id, position, claim.end)
                window = windows.frame(source, span, ahead=True)
                if window is None:
                    break
                try:
                    if name not in pumps:
                        pumps[name] = owed(stream, name, claim)
                except StateError as exc:
                    self._refused(exc)
                    return []
                frames.append(
                    disk.Frame(
                        stream=stream.id,
                        first=window.first,
                        end=window.end,
                        claim=name,
                        list=claim.list,
                        codec=claim.codec,
                        at=claim.at,
                        data=window.data,
                        pumps=pumps[name],
                    )
                )
                places.append((stream, claim))
                wanted -= max(1, len(window.data))
                position = window.end
        if not frames:
            return []
        if self._clock.monotonic() >= source.lease_end:
            source.renew()  # were we frozen, others may have all of this by now
        self._ahead = windows.ahead
        return self._keep(frames, places)

    def _is_ahead(self, stream: Stream, position: int) -> bool:
        """Say whether a pump has settled more in Redis while it is behind on the disk.

        Another had the stream. One cursor could not tell what is settled between:
        what follows waits until the pump is through with what is on the disk.
        """
        part = self.parts.get(stream.id)
        if part is None:
            return False
        for field, here in part.progress.items():
            lane, there = Lane(*cursors.parts(field)), stream.progress.get(field)
            behind = lane.own(here.position) < part.end
            if behind and there and lane.share(position, there.position):
                return True
        return False

    def _wanted(self, source: Source, windows: Windows) -> int:
        records = sum(
            stream.end - max(stream.trimmed, self.kept(stream.id))
            for stream in source.streams.values()
            if stream.claims
        )
        if records <= 0:
            self._relieving = self.full = False
            if not self._moved:
                self.error = ""  # nothing waits for the disk any more
            return 0
        if self.root.journal.type == "disk":
            limit = self.root.journal.max_bytes
            self._tell_full(bool(limit) and self.bytes >= limit)
            return limit - self.bytes if limit else self.root.queue_bytes
        self._tell_full(False)
        if not windows.mean:
            self._look_at_one(source, windows)
        waiting = int(records * windows.mean)
        limit = 0 if self.hurry else self.limit
        if waiting > limit:
            self._relieving = True
        over = waiting - int(limit * REST)
        self._relieving = self._relieving and over > 0
        return over if self._relieving else 0

    def _look_at_one(self, source: Source, windows: Windows) -> None:
        """Learn how large records are, where no pump reads any."""
        for stream in source.streams.values():
            position = max(stream.trimmed, self.kept(stream.id))
            found = stream.find(position)
            if found is not None and found[1].base <= position:
                windows.frame(source, Span(stream.id, position, found[1].end))
                return

    def _tell_full(self, full: bool) -> None:
        if full and not self.full:
            logger.error(
                "the journal is full, records wait in Redis",
                extra={"prefix": "main", "bytes": self.bytes},
            )
        self.full = full

    def _keep(
        self, frames: Sequence[disk.Frame], places: Sequence[tuple[Stream, Claim]]
    ) -> list[Stream]:
        spans: dict[str, tuple[Stream, int, int]] = {}
        for frame, (stream, _) in zip(frames, places, strict=True):
            first = spans[stream.id][1] if stream.id in spans else frame.first
            spans[stream.id] = stream, first, frame.end
        progress: dict[str, dict[str, Progress]] = {}
        left: dict[str, dict[str, Progress]] = {}
        for name, (stream, _, end) in spans.items():
            for field, cursor in stream.progress.items():
                part = self.parts.get(name)
                here, there = _split(part, stream, field, cursor, end)
                progress.setdefault(name, {})[field] = here
                left.setdefault(name, {})[field] = there
        packed = {
            name: {field: pack(one) for field, one in fields.items()}
            for name, fields in progress.items()
        }
        gaps = [
            _gap(name, part.end, first)
            for name, (_, first, _) in spans.items()
            if (part := self.parts.get(name)) is not None and part.end < first
        ]
        try:
            self._store.append([*gaps, *frames], packed)
        except StateError as exc:
            self._refused(exc)
            return []
        self._accepted()
        for frame, (stream, claim) in zip(frames, places, strict=True):
            self._take_in(frame, stream, claim)
        for name, fields in progress.items():
            spans[name][0].progress.update(left[name])
            self.parts[name].progress.update(fields)
            self._moved -= {(name, field) for field in fields}
        return [stream for stream, _, _ in spans.values()]

    def _take_in(self, frame: disk.Frame, stream: Stream, claim: Claim) -> None:
        part = self.parts.get(stream.id)
        if part is None:
            part = Stream(
                id=stream.id, own=False, disk=True, registered=False, end=frame.first
            )
            part.uptime, part.trimmed = stream.uptime, frame.first
            self.parts[stream.id] = part
        kept = part.claims.get(frame.claim)
        first = frame.first if kept is None else kept.base
        part.claims[frame.claim] = msgspec.structs.replace(
            claim, key="", base=first, length=frame.end - first
        )
        if frame.first > part.end:
            part.gaps.append((part.end, frame.first))
            self.frames += 1
        self.frames += 1
        part.end = self._kept[stream.id] = frame.end
        self.bytes += len(frame.data)

    # From the disk to the workers

    def frame(self, span: Span) -> Frame | None:
        """Return the frame at the span's start; None where that is not on the disk.

        One without data stands for positions of which nothing is left.
        """
        part = self.part_at(span.stream, span.first)
        if part is None:
            return None
        try:
            found = self._store.read(span.stream, span.first)
        except disk.Damaged as exc:
            self._set_aside(span.stream, exc)
            return Frame(span.first, min(exc.end, span.end), b"", lost=True)
        if found is None:
            return Frame(span.first, span.end, b"", lost=True)
        if found.first > span.first:
            return Frame(span.first, min(found.first, span.end), b"", lost=True)
        end = min(found.end, span.end)
        if not found.data:  # lost already when it was to be copied, or set aside
            return Frame(span.first, end, b"", lost=found.codec != disk.GAP)
        if (found.first, found.end) == (span.first, end):
            return Frame(span.first, end, found.data)
        stream, name, codec, first, _, records = channel.decode_frame(found.data)
        chosen = records[span.first - first : end - first]
        data = channel.encode_frame(stream, name, codec, span.first, None, chosen)
        return Frame(span.first, end, data)

    def read(self, stream: str, position: int) -> Window:
        """Return the one record at a position that is on the disk."""
        window = Window(stream, "", "msgpack", position, [])
        frame = self.frame(Span(stream, position, position + 1))
        if frame is None or not frame.data:
            window.lost = 1
            return window
        _, window.list, window.codec, _, _, window.records = channel.decode_frame(
            frame.data
        )
        return window

    def _set_aside(self, stream: str, damage: disk.Damaged) -> None:
        logger.error(
            "a frame in the state file is damaged, its records are lost",
            extra={
                "batch": f"{stream}:{damage.first}",
                "records": damage.end - damage.first,
                "reason": str(damage),
            },
        )
        try:
            self._store.set_aside(stream, damage.first, str(damage), self._clock.now())
        except StateError as exc:
            # It is passed over all the same; who reads it next finds it damaged again.
            logger.error("state file refuses a note", extra={"reason": str(exc)})

    # From outcomes to cursors

    def moved(self, stream: str, field: str) -> None:
        """A cursor in a part has moved; it is written with the next ones."""
        self._moved.add((stream, field))

    @property
    def unwritten(self) -> Set[tuple[str, str]]:
        """Streams and cursors of which the disk does not have how they are."""
        return self._moved

    def insist(self) -> None:
        """Write what is due at once, also where the disk has refused just now."""
        self._disk_at = 0.0

    @property
    def due(self) -> bool:
        """True when there are cursors to write."""
        return bool(self._moved) and self._clock.monotonic() >= self._disk_at

    def write(
        self, settled: Callable[[Stream], int], held: Collection[tuple[str, str]]
    ) -> None:
        """Write the cursors that moved, but those held back; say what is settled."""
        moved = self._moved.difference(held)
        if moved and self._clock.monotonic() >= self._disk_at:
            fields: dict[str, dict[str, bytes]] = {}
            for name, field in moved:
                part = self.parts.get(name)
                if part is not None and field in part.progress:
                    value = pack(part.progress[field])
                    fields.setdefault(name, {})[field] = value
            try:
                self._store.move(fields)
            except StateError as exc:
                self._refused(exc)
                return
            self._accepted()
            self._moved -= moved
        for part in self.parts.values():
            if any(name == part.id for name, _ in self._moved):
                continue  # what is not written is not settled
            part.trimmed = max(part.trimmed, min(settled(part), part.end))
            for name in [n for n, c in part.claims.items() if c.end <= part.trimmed]:
                del part.claims[name]

    def forget(self, field: str) -> None:
        """A removed pump is owed nothing any more."""
        for part in self.parts.values():
            part.progress.pop(field, None)
        self._moved = {one for one in self._moved if one[1] != field}
        self._store.forget_cursor(field)

    def prune(self, held: Collection[str]) -> list[str]:
        """Remove settled frames whose time has passed, and parts that are done with.

        `held` are streams of which more may come, or is to be known.
        """
        now = self._clock.monotonic()
        if now < self._prune_at or now < self._disk_at or self._moved:
            return []
        self._prune_at = now + PRUNE_PAUSE
        if not self.frames and not self.parts:
            return []
        done = [
            part.id
            for part in self.parts.values()
            if part.trimmed >= part.end and part.id not in held
        ]
        journal = self.root.journal
        keep = journal.retention if journal.type == "disk" else 0.0
        over = self.bytes - journal.retention_bytes if keep else 0
        if self.full:
            over = max(over, self.bytes - int(journal.max_bytes * REST))
        try:
            if done:
                self._store.drop_parts(done)
            for name in done:
                del self.parts[name]
                self._kept.pop(name, None)
            count, freed = self._store.prune(
                {part.id: part.trimmed for part in self.parts.values()},
                before=self._clock.now() - keep,
                over=over,
            )
        except StateError as exc:
            self._refused(exc)
            return done
        self.frames -= count
        self.bytes -= freed
        if count and not self.frames:
            try:
                self._store.shrink()
            except StateError as exc:  # somebody reads it: the next time
                logger.debug("state file stays large", extra={"reason": str(exc)})
        if count == disk.PRUNE_ROWS:
            self._prune_at = now
        return done

    # The disk's trouble

    def _refused(self, exc: StateError) -> None:
        self._disk_at = self._clock.monotonic() + DISK_PAUSE
        if self.error != str(exc):
            logger.error(
                "the journal cannot be written, records wait where they are",
                extra={"prefix": "main", "reason": str(exc)},
            )
        self.error = str(exc)

    def _accepted(self) -> None:
        if self.error:
            logger.info("the journal is written again", extra={"prefix": "main"})
        self.error = ""


def _split(
    part: Stream | None, stream: Stream, field: str, cursor: Progress, end: int
) -> tuple[Progress, Progress]:
    """Return where a pump is in a part that grows to `end`, and where in Redis.

    Who has settled the part may be ahead in Redis, even beyond the end: the part has
    all that is known of the claim in hand then, since Redis is told of it later.
    """
    here = part.progress.get(field) if part is not None else None
    there = Progress(max(cursor.position, end), cursor.filtered, cursor.dead)
    if here is None:
        return msgspec.structs.replace(cursor), there
    assert part is not None
    if Lane(*cursors.parts(field)).own(here.position) < part.end:
        return here, Progress(end, cursor.filtered, cursor.dead)
    found = stream.find(cursor.since)
    if found is None or found[1].base > cursor.since:
        same = bool(here.counts.total)  # Redis has lost the claim in hand
    else:
        same = found[1].base <= here.since
    if same and here.since <= cursor.since:
        since, counts = here.since, here.counts + cursor.counts
    else:
        since, counts = cursor.since, cursor.counts
    position = max(here.position, cursor.position)
    return msgspec.structs.replace(
        cursor, position=position, since=since, counts=counts
    ), there


def _gap(stream: str, first: int, end: int) -> disk.Frame:
    return disk.Frame(
        stream=stream,
        first=first,
        end=end,
        claim="",
        list="",
        codec=disk.GAP,
        at=0.0,
        data=b"",
    )


def _claim(one: disk.KeptClaim) -> Claim:
    return Claim(
        one.list,
        one.codec,
        "",
        base=one.first,
        length=one.end - one.first,
        at=one.at,
        total=one.end - one.first,
    )
