"""Claims, windows, cursors and owners on a real Redis, each in its plain case."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import pytest
from redis.cluster import RedisCluster

from tests.servers.redis import RedisServer
from tests.source.world import (
    LIST,
    SHARD,
    Book,
    Consumer,
    Died,
    FaultyLink,
    NoDisk,
    end_leases,
    make_source,
    options,
    push,
    settle,
)
from tyk_pump.errors import ConfigError, LeaseLost, SourceError
from tyk_pump.source.claims import Claim, Progress, Source, Stream
from tyk_pump.source.redis import Link

RECORDS = [b"r%d" % n for n in range(10)]


@pytest.fixture
def link(redis_server: RedisServer) -> Iterator[FaultyLink]:
    """A link that remembers what was sent."""
    with contextlib.closing(FaultyLink(options(redis_server))) as found:
        yield found


@pytest.fixture
def other(redis_server: RedisServer) -> Iterator[Link]:
    """A second instance's link."""
    with contextlib.closing(Link(options(redis_server))) as found:
        yield found


def started(link: Link, **more: Any) -> Source:
    """A source that has its lease."""
    source = make_source(link, **more)
    source.start()
    return source


def own(source: Source) -> Stream:
    """The one stream of a source."""
    (stream,) = source.streams.values()
    return stream


def only_claim(source: Source) -> Claim:
    """The one claim of a source."""
    (claim,) = own(source).claims.values()
    return claim


def test_an_idle_round_is_one_round_trip(link: FaultyLink) -> None:
    """An idle pump costs Redis one pipeline."""
    source = started(link)
    before = link.count
    source.round()
    assert link.count == before + 1


def test_a_claim_has_no_end_of_life(
    link: FaultyLink, redis_server: RedisServer
) -> None:
    """The TTL of the gateway travels with a rename, and is taken away."""
    push(redis_server, LIST, RECORDS)
    client = redis_server.client()
    client.expire(LIST, 1)
    source = started(link)
    assert source.round().claimed == 10
    assert client.ttl(only_claim(source).key) == -1
    assert client.exists(LIST) == 0
    client.close()


def test_no_script_and_no_watch_on_the_gateways_list(
    link: FaultyLink, redis_server: RedisServer
) -> None:
    """Either would let a busy gateway stop us, or make reads dearer."""
    push(redis_server, LIST, RECORDS)
    source = started(link)
    source.round()
    Consumer().drain(source)
    sent = [c for commands in link.log for c in commands]
    names = {command[0] for command in sent}
    assert not names & {"EVAL", "EVALSHA", "FCALL", "WATCH", "RENAME"}
    assert [c[1] for c in sent if c[0] == "RENAMENX"] == [LIST]


def test_nothing_is_sent_again_after_a_lost_answer(
    redis_server: RedisServer,
) -> None:
    """The client of the driver would send a rename twice; the link never does."""
    with contextlib.closing(Link(options(redis_server))) as link:
        link.execute([("SET", "x", "1")])
        client = redis_server.client()
        client.client_kill_filter(_type="normal", skipme=True)
        with contextlib.suppress(SourceError):
            link.execute([("INCR", "n")])
        assert int(client.get("n") or 0) <= 1
        calls = client.info("commandstats").get("cmdstat_incr", {"calls": 0})
        assert calls["calls"] <= 1
        client.close()


def test_positions_go_on_over_lists_and_rounds(
    link: FaultyLink, redis_server: RedisServer
) -> None:
    """One numbering per stream, whatever list a claim came from."""
    push(redis_server, LIST, RECORDS[:4])
    push(redis_server, SHARD, RECORDS[4:6])
    source = started(link)
    source.round()
    push(redis_server, LIST, RECORDS[6:])
    source.round()
    found = [(c.base, c.length, c.list) for c in own(source).claims.values()]
    assert found == [(0, 4, LIST), (4, 2, SHARD), (6, 4, LIST)]
    window = source.read(own(source).id, 5, 100)
    assert (window.first, window.records, window.codec) == (5, [b"r5"], "protobuf")


