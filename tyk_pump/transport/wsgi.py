"""An HTTP server in threads beside the others of a process, for one application."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Callable, Iterable
from typing import Any, Final
from wsgiref.types import StartResponse, WSGIEnvironment

from waitress.server import create_server

Application = Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]

THREADS: Final = 4


class WsgiServer:
    """Serves an application on a socket that listens, until `close`."""

    def __init__(self, app: Application, listener: socket.socket, name: str) -> None:
        self.port: int = listener.getsockname()[1]
        self._server: Any = create_server(
            app, sockets=[listener], threads=THREADS, ident=None
        )
        self._thread = threading.Thread(target=self._server.run, name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Close the port and the connections."""
        if self._server is None:
            return
        server, self._server = self._server, None
        server.task_dispatcher.shutdown(timeout=1)
        # Sockets belong to the loop's thread; without any left it ends. Under the lock
        # it cannot close the one that wakes it before we have written there: a request
        # that just ended may have woken it, too.
        with server.trigger.lock:
            close_all = server.asyncore.close_all
            server.trigger.thunks.append(lambda: close_all(server._map))
            server.trigger.pull_trigger()
        self._thread.join(2)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; no host means all addresses, of IPv6 too."""
    if host:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(
                ("", port), family=socket.AF_INET6, dualstack_ipv6=True
            )
        except OSError as exc:
            if exc.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                raise
    return socket.create_server(("", port))
