"""Redis is out of memory: claiming and trimming go on, and nothing is forgotten."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from tests.servers.redis import RedisServer
from tests.source.test_deaths import (
    ALL,
    Fault,
    assert_clean,
    die_after,
    die_before,
    die_within,
    finish,
    fresh,
    linked,
    once_pushed,
    steps,
)
from tests.source.world import (
    LIST,
    Book,
    Consumer,
    Died,
    FaultyLink,
    end_leases,
    make_source,
    push,
)
from tyk_pump.errors import SourceError, StateError


def memory(server: RedisServer, limit: int) -> None:
    """Set how much memory Redis may use; 0 is no limit, 1 leaves none."""
    client = server.client()
    client.config_set("maxmemory", limit)
    client.close()


@pytest.fixture
def full(redis_server: RedisServer) -> Any:
    """A server whose memory is given back at the end."""
    yield redis_server
    memory(redis_server, 0)


def test_claiming_and_delivery_go_on_in_a_full_redis(full: RedisServer) -> None:
    """What would have been noted in Redis is in the state file meanwhile."""
    consumer, book = Consumer(), Book()
    fresh(full)
    with linked(full) as link:
        source = make_source(link, book=book)
        source.start()
        memory(full, 1)
        assert source.round().claimed == 10
        assert book.fields
        consumer.drain(source)
        memory(full, 0)
        more = once_pushed(full)
        more()
        source.round()
        consumer.drain(source)
        assert not book.fields
        source.give_back()
    assert sorted(consumer.records) == ALL
    assert_clean(full, "")


def test_a_refused_cursor_is_written_although_nothing_moves(full: RedisServer) -> None:
    """When Redis has room again it is told, not only with the next records."""
    fresh(full)
    with linked(full) as link:
        source = make_source(link)
        source.start()
        source.round()
        stream = next(iter(source.streams.values()))
        progress = stream.progress["P"]
        progress.position = 4
        memory(full, 1)
        source.settle({stream.id: {"P": progress}}, {})
        memory(full, 0)
        source.round()
        assert source._load(stream.id).progress["P"].position == 4
        source.give_back()


def test_a_cursor_that_redis_refused_survives_a_second_look(full: RedisServer) -> None:
    """A finished stream that has a claim yet is read again, not begun again."""
    fresh(full)
    with linked(full) as link:
        source = make_source(link)
        source.start()
        source.round()
        stream = next(iter(source.streams.values()))
        stream.own = False
        progress = stream.progress["P"]
        progress.position = 4
        memory(full, 1)
        source.settle({stream.id: {"P": progress}}, {})
        source._remove(stream)
        assert source.streams[stream.id] is stream and stream.claims
        assert stream.progress["P"].position == 4
        memory(full, 0)


def test_a_restart_in_a_full_redis_makes_room(full: RedisServer) -> None:
    """Our own claims may be what fills it: they are read and trimmed all the same."""
    consumer, book = Consumer(), Book()
    fresh(full)
    with linked(full) as link:
        make_source(link, book=book).start()
        source = make_source(link, book=book)
        source.start()
        source.round()
    memory(full, 1)
    end_leases(full)
    with linked(full) as link:
        heir = make_source(link, incarnation="2", previous="1", book=book)
        heir.start()
        heir.round()
        consumer.drain(heir)
        assert len(consumer.records) == 10
        assert heir.backlog() == (0, 0)
        memory(full, 0)
        once_pushed(full)()
        heir.round()
        consumer.drain(heir)
        heir.give_back()
    assert sorted(consumer.records) == ALL
    assert_clean(full, "")


def test_nothing_is_renamed_that_cannot_be_noted_anywhere(full: RedisServer) -> None:
    """With the disk full as well the list stays where it is."""

    class NoBook(Book):
        def put(self, stream: str, fields: Any) -> None:
            raise StateError("the disk is full")

    fresh(full)
    with linked(full) as link:
        source = make_source(link, book=NoBook())
        source.start()
        memory(full, 1)
        with pytest.raises(SourceError, match="disk is full"):
            source.round()
        client = full.client()
        assert client.llen(LIST) == 7
        client.close()
        memory(full, 0)
        assert source.round().claimed == 10


@pytest.mark.parametrize("fault", [die_before, die_after, die_within])
@pytest.mark.parametrize("adopted", [False, True], ids=["restart", "adopted"])
def test_killed_at_any_step_in_a_full_redis(
    full: RedisServer, fault: Fault, adopted: bool
) -> None:
    """With the state file's help all is delivered, once, whoever comes first."""

    def run(at: int) -> FaultyLink:
        memory(full, 0)
        fresh(full)
        consumer, book = Consumer(), Book()
        more = once_pushed(full)
        with linked(full, at, fault) as link, contextlib.suppress(Died):
            source = make_source(link, book=book)
            source.start()
            source.round()
            consumer.drain(source, window=3)
            more()
            memory(full, 1)
            source.round()
            push_more(full, b"d")
            source.round()
            memory(full, 0)
            push_more(full, b"e")
            source.round()
            consumer.drain(source)
            source.give_back()
        memory(full, 0)
        more()
        if adopted:
            end_leases(full)
            with linked(full) as other:
                finish(make_source(other, name="b", incarnation="9"), consumer)
        with linked(full) as after:
            heir = make_source(after, incarnation="2", previous="1", book=book)
            finish(heir, consumer)
        where = (at, link.log[-1:])
        extra = {b"d", b"e"} & set(consumer.records)
        assert sorted(consumer.records) == sorted([*ALL, *extra]), where
        assert not book.fields, where
        assert_clean(full, where)
        return link

    steps(run)


def push_more(server: RedisServer, record: bytes) -> None:
    """Push one record, for which there is always room."""
    client = server.client()
    found: Any = client.config_get("maxmemory")
    client.close()
    memory(server, 0)
    push(server, LIST, [record])
    memory(server, int(found["maxmemory"]))
