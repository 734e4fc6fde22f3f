"""Receivers on UDP, unix sockets, TCP and TLS that may refuse, reset and stall."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from tests.servers import free_port
from tests.servers.tls import Authority
from tyk_pump.transport.datagram import Datagrams

_MARK = b"\0"
_RESET = struct.pack("ii", 1, 0)


class DatagramReceiver:
    """Keeps every datagram."""

    def __init__(self) -> None:
        self.datagrams: list[bytes] = []
        self._socket: socket.socket | None = None
        self.restart()

    def bound(self) -> socket.socket:
        """Return a new socket at the receiver's place."""
        raise NotImplementedError

    def restart(self) -> None:
        """Listen (again) at the same place."""
        self._socket = self.bound()
        self._thread = threading.Thread(target=self._run, args=(self._socket,))
        self._thread.start()

    def take(self, count: int, seconds: float = 30) -> list[bytes]:
        """Return all datagrams when so many are there."""
        until = time.monotonic() + seconds
        while len(self.datagrams) < count:
            found = len(self.datagrams)
            assert time.monotonic() < until, f"{count} expected, there are {found}"
            time.sleep(0.001)
        return self.datagrams

    def close(self) -> None:
        """Go away: what comes then is refused."""
        if self._socket is not None:
            # Closed alone, it would go on receiving in the other thread.
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._thread.join()
            self._socket.close()
            self._socket = None

    def received(self, data: bytes) -> None:
        """Take a datagram."""
        self.datagrams.append(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, end: socket.socket) -> None:
        while data := end.recv(1 << 20):
            self.received(data)


class UdpReceiver(DatagramReceiver):
    """One on a UDP port."""

    def __init__(self) -> None:
        self.port = free_port()
        super().__init__()

    def bound(self) -> socket.socket:
        """Return a socket with room for a burst."""
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        made.bind(("127.0.0.1", self.port))
        return made


class UnixReceiver(DatagramReceiver):
    """One on a unix socket, which takes every datagram or none.

    Told to, it leaves after so many: it takes no more, but what it has taken it reads.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.leave_after: int | None = None
        self._marked = threading.Event()
        super().__init__()

    @property
    def lines(self) -> list[str]:
        """Return all lines of all datagrams that were sent by now."""
        if self._socket is not None:
            self._catch_up()
        return [line for data in self.datagrams for line in data.decode().split("\n")]

    def bound(self) -> socket.socket:
        """Return a socket with a new file."""
        self.leave_after = None
        self.path.unlink(missing_ok=True)
        made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        made.bind(str(self.path))
        return made

    def received(self, data: bytes) -> None:
        """Take a datagram, and perhaps no more."""
        if data == _MARK:
            self._marked.set()
            return
        super().received(data)
        if self.leave_after is not None and self._socket is not None:
            self.leave_after -= 1
            if self.leave_after == 0:
                self._socket.shutdown(socket.SHUT_RD)

    @contextlib.contextmanager
    def leaving(self, after: int) -> Iterator[None]:
        """Leave after so many datagrams, and be back at the end."""
        self.leave_after = after
        try:
            yield
        finally:
            self.close()
            self.restart()

    def _catch_up(self) -> None:
        """Wait until all is read that stood in the socket's queue."""
        self._marked.clear()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.sendto(_MARK, str(self.path))
        assert self._marked.wait(30)


