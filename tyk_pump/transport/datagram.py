"""Bytes to a receiver that does not answer: datagrams over UDP and unix sockets, a
stream over TCP, TLS in it."""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import math
import os
import re
import select
import socket
import ssl
import struct
import termios
import time
from collections.abc import Callable
from typing import Final

from tyk_pump.config.options import TlsOptions
from tyk_pump.errors import TransientError
from tyk_pump.transport import tls

CONNECT_SECONDS: Final = 10.0
SEND_SECONDS: Final = 60.0
LARGEST_DATAGRAM: Final = 65_507
"""Bytes that one datagram over IPv4 can carry."""
_LOOK_UP_AGAIN: Final = 60.0
"""Seconds after which a name is resolved anew: a datagram does not tell us that its
receiver has moved."""
_ADDRESS: Final = re.compile(
    r"(?:\[(?P<six>[^\]]*)\]|(?P<host>[^:\[\]]*)):(?P<port>\d+)"
)
_MTU: Final = {
    # Linux's own numbers, which the socket module does not have.
    socket.AF_INET: (socket.IPPROTO_IP, 14),
    socket.AF_INET6: (socket.IPPROTO_IPV6, 24),
}


class TooLong(Exception):
    """A datagram is larger than the way allows."""


def address(text: str) -> tuple[str, int]:
    """Return host and port; ValueError says what is wrong."""
    found = _ADDRESS.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is not host:port")
    port = int(found["port"])
    if not 0 < port < 65_536:
        raise ValueError(f"{text!r}: there is no port {port}")
    return found["six"] or found["host"] or "localhost", port


class Datagrams:
    """One UDP socket; what is sent is on its way, and nobody confirms it."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._place = f"{host}:{port}"
        self._socket: socket.socket | None = None
        self._opened = 0.0

    def send(self, data: bytes) -> None:
        """Send one datagram; TooLong or TransientError."""
        sender = self._socket
        if sender is None or time.monotonic() - self._opened > _LOOK_UP_AGAIN:
            sender = self.open()
        try:
            sender.send(data)
        except OSError as exc:
            if exc.errno == errno.EMSGSIZE:
                raise TooLong(f"{len(data)} bytes do not fit a datagram") from exc
            self.close()
            raise _failed(self._place, exc) from exc

    def mtu(self) -> int:
        """Return the bytes of a packet that this way takes whole, as far as known."""
        sender = self._socket or self.open()
        return sender.getsockopt(*_MTU[sender.family])

    def check(self) -> None:
        """Raise TransientError where a refusal of what was sent has come back."""
        if self._socket is None:
            return
        code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise _failed(self._place, OSError(code, os.strerror(code)))

    def open(self) -> socket.socket:
        """Resolve the name and make the socket, in place of the one there is."""
        self.close()
        try:
            self._socket = self._made()
        except OSError as exc:
            raise _failed(self._place, exc) from exc
        self._opened = time.monotonic()
        return self._socket

    def close(self) -> None:
        """Close the socket; the next `send` makes a new one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _made(self) -> socket.socket:
        # Connected, a refusal by the other end is told to us with the next send.
        made = _connected(self._address, socket.SOCK_DGRAM)
        # With a time limit each `send` would ask first whether there is room; without
        # one it waits for the network card at most.
        made.settimeout(None)
        return made


class UnixDatagrams(Datagrams):
    """One unix socket; what is sent stands in the receiver's own queue.

    A full queue is waited for, so many seconds.
    """

    def __init__(self, path: str, patience: float) -> None:
        self._place = path
        self._patience = patience
        self._socket = None
        self._opened = 0.0

    def _made(self) -> socket.socket:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        # The kernel's own limit saves asking before each `send` whether there is room.
        fraction, seconds = math.modf(self._patience)
        limit = struct.pack("ll", int(seconds), int(fraction * 1_000_000))
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
            made.connect(self._place)
        except OSError:
            made.close()
            raise
        return made


