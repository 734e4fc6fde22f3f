"""A record as a multi-measure record of Timestream: dimensions, measures, time.

What is asked for is looked up once; for each record only the values that are there are
written down, as the JSON that the service reads.
"""

from __future__ import annotations

import binascii
import enum
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, Final, NamedTuple

import msgspec

from tyk_pump.errors import CodecError
from tyk_pump.record.analytics import MAX_INT, AnalyticsRecord
from tyk_pump.record.json import positional
from tyk_pump.record.text import clean

LARGEST_VALUE: Final = 2048
"""Bytes of a measure's text, and of a dimension with its name."""
MOST_MEASURES: Final = 256
LONGEST_DIMENSION: Final = 60
LONGEST_MEASURE: Final = 256
"""Bytes of a name."""

DIMENSIONS: Final[Mapping[str, str]] = {
    "Method": "method",
    "Host": "host",
    "Path": "path",
    "RawPath": "raw_path",
    "APIKey": "api_key",
    "APIVersion": "api_version",
    "APIName": "api_name",
    "APIID": "api_id",
    "OrgID": "org_id",
    "OauthID": "oauth_id",
}
"""Names of dimensions, and where in a record their values are."""


class Kind(enum.Enum):
    """How a measure is written."""

    INT = "BIGINT"
    FLOAT = "DOUBLE"
    TEXT = "VARCHAR"
    HEADER = "a number of a response header"
    BODY = "chunks, with their number before them"


_INT, _TEXT = Kind.INT, Kind.TEXT


class Measure(NamedTuple):
    """How a measure is written, and where in a record its value is."""

    kind: Kind
    source: str
    make: Callable[[Any], str] | None = None
    """Makes the text of what is no text."""
    header: str = ""
    """Where the value is, or can be when it is nowhere else."""


def _names(names: dict[str, str] | None) -> str:
    return ";".join([f"{key}:{names[key]}" for key in sorted(names)]) if names else ""


_LIMIT, _REMAINING, _RESET = "RateLimit.Limit", "Ratelimit.Remaining", "Ratelimit.Reset"
RAW_RESPONSE: Final = "RawResponse"
RAW_RESPONSE_SIZE: Final = "RawResponseSize"
MEASURES: Final[Mapping[str, Measure]] = {
    "ContentLength": Measure(Kind.INT, "content_length"),
    "ResponseCode": Measure(Kind.INT, "response_code"),
    "RequestTime": Measure(Kind.INT, "request_time"),
    "NetworkStats.OpenConnections": Measure(Kind.INT, "network.open_connections"),
    "NetworkStats.ClosedConnection": Measure(Kind.INT, "network.closed_connection"),
    "NetworkStats.BytesIn": Measure(Kind.INT, "network.bytes_in"),
    "NetworkStats.BytesOut": Measure(Kind.INT, "network.bytes_out"),
    "Latency.Total": Measure(Kind.INT, "latency.total"),
    "Latency.Upstream": Measure(Kind.INT, "latency.upstream"),
    "Latency.Gateway": Measure(Kind.INT, "latency.gateway"),
    "GeoData.City.GeoNameID": Measure(Kind.INT, "geo.city.geoname_id"),
    _LIMIT: Measure(Kind.HEADER, "raw_response", None, "X-Ratelimit-Limit"),
    _REMAINING: Measure(Kind.HEADER, "raw_response", None, "X-Ratelimit-Remaining"),
    _RESET: Measure(Kind.HEADER, "raw_response", None, "X-Ratelimit-Reset"),
    "GeoData.Location.Latitude": Measure(Kind.FLOAT, "geo.location.latitude"),
    "GeoData.Location.Longitude": Measure(Kind.FLOAT, "geo.location.longitude"),
    "UserAgent": Measure(Kind.TEXT, "user_agent"),
    "RawRequest": Measure(Kind.TEXT, "raw_request"),
    "IPAddress": Measure(Kind.TEXT, "ip_address"),
    "GeoData.Country.ISOCode": Measure(
        Kind.TEXT, "geo.country.iso_code", None, "Cloudfront-Viewer-Country"
    ),
    "GeoData.City.Names": Measure(
        Kind.TEXT, "geo.city.names", _names, "Cloudfront-Viewer-City"
    ),
    "GeoData.Location.TimeZone": Measure(Kind.TEXT, "geo.location.time_zone"),
    RAW_RESPONSE: Measure(Kind.BODY, "raw_response"),
}
"""Names of measures."""

RATE_LIMITS: Final = (_LIMIT, _REMAINING, _RESET)
SPELLINGS: Final = {
    one.lower(): one for one in (*DIMENSIONS, *MEASURES, RAW_RESPONSE_SIZE)
}
"""The name that is meant, in small letters: `Ratelimit` is written in two ways."""

_json: Final = msgspec.json.Encoder().encode
_KEPT: Final = 10_000
_LONGEST_KEPT: Final = 1024
_SURE: Final = LARGEST_VALUE // 4
"""So many characters are never too many bytes."""
_TIME: Final = ',"Time":"'
_END: Final = '"}'


