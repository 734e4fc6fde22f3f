"""Streams of claims: claim a list in one step, read it, trim it, adopt, give back.

The records that one coordinator claims in its life are one stream, named by a ULID.
Its claims continue each other's numbering, and each pump has a cursor in it. Uptime
reports are a stream of their own: what a pump has no cursor in, it is not owed. All of
this stands in Redis, under the operator's key prefix:

    tyk-pump:streams          hash: stream -> owner ("" when given back)
    tyk-pump:stream:<stream>  hash: claim:<ulid> -> the claim, pump:<field> -> cursor,
                              holder:<instance name> of all that have held it
    tyk-pump:lease:<owner>    a living owner; owner = instance name # incarnation
    tyk-pump:instances        hash: instance name -> incarnation that started last
    tyk-pump:finished:<stream>  who finished a stream that others had held; it expires
    {<list>}:claim:<ulid>     a claimed list, in the list's own hash slot

Nothing is assumed about a command whose answer was lost. An intent is written before a
list is renamed; whether that happened is asked with SET NX on the claim's name: either
the list is there, or a tombstone has the name now and no late RENAMENX can take it. An
intent has not been read by anybody: an adopter claims its list anew, with own numbers.
Base and length are written before the first read, and a claim's field leaves the
stream's hash only after its key is gone. A Redis without memory refuses a note: then it
is in the state file, and the intent leaves Redis before the first read, so that nobody
else gives the list numbers. No later claim and no cursor goes to Redis before it.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import logging
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NoReturn, Protocol

import msgspec
from redis.exceptions import ResponseError

from tyk_pump import __version__, cursors
from tyk_pump.clock import Clock
from tyk_pump.cursors import Counts
from tyk_pump.errors import ConfigError, LeaseLost, SourceError, StateError
from tyk_pump.source.lists import (
    UPTIME_CODEC,
    VERSION_KEY,
    ListName,
    claim_key,
    lists,
)
from tyk_pump.source.redis import (
    Command,
    Link,
    length_of,
    out_of_memory,
    wrong_type,
)
from tyk_pump.ulid import ulid

log = logging.getLogger(__name__)

TOMBSTONE_SECONDS = 7 * 86400
"""How long a name stays taken that a frozen instance might still want to use."""
LOOK_BACK = 100
"""How many of a list's last claims are looked for before the list is claimed again."""
CLAIM = "claim:"
PUMP = "pump:"
HOLDER = "holder:"
"""Field of a stream's hash: an instance that has held it once."""
MAKER = b"made"
"""Value of that field for the instance whose claims they are from the beginning."""
FINISHED_SECONDS = 30 * 86400
"""How long it is known of a stream that it was finished, and did not vanish."""


class FieldBook(Protocol):
    """Keeps fields of a stream's hash while Redis has no memory for them."""

    def put(self, stream: str, fields: Mapping[str, bytes]) -> None:
        """Keep fields durably."""

    def pending(self) -> dict[str, dict[str, bytes]]:
        """Return the kept fields by stream."""

    def clear(self, stream: str, fields: Iterable[str]) -> None:
        """Forget fields that Redis has now."""


class Shelf(Protocol):
    """Knows which positions of a stream do not wait in Redis any more."""

    def kept(self, stream: str) -> int:
        """Return the position up to which the stream was copied to our disk."""

    def reached(self, stream: str, field: str) -> int:
        """Return where our disk says that a cursor is: nobody else knows it better."""


class Claim(msgspec.Struct, array_like=True):
    """One claimed list, or a part of one: positions `base` to `base + length`.

    `offset` and `total` are positions in the key as it was when claimed: a record is
    addressed from the tail, because a claim never grows and is trimmed at its head.
    A `base` below 0 is an intent: the key may exist or not. `head` and `tail` are
    digests of its first and last record: a Redis with older data may have the list
    again, whole or in part, with other records behind.
    """

    list: str
    codec: str
    key: str
    base: int = -1
    length: int = -1
    at: float = 0.0
    head: bytes = b""
    offset: int = 0
    total: int = -1
    tail: bytes = b""

    @property
    def end(self) -> int:
        """Position behind the last record."""
        return self.base + self.length

    def index(self, position: int) -> int:
        """Return the position's index from the tail of the key: a negative number."""
        return position - self.base + self.offset - self.total


class Progress(msgspec.Struct, array_like=True):
    """How far a pump has settled a stream, and what it did not deliver.

    `counts` is what became of the positions from `since` on: where the claim in hand
    begins, or where the cursor began in the middle of one. They move in one HSET with
    the cursor. Fields that are absent were written by an older version.
    """

    position: int = 0
    filtered: int = 0
    dead: int = 0
    since: int = -1
    counts: Counts = msgspec.field(default_factory=Counts)

    def __post_init__(self) -> None:
        """Count from where the cursor stands when nothing else is known."""
        if self.since < 0:
            self.since = self.position

    def go_behind(self, position: int) -> None:
        """Move to a position if that is further: another cursor knows of the rest."""
        if max(self.position, self.since) <= position and self.since < position:
            self.position = self.since = position
            self.counts = Counts()


class Stream(msgspec.Struct):
    """A stream that we own."""

    id: str
    own: bool
    """True for the one that we claim into."""
    uptime: bool = False
    """True where the claims are uptime reports; no stream has both."""
    claims: dict[str, Claim] = msgspec.field(default_factory=dict)
    """Noted and not finished, by name, in the order of their numbering."""
    intents: dict[str, Claim] = msgspec.field(default_factory=dict)
    end: int = 0
    trimmed: int = 0
    hole: int = 0
    """Up to where claims are missing that pumps were owed: they go over that first."""
    progress: dict[str, Progress] = msgspec.field(default_factory=dict)
    settled: dict[str, bytes] = msgspec.field(default_factory=dict)
    """Cursors as they were settled last: beyond that nothing may be written."""
    maker: str = ""
    """Name of the instance that claimed it, where that is known."""
    adopted: bool = False
    """True when another instance has claimed it, as far as that can be told."""
    raised: dict[str, int] = msgspec.field(default_factory=dict)
    """Where cursors stood that were behind what is trimmed, before they were moved."""
    registered: bool = True
    """False when Redis is to be told of the stream (again)."""
    holders: frozenset[str] = frozenset()
    """Names of the instances that have held it, as far as they wrote it down."""
    shared: bool = False
    """True when another instance than we may have settled a part of it."""
    disk: bool = False
    """True for a stream's part in the state file: its claims have no keys in Redis."""
    gaps: list[tuple[int, int]] = msgspec.field(default_factory=list)
    """From where to where nothing of such a part is ours: others had the stream."""

    def find(self, position: int) -> tuple[str, Claim] | None:
        """Return the first claim, with its name, that ends behind a position.

        By bisection: a pump that is dead for a day leaves ten thousands of claims.
        """
        claims = list(self.claims.items())
        at = bisect.bisect_right(claims, position, key=lambda item: item[1].end)
        return claims[at] if at < len(claims) else None


