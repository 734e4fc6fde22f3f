"""Back ends of three kinds, and what each of them has seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from tyk_pump import cursors

WATERMARK: Final = "WATERMARK"
"""Remembers numbers per stream and cursor, in one step with the data."""
IDENTITY: Final = "IDENTITY"
"""Takes a record id once."""
BLIND: Final = "BLIND"
"""Cannot tell a repeat."""
KINDS: Final = (WATERMARK, IDENTITY, BLIND)


class Item(msgspec.Struct, frozen=True):
    """One record of a write."""

    position: int
    identity: str
    number: int
    """Which of the records that were pushed it is."""


class BackEnd:
    """One pump's store: it says what it took once too often, or out of order."""

    def __init__(self, kind: str, broken: Callable[[str], None]) -> None:
        self.kind = kind
        self.effects: Counter[int] = Counter()
        """How often each record is in the store."""
        self.repeats = 0
        self.twice_allowed: set[int] = set()
        """Records that a failover has put back: their new selves have new names."""
        self.unheard: set[int] = set()
        """Records whose writer died before it said so: one may be taken for poison,
        become a dead letter, and be replayed, in a stream of its own."""
        self.refused: set[int] = set()
        """Records that were dead letters once: they come when they come."""
        self.deaths: Counter[int] = Counter()
        """Workers that died with a record in hand: of two it is taken for poison, and
        its letter is not the last of it where the cursor has not gone on yet."""
        self.unordered = False
        """True once a failover has: what is first then is anybody's guess."""
        self._broken = broken
        self._marks: dict[str, dict[str, int]] = {}
        self._identities: set[str] = set()
        self._first: dict[tuple[str, str, str], int] = {}

    def take(
        self,
        who: str,
        stream: str,
        cursor: str,
        items: Sequence[Item],
        *,
        start: int,
        replay: bool,
        late: bool,
    ) -> None:
        """Take a write, in one step; a late one is of a worker that is dead."""
        marks = self._marks.setdefault(stream, {})
        positions = [item.position for item in items]
        fresh = set(cursors.fresh(positions, cursor, marks))
        for index, item in enumerate(items):
            if self.kind == WATERMARK and index not in fresh:
                continue
            if self.kind == IDENTITY and item.identity in self._identities:
                continue
            # What the dead had on its way comes when it comes, and others go on.
            self._effect(who, stream, cursor, item, replay, replay or late)
        if self.kind == WATERMARK and items:
            name = cursors.watermark(cursor, start)
            marks[name] = max(marks.get(name, 0), items[-1].position + 1)
        elif self.kind == IDENTITY:
            self._identities.update(item.identity for item in items)

    def _effect(
        self,
        who: str,
        stream: str,
        cursor: str,
        item: Item,
        replay: bool,
        anywhen: bool,
    ) -> None:
        number = item.number
        self.effects[number] += 1
        if self.effects[number] > 1:
            self.repeats += 1
            allowed = number in self.twice_allowed or (
                replay and number in self.unheard | self.refused
            )
            if self.kind != BLIND and not allowed:
                self._broken(
                    f"double effect: record {number} ({stream}:{item.position})"
                    f" at {self.kind} as {cursor}"
                )
            return
        if anywhen or self.unordered or number in self.refused:
            return
        if self.deaths[number] > 1:
            return
        # What is on an instance's own disk goes its own way when another has the rest.
        place = (who, stream, cursor)
        if item.position < self._first.get(place, -1):
            self._broken(
                f"out of order: {stream}:{item.position} after"
                f" {self._first[place]} at {self.kind} as {cursor}"
            )
        self._first[place] = item.position
