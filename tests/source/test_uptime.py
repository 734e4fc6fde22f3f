"""Uptime reports: a stream of their own, owed to the uptime pump and to no other."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.crc import key_slot

from tests.servers.redis import RedisServer
from tests.source.test_deaths import (
    Fault,
    answer_lost,
    assert_clean,
    die_after,
    die_before,
    die_within,
    linked,
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
    options,
    push,
)
from tyk_pump.config.options import Secret
from tyk_pump.errors import SourceError
from tyk_pump.source.claims import Source, Stream
from tyk_pump.source.lists import (
    UPTIME_LIST,
    acl_commands,
    acl_patterns,
    claim_key,
    lists,
    prefix_fault,
)
from tyk_pump.source.redis import Link

CALLS = [b"call%d" % n for n in range(5)]
REPORTS = [b"report%d" % n for n in range(7)]
LATER = [b"later%d" % n for n in range(3)]
BOTH = ["P", "uptime"]


@pytest.fixture
def link(redis_server: RedisServer) -> Iterator[FaultyLink]:
    """A link to the server."""
    with linked(redis_server) as found:
        yield found


@pytest.fixture
def other(redis_server: RedisServer) -> Iterator[FaultyLink]:
    """A link of another instance."""
    with linked(redis_server) as found:
        yield found


def started(link: FaultyLink, **more: Any) -> Source:
    """A source that has its lease."""
    source = make_source(link, **{"fields": BOTH, **more})
    source.start()
    return source


def of_uptime(source: Source) -> Stream:
    """The stream of uptime reports."""
    (stream,) = (one for one in source.streams.values() if one.uptime)
    return stream


def waiting(server: RedisServer) -> int:
    """How many reports are in the gateway's list."""
    client = server.client()
    found = int(client.llen(UPTIME_LIST))
    client.close()
    return found


def drained(source: Source, field: str) -> list[bytes]:
    """What one pump is given."""
    consumer = Consumer()
    consumer.drain(source, field)
    return consumer.records


def test_reports_are_one_list_under_a_name_of_its_own() -> None:
    """Whatever the operator's prefix is; the claim has the list's slot, and an ACL."""
    for prefix in ("analytics-", "", "{t}-", "x{t}y"):
        assert prefix_fault(prefix, cluster=True) is None
        one = lists(prefix, uptime=True)[-1]
        assert (one.key, one.codec) == ("host-checker:tyk-uptime-analytics", "uptime")
        claim = claim_key(prefix, one.key, "01X")
        assert key_slot(claim.encode()) == key_slot(one.key.encode())
        assert claim.startswith("host-checker:")
        assert acl_patterns(prefix, uptime=True)[-2:] == [
            "~host-checker:tyk-uptime-analytics",
            "~host-checker:{host-checker:tyk-uptime-analytics}:claim:*",
        ]
    assert not any(one.uptime for one in lists("analytics-"))


def test_a_pump_is_owed_its_own_kind(
    link: FaultyLink, redis_server: RedisServer
) -> None:
    """Each pump has a cursor in one of the two streams, and gets just that."""
    push(redis_server, LIST, CALLS)
    push(redis_server, UPTIME_LIST, REPORTS)
    source = started(link)
    assert source.round().claimed == len(CALLS) + len(REPORTS)
    kinds = {one.uptime: list(one.progress) for one in source.streams.values()}
    assert kinds == {False: ["P"], True: ["uptime"]}
    assert drained(source, "P") == CALLS
    assert source.backlog() == (1, len(REPORTS))
    assert drained(source, "uptime") == REPORTS
    assert source.backlog() == (0, 0)
    source.give_back()
    assert_clean(redis_server, "the end")


def test_without_an_uptime_pump_the_list_stays(
    link: FaultyLink, redis_server: RedisServer
) -> None:
    """It is whoever else's that takes it."""
    push(redis_server, UPTIME_LIST, REPORTS)
    source = started(link, fields=["P"])
    assert source.round().claimed == 0
    assert waiting(redis_server) == len(REPORTS)


def test_an_uptime_pump_comes_and_goes(
    link: FaultyLink, redis_server: RedisServer
) -> None:
    """The list is claimed as long as there is one; what is claimed waits for it."""
    source = started(link, fields=["P"])
    source.round()
    push(redis_server, UPTIME_LIST, REPORTS)
    source.take_uptime(True)
    source.owe("uptime")
    assert source.round().claimed == len(REPORTS)
    assert list(of_uptime(source).progress) == ["uptime"]
    source.take_uptime(False)
    push(redis_server, UPTIME_LIST, LATER)
    assert source.round().claimed == 0
    assert waiting(redis_server) == len(LATER)
    source.take_uptime(True)
    source.round()
    assert drained(source, "uptime") == [*REPORTS, *LATER]


def test_a_new_pump_is_owed_nothing_of_the_other_stream(
    link: FaultyLink, redis_server: RedisServer
) -> None:
    """Else its cursor would hold back what it never gets."""
    push(redis_server, LIST, CALLS)
    push(redis_server, UPTIME_LIST, REPORTS)
    source = started(link)
    source.round()
    source.owe("Q")
    found = {one.uptime: sorted(one.progress) for one in source.streams.values()}
    assert found == {False: ["P", "Q"], True: ["uptime"]}


