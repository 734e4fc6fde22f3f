"""Notes that only the state file has: a record keeps its id, whoever comes next.

The list is claimed while Redis fills up: it has the intent, and refuses the note.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import pytest

from tests.faults.redis_model import RedisModel
from tests.source.test_races import STREAMS, Gated, end_lease, once
from tests.source.world import (
    LIST,
    SHARD,
    Book,
    Consumer,
    Died,
    look,
    make_source,
    settle,
)
from tyk_pump.errors import LeaseLost, SourceError, StateError
from tyk_pump.source.claims import CLAIM, Source, is_intent

RECORDS = [b"r0", b"r1", b"r2"]
OTHERS = [b"s0", b"s1"]


class World:
    """A Redis, and an instance with its state file."""

    def __init__(self) -> None:
        self.redis = RedisModel()
        self.redis.run(("RPUSH", LIST, *RECORDS))
        self.book = Book()
        self.link = Gated(self.redis)
        self.consumer = Consumer()

    def start(self, name: str = "a", life: int = 1, **more: Any) -> Source:
        """Start an instance; the book is that of the one named a."""
        if name == "a":
            more = {"link": self.link, "book": self.book, **more}
        source = make_source(
            more.pop("link", None) or Gated(self.redis),
            name=name,
            incarnation=str(life),
            previous=str(life - 1) if life > 1 else "",
            **more,
        )
        source.start()
        return source

    def fill_after_rename(self) -> None:
        """Let Redis be full as soon as the list has its new name."""
        once(self.link, lambda commands: bool(self.claims()), self.fill)

    def fill(self) -> None:
        """Redis is full."""
        self.redis.full = True

    def claims(self) -> list[str]:
        """Keys of claims."""
        return [
            key
            for key, value in self.redis.data.items()
            if ":claim:" in key and isinstance(value, tuple)
        ]

    def end_leases(self, names: str = "a") -> None:
        """Let time pass in Redis: the leases of these instances end."""
        for name in names:
            end_lease(self.redis, name)

    def fields(self, stream: str) -> Mapping[bytes, bytes]:
        """A stream's hash."""
        found: Any = self.redis.run(("HGETALL", f"analytics-tyk-pump:stream:{stream}"))
        return dict(zip(found[::2], found[1::2], strict=True))

    def intents(self) -> list[bytes]:
        """What Redis has as intents, in all streams."""
        return [
            field
            for key, value in self.redis.data.items()
            if ":stream:" in key and isinstance(value, dict)
            for field, raw in value.items()
            if field.startswith(CLAIM.encode()) and is_intent(raw)
        ]

    def read(self, source: Source) -> dict[bytes, tuple[str, int]]:
        """Read all that can be read; return where each record is."""
        found: dict[bytes, tuple[str, int]] = {}
        for stream in list(source.streams.values()):
            position = stream.progress["P"].position
            while position < stream.end:
                window = source.read(stream.id, position, 10)
                assert not window.lost
                if not window.records:
                    break
                for record in window.records:
                    found[bytes(record)] = (stream.id, position)
                    position += 1
        return found


@pytest.fixture
def world() -> World:
    """A world with a list of three records."""
    return World()


def claimed(world: World) -> tuple[Source, dict[bytes, tuple[str, int]]]:
    """An instance that has read what it could note in the state file only."""
    source = world.start()
    world.fill_after_rename()
    look(source)
    ids = world.read(source)
    assert sorted(ids) == RECORDS
    return source, ids


def test_an_adopter_does_not_claim_anew_what_is_being_read(world: World) -> None:
    """Redis had the intent, from before it was full: it would be claimed under new ids.

    Its author is frozen; when he is back his state file gives Redis the note.
    """
    source, ids = claimed(world)
    assert not world.intents()
    world.end_leases()
    world.redis.full = False
    adopter = world.start("b")
    for _ in range(3):
        look(adopter)
        assert not world.read(adopter)
    with pytest.raises(LeaseLost):
        look(source)
    heir = world.start(life=2)
    look(heir)
    assert world.read(heir) == ids
    world.consumer.drain(heir)
    assert (world.consumer.records, world.consumer.lost) == (RECORDS, 0)
    look(heir)
    assert not world.book.fields and not world.claims()


