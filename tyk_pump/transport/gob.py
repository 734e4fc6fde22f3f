"""Go's gob encoding: what the RPC streams of MDCB need of it.

A stream is a run of messages, each a length and so many bytes. A message defines a type
(a negative number first) or holds a value of one. Types have numbers that their sender
chooses: a reader learns them from the definitions, of each direction of a connection.

Values here: a struct is a dict of the fields that are not zero, an interface is None or
a pair of the registered name and the value.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

BOOL: Final = 1
INT: Final = 2
UINT: Final = 3
FLOAT: Final = 4
BYTES: Final = 5
STRING: Final = 6
COMPLEX: Final = 7
INTERFACE: Final = 8
FIRST_ID: Final = 64
"""The first number that a program may give to a type of its own."""
_WIRE_TYPE: Final = 16
_DEEPEST: Final = 100


class GobError(ValueError):
    """These bytes are no gob stream that we understand."""


class Struct(msgspec.Struct, frozen=True):
    """A struct type: its name and, in order, the names and types of its fields."""

    name: str
    fields: tuple[tuple[str, int], ...]
    registered: str = ""
    """What it is called inside an interface."""


class _Slice(msgspec.Struct, frozen=True):
    element: int
    count: int | None = None


class _Map(msgspec.Struct, frozen=True):
    key: int
    element: int


class _Opaque(msgspec.Struct, frozen=True):
    """A type that encodes itself: to us it is bytes."""


_Type = Struct | _Slice | _Map | _Opaque

_COMMON: Final = Struct("CommonType", (("Name", STRING), ("Id", INT)))
_DEFINING: Final[dict[int, _Type]] = {
    _WIRE_TYPE: Struct(
        "wireType",
        (
            ("ArrayT", 17),
            ("SliceT", 19),
            ("StructT", 20),
            ("MapT", 23),
            ("GobEncoderT", 24),
            ("BinaryMarshalerT", 24),
            ("TextMarshalerT", 24),
        ),
    ),
    17: Struct("arrayType", (("CommonType", 18), ("Elem", INT), ("Len", INT))),
    18: _COMMON,
    19: Struct("sliceType", (("CommonType", 18), ("Elem", INT))),
    20: Struct("structType", (("CommonType", 18), ("Field", 22))),
    21: Struct("fieldType", (("Name", STRING), ("Id", INT))),
    22: _Slice(21),
    23: Struct("mapType", (("CommonType", 18), ("Key", INT), ("Elem", INT))),
    24: Struct("gobEncoderType", (("CommonType", 18),)),
}
"""How definitions themselves are laid out; every program knows these."""


# Writing


class Encoder:
    """Writes the values of one direction of a connection, as Go does.

    The definition of a type stands before its first value. Where that is inside another
    value, the message ends behind the definition and the value goes on in the next one.
    """

    def __init__(self, first_id: int = FIRST_ID) -> None:
        self._next = first_id
        self._ids: dict[Struct, int] = {}

    def encode(self, kind: Struct, value: Mapping[str, Any]) -> bytes:
        """Return the messages of a value, with the definitions it needs."""
        messages: list[bytes] = []
        number = self._ids.get(kind)
        if number is None:
            number, definition = self._define(kind)
            messages.append(definition)
        body = bytearray(signed(number))
        for part in self._struct(kind, value):
            if part is None:  # the message ends here, the value goes on
                messages.append(bytes(body))
                body.clear()
            else:
                body += part
        messages.append(bytes(body))
        return b"".join(unsigned(len(one)) + one for one in messages)

    def _struct(self, kind: Struct, value: Mapping[str, Any]) -> Iterator[bytes | None]:
        last = -1
        for at, (name, type_) in enumerate(kind.fields):
            item = value.get(name)
            if not item:
                continue  # a zero is left out
            yield unsigned(at - last)
            last = at
            if type_ == INTERFACE:
                yield from self._interface(*item)
            else:
                yield _plain(type_, item)
        yield b"\0"

    def _interface(self, kind: str | Struct, value: Any) -> Iterator[bytes | None]:
        if isinstance(kind, Struct):
            yield _text(kind.registered)
            number = self._ids.get(kind)
            if number is None:
                number, definition = self._define(kind)
                yield definition
                yield None
            yield signed(number)
            inner = list(self._struct(kind, value))
            if None in inner:
                raise GobError("a definition two levels deep is not ours to write")
            data = b"".join(part for part in inner if part is not None)
        else:
            number = _NAMED[kind]
            yield _text(kind) + signed(number)
            # Nothing is left out here, and the byte says that this is no struct.
            data = b"\0" + _plain(number, value)
        yield unsigned(len(data))
        yield data

    def _define(self, kind: Struct) -> tuple[int, bytes]:
        """Give a type a number; return it with the definition."""
        number = self._ids[kind] = self._next
        self._next += 1
        fields = b"".join(
            b"\1" + _text(name) + b"\1" + signed(type_) + b"\0"
            for name, type_ in kind.fields
        )
        common = b"\1" + _text(kind.name) + b"\1" + signed(number) + b"\0"
        listed = unsigned(len(kind.fields)) + fields
        # Field 2 of a wire type, StructT, with its own fields 0 and 1.
        return number, signed(-number) + b"\3\1" + common + b"\1" + listed + b"\0\0"


_NAMED: Final = {"bool": BOOL, "int": INT, "uint": UINT, "string": STRING}


def unsigned(number: int) -> bytes:
    """Return a number that is not negative."""
    if number < 128:
        return bytes((number,))
    size = (number.bit_length() + 7) // 8
    return bytes((256 - size,)) + number.to_bytes(size, "big")


def signed(number: int) -> bytes:
    """Return a number of either sign: the lowest bit says which."""
    return unsigned(2 * number if number >= 0 else -2 * number - 1)


def _text(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return unsigned(len(data)) + data


def _plain(kind: int, value: Any) -> bytes:
    if kind == STRING:
        return _text(value)
    if kind == INT:
        return signed(value)
    return unsigned(int(value))


# Reading


class _More(Exception):
    """A value goes on in a message that is not here yet."""


class Decoder:
    """Reads the values of one direction of a connection, in pieces of any size."""

    def __init__(self, *, limit: int = 1 << 30) -> None:
        """Take how many bytes a message may have, and a value with all of its own."""
        self._limit = limit
        self._buffer = bytearray()
        self._waiting: list[bytes] = []
        """Whole messages whose value has not ended yet."""
        self._types: dict[int, _Type] = dict(_DEFINING)

    def feed(self, data: bytes) -> Iterator[Any]:
        """Take bytes; yield each value that they complete."""
        self._buffer += data
        while (message := self._message()) is not None:
            self._waiting.append(message)
            if sum(map(len, self._waiting)) > self._limit:
                raise GobError("a value is too large")
            # The types of a value that has to wait are learnt again with it.
            reader = _Reader(self._waiting, dict(self._types))
            try:
                found = reader.top()
            except _More:
                continue
            except (IndexError, KeyError, RecursionError, UnicodeDecodeError) as exc:
                raise GobError(f"not a gob stream: {exc!r}") from exc
            self._types = reader.types
            self._waiting = []
            yield from found

    def _message(self) -> bytes | None:
        """Take the next whole message from the buffer."""
        buffer = self._buffer
        if not buffer:
            return None
        size = buffer[0]
        head = 1 if size < 128 else 1 + 256 - size
        if head > 9:
            raise GobError(f"not a gob stream: a length of {head - 1} bytes")
        if len(buffer) < head:
            return None
        if head > 1:
            size = int.from_bytes(buffer[1:head], "big")
        if size > self._limit:
            raise GobError(f"a message of {size} bytes is too large")
        if len(buffer) < head + size:
            return None
        message = bytes(buffer[head : head + size])
        del buffer[: head + size]
        return message


class _Reader:
    """Reads one value from the messages that it spans."""

    def __init__(self, messages: Sequence[bytes], types: dict[int, _Type]) -> None:
        self.types = types
        self._left = iter(messages)
        self._data = next(self._left)
        self._at = 0
        self._depth = 0

    def top(self) -> list[Any]:
        """Return the value, or nothing where the message only defines a type."""
        number = self._signed()
        if number < 0:
            self._learn(-number)
            found = []
        else:
            found = [self._held(number)]
        if self._at != len(self._data):
            raise GobError("a message is longer than its value")
        return found

    def _held(self, number: int) -> Any:
        """Return a value of its own: one that is no struct has a zero before it."""
        if not isinstance(self.types.get(number), Struct) and self._unsigned():
            raise GobError("not a gob stream: no struct where one is said to be")
        return self._value(number)

    def _learn(self, number: int) -> None:
        """Read the definition of a type."""
        if number in self.types or number < FIRST_ID:
            raise GobError(f"type {number} is defined twice")
        wire = self._value(_WIRE_TYPE)
        ((form, about),) = wire.items() if len(wire) == 1 else ((("", {})),)
        self.types[number] = _defined(form, about)

    def _value(self, number: int) -> Any:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise GobError("values are nested too deep")
        try:
            read = _READ.get(number)
            if read is not None:
                return read(self)
            return self._composed(self.types[number])
        finally:
            self._depth -= 1

    def _composed(self, kind: _Type) -> Any:
        if isinstance(kind, Struct):
            return self._struct(kind)
        if isinstance(kind, _Slice):
            return [self._value(kind.element) for _ in range(self._count())]
        if isinstance(kind, _Map):
            count = self._count()
            pairs = [
                (self._value(kind.key), self._value(kind.element)) for _ in range(count)
            ]
            return dict(pairs)
        return self._bytes()

    def _struct(self, kind: Struct) -> dict[str, Any]:
        found: dict[str, Any] = {}
        at = -1
        while step := self._unsigned():
            at += step
            name, type_ = kind.fields[at]
            found[name] = self._value(type_)
        return found

    def _interface(self) -> tuple[str, Any] | None:
        name = self._string()
        if not name:
            return None
        number = self._signed()
        while number < 0:
            self._learn(-number)
            if self._at < len(self._data):
                self._unsigned()  # the length of what follows
            else:
                self._go_on()
            number = self._signed()
        self._unsigned()
        return name, self._held(number)

    def _go_on(self) -> None:
        data = next(self._left, None)
        if data is None:
            raise _More
        self._data, self._at = data, 0

    def _unsigned(self) -> int:
        first = self._data[self._at]
        self._at += 1
        if first < 128:
            return first
        size = 256 - first
        if size > 8:
            raise GobError(f"not a gob stream: a number of {size} bytes")
        return int.from_bytes(self._taken(size), "big")

    def _signed(self) -> int:
        number = self._unsigned()
        return ~(number >> 1) if number & 1 else number >> 1

    def _count(self) -> int:
        count = self._unsigned()
        if count > len(self._data) - self._at:
            raise GobError(f"not a gob stream: {count} elements in a short message")
        return count

    def _bytes(self) -> bytes:
        return self._taken(self._unsigned())

    def _string(self) -> str:
        return self._bytes().decode("utf-8", "replace")

    def _float(self) -> float:
        # The bytes of a float are turned round, so that round numbers are short.
        (number,) = struct.unpack("<d", self._unsigned().to_bytes(8, "big"))
        return float(number)

    def _taken(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise GobError("not a gob stream: a value is longer than its message")
        taken = self._data[self._at : end]
        self._at = end
        return taken


_READ: Final = {
    BOOL: lambda reader: bool(reader._unsigned()),
    INT: _Reader._signed,
    UINT: _Reader._unsigned,
    FLOAT: _Reader._float,
    BYTES: _Reader._bytes,
    STRING: _Reader._string,
    COMPLEX: lambda reader: complex(reader._float(), reader._float()),
    INTERFACE: _Reader._interface,
}


def _defined(form: str, about: Mapping[str, Any]) -> _Type:
    """Return the type of a definition that has been read."""
    name = about.get("CommonType", {}).get("Name", "")
    if form == "StructT":
        fields = about.get("Field", ())
        return Struct(name, tuple((f.get("Name", ""), f["Id"]) for f in fields))
    if form in {"SliceT", "ArrayT"}:
        return _Slice(about["Elem"])
    if form == "MapT":
        return _Map(about["Key"], about["Elem"])
    if form in {"GobEncoderT", "BinaryMarshalerT", "TextMarshalerT"}:
        return _Opaque()
    raise GobError("not a gob stream: a definition of no kind that we know")
