"""Two instances at the same stream: what the exploration found, step by step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from tests.faults.redis_model import RedisModel
from tests.source.world import LIST, Book, Consumer, Died, make_source
from tyk_pump.config.root import RedisOptions
from tyk_pump.errors import LeaseLost, SourceError
from tyk_pump.source.claims import Progress, Source, unpack
from tyk_pump.source.redis import Link
from tyk_pump.source.upkeep import list_claims

RECORDS = [b"r0", b"r1"]
STREAMS = "analytics-tyk-pump:streams"


class Gated(Link):
    """A link to a Redis in memory, on which something is done before an exchange."""

    def __init__(self, redis: RedisModel) -> None:
        super().__init__(RedisOptions())
        self.redis = redis
        self.before: Callable[[Sequence[Any]], None] = lambda commands: None

    def execute(self, commands: Sequence[Any], *, atomic: bool = False) -> list[Any]:
        if commands:
            self.before(commands)
        return self.redis.execute(commands, atomic=atomic)

    def compare_and_set(
        self, key: str, field: str, old: bytes, new: str | bytes
    ) -> bool:
        self.before([("CAS", key, field, old, new)])
        return self.redis.compare_and_set(key, field, old, new)


def once(
    link: Gated, wanted: Callable[[Sequence[Any]], bool], action: Callable[[], object]
) -> None:
    """Do something just before the first exchange of a kind."""

    def before(commands: Sequence[Any]) -> None:
        if wanted(commands):
            link.before = lambda commands: None
            action()

    link.before = before


@pytest.fixture
def redis() -> RedisModel:
    """A Redis with two records in a list."""
    model = RedisModel()
    model.run(("RPUSH", LIST, *RECORDS))
    return model


@pytest.fixture
def ours(redis: RedisModel) -> Iterator[Gated]:
    """The link of the instance that something happens to."""
    with contextlib.closing(Gated(redis)) as link:
        yield link


def claimed(redis: RedisModel, name: str = "a") -> Source:
    """An instance that has claimed the list."""
    source = make_source(Gated(redis), name=name)
    source.start()
    source.round()
    return source


def end_lease(redis: RedisModel, name: str) -> None:
    """Let the leases of an instance end."""
    for key in [key for key in redis.data if f":lease:{name}#" in key]:
        redis.run(("UNLINK", key))


def test_a_start_does_not_take_back_what_another_adopts_meanwhile(
    redis: RedisModel, ours: Gated
) -> None:
    """Else it brings a stream that is settled back to life, with records to miss."""
    claimed(redis)
    end_lease(redis, "a")
    adopter = make_source(Gated(redis), name="b")
    adopter.start()
    adopter.round()
    back = make_source(ours, name="a", incarnation="2", previous="1")
    once(ours, lambda commands: commands[0][0] == "CAS", lambda: adopter.round())
    back.start()
    assert not back.streams
    assert len(adopter.streams) == 1
    consumer = Consumer()
    consumer.drain(adopter)
    assert (consumer.records, consumer.lost) == (RECORDS, 0)
    back.round()
    assert not back.streams


def test_claims_without_any_cursor_are_delivered(
    redis: RedisModel, ours: Gated
) -> None:
    """Redis came back with the stream's owner, and got its claims again, not more."""
    (name,) = claimed(redis).streams
    key = f"analytics-tyk-pump:stream:{name}"
    redis.run(("HDEL", key, "pump:P"))
    heir = make_source(ours, incarnation="2", previous="1")
    heir.start()
    heir.round()
    consumer = Consumer()
    consumer.drain(heir)
    assert (consumer.records, consumer.lost) == (RECORDS, 0)


@pytest.mark.parametrize("finisher", ["", "b"])
def test_a_stream_of_which_only_the_name_is_left_is_gone(
    redis: RedisModel, ours: Gated, finisher: str
) -> None:
    """Redis came back with nothing else, or who finished it died before the last step.

    No pump was removed, as it would seem of a stream that is there without its cursors.
    """
    (name,) = claimed(redis).streams
    redis.run(("UNLINK", f"analytics-tyk-pump:stream:{name}"))
    if finisher:
        redis.run(("SET", f"analytics-tyk-pump:finished:{name}", finisher))
    back = make_source(ours, incarnation="2", previous="1")
    back.start()
    assert not back.streams and STREAMS not in redis.data
    back.sought = [name]
    back.round()
    assert back.finished == {name: finisher}


def test_a_note_without_an_answer_has_its_numbers(
    redis: RedisModel, ours: Gated
) -> None:
    """What another has left as an intent gets others, though its stream is older."""
    theirs = Gated(redis)
    other = make_source(theirs, name="b")
    other.start()

    def unanswered(commands: Sequence[Any], *, run: bool) -> None:
        if commands[0][0] == "CAS":
            if run:
                redis.compare_and_set(*commands[0][1:])
            raise SourceError("no answer")

    theirs.before = lambda commands: unanswered(commands, run=False)
    with pytest.raises(SourceError):
        other.round()
    (old,) = other.streams
    redis.run(("RPUSH", LIST, b"r2", b"r3"))
    source = make_source(ours)
    source.start()
    ours.before = lambda commands: unanswered(commands, run=True)
    with pytest.raises(SourceError):
        source.round()
    ours.before = lambda commands: None
    assert source._adopt(old, other.owner)
    source._resolve_all()
    consumer = Consumer()
    consumer.drain(source)
    assert sorted(consumer.records) == [*RECORDS, b"r2", b"r3"]