def test_a_position_stays_where_it_is_whatever_is_trimmed(
    link: FaultyLink, redis_server: RedisServer
) -> None:
    """Positions are counted from the tail; a trim can be repeated."""
    push(redis_server, LIST, RECORDS)
    source = started(link)
    source.round()
    stream = own(source)
    for upto in (3, 3, 7):
        source.settle({}, {stream.id: upto})
        stream.trimmed = 0  # as after a lost answer: the trim is sent again
        window = source.read(stream.id, 8, 5)
        assert window.records == RECORDS[8:]
    source.settle({}, {stream.id: 10})
    assert stream.claims == {}
    client = redis_server.client()
    assert client.keys("*:claim:*") == []
    client.close()


def test_cursors_go_before_trims_and_not_in_a_transaction(
    link: FaultyLink, redis_server: RedisServer
) -> None:
    """A refused cursor may not keep a trim from happening, nor be overtaken by it."""
    push(redis_server, LIST, RECORDS)
    source = started(link)
    source.round()
    link.log.clear()
    stream = own(source)
    source.settle({stream.id: {"P": Progress(5)}}, {stream.id: 5})
    names = [command[0] for command in link.log[0]]
    assert names[:2] == ["HSET", "LTRIM"]


def test_the_next_owner_goes_on_with_the_same_ids(
    link: FaultyLink, other: Link, redis_server: RedisServer
) -> None:
    """Adopted once the lease is gone, from the cursor, under the same numbers."""
    push(redis_server, LIST, RECORDS)
    source = started(link)
    source.round()
    stream = own(source)
    stream.progress["P"] = Progress(4, filtered=1, dead=2)
    settle(source, stream, "P")
    heir = started(other, name="b")
    assert heir.round().adopted == []
    assert heir.round().adopted == []
    end_leases(redis_server, "a")
    assert heir.round().adopted == [stream.id]
    adopted = heir.streams[stream.id]
    assert adopted.progress["P"] == Progress(4, 1, 2)
    assert heir.read(stream.id, 4, 2).records == RECORDS[4:6]
    with pytest.raises(LeaseLost):
        source.read(stream.id, 4, 2)
    with pytest.raises(LeaseLost):
        source.round()


def test_only_one_of_many_adopts(redis_server: RedisServer) -> None:
    """Ownership changes by compare and set."""
    push(redis_server, LIST, RECORDS)
    with contextlib.ExitStack() as stack:
        links = [
            stack.enter_context(contextlib.closing(Link(options(redis_server))))
            for _ in range(3)
        ]
        source = started(links[0])
        source.round()
        source.give_back()
        heirs = [started(links[n], name=f"h{n}") for n in (1, 2)]
        adopted = [heir.round().adopted for heir in heirs]
    assert sorted(map(len, adopted)) == [0, 1]


def test_a_name_is_held_once(link: FaultyLink, other: Link) -> None:
    """A second living holder refuses to start; the previous incarnation is no rival."""
    started(link)
    with pytest.raises(ConfigError, match="instance_name"):
        make_source(other, incarnation="2").start()
    started(other, incarnation="2", previous="1").round()


def test_a_new_pump_is_owed_what_comes_from_now_on(
    link: FaultyLink, redis_server: RedisServer
) -> None:
    """And nothing before; a forgotten pump holds nothing back."""
    push(redis_server, LIST, RECORDS[:4])
    source = started(link)
    source.round()
    source.owe("Q")
    assert own(source).progress["Q"].position == 4
    push(redis_server, LIST, RECORDS[4:])
    source.round()
    consumer = Consumer()
    consumer.drain(source, "Q")
    assert consumer.records == RECORDS[4:]
    assert source.backlog() == (2, 10)
    source.forget("P")
    settle(source, own(source), "Q")
    assert source.backlog() == (0, 0)


def test_an_adopter_keeps_what_an_unknown_pump_is_owed(
    link: FaultyLink, other: Link, redis_server: RedisServer
) -> None:
    """Its own pumps settle; the other's cursor stays, and the claim with it."""
    push(redis_server, LIST, RECORDS)
    source = started(link, fields=["P", "GONE"])
    source.round()
    source.give_back()
    heir = started(other, name="b", fields=["P"])
    heir.round()
    consumer = Consumer()
    consumer.drain(heir)
    assert consumer.records == RECORDS
    assert heir.backlog() == (1, 10)
    heir.forget("GONE")
    Consumer().drain(heir)
    assert heir.backlog() == (0, 0)


