"""What everything is measured against, so that numbers travel between machines.

Y is the processor time of `msgpack.unpackb` into a plain dict for the same records,
measured in turns with the thing itself in the same run: whatever slows the machine
meanwhile slows both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

import msgpack

BODIES: Final = ("RawRequest", "RawResponse")
YOUNG: Final = (
    *("Geo", "GraphQLStats", "MCPStats", "CollectionName"),
    *("ApiSchema", "OriginalPath", "ListenPath"),
)


@dataclass
class Measured:
    """Microseconds of processor time per record, of the thing and of Y beside it."""

    name: str
    micros: float
    yardstick: float

    @property
    def ratio(self) -> float:
        """Return how many times Y the thing costs."""
        return self.micros / self.yardstick


def golden_traffic() -> list[bytes]:
    """Return the realistic records that the reference was captured with."""
    from tests.golden import loader

    wires = loader.corpus("traffic").values()
    return [wire.msgpack for wire in wires if wire.msgpack is not None]


def without_bodies(raws: Sequence[bytes]) -> list[bytes]:
    """Return the records as gateways write them that record no bodies."""
    return [changed(raw, dict.fromkeys(BODIES, "")) for raw in raws]


def small(raws: Sequence[bytes]) -> list[bytes]:
    """Return them without bodies, and without what older gateways do not write."""
    return [changed(raw, dict.fromkeys(BODIES, ""), YOUNG) for raw in raws]


def in_one_hour(raws: Sequence[bytes]) -> list[bytes]:
    """Return the records as a gateway has them ready: all of the same hour."""
    hour = 1_773_489_600
    times = ([hour + number % 3600, 0] for number in range(len(raws)))
    return [
        changed(raw, {"TimeStamp": time}) for raw, time in zip(raws, times, strict=True)
    ]


def of_many_keys(raws: Sequence[bytes], keys: int) -> list[bytes]:
    """Return so many records, each of a key and a path of its own."""
    return [
        changed(
            raws[number % len(raws)],
            {"APIKey": f"{number:024x}", "Path": f"/path/{number}"},
        )
        for number in range(keys)
    ]


def changed(raw: bytes, values: dict[str, Any], drop: Collection[str] = ()) -> bytes:
    """Return a record with other values."""
    fields = {k: v for k, v in msgpack.unpackb(raw).items() if k not in drop}
    packed: bytes = msgpack.packb(fields | values)
    return packed


def unpack(raws: Sequence[bytes]) -> None:
    """Do what Y stands for."""
    unpackb = msgpack.unpackb
    for raw in raws:
        unpackb(raw)


def timed(action: Callable[[], object], times: int) -> float:
    """Return the processor seconds of one call."""
    began = time.process_time_ns()
    for _ in range(times):
        action()
    return (time.process_time_ns() - began) / 1e9 / times


def compare(
    name: str,
    action: Callable[[], object],
    raws: Sequence[bytes],
    *,
    rounds: int,
    times: int = 5,
) -> Measured:
    """Measure an action on all records, and Y, in turns; the medians count."""
    action()  # what is made once and kept is not the stage's cost
    unpack(raws)
    own: list[float] = []
    beside: list[float] = []
    for _ in range(rounds):
        beside.append(timed(lambda: unpack(raws), times))
        own.append(timed(action, times))
    scale = 1e6 / len(raws)
    return Measured(name, median(own) * scale, median(beside) * scale)
