"""A record as a line of InfluxDB's line protocol: series, fields, time.

Tags have few values by their nature, so the beginning of a line, measurement and tags,
is kept by the values of its tags. Fields are written by one template; only where one
of them needs an escape are they looked at one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, Final

import msgspec

from tyk_pump.errors import CodecError
from tyk_pump.record import json
from tyk_pump.record.analytics import AnalyticsRecord, Time
from tyk_pump.record.gotime import rfc3339

NAMES: Final[Mapping[str, str]] = {
    "method": "method",
    "path": "path",
    "response_code": "response_code",
    "api_key": "api_key",
    "time_stamp": "timestamp",
    "api_version": "api_version",
    "api_name": "api_name",
    "api_id": "api_id",
    "org_id": "org_id",
    "oauth_id": "oauth_id",
    "raw_request": "raw_request",
    "request_time": "request_time",
    "raw_response": "raw_response",
    "ip_address": "ip_address",
}
"""Name of a field or tag -> attribute of the record."""
LATENCIES: Final[Mapping[str, str]] = {
    "total_latency": "latency.total",
    "upstream_latency": "latency.upstream",
}
MEASUREMENT: Final = "analytics"
TIME: Final = "time_stamp"
FIRST, LAST = -(2**63) + 2, 2**63 - 2
"""The nanoseconds that a point can have: the years 1677 to 2262."""
_NUMBERS: Final = frozenset({"response_code", "request_time", *LATENCIES})
_KEPT, _LONGEST_KEPT = 10_000, 1000
"""So many beginnings of lines are kept, unless raw bodies make them long."""
_PADDING: Final = 2


class Dialect(msgspec.Struct, frozen=True):
    """What the versions of the reference's library write in ways of their own."""

    time: Callable[[Time, str], str]
    """Shows a time as a text field."""
    escapes: Mapping[str, str]
    """What stands for a character in a text field, beside quote and backslash."""


class Lines:
    """Writes records as lines with these fields and tags, each in its name's order."""

    def __init__(
        self, dialect: Dialect, fields: Iterable[str], tags: Iterable[str]
    ) -> None:
        known = {**NAMES, **LATENCIES}
        self._tags, self._fields = sorted(set(tags)), sorted(set(fields))
        tag_sources = [known[name] for name in self._tags]
        sources = [known[name] for name in self._fields]
        self._tag_values = _getter(tag_sources)
        self._values = _getter(sources)
        self._heads: dict[tuple[Any, ...], str] = {}
        # The zero time is shown in two ways, so its value does not name its text.
        self._keeps_heads = TIME not in self._tags
        self._time_at = self._fields.index(TIME) if TIME in self._fields else -1
        self._show_time = dialect.time
        self._escapes = {"\\": "\\\\", '"': '\\"', **dialect.escapes}
        self._odd = tuple(char for char in self._escapes if char != '"')
        texts = [name for name in self._fields if name not in _NUMBERS]
        self._quotes = 2 * len(texts)
        template = ",".join(
            f"{name}=%di" if name in _NUMBERS else f'{name}="%s"'
            for name in self._fields
        )
        # The getter gives more than there is to show.
        self._template = template + "%.0s" * _PADDING
        read = (source.partition(".")[0] for source in (*sources, *tag_sources))
        self.fields: tuple[str, ...] = tuple(dict.fromkeys(read))
        """The attributes of a record that are read."""

    def encode(self, record: AnalyticsRecord, time: int) -> bytes:
        """Return the line of a record at this time; CodecError says what is wrong."""
        tags = self._tag_values(record)
        head = self._heads.get(tags) or self._head(record, tags)
        values = self._values(record)
        if self._time_at >= 0:
            shown = list(values)
            shown[self._time_at] = self._show_time(shown[self._time_at], record.zone)
            values = tuple(shown)
        text = self._template % values
        if text.count('"') != self._quotes or any(map(text.__contains__, self._odd)):
            text = self._template % tuple(map(self._escaped, values))
        return f"{head} {text} {time}\n".encode("utf-8", "surrogateescape")

    def _escaped(self, value: Any) -> Any:
        if isinstance(value, str):
            for char, escape in self._escapes.items():
                if char in value:
                    value = value.replace(char, escape)
        return value

    def _head(self, record: AnalyticsRecord, values: tuple[Any, ...]) -> str:
        parts = [MEASUREMENT]
        for name, value in zip(self._tags, values, strict=False):
            text = _time_tag(record) if name == TIME else _tag(value)
            if text:
                parts.append(f"{name}={text}")
        head = ",".join(parts)
        if self._keeps_heads and len(head) <= _LONGEST_KEPT:
            if len(self._heads) >= _KEPT:
                self._heads.clear()
            self._heads[values] = head
        return head


def _getter(sources: Sequence[str]) -> Callable[[AnalyticsRecord], tuple[Any, ...]]:
    """Return what reads these attributes; two more, for of one there is no tuple."""
    return attrgetter(*sources, *["zone"] * _PADDING)


def _tag(value: Any) -> str:
    """Return a value as the inside of its JSON form, with line protocol's escapes."""
    if not isinstance(value, str):
        return str(value)
    text = json.compact(value)[1:-1].decode()
    if "," in text:
        text = text.replace(",", "\\,")
    if " " in text:
        text = text.replace(" ", "\\ ")
    if "=" in text:
        text = text.replace("=", "\\=")
    # A backslash would escape the comma or the blank that follows a tag, and there is
    # no escape for it. So a blank stands behind it.
    return f"{text}\\ " if text.endswith("\\") else text


def _time_tag(record: AnalyticsRecord) -> str:
    try:
        return rfc3339(record.timestamp, record.zone)
    except CodecError:
        return ""  # as the reference: the years that JSON does not have
