"""Connections to Redis: what stands in an answer's place, and what raises."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from redis.connection import SSLConnection
from redis.exceptions import ResponseError

from tests.servers.redis import RedisServer
from tests.source.world import options
from tyk_pump.config.root import RedisOptions
from tyk_pump.errors import SourceError
from tyk_pump.source.redis import Link, out_of_memory


@pytest.fixture
def link(redis_server: RedisServer) -> Iterator[Link]:
    """A link to the shared server."""
    with contextlib.closing(Link(options(redis_server))) as found:
        yield found


def test_a_refusal_stands_in_its_place(link: Link) -> None:
    """The others of the pipeline have their answers."""
    found = link.execute([("SET", "x", "1"), ("LLEN", "x"), ("GET", "x")])
    assert found[0] in (b"OK", True) and found[2] == b"1"
    assert isinstance(found[1], ResponseError)
    assert link.execute([]) == []


def test_a_transaction_answers_for_its_commands(link: Link) -> None:
    """Just the answers between MULTI and EXEC."""
    assert link.execute([("RPUSH", "l", "a"), ("LLEN", "l")], atomic=True) == [1, 1]


def test_memory_is_told_from_other_refusals(
    link: Link, redis_server: RedisServer
) -> None:
    """Only the lack of memory has a way around it."""
    client = redis_server.client()
    client.config_set("maxmemory", 1)
    try:
        refused, other = link.execute([("SET", "x", "1"), ("NONSENSE", "x")])
        assert out_of_memory(refused) and not out_of_memory(other)
        assert not link.compare_and_set("h", "f", b"", "new")
    finally:
        client.config_set("maxmemory", 0)
        client.close()


def test_an_owner_is_changed_only_from_the_expected_one(link: Link) -> None:
    """Compare and set, on our own hash."""
    link.execute([("HSET", "h", "f", "old")])
    assert not link.compare_and_set("h", "f", b"other", "new")
    assert link.compare_and_set("h", "f", b"old", "new")
    assert link.execute([("HGET", "h", "f")]) == [b"new"]


def test_an_absent_server_is_trouble_that_may_pass(
    make_redis: Callable[..., RedisServer],
) -> None:
    """SourceError, and the link works again when the server is back."""
    server = make_redis()
    with contextlib.closing(Link(options(server, timeout=1))) as link:
        assert link.ping().split()[0] in ("Redis", "Valkey")
        server.kill()
        with pytest.raises(SourceError):
            link.execute([("GET", "x")])
        server.restart()
        with contextlib.suppress(SourceError):
            link.ping()
        assert link.execute([("GET", "x")]) == [None]


def test_a_replica_is_trouble_that_may_pass(
    make_redis: Callable[..., RedisServer],
) -> None:
    """READONLY: after a failover the server under this name will be another."""
    server = make_redis(replicaof="127.0.0.1 1")
    link = Link(options(server))
    with contextlib.closing(link), pytest.raises(SourceError):
        link.execute([("SET", "x", "1")])


def test_sentinels_speak_tls_where_the_servers_do(redis_server: RedisServer) -> None:
    """As with the reference: one switch for both."""
    where = options(redis_server, master_name="m", use_ssl=True)
    pool: Any = Link(where)._make_pool()
    (sentinel,) = pool.sentinel_manager.sentinels
    assert sentinel.connection_pool.connection_class is SSLConnection


def test_a_command_whose_answer_is_lost_goes_out_once() -> None:
    """A server that takes each command and hangs up instead of answering."""
    seen: list[bytes] = []

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            with peer:
                while data := peer.recv(65536):
                    if b"RENAMENX" in data:
                        seen.append(data)
                        break
                    peer.sendall(b"+OK\r\n" * data.count(b"SETINFO"))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        values = {"host": "127.0.0.1", "port": listener.getsockname()[1]}
        with contextlib.closing(Link(msgspec.convert(values, RedisOptions))) as link:
            for atomic in (False, True):
                with pytest.raises(SourceError):
                    link.execute([("RENAMENX", "a", "b")], atomic=atomic)
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()
    assert len(seen) == 2