def test_what_is_adopted_settled_is_looked_at_before_it_goes(
    link: FaultyLink, other: Link, redis_server: RedisServer
) -> None:
    """Else who made the stream finds that we have finished it, and not what we knew."""
    push(redis_server, LIST, RECORDS)
    source = started(link)
    source.round()
    (stream,) = source.streams.values()
    source.settle({stream.id: {"P": Progress(10)}}, {stream.id: 10})
    end_leases(redis_server)
    heir = started(other, name="b")
    for _ in range(2):
        heir.round()
    assert heir.streams[stream.id].progress["P"].position == 10
    assert heir.settled == {stream.id}
    heir.settle({}, {}, {stream.id})
    assert heir.settled == {stream.id}
    heir.settle({}, {})
    assert not heir.streams
    assert other.execute([("HLEN", "analytics-tyk-pump:streams")]) == [0]


def test_what_the_disk_knows_is_not_delivered_again(
    link: FaultyLink, other: Link, redis_server: RedisServer
) -> None:
    """The lease ended before Redis was told; another had it, and gave it back."""

    class Disk(NoDisk):
        def reached(self, stream: str, field: str) -> int:
            return 6

    push(redis_server, LIST, RECORDS)
    source = started(link)
    source.round()
    source.give_back()
    between = started(other, name="b")
    between.round()
    between.give_back()
    again = started(link, incarnation="2", previous="1", shelf=Disk())
    again.round()
    assert own(again).shared and own(again).progress["P"].position == 6
    consumer = Consumer()
    consumer.drain(again)
    assert consumer.records == RECORDS[6:]


def test_a_rename_whose_answer_was_lost_is_found(
    link: FaultyLink, redis_server: RedisServer
) -> None:
    """The intent stays, and the next round sees that the claim is there."""

    def lose(go: Callable[..., Any], commands: Sequence[Any]) -> Any:
        go()
        raise SourceError("lost")

    push(redis_server, LIST, RECORDS)
    source = started(link)
    link.fault, link.at = lose, link.count + 3  # the look, the intent, the rename
    with pytest.raises(SourceError):
        source.round()
    assert len(own(source).intents) == 1
    assert source.round().claimed == 10
    assert source.read(own(source).id, 0, 100).records == RECORDS


def test_a_rename_that_comes_after_the_tombstone_does_nothing(
    link: FaultyLink, other: Link, redis_server: RedisServer
) -> None:
    """Who was frozen between intent and rename, and dies right after it, cannot hide
    records from the adopter."""
    source = started(link)
    push(redis_server, LIST, RECORDS)
    adopter = started(other, name="b")

    def freeze(go: Callable[..., Any], commands: Sequence[Any]) -> Any:
        end_leases(redis_server, "a")
        adopter.round()
        adopter.round()
        push(redis_server, LIST, [b"late"])
        go()
        raise Died

    link.fault, link.word = freeze, "RENAME"
    with pytest.raises(Died):
        source.round()
    adopter.round()
    consumer = Consumer()
    consumer.drain(adopter)
    assert consumer.records == [*RECORDS, b"late"]


def test_a_claim_that_comes_back_in_part_hides_no_other_records(
    link: FaultyLink, redis_server: RedisServer
) -> None:
    """Redis has the list as it was before its last records; others came behind."""
    push(redis_server, LIST, RECORDS[:4])
    source = started(link)
    source.round()
    stream = own(source)
    client = redis_server.client()
    client.delete(*(claim.key for claim in stream.claims.values()))
    push(redis_server, LIST, [*RECORDS[:3], b"other", b"more"])
    assert source.round().claimed == 5
    got = [source.read(stream.id, 4 + p, 1).records[0] for p in range(5)]
    assert got == [*RECORDS[:3], b"other", b"more"]
    client.close()


def test_vanished_claims_come_back_under_their_ids(
    link: FaultyLink, redis_server: RedisServer
) -> None:
    """Redis has an older state: two claims are one list again, with more behind."""
    push(redis_server, LIST, RECORDS[:4])
    source = started(link)
    source.round()
    push(redis_server, LIST, RECORDS[4:7])
    source.round()
    stream = own(source)
    client = redis_server.client()
    client.delete(*(claim.key for claim in stream.claims.values()))
    push(redis_server, LIST, RECORDS)
    assert source.round().claimed == 3
    got = [source.read(stream.id, p, 1).records[0] for p in range(10)]
    assert got == RECORDS
    assert stream.end == 10
    source.settle({}, {stream.id: 8})
    assert client.llen(next(iter(stream.claims.values())).key) == 2
    source.settle({}, {stream.id: 10})
    assert client.keys("*:claim:*") == []
    client.close()


