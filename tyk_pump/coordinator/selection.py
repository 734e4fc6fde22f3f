"""Which kept records a replay is made of: by time, by pump, by what is in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgspec

from tyk_pump import cursors
from tyk_pump.config.root import RootOptions
from tyk_pump.coordinator.lanes import Lane, owes
from tyk_pump.errors import CodecError
from tyk_pump.record import codec, condition, edit
from tyk_pump.record.analytics import Time
from tyk_pump.record.condition import Condition
from tyk_pump.source.claims import Progress, unpack
from tyk_pump.state.journal import Damaged, FrameStore
from tyk_pump.state.replay import KeptFrame, ReplayFrame, ReplayStore

SKEW: Final = 300.0
"""Seconds by which a gateway's clock may be ahead of ours: a record is claimed after it
was made, but for that."""


class Wanted(msgspec.Struct, kw_only=True):
    """What is asked for."""

    begin: float
    end: float
    """Behind the last moment."""
    targets: dict[str, str]
    """Pump that is to get records -> the pump that was owed them; "" = whoever."""
    conditions: Sequence[Condition] = ()


class Tally(msgspec.Struct, kw_only=True):
    """What was found for one pump."""

    records: int = 0
    bytes: int = 0
    on_their_way: int = 0
    """The pump has not settled them yet: they come without a replay."""


class Found(msgspec.Struct, kw_only=True):
    """What was found in all."""

    pumps: dict[str, Tally]
    frames: int = 0
    unreadable: int = 0
    """Bytes that are no record: they are dead letters."""
    damaged: list[str] = []
    """Frames that could not be read, in words."""
    damaged_records: int = 0


class _Buffer(msgspec.Struct):
    ids: list[str] = []
    records: list[bytes] = []
    size: int = 0


class _Copies:
    """Gathers the records of one replay into frames."""

    def __init__(self, stream: str, root: RootOptions) -> None:
        self.stream = stream
        self._end = 0
        self._bytes = root.window_bytes
        self._count = root.window_records
        if root.purge_chunk > 0:
            self._count = min(self._count, root.purge_chunk)
        self._waiting: dict[tuple[str, str], _Buffer] = {}

    def add(
        self, frame: KeptFrame, indexes: Iterable[int], records: Sequence[bytes]
    ) -> Iterable[ReplayFrame]:
        """Take records of a kept frame; yield what is full."""
        place = frame.list, frame.codec
        for index in indexes:
            buffer = self._waiting.setdefault(place, _Buffer())
            raw = records[index]
            if buffer.records and (
                len(buffer.records) >= self._count
                or buffer.size + len(raw) > self._bytes
            ):
                yield self._full(place)
                buffer = self._waiting.setdefault(place, _Buffer())
            buffer.ids.append(f"{frame.stream}:{frame.first + index}")
            buffer.records.append(raw)
            buffer.size += len(raw)

    def rest(self) -> Iterable[ReplayFrame]:
        """Yield what is left."""
        for place in list(self._waiting):
            yield self._full(place)

    def _full(self, place: tuple[str, str]) -> ReplayFrame:
        buffer = self._waiting.pop(place)
        first, self._end = self._end, self._end + len(buffer.records)
        return ReplayFrame(
            stream=self.stream,
            list=place[0],
            codec=place[1],
            first=first,
            ids=buffer.ids,
            records=buffer.records,
        )


def select(
    store: ReplayStore,
    journal: FrameStore,
    wanted: Wanted,
    root: RootOptions,
    *,
    streams: dict[str, str],
    keep: Callable[[Sequence[ReplayFrame]], None] | None = None,
    read: Callable[[int], None] = lambda _: None,
    frames: Sequence[KeptFrame] | None = None,
) -> Found:
    """Go through what is kept; `keep` gets the copies, of which `streams` names each.

    `read` hears how many bytes were looked at.
    """
    found = Found(pumps={name: Tally() for name in wanted.targets})
    copies = {name: _Copies(streams.get(name, ""), root) for name in wanted.targets}
    owed = _owed(journal, wanted.targets)
    chooser = _Chooser(wanted)
    if frames is None:
        frames = store.frames(wanted.begin - SKEW)
    for frame in frames:
        targets = [name for name in wanted.targets if _concerns(wanted, name, frame)]
        if targets:
            try:
                records = store.records(frame)
            except Damaged as exc:
                found.damaged.append(f"{frame.stream}:{frame.first}: {exc}")
                found.damaged_records += frame.end - frame.first
                records = None
            if records is not None:
                found.frames += 1
                chosen = chooser.choose(frame, records, found)
                for name in targets:
                    full = _take(
                        found.pumps[name],
                        copies[name],
                        frame,
                        records,
                        chosen,
                        owed.get((name, frame.stream), ()),
                    )
                    if keep is not None and full:
                        keep(full)
        read(frame.size)
    for copy in copies.values():
        last = list(copy.rest())
        if keep is not None and last:
            keep(last)
    return found


def _concerns(wanted: Wanted, target: str, frame: KeptFrame) -> bool:
    """Say whether a pump may get records of a frame: reports go to the uptime pump."""
    source = wanted.targets[target]
    if (frame.codec == edit.UPTIME) != (target == cursors.UPTIME):
        return False
    return not source or source in frame.pumps


def _take(
    tally: Tally,
    copies: _Copies,
    frame: KeptFrame,
    records: Sequence[bytes],
    chosen: Sequence[int],
    owed: Sequence[tuple[Lane, int]],
) -> list[ReplayFrame]:
    mine = [index for index in chosen if not owes(owed, frame.first + index)]
    tally.on_their_way += len(chosen) - len(mine)
    tally.records += len(mine)
    tally.bytes += sum(len(records[index]) for index in mine)
    return list(copies.add(frame, mine, records))


def _owed(
    journal: FrameStore, pumps: Iterable[str]
) -> dict[tuple[str, str], list[tuple[Lane, int]]]:
    """Return where each pump is in the streams that are on the disk."""
    found: dict[tuple[str, str], list[tuple[Lane, int]]] = {}
    wanted = set(pumps)
    for part in journal.parts():
        for cursor, value in part.cursors.items():
            lane = Lane(*cursors.parts(cursor))
            if lane.pump in wanted:
                progress: Progress = unpack(value, Progress)
                places = found.setdefault((lane.pump, part.stream), [])
                places.append((lane, progress.position))
    return found


class _Chooser:
    """Looks into records: at no more than their time and what conditions ask for."""

    def __init__(self, wanted: Wanted) -> None:
        self._conditions = wanted.conditions
        self._begin, self._end = _instant(wanted.begin), _instant(wanted.end)
        self._fields = {"timestamp", *condition.reads(wanted.conditions)}
        self._decoders: dict[str, Callable[[bytes], Any]] = {}

    def choose(
        self, frame: KeptFrame, records: Sequence[bytes], found: Found
    ) -> list[int]:
        """Return the indexes of the records that are asked for."""
        fits = condition.fits(self._conditions, frame.codec)
        if fits is None:
            return []
        decode = self._decoders.get(frame.codec)
        if decode is None:
            decode = codec.reader(frame.codec, self._fields)
            self._decoders[frame.codec] = decode
        claimed, chosen = _instant(frame.at), []
        for index, raw in enumerate(records):
            try:
                record = decode(raw)
            except CodecError:
                found.unreadable += 1
                continue
            # One that has no time was made when it was claimed, as far as we know.
            at: Time = record.timestamp if record.timestamp[0] > 0 else claimed
            if self._begin <= at < self._end and fits(record):
                chosen.append(index)
        return chosen


def _instant(seconds: float) -> Time:
    whole = int(seconds // 1)
    return whole, int((seconds - whole) * 1_000_000_000)
