"""A TCP proxy that delays, swallows, cuts and corrupts what goes through it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from types import TracebackType
from typing import Self

_STEP = 65536


class Proxy:
    """Passes on what comes in on its port, as long as it is told to.

    With `port` it listens there, for clients that are told its address beforehand.
    """

    def __init__(self, host: str, port: int, *, listen: int = 0) -> None:
        self.delay = 0.0
        """Seconds that each piece is held back."""
        self.connections = 0
        """How many were accepted so far."""
        self.target = (host, port)
        """Where it goes; may be changed for the connections to come."""
        self._left: int | None = None
        self._cut = False
        self._deaf = False
        self._corrupts = False
        self._holes = threading.Event()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._closed = False
        self._listener = socket.create_server(("127.0.0.1", listen))
        self.port: int = self._listener.getsockname()[1]
        self.place = f"127.0.0.1:{self.port}"
        self._begin(self._accept)

    def cut(self) -> None:
        """Reset every connection, and each new one, until `heal`."""
        self._cut = True
        self._reset_all()

    def cut_after(self, size: int) -> None:
        """Cut once so many more bytes have come from the clients."""
        self._left = size

    def lose_answer(self) -> None:
        """Let what the clients send arrive, and cut as soon as an answer comes."""
        self._deaf = True

    def corrupt(self) -> None:
        """Change a byte in the middle of each piece, either way, until `heal`."""
        self._corrupts = True

    def swallow(self) -> None:
        """Take everything and pass on nothing, either way, until `heal`."""
        self._holes.set()

    def heal(self) -> None:
        """Serve as at first; connections that lost something are reset."""
        self._left, self._cut, self._deaf = None, False, False
        self._corrupts = False
        if self._holes.is_set():
            self._holes.clear()
            self._reset_all()

    def close(self) -> None:
        """End everything."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._reset_all()
        for thread in list(self._threads):
            thread.join(10)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _begin(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            if self._cut:
                _reset(client)
                continue
            try:
                server = socket.create_connection(self.target, 5)
            except OSError:
                _reset(client)
                continue
            server.settimeout(None)
            with self._lock:
                self._open |= {client, server}
            self._begin(self._pass_on, client, server, True)
            self._begin(self._pass_on, server, client, False)

    def _pass_on(
        self, source: socket.socket, sink: socket.socket, upwards: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_STEP):
                if self.delay:
                    time.sleep(self.delay)
                if self._holes.is_set():
                    continue
                if self._corrupts:
                    half = len(data) // 2
                    other = bytes([(data[half] + 1) % 256])
                    data = data[:half] + other + data[half + 1 :]
                if self._deaf and not upwards:
                    self.cut()
                    break
                if upwards and self._left is not None:
                    data, self._left = data[: self._left], self._left - len(data)
                    if self._left <= 0:
                        sink.sendall(data)
                        self._left = None
                        self.cut()
                        break
                sink.sendall(data)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        with self._lock:
            known = source in self._open
            self._open.discard(source)
        if known:
            source.close()

    def _reset_all(self) -> None:
        with self._lock:
            known, self._open = self._open, set()
        for one in known:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            _reset(one)


def _reset(one: socket.socket) -> None:
    """Close without the courtesies: the other side sees a reset."""
    with contextlib.suppress(OSError):
        linger = b"\x01\0\0\0\0\0\0\0"
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    one.close()
