"""No record is lost, and none comes twice in effect, whatever dies or stops where."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from tests.servers.redis import RedisServer
from tests.source.world import (
    LEASE,
    LIST,
    SHARD,
    Book,
    Consumer,
    Died,
    FakeClock,
    FaultyLink,
    end_leases,
    look,
    make_source,
    options,
    push,
)
from tyk_pump.errors import LeaseLost, SourceError
from tyk_pump.source.claims import Source
from tyk_pump.source.redis import Link

FIRST = [b"a%d" % n for n in range(7)]
SECOND = [b"b%d" % n for n in range(5)]
THIRD = [b"c%d" % n for n in range(3)]
ALL = sorted([*FIRST, *SECOND, *THIRD])

Fault = Callable[[Callable[..., Any], Sequence[Any]], Any]


def die_before(go: Callable[..., Any], commands: Sequence[Any]) -> Any:
    """Killed with the commands unsent."""
    raise Died


def die_after(go: Callable[..., Any], commands: Sequence[Any]) -> Any:
    """Killed with the answer unread."""
    go()
    raise Died


def die_within(go: Callable[..., Any], commands: Sequence[Any]) -> Any:
    """Killed with a part of the commands sent."""
    if len(commands) > 1 and commands[0][0] not in ("RENAMENX", "CAS"):
        go(commands[: len(commands) // 2])
    raise Died


def answer_lost(go: Callable[..., Any], commands: Sequence[Any]) -> Any:
    """The connection breaks behind the commands."""
    go()
    raise SourceError("connection lost")


def not_sent(go: Callable[..., Any], commands: Sequence[Any]) -> Any:
    """The connection breaks before the commands."""
    raise SourceError("connection lost")


def live(source: Source, consumer: Consumer, push_second: Callable[[], None]) -> None:
    """One instance's life: two rounds, all delivered, and the end."""
    source.start()
    look(source)
    consumer.drain(source)
    push_second()
    look(source)
    consumer.drain(source)
    source.give_back()


def steps(run: Callable[[int], FaultyLink]) -> None:
    """Run with the fault at the first exchange, the second, until none is left."""
    for at in range(1, 200):
        if run(at).count < at:
            assert at > 10
            return
    raise AssertionError("the run does not end")


@contextlib.contextmanager
def linked(server: RedisServer, at: int = 0, fault: Any = None) -> Iterator[FaultyLink]:
    """A link that is closed at the end."""
    with contextlib.closing(FaultyLink(options(server), at, fault)) as link:
        yield link


def fresh(server: RedisServer) -> None:
    """Empty Redis, and let the gateway push."""
    client = server.client()
    client.flushall()
    client.close()
    push(server, LIST, FIRST)
    push(server, SHARD, THIRD)


def once_pushed(server: RedisServer) -> Callable[[], None]:
    """The gateway pushes more: now or never again."""
    left = [SECOND]

    def more() -> None:
        if left:
            push(server, LIST, left.pop())

    return more


def finish(source: Source, consumer: Consumer) -> None:
    """Take over and deliver what is left."""
    source.start()
    for _ in range(4):
        look(source)
        consumer.drain(source)
    source.give_back()


def assert_clean(server: RedisServer, where: object) -> None:
    """Nothing of ours may be left but the version and tombstones with an end."""
    client = server.client()
    left = [k for k in client.keys("*") if client.ttl(k) == -1]
    client.close()
    left = [k for k in left if b"instances" not in k]
    assert left == [b"version-check-pump"], where


@pytest.mark.parametrize("fault", [die_before, die_after, die_within])
@pytest.mark.parametrize("same", [False, True], ids=["other", "restart"])
def test_killed_at_any_step(
    redis_server: RedisServer, fault: Fault, same: bool
) -> None:
    """A successor delivers the rest, once, and leaves nothing behind."""

    def run(at: int) -> FaultyLink:
        fresh(redis_server)
        more, consumer, book = once_pushed(redis_server), Consumer(), Book()
        with linked(redis_server, at, fault) as link, contextlib.suppress(Died):
            live(make_source(link, book=book), consumer, more)
        more()
        with linked(redis_server) as after:
            if same:
                heir = make_source(after, incarnation="2", previous="1", book=book)
            else:
                end_leases(redis_server)
                heir = make_source(after, name="b", incarnation="2")
            finish(heir, consumer)
        where = (at, link.log[-1:])
        assert sorted(consumer.records) == ALL, where
        assert consumer.lost == 0, where
        assert_clean(redis_server, where)
        return link

    steps(run)


