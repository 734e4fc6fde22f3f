"""ULIDs: names that sort by the time at which they were made."""

from __future__ import annotations

import secrets
import time
from functools import lru_cache
from hashlib import blake2b

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def ulid(now: float | None = None) -> str:
    """Return 26 characters: 48 bits of milliseconds, then 80 random bits."""
    milliseconds = int((time.time() if now is None else now) * 1000)
    value = milliseconds << 80 | secrets.randbits(80)
    return "".join(_ALPHABET[value >> shift & 31] for shift in range(125, -1, -5))


def ulid_of(name: str) -> str:
    """Return the ULID that stands for a name, the same each time.

    It has the time of the ULID that the name begins with, if it begins with one.
    """
    # 64 bits of 80, for digits of a hexadecimal number are characters of ours.
    digest = blake2b(name.encode(), digest_size=8).hexdigest()
    return _time_of(name[:10]) + digest.upper()


@lru_cache(maxsize=64)
def _time_of(name: str) -> str:
    if len(name) == 10 and name[0] <= "7" and set(name) <= set(_ALPHABET):
        return name
    return _ALPHABET[0] * 10


def ulid_time(name: str) -> float:
    """Return the seconds since the epoch that a ULID was made at."""
    value = 0
    for character in name[:10]:
        value = value << 5 | _ALPHABET.index(character)
    return value / 1000
