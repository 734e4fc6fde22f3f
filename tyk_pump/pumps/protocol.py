"""The Pump protocol, and the batch that a pump is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import msgspec

from tyk_pump import cursors
from tyk_pump.record.analytics import AnalyticsRecord


class Batch(msgspec.Struct):
    """An ordered, numbered run of selected records of one stream and lane."""

    stream: str
    """ULID of the stream; with a position it makes the record's id."""
    lane: int
    list: str
    """The Redis list that the records came from."""
    positions: Sequence[int]
    """Position of each record in the stream, ascending, with gaps where records
    were filtered or refused before."""
    records: Sequence[AnalyticsRecord]
    ids: Sequence[str] | None = None
    """The original record ids of a replay; None where `stream:position` is the id."""
    cursor: str = ""
    """Whose progress this is: the pump's name, with its lane where it has several."""
    start: int = 0
    """Where the run of batches began that this one goes on with, in the stream.
    Stream, cursor and start are the key of a watermark, see `tyk_pump.cursors`."""
    left_out: int = 0
    """Set by `write`: so many of the records have no place in this back end. They are
    settled, and counted as filtered, not as delivered; none of them is pending."""

    def __len__(self) -> int:
        return len(self.records)

    @property
    def watermark(self) -> str:
        """Name of this batch's watermark in its stream."""
        return cursors.watermark(self.cursor or str(self.lane), self.start)

    def fresh(self, marks: Mapping[str, int]) -> Sequence[int]:
        """Return the indexes of the records that a store does not hold yet.

        `marks` are the stream's watermarks by name, as far as the store has them.
        """
        return cursors.fresh(self.positions, self.cursor or str(self.lane), marks)

    def record_id(self, index: int) -> str:
        """Return the id of a record, the same after every retry and adoption."""
        if self.ids is not None:
            return self.ids[index]
        return f"{self.stream}:{self.positions[index]}"

    def part(self, indexes: Sequence[int]) -> Batch:
        """Return the batch of just these records."""
        return Batch(
            stream=self.stream,
            lane=self.lane,
            list=self.list,
            positions=[self.positions[i] for i in indexes],
            records=[self.records[i] for i in indexes],
            ids=None if self.ids is None else [self.ids[i] for i in indexes],
            cursor=self.cursor,
            start=self.start,
        )


class Pump(Protocol):
    """What a back end's file offers; `open` runs once, in the worker process."""

    options_type: ClassVar[type[Any]]
    fields: Any
    """Attribute names of AnalyticsRecord that `write` reads, or analytics.ALL; nothing
    else is decoded. On the class all that it may read; `__init__` may narrow it to
    what its options ask for."""

    def __init__(self, options: Any) -> None:
        """Keep the options, an `options_type`, and touch nothing yet."""

    def open(self) -> None:
        """Connect; raises TransientError (try again) or ConfigError (do not)."""

    def probe(self) -> str:
        """Reach the back end, credentials included; say in one line what was found."""

    def write(self, batch: Batch) -> None:
        """Return when every record has arrived, else raise a WriteError."""

    def close(self) -> None:
        """Let go of the connection; follows every `open` that returned."""


@runtime_checkable
class Keeper(Protocol):
    """A pump that keeps something of its own from one worker to the next."""

    def keep_in(self, folder: Path) -> None:
        """Know a folder of one's own below the state folder; called before `open`.

        It may not exist yet. Outside a worker (`check`) nobody calls this: then the
        pump keeps nothing.
        """


class RegisteredPump(Pump, Protocol):
    """A pump with what its reference page says beside its options."""

    guarantee: ClassVar[str]
    """How often a record arrives."""
    differences: ClassVar[Sequence[str]]
    """What is put right beside the reference's pump, for those who read its output."""
