"""StatsD: a timing per record and chosen field, named after values of the record."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Annotated, ClassVar, Final

import msgspec

from tyk_pump.config.options import Options, doc
from tyk_pump.log import ONCE
from tyk_pump.pumps.protocol import Batch
from tyk_pump.record.analytics import BLANK_TIME, AnalyticsRecord
from tyk_pump.record.gotime import go_text
from tyk_pump.record.series import Series
from tyk_pump.transport.datagram import LARGEST_DATAGRAM
from tyk_pump.transport.packets import UDP_SIZE, UNIX_SIZE, Packets, fault_of

log = logging.getLogger(__name__)

TIMINGS: Final = {
    "request_time": "request_time",
    "latency_total": "latency.total",
    "latency_upstream": "latency.upstream",
    "latency_gateway": "latency.gateway",
}
"""Name of a field -> where its milliseconds are."""
TAGS: Final = {
    "path": "path",
    "method": "method",
    "response_code": "response_code",
    "api_key": "api_key",
    "time_stamp": "timestamp",
    "api_version": "api_version",
    "api_name": "api_name",
    "api_id": "api_id",
    "org_id": "org_id",
    "oauth_id": "oauth_id",
    "raw_request": "raw_request",
    "raw_response": "raw_response",
    "ip_address": "ip_address",
    **TIMINGS,
}
"""Name of a tag -> where its value is."""
UNKNOWN: Final = "null"
"""What stands for a tag that nobody knows."""

_RESERVED: Final = re.compile(r"[\x00-\x1f\x7f:|@#]")
_INVALID: Final = re.compile("[\ud800-\udfff]")
_DROPPED: Final = str.maketrans({'"': None, " ": None})


class StatsdOptions(Options, frozen=True, kw_only=True):
    """Where the server is, what is measured, and what the metrics are called."""

    address: Annotated[
        str,
        doc(
            "`host:port` of the server for UDP, or `unix:///path` of its datagram "
            "socket.",
            example="localhost:8125",
        ),
    ]
    fields: Annotated[
        list[str],
        doc(
            f"Timings to send, in this order: {', '.join(TIMINGS)}.",
            example=["request_time"],
        ),
    ] = msgspec.field(default_factory=list)
    tags: Annotated[
        list[str],
        doc(
            "Values of the record that make the metric's name, behind the field and "
            f"in this order: {', '.join(TAGS)}. `{UNKNOWN}` stands for unknown ones.",
            example=["path", "response_code", "api_name"],
        ),
    ] = msgspec.field(default_factory=list)
    separated_method: Annotated[
        bool,
        doc(
            "Make `path` the path alone, and `method` a tag of its own; else the "
            "method stands in front of the path."
        ),
    ] = False
    counters: Annotated[
        list[str],
        doc(
            "Values of the record to count, by the names of `tags`: each makes a "
            "counter `<name>.<value>.<tags>`.",
            example=["response_code"],
        ),
    ] = msgspec.field(default_factory=list)
    replace_dots: Annotated[
        bool,
        doc(
            "Write `_` for a dot within a value, which would be one more level of the "
            "metric's name: in addresses, versions, host names."
        ),
    ] = False
    packet_size: Annotated[
        int,
        doc(
            "Bytes of a datagram with several metrics. 0: what the path takes, at most "
            f"{UDP_SIZE} over UDP and {UNIX_SIZE} over a unix socket. 1: each metric "
            "in a datagram of its own, for servers that do not split lines.",
            ge=0,
            le=LARGEST_DATAGRAM,
        ),
    ] = 0

    def faults(self) -> Iterator[tuple[str, str]]:
        """The address is one, and what is counted is known."""
        if fault := fault_of(self.address):
            yield "address", fault
        for name in self.counters:
            if name not in TAGS:
                yield "counters", f"{name!r} is none of {', '.join(TAGS)}"


class StatsdPump:
    """Send the timings of each record to a StatsD server."""

    options_type: ClassVar[type[StatsdOptions]] = StatsdOptions
    fields: tuple[str, ...] = tuple(
        dict.fromkeys(source.partition(".")[0] for source in TAGS.values())
    )
    guarantee: Final = (
        "Over UDP a record is on its way once: nobody confirms it, and a server that "
        "does not keep up drops datagrams in its kernel. Where the server's machine "
        "refuses datagrams, the batch is sent again, and some of it may be counted "
        "twice. What a unix socket has taken is not sent again; one that is absent or "
        "full is waited for."
    )
    differences: Final = (
        "A `%` in a path or a name is sent as it is, and no format verb.",
        "`:`, `|`, `@`, `#` and control characters of values become `_`: they would "
        "end the name. With `replace_dots` so do dots.",
        "Names have the plain text of values, without the escapes of JSON.",
        "Metrics share datagrams, a line each. `packet_size` of 1 sends each alone.",
        "An address that is missing or wrong is a fault of this pump and stops no "
        "other; one that does not resolve is tried again.",
        "Fields without effect, unknown tags and the tag `time_stamp`, which makes a "
        "series of every second, are warned about at start. `counters` counts what is "
        "no timing.",
    )

    def __init__(self, options: StatsdOptions) -> None:
        self._options = options
        self._metrics = Metrics(options)
        self._series = self._metrics.series()
        self.fields = self._series.fields

    def open(self) -> None:
        """Warn of what is odd; the socket waits for the first record."""
        options = self._options
        for text, names in odd_names(options):
            log.warning(text, extra={**ONCE, "reason": ", ".join(map(repr, names))})
        if "time_stamp" in options.tags:
            log.warning("the tag time_stamp makes a series of every second", extra=ONCE)
        if not self._metrics:
            log.warning("no fields are set, nothing is sent", extra=ONCE)
        self._packets = Packets(options.address, size=options.packet_size)

    def probe(self) -> str:
        """Reach the unix socket, or resolve the name."""
        return self._packets.probe()

    def write(self, batch: Batch) -> None:
        """Send the lines of all records."""
        if self._metrics:
            self._packets.send(self._series.encode(batch.records))
        else:
            batch.left_out = len(batch)

    def close(self) -> None:
        """Let go of the socket."""
        self._packets.close()


class Metrics:
    """Says what the metrics of a record are called; each timing, then each counter."""

    def __init__(self, options: StatsdOptions) -> None:
        self._timings = [name for name in options.fields if name in TIMINGS]
        self._counters, self._tags = options.counters, options.tags
        self._separated = options.separated_method
        self._replace_dots = options.replace_dots

    def __bool__(self) -> bool:
        """Whether there is anything to send of a record."""
        return bool(self._timings or self._counters)

    def series(self) -> Series:
        """Return what writes the lines of records."""
        names = [name for name in self._tags if self._is_known(name)]
        if "path" in names and not self._separated:
            names.append("method")
        names = [*names, *self._counters] if self else []
        numbers = [TIMINGS[name] for name in self._timings]
        return Series([TAGS[name] for name in names], numbers, self.template)

    def template(self, record: AnalyticsRecord) -> bytes:
        """Return the lines of a record, without the values of timings."""
        tags = ".".join([self._text(record, name) for name in self._tags])
        behind = f".{tags}" if tags else ""
        lines = [f"{name}.{tags}:\0|ms\n" for name in self._timings]
        lines += [
            f"{name}.{self._text(record, name, counted=True)}{behind}:1|c\n"
            for name in self._counters
        ]
        # No value has a NUL left in it.
        return "".join(lines).replace("%", "%%").replace("\0", "%d").encode()

    def _is_known(self, name: str) -> bool:
        # The method stands in front of the path, and is no tag, unless separated.
        return name in TAGS and (name != "method" or self._separated)

    def _text(
        self, record: AnalyticsRecord, name: str, *, counted: bool = False
    ) -> str:
        """Return what stands in a metric's name for a value."""
        if not counted and not self._is_known(name):
            return UNKNOWN
        if name == "path":
            method = "" if counted or self._separated else record.method
            text = method + record.path.rstrip("/")
        elif name == "time_stamp":
            zone = "UTC" if record.timestamp is BLANK_TIME else record.zone
            text = go_text((record.timestamp[0], 0), zone).replace(":", "-")
        else:
            text = str(attrgetter(TAGS[name])(record))
        if self._replace_dots:
            text = text.replace(".", "_")
        return cleaned(text)


def cleaned(text: str) -> str:
    """Return a text as a part of a metric's name."""
    text = _INVALID.sub("\ufffd", lowered(text).translate(_DROPPED))
    return _RESERVED.sub("_", text)


def lowered(text: str) -> str:
    """Return a text in small letters, letter by letter as Go does it."""
    if text.isascii():
        return text.lower()
    # Python knows of an end of words, where a sigma differs, and of a dotted capital I
    # that becomes two characters.
    return "".join([char.lower() for char in text.replace("İ", "i")])


def odd_names(options: StatsdOptions) -> Iterable[tuple[str, Sequence[str]]]:
    """Yield what is said of names that do not do what one may think."""
    if odd := [name for name in options.fields if name not in TIMINGS]:
        yield "fields has names that are no timings, nothing is sent for them", odd
    tags = set(options.tags)
    if odd := sorted(tags - set(TAGS)):
        yield f"tags has unknown names, {UNKNOWN} stands for them", odd
    if "method" in tags and not options.separated_method:
        yield f"without separated_method {UNKNOWN} stands for a tag", ["method"]