class TcpReceiver:
    """Keeps what every connection brought, in the order in which they came.

    With an authority it speaks TLS.
    """

    def __init__(
        self, authority: Authority | None = None, *, demand_certificate: bool = False
    ) -> None:
        self.streams: list[bytearray] = []
        self.names: list[str | None] = []
        """The server names that were asked for."""
        self.peers: list[dict[str, Any]] = []
        """The certificates of clients."""
        self.reset_after: int | None = None
        """Bytes of a connection after which it is reset."""
        self.stalled = threading.Event()
        """While set, nothing is read."""
        self.rude = False
        """TLS ends without a farewell."""
        self.connected: Callable[[], None] = lambda: None
        """Called with each new connection."""
        self.authority = authority
        self.context: ssl.SSLContext | None = None
        if authority:
            self.context = self._made(authority, demand_certificate)
        self._closing = threading.Event()
        self.port = free_port()
        self.restart()

    @property
    def received(self) -> bytes:
        """Return all bytes of all connections."""
        return b"".join(map(bytes, self.streams))

    def messages(self, end: bytes = b"\n") -> list[bytes]:
        """Return whole messages; what a reset cut off is none."""
        streams = map(bytes, self.streams)
        return [message for stream in streams for message in stream.split(end)[:-1]]

    def take(self, count: int, seconds: float = 30) -> list[bytes]:
        """Return whole messages when so many lines are there."""
        until = time.monotonic() + seconds
        while len(found := self.messages()) < count:
            assert time.monotonic() < until, f"{count} expected, {len(found)} there"
            time.sleep(0.001)
        return found

    def restart(self) -> None:
        """Listen (again) on the same port."""
        self._closing.clear()
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._threads = [threading.Thread(target=self._accept, args=(self._listener,))]
        self._threads[0].start()

    def close(self) -> None:
        """Go away and reset what is open."""
        self._closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def leave(self) -> None:
        """Leave all connections as they are; for `connected`."""
        self._closing.set()

    @contextlib.contextmanager
    def resetting(self, after: int) -> Iterator[None]:
        """Reset each connection after so many bytes."""
        self.reset_after = after
        try:
            yield
        finally:
            self.reset_after = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _made(self, authority: Authority, demand: bool) -> ssl.SSLContext:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.load_cert_chain(*authority.server("127.0.0.1", "localhost", "logs.test"))
        if demand:
            made.verify_mode = ssl.CERT_REQUIRED
            made.load_verify_locations(authority.ca_file)

        def asked(_: Any, name: str | None, __: ssl.SSLContext) -> None:
            self.names.append(name)

        made.sni_callback = asked
        return made

    def _accept(self, listener: socket.socket) -> None:
        while not self._closing.is_set():
            try:
                end, _ = listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(end,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, plain: socket.socket) -> None:
        stream = bytearray()
        end = plain
        try:
            if self.context:
                # A client that refuses us is not our affair.
                end = self.context.wrap_socket(plain, server_side=True)
                if isinstance(end, ssl.SSLSocket):
                    self.peers.append(dict(end.getpeercert() or {}))
            self.connected()
            self.streams.append(stream)
            self._read(end, stream)
        except OSError:
            pass  # The client left as it liked; what had come is kept.
        finally:
            end.close()

    def _read(self, end: socket.socket, stream: bytearray) -> None:
        end.settimeout(0.02)
        while True:
            if self._closing.is_set():
                break
            if self.stalled.is_set():
                self._closing.wait(0.01)
                continue
            try:
                data = end.recv(1 << 16)
            except TimeoutError:
                continue
            if not data:
                self._farewell(end)
                return
            stream += data
            if self.reset_after is not None and len(stream) >= self.reset_after:
                del stream[self.reset_after :]
                break
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    def _farewell(self, end: socket.socket) -> None:
        if isinstance(end, ssl.SSLSocket) and not self.rude:
            end.settimeout(5)
            end.unwrap().close()


@contextlib.contextmanager
def keeping_up(receiver: DatagramReceiver) -> Iterator[None]:
    """Hold each datagram back until the one before has been taken.

    A burst may fill the receiver's buffer, and the kernel drops the rest.
    """
    send, sent = Datagrams.send, len(receiver.datagrams)

    def one_by_one(self: Datagrams, data: bytes) -> None:
        nonlocal sent
        send(self, data)
        sent += 1
        receiver.take(sent)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Datagrams, "send", one_by_one)
        yield
