"""What both InfluxDB pumps share: options of points, sending them, reading refusals.

A point is known by its series and its time: a later one replaces an earlier one. So a
record's point has the record's own time to the millisecond, and in the six digits below
the place of the record in its stream. Every attempt gives the same time, and writing a
record again changes nothing.
"""

from __future__ import annotations

import re
import time
import zlib
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Annotated, Any, Final

from tyk_pump.config.options import HttpOptions, doc
from tyk_pump.errors import CodecError, TransientError
from tyk_pump.pumps.protocol import Batch
from tyk_pump.record.line_protocol import FIRST, LAST, MEASUREMENT, Dialect, Lines
from tyk_pump.transport.bulk import Bulk, Part, Refused, TooLarge, Verdict
from tyk_pump.transport.http import HttpClient, Reply, fault_of

SLOTS: Final = 1_000_000
"""Points of one series that a millisecond has room for."""
GUARANTEE: Final = (
    "Each record once: a point has the record's time to the millisecond and, in "
    "the six digits below, the record's place in its stream, so that a repeated "
    "write replaces the point by itself. Of one stream no two points of a series "
    "share a time (a million records in a row, for one millisecond); of different "
    "streams, from several instances or after a restart, two points of one series "
    "and millisecond do so once in a million, and then the later replaces the "
    "earlier. With `point_time` `write`, at least once, and points of a series "
    "that are written in the same instant replace each other."
)
_UNPARSED: Final = "unable to parse '"
_WHOLE_LINE: Final = re.compile(r"unable to parse '.*': ", re.DOTALL)
_REST_OF_LINE: Final = re.compile(rf""":? *["']{MEASUREMENT}[, ].*""", re.DOTALL)
_DROPPED: Final = re.compile(r"dropped=(\d+)\s*$")


class PointOptions(HttpOptions, frozen=True, kw_only=True):
    """What of a record becomes a point, and how points are sent."""

    address: Annotated[
        str,
        doc(
            "URL of InfluxDB; may have a path.",
            env="ADDR",
            example="http://localhost:8086",
        ),
    ] = ""
    tags: Annotated[
        list[str],
        doc("Values of a record that are tags of its point; names as in `fields`."),
    ] = []
    point_time: Annotated[
        str,
        doc(
            "Time of a point: `record`, the record's own, told apart below the "
            "millisecond; or `write`, the pump's clock when it writes, as the "
            "reference has it: points of one series may then replace each other.",
            choices=("record", "write"),
        ),
    ] = "record"
    batch_size: Annotated[int, doc("Most points in a request.", ge=1)] = 5000
    batch_bytes: Annotated[
        int, doc("Most bytes in a request, before compression.", ge=1024)
    ] = 20_000_000
    compress: Annotated[bool, doc("Send requests compressed with gzip.")] = False

    def faults(self) -> Iterator[tuple[str, str]]:
        """The address is one."""
        yield from super().faults()
        if not self.address:
            yield "address", "missing"
        elif fault := fault_of(self.address):
            yield "address", fault


