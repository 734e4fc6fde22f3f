"""ULIDs: names that sort by the time at which they were made."""

from __future__ import annotations

import secrets
import time
from base64 import b32encode
from hashlib import blake2b

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_CROCKFORD = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", _ALPHABET.encode())


def ulid(now: float | None = None) -> str:
    """Return 26 characters: 48 bits of milliseconds, then 80 random bits."""
    milliseconds = int((time.time() if now is None else now) * 1000)
    value = milliseconds << 80 | secrets.randbits(80)
    return "".join(_ALPHABET[value >> shift & 31] for shift in range(125, -1, -5))


def ulid_of(name: str) -> str:
    """Return the ULID that stands for a name, the same each time.

    It has the time of the ULID that the name begins with, if it begins with one.
    """
    digest = b32encode(blake2b(name.encode(), digest_size=10).digest())
    made = name[:10]
    if len(made) < 10 or made.strip(_ALPHABET) or made[0] > "7":
        made = "0000000000"
    return made + digest.translate(_CROCKFORD).decode()


def ulid_time(name: str) -> float:
    """Return the seconds since the epoch that a ULID was made at."""
    value = 0
    for character in name[:10]:
        value = value << 5 | _ALPHABET.index(character)
    return value / 1000