@pytest.mark.parametrize("full", [True, False], ids=["still full", "with room"])
def test_the_next_life_goes_on_with_the_same_ids(world: World, full: bool) -> None:
    """Its own state file has the note, whether Redis can take it by now or not."""
    _, ids = claimed(world)
    world.redis.full = full
    again = world.start(life=2)
    look(again)
    assert world.read(again) == ids
    world.redis.full = False
    look(again)
    world.consumer.drain(again)
    assert (world.consumer.records, world.consumer.lost) == (RECORDS, 0)
    again.give_back()
    assert not world.book.fields and not world.claims()


@pytest.mark.parametrize("known", [False, True], ids=["booked", "in Redis"])
def test_a_removal_that_comes_late_does_not_take_the_note(
    world: World, known: bool
) -> None:
    """Of an intent; Redis has room by then, and has the note in its place."""
    late: list[tuple[Any, ...]] = []

    def unanswered(commands: Sequence[Any]) -> None:
        if known and world.claims():
            world.fill()
        if world.claims() and removes(commands):
            late.extend(commands)
            raise SourceError("no answer")

    source = world.start()
    world.redis.full = not known
    world.link.before = unanswered
    with contextlib.suppress(SourceError):
        source.round()
    world.link.before = lambda commands: None
    world.redis.full = False
    source.round()
    ids = world.read(source)
    assert sorted(ids) == RECORDS and bool(late) is known
    world.redis.execute(late)
    source.round()
    world.end_leases()
    heir = world.start("b")
    for _ in range(2):
        look(heir)
    assert world.read(heir) == ids


def test_what_is_put_into_a_stream_that_was_taken_back_empty_is_seen(
    world: World,
) -> None:
    """Nothing else happens in it, and its first owner waits for the second."""
    _, ids = claimed(world)
    world.redis.full = False
    world.end_leases()
    link = Gated(world.redis)
    adopter = world.start("b", link=link)
    look(adopter)

    def kill() -> None:
        raise Died

    once(link, removes, kill)
    with pytest.raises(Died):
        look(adopter)
    again = world.start("b", life=2)
    assert [stream.claims for stream in again.streams.values()] == [{}]
    author = world.start(life=2)
    look(author)
    assert world.book.fields
    look(again)
    assert world.read(again) == ids
    world.consumer.drain(again)
    look(author)
    assert not world.book.fields and not world.claims()


def test_a_rename_that_comes_late_is_known_to_the_next_life(world: World) -> None:
    """Redis is full and has not the intent; the process is killed before it runs."""
    late: list[tuple[Any, ...]] = []

    def unanswered(commands: Sequence[Any]) -> None:
        # In a transaction a full Redis refuses it; the next is that of one by one.
        if commands[0][0] == "RENAMENX" and late:
            raise SourceError("no answer")
        if commands[0][0] == "RENAMENX":
            late.extend(commands)

    source = world.start()
    world.fill()
    world.link.before = unanswered
    with pytest.raises(SourceError, match="no answer"):
        source.round()
    world.link.before = lambda commands: None
    world.start(life=2)
    world.redis.execute(late)
    world.redis.full = False
    world.end_leases()
    heir = world.start(life=3)
    for _ in range(3):
        look(heir)
        world.consumer.drain(heir)
    assert (world.consumer.records, world.consumer.lost) == (RECORDS, 0)
    assert not world.book.fields and not world.claims()


def test_a_rename_whose_answer_is_lost_is_known_when_redis_forgets(
    world: World,
) -> None:
    """Redis comes back without the stream, and the lease has ended meanwhile."""

    def unanswered(commands: Sequence[Any]) -> None:
        if commands[0][0] == "RENAMENX":
            world.redis.execute(commands)
            for key in [key for key in world.redis.data if "tyk-pump:" in key]:
                world.redis.run(("UNLINK", key))
            raise SourceError("no answer")

    source = world.start()
    world.link.before = unanswered
    with pytest.raises(SourceError, match="no answer"):
        source.round()
    world.link.before = lambda commands: None
    assert world.claims()
    source.keep_intents()
    again = world.start(life=2)
    for _ in range(3):
        look(again)
        world.consumer.drain(again)
    assert (world.consumer.records, world.consumer.lost) == (RECORDS, 0)
    assert not world.book.fields and not world.claims()


def test_intents_of_others_are_not_brought_back(world: World) -> None:
    """What was noted while the lease ended has the numbers that it was read under."""
    source = world.start()
    look(source)
    ids = world.read(source)
    (stream,) = source.streams.values()
    ((name, claim),) = stream.claims.items()
    intent = msgspec.structs.replace(claim, base=-1)
    stream.intents[name] = intent  # as after an answer that came too late
    source.keep_intents()
    world.end_leases()
    heir = world.start(life=2)
    look(heir)
    assert world.read(heir) == ids and not world.intents()
    world.consumer.drain(heir)
    look(heir)
    assert (world.consumer.records, world.consumer.lost) == (RECORDS, 0)
    assert not world.book.fields