class Points:
    """Writes records down with these dimensions and measures."""

    def __init__(
        self,
        dimensions: Sequence[str],
        measures: Sequence[str],
        *,
        names: Mapping[str, str] | None = None,
        zeros: bool = False,
        geo_headers: bool = False,
        id_name: str = "",
    ) -> None:
        """`names` are other names for some. With `id_name` a measure has the id."""
        self._zeros = zeros
        self._id_name = id_name
        shown = names or {}
        sources = [DIMENSIONS[name] for name in dimensions]
        self._dimensions = [shown.get(name, name) for name in dimensions]
        self._dimension_values = _getter(sources)
        self._series: dict[tuple[Any, ...], str] = {}
        # The chunks of a response stand last, whatever its place.
        order = [name for name in measures if name != RAW_RESPONSE]
        steps = [_Step(MEASURES[name], shown.get(name, name)) for name in order]
        self._steps = [step.for_header(geo_headers) for step in steps]
        # What is looked at for each record, side by side.
        self._forms = [
            (step.lead, None if step.special else step.kind, step)
            for step in self._steps
        ]
        self._response: _Step | None = None
        self._response_size = ""
        read = ["timestamp", *sources]
        for step in self._steps:
            read += step.reads
        if RAW_RESPONSE in measures:
            self._response = _Step(
                MEASURES[RAW_RESPONSE], shown.get(RAW_RESPONSE, RAW_RESPONSE)
            )
            size_name = shown.get(RAW_RESPONSE_SIZE, RAW_RESPONSE_SIZE)
            self._response_size = _lead(size_name, Kind.INT)
            read.append("raw_response")
        self._measure_values = _getter([step.measure.source for step in self._steps])
        self.fields: tuple[str, ...] = tuple(
            dict.fromkeys(source.partition(".")[0] for source in read)
        )
        """The attributes of a record that are read."""
        self.cut = 0
        """Texts whose end is left out, for the service has no room."""

    def encode(self, record: AnalyticsRecord, record_id: str = "") -> bytes | None:
        """Return a record in JSON, its time at the end; None without any measure.

        The id is for `id_name`. CodecError says why the service cannot have a record.
        """
        seconds, rest = record.timestamp
        time = seconds * 1_000_000_000 + rest
        if not -MAX_INT <= time <= MAX_INT:
            raise CodecError("the record's time is not in the years 1677 to 2262")
        measures = self._measures(record)
        if not measures:
            return None
        if self._id_name:
            lead = _lead(self._id_name, Kind.TEXT)
            measures.append(f"{lead}{_quoted(record_id)}}}")
        values = self._dimension_values(record)
        series = self._series.get(values)
        if series is None:
            series = self._new_series(values)
        text = f'{series}"MeasureValues":[{",".join(measures)}]{_TIME}{time}{_END}'
        return text.encode()

    def _measures(self, record: AnalyticsRecord) -> list[str]:
        out: list[str] = []
        zeros = self._zeros
        values = self._measure_values(record)
        for (lead, kind, step), value in zip(self._forms, values, strict=False):
            if kind is _INT:
                if value or zeros:
                    out.append(f'{lead}{value}"}}')
            elif kind is _TEXT:
                if not value:
                    continue
                if len(value) <= _SURE and value.isascii():
                    out.append(f"{lead}{_json(value).decode()}}}")
                else:
                    self._append_text(out, step, value)
            else:
                self._append_other(out, step, value, record)
        if self._response is not None:
            self._append_response(out, record.raw_response)
        return out

    def _append_other(
        self, out: list[str], step: _Step, value: Any, record: AnalyticsRecord
    ) -> None:
        measure = step.measure
        if measure.kind is Kind.FLOAT:
            # What is no number the service does not have.
            if (value or self._zeros) and value - value == 0:
                out.append(f"{step.lead}{_decimal(value)}{_END}")
            return
        if measure.kind is Kind.HEADER:
            number = _whole(header(value, measure.header))
            if number is not None and (number or self._zeros):
                out.append(f"{step.lead}{number}{_END}")
            return
        text = value if measure.make is None else measure.make(value)
        if not text and step.header:
            text = header(record.raw_request, step.header)
        if text:
            self._append_text(out, step, text)

    def _append_text(self, out: list[str], step: _Step, text: str) -> None:
        """Add a text, a long one in chunks; the first has the measure's own name."""
        if len(text) <= _SURE:
            out.append(f"{step.lead}{_quoted(text)}}}")
            return
        room = MOST_MEASURES - self._behind(step) - len(out)
        for number, chunk in enumerate(self._fitting(text, max(room, 1))):
            lead = (
                step.lead if number == 0 else _lead(f"{step.name}{number}", Kind.TEXT)
            )
            out.append(f"{lead}{_quoted(chunk)}}}")

    def _append_response(self, out: list[str], text: str) -> None:
        """Add the number of chunks, then the chunks."""
        assert self._response is not None
        name = self._response.name
        room = MOST_MEASURES - len(out) - 1 - bool(self._id_name)
        parts = self._fitting(text, max(room, 0)) if text else []
        out.append(f"{self._response_size}{len(parts)}{_END}")
        out += [
            f"{_lead(f'{name}{number}', Kind.TEXT)}{_quoted(chunk)}}}"
            for number, chunk in enumerate(parts)
        ]

    def _behind(self, step: _Step) -> int:
        """Return how many measures may follow a step, one chunk for each text."""
        following = len(self._steps) - self._steps.index(step) - 1
        return following + 2 * (self._response is not None) + bool(self._id_name)

    def _fitting(self, text: str, most: int) -> list[str]:
        found = list(chunks(clean(text), LARGEST_VALUE))
        if len(found) > most:
            self.cut += 1
        return found[:most]

    def _new_series(self, values: tuple[Any, ...]) -> str:
        """Return the dimensions, as they stand before a record's measures."""
        parts = []
        for name, value in zip(self._dimensions, values, strict=False):
            if not value:
                continue
            room = LARGEST_VALUE - len(name.encode("utf-8", "replace"))
            text = next(chunks(clean(value), room))
            if len(text) < len(value):
                self.cut += 1
            parts.append(
                f'{{"Name":{_quoted(name)},"Value":{_quoted(text)},'
                '"DimensionValueType":"VARCHAR"}'
            )
        series = f'{{"Dimensions":[{",".join(parts)}],'
        if len(series) <= _LONGEST_KEPT:
            if len(self._series) >= _KEPT:
                self._series.clear()
            self._series[values] = series
        return series


