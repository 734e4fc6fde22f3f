"""The Redis in memory answers every command as the real one does."""

from __future__ import annotations

from typing import Any

import pytest
from redis.exceptions import OutOfMemoryError, ResponseError

from tests.faults.redis_model import RedisModel
from tests.servers.redis import RedisServer
from tests.source.world import options
from tyk_pump.source.redis import Link

Script = list[tuple[Any, ...]]

SCRIPTS: dict[str, Script] = {
    "strings": [
        ("SET", "a", "x", "NX", "PX", 100000),
        ("SET", "a", "y", "NX"),
        ("EXISTS", "a", "b", "a"),
        ("PEXPIRE", "a", 5000),
        ("PEXPIRE", "b", 5000),
        ("PERSIST", "a"),
        ("PERSIST", "a"),
        ("UNLINK", "a", "b"),
        ("PING", "x"),
    ],
    "hashes": [
        ("HSET", "h", "f", 1, "g", b"\x00\xff"),
        ("HSET", "h", "f", 2),
        ("HSETNX", "h", "f", 3),
        ("HSETNX", "h", "i", 3),
        ("HGET", "h", "f"),
        ("HGET", "h", "none"),
        ("HGETALL", "h"),
        ("HDEL", "h", "f", "none"),
        ("HDEL", "h", "g", "i"),
        ("EXISTS", "h"),
        ("HGETALL", "h"),
        ("HDEL", "h", "g"),
    ],
    "lists": [
        ("RPUSH", "l", *range(6)),
        ("LPUSH", "l", "x", "y"),
        ("LLEN", "l"),
        ("LINDEX", "l", 0),
        ("LINDEX", "l", -1),
        ("LINDEX", "l", 8),
        ("LINDEX", "l", -9),
        *(
            ("LRANGE", "l", start, stop)
            for start in (-20, -8, -3, 0, 2, 7, 9)
            for stop in (-20, -9, -8, -3, 0, 2, 7, 20)
        ),
        ("LTRIM", "l", -5, -1),
        ("LRANGE", "l", 0, -1),
        ("LTRIM", "l", -20, -1),
        ("LTRIM", "l", 0, -3),
        ("LRANGE", "l", 0, -1),
        ("LTRIM", "l", 9, -1),
        ("EXISTS", "l"),
        ("LTRIM", "l", 0, -1),
        ("LLEN", "l"),
        ("LINDEX", "l", 0),
    ],
    "names": [
        ("RENAMENX", "none", "n"),
        ("RPUSH", "l", 1, 2),
        ("EXPIRE", "l", 100),
        ("SET", "n", ""),
        ("RENAMENX", "l", "n"),
        ("RENAMENX", "l", "m"),
        ("PERSIST", "m"),
        ("EXISTS", "l"),
        ("LLEN", "n"),
        ("LRANGE", "n", 0, -1),
        ("LTRIM", "n", 0, -1),
        ("HGET", "n", "f"),
        ("HSET", "m", "f", 1),
        ("RPUSH", "n", 1),
        ("RENAMENX", "m", "m"),
    ],
}


def plain(replies: list[Any]) -> list[Any]:
    """Return replies with refusals as something to compare."""
    return [
        ("refused", type(reply).__name__, str(reply))
        if isinstance(reply, ResponseError)
        else reply
        for reply in replies
    ]


def emptied(server: RedisServer) -> Link:
    """Return a link to a server without keys."""
    client = server.client()
    client.flushall()
    client.close()
    return Link(options(server))


@pytest.mark.parametrize("atomic", [False, True], ids=["plain", "atomic"])
@pytest.mark.parametrize("name", SCRIPTS)
def test_the_replies_are_those_of_redis(
    redis_server: RedisServer, name: str, atomic: bool
) -> None:
    """Command by command, refusals with their words."""
    link, model = emptied(redis_server), RedisModel()
    script = SCRIPTS[name]
    asked = plain(link.execute(script, atomic=atomic))
    for command, theirs, ours in zip(
        script, asked, plain(model.execute(script, atomic=atomic)), strict=True
    ):
        assert (command, ours) == (command, theirs)
    link.close()


