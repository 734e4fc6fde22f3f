"""What a worker tells the coordinator on its answer pipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

UNDECODABLE: Final = "not a record: "
"""How the reason of a dead record begins whose bytes are none."""


class DeadRecord(msgspec.Struct, array_like=True):
    """A record refused for good: where it stood, why, and its bytes."""

    position: int
    record_id: str
    reason: str
    raw: bytes


class Ready(msgspec.Struct, tag="ready"):
    """The pump is open."""


class Failed(msgspec.Struct, tag="failed"):
    """The pump could not be opened; the worker leaves after this word."""

    reason: str
    permanent: bool
    """True when only the operator can mend it (ConfigError)."""


class Outcome(msgspec.Struct, tag="outcome"):
    """One frame is settled: positions `first` to `end` (exclusive)."""

    stream: str
    first: int
    end: int
    delivered: int
    filtered: int
    dead: Sequence[DeadRecord]
    seconds: float
    """Time spent in the pump's write, retries included."""
    attempts: int
    list: str
    codec: str
    lost: int = 0
    """Positions that Redis lost before they could be read; no worker says that."""


class Trouble(msgspec.Struct, tag="trouble"):
    """A write failed and will be tried again."""

    reason: str
    attempt: int
    paused: bool
    """True when the back end refuses everything and the pump only probes."""


class Recovered(msgspec.Struct, tag="recovered"):
    """The back end takes records again after `Trouble`."""

    attempts: int


class Stopped(msgspec.Struct, tag="stopped"):
    """The worker has closed its pump and leaves."""


Message = Ready | Failed | Outcome | Trouble | Recovered | Stopped

encode = msgspec.msgpack.Encoder().encode
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def decode(data: bytes) -> Message:
    """Return the message that `encode` made into bytes."""
    return _decoder.decode(data)
