"""Requests go to the nodes in turn, around dead ones."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from tests.servers.http import Answer, HttpServer
from tyk_pump.config.options import TlsOptions
from tyk_pump.errors import TransientError
from tyk_pump.transport.http import HttpClient, Unreachable
from tyk_pump.transport.nodes import (
    LONGEST_REST,
    Nodes,
    addresses,
    userinfo,
    without_userinfo,
)


class Rig:
    """Three servers, and a clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0
        self.servers = [HttpServer(), HttpServer(), HttpServer()]
        self.http = HttpClient(TlsOptions(), timeout=5)
        self.nodes = Nodes(self.http, [s.url for s in self.servers], lambda: self.now)

    def asked(self) -> list[int]:
        """Return how many requests each server has had, greetings left out."""
        return [
            sum(one.method != "HEAD" for one in server.requests)
            for server in self.servers
        ]

    def greeted(self) -> list[int]:
        """Return how many greetings each server has had."""
        return [
            sum(one.method == "HEAD" for one in server.requests)
            for server in self.servers
        ]

    def ask(self, times: int = 1) -> None:
        """Send requests."""
        for _ in range(times):
            self.nodes.request("GET", "/x")


@pytest.fixture
def rig() -> Iterator[Rig]:
    """A rig that is closed after the test."""
    made = Rig()
    with contextlib.ExitStack() as stack:
        stack.callback(made.http.close)
        for server in made.servers:
            stack.callback(server.close)
        yield made


def test_each_in_turn(rig: Rig) -> None:
    """All nodes have the same share."""
    rig.ask(6)
    assert rig.asked() == [2, 2, 2]


def test_a_dead_node_is_left_out(rig: Rig) -> None:
    """Its request goes to the next at once; it is not tried again for a while."""
    rig.servers[1].close()
    rig.ask(6)
    assert sum(rig.asked()) == 6 and rig.asked()[1] == 0
    rig.servers[1].restart()
    rig.ask(3)
    assert rig.asked()[1] == 0


def test_a_dead_node_is_greeted_before_it_is_trusted(rig: Rig) -> None:
    """Back again it has its share; dead still it rests longer."""
    rig.servers[1].close()
    rig.ask(3)
    rig.now += LONGEST_REST
    rig.ask(3)
    rig.servers[1].restart()
    rig.ask(3)
    assert rig.asked()[1] == 0 and rig.greeted() == [0, 0, 0]
    rig.now += LONGEST_REST
    rig.ask(6)
    assert rig.greeted() == [0, 1, 0] and rig.asked()[1] == 2


def test_when_all_are_dead_all_are_tried(rig: Rig) -> None:
    """Nothing else is left; the first that lives is used."""
    for server in rig.servers:
        server.close()
    with pytest.raises(Unreachable, match="refused"):
        rig.ask()
    rig.servers[2].restart()
    rig.ask(3)
    assert rig.asked() == [0, 0, 3]


def test_an_answer_is_an_answer(rig: Rig) -> None:
    """A node that fails with a status is alive; nobody else is asked."""
    for server in rig.servers:
        server.respond = lambda request: Answer(503)
    with pytest.raises(TransientError, match="503"):
        rig.ask()
    assert rig.asked() == [1, 0, 0]
    with pytest.raises(TransientError, match="503"):
        rig.ask()
    assert rig.asked() == [1, 1, 0]


def test_other_nodes(rig: Rig) -> None:
    """The list is replaced; what is known of a node stays."""
    rig.servers[0].close()
    rig.ask(3)
    rig.nodes.replace([rig.servers[0].url, rig.servers[2].url])
    before = rig.asked()
    rig.ask(4)
    assert [b - a for a, b in zip(before, rig.asked(), strict=True)] == [0, 0, 4]


def test_addresses() -> None:
    """Blanks do not matter; names and passwords can be told apart."""
    urls = addresses("http://u:p%40@a:1/x , https://b:2,, c")
    assert urls == ["http://u:p%40@a:1/x", "https://b:2", "c"]
    assert userinfo(urls) == ("u", "p@") and userinfo(urls[1:]) is None
    assert [without_userinfo(url) for url in urls] == [
        "http://a:1/x",
        "https://b:2",
        "c",
    ]
    assert without_userinfo("u:secret@host:9200") == "host:9200"
