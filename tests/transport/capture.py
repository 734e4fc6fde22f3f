"""What the reference's client and server said to each other, byte by byte.

`hybrid-capture.txt.xz` is a listing for people: streams in hexadecimal, and below each
piece the values in it. Long values and some streams are cut short there.
"""

from __future__ import annotations

import functools
import json
import lzma
import re
from pathlib import Path
from typing import Any

import msgspec

FILE = Path(__file__).with_name("hybrid-capture.txt.xz")
_PIECE = re.compile(r"conn (\d+)  ([CS])>[CS] (deflate )?bytes")
_HEX = re.compile(r"    [0-9a-f]+")


class Piece(msgspec.Struct):
    """What one side sent at once."""

    exchange: str
    connection: int
    upwards: bool
    """From the client to the server."""
    sent: bytes = b""
    """As it was on the wire; empty where it was not compressed."""
    frames: bytes = b""
    """The gob messages in it."""
    values: list[Any] = []
    """The values in them; cut short where they have `...<`."""
    whole: bool = True
    """False where the listing leaves bytes out."""

    @property
    def shown(self) -> bool:
        """Say whether bytes and values are all there."""
        return self.whole and "...<" not in json.dumps(self.values)


@functools.cache
def text() -> str:
    """Return the listing."""
    return lzma.decompress(FILE.read_bytes()).decode()


@functools.cache
def pieces() -> tuple[Piece, ...]:
    """Return all pieces, in order."""
    found: list[Piece] = []
    exchange, in_frames = "", False
    for line in text().partition("PAYLOADS")[0].splitlines():
        if line.startswith("EXCHANGE "):
            exchange = line.split()[1]
        elif match := _PIECE.match(line):
            number, side, _ = match.groups()
            found.append(Piece(exchange, int(number), side == "C"))
            in_frames = False
        elif line.startswith("  gob frames"):
            in_frames = True
        elif line.startswith("  = "):
            found[-1].values.append(json.loads(line[4:]))
        elif _HEX.fullmatch(line):
            data = bytes.fromhex(line.strip())
            if in_frames:
                found[-1].frames += data
            else:
                found[-1].sent += data
        elif found and line.startswith("    ") and not line.startswith("    ("):
            found[-1].whole = False
    return tuple(found)


def streams(*, upwards: bool) -> dict[str, list[Piece]]:
    """Return the pieces of one direction by exchange and connection."""
    made: dict[str, list[Piece]] = {}
    for piece in pieces():
        if piece.upwards == upwards:
            made.setdefault(f"{piece.exchange}{piece.connection}", []).append(piece)
    return made


def payload(function: str) -> str:
    """Return an argument that the listing has in full."""
    lines = text().partition("PAYLOADS")[2].splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith(f"{function} ("))
    return lines[at + 1]