def removes(commands: Sequence[Any]) -> bool:
    """Say whether a field is to be removed from a hash."""
    return bool(commands[0][0] == "HDEL")


class FullBook(Book):
    """A state file on a full disk."""

    full = True

    def put(self, stream: str, fields: Mapping[str, bytes]) -> None:
        if self.full:
            raise StateError("the disk is full")
        super().put(stream, fields)


def test_a_list_of_a_lost_intent_is_announced_whatever_the_disk_does(
    world: World,
) -> None:
    """Redis forgets the intent just before the list is renamed, and the disk is full.

    Were it in nobody's hash when we are killed, nobody would know of it.
    """
    world.book = FullBook()
    source = world.start()

    def forget() -> None:
        for key in [key for key in world.redis.data if ":stream:" in key]:
            world.redis.run(("UNLINK", key))

    once(world.link, lambda commands: commands[0][0] == "RENAMENX", forget)
    with pytest.raises(LeaseLost):
        look(source)
    world.end_leases()
    adopter = world.start("b")
    for _ in range(3):
        look(adopter)
    world.consumer.drain(adopter)
    assert (world.consumer.records, world.consumer.lost) == (RECORDS, 0)


def test_nothing_is_read_that_neither_can_note(world: World) -> None:
    """With a disk that refuses as well the records wait, and then have one id."""
    world.book = book = FullBook()
    source = world.start()
    world.fill_after_rename()
    for _ in range(2):
        with pytest.raises(SourceError, match="the disk is full"):
            look(source)
        assert world.claims() and not world.read(source)
    book.full = False
    look(source)
    ids = world.read(source)
    assert sorted(ids) == RECORDS
    world.redis.full = False
    world.end_leases()
    adopter = world.start("b")
    look(adopter)
    assert not world.read(adopter)
    assert world.read(world.start(life=2)) == ids


def test_a_later_claim_does_not_go_before_a_note_that_waits(world: World) -> None:
    """Redis has room again between the two: an adopter would see a hole."""
    world.redis.run(("RPUSH", SHARD, *OTHERS))
    source = world.start()

    def again(commands: Sequence[Any]) -> bool:
        return bool(commands[0][:2] == ("RENAMENX", SHARD))

    def room() -> None:
        world.redis.full = False

    def fill() -> None:
        world.fill()
        once(world.link, again, room)

    once(world.link, lambda commands: bool(world.claims()), fill)
    look(source)
    ids = world.read(source)
    assert sorted(ids) == RECORDS + OTHERS
    (stream,) = source.streams
    assert not [f for f in world.fields(stream) if f.startswith(CLAIM.encode())]
    look(source)
    assert len(world.fields(stream)) == 2 + 2
    assert not world.book.fields


def test_no_cursor_goes_before_the_note_of_its_claim(world: World) -> None:
    """An adopter would take what the other pumps have not yet settled for lost."""
    source = world.start(fields=["P", "Q"])
    world.fill_after_rename()
    look(source)
    (stream,) = source.streams.values()
    world.redis.full = False
    stream.progress["P"].position = 2
    settle(source, stream, "P")
    world.end_leases()
    adopter = world.start("b", fields=["P", "Q"])
    look(adopter)
    for pump in ("P", "Q"):
        Consumer().drain(adopter, pump)
    assert not adopter.streams
    heir = world.start(life=2, fields=["P", "Q"])
    look(heir)
    look(heir)
    for pump in ("P", "Q"):
        consumer = Consumer()
        consumer.drain(heir, pump)
        assert (consumer.records, consumer.lost) == (RECORDS, 0)


def test_a_note_outlives_that_another_has_finished_its_stream(world: World) -> None:
    """Who starts in a full Redis gets no lease: his stream may go, and not his note."""
    _, ids = claimed(world)
    again = world.start(life=2)
    world.end_leases()
    world.redis.full = False
    adopter = world.start("b")
    look(adopter)
    assert len(look(adopter).adopted) == 1
    assert not adopter.streams
    again._move_book()  # as in a round that finds room only behind the lease
    with pytest.raises(LeaseLost):
        look(again)
    heir = world.start(life=3)
    look(heir)
    assert world.read(heir) == ids
    world.consumer.drain(heir)
    look(heir)
    assert not world.book.fields and not world.claims()


