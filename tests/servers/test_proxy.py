"""The proxy does to a connection what it is told to."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.servers.proxy import Proxy


@pytest.fixture
def echo() -> Iterator[int]:
    """A port that sends back what it gets."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer(one: socket.socket) -> None:
        with one, contextlib.suppress(OSError):
            while data := one.recv(100):
                one.sendall(data)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                one, _ = listener.accept()
                threading.Thread(target=answer, args=(one,), daemon=True).start()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


@pytest.fixture
def proxy(echo: int) -> Iterator[Proxy]:
    """A proxy in front of it."""
    with Proxy("127.0.0.1", echo) as made:
        yield made


def _dial(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), 10)


def _said(one: socket.socket, data: bytes) -> bytes:
    """Return what comes back, nothing where the connection ends."""
    try:
        one.sendall(data)
        return one.recv(100)
    except ConnectionError:
        return b""


def test_it_passes_on(proxy: Proxy) -> None:
    """Both ways, and it counts."""
    with _dial(proxy) as one:
        assert _said(one, b"hello") == b"hello"
        proxy.delay = 0.01
        assert _said(one, b"again") == b"again"
    assert proxy.connections == 1


def test_it_cuts_and_heals(proxy: Proxy) -> None:
    """Connections end, new ones too, until it is healed."""
    with _dial(proxy) as one:
        assert _said(one, b"a") == b"a"
        proxy.cut()
        assert _said(one, b"b") == b""
    with contextlib.suppress(ConnectionError), _dial(proxy) as one:
        assert _said(one, b"c") == b""
    proxy.heal()
    with _dial(proxy) as one:
        assert _said(one, b"d") == b"d"


def test_it_cuts_after_some_bytes(proxy: Proxy) -> None:
    """What came before has arrived."""
    with _dial(proxy) as one:
        proxy.cut_after(6)
        assert _said(one, b"abcd") == b"abcd"
        assert _said(one, b"efgh") in (b"", b"ef")
        assert _said(one, b"i") == b""


def test_it_loses_an_answer(proxy: Proxy) -> None:
    """The question arrives, the answer does not."""
    with _dial(proxy) as one:
        proxy.lose_answer()
        assert _said(one, b"abcd") == b""
    proxy.heal()
    with _dial(proxy) as one:
        assert _said(one, b"d") == b"d"


def test_it_swallows(proxy: Proxy) -> None:
    """Nothing comes back, and nothing ends."""
    with _dial(proxy) as one:
        proxy.swallow()
        one.settimeout(0.05)
        one.sendall(b"abcd")
        with pytest.raises(TimeoutError):
            one.recv(1)
        proxy.heal()
        one.settimeout(10)
        assert _said(one, b"e") == b""


def test_it_corrupts(proxy: Proxy) -> None:
    """A byte of each piece is another one, until it is healed."""
    with _dial(proxy) as one:
        proxy.corrupt()
        said = _said(one, b"hello")
        assert len(said) == 5 and said != b"hello"
        proxy.heal()
        assert _said(one, b"hello") == b"hello"
