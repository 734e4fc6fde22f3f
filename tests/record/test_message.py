"""Recorded requests and responses: heads, bodies, chunks and compressions."""

from __future__ import annotations

import base64
import gzip
import logging
import sys
import zlib

import brotli
import pytest

from tyk_pump.record import message
from tyk_pump.record.message import LARGEST_BODY, parsed, plain_body, with_trailers

PLAIN = b'{"a":"\xc3\xa9"}' * 50


def raw(head: str, body: bytes = b"") -> str:
    """Return a recorded text as the gateway writes it."""
    return base64.b64encode(head.encode() + b"\r\n\r\n" + body).decode()


def answer(body: bytes, *headers: str) -> str:
    """Return a recorded answer."""
    return raw("\r\n".join(["HTTP/1.1 200 OK", *headers]), body)


def test_a_request() -> None:
    """Start line, headers by small names, body."""
    found = parsed(raw("POST /x HTTP/1.1\r\nX-A: b: c\r\nx-a:d\r\nbad", b"\r\n\r\nz"))
    assert found.start == ["POST", "/x", "HTTP/1.1"]
    assert found.headers == [("x-a", "b: c"), ("x-a", "d")]
    assert found.header("x-a") == "b: c, d"
    assert found.header("x-b") == ""
    assert found.body == "\r\n\r\nz"


def test_a_body_without_headers() -> None:
    """The empty line may follow the first."""
    found = parsed(raw("POST /x HTTP/1.1", b"kept"))
    assert (found.headers, found.body) == ([], "kept")


def test_other_line_ends() -> None:
    """Line feeds alone do as well."""
    found = parsed(base64.b64encode(b"GET / HTTP/1.1\nA: b\n\nbody").decode())
    assert (found.headers, found.body) == ([("a", "b")], "body")


@pytest.mark.parametrize("text", ["", "AAEC//4=", "QUFB", "QUF", "%%% %%%", "%"])
def test_what_is_no_http(text: str) -> None:
    """It has no head and no body."""
    found = parsed(text)
    assert (found.start, found.headers, found.body) == ([], [], "")


def test_a_text_that_was_decoded_before() -> None:
    """`raw_request_decoded` makes no difference."""
    found = parsed("GET /x HTTP/1.1\r\nA: b\r\n\r\nbody")
    assert (found.start[1], found.headers, found.body) == ("/x", [("a", "b")], "body")


@pytest.mark.parametrize("size", range(60, 68))
def test_a_text_that_was_cut(size: int) -> None:
    """`max_record_size` cuts base64 anywhere: what is whole of it counts."""
    found = parsed(raw("GET /x HTTP/1.1\r\nA: b", b"0123456789" * 9)[:size])
    assert found.headers == [("a", "b")]
    assert found.body == ("0123456789" * 9)[: size // 4 * 3 - len(found.start) - 22]


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(PLAIN, mtime=0)),
        ("X-GZIP", gzip.compress(PLAIN, mtime=0)),
        (
            "gzip",
            gzip.compress(PLAIN[:99], mtime=0) + gzip.compress(PLAIN[99:], mtime=0),
        ),
        ("deflate", zlib.compress(PLAIN)),
        ("deflate", zlib.compress(PLAIN)[2:-4]),
        ("br", brotli.compress(PLAIN)),
        ("identity", PLAIN),
        ("", PLAIN),
        ("br, gzip", gzip.compress(brotli.compress(PLAIN), mtime=0)),
        ("identity,deflate", zlib.compress(PLAIN)),
    ],
)
def test_compressed_bodies(encoding: str, body: bytes) -> None:
    """They are shown as the client saw them."""
    shown = plain_body(parsed(answer(body, f"Content-Encoding: {encoding}")))
    assert shown == PLAIN.decode()