class Window(msgspec.Struct):
    """Neighbouring records of one claim; or `lost` positions that Redis lost."""

    stream: str
    list: str
    codec: str
    first: int
    records: Sequence[bytes]
    lost: int = 0


class Look(msgspec.Struct):
    """What one round found: lengths before the claims, records claimed, adoptions."""

    lengths: dict[str, int]
    claimed: int
    adopted: Sequence[str]


class Keys:
    """The names of our own keys under a prefix."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.streams = f"{prefix}tyk-pump:streams"
        self.instances = f"{prefix}tyk-pump:instances"

    def finished(self, stream: str) -> str:
        """Return the key of the note that somebody has finished a stream."""
        return f"{self.prefix}tyk-pump:finished:{stream}"

    def stream(self, name: str) -> str:
        """Return the key of a stream's hash."""
        return f"{self.prefix}tyk-pump:stream:{name}"

    def lease(self, owner: str) -> str:
        """Return the key that lives as long as the owner does."""
        return f"{self.prefix}tyk-pump:lease:{owner}"


class Source:
    """The claims of one incarnation of one instance."""

    def __init__(
        self,
        link: Link,
        *,
        prefix: str,
        name: str,
        incarnation: str,
        previous: str = "",
        lease_time: float,
        fields: Sequence[str],
        book: FieldBook,
        shelf: Shelf,
        clock: Clock,
    ) -> None:
        self.streams: dict[str, Stream] = {}
        self.lease_end = -math.inf
        self.owner = f"{name}#{incarnation}"
        self._name = name
        self._incarnation = incarnation
        self._previous = f"{name}#{previous}" if previous else ""
        # The lock on the state folder proves that nobody else is the previous one.
        self._owners = {self.owner, self._previous} - {""}
        self._link = link
        self._keys = Keys(prefix)
        self._prefix = prefix
        self._lease_time = lease_time
        self._fields = list(dict.fromkeys(fields))
        self._book = book
        self._shelf = shelf
        self._clock = clock
        self._leased = False
        self._foreign: list[str] = []  # owners seen at the last look
        self.owners: dict[str, str] | None = None
        """Owner of each stream at the last look; None before the first one."""
        self.sought: Collection[str] = ()
        """Streams of which somebody wants to know what became of them."""
        self.finished: dict[str, str] = {}
        """Those that Redis does not have: who finished them, "" where nobody did."""
        self._owed: dict[str, dict[str, bytes]] = {}  # refused for want of memory
        self._booked: set[str] = set()  # streams that the state file has fields of
        self._unsure: set[str] = set()  # fields that may still be removed
        self._own: dict[bool, Stream] = {}  # by whether it is of uptime reports
        self._rounds = 0
        self._missing: dict[str, int] = {}  # claim -> round in which it was missed
        self._left: set[str] = set()  # orphans that are for others to adopt
        self.take_uptime(any(map(cursors.of_uptime, fields)))

    # The lease

    def start(self) -> None:
        """Take the lease, and back what our previous incarnation held."""
        keys = self._keys
        began = self._clock.monotonic()
        held, streams = self._ask(
            [("HGET", keys.instances, self._name), ("HGETALL", keys.streams)]
        )
        owners = {text(owner) for owner in pairs(streams).values()}
        rivals = {o for o in owners if o.startswith(f"{self._name}#")}
        if held is not None:
            rivals.add(f"{self._name}#{text(held)}")
        rivals -= {self.owner, self._previous}
        self._refuse_rivals(sorted(rivals))
        self._take_lease(began)
        commands: list[Command] = [("SET", VERSION_KEY, __version__)]
        if self._leased:
            commands.append(
                ("HSET", keys.instances, self._name, self._incarnation),
            )
        for reply in self._link.execute(commands):
            if isinstance(reply, ResponseError) and not out_of_memory(reply):
                log.warning("Redis refused a key", extra={"reason": str(reply)})
        self._booked = set(self._book.pending())
        self._move_book()
        self._take_back(pairs(streams))

    def _refuse_rivals(self, rivals: Sequence[str]) -> None:
        alive = self._ask([("EXISTS", self._keys.lease(o)) for o in rivals])
        for owner, lives in zip(rivals, alive, strict=True):
            if lives:
                raise ConfigError(
                    f"instance_name: another living instance is named {self._name!r}"
                    f" (incarnation {owner.partition('#')[2]})"
                )

    def _take_lease(self, began: float) -> None:
        milliseconds = int(self._lease_time * 1000)
        key = self._keys.lease(self.owner)
        (reply,) = self._link.execute(
            [("SET", key, self._incarnation, "NX", "PX", milliseconds)]
        )
        if isinstance(reply, ResponseError) and not out_of_memory(reply):
            raise SourceError(f"Redis: {reply}")
        # Without memory Redis takes no lease, and nobody can adopt anything either.
        # A lease that exists is ours: the incarnation is in its name.
        self._leased = not isinstance(reply, ResponseError)
        self.lease_end = began + self._lease_time

    def _take_back(self, streams: Mapping[bytes, bytes]) -> None:
        if not self._previous:
            return
        for raw_name, raw_owner in streams.items():
            name, owner = text(raw_name), text(raw_owner)
            if owner not in self._owners or name in self.streams:
                continue
            if owner == self.owner or self._take_over(name, owner):
                self._keep(self._load(name))
        if self._leased:
            self._link.execute([("UNLINK", self._keys.lease(self._previous))])

    def _take_over(self, stream: str, owner: str) -> bool:
        """Become the owner in our previous name's place; False if another was faster.

        Without memory for a new owner's name the old one does: it is ours too, and
        reading and trimming is what makes room again.
        """
        if self._set_owner(stream, owner):
            return True
        (found,) = self._ask([("HGET", self._keys.streams, stream)])
        return found is not None and text(found) in self._owners

    def _set_owner(self, stream: str, owner: str) -> bool:
        keys = self._keys
        return self._link.compare_and_set(
            keys.streams, stream, owner.encode(), self.owner
        )

    def renew(self) -> None:
        """Renew the lease; LeaseLost when it is gone."""
        began = self._clock.monotonic()
        if not self._leased:
            self._take_lease(began)
            return
        (reply,) = self._ask([self._renewal()])
        self._renewed(reply, began)

    def _renewal(self) -> Command:
        # PEXPIRE and not SET: it passes when Redis is out of memory.
        key = self._keys.lease(self.owner)
        return ("PEXPIRE", key, int(self._lease_time * 1000))

    def _renewed(self, reply: Any, began: float) -> None:
        if self._leased and not reply:
            raise LeaseLost("the lease in Redis is gone")
        self.lease_end = began + self._lease_time

    def take_uptime(self, wanted: bool) -> None:
        """Say whether there is an uptime pump; without one its list is left alone."""
        self._uptime = wanted
        self._lists = lists(self._prefix, uptime=wanted)
        self._left.clear()

    # One round

    def round(self) -> Look:
        """Renew the lease, claim what has come, adopt what nobody owns."""
        self._rounds += 1
        began = self._clock.monotonic()
        if not self._leased:
            self._take_lease(began)
        foreign = list(self._foreign)
        replies = self._ask(
            [
                self._renewal(),
                ("HGETALL", self._keys.streams),
                *(("EXISTS", self._keys.lease(owner)) for owner in foreign),
                *(("LLEN", one.key) for one in self._lists),
            ],
            tolerant=True,
        )
        renewal, streams, *rest = replies
        for reply in (renewal, streams, *rest[: len(foreign)]):
            if isinstance(reply, ResponseError):
                raise SourceError(f"Redis: {reply}")
        self._renewed(renewal, began)
        owners = {text(k): text(v) for k, v in pairs(streams).items()}
        self._compare_owners(owners)
        self._look_for_finished(owners)
        self.owners = owners
        alive = dict(zip(foreign, rest, strict=False))
        rest = rest[len(foreign) :]
        self._move_book()
        self._register_again()
        if any(self._owed.values()):
            self.settle({}, {})  # nothing else may move for a long time
        claimed = self._resolve_all()
        lengths = self._lengths(rest)
        waiting = [one for one in self._lists if lengths.get(one.key)]
        claimed += self._claim_all([(one.key, one) for one in waiting])
        adopted = self._adopt_orphans(owners, alive)
        if adopted:
            claimed += self._resolve_all()
        return Look(lengths, claimed, adopted)

    def _look_for_finished(self, owners: Mapping[str, str]) -> None:
        """Ask after streams that are gone; a note is older than the going."""
        gone = [name for name in self.sought if name not in owners]
        self.finished = finished(self._link, self._keys, gone)

    def _compare_owners(self, owners: Mapping[str, str]) -> None:
        unknown = [one for one in self.streams.values() if one.id not in owners]
        gone = [stream for stream in unknown if self._is_finished(stream)]
        if gone:
            self._leave_gone(*gone)
        for stream in list(self.streams.values()):
            owner = owners.get(stream.id)
            if owner is None:
                # Redis came back with older data: it is told of our stream again.
                stream.registered = stream.registered and not self._leased
            elif owner not in self._owners:
                raise LeaseLost(f"stream {stream.id} has another owner")
            elif owner != self.owner and self._leased:
                self._set_owner(stream.id, owner)

    def _lengths(self, replies: Sequence[Any]) -> dict[str, int]:
        lengths: dict[str, int] = {}
        for one, reply in zip(self._lists, replies, strict=True):
            if isinstance(reply, ResponseError):
                log.error(
                    "list cannot be read", extra={"list": one.key, "reason": str(reply)}
                )
            else:
                lengths[one.key] = int(reply)
        return lengths

    # Claiming

    def _claim_all(self, sources: Sequence[tuple[str, ListName]]) -> int:
        """Claim lists: keys to rename, each with the list that it is or was."""
        kinds = (False, True)
        groups = [[s for s in sources if s[1].uptime is kind] for kind in kinds]
        return sum(self._claim_kind(group) for group in groups if group)

    def _claim_kind(self, sources: Sequence[tuple[str, ListName]]) -> int:
        stream = self._own_stream(uptime=sources[0][1].uptime)
        self._look_for_claims(stream, {one.key for _, one in sources})
        at = self._clock.now()
        names: dict[str, Claim] = {}
        for _, one in sources:
            name = ulid(at)
            key = claim_key(self._prefix, one.key, name)
            names[name] = Claim(one.key, one.codec, key, at=at)
        fields = {CLAIM + name: pack(claim) for name, claim in names.items()}
        try:
            self._write_fields(stream, fields)
        except LeaseLost:
            # Nothing is renamed: leave no fields in what is another's hash now.
            self._link.execute([("HDEL", self._keys.stream(stream.id), *fields)])
            raise
        stream.intents.update(names)
        before = stream.end
        for (source, _), (name, claim) in zip(sources, names.items(), strict=True):
            self._claim(stream, name, claim, source)
        return stream.end - before

    def _look_for_claims(self, stream: Stream, waiting: Collection[str]) -> None:
        """Before a list is claimed, see whether Redis still has its last claims.

        If it has come back with older data, the list may be one that we had claimed.
        """
        last = [
            (name, claim)
            for key in waiting
            for name, claim in itertools.islice(
                (i for i in reversed(stream.claims.items()) if i[1].list == key),
                LOOK_BACK,
            )
        ]
        found = self._ask([("EXISTS", claim.key) for _, claim in last])
        for (name, _), there in zip(last, found, strict=True):
            if not there:
                self._missing.setdefault(name, self._rounds)

    def _own_stream(self, *, uptime: bool) -> Stream:
        own = self._own.get(uptime)
        if own is not None and own.id in self.streams:
            return own
        name = ulid(self._clock.now())
        stream = Stream(id=name, own=True, uptime=uptime, registered=False)
        stream.maker, stream.holders = self._name, frozenset([self._name])
        stream.progress = {field: Progress() for field in self._owed_by(stream)}
        self.streams[stream.id] = self._own[uptime] = stream
        return stream

    def _owed_by(self, stream: Stream) -> list[str]:
        """Return whose records a stream of ours has."""
        return [f for f in self._fields if cursors.of_uptime(f) is stream.uptime]

    def _claim(self, stream: Stream, name: str, intent: Claim, source: str) -> None:
        """Rename the list; an answer that is lost leaves the intent to be resolved."""
        if self._clock.monotonic() >= self.lease_end:
            self.renew()  # we were frozen: is the stream of this intent still ours?
        # No WATCH on the gateway's list (it never wins against a busy gateway). The
        # new name is fresh, and nothing is resent: nothing can be overwritten.
        commands: list[Command] = [
            ("RENAMENX", source, intent.key),
            ("PERSIST", intent.key),
            ("LLEN", intent.key),
            ("LINDEX", intent.key, 0),
            ("LINDEX", intent.key, -1),
        ]
        replies = self._link.execute(commands, atomic=True)
        if any(map(out_of_memory, replies)):
            # A full Redis takes nothing into a transaction, but each of these alone.
            # Nobody else knows the new name, and the intent says what was begun.
            replies = self._link.execute(commands)
        renamed, _, length, *ends = replies
        if isinstance(length, ResponseError):
            # A tombstone: who has adopted our stream did not find this claim. We have
            # taken its end of life away; nobody but us would use the name.
            self._link.execute([("UNLINK", intent.key)])
        if renamed == 1:
            self._note(stream, name, intent, int(length), ends)
        elif renamed == 0:
            raise LeaseLost(f"stream {stream.id} has another owner")
        elif "no such key" not in str(renamed):
            raise SourceError(f"Redis: {renamed}")
        else:
            # Another consumer was faster: nothing was renamed, and that is certain.
            del stream.intents[name]
            self._forget_fields(stream, [CLAIM + name])

    def _note(
        self,
        stream: Stream,
        name: str,
        intent: Claim,
        length: int,
        ends: Sequence[bytes | None],
    ) -> None:
        """Number the claim; in Redis (or the state file) before the first read.

        `ends` are its first and its last record.
        """
        head, tail = (bytes(one or b"") for one in ends)
        claims = self._found_again(stream, intent, length, head)
        known = sum(claim.length for claim in claims.values())
        if known:
            log.warning(
                "lost claims are back", extra={"list": intent.list, "records": known}
            )
        end = stream.end
        if length > known:
            claims[name] = msgspec.structs.replace(
                intent,
                base=end,
                length=length - known,
                head=_digest(self._at(intent.key, known) if known else head),
                tail=_digest(tail),
                offset=known,
                total=length,
            )
            end = claims[name].end
        fields = {CLAIM + n: pack(claim) for n, claim in claims.items()}
        if length > known:
            self._turn_into_note(stream, name, intent, fields)
        else:
            try:
                self._write_fields(stream, fields)
            except LeaseLost:
                self._leave_to_others(stream, name, intent)
                raise
        if not length > known:
            self._forget_fields(stream, [CLAIM + name])
        stream.intents.pop(name, None)
        stream.claims.update(claims)
        stream.end = end
        for found in claims:
            self._missing.pop(found, None)

    def keep_intents(self) -> None:
        """Note the intents of streams that we drop, for our next source.

        A rename may have run and its answer be lost, and Redis may have come back
        without the stream: they are in the state file then. What Redis has of a claim
        by then goes before. StateError when the disk refuses.
        """
        booked = self._book.pending()
        for stream in self.streams.values():
            known = booked.get(stream.id, {})
            fields = {CLAIM + name: pack(one) for name, one in stream.intents.items()}
            fields = {f: value for f, value in fields.items() if f not in known}
            if fields:
                self._book.put(stream.id, fields)

    def _turn_into_note(
        self, stream: Stream, name: str, intent: Claim, fields: dict[str, bytes]
    ) -> None:
        """Put a claim's note in its intent's place, unless an adopter has taken that.

        It takes an intent the same way. One of us is first: a list has numbers in one
        stream only, however long we were frozen before this.
        """
        key, field = self._keys.stream(stream.id), CLAIM + name
        if len(fields) > 1:
            self._write_fields(stream, {f: v for f, v in fields.items() if f != field})
        if stream.id in self._booked:
            self._keep_note(stream, field, fields)  # none may go before what waits
            return
        old = pack(intent)
        noted = self._link.compare_and_set(key, field, old, fields[field])
        found, owner = self._ask(
            [("HGET", key, field), ("HGET", self._keys.streams, stream.id)]
        )
        if not noted and found != old and found != fields[field]:
            if found is None:
                # Its adopter is done with it, and the list has another name; or Redis
                # came back without it, and nobody else would know the list.
                self._leave_to_others(stream, name, intent)
            raise LeaseLost(f"stream {stream.id} has another owner")
        if not noted and found == old:
            (probe,) = self._link.execute([("SET", VERSION_KEY, __version__)])
            if not out_of_memory(probe):  # somebody was at the hash: look again
                raise SourceError("Redis: a claim's note has met another's mark")
            self._keep_note(stream, field, fields)
            return
        try:
            self._check_owner(stream, owner)
        except LeaseLost:
            if owner is None:
                self._leave_to_others(stream, name, intent)
            raise

    def _keep_note(
        self, stream: Stream, field: str, fields: Mapping[str, bytes]
    ) -> None:
        """Note a claim in the state file alone, and take its intent out of Redis.

        Whoever adopts the stream would claim what Redis has as an intent anew, under
        other numbers than those that we are about to deliver.
        """
        self._put_in_book(stream.id, {**self._all_fields(stream), **fields})
        key = self._keys.stream(stream.id)
        (found,) = self._ask([("HGET", key, field)])
        if found not in (None, fields[field]):
            # Without an answer it may come late, and would take the note that Redis
            # has by then: the state file keeps that, and writes it again and again.
            self._unsure.add(field)
            self._ask([("HDEL", key, field)])
            self._unsure.discard(field)
        # Only now: who becomes the owner later does not find it.
        (owner,) = self._ask([("HGET", self._keys.streams, stream.id)])
        if owner is None and stream.registered and self._leased:
            raise SourceError(f"Redis has forgotten stream {stream.id}")
        self._check_owner(stream, owner)

    def _take_intent(self, stream: Stream, name: str, intent: Claim) -> bool:
        """Keep an intent's author from giving the list numbers of his own.

        False when he was faster, or when Redis has no memory.
        """
        key, field = self._keys.stream(stream.id), CLAIM + name
        (raw,) = self._ask([("HGET", key, field)])
        if raw is None or unpack(raw, Claim) != intent:
            return False
        taken = msgspec.structs.replace(intent, base=intent.base - 1)
        if not self._link.compare_and_set(key, field, raw, pack(taken)):
            return False
        stream.intents[name] = taken
        return True

    def _found_again(
        self, stream: Stream, intent: Claim, length: int, head: bytes
    ) -> dict[str, Claim]:
        """Return the vanished claims that are the head of this list again.

        Their records get the numbers that they had. Only claims of the stream that
        we claim into: what shares a key must be trimmed in order. Of one that has come
        back in part all is new: others' records must not pass for its missing ones.
        """
        found: dict[str, Claim] = {}
        offset = 0
        for name, claim in stream.claims.items():
            if name not in self._missing or claim.list != intent.list:
                continue
            end = offset + claim.length
            if claim.head != _digest(head) or end > length:
                break
            if claim.tail and claim.tail != _digest(self._at(intent.key, end - 1)):
                break
            found[name] = msgspec.structs.replace(
                claim, key=intent.key, offset=offset, total=length
            )
            offset = end
            if offset == length:
                break
            head = self._at(intent.key, offset)
        return found

    def _at(self, key: str, index: int) -> bytes:
        """Return one record of a list."""
        (record,) = self._ask([("LINDEX", key, index)])
        return bytes(record or b"")

    def _leave_to_others(self, stream: Stream, name: str, intent: Claim) -> None:
        """Announce a list that we have renamed when our stream was another's already.

        Its adopter may have looked before; a new stream without an owner, with the
        list as an intent, is sure to be found by whoever comes next.
        """
        fields = {CLAIM + name: pack(intent)}
        other = ulid(self._clock.now())
        try:
            self._put_in_book(other, fields)
        except SourceError:
            if not self._move_foreign(other, fields):
                raise
        self._move_book()
        self._link.execute([("HDEL", self._keys.stream(stream.id), CLAIM + name)])

    def _resolve_all(self) -> int:
        # Without an uptime pump nobody would be owed what is claimed anew: it stays an
        # intent for the next instance that has one.
        # Our own before those whose lists go behind it: a note that is not answered may
        # have the numbers that come next.
        order = sorted(self.streams.values(), key=lambda one: not one.own)
        return sum(
            self._resolve(stream)
            for stream in order
            if stream.intents and (self._uptime or not stream.uptime)
        )

    def _resolve(self, stream: Stream) -> int:
        """See what became of renames whose answers were lost; return new records."""
        before = stream.end
        names = list(stream.intents)
        replies = self._ask(
            [
                command
                for key in [stream.intents[name].key for name in names]
                for command in (
                    _tombstone(key),
                    ("LLEN", key),
                    ("LINDEX", key, 0),
                    ("LINDEX", key, -1),
                )
            ],
            tolerant=True,
        )
        there: list[tuple[str, ListName]] = []
        resolved: list[str] = []
        late = False
        for number, name in enumerate(names):
            intent = stream.intents[name]
            _, length, *ends = replies[4 * number : 4 * number + 4]
            if isinstance(length, ResponseError):
                resolved.append(name)  # a tombstone: it cannot happen any more
            elif length and stream.own:
                self._ask([("PERSIST", intent.key)])
                self._note(stream, name, intent, int(length), ends)
            elif length and self._take_intent(stream, name, intent):
                there.append((intent.key, ListName(intent.list, intent.codec)))
                resolved.append(name)
            elif length:
                late = True
            # Else Redis has no memory for a tombstone: look again next time.
        count = self._claim_all(there)
        for name in resolved:
            del stream.intents[name]
        self._forget_fields(stream, [CLAIM + name for name in resolved])
        if late:
            self._load_again(stream)
        return count + stream.end - before if stream.own else count

    # Writing our own fields

    def _write_fields(self, stream: Stream, fields: Mapping[str, bytes]) -> None:
        """Write fields of a stream's hash, into the state file when Redis is full.

        In the same round trip Redis is asked who owns the stream.
        """
        keys = self._keys
        fields = {**self._booked_fields(stream), **fields}
        commands: list[Command] = []
        if not stream.registered:
            commands.append(("HSETNX", keys.streams, stream.id, self.owner))
            fields = {**self._all_fields(stream), **fields}
        commands.append(("HSET", keys.stream(stream.id), *_flat(fields)))
        commands.append(("HGET", keys.streams, stream.id))
        replies = self._link.execute(commands)
        full = any(map(out_of_memory, replies))
        if not full:
            raise_first(replies)
            self._check_owner(stream, replies[-1])
        if full or (replies[-1] is None and not self._leased):
            # Without a lease nobody knows whether Redis has forgotten the stream or
            # another has finished it. The cursors go along: they say who is owed.
            self._put_in_book(stream.id, {**self._all_fields(stream), **fields})
            return
        stream.registered = True
        if stream.id in self._booked:
            self._clear_book(stream.id, fields.keys() - self._unsure)

    def _check_owners(self, names: Iterable[str], owners: Iterable[Any]) -> None:
        """LeaseLost after all were checked: each leaves something to remove."""
        lost: LeaseLost | None = None
        for name, owner in zip(names, owners, strict=True):
            if not isinstance(owner, ResponseError):
                try:
                    self._check_owner(self.streams[name], owner)
                except LeaseLost as exc:
                    lost = exc
        if lost is not None:
            raise lost

    def _check_owner(self, stream: Stream, owner: bytes | None) -> None:
        """LeaseLost when a stream that Redis knew of is not ours any more."""
        if owner is not None and text(owner) not in self._owners:
            raise LeaseLost(f"stream {stream.id} has another owner")
        if owner is None and stream.registered and self._leased:
            (alive,) = self._ask([("EXISTS", self._keys.lease(self.owner))])
            if not alive or self._is_finished(stream):
                self._leave_gone(stream)
            stream.registered = False
            self._write_fields(stream, {})

    def _leave_gone(self, *streams: Stream) -> NoReturn:
        """Adopted, settled and removed: what we have written there is nobody's."""
        self._ask([("UNLINK", self._keys.stream(stream.id)) for stream in streams])
        raise LeaseLost(f"stream {streams[0].id} is gone")

    def _is_finished(self, stream: Stream) -> bool:
        """Say whether another has finished a stream while we had no lease yet."""
        if not stream.registered:
            return False
        who = finished(self._link, self._keys, [stream.id])[stream.id]
        return who not in ("", self._name)

    def _booked_fields(self, stream: Stream) -> dict[str, bytes]:
        """Return what waits in the state file: no later claim may go before it."""
        if stream.id not in self._booked:
            return {}
        booked = self._book.pending().get(stream.id, {})
        return {**booked, **self._all_fields(stream)} if booked else {}

    def _with_booked(
        self, stream: str, fields: Mapping[str, bytes]
    ) -> Mapping[str, bytes]:
        """Return a stream's fields with what the state file knows of it and Redis not.

        What Redis has as an intent is one: nobody has read it.
        """
        if stream not in self._booked:
            return fields
        booked = self._book.pending().get(stream, {})
        others = {f: v for f, v in booked.items() if not f.startswith(CLAIM)}
        claims = {
            field: value
            for field, value in self._claims_there(booked).items()
            if goes_before(value, fields.get(field))
        }
        return {**others, **fields, **claims}

    def _claims_there(self, fields: Mapping[str, bytes]) -> dict[str, bytes]:
        """Return the claims among fields whose lists Redis has, or may have yet.

        The rename of an intent may be on its way: a tombstone keeps it from coming.
        """
        claims = {
            field: (value, unpack(value, Claim))
            for field, value in fields.items()
            if field.startswith(CLAIM)
        }
        commands: list[Command] = []
        for _, claim in claims.values():
            if claim.base < 0:
                commands.append(_tombstone(claim.key))
            commands.append(("LLEN", claim.key))
        replies = iter(self._link.execute(commands))
        found: dict[str, bytes] = {}
        for field, (value, claim) in claims.items():
            # Without memory for a tombstone nobody knows what is still to come.
            unsure = claim.base < 0 and out_of_memory(next(replies))
            if length_of(next(replies)) or unsure:
                found[field] = value
        return found

    def _put_in_book(self, stream: str, fields: Mapping[str, bytes]) -> None:
        try:
            self._book.put(stream, fields)
        except StateError as exc:
            raise SourceError(f"Redis cannot take a claim's note, and {exc}") from exc
        self._booked.add(stream)

    def _clear_book(self, stream: str, fields: Iterable[str]) -> None:
        try:
            self._book.clear(stream, fields)
            self._booked = set(self._book.pending())
        except StateError as exc:
            raise SourceError(str(exc)) from exc

    def _all_fields(self, stream: Stream) -> dict[str, bytes]:
        everything = {
            PUMP + field: stream.settled.setdefault(field, pack(progress))
            for field, progress in stream.progress.items()
        }
        for name in stream.holders:
            everything[HOLDER + name] = MAKER if name == stream.maker else b""
        for name, claim in (*stream.claims.items(), *stream.intents.items()):
            everything[CLAIM + name] = pack(claim)
        return everything

    def _forget_fields(self, stream: Stream, fields: Sequence[str]) -> None:
        if not fields:
            return
        self._ask([("HDEL", self._keys.stream(stream.id), *fields)])
        self._unsure.difference_update(fields)
        if stream.id in self._booked:
            self._clear_book(stream.id, fields)

    def _move_book(self) -> None:
        """Give Redis what it had no memory for before."""
        if not self._booked:
            return
        for name, fields in self._book.pending().items():
            stream = self.streams.get(name)
            if stream is not None:
                self._drop_stale(stream, fields)
                self._write_fields(stream, self._all_fields(stream))
            elif not self._move_foreign(name, fields):
                return

    def _drop_stale(self, stream: Stream, booked: Mapping[str, bytes]) -> None:
        """Forget notes of lists that were gone when the stream came into our hands."""
        ours = self._all_fields(stream)
        others = {
            field: value
            for field, value in booked.items()
            if field.startswith(CLAIM) and field not in ours
        }
        stale = others.keys() - self._claims_there(others).keys()
        if stale:
            self._clear_book(stream.id, stale)

    def _move_foreign(self, name: str, fields: Mapping[str, bytes]) -> bool:
        """Give Redis the fields of a stream that is not ours; False without memory.

        The state file keeps them while a list is there, or until the stream is ours:
        whoever removes it just now has not seen what is new.
        """
        there = self._claims_there(fields)
        if not there:
            if name in self._booked:
                self._clear_book(name, fields)
            return True
        key = self._keys.stream(name)
        (reply,) = self._ask([("HGETALL", key)])
        known = {text(field): value for field, value in pairs(reply).items()}
        claims = {
            field: value
            for field, value in there.items()
            if value != known.get(field) and goes_before(value, known.get(field))
        }
        if not claims and name in (self.owners or {}):
            return True
        # A cursor that Redis has may be newer. The owner comes last: a stream without
        # claims would be removed by its adopter.
        commands: list[Command] = [
            ("HSETNX", key, field, value)
            for field, value in fields.items()
            if not field.startswith(CLAIM)
        ]
        if claims:
            commands.append(("HSET", key, *_flat(claims)))
        commands.append(("HSETNX", self._keys.streams, name, ""))
        replies = self._link.execute(commands)
        if any(map(out_of_memory, replies)):
            return False
        raise_first(replies)
        self.finished.pop(name, None)  # Redis has it, since the last look at it
        # An adopter that had taken an intent may have renamed the list meanwhile.
        left = self._claims_there(claims)
        gone = [field for field in claims if field not in left]
        if gone:
            self._ask([("HDEL", key, *gone)])
        return True

    def _register_again(self) -> None:
        for stream in self.streams.values():
            if not stream.registered and (stream.claims or stream.intents):
                self._write_fields(stream, {})

    # Adopting

    def _adopt_orphans(
        self, owners: Mapping[str, str], alive: Mapping[str, Any]
    ) -> list[str]:
        foreign = {s: o for s, o in owners.items() if s not in self.streams}
        self._foreign = sorted({owner for owner in foreign.values() if owner})
        adopted = []
        for name, owner in sorted(foreign.items()):
            # Ours and not in our hands: the answer to its adoption was lost, or Redis
            # came back with what we had finished.
            orphan = owner in ("", *self._owners) or (
                owner in alive and not alive[owner]
            )
            if not orphan or not self._leased or not self._is_for_us(name):
                continue
            if self._adopt(name, owner):
                adopted.append(name)
        return adopted

    def _is_for_us(self, name: str) -> bool:
        """Leave uptime reports to an instance that has an uptime pump.

        Often only one of several has: the others would hold what they cannot deliver.
        """
        if self._uptime:
            return True
        if name not in self._left and self._load(name).uptime:
            self._left.add(name)
        return name not in self._left

    def _adopt(self, name: str, owner: str) -> bool:
        # First: whoever has a part of the stream on its disk is to know that ours
        # are not the only hands in which the rest has been.
        key, mark = self._keys.stream(name), HOLDER + self._name
        (reply,) = self._link.execute([("HSETNX", key, mark, "")])
        if out_of_memory(reply):
            return False
        raise_first([reply])
        if not self._set_owner(name, owner):
            if reply:  # it may be finished by now: leave no hash behind
                self._ask([("HDEL", key, mark)])
            return False
        stream = self._load(name)
        if not stream.maker:
            # Made by an older version, that did not write it down. Our name may be
            # there from an attempt to adopt it; the ledger knows our own streams.
            others = not owner.startswith(f"{self._name}#")
            stream.adopted = others or owner == self.owner
            stream.shared = stream.shared or stream.adopted
        self._keep(stream)
        return True

    def _keep(self, stream: Stream) -> None:
        self.streams[stream.id] = stream
        # Oldest first, our own last: ULIDs sort by time.
        order = sorted(self.streams.values(), key=lambda s: (s.own, s.id))
        self.streams = {one.id: one for one in order}
        if not (stream.claims or stream.intents or stream.progress):
            # Whoever finished it died before its name was gone, or Redis came back with
            # nothing else of it: then there is no note.
            self._remove(stream)

    def _load(self, name: str) -> Stream:
        (reply,) = self._ask([("HGETALL", self._keys.stream(name))])
        stream = Stream(id=name, own=False)
        claims: list[tuple[str, Claim]] = []
        holders: set[str] = set()
        fields = {text(field): value for field, value in pairs(reply).items()}
        for field, raw in self._with_booked(name, fields).items():
            if field.startswith(HOLDER):
                holders.add(field[len(HOLDER) :])
                if raw == MAKER:
                    stream.maker = field[len(HOLDER) :]
            elif field.startswith(PUMP):
                stream.progress[field[len(PUMP) :]] = unpack(raw, Progress)
                stream.settled[field[len(PUMP) :]] = raw
            elif field.startswith(CLAIM):
                claims.append((field[len(CLAIM) :], unpack(raw, Claim)))
        stream.holders = frozenset(holders)
        stream.shared = bool(stream.holders - {self._name})
        stream.adopted = stream.maker not in ("", self._name)
        claims.sort(key=lambda item: item[1].base)
        stream.uptime = any(claim.codec == UPTIME_CODEC for _, claim in claims)
        for claim_name, claim in claims:
            if claim.base < 0:
                stream.intents[claim_name] = claim
            else:
                stream.claims[claim_name] = claim
                stream.end = max(stream.end, claim.end)
        # A finished claim's name may be a tombstone: of a SET NX that came very late.
        commands = [("LLEN", claim.key) for claim in stream.claims.values()]
        lengths = list(map(length_of, self._link.execute(commands)))
        # A record that went from a key was trimmed by someone whom all had passed.
        stream.trimmed = min((c.base for c in stream.claims.values()), default=0)
        for claim, length in zip(stream.claims.values(), lengths, strict=True):
            gone = max(0, claim.total - length - claim.offset)
            if not length or stream.trimmed < claim.base:
                continue
            stream.trimmed = max(stream.trimmed, claim.base + gone)
        if stream.claims and not stream.progress:
            # Redis came back with claims and without cursors: better once more than
            # never.
            owed = self._owed_by(stream)
            stream.progress = {field: Progress(stream.trimmed) for field in owed}
        for field, progress in stream.progress.items():
            # The disk has the rest of what it was in, and what is known of it.
            progress.go_behind(self._shelf.reached(name, field))
            if progress.position < stream.trimmed:
                stream.raised[field] = progress.position
                progress.position = stream.trimmed
        furthest = max((p.position for p in stream.progress.values()), default=0)
        stream.end = max(stream.end, furthest)
        return stream

    def _load_again(self, stream: Stream) -> None:
        """Read a stream in our hands once more, for its claims.

        Its cursors are where we know them: Redis may have had no memory for them.
        """
        again = self._load(stream.id)
        for field, progress in stream.progress.items():
            known = again.progress.get(field)
            if known is None or known.position <= progress.position:
                again.progress[field] = progress
                again.raised.pop(field, None)
        again.end, again.hole = max(again.end, stream.end), stream.hole
        for name in again.__struct_fields__:
            setattr(stream, name, getattr(again, name))

    # Reading

    def read(self, stream_id: str, position: int, max_records: int) -> Window:
        """Return up to so many records from a position on, of one claim.

        In the same round trip Redis is asked who owns the stream.
        """
        stream = self.streams[stream_id]
        claim_name, claim = self._claim_at(stream, position)
        count = min(max_records, claim.end - position)
        start = claim.index(position)
        owner, records = self._ask(
            [
                ("HGET", self._keys.streams, stream_id),
                ("LRANGE", claim.key, start, start + count - 1),
            ],
            tolerant=True,
        )
        raise_first([owner] if wrong_type(records) else [owner, records])
        self._check_owner(stream, owner)
        if wrong_type(records):
            records = []
        window = Window(stream_id, claim.list, claim.codec, position, records)
        if len(records) == count:
            return window
        # Addressed from the tail: what is missing was at the head.
        window.records = []
        if records:
            window.lost = count - len(records)
        elif claim_name not in self._missing:
            # Redis may have come back with the list under its old name. Look once
            # more at the lists before the records are given up.
            self._missing[claim_name] = self._rounds
        elif self._rounds > self._missing[claim_name] + 1:
            window.lost = count
        return window

    def _claim_at(self, stream: Stream, position: int) -> tuple[str, Claim]:
        found = stream.find(position)
        if found is not None and found[1].base <= position:
            return found
        # A hole in the numbering: nothing of ours, up to the next claim.
        end = stream.end if found is None else found[1].base
        hole = Claim("", "msgpack", self._keys.stream(stream.id) + ":hole")
        hole.base, hole.length = position, max(1, end - position)
        hole.total = hole.length
        name = f"hole:{stream.id}:{position}"
        self._missing.setdefault(name, -2)
        return name, hole

    # Settling

    def settle(
        self,
        progress: Mapping[str, Mapping[str, Progress]],
        trims: Mapping[str, int],
        keep: Collection[str] = (),
    ) -> None:
        """Write cursors, then trim; never in one transaction.

        Streams that are settled, all of them, are removed, apart from those to `keep`.
        A cursor that Redis has no memory for is kept and tried again: its loss would
        cost a repeat. Trims go on, they need no memory.
        """
        if self._clock.monotonic() >= self.lease_end:
            self.renew()
        for name, fields in progress.items():
            owed = self._owed.setdefault(name, {})
            for field, one in fields.items():
                owed[PUMP + field] = packed = pack(one)
                if name in self.streams:
                    self.streams[name].settled[field] = packed
        owing = [name for name in self._owed if name in self.streams]
        owing = [name for name in owing if self._owed[name]]
        # No cursor goes before the note of its claim: an adopter would find a hole.
        names = [name for name in owing if name not in self._booked]
        commands: list[Command] = [
            ("HSET", self._keys.stream(name), *_flat(self._owed[name]))
            for name in names
        ]
        finished: list[tuple[Stream, str]] = []
        for name, upto in trims.items():
            commands += self._trim(self.streams[name], upto, finished)
        asked = [("HGET", self._keys.streams, name) for name in owing]
        replies = self._link.execute([*commands, *asked])
        self._check_owners(owing, replies[len(commands) :])
        replies = replies[: len(commands)]
        refused = [reply for reply in replies if isinstance(reply, ResponseError)]
        for name, reply in zip(names, replies, strict=False):
            if not isinstance(reply, ResponseError):
                self._owed[name] = {}
        for reply in refused:
            if not out_of_memory(reply) and not wrong_type(reply):
                raise SourceError(f"Redis: {reply}")
        for name, upto in trims.items():
            self.streams[name].trimmed = upto
        self._finish(finished, keep)

    @property
    def settled(self) -> set[str]:
        """The streams that are to be removed: nothing is left of them."""
        return {
            name
            for name, stream in self.streams.items()
            if not stream.own and self._is_settled(stream)
        }

    def _trim(
        self, stream: Stream, upto: int, finished: list[tuple[Stream, str]]
    ) -> list[Command]:
        commands: list[Command] = []
        for name, claim in stream.claims.items():
            if upto >= claim.end:
                finished.append((stream, name))
                if claim.offset + claim.length >= claim.total:
                    commands.append(("UNLINK", claim.key))
                    continue
            if upto > max(claim.base, stream.trimmed):
                first = claim.index(min(upto, claim.end))
                commands.append(("LTRIM", claim.key, first, -1))
        return commands

    def _finish(
        self, finished: Sequence[tuple[Stream, str]], keep: Collection[str]
    ) -> None:
        """Forget claims whose keys are gone, then past streams without claims."""
        keys: list[Command] = []
        for stream, name in finished:
            claim = stream.claims.pop(name, None)
            self._missing.pop(name, None)
            if claim is not None and claim.offset + claim.length >= claim.total:
                keys.append(("UNLINK", claim.key))
        # Once more, lest a Redis that has just come back with older data has one again
        # of which nothing would tell.
        self._ask(keys)
        by_stream: dict[str, list[str]] = {}
        for stream, name in finished:
            by_stream.setdefault(stream.id, []).append(CLAIM + name)
        for stream_id, fields in by_stream.items():
            self._forget_fields(self.streams[stream_id], fields)
        for name in self.settled.difference(keep):
            self._remove(self.streams[name])

    @staticmethod
    def _is_settled(stream: Stream) -> bool:
        return (
            not stream.claims and not stream.intents and stream.trimmed >= stream.hole
        )

    def _remove(self, stream: Stream) -> None:
        """Remove a stream, unless somebody has added a claim behind our back."""
        key = self._keys.stream(stream.id)
        (reply,) = self._ask([("HGETALL", key)])
        fields = pairs(reply)
        if any(text(field).startswith(CLAIM) for field in fields):
            if not stream.own:
                self._load_again(stream)
            return
        holders = {f[len(HOLDER) :] for f in map(text, fields) if f.startswith(HOLDER)}
        if holders - {self._name}:
            # For those who have rows of it in their books, and do not hold it.
            note = ("SET", self._keys.finished(stream.id), self._name)
            (reply,) = self._link.execute([(*note, "EX", FINISHED_SECONDS)])
            if out_of_memory(reply):
                return  # it is a hash without claims, and waits for better days
            raise_first([reply])
        # The hash goes first: a stream without one is removed by its next adopter.
        # Only these fields: one that is written just now keeps the hash alive.
        if fields:
            self._ask([("HDEL", key, *fields)])
        self._ask([("HDEL", self._keys.streams, stream.id)])
        self.streams.pop(stream.id, None)
        self._owed.pop(stream.id, None)

    @property
    def owing(self) -> bool:
        """True when Redis had no memory for a cursor."""
        return any(self._owed.values())

    # Pumps that come and go

    def owe(self, field: str) -> None:
        """A new pump is owed everything from here on, and nothing before."""
        if field not in self._fields:
            self._fields.append(field)
        for stream in self.streams.values():
            if field in self._owed_by(stream) and field not in stream.progress:
                progress = Progress(position=stream.end)
                stream.progress[field] = progress
                self._write_fields(stream, {PUMP + field: pack(progress)})

    def forget(self, field: str) -> None:
        """A removed pump is owed nothing any more."""
        if field in self._fields:
            self._fields.remove(field)
        for stream in self.streams.values():
            if stream.progress.pop(field, None) is not None:
                stream.settled.pop(field, None)
                self._owed.get(stream.id, {}).pop(PUMP + field, None)
                self._forget_fields(stream, [PUMP + field])

    # The end

    def give_back(self) -> None:
        """Clear the owner of what is not settled; let the lease go."""
        for own in self._own.values():
            if own.id in self.streams and self._is_settled(own):
                self._remove(own)
        self._move_book()
        commands: list[Command] = [
            ("HSET", self._keys.streams, name, "")
            for name, stream in self.streams.items()
            if stream.registered
        ]
        commands.append(("HDEL", self._keys.instances, self._name))
        commands.append(("UNLINK", self._keys.lease(self.owner)))
        for reply in self._link.execute(commands):
            if isinstance(reply, ResponseError):
                log.warning("Redis refused a key", extra={"reason": str(reply)})
        self.streams.clear()

    def backlog(self) -> tuple[int, int]:
        """Return how many claims we hold, and how many records not yet trimmed."""
        claims = sum(len(stream.claims) for stream in self.streams.values())
        return claims, sum(s.end - s.trimmed for s in self.streams.values() if s.claims)

    def _ask(self, commands: Sequence[Command], *, tolerant: bool = False) -> list[Any]:
        """Run commands of which none is expected to be refused."""
        replies = self._link.execute(commands)
        if not tolerant:
            raise_first(replies)
        return replies


