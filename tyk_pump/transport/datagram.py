"""Bytes to a log receiver: datagrams over UDP, a stream over TCP, TLS in it."""

from __future__ import annotations

import array
import errno
import fcntl
import select
import socket
import ssl
import termios
import time
from typing import Final, Protocol

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


class TooLong(Exception):
    """A datagram is larger than the way allows."""


class Datagrams:
    """One UDP socket; what is sent is on its way, and nobody confirms it."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
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
            raise _failed(self._address, exc) from exc

    def open(self) -> socket.socket:
        """Resolve the name and make the socket, in place of the one there is."""
        self.close()
        try:
            # Connected, a refusal by the other end is told to us with the next send.
            self._socket = _connected(self._address, socket.SOCK_DGRAM)
        except OSError as exc:
            raise _failed(self._address, exc) from exc
        self._opened = time.monotonic()
        return self._socket

    def close(self) -> None:
        """Close the socket; the next `send` makes a new one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class Stream:
    """One TCP connection, with TLS where options for it are given.

    The receiver says nothing, so what can be known is asked of the kernel: `send`
    returns when the other end's has confirmed every byte.
    """

    def __init__(
        self,
        host: str,
        port: int,
        options: TlsOptions | None = None,
        *,
        timeout: float = SEND_SECONDS,
    ) -> None:
        self._address = (host, port)
        self._name = (options and options.ssl_server_name) or host
        self._context = None if options is None else tls.context(options)
        self._timeout = timeout
        self._socket: socket.socket | None = None

    def send(self, data: bytes) -> None:
        """Send all, or raise TransientError; how much has arrived nobody knows then."""
        sender = self._socket or self.open()
        try:
            _refuse_a_closed_one(sender)
            sender.sendall(data)
            _wait_until_confirmed(sender, self._timeout)
        except (OSError, ssl.SSLError) as exc:
            self.close()
            raise _failed(self._address, exc) from exc

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
            raise _failed(self._address, exc) from exc
        return self._socket

    def close(self) -> None:
        """Close the connection; the next `send` makes a new one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class Sender(Protocol):
    """What Datagrams and Stream have in common."""

    def send(self, data: bytes) -> None:
        """Send these bytes."""

    def open(self) -> socket.socket:
        """Connect now."""

    def close(self) -> None:
        """Let go of the connection."""


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
    while select.select([sender], [], [], 0)[0]:
        try:
            if not sender.recv(4096):
                raise ConnectionResetError(errno.ECONNRESET, "the receiver has left")
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return


def _wait_until_confirmed(sender: socket.socket, seconds: float) -> None:
    """Wait until the other end's kernel has taken every byte."""
    until = time.monotonic() + seconds
    pause = 0.0005
    while (left := _unconfirmed(sender)) > 0:
        _refuse_a_closed_one(sender)
        if time.monotonic() > until:
            raise TimeoutError(errno.ETIMEDOUT, f"{left} bytes were not confirmed")
        time.sleep(pause)
        pause = min(pause * 2, 0.05)
    # A reset that came with the last confirmation shows as an error of the socket.
    code = sender.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, errno.errorcode.get(code, "error"))
    _refuse_a_closed_one(sender)


def _unconfirmed(sender: socket.socket) -> int:
    count = array.array("i", [0])
    fcntl.ioctl(sender.fileno(), termios.TIOCOUTQ, count)
    return count[0]


def _failed(address: tuple[str, int], exc: OSError) -> TransientError:
    host, port = address
    if isinstance(exc, ssl.SSLCertVerificationError):
        reason = f"certificate verify failed: {exc.verify_message}"
    elif isinstance(exc, TimeoutError) and not exc.strerror:
        reason = "timed out"
    else:
        reason = exc.strerror or str(exc) or type(exc).__name__
    return TransientError(f"{host}:{port}: {reason}")
