"""The tolerant msgpack reader: records that the fast decoder of `codec` refuses.

It reads by the kind of each field, as the gateway's own library does: texts and keys
in the bin family, nil for a zero value, structs as positional arrays, numbers that
wrap, bytes that are no UTF-8 (kept as lone surrogates). Times also come in the forms
that newer libraries write.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import Any, Final

import msgspec

from tyk_pump.errors import CodecError
from tyk_pump.record import analytics, gotime
from tyk_pump.record.analytics import ZERO_TIME, Time

_Read = Callable[["Reader"], Any]

_MAX_DEPTH: Final = 64
_UINTS: Final = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}
_INTS: Final = {0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
# Bytes of the length that follows the code of a text.
_TEXTS: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_EXTS: Final = {0xC7: 1, 0xC8: 2, 0xC9: 4}
_FIXED_EXTS: Final = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}
_TIMESTAMP_EXT: Final = 0xFF

_RFC3339: Final = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:[.,](\d+))?"
    r"(?:Z|([+-])(\d\d):(\d\d))",
    re.ASCII,
)


class Reader:
    """A place in a payload, and how to read the next value of a known kind."""

    __slots__ = ("_data", "_depth", "_position")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0
        self._depth = 0

    def _code(self) -> int:
        try:
            code = self._data[self._position]
        except IndexError:
            raise CodecError("the record ends too early") from None
        self._position += 1
        return code

    def _take(self, size: int) -> bytes:
        end = self._position + size
        if end > len(self._data):
            raise CodecError("the record ends too early")
        taken = self._data[self._position : end]
        self._position = end
        return taken

    def _number(self, size: int, *, signed: bool = False) -> int:
        return int.from_bytes(self._take(size), "big", signed=signed)

    def _int(self, code: int) -> int:
        if code < 0x80:
            return code
        if code >= 0xE0:
            return code - 0x100
        if code in _UINTS:
            return self._number(_UINTS[code])
        if code in _INTS:
            return self._number(_INTS[code], signed=True)
        raise _wrong(code, "a whole number")

    def int64(self) -> int:
        """Read a signed number; one above its range wraps."""
        code = self._code()
        return 0 if code == 0xC0 else _signed(self._int(code))

    def uint64(self) -> int:
        """Read an unsigned number; a negative one wraps."""
        code = self._code()
        return 0 if code == 0xC0 else self._int(code) % 2**64

    def float64(self) -> float:
        """Read a number with a fraction; whole ones are taken too."""
        code = self._code()
        if code == 0xC0:
            return 0.0
        if code in {0xCA, 0xCB}:
            return self._float(code)
        return float(self._int(code))

    def _float(self, code: int) -> float:
        number: float
        if code == 0xCA:
            (number,) = struct.unpack(">f", self._take(4))
        else:
            (number,) = struct.unpack(">d", self._take(8))
        return number

    def bool(self) -> bool:
        """Read a truth value, never nil."""
        code = self._code()
        if code not in {0xC2, 0xC3}:
            raise _wrong(code, "a truth value")
        return code == 0xC3

    def _text(self, code: int) -> bytes:
        if 0xA0 <= code < 0xC0:
            return self._take(code - 0xA0)
        if code in _TEXTS:
            return self._take(self._number(_TEXTS[code]))
        raise _wrong(code, "a text")

    def text(self) -> str:
        """Read a text; bytes that are no UTF-8 become lone surrogates."""
        code = self._code()
        if code == 0xC0:
            return ""
        return self._text(code).decode("utf-8", "surrogateescape")

    def key(self) -> bytes:
        """Read the key of a map."""
        code = self._code()
        return b"" if code == 0xC0 else self._text(code)

    def _array_length(self, code: int) -> int:
        if 0x90 <= code < 0xA0:
            return code - 0x90
        if code == 0xDC:
            return self._number(2)
        if code == 0xDD:
            return self._number(4)
        raise _wrong(code, "a list")

    def _map_length(self, code: int) -> int:
        if 0x80 <= code < 0x90:
            return code - 0x80
        if code == 0xDE:
            return self._number(2)
        if code == 0xDF:
            return self._number(4)
        raise _wrong(code, "a map")

    def list(self, item: _Read) -> list[Any] | None:
        """Read a list; nil stays nil."""
        code = self._code()
        if code == 0xC0:
            return None
        return [item(self) for _ in range(self._array_length(code))]

    def map(self, value: _Read) -> dict[str, Any] | None:
        """Read a map by text; nil stays nil."""
        code = self._code()
        if code == 0xC0:
            return None
        found: dict[str, Any] = {}
        for _ in range(self._map_length(code)):
            key = self.text()
            found[key] = value(self)
        return found

    def time(self) -> Time:
        """Read an instant in any of its forms."""
        code = self._code()
        if code == 0x92:
            seconds = self.int64()
            return normalised(seconds, self.int64())
        if code == 0xC0:
            return ZERO_TIME
        if code in _EXTS or code in _FIXED_EXTS:
            kind, body = self._ext(code)
            if kind == _TIMESTAMP_EXT:
                return _ext_time(body)
        elif 0xA0 <= code < 0xC0 or code in _TEXTS:
            return _text_time(self._text(code).decode("ascii", "replace"))
        raise _wrong(code, "a time")

    def _ext(self, code: int) -> tuple[int, bytes]:
        size = _FIXED_EXTS.get(code) or self._number(_EXTS[code])
        return self._code(), self._take(size)

    def value(self) -> Any:
        """Read a value of any kind but ext."""
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise CodecError("the record is nested too deeply")
        found = self._value(self._code())
        self._depth -= 1
        return found

    def _value(self, code: int) -> Any:
        if code == 0xC0:
            return None
        if code in {0xC2, 0xC3}:
            return code == 0xC3
        if code in {0xCA, 0xCB}:
            return self._float(code)
        if 0xC4 <= code <= 0xC6:
            return self._text(code)
        if 0xA0 <= code < 0xC0 or code in _TEXTS:
            return self._text(code).decode("utf-8", "surrogateescape")
        if 0x90 <= code < 0xA0 or code in {0xDC, 0xDD}:
            return [self.value() for _ in range(self._array_length(code))]
        if 0x80 <= code < 0x90 or code in {0xDE, 0xDF}:
            found: dict[str, Any] = {}
            for _ in range(self._map_length(code)):
                key = self.text()
                found[key] = self.value()
            return found
        return self._int(code)

    def skip(self) -> None:
        """Pass over the next value, whatever it is."""
        # By counting, not recursion: nesting costs the sender one byte a level.
        left = 1
        while left:
            left += self._skip(self._code()) - 1

    def _skip(self, code: int) -> int:
        """Pass over one code and its bytes; returns the number of its items."""
        if 0x90 <= code < 0xA0 or code in {0xDC, 0xDD}:
            return self._array_length(code)
        if 0x80 <= code < 0x90 or code in {0xDE, 0xDF}:
            return 2 * self._map_length(code)
        if 0xA0 <= code < 0xC0 or code in _TEXTS:
            self._text(code)
        elif code in _EXTS or code in _FIXED_EXTS:
            self._ext(code)
        elif code in {0xCA, 0xCB}:
            self._take(4 if code == 0xCA else 8)
        elif code not in {0xC0, 0xC2, 0xC3}:
            self._int(code)
        return 0

    def struct(self, shape: Shape) -> Any:
        """Read a map by field names, or an array in the order of the fields."""
        code = self._code()
        found: dict[str, Any] = {}
        if code == 0xC0:
            pass
        elif 0x90 <= code < 0xA0 or code in {0xDC, 0xDD}:
            self._positional(self._array_length(code), shape, found)
        else:
            for _ in range(self._map_length(code)):
                self._field(shape.by_key.get(self.key()), found)
        return shape.type(**found)

    def _positional(self, length: int, shape: Shape, found: dict[str, Any]) -> None:
        for index in range(length):
            known = shape.in_order[index] if index < len(shape.in_order) else None
            self._field(known, found)

    def _field(self, known: tuple[str, _Read] | None, found: dict[str, Any]) -> None:
        if known is None:
            self.skip()
        else:
            name, read = known
            found[name] = read(self)


class Shape:
    """How the fields of a struct are read; a field that nobody asked for is None."""

    def __init__(self, made: type[Any], order: type[Any] | None = None) -> None:
        self.type = made
        wanted = {f.name for f in msgspec.structs.fields(made)}
        self.in_order: list[tuple[str, _Read] | None] = []
        self.by_key: dict[bytes, tuple[str, _Read]] = {}
        for f in msgspec.structs.fields(order or made):
            if f.name == "zone":
                continue
            known = (f.name, _reader(f.type)) if f.name in wanted else None
            self.in_order.append(known)
            if known is not None:
                self.by_key[f.encode_name.encode()] = known


def shape(made: type[Any]) -> Shape:
    """Return how to read a record type that has some or all wire fields."""
    return Shape(made, analytics.AnalyticsRecord)


def read(payload: bytes, shape: Shape) -> Any:
    """Read one record; what follows it is ignored."""
    if not payload:
        raise CodecError("the record is empty")
    return Reader(payload).struct(shape)


def normalised(seconds: int, nanoseconds: int) -> Time:
    """Return the instant with the nanoseconds within one second."""
    carry, rest = divmod(nanoseconds, 1_000_000_000)
    return _signed(seconds + carry), rest


def _signed(number: int) -> int:
    return (number + 2**63) % 2**64 - 2**63


def _ext_time(body: bytes) -> Time:
    number = int.from_bytes(body, "big")
    if len(body) == 4:
        return number, 0
    if len(body) == 8:
        return normalised(number & (2**34 - 1), number >> 34)
    if len(body) == 12:
        return normalised(_signed(number % 2**64), number >> 64)
    raise CodecError("a timestamp has 4, 8 or 12 bytes")


def _text_time(text: str) -> Time:
    found = _RFC3339.fullmatch(text)
    if found is None:
        raise CodecError("a time text is not RFC 3339")
    year, month, day, hour, minute, second = map(int, found.groups()[:6])
    if not (1 <= month <= 12 and 1 <= day <= gotime.days_in(year, month)):
        raise CodecError("a time text is not RFC 3339")
    if hour > 23 or minute > 59 or second > 59:
        raise CodecError("a time text is not RFC 3339")
    offset = 0
    if found[8]:
        offset = int(found[9]) * 3600 + int(found[10]) * 60
        offset = -offset if found[8] == "-" else offset
    days = gotime.days_from_civil(year, month, day)
    nanoseconds = int((found[7] or "0")[:9].ljust(9, "0"))
    return days * 86400 + hour * 3600 + minute * 60 + second - offset, nanoseconds


def _wrong(code: int, wanted: str) -> CodecError:
    return CodecError(f"expected {wanted}, found msgpack code {code:02x}")


def _struct_reader(made: type[Any]) -> _Read:
    inner = Shape(made)
    return lambda reader: reader.struct(inner)


def _texts(reader: Reader) -> list[Any] | None:
    return reader.list(Reader.text)


_READERS: Final[dict[Any, _Read]] = {
    str: Reader.text,
    bool: Reader.bool,
    float: Reader.float64,
    analytics.Int: Reader.int64,
    analytics.Uint: Reader.uint64,
    Time: Reader.time,
    list[str] | None: _texts,
    dict[str, str] | None: lambda reader: reader.map(Reader.text),
    dict[str, list[str] | None] | None: lambda reader: reader.map(_texts),
    list[analytics.Scalar] | None: lambda reader: reader.list(Reader.value),
}


def _reader(kind: Any) -> _Read:
    if kind in _READERS:
        return _READERS[kind]
    if kind == list[analytics.GraphQLError] | None:
        item = _struct_reader(analytics.GraphQLError)
        return lambda reader: reader.list(item)
    return _struct_reader(kind)
