"""Which Redis keys there are: the gateway's lists, our claims, and their hash slots."""

from __future__ import annotations

import msgspec

BASE = "tyk-system-analytics"
VERSION_KEY = "version-check-pump"
"""Holds the version of the pump that started last; it is under no prefix."""
SHARDS = 10
UPTIME_PREFIX = "host-checker:"
"""What the name of the uptime list begins with, whatever the operator's prefix is."""
UPTIME_LIST = f"{UPTIME_PREFIX}tyk-uptime-analytics"
UPTIME_CODEC = "uptime"
_CODECS = (("", "msgpack"), ("_protobuf", "protobuf"))


class ListName(msgspec.Struct, frozen=True):
    """A list that a gateway pushes to, and how its records are encoded."""

    key: str
    codec: str

    @property
    def uptime(self) -> bool:
        """True for what is owed to the uptime pump, and to no other."""
        return self.codec == UPTIME_CODEC


def lists(prefix: str, *, uptime: bool = False) -> list[ListName]:
    """Return the 22 lists in the order in which they are looked at, uptime's last."""
    shards = ["", *(f"_{number}" for number in range(SHARDS))]
    found = [
        ListName(f"{prefix}{BASE}{shard}{suffix}", codec)
        for shard in shards
        for suffix, codec in _CODECS
    ]
    return [*found, ListName(UPTIME_LIST, UPTIME_CODEC)] if uptime else found


def hash_tag(key: str) -> str | None:
    """Return the part of a key that decides its slot, None when that is the whole."""
    start = key.find("{")
    if start < 0:
        return None
    end = key.find("}", start + 1)
    return key[start + 1 : end] if end > start + 1 else None


def claim_key(prefix: str, list_key: str, name: str) -> str:
    """Return the name of a claim of a list, in the list's own hash slot.

    Where no name can have that slot the plain form is used: it is good for all but
    a cluster, which refuses such a prefix (see `prefix_fault`).
    """
    if list_key == UPTIME_LIST:
        prefix = UPTIME_PREFIX
    plain = f"{list_key}:claim:{name}"
    if hash_tag(list_key) is not None:
        return plain
    # The braces go behind the prefix, so that an ACL for the prefix covers the claim.
    for tagged in (f"{prefix}{{{list_key}}}", f"{{{list_key}}}"):
        if hash_tag(tagged) == list_key:
            return f"{tagged}:claim:{name}"
    return plain


def prefix_fault(prefix: str, cluster: bool) -> str | None:
    """Return why a prefix cannot be used, or None."""
    if not cluster:
        return None
    key = prefix + BASE
    claim = claim_key(prefix, key, "x")
    wanted = hash_tag(key) or key
    if (hash_tag(claim) or claim) == wanted:
        return None
    return (
        f"key_prefix {prefix!r}: in a cluster no other key can stand in the slot of"
        f" {key!r}; use a prefix without braces or with a whole hash tag"
    )


def acl_patterns(prefix: str, *, uptime: bool = False) -> list[str]:
    """Return the key patterns that our user needs in an ACL."""
    patterns = [f"~{_escaped(prefix)}*", f"~{VERSION_KEY}"]
    claim = claim_key(prefix, prefix + BASE, "x")
    if not claim.startswith(prefix):
        patterns.append(f"~{{{_escaped(prefix)}*")
    if uptime:
        # Not all below its prefix: the gateway keeps other things there.
        claims = claim_key(prefix, UPTIME_LIST, "*")
        patterns += [f"~{UPTIME_LIST}", f"~{claims}"]
    return patterns


def acl_commands() -> str:
    """Return the commands that our user needs in an ACL."""
    names = (
        "ping hello auth select info cluster client command readonly multi exec watch"
        " unwatch set get exists pexpire persist unlink hset hsetnx hget hgetall hdel"
        " llen lrange lindex ltrim lpush renamenx"
    )
    return " ".join(f"+{name}" for name in names.split())


def _escaped(text: str) -> str:
    return "".join("\\" + c if c in "*?[]\\" else c for c in text)