def test_who_lost_the_stream_before_his_note_does_not_read(world: World) -> None:
    """Frozen before the state file has it: the adopter has seen the intent."""
    source = world.start()
    adopter = world.start("b")

    def adopt() -> None:
        look(adopter)  # it sees whose the streams are
        world.end_leases()
        look(adopter)
        world.fill()

    once(world.link, lambda commands: bool(world.claims()), adopt)
    with pytest.raises(LeaseLost):
        look(source)
    world.redis.full = False
    ids = world.read(adopter)
    assert sorted(ids) == RECORDS
    heir = world.start(life=2)
    for _ in range(2):
        look(heir)
        assert not world.read(heir)
    world.consumer.drain(adopter)
    look(adopter)
    assert (world.consumer.records, world.consumer.lost) == (RECORDS, 0)
    assert not world.book.fields and not world.claims()


def asks_for_the_owner(commands: Sequence[Any]) -> bool:
    """Say whether it is the last exchange before the records are read."""
    return len(commands) == 1 and commands[0][:2] == ("HGET", STREAMS)


def killed_at(world: World, wanted: Callable[[Sequence[Any]], bool]) -> None:
    """Let the instance be killed before an exchange, while it notes what it claims."""

    def kill() -> None:
        raise Died

    def fill() -> None:
        world.fill()
        once(world.link, wanted, kill)

    source = world.start()
    once(world.link, lambda commands: bool(world.claims()), fill)
    with pytest.raises(Died):
        look(source)
    world.redis.full = False
    world.end_leases()


def test_a_note_does_not_go_over_an_adopters_mark(world: World) -> None:
    """Nobody has read what Redis has as an intent: it is the adopter who numbers it.

    Else who comes after an adopter that is killed takes the records for lost.
    """
    killed_at(world, removes)
    assert world.book.fields and world.intents()
    link = Gated(world.redis)
    adopter = world.start("b", link=link)
    look(adopter)

    def kill() -> None:
        raise Died

    def back() -> None:
        look(world.start(life=2))
        once(link, lambda commands: commands[0][0] == "HDEL", kill)

    once(link, lambda commands: commands[0][0] == "RENAMENX", back)
    with pytest.raises(Died):
        look(adopter)
    world.end_leases("ab")
    heir = world.start("c")
    for _ in range(4):
        look(heir)
        world.consumer.drain(heir)
    assert (world.consumer.records, world.consumer.lost) == (RECORDS, 0)
    assert not world.claims()
    world.start(life=3)
    assert not world.book.fields


def test_a_note_does_not_outlive_its_list(world: World) -> None:
    """Whoever had taken the intent renames the list just when the note comes."""
    killed_at(world, asks_for_the_owner)
    assert world.book.fields and not world.intents()
    (key,) = world.claims()
    once(
        world.link,
        lambda commands: commands[0][0] == "HSETNX",
        lambda: world.redis.run(("RENAMENX", key, f"{key}2")),
    )
    heir = world.start(life=2)
    for _ in range(2):
        look(heir)
        assert not any(stream.claims for stream in heir.streams.values())
    assert not world.book.fields


def test_a_note_of_a_list_that_became_a_tombstone_is_forgotten(world: World) -> None:
    """Else no instance could load the stream any more."""
    killed_at(world, asks_for_the_owner)
    (key,) = world.claims()
    world.redis.run(("UNLINK", key))
    world.redis.run(("SET", key, ""))
    heir = world.start(life=2)
    for _ in range(2):
        look(heir)
        assert not any(stream.claims for stream in heir.streams.values())
    assert not world.book.fields


def test_a_note_that_comes_when_its_stream_is_removed_is_found(world: World) -> None:
    """The adopter sees no claim in the stream, and then there is one."""
    _, ids = claimed(world)
    world.redis.full = False
    world.end_leases()
    link = Gated(world.redis)
    adopter = world.start("b", link=link)
    look(adopter)

    def removed(commands: Sequence[Any]) -> bool:
        return bool(commands[0][:2] == ("HDEL", STREAMS))

    once(link, removed, lambda: world.start(life=2))
    look(adopter)
    assert not adopter.streams
    heir = world.start(life=3)
    look(heir)
    assert world.read(heir) == ids
    look(heir)
    assert not world.book.fields