def test_a_claim_that_is_gone_for_good_is_counted(
    link: FaultyLink, redis_server: RedisServer
) -> None:
    """It neither crashes nor is waited for; what comes later is delivered."""
    push(redis_server, LIST, RECORDS)
    source = started(link)
    source.round()
    client = redis_server.client()
    client.delete(only_claim(source).key)
    client.close()
    consumer = Consumer()
    for _ in range(5):
        source.round()
        consumer.drain(source, window=100)
    assert consumer.lost == 10
    push(redis_server, LIST, [b"new"])
    source.round()
    consumer.drain(source)
    assert consumer.records == [b"new"]


def test_a_claim_whose_head_is_gone_counts_only_that(
    link: FaultyLink, redis_server: RedisServer
) -> None:
    """The rest keeps its positions."""
    push(redis_server, LIST, RECORDS)
    source = started(link)
    source.round()
    client = redis_server.client()
    client.ltrim(only_claim(source).key, 3, -1)
    client.close()
    consumer = Consumer()
    consumer.drain(source)
    assert (consumer.lost, consumer.records) == (3, RECORDS[3:])


def test_streams_that_redis_forgot_are_put_back(
    link: FaultyLink, other: Link, redis_server: RedisServer
) -> None:
    """Redis came back without our hashes: another can still adopt what is left."""
    push(redis_server, LIST, RECORDS)
    source = started(link)
    source.round()
    stream = own(source)
    client = redis_server.client()
    client.delete(
        "analytics-tyk-pump:streams", f"analytics-tyk-pump:stream:{stream.id}"
    )
    client.close()
    source.round()
    source.give_back()
    heir = started(other, name="b")
    assert heir.round().adopted == [stream.id]
    consumer = Consumer()
    consumer.drain(heir)
    assert consumer.records == RECORDS


def test_a_note_never_comes_back_without_its_cursors(
    link: FaultyLink, other: Link, redis_server: RedisServer
) -> None:
    """A stream from the state file alone still says who is owed."""
    push(redis_server, LIST, RECORDS)
    book = Book()
    source = started(link, book=book)
    client = redis_server.client()
    client.config_set("maxmemory", 1)
    try:
        source.round()
    finally:
        client.config_set("maxmemory", 0)
    assert client.exists("analytics-tyk-pump:streams") == 0
    end_leases(redis_server)
    heir = started(other, incarnation="2", previous="1", book=book)
    heir.round()
    consumer = Consumer()
    consumer.drain(heir)
    assert consumer.records == RECORDS
    heir.round()
    assert book.fields == {}
    client.close()


def test_a_cluster_has_each_list_on_its_node(
    redis_cluster: list[RedisServer],
) -> None:
    """Claimed, read, trimmed and adopted over all nodes."""
    nodes = [f"127.0.0.1:{server.port}" for server in redis_cluster]
    client: Any = RedisCluster(host="127.0.0.1", port=redis_cluster[0].port)
    try:
        client.flushall(target_nodes="primaries")
        names = [f"{LIST}_{n}" for n in range(10)]
        for name in names:
            client.rpush(name, *RECORDS)
        values = {"addrs": nodes, "enable_cluster": True}
        where = msgspec.convert(values, type(options(redis_cluster[0])))
        with contextlib.closing(Link(where)) as link:
            source = started(link)
            assert source.round().claimed == 100
            source.give_back()
            heir = started(link, name="b")
            assert len(heir.round().adopted) == 1
            consumer = Consumer()
            consumer.drain(heir)
            heir.give_back()
        assert sorted(consumer.records) == sorted(RECORDS * 10)
        left = client.keys("*", target_nodes="primaries")
        left = [key for key in left if b"claim" in key or b"tyk-pump" in key]
        assert len(left) == 1 and b"tyk-pump:finished:" in left[0]
    finally:
        client.close()
