"""Claims looked after by commands, while no instance holds them.

`claims list` shows them, `return` pushes them back for another consumer, `adopt` lets
the next living instance take a stream, `forget` drops a removed pump's cursors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from tyk_pump import cursors
from tyk_pump.errors import ConfigError
from tyk_pump.source.claims import (
    CLAIM,
    FINISHED_SECONDS,
    HOLDER,
    MAKER,
    PUMP,
    Claim,
    Keys,
    Progress,
    pack,
    pairs,
    raise_first,
    text,
    unpack,
)
from tyk_pump.source.lists import claim_key
from tyk_pump.source.redis import Command, Link, length_of
from tyk_pump.ulid import ulid_time


class ClaimLine(msgspec.Struct):
    """One claim as `claims list` shows it."""

    stream: str
    owner: str
    alive: bool
    name: str
    list: str
    codec: str
    key: str
    at: float
    base: int
    length: int
    left: int
    """Records still in the key."""
    cursors: dict[str, int]


def list_claims(link: Link, prefix: str) -> Sequence[ClaimLine]:
    """Return every claim of every stream, the oldest first."""
    keys = Keys(prefix)
    lines: list[ClaimLine] = []
    (streams,) = _checked(link, [("HGETALL", keys.streams)])
    for raw_name, raw_owner in sorted(pairs(streams).items()):
        name, owner = text(raw_name), text(raw_owner)
        alive = _lives(link, keys, owner)
        (fields,) = _checked(link, [("HGETALL", keys.stream(name))])
        cursors: dict[str, int] = {}
        claims: list[tuple[str, Claim]] = []
        for raw_field, raw in pairs(fields).items():
            field = text(raw_field)
            if field.startswith(PUMP):
                progress: Progress = unpack(raw, Progress)
                cursors[field[len(PUMP) :]] = progress.position
            elif field.startswith(CLAIM):
                claims.append((field[len(CLAIM) :], unpack(raw, Claim)))
        claims.sort(key=lambda item: item[1].base)
        commands = [("LLEN", claim.key) for _, claim in claims]
        lengths = map(length_of, link.execute(commands))
        for (claim_name, claim), left in zip(claims, lengths, strict=True):
            lines.append(
                ClaimLine(
                    stream=name,
                    owner=owner,
                    alive=alive,
                    name=claim_name,
                    list=claim.list,
                    codec=claim.codec,
                    key=claim.key,
                    at=claim.at or ulid_time(claim_name),
                    base=claim.base,
                    length=claim.length,
                    left=left,
                    cursors=cursors,
                )
            )
    return lines


class StreamLine(msgspec.Struct):
    """A stream as it stands in Redis: its owner, its claims, its cursors."""

    owner: str
    claims: dict[str, Claim]
    progress: dict[str, Progress]
    holders: set[str] = msgspec.field(default_factory=set)
    """Names of the instances that have held it."""
    maker: str = ""
    """Name of the one that has claimed it."""


def list_streams(link: Link, prefix: str) -> dict[str, StreamLine]:
    """Return every stream; intents are left out, nobody is owed them yet."""
    keys = Keys(prefix)
    (reply,) = _checked(link, [("HGETALL", keys.streams)])
    owners = {text(name): text(owner) for name, owner in pairs(reply).items()}
    replies = _checked(link, [("HGETALL", keys.stream(name)) for name in owners])
    return {
        name: read_stream(owner, {text(f): v for f, v in pairs(reply).items()})
        for (name, owner), reply in zip(owners.items(), replies, strict=True)
    }


def read_stream(owner: str, fields: Mapping[str, bytes]) -> StreamLine:
    """Return a stream from the fields of its hash."""
    line = StreamLine(owner, {}, {})
    for field, raw in fields.items():
        if field.startswith(HOLDER):
            line.holders.add(field[len(HOLDER) :])
            if raw == MAKER:
                line.maker = field[len(HOLDER) :]
        elif field.startswith(PUMP):
            line.progress[field[len(PUMP) :]] = unpack(raw, Progress)
        elif field.startswith(CLAIM):
            claim: Claim = unpack(raw, Claim)
            if claim.base >= 0:
                line.claims[field[len(CLAIM) :]] = claim
    return line


class Leftover(msgspec.Struct):
    """Records of one frame on a disk that a pump is still owed."""

    claim: str
    list: str
    first: int
    records: Sequence[bytes]


class Left(Protocol):
    """A stream's part that is on the disk of the instance that returns its claims."""

    kept: int
    """Where it ends; what Redis has before that is on the disk as well."""

    def leftovers(self) -> Iterator[Leftover]:
        """Yield what is owed, the last frame first."""

    def returned(self) -> None:
        """All of it is back in the lists."""


