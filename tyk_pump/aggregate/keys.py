"""Texts of a record -> keys of counters, and keys -> names that BSON can hold."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Sequence
from typing import Final


def hashed(text: str) -> str:
    """Return what the reference calls a hash: Base64 without its padding."""
    return b64encode(_utf8(text)).decode().rstrip("=")


def versions_key(api_id: str, version: str) -> str:
    """Return the key of a version of an API."""
    return hashed(f"{api_id}:{version}")


def path_key(api_id: str, path: str) -> str:
    """Return the inner key of an API's path, below an API key or OAuth client."""
    return hashed(f"{api_id}:{path}")


def endpoint_key(path: str) -> str:
    """Return the key of a path: dots as the four characters `\\u2e`."""
    return path.replace(".", "\\u2e")


def api_endpoint_key(api_id: str, version: str, path: str) -> str:
    """Return the key of a path in a version of an API."""
    return _utf8(f"{api_id}:{version}:{path}").hex()


def kept_tags(tags: Iterable[str], ignored_prefixes: Sequence[str]) -> list[str]:
    """Return the tags that are counted, cleaned; one listed twice counts twice."""
    ignored = ("key-", *ignored_prefixes)
    kept = []
    for tag in tags:
        # The prefix is looked for in the tag as it came.
        if not tag.startswith(ignored):
            cleaned = tag.strip(_SPACES).replace(".", "")
            if cleaned:
                kept.append(cleaned)
    return kept


def bson_name(key: str) -> str:
    """Return a key as the name of a BSON field; each key has its own name.

    A dot would nest the counter, a leading dollar, an empty name and NUL are refused.
    `\\u2e` stays: the keys of endpoints have it already. See `bson_key`.
    """
    if not key:
        return "%"
    return _UNSAFE.sub(_escape, key) if _UNSAFE.search(key) else key


def bson_key(name: str) -> str:
    """Return the key of a name that `bson_name` has given."""
    return "" if name == "%" else _ESCAPE.sub(lambda m: chr(int(m[1], 16)), name)


# What Unicode and Go take for white space; Python's strip has \x1c to \x1f as well.
_SPACES: Final = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008"
    "\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
)
_UNSAFE: Final = re.compile(r"[.\x00]|^\$|%(?=2E|24|00|25)|^%\Z")
_ESCAPE: Final = re.compile(r"%(2E|24|00|25)")


def _escape(found: re.Match[str]) -> str:
    # Like a URL's, but only where it must be: "%" itself is escaped where it would
    # else be read as the begin of an escape, or as the name of the empty key.
    return f"%{ord(found[0]):02X}"


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
