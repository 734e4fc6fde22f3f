"""Cursors: whose progress in a stream it is, and what became of what they passed.

A pump with one worker has one cursor of its own name; with `workers: N` each of its
lanes has one, and a change of N makes new ones.
"""

from __future__ import annotations

from typing import Final

import msgspec

UPTIME: Final = "uptime"
"""Name of the uptime pump. Those in `pumps` are in capitals: none has the same."""


def name(pump: str, lane: int, lanes: int) -> str:
    """Return the name of a lane's cursor."""
    return pump if lanes == 1 else f"{pump}/{lane}:{lanes}"


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