@pytest.mark.parametrize("fault", [answer_lost, not_sent])
def test_an_answer_is_lost_at_any_step(redis_server: RedisServer, fault: Fault) -> None:
    """The instance itself finds out what became of it."""

    def run(at: int) -> FaultyLink:
        fresh(redis_server)
        more, consumer = once_pushed(redis_server), Consumer()
        with linked(redis_server, at, fault) as link:
            source = make_source(link)
            started = False
            for _ in range(6):
                with contextlib.suppress(SourceError):
                    if not started:
                        source.start()
                        started = True
                    look(source)
                    consumer.drain(source)
                    more()
            with contextlib.suppress(SourceError):
                source.give_back()
            with contextlib.closing(Link(options(redis_server))) as other:
                end_leases(redis_server)
                finish(make_source(other, name="b"), consumer)
        where = (at, link.log[at - 1 : at])
        assert sorted(consumer.records) == ALL, where
        assert consumer.lost == 0, where
        assert_clean(redis_server, where)
        return link

    steps(run)


@pytest.mark.parametrize("sent", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("rest", [False, True], ids=["finished", "going on"])
def test_frozen_at_any_step(redis_server: RedisServer, sent: bool, rest: bool) -> None:
    """Frozen past the lease, adopted by another, woken up: still once in effect."""

    def run(at: int) -> FaultyLink:
        fresh(redis_server)
        more, consumer, book = once_pushed(redis_server), Consumer(), Book()
        clock = FakeClock()

        def freeze(go: Callable[..., Any], commands: Sequence[Any]) -> Any:
            answer = go() if sent else None
            clock.ahead += 2 * LEASE
            end_leases(redis_server)
            with contextlib.closing(Link(options(redis_server))) as other:
                adopter = make_source(other, name="b", incarnation="9")
                adopter.start()
                for _ in range(3):
                    look(adopter)
                    if not rest:
                        consumer.drain(adopter)
                adopter.give_back()
            return answer if sent else go()

        incarnations = iter("1234567")
        with linked(redis_server, at, freeze) as link:
            previous = ""
            for incarnation in incarnations:
                source = make_source(
                    link,
                    incarnation=incarnation,
                    previous=previous,
                    book=book,
                    clock=clock,
                )
                try:
                    source.start()
                    for _ in range(3):
                        look(source)
                        consumer.drain(source)
                        more()
                    source.give_back()
                    break
                except LeaseLost:
                    previous = incarnation
        with linked(redis_server) as after:
            end_leases(redis_server)
            finish(make_source(after, name="c"), consumer)
        where = (at, link.log[at - 1 : at])
        assert sorted(consumer.records) == ALL, where
        assert consumer.lost == 0, where
        assert_clean(redis_server, where)
        return link

    steps(run)


def test_a_list_whose_intent_redis_has_forgotten_is_found(
    redis_server: RedisServer,
) -> None:
    """Redis comes back without the intent, and then the list is renamed."""
    fresh(redis_server)
    consumer, book = Consumer(), Book()

    def forget(go: Callable[..., Any], commands: Sequence[Any]) -> Any:
        client = redis_server.client()
        for key in client.scan_iter("*tyk-pump:stream:*"):
            fields: list[Any] = client.hkeys(key)
            client.hdel(key, *[f for f in fields if f.startswith(b"claim:")])
        client.close()
        return go()

    def run(at: int) -> FaultyLink:
        with linked(redis_server, at, forget) as link:
            source = make_source(link, book=book)
            source.start()
            with contextlib.suppress(LeaseLost):
                look(source)
        return link

    link = run(0)
    (first, *_) = [
        number
        for number, commands in enumerate(link.log, 1)
        if commands[0][0] == "RENAMENX"
    ]
    fresh(redis_server)
    book.fields.clear()
    run(first)
    with linked(redis_server) as after:
        end_leases(redis_server)
        heir = make_source(after, incarnation="2", previous="1", book=book)
        finish(heir, consumer)
    assert sorted(consumer.records) == sorted(FIRST + THIRD)
    assert_clean(redis_server, first)


def test_a_stream_is_not_left_alone_when_its_adoption_is_unanswered(
    redis_server: RedisServer,
) -> None:
    """It is ours in Redis and not in our hands: we look at it again."""
    for at in range(1, 12):
        consumer = Consumer()
        fresh(redis_server)
        with linked(redis_server) as link:
            source = make_source(link, name="a")
            source.start()
            look(source)
        end_leases(redis_server)
        with linked(redis_server, at, answer_lost) as link:
            heir = make_source(link, name="b")
            for _ in range(3):
                with contextlib.suppress(SourceError):
                    heir.start()
                    break
            for _ in range(4):
                with contextlib.suppress(SourceError):
                    look(heir)
            link.at = 0
            consumer.drain(heir)
            heir.give_back()
        assert sorted(consumer.records) == sorted([*FIRST, *THIRD]), at