def test_an_adopter_that_comes_too_late_leaves_no_mark(
    redis: RedisModel, ours: Gated
) -> None:
    """The stream may be finished by then, and nobody would remove its hash."""
    claimed(redis)
    end_lease(redis, "a")
    back = make_source(Gated(redis), name="a", incarnation="2", previous="1")
    adopter = make_source(ours, name="b")
    adopter.start()
    adopter.round()
    once(ours, lambda commands: commands[0][0] == "CAS", back.start)
    assert adopter.round().adopted == []
    (stream,) = back.streams
    assert b"holder:b" not in redis.run(
        ("HGETALL", f"analytics-tyk-pump:stream:{stream}")
    )


def test_who_was_frozen_gives_no_numbers_to_what_an_adopter_has(
    redis: RedisModel, ours: Gated
) -> None:
    """The list is renamed and not noted yet when another instance adopts the stream.

    A note that comes so late, from one who is killed then, would be a claim without
    a list: the adopter would take its records for lost.
    """
    frozen = make_source(ours, name="a")
    frozen.start()
    theirs = Gated(redis)
    adopter = make_source(theirs, name="b")
    adopter.start()

    def cut() -> None:
        raise SourceError("connection lost")

    def killed() -> None:
        raise Died

    def adopt() -> None:
        adopter.round()
        end_lease(redis, "a")
        once(theirs, lambda commands: commands[0][0] == "HDEL", cut)
        with pytest.raises(SourceError):
            adopter.round()
        once(ours, lambda commands: commands[0][0] == "HDEL", killed)

    def renamed(commands: Sequence[Any]) -> bool:
        return any(":claim:" in key for key in redis.data)

    once(ours, renamed, adopt)
    with pytest.raises((Died, LeaseLost)):
        frozen.round()
    consumer = Consumer()
    for _ in range(4):
        consumer.drain(adopter)
        adopter.round()
    assert (consumer.records, consumer.lost) == (RECORDS, 0)


def test_a_late_tombstone_in_a_finished_claims_place_holds_up_nothing(
    redis: RedisModel,
) -> None:
    """A SET NX that was given up comes when the list is gone, and its field is not."""
    source = claimed(redis)
    (stream,) = source.streams.values()
    (claim,) = stream.claims.values()
    redis.run(("UNLINK", claim.key))
    redis.run(("SET", claim.key, "", "NX", "EX", 60))
    end_lease(redis, "a")
    heir = make_source(Gated(redis), name="a", incarnation="2", previous="1")
    heir.start()
    assert [line.left for line in list_claims(heir._link, "analytics-")] == [0]
    consumer = Consumer()
    for _ in range(4):
        heir.round()
        consumer.drain(heir, window=1)
    assert (consumer.records, consumer.lost) == ([], 2)
    assert not heir.streams and ":claim:" not in str(redis.data)


def test_the_end_of_the_lease_is_noticed_at_once(redis: RedisModel) -> None:
    """Also by who has nothing that another could have adopted."""
    source = make_source(Gated(redis), name="a")
    source.start()
    end_lease(redis, "a")
    with pytest.raises(LeaseLost):
        source.round()
    with pytest.raises(LeaseLost):
        source.renew()


@pytest.mark.parametrize("leased", [True, False])
def test_a_late_cursor_leaves_nothing_of_what_another_has_finished(
    redis: RedisModel, leased: bool
) -> None:
    """Who got no lease in a full Redis does not know of the other; with the cursor's
    answer, or with the next round, it does."""
    claimed(redis)
    then = make_source(Gated(redis), name="a", incarnation="2", previous="1")
    then.start()
    redis.run(("RPUSH", LIST, *RECORDS))
    then.round()
    end_lease(redis, "a")
    redis.full = True
    back = make_source(Gated(redis), name="a", incarnation="3", previous="2")
    back.start()
    assert len(back.streams) == 2
    redis.full = False
    adopter = make_source(Gated(redis), name="b")
    adopter.start()
    adopter.round()
    assert adopter.round().adopted == sorted(back.streams)
    Consumer().drain(adopter)
    adopter.round()
    assert not adopter.streams
    late = {name: {"P": Progress(position=1)} for name in back.streams}
    if not leased:
        back.settle(late, {})
    back.renew()
    with pytest.raises(LeaseLost):
        back.settle(late, {}) if leased else back.round()
    assert not [key for key in redis.data if ":stream:" in key]


def test_what_is_not_settled_is_not_written_with_the_rest(redis: RedisModel) -> None:
    """A cursor waits for the ledger, also when all of its stream goes to the file."""
    book = Book()
    source = make_source(Gated(redis), book=book)
    source.start()
    source.round()
    (stream,) = source.streams.values()
    stream.progress["P"].position = 2
    redis.run(("RPUSH", LIST, *RECORDS))
    redis.full = True
    source.round()
    (fields,) = book.pending().values()
    assert unpack(fields["pump:P"], Progress).position == 0
    source.settle({stream.id: stream.progress}, {})
    redis.run(("RPUSH", LIST, *RECORDS))
    source.round()
    (fields,) = book.pending().values()
    assert unpack(fields["pump:P"], Progress).position == 2


def test_a_stream_out_of_the_state_file_has_not_vanished(redis: RedisModel) -> None:
    """Redis did not have it at the look, and has been given it since."""
    book = Book()
    redis.full = True
    source = make_source(Gated(redis), book=book)
    source.start()
    source.round()
    (stream,) = source.streams
    back = make_source(Gated(redis), book=book, name="a", incarnation="2", previous="1")
    end_lease(redis, "a")
    back.start()
    back.sought = [stream]
    back.round()
    assert back.finished == {stream: ""}
    redis.full = False
    back.round()
    assert not back.finished
    back.round()
    assert list(back.streams) == [stream]