@pytest.mark.parametrize("atomic", [False, True], ids=["plain", "atomic"])
def test_without_memory_the_same_is_refused(
    redis_server: RedisServer, atomic: bool
) -> None:
    """Alone each command says for itself; in a transaction nothing is taken."""
    link, model = emptied(redis_server), RedisModel()
    before: Script = [("RPUSH", "l", 1, 2, 3), ("HSET", "h", "f", 1), ("SET", "s", 1)]
    full: Script = [
        ("RENAMENX", "l", "m"),
        ("PERSIST", "m"),
        ("LLEN", "m"),
        ("LTRIM", "m", -2, -1),
        ("PEXPIRE", "s", 100000),
        ("SET", "t", ""),
        ("HSET", "h", "f", 2),
        ("HSETNX", "h", "f", 2),
        ("HDEL", "h", "f"),
        ("RPUSH", "l", 1),
        ("LPUSH", "l", 1),
        ("UNLINK", "m"),
        ("EXISTS", "l", "m", "h", "s", "t"),
    ]
    link.execute(before)
    model.execute(before)
    client = redis_server.client()
    client.config_set("maxmemory", 1)
    model.full = True
    try:
        asked = plain(link.execute(full, atomic=atomic))
        moved = link.compare_and_set("h", "f", b"1", "2")
    finally:
        client.config_set("maxmemory", 0)
        client.close()
    ours = plain(model.execute(full, atomic=atomic))
    refused = [reply[1] if isinstance(reply, tuple) else reply for reply in asked]
    assert [reply[1] if isinstance(reply, tuple) else reply for reply in ours] == (
        refused
    )
    assert OutOfMemoryError.__name__ in refused
    assert model.compare_and_set("h", "f", b"1", "2") is moved is False
    link.close()


def test_a_field_is_set_only_over_what_was_seen(redis_server: RedisServer) -> None:
    """By compare-and-set, in a hash that may not be there."""
    link, model = emptied(redis_server), RedisModel()
    for way in (link, model):
        way.execute([("HSET", "h", "f", "1")])
        assert not way.compare_and_set("h", "f", b"0", "2")
        assert not way.compare_and_set("h", "g", b"", "2")
        assert not way.compare_and_set("none", "f", b"", "2")
        assert way.compare_and_set("h", "f", b"1", "2")
        assert way.execute([("HGETALL", "h")]) == [[b"f", b"2"]]
    link.close()


def test_keys_end_by_the_given_clock() -> None:
    """A time to live travels with the name and can be taken away."""
    now = [100.0]
    model = RedisModel(lambda: now[0])
    model.execute([("SET", "a", "", "PX", 2000), ("RPUSH", "l", 1), ("EXPIRE", "l", 2)])
    model.execute([("RENAMENX", "l", "m"), ("PEXPIRE", "a", 3000)])
    now[0] += 2
    assert model.execute([("EXISTS", "a"), ("LLEN", "m")]) == [1, 0]
    now[0] += 1
    assert model.execute([("EXISTS", "a"), ("PTTL", "a")]) == [0, -2]


def test_a_snapshot_is_a_state_to_come_back_to() -> None:
    """What happens afterwards does not touch it; equal states are equal."""
    model, twin = RedisModel(), RedisModel()
    for one in (model, twin):
        one.execute([("RPUSH", "l", 1, 2), ("HSET", "h", "f", 1)])
    kept = model.snapshot()
    assert model == twin
    assert hash(model) == hash(twin)
    model.execute([("RPUSH", "l", 3), ("HSET", "h", "f", 2), ("SET", "s", 1)])
    assert model != twin
    model.restore(kept)
    assert model == twin