def finished(link: Link, keys: Keys, streams: Sequence[str]) -> dict[str, str]:
    """Return who finished these streams, "" where nobody has left a note of it."""
    replies = link.execute([("GET", keys.finished(name)) for name in streams])
    raise_first(replies)
    return {
        name: text(reply) if reply is not None else ""
        for name, reply in zip(streams, replies, strict=True)
    }


def goes_before(value: bytes, known: bytes | None) -> bool:
    """Say whether the state file's form of a claim is to replace that of Redis.

    Where Redis has an intent nothing has been read, and whoever resolves it gives the
    list its numbers.
    """
    return known is None or not (is_intent(value) or is_intent(known))


def _tombstone(key: str) -> Command:
    return ("SET", key, "", "NX", "EX", TOMBSTONE_SECONDS)


def is_intent(raw: bytes) -> bool:
    """Say whether a claim's field says only what was about to be renamed."""
    claim: Claim = unpack(raw, Claim)
    return claim.base < 0


def raise_first(replies: Iterable[Any]) -> None:
    """Raise the first refusal among replies."""
    for reply in replies:
        if isinstance(reply, ResponseError):
            raise SourceError(f"Redis: {reply}") from reply


def pairs(reply: Any) -> dict[bytes, bytes]:
    """Return HGETALL's answer as a dict, whichever protocol brought it."""
    if isinstance(reply, dict):
        return reply
    return dict(zip(reply[::2], reply[1::2], strict=True))


def _flat(fields: Mapping[str, bytes]) -> list[Any]:
    return [item for pair in fields.items() for item in pair]


def text(value: Any) -> str:
    """Return a reply as text."""
    return value.decode() if isinstance(value, bytes) else str(value)


def _digest(head: bytes) -> bytes:
    return hashlib.blake2b(head, digest_size=8).digest()


def pack(value: Any) -> bytes:
    """Return the form of a value in a stream's hash."""
    return msgspec.msgpack.encode(value)


def unpack(raw: bytes, kind: type[Any]) -> Any:
    """Read a field of a stream's hash; SourceError where it cannot be read."""
    try:
        return msgspec.msgpack.decode(raw, type=kind)
    except msgspec.MsgspecError as exc:
        raise SourceError(f"a field of a stream cannot be read: {exc}") from exc


__all__ = [
    "Claim",
    "Counts",
    "FieldBook",
    "ListName",
    "Look",
    "Progress",
    "Source",
    "Stream",
]