@pytest.mark.parametrize("how", ["claimed", "intended"])
def test_reports_wait_for_an_instance_with_an_uptime_pump(
    link: FaultyLink, other: FaultyLink, redis_server: RedisServer, how: str
) -> None:
    """An instance without one adopts the calls of a dead one and not its reports."""
    push(redis_server, LIST, CALLS)
    source = started(link)
    source.round()
    push(redis_server, UPTIME_LIST, REPORTS)
    if how == "intended":
        link.fault, link.at = answer_lost, link.count + 3
        with pytest.raises(SourceError):
            source.round()
    else:
        source.round()
    end_leases(redis_server)
    heir = started(other, name="b", fields=["P"])
    heir.round()
    heir.round()
    assert [one.uptime for one in heir.streams.values()] == [False]
    assert drained(heir, "P") == CALLS
    before = other.count
    assert heir.round().adopted == []
    assert other.count == before + 1, "it is looked into once"
    heir.take_uptime(True)
    heir.owe("uptime")
    assert len(heir.round().adopted) == 1
    heir.round()
    assert drained(heir, "uptime") == REPORTS
    heir.give_back()
    assert_clean(redis_server, how)


def test_an_intent_of_a_removed_pump_stays_one(
    link: FaultyLink, other: FaultyLink, redis_server: RedisServer
) -> None:
    """Claimed anew it would be owed to nobody, and be thrown away."""
    push(redis_server, UPTIME_LIST, REPORTS)
    source = started(link)
    link.fault, link.at = answer_lost, link.count + 3
    with pytest.raises(SourceError):
        source.round()
    after = started(other, incarnation="2", previous="1", fields=["P"])
    after.round()
    after.forget("uptime")
    after.round()
    drained(after, "P")
    after.give_back()
    last = started(other, incarnation="3", previous="2")
    last.round()
    last.round()
    assert drained(last, "uptime") == REPORTS


def test_a_user_for_these_keys_only(
    tmp_path: Path, make_redis: Callable[..., RedisServer]
) -> None:
    """The patterns that `check` prints are enough, and no more than is needed."""
    patterns = " ".join(acl_patterns("analytics-", uptime=True))
    acl = tmp_path / "users.acl"
    acl.write_text(
        f"user pump on >secret {patterns} {acl_commands()}\n"
        "user default on nopass ~* &* +@all\n"
    )
    server = make_redis(aclfile=str(acl))
    push(server, UPTIME_LIST, REPORTS)
    made = options(server, username="pump", password=Secret("secret"))
    with contextlib.closing(Link(made)) as link:
        source = make_source(link, fields=BOTH)
        source.start()
        source.round()
        assert drained(source, "uptime") == REPORTS
        source.give_back()
        (refused,) = link.execute([("LLEN", "host-checker:other")])
        assert "NOPERM" in str(refused) or "permission" in str(refused)
    assert_clean(server, "acl")


def test_a_cluster(redis_cluster: list[RedisServer]) -> None:
    """The claim stands in the slot of the list, whichever node has it."""
    made = options(redis_cluster[0], enable_cluster=True)
    gateway = redis.RedisCluster(host="127.0.0.1", port=redis_cluster[0].port)
    gateway.rpush(UPTIME_LIST, *REPORTS)
    gateway.rpush(LIST, *CALLS)
    with contextlib.closing(Link(made)) as link:
        source = make_source(link, fields=BOTH)
        source.start()
        source.round()
        assert drained(source, "uptime") == REPORTS
        assert drained(source, "P") == CALLS
        source.give_back()
    gateway.close()


@pytest.mark.parametrize("fault", [die_before, die_after, die_within, answer_lost])
def test_killed_at_any_step(redis_server: RedisServer, fault: Fault) -> None:
    """A successor delivers the rest of both kinds, each to its own pump, once."""

    def run(at: int) -> FaultyLink:
        client = redis_server.client()
        client.flushall()
        client.close()
        push(redis_server, LIST, CALLS)
        push(redis_server, UPTIME_LIST, REPORTS)
        later = [LATER]
        calls, reports, book = Consumer(), Consumer(), Book()
        with linked(redis_server, at, fault) as link:
            source = make_source(link, book=book, fields=BOTH)
            with contextlib.suppress(Died, SourceError):
                _live(source, calls, reports, redis_server, later)
        with linked(redis_server) as after:
            end_leases(redis_server)
            heir = make_source(after, name="b", fields=BOTH)
            _live(heir, calls, reports, redis_server, later)
        where = (at, link.log[-1:])
        assert sorted(calls.records) == CALLS, where
        assert sorted(reports.records) == sorted([*REPORTS, *LATER]), where
        assert calls.lost == reports.lost == 0, where
        assert_clean(redis_server, where)
        return link

    steps(run)


def _live(
    source: Source,
    calls: Consumer,
    reports: Consumer,
    server: RedisServer,
    later: list[list[bytes]],
) -> None:
    source.start()
    for _ in range(4):
        source.round()
        for consumer, field in ((calls, "P"), (reports, "uptime")):
            consumer.drain(source, field)
        if later:
            push(server, UPTIME_LIST, later.pop())
    source.give_back()