class Stream:
    """One TCP connection, with TLS where options for it are given.

    The receiver says nothing, so what can be known is asked of the kernel: `send`
    returns when the other end's has confirmed every byte. With `until_read` we end the
    connection then and wait for the receiver to end it too, which a receiver does when
    it has read everything; unread bytes would make that end a reset.
    """

    def __init__(
        self,
        host: str,
        port: int,
        options: TlsOptions | None = None,
        *,
        timeout: float = SEND_SECONDS,
        until_read: bool = False,
    ) -> None:
        self._address = (host, port)
        self._place = f"{host}:{port}"
        self._name = (options and options.ssl_server_name) or host
        self._context = None if options is None else tls.context(options)
        self._timeout = timeout
        self._until_read = until_read
        self._socket: socket.socket | None = None

    def send(self, data: bytes) -> None:
        """Send all, or raise TransientError; how much has arrived nobody knows then."""
        sender = self._socket or self.open()
        try:
            _refuse_a_closed_one(sender)
            sender.sendall(data)
            if self._until_read:
                self._end(sender)
            else:
                _wait_until_confirmed(sender, self._timeout)
        except (OSError, ssl.SSLError) as exc:
            self.close()
            raise _failed(self._place, exc) from exc

    def open(self) -> socket.socket:
        """Connect, in place of the connection there is."""
        self.close()
        try:
            made = _connected(self._address, socket.SOCK_STREAM)
            made.settimeout(self._timeout)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket = made
            if self._context is not None:
                self._socket = self._context.wrap_socket(
                    made, server_hostname=self._name
                )
        except (OSError, ssl.SSLError) as exc:
            self.close()
            raise _failed(self._place, exc) from exc
        return self._socket

    def close(self) -> None:
        """Close the connection; the next `send` makes a new one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _end(self, sender: socket.socket) -> None:
        """Say that this was all, and wait until the other end has read it."""
        until = time.monotonic() + self._timeout
        try:
            if isinstance(sender, ssl.SSLSocket):
                # One that leaves without TLS's farewell has read ours all the same.
                with contextlib.suppress(ssl.SSLEOFError):
                    self._socket = sender = sender.unwrap()
            with contextlib.suppress(OSError):
                # Where it has left by now, what it thinks of our bytes shows below.
                sender.shutdown(socket.SHUT_WR)
            while _received(sender, until):
                pass  # A receiver of messages has nothing to say.
        except TimeoutError:
            reason = "the receiver has not read everything and left in time"
            raise TimeoutError(errno.ETIMEDOUT, reason) from None
        # An end that crossed our bytes on the way is no word about them.
        _wait_for_the_last_byte(sender, until)
        self.close()


def _connected(address: tuple[str, int], kind: socket.SocketKind) -> socket.socket:
    failure: OSError = OSError("the name has no address")
    host, port = address
    for family, kind_, protocol, _, where in socket.getaddrinfo(host, port, 0, kind):
        made = socket.socket(family, kind_, protocol)
        made.settimeout(CONNECT_SECONDS)
        try:
            made.connect(where)
        except OSError as exc:
            made.close()
            failure = exc
            continue
        return made
    raise failure


def _refuse_a_closed_one(sender: socket.socket) -> None:
    """Raise where the other end has left: what is sent then goes nowhere."""
    if not select.select([sender], [], [], 0)[0]:
        return
    patience = sender.gettimeout()
    # What there is to read may be TLS's own affair, behind which nothing comes.
    sender.settimeout(0)
    try:
        while sender.recv(4096):
            pass
    except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
        return
    finally:
        sender.settimeout(patience)
    raise ConnectionResetError(errno.ECONNRESET, "the receiver has left")


def _received(sender: socket.socket, until: float) -> bytes:
    """Return what the other end says, nothing at its end."""
    sender.settimeout(max(0.001, until - time.monotonic()))
    return socket.socket.recv(sender, 4096)


def _wait_until_confirmed(sender: socket.socket, seconds: float) -> None:
    """Wait until the other end's kernel has taken every byte, and is still there."""
    until = time.monotonic() + seconds
    _wait_for_the_last_byte(sender, until, _refuse_a_closed_one)
    _refuse_a_closed_one(sender)


def _wait_for_the_last_byte(
    sender: socket.socket,
    until: float,
    look: Callable[[socket.socket], None] = lambda sender: None,
) -> None:
    """Wait until the other end's kernel has confirmed every byte."""
    pause = 0.0005
    while (left := _unconfirmed(sender)) > 0:
        _raise_its_error(sender)
        look(sender)
        if time.monotonic() > until:
            raise TimeoutError(errno.ETIMEDOUT, f"{left} bytes were not confirmed")
        time.sleep(pause)
        pause = min(pause * 2, 0.05)
    # A reset may have come with the last confirmation.
    _raise_its_error(sender)


def _raise_its_error(sender: socket.socket) -> None:
    code = sender.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))


def _unconfirmed(sender: socket.socket) -> int:
    count = array.array("i", [0])
    fcntl.ioctl(sender.fileno(), termios.TIOCOUTQ, count)
    return count[0]


def _failed(place: str, exc: OSError) -> TransientError:
    if isinstance(exc, ssl.SSLCertVerificationError):
        reason = f"certificate verify failed: {exc.verify_message}"
    elif isinstance(exc, TimeoutError) and not exc.strerror:
        reason = "timed out"
    elif isinstance(exc, BlockingIOError):
        reason = "the receiver's queue is full"
    else:
        reason = exc.strerror or str(exc) or type(exc).__name__
    return TransientError(f"{place}: {reason}")