def unknown_names(
    key: str, names: list[str], known: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """Yield a fault for each name that no value of a record has."""
    for at, name in enumerate(names):
        if name not in known:
            yield f"{key}[{at}]", f"{name!r} is none of {', '.join(known)}"


class Points:
    """Sends the records of a batch as points."""

    def __init__(
        self, options: PointOptions, fields: list[str], dialect: Dialect, tick: int
    ) -> None:
        """`tick` is the number of nanoseconds in a unit of the pump's clock."""
        self._lines = Lines(dialect, fields, options.tags)
        self.by_clock = options.point_time == "write"
        self._tick = tick
        self._compress = options.compress
        self._bulk = Bulk(max_bytes=options.batch_bytes, max_count=options.batch_size)
        times = () if self.by_clock else ("timestamp",)
        self.fields = tuple(dict.fromkeys((*self._lines.fields, *times)))
        """The attributes of a record that are read."""

    def send(self, batch: Batch, http: HttpClient, url: str) -> None:
        """Return when every record has arrived, else raise a WriteError."""
        line, records = self._lines.encode, batch.records
        if self.by_clock:
            tick = self._tick

            def encode(_: Batch, index: int) -> bytes:
                return line(records[index], time.time_ns() // tick)
        else:
            times = point_times(batch)

            def encode(_: Batch, index: int) -> bytes:
                if FIRST <= times[index] <= LAST:
                    return line(records[index], times[index])
                raise CodecError("the record's time is not in the years 1677 to 2262")

        def post(part: Part) -> Verdict | None:
            body = b"".join(part.items)
            reply = http.post(url, body, headers=_HEADERS, gzip=self._compress)
            if reply.status == HTTPStatus.NO_CONTENT:
                return None
            if 200 <= reply.status < 300:
                # A page to log in, say: the answer of something else on the way.
                raise reply.failure(
                    f"only 204 means that points are in, not {reply.reason}"
                )
            return verdict(reply, part)

        self._bulk.send(batch, encode, post)


_HEADERS: Final = {"Content-Type": "text/plain; charset=utf-8"}


def point_times(batch: Batch) -> list[int]:
    """Return the nanoseconds of each record's point, the same for every attempt.

    Positions follow each other in a stream, so of a million records in a row no two
    have the same slot in their millisecond; each stream begins at another slot.
    """
    if batch.ids is None:
        first = _first_slot(batch.stream)
        slots = [(first + position) % SLOTS for position in batch.positions]
    else:
        slots = [_slot_of(identity) for identity in batch.ids]
    return [
        (seconds * 1000 + rest // SLOTS) * SLOTS + slot
        for (seconds, rest), slot in zip(
            [record.timestamp for record in batch.records], slots, strict=True
        )
    ]


def _first_slot(stream: str) -> int:
    return zlib.crc32(stream.encode("utf-8", "surrogateescape"))


def _slot_of(identity: str) -> int:
    """Return the slot that a replayed record had in its own stream."""
    stream, _, position = identity.rpartition(":")
    if position.isascii() and position.isdigit():
        return (_first_slot(stream) + int(position)) % SLOTS
    return _first_slot(identity) % SLOTS


def verdict(reply: Reply, part: Part) -> Verdict:
    """Return what an answer that is no success says of the points of a part.

    Raises Refused where it does not say which points it means.
    """
    if reply.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        raise TooLarge(reply.title)
    said = _said(reply)
    message = _message(said)
    rejected = _numbered(said, part) or _quoted(message, part)
    if rejected:
        # Only so far is it sure that all others are in. To send them again does no
        # harm: a point is written once, however often it is sent.
        rest_is_in = (
            message.startswith("partial write")
            and _dropped(message) == 0
            and message.count(_UNPARSED) == len(rejected)
        )
        others = [at for at in range(len(part)) if at not in rejected]
        return Verdict(rejected, again=[] if rest_is_in else others)
    reason = _shortened(message) or reply.title
    if _dropped(message) == len(part):
        return Verdict(dict.fromkeys(range(len(part)), reason))
    raise Refused(reason)


def _said(reply: Reply) -> dict[str, Any]:
    try:
        said = reply.json()
    except TransientError:
        return {}  # not InfluxDB's own answer: the status has to do
    return said if isinstance(said, dict) else {}


def _message(said: dict[str, Any]) -> str:
    for key in ("error", "message"):
        if isinstance(text := said.get(key), str):
            return text
    return ""


def _numbered(said: dict[str, Any], part: Part) -> dict[int, str]:
    """Return the lines that InfluxDB Cloud and 3 name by their number."""
    found: dict[int, str] = {}
    lines = said.get("data")
    for one in lines if isinstance(lines, list) else [said]:
        if not isinstance(one, dict):
            continue
        number = one.get("line_number", one.get("line"))
        reason = one.get("error_message", one.get("message"))
        if isinstance(number, int) and 1 <= number <= len(part):
            found[number - 1] = _shortened(str(reason or "refused"))
    return found


def _quoted(message: str, part: Part) -> dict[int, str]:
    """Return the lines that the message quotes, each with the reason behind it."""
    if _UNPARSED not in message:
        return {}
    offsets: dict[str, list[int]] = {}
    for at, item in enumerate(part.items):
        offsets.setdefault(item[:-1].decode("utf-8", "replace"), []).append(at)
    found: dict[int, str] = {}
    for piece in message.split(_UNPARSED)[1:]:
        # The line itself may have what stands behind a line.
        end = piece.find("': ")
        while end >= 0 and piece[:end] not in offsets:
            end = piece.find("': ", end + 1)
        if end >= 0:
            reason = _DROPPED.sub("", piece[end + 3 :]).strip()
            found.update(dict.fromkeys(offsets[piece[:end]], reason))
    return found


def _dropped(message: str) -> int | None:
    found = _DROPPED.search(message)
    return int(found[1]) if found else None


def _shortened(message: str) -> str:
    """Return a message without the lines that it quotes: they are the record."""
    text = _WHOLE_LINE.sub("unable to parse: ", message)
    return " ".join(_REST_OF_LINE.sub("", text).split())[:300]