def return_claims(
    link: Link, prefix: str, disk: Mapping[str, Left] | None = None
) -> dict[str, int]:
    """Push what is claimed back to the head of the lists; return how many, by list.

    For a return to another consumer, with nobody running: pumps that had settled a
    part of it get that part again. `disk` is what of each stream is on our disk.
    Broken off, it may be called again.
    """
    keys = Keys(prefix)
    returned: dict[str, int] = {}
    (streams,) = _checked(link, [("HGETALL", keys.streams)])
    for raw_name, raw_owner in pairs(streams).items():
        if _lives(link, keys, text(raw_owner)):
            raise ConfigError(
                f"stream {text(raw_name)} is held by the running instance"
                f" {text(raw_owner)}: stop it first"
            )
    parts = disk or {}
    lines: dict[str, list[ClaimLine]] = {name: [] for name in parts}
    for line in list_claims(link, prefix):
        lines.setdefault(line.stream, []).append(line)
        if line.stream in parts:
            _drop_copied(link, line, parts[line.stream].kept)
    marks: list[str] = []
    # The newest first: each goes in front of what was pushed before it.
    for name, claims in sorted(lines.items(), reverse=True):
        for line in reversed(claims):
            _count(returned, line.list, _give_back(link, keys, line))
        if name in parts:
            for one in parts[name].leftovers():
                mark = claim_key(prefix, one.list, f"{one.claim}:returned")
                marks.append(mark)
                _count(returned, one.list, _push_back(link, one, mark))
    for raw_name in pairs(streams):
        name = text(raw_name)
        note = ("SET", keys.finished(name), "returned", "EX", FINISHED_SECONDS)
        commands = [("UNLINK", keys.stream(name)), ("HDEL", keys.streams, name)]
        _checked(link, [note, *commands])
    for part in parts.values():
        part.returned()
    _checked(link, [("UNLINK", mark) for mark in dict.fromkeys(marks)])
    return returned


def _count(returned: dict[str, int], name: str, count: int) -> None:
    if count:
        returned[name] = returned.get(name, 0) + count


def _drop_copied(link: Link, line: ClaimLine, kept: int) -> None:
    """Trim a claim to what is not on the disk, as its owner would have."""
    copied = kept - (line.base + line.length - line.left)
    if line.base >= 0 and copied > 0:
        _checked(link, [("LTRIM", line.key, copied, -1)])


def _push_back(link: Link, one: Leftover, mark: str) -> int:
    """Push records of the disk; the mark says, in the same step, how far that is."""
    (reply,) = _checked(link, [("HGET", mark, "first")])
    if reply is not None and int(reply) <= one.first:
        return 0
    replies = link.execute(
        [
            ("LPUSH", one.list, *reversed(one.records)),
            ("HSET", mark, "first", one.first),
        ],
        atomic=True,
    )
    raise_first(replies)
    return len(one.records)


def _give_back(link: Link, keys: Keys, line: ClaimLine) -> int:
    # An intent from here on: should we die on the way, what is left is a list whose
    # records have no numbers.
    intent = Claim(line.list, line.codec, line.key, at=line.at)
    field = CLAIM + line.name
    _checked(link, [("HSET", keys.stream(line.stream), field, pack(intent))])
    count = 0
    while True:
        # From the tail, so that each chunk goes in front of the one before.
        (records,) = _checked(link, [("LRANGE", line.key, -500, -1)])
        if not records:
            return count
        replies = link.execute(
            [
                ("LPUSH", line.list, *reversed(records)),
                ("LTRIM", line.key, 0, -len(records) - 1),
            ],
            atomic=True,
        )
        raise_first(replies)
        count += len(records)


def adopt_stream(link: Link, prefix: str, stream: str) -> None:
    """Clear a stream's owner, so that the next living instance adopts it."""
    keys = Keys(prefix)
    (owner,) = _checked(link, [("HGET", keys.streams, stream)])
    if owner is None:
        raise ConfigError(f"there is no stream {stream}")
    if _lives(link, keys, text(owner)):
        raise ConfigError(f"stream {stream} is held by the living {text(owner)}")
    link.compare_and_set(keys.streams, stream, owner, "")


def forget_pump(link: Link, prefix: str, pump: str) -> list[str]:
    """Remove a pump's cursors from all streams; return the streams."""
    keys = Keys(prefix)
    (streams,) = _checked(link, [("HGETALL", keys.streams)])
    forgotten: list[str] = []
    for raw_name in pairs(streams):
        name = text(raw_name)
        (fields,) = _checked(link, [("HGETALL", keys.stream(name))])
        mine = [
            field
            for field in map(text, pairs(fields))
            if field.startswith(PUMP) and cursors.is_of(field[len(PUMP) :], pump)
        ]
        if mine:
            _checked(link, [("HDEL", keys.stream(name), *mine)])
            forgotten.append(name)
    return forgotten


def _lives(link: Link, keys: Keys, owner: str) -> bool:
    if not owner:
        return False
    return bool(_checked(link, [("EXISTS", keys.lease(owner))])[0])


def _checked(link: Link, commands: Sequence[Command]) -> list[Any]:
    replies = link.execute(commands)
    raise_first(replies)
    return replies
