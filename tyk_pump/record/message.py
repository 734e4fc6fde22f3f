"""A call's request or response as the gateway records it: start line, headers, body."""

from __future__ import annotations

import importlib
import logging
import re
import zlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any, Final

import msgspec

from tyk_pump.record.body import decoded, decoded_part

log = logging.getLogger(__name__)

LARGEST_BODY: Final = 1024 * 1024
"""Bytes of a body that are looked at, after its compression."""
_START: Final = re.compile(r"(?:HTTP/\d[\d.]*|[A-Za-z][A-Za-z_-]*) +\S")
_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\n]*?)?\r?\n")
_WINDOW: Final = 64 * 1024
_MEMBERS: Final = 100
"""Parts of a gzip text that are looked at: each takes a copy of all behind it."""


class Message(msgspec.Struct, gc=False):
    """A recorded request or response."""

    start: list[str] = []
    """Words of the first line; none where the text is no HTTP message."""
    headers: list[tuple[str, str]] = []
    """Names in small letters, repeated ones as often as they came."""
    body: str = ""
    names: frozenset[str] = frozenset()
    """Of the headers."""

    def header(self, name: str) -> str:
        """Return the values of a header, with commas between."""
        if name not in self.names:
            return ""
        return ", ".join(value for known, value in self.headers if known == name)


def parsed(raw: str) -> Message:
    """Return what a recorded text says, also one that was cut or decoded before."""
    if not raw:
        return Message()
    text = decoded(raw)
    if not _START.match(text):
        # `max_record_size` may have cut the base64 within its last four characters.
        text = decoded_part(raw)
        if not _START.match(text):
            return Message()
    head, _, body = text.partition("\r\n\r\n")
    if not body and "\r\n" not in head:
        head, _, body = text.partition("\n\n")
    start, _, lines = head.partition("\n")
    headers = _headers(lines)
    return Message(start.split(), headers, body, frozenset(dict(headers)))


def _headers(lines: str) -> list[tuple[str, str]]:
    return [
        (name.strip().lower(), value.strip())
        for name, colon, value in (line.partition(":") for line in lines.split("\n"))
        if colon
    ]


def with_trailers(message: Message) -> Message:
    """Return a message with what stands behind its last chunk among its headers."""
    if "trailer" not in message.names:
        return message
    data = message.body.encode("utf-8", "surrogateescape")
    _, end = _unchunked(data)
    if end is None:
        return message
    body = data[:end].decode("utf-8", "surrogateescape")
    headers = [
        *message.headers,
        *_headers(data[end:].decode("utf-8", "surrogateescape")),
    ]
    return Message(message.start, headers, body, frozenset(dict(headers)))


def is_chunked(message: Message) -> bool:
    """Say whether the body came in chunks."""
    return message.header("transfer-encoding").lower().endswith("chunked")


def plain_body(message: Message, *, unchunk: bool = False) -> str:
    """Return the body without compression, empty where that is not to be undone.

    What chunks put between its parts stays in a body that is not compressed, unless
    `unchunk` is set.
    """
    body = message.body
    if not body:
        return ""
    encodings = _encodings(message)
    if encodings or unchunk:
        data = body.encode("utf-8", "surrogateescape")
        if is_chunked(message):
            data = _unchunked(data)[0]
        return _plain(data, encodings).decode("utf-8", "surrogateescape")
    if len(body) * 4 <= LARGEST_BODY:
        return body
    data = body.encode("utf-8", "surrogateescape")[:LARGEST_BODY]
    return data.decode("utf-8", "surrogateescape")


def _encodings(message: Message) -> list[str]:
    """Return what was done to the body, in the order of its doing."""
    if "content-encoding" not in message.names:
        return []
    named = message.header("content-encoding").lower().split(",")
    return [n for n in map(str.strip, named) if n not in ("", "identity")]


def _plain(data: bytes, encodings: Sequence[str]) -> bytes:
    for name in reversed(encodings):
        try:
            data = _decompressed(data, name)
        except (zlib.error, ValueError):
            return b""
    return data[:LARGEST_BODY]


def _decompressed(data: bytes, encoding: str) -> bytes:
    if encoding in ("gzip", "x-gzip"):
        return _gunzipped(data)
    if encoding == "deflate":
        try:
            return zlib.decompressobj().decompress(data, LARGEST_BODY)
        except zlib.error:
            # Some leave the zlib header away.
            return zlib.decompressobj(-15).decompress(data, LARGEST_BODY)
    if encoding == "br":
        return _unbrotlied(data)
    raise ValueError(encoding)


def _gunzipped(data: bytes) -> bytes:
    parts, room = [], LARGEST_BODY
    for _ in range(_MEMBERS):
        if not data or room <= 0:
            break
        member = zlib.decompressobj(31)
        part = member.decompress(data, room)
        parts.append(part)
        room -= len(part)
        data = member.unused_data
    return b"".join(parts)


def _unbrotlied(data: bytes) -> bytes:
    module = _brotli()
    if module is None:
        raise ValueError("br")
    made: Any = module.Decompressor()
    parts, size = [], 0
    try:
        part: bytes = made.process(data, output_buffer_limit=_WINDOW)
        while part:
            parts.append(part)
            size += len(part)
            if size >= LARGEST_BODY or made.is_finished():
                break
            part = made.process(b"", output_buffer_limit=_WINDOW)
    except module.error as exc:
        raise ValueError(str(exc)) from exc
    return b"".join(parts)


_drivers: Final[dict[str, ModuleType | None]] = {}


def _brotli() -> ModuleType | None:
    if "brotli" not in _drivers:
        try:
            _drivers["brotli"] = importlib.import_module("brotli")
        except ImportError:
            _drivers["brotli"] = None
            log.warning(
                "bodies with Content-Encoding br are left out: "
                "install tyk-pump[resurface]"
            )
    return _drivers["brotli"]


def _unchunked(data: bytes) -> tuple[bytes, int | None]:
    """Return what chunks hold, and the end of the last one's line if it is there."""
    parts: list[bytes] = []
    at = 0
    while found := _SIZE.match(data, at):
        size = int(found[1], 16)
        at = found.end()
        if size == 0:
            return b"".join(parts), at
        parts.append(data[at : at + size])
        at += size
        at += 2 if data.startswith(b"\r\n", at) else data.startswith(b"\n", at)
    # Cut, or the header does not tell the truth.
    return (b"".join(parts), None) if parts else (data, None)
