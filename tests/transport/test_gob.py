"""gob as Go writes and reads it, held against streams of the reference's."""

from __future__ import annotations

import contextlib
import random
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.transport.capture import Piece, payload, pieces, streams
from tyk_pump.transport.gob import (
    INTERFACE,
    STRING,
    UINT,
    Decoder,
    Encoder,
    GobError,
    Struct,
    signed,
    unsigned,
)
from tyk_pump.transport.gorpc import CALL, WIRE_REQUEST

WIRE_RESPONSE = Struct(
    "wireResponse", (("ID", UINT), ("Response", INTERFACE), ("Error", STRING))
)
ANSWER = Struct(
    "dispatcherResponse",
    (("Response", INTERFACE), ("Error", STRING)),
    "*gorpc.dispatcherResponse",
)
BOTH = [
    pytest.param(found, id=f"{name}-{'up' if upwards else 'down'}")
    for upwards in (True, False)
    for name, found in streams(upwards=upwards).items()
]
FIRST_ID = {"D": 65}
"""Go 1.19 begins with another number."""


def listed(value: Any) -> Any:
    """Return a value as the listing has it: pairs are lists there."""
    if isinstance(value, dict):
        return {key: listed(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [listed(item) for item in value]
    return value


def boxed(value: dict[str, Any], inner: Struct) -> dict[str, Any]:
    """Return a listed value as the encoder takes it."""
    made = dict(value)
    for field in ("Request", "Response"):
        if isinstance(made.get(field), list):
            name, held = made[field]
            if name == inner.registered:
                made[field] = (inner, boxed(held, inner))
            else:
                made[field] = (name, held)
    return made


def test_the_listing_is_read() -> None:
    """Eight exchanges, in both directions."""
    assert {piece.exchange for piece in pieces()} >= set("ABCDFGH")
    assert sum(piece.shown for piece in pieces()) > 30


@pytest.mark.parametrize("found", BOTH)
@pytest.mark.parametrize("step", [1, 7, 10**6])
def test_streams_are_read(found: list[Piece], step: int) -> None:
    """In pieces of any size, byte by byte, too; also values that span two messages."""
    decoder = Decoder()
    for piece in found:
        if not piece.whole:
            break
        values: list[Any] = []
        for at in range(0, len(piece.frames), step):
            values += decoder.feed(piece.frames[at : at + step])
        assert len(values) == len(piece.values)
        if piece.shown:
            assert listed(values) == piece.values


@pytest.mark.parametrize("found", BOTH)
def test_streams_are_written(found: list[Piece]) -> None:
    """Byte for byte as Go does, with the numbers of each version of it."""
    encoder = Encoder(FIRST_ID.get(found[0].exchange, 64))
    outer, inner = WIRE_RESPONSE, ANSWER
    if found[0].upwards:
        outer, inner = WIRE_REQUEST, CALL
    decoder = Decoder()
    for piece in found:
        if not piece.whole:
            break
        # What is cut short among the values is whole among the bytes.
        values = listed(list(decoder.feed(piece.frames)))
        written = b"".join(encoder.encode(outer, boxed(v, inner)) for v in values)
        assert written == piece.frames


@pytest.mark.parametrize("found", BOTH)
def test_streams_are_inflated(found: list[Piece]) -> None:
    """One raw DEFLATE stream for the life of a connection, without an end."""
    inflate = zlib.decompressobj(-15)
    for piece in found:
        if piece.sent:
            data = b"".join(
                inflate.decompress(piece.sent[at : at + 1])
                for at in range(len(piece.sent))
            )
            if piece.whole:
                assert data == piece.frames
            assert not inflate.eof


def test_a_long_argument() -> None:
    """The purge of exchange A, of which the listing shows the values only."""
    argument = payload("PurgeAnalyticsData")
    encoder = Encoder()
    encoder.encode(WIRE_REQUEST, {"ID": 3, "Request": (CALL, {"Name": ".Login"})})
    call = {"Name": ".PurgeAnalyticsData", "Request": ("string", argument)}
    data = encoder.encode(WIRE_REQUEST, {"ID": 4, "Request": (CALL, call)})
    head = bytes.fromhex("fe0573ff80010401182a676f7270632e")
    assert data[: len(head)] == head
    assert data.endswith(
        bytes.fromhex("01132e5075726765416e616c7974696373446174610000")
    )


@pytest.mark.parametrize(
    ("number", "data"),
    [
        (0, "00"),
        (127, "7f"),
        (128, "ff80"),
        (255, "ffff"),
        (256, "fe0100"),
        (300, "fe012c"),
        (1395, "fe0573"),
        (2**64 - 1, "f8ffffffffffffffff"),
    ],
)
def test_unsigned(number: int, data: str) -> None:
    """Small numbers are a byte, others their length and so many bytes."""
    assert unsigned(number).hex() == data


@pytest.mark.parametrize(
    ("number", "data"), [(3, "06"), (64, "ff80"), (-64, "7f"), (-65, "ff81")]
)
def test_signed(number: int, data: str) -> None:
    """The lowest bit is the sign."""
    assert signed(number).hex() == data


@pytest.mark.parametrize("number", [127, 128, 255, 256, 65_536, 2**40])
def test_numbers_of_calls(number: int) -> None:
    """A call's number has more than one byte after a while."""
    value = {"ID": number, "Request": (CALL, {"Name": ".Ping"})}
    (found,) = Decoder().feed(Encoder().encode(WIRE_REQUEST, value))
    assert found["ID"] == number


def framed(*parts: bytes) -> bytes:
    """Return a message."""
    return unsigned(len(b"".join(parts))) + b"".join(parts)


def text(value: str) -> bytes:
    """Return a text."""
    return unsigned(len(value)) + value.encode()


def defined(number: int, form: int, about: bytes) -> bytes:
    """Return the definition of a type: its form, and what follows its common part."""
    common = b"\x01" + text("T") + b"\x01" + signed(number) + b"\x00"
    return signed(-number) + bytes([form + 1]) + b"\x01" + common + about + b"\0\0"


def fields(*those: tuple[str, int]) -> bytes:
    """Return the fields of a struct's definition."""
    listed_ = [b"\x01" + text(n) + b"\x01" + signed(t) + b"\0" for n, t in those]
    return b"\x01" + unsigned(len(those)) + b"".join(listed_)


def test_what_is_not_known_is_skipped_by_its_definition() -> None:
    """A newer server may add fields of any type; numbers are its own affair."""
    slice_, map_, opaque, array = 210, 211, 212, 213
    struct_ = fields(
        ("ID", 3),
        ("Tags", slice_),
        ("Counts", map_),
        ("When", opaque),
        ("Ratio", 4),
        ("Point", 7),
        ("Raw", 5),
        ("Pair", array),
        ("Error", 6),
    )
    data = (
        framed(defined(200, 2, struct_))
        + framed(defined(slice_, 1, b"\x01" + signed(6)))
        + framed(defined(map_, 3, b"\x01" + signed(6) + b"\x01" + signed(2)))
        + framed(defined(opaque, 4, b"")[:-1] + b"\0")
        + framed(defined(array, 0, b"\x01" + signed(1) + b"\x01" + signed(2)))
        + framed(
            signed(200),
            b"\x01\x07",
            b"\x01\x02" + text("a") + text("b"),
            b"\x01\x01" + text("k") + signed(-3),
            b"\x01" + text("2025"),
            b"\x01\xfe\xf8\x3f",  # 1.5
            b"\x01\xfe\xf8\x3f\x00",
            b"\x01" + text("xy"),
            b"\x01\x02\x01\x00",
            b"\x01" + text("oops"),
            b"\x00",
        )
    )
    (found,) = Decoder().feed(data)
    assert found == {
        "ID": 7,
        "Tags": ["a", "b"],
        "Counts": {"k": -3},
        "When": b"2025",
        "Ratio": 1.5,
        "Point": 1.5 + 0j,
        "Raw": b"xy",
        "Pair": [True, False],
        "Error": "oops",
    }


@pytest.mark.parametrize("split", [True, False])
def test_a_definition_inside_a_value(split: bool) -> None:
    """The value goes on in the next message, or behind a length in this one."""
    outer = framed(defined(200, 2, fields(("Request", 8))))
    front = signed(200) + b"\x01" + text("*x") + defined(201, 2, fields(("Name", 6)))
    rest = signed(201) + unsigned(5) + b"\x01" + text("ab") + b"\0\0"
    if split:
        data = outer + framed(front) + framed(rest)
    else:
        data = outer + framed(front, unsigned(len(rest)), rest)
    decoder = Decoder()
    values = [v for at in range(len(data)) for v in decoder.feed(data[at : at + 1])]
    assert values == [{"Request": ("*x", {"Name": "ab"})}]


def test_a_value_that_is_no_struct() -> None:
    """A zero stands before it."""
    assert list(Decoder().feed(framed(signed(6), b"\0", text("hello")))) == ["hello"]


@pytest.mark.parametrize(
    "data",
    [
        b"\x80",
        framed(signed(99), b"\0"),
        framed(signed(6), b"\1", text("x")),
        framed(signed(6), b"\0", b"\x7fshort"),
        framed(signed(6), b"\0", text("x"), b"more"),
        framed(defined(70, 2, fields(("A", 3)))) * 2,
        framed(defined(20, 2, fields(("A", 3)))),
        framed(signed(-70), b"\0"),
        framed(defined(70, 1, b"\x01" + signed(70)))
        + framed(signed(70), b"\0", b"\x01" * 300),
        b"\xfc\xff\xff\xff\xff",
        b"HTTP/1.1 400 Bad Request\r\n\r\n" * 30,
    ],
)
def test_bytes_that_are_no_gob(data: bytes) -> None:
    """They are refused, whatever is wrong with them, and never eat the memory."""
    with pytest.raises(GobError):
        list(Decoder(limit=1 << 20).feed(data))


@given(st.binary(max_size=200))
def test_chance(data: bytes) -> None:
    """Nothing but a GobError comes of bytes by chance."""
    known = Encoder().encode(WIRE_REQUEST, {"ID": 1, "Request": (CALL, {"Name": "x"})})
    decoder = Decoder(limit=1 << 16)
    list(decoder.feed(known))
    with contextlib.suppress(GobError):
        list(decoder.feed(data))


@given(st.integers(1, 2**63), st.text(), st.text(min_size=1), st.integers(0, 10**9))
def test_round(number: int, argument: str, name: str, seed: int) -> None:
    """What is written is read, wherever it is cut."""
    encoder, decoder, chance = Encoder(), Decoder(), random.Random(seed)
    call = {"Request": ("string", argument), "Name": name}
    value = {"ID": number, "Request": (CALL, call)}
    data = encoder.encode(WIRE_REQUEST, value) + encoder.encode(WIRE_REQUEST, value)
    found: list[Any] = []
    while data:
        size = chance.randint(1, 20)
        found += decoder.feed(data[:size])
        data = data[size:]
    one = {"ID": number, "Request": ("*gorpc.dispatcherRequest", call)}
    assert found == [one, one]
