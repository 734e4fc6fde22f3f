"""ULIDs: names that sort by the time at which they were made."""

from __future__ import annotations

import secrets
import time

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def ulid(now: float | None = None) -> str:
    """Return 26 characters: 48 bits of milliseconds, then 80 random bits."""
    milliseconds = int((time.time() if now is None else now) * 1000)
    value = milliseconds << 80 | secrets.randbits(80)
    return "".join(_ALPHABET[value >> shift & 31] for shift in range(125, -1, -5))


def ulid_time(name: str) -> float:
    """Return the seconds since the epoch that a ULID was made at."""
    value = 0
    for character in name[:10]:
        value = value << 5 | _ALPHABET.index(character)
    return value / 1000