class _Step:
    """One measure, and what of its form is the same for every record."""

    def __init__(self, measure: Measure, name: str) -> None:
        self.measure, self.name = measure, name
        self.kind = measure.kind
        self.lead = _lead(name, measure.kind)
        self.header = ""
        self.special = measure.make is not None
        self.reads: tuple[str, ...] = (measure.source,)

    def for_header(self, wanted: bool) -> _Step:
        """Look at the request's headers too, where the value can be there."""
        if wanted and self.kind is Kind.TEXT and self.measure.header:
            self.header, self.special = self.measure.header, True
            self.reads = (*self.reads, "raw_request")
        return self


def later(item: bytes, nanoseconds: int) -> bytes:
    """Return what `encode` has made, with a time that is so much later."""
    head, _, time = item.removesuffix(_END.encode()).rpartition(b'"')
    return b'%b"%d"}' % (head, int(time) + nanoseconds)


def chunks(text: str, size: int) -> Iterator[str]:
    """Yield a text in pieces of so many bytes at most; no character is cut."""
    if text.isascii():
        for at in range(0, len(text), size):
            yield text[at : at + size]
        return
    data, at = text.encode(), 0
    while at < len(data):
        end = at + size
        while end < len(data) and data[end] & 0xC0 == 0x80:
            end -= 1
        yield data[at:end].decode()
        at = end


_HEAD: Final = 4096
_BLANK_LINE: Final = re.compile(rb"\r?\n\r?\n")


def header(message: str, name: str) -> str:
    """Return the first header of this name in a raw request or response."""
    head = _head(message)
    found = re.search(
        rb"\n%b:[ \t]*([^\r\n]*)" % re.escape(name.encode()), head, re.IGNORECASE
    )
    return found[1].strip().decode("utf-8", "surrogateescape") if found else ""


def _head(message: str) -> bytes:
    """Return what stands before the body, of a message in base64 or not."""
    if " " in message[:64]:
        data = message.encode("utf-8", "surrogateescape")
        return _BLANK_LINE.split(data, 1)[0]
    if "\n" in message or "\r" in message:
        message = message.replace("\n", "").replace("\r", "")
    # Bodies are long, heads are not: no more is decoded than is looked at.
    size = _HEAD
    while True:
        try:
            data = binascii.a2b_base64(message[:size])
        except binascii.Error:
            return b""
        head, *body = _BLANK_LINE.split(data, 1)
        if body or size >= len(message):
            return head
        size *= 4


_WHOLE: Final = re.compile(r"[+-]?[0-9]{1,19}")


def _whole(text: str) -> int | None:
    if not _WHOLE.fullmatch(text):
        return None
    number = int(text)
    return number if -MAX_INT - 1 <= number <= MAX_INT else None


def _decimal(number: float) -> str:
    return f"-{positional(-number)}" if number < 0 else positional(abs(number))


def _quoted(text: str) -> str:
    return _json(clean(text)).decode()


def _lead(name: str, kind: Kind) -> str:
    """Return a measure up to its value; a number's stands in quotes as well."""
    if kind in (Kind.TEXT, Kind.BODY):
        return f'{{"Name":{_quoted(name)},"Type":"VARCHAR","Value":'
    written = "DOUBLE" if kind is Kind.FLOAT else "BIGINT"
    return f'{{"Name":{_quoted(name)},"Type":"{written}","Value":"'


def _getter(sources: Sequence[str]) -> Callable[[AnalyticsRecord], tuple[Any, ...]]:
    """Return what reads these attributes; two more, for of one there is no tuple."""
    return attrgetter(*sources, "zone", "zone")
