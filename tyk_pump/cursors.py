"""Cursors: whose progress in a stream it is, and what became of what they passed.

A pump with one worker has one cursor of its own name; with `workers: N` each of its
lanes has one, and a change of N makes new ones.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

BLOCK = 1000
"""Neighbouring positions of a stream that are one lane's."""
UPTIME: Final = "uptime"
"""Name of the uptime pump. Those in `pumps` are in capitals: none has the same."""


def name(pump: str, lane: int, lanes: int) -> str:
    """Return the name of a lane's cursor."""
    return pump if lanes == 1 else f"{pump}/{lane}:{lanes}"


def watermark(cursor: str, start: int) -> str:
    """Return the name of a watermark: of whose progress, from which position on.

    A worker that goes on with a stream begins one of its own: what is before `start`
    may still be on its way, from the disk of an instance that had the stream before.
    """
    return f"{cursor}@{start}" if start else cursor


def fresh(
    positions: Sequence[int], cursor: str, marks: Mapping[str, int]
) -> Sequence[int]:
    """Return the indexes of the positions that have not arrived yet, all ascending.

    `marks` are watermarks of one stream by their names, those of other cursors among
    them. Each says that all has arrived from where it begins up to its position.
    """
    arrived: list[range] = []
    for name, end in marks.items():
        begin = start_of(name, cursor)
        if begin is None:
            continue
        span = range(bisect_left(positions, begin), bisect_left(positions, end))
        if span:
            arrived.append(span)
    everything = range(len(positions))
    if not arrived:
        return everything
    return [i for i in everything if not any(i in span for span in arrived)]


def start_of(mark: str, cursor: str) -> int | None:
    """Return where a watermark of this cursor begins, None for one of another."""
    if mark == cursor:
        return 0
    head, at, number = mark.rpartition("@")
    return int(number) if at and head == cursor and number.isdecimal() else None


def own(position: int, lane: int, lanes: int) -> int:
    """Return the first position at or behind this one that is the lane's own."""
    if lanes == 1:
        return position
    block = position // BLOCK
    away = (lane - block) % lanes
    return position if away == 0 else (block + away) * BLOCK


def parts(cursor: str) -> tuple[str, int, int]:
    """Return the pump, the lane and the number of lanes that a name stands for."""
    pump, slash, numbers = cursor.rpartition("/")
    lane, colon, lanes = numbers.partition(":")
    if slash and colon and lane.isdecimal() and lanes.isdecimal():
        return pump, int(lane), int(lanes)
    return cursor, 0, 1


def is_of(cursor: str, pump: str) -> bool:
    """Say whether a cursor is one of this pump's, with whatever number of lanes."""
    return parts(cursor)[0] == pump


def of_uptime(cursor: str) -> bool:
    """Say whether a cursor is the uptime pump's: that one is owed uptime reports."""
    return is_of(cursor, UPTIME)


def pump_named(text: str) -> str:
    """Return the name of the pump that a person means by a text."""
    return text if text == UPTIME else text.upper()


class Counts(msgspec.Struct, array_like=True):
    """What became of records, as outcomes tell it: nothing here is arithmetic."""

    delivered: int = 0
    filtered: int = 0
    dead: int = 0
    lost: int = 0
    """Redis lost them before they could be read."""
    unknown: int = 0
    """Settled, but the numbers were lost: Redis had no memory for them."""

    def __add__(self, other: Counts) -> Counts:
        mine, theirs = map(msgspec.structs.astuple, (self, other))
        return Counts(*map(sum, zip(mine, theirs, strict=True)))

    @property
    def total(self) -> int:
        """All of them: what a claim's length is compared with."""
        return sum(msgspec.structs.astuple(self))