@pytest.mark.parametrize("encoding", ["zstd", "gzip", "deflate", "br", "gzip, zstd"])
def test_bodies_that_cannot_be_shown(encoding: str) -> None:
    """An unknown encoding, or one that is not what it says: nothing."""
    text = answer(b"\x00\x01 not compressed", f"Content-Encoding: {encoding}")
    assert plain_body(parsed(text)) == ""


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(PLAIN, mtime=0)),
        ("deflate", zlib.compress(PLAIN)),
        ("br", brotli.compress(bytes(range(32, 127)) * 50)),
    ],
)
def test_a_body_that_was_cut(encoding: str, body: bytes) -> None:
    """What was recorded of it is shown."""
    cut = body[: len(body) - 10]
    shown = plain_body(parsed(answer(cut, f"Content-Encoding: {encoding}")))
    whole = plain_body(parsed(answer(body, f"Content-Encoding: {encoding}")))
    assert whole.startswith(shown)


BOMB = b"\0" * (64 * 1024 * 1024)


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(BOMB, mtime=0)),
        ("deflate", zlib.compress(BOMB)),
        ("br", brotli.compress(BOMB, quality=1)),
        ("gzip, gzip", gzip.compress(gzip.compress(BOMB, mtime=0), mtime=0)),
        ("gzip", gzip.compress(b"", mtime=0) * 500_000),
    ],
)
def test_bombs(encoding: str, body: bytes) -> None:
    """A small body becomes a mebibyte at most."""
    shown = plain_body(parsed(answer(body, f"Content-Encoding: {encoding}")))
    assert shown in ("\0" * LARGEST_BODY, "")


def test_a_text_of_many_members() -> None:
    """The first hundred count; a million of them would take hours."""
    body = gzip.compress(b"a", mtime=0) * 1000
    text = answer(body, "Content-Encoding: gzip")
    assert plain_body(parsed(text)) == "a" * 100


def test_a_large_body() -> None:
    """The first mebibyte is shown, counted in bytes."""
    shown = plain_body(parsed(answer(b"a" + "é".encode() * LARGEST_BODY)))
    assert len(shown.encode("utf-8", "surrogateescape")) == LARGEST_BODY


def test_without_brotli(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The body stays empty, and the log says once what to install."""
    monkeypatch.setitem(sys.modules, "brotli", None)
    monkeypatch.setattr(message, "_drivers", {})
    caplog.set_level(logging.WARNING)
    text = answer(brotli.compress(PLAIN), "Content-Encoding: br")
    assert [plain_body(parsed(text)) for _ in range(2)] == ["", ""]
    assert [r.getMessage() for r in caplog.records] == [
        "bodies with Content-Encoding br are left out: install tyk-pump[resurface]"
    ]


def chunks(*parts: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    """Return parts as chunks."""
    return b"".join(b"%x;x=y\r\n%b\r\n" % (len(part), part) for part in parts) + end


CHUNKED = "Transfer-Encoding: chunked"


def test_chunks() -> None:
    """They stay as they are, unless asked otherwise, or beneath a compression."""
    text = answer(chunks(b"hel", b"lo"), CHUNKED)
    assert plain_body(parsed(text)) == chunks(b"hel", b"lo").decode()
    assert plain_body(parsed(text), unchunk=True) == "hello"
    body = gzip.compress(PLAIN, mtime=0)
    text = answer(chunks(body[:20], body[20:]), CHUNKED, "Content-Encoding: gzip")
    assert plain_body(parsed(text)) == PLAIN.decode()


def test_chunks_that_are_none() -> None:
    """A header that does not tell the truth, and a body that was cut."""
    text = answer(b"hello", CHUNKED)
    assert plain_body(parsed(text), unchunk=True) == "hello"
    text = answer(chunks(b"hello", b"world")[:20], CHUNKED)
    assert plain_body(parsed(text), unchunk=True) == "hello"


def test_trailers() -> None:
    """What stands behind the last chunk joins the headers, where it is announced."""
    body = chunks(b"hello", end=b"0\r\nX-T: a: b\r\nX-U: c\r\n\r\n")
    found = with_trailers(parsed(answer(body, CHUNKED, "Trailer: X-T")))
    assert found.headers[2:] == [("x-t", "a: b"), ("x-u", "c")]
    assert found.header("x-t") == "a: b"
    assert found.body == chunks(b"hello", end=b"0\r\n").decode()
    plain = parsed(answer(body, CHUNKED))
    assert with_trailers(plain) == plain
    cut = parsed(answer(chunks(b"hello", end=b""), CHUNKED, "Trailer: X-T"))
    assert with_trailers(cut) == cut
