"""The HTTP server in threads: it ends whole, whatever happens meanwhile."""

from __future__ import annotations

import time
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest

from tyk_pump.transport.wsgi import WsgiServer, listen


def hello(environ: WSGIEnvironment, start: StartResponse) -> list[bytes]:
    """Answer a request."""
    start("200 OK", [])
    return [b"hello"]


def test_a_request_that_ends_while_it_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The request's thread wakes the loop just before `close` does."""
    server = WsgiServer(hello, listen("127.0.0.1", 0), "test")
    loop: Any = server._server
    wake = loop.trigger._physical_pull

    def woken_twice() -> None:
        wake()
        time.sleep(0.1)
        wake()

    monkeypatch.setattr(loop.trigger, "_physical_pull", woken_twice)
    server.close()
    assert not server._thread.is_alive()
    server.close()
