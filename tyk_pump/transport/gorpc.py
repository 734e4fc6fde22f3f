"""The RPC of MDCB: calls and answers in gob, over TCP or TLS, compressed.

A connection begins with a preamble: `proto2`, the id of the client, and one byte that
asks for compression. Then each direction is one raw DEFLATE stream of gob messages.
Calls carry numbers, and answers may come in any order.

A call fails in one of four ways. `CallError`: the server has answered with an error.
`Unreachable`: it was never sent. `AnswerLost`: it was sent, and nobody can tell whether
it was done. `Unanswered`: the time is over; the answer may come yet, and can be waited
for.

Nothing here tries again: who calls pauses between attempts, and each makes one
connection at most.
"""

from __future__ import annotations

import contextlib
import re
import select
import socket
import ssl
import threading
import time
import uuid
import zlib
from typing import Any, Final

from tyk_pump.config.options import TlsOptions
from tyk_pump.errors import TransientError
from tyk_pump.transport import tls
from tyk_pump.transport.gob import (
    INTERFACE,
    STRING,
    UINT,
    Decoder,
    Encoder,
    GobError,
    Struct,
)

PREAMBLE: Final = b"proto2"
COMPRESSED: Final = b"\1"
KEEPALIVE_SECONDS: Final = 30
LONGEST_ANSWER: Final = 16 * 1024 * 1024
_READ: Final = 1 << 16
_ADDRESS: Final = re.compile(
    r"(?:\[(?P<six>[0-9A-Fa-f:.%]+)\]|(?P<host>[^:\[\]/\s]*)):(?P<port>[0-9]{1,5})"
)

WIRE_REQUEST: Final = Struct("wireRequest", (("ID", UINT), ("Request", INTERFACE)))
CALL: Final = Struct(
    "dispatcherRequest",
    (("Request", INTERFACE), ("Name", STRING)),
    "*gorpc.dispatcherRequest",
)
ANSWER: Final = "*gorpc.dispatcherResponse"
UNKNOWN: Final = ("unknown method [", "unknown service name [")


def address(text: str) -> tuple[str, int]:
    """Return host and port of `host:port`; ValueError says what is wrong."""
    found = _ADDRESS.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is not host:port")
    port = int(found["port"])
    if not 0 < port < 65_536:
        raise ValueError(f"{text!r}: there is no port {port}")
    # As ever, no host is this machine.
    return found["six"] or found["host"] or "localhost", port


class CallError(TransientError):
    """The server has answered with an error text."""

    @property
    def missing(self) -> bool:
        """Say whether the server has no such function."""
        return any(text in self.reason for text in UNKNOWN)


class Unreachable(TransientError):
    """No connection: nothing was sent."""


class AnswerLost(TransientError):
    """The connection ended before the answer; the call may have been done."""


class Unanswered(TransientError):
    """No answer in time; `call` is what to wait for."""

    def __init__(self, reason: str, call: Call | None = None) -> None:
        super().__init__(reason)
        self.call = call


class Call:
    """A call that was sent and is still to be answered."""

    def __init__(self, connection: Connection, number: int, name: str) -> None:
        self.connection = connection
        self.number = number
        self.name = name


class Connection:
    """One connection, used by one thread at a time; closed by any failure of its own.

    An answer that is late is kept for who waits for it, one that nobody waits for is
    passed over.
    """

    def __init__(
        self,
        address: tuple[str, int],
        context: ssl.SSLContext | None,
        *,
        name: str,
        identity: str,
        timeout: float,
    ) -> None:
        """Dial and say who we are; Unreachable."""
        self.identity: Final = identity
        self._place = f"{address[0]}:{address[1]}"
        self._encoder = Encoder()
        self._decoder = Decoder(limit=LONGEST_ANSWER)
        self._deflate = zlib.compressobj(1, zlib.DEFLATED, -15)
        self._inflate = zlib.decompressobj(-15)
        self._numbers = 0
        self._awaited: set[int] = set()
        self._answers: dict[int, dict[str, Any]] = {}
        try:
            self._socket: socket.socket = socket.create_connection(address, timeout)
        except OSError as exc:
            raise Unreachable(f"{self._place}: {_words(exc)}") from exc
        try:
            _keep_alive(self._socket)
            if context is not None:
                self._socket = context.wrap_socket(self._socket, server_hostname=name)
            known = identity.encode()
            hello = PREAMBLE + bytes((len(known),)) + known + COMPRESSED
            self._socket.sendall(hello)
        except OSError as exc:
            self.close()
            raise Unreachable(f"{self._place}: {_words(exc)}") from exc

    def call(self, name: str, argument: str | bytes | None, timeout: float) -> Any:
        """Call a function; return its result, None where it has none."""
        until = time.monotonic() + timeout
        return self._result(self._send(name, argument, until), until, timeout)

    def wait(self, call: Call, timeout: float) -> Any:
        """Wait again for the answer to a call; return its result."""
        return self._result(call, time.monotonic() + timeout, timeout)

    def is_gone(self) -> bool:
        """Say whether the other end has left; take what has come meanwhile."""
        patience = self._socket.gettimeout()
        try:
            self._socket.settimeout(0)
            # Behind what is readable there may be nothing: TLS has its own affairs.
            while select.select([self._socket], [], [], 0)[0]:
                self._take(self._socket.recv(_READ))
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except (OSError, GobError, zlib.error):
            return True
        finally:
            self._socket.settimeout(patience)
        return False

    def close(self) -> None:
        """Close it; calls that were not answered never will be."""
        self._socket.close()

    def _send(self, name: str, argument: str | bytes | None, until: float) -> Call:
        self._numbers += 1
        number = self._numbers
        request: dict[str, Any] = {"Name": f".{name}"}
        if argument is not None:
            request["Request"] = ("string", argument)
        value = {"ID": number, "Request": (CALL, request)}
        data = self._deflate.compress(self._encoder.encode(WIRE_REQUEST, value))
        data += self._deflate.flush(zlib.Z_SYNC_FLUSH)
        self._awaited.add(number)
        try:
            self._socket.settimeout(max(0.001, until - time.monotonic()))
            self._socket.sendall(data)
        except OSError as exc:
            self.close()
            # Half of a call is none, but what the other end has we cannot know.
            raise AnswerLost(f"{self._place}: {name}: {_words(exc)}") from exc
        return Call(self, number, name)

    def _result(self, call: Call, until: float, timeout: float) -> Any:
        place = f"{self._place}: {call.name}"
        try:
            while call.number not in self._answers:
                self._socket.settimeout(max(0.001, until - time.monotonic()))
                self._take(self._socket.recv(_READ))
        except TimeoutError as exc:
            raise Unanswered(f"{place}: no answer within {timeout:g} s", call) from exc
        except (OSError, GobError, zlib.error) as exc:
            self.close()
            raise AnswerLost(f"{place}: {_words(exc)}") from exc
        return self._judge(place, self._answers.pop(call.number))

    def _judge(self, place: str, answer: dict[str, Any]) -> Any:
        """Return the result in an answer; CallError where there is an error in it."""
        if error := answer.get("Error"):
            raise CallError(f"{place}: server error: {_first_line(error)}")
        registered, inner = answer.get("Response") or ("", {})
        if registered != ANSWER or not isinstance(inner, dict):
            raise CallError(f"{place}: the answer is {registered or 'empty'}")
        if error := inner.get("Error"):
            raise CallError(f"{place}: {_first_line(error)}")
        _, result = inner.get("Response") or ("", None)
        return result

    def _take(self, data: bytes) -> None:
        """Take bytes from the other end; keep the answers that are waited for."""
        if not data:
            raise ConnectionResetError("the server has closed the connection")
        while data:
            pieces = self._inflate.decompress(data, _READ)
            if self._inflate.eof:
                raise ConnectionResetError("the server has ended the stream")
            for answer in self._decoder.feed(pieces):
                number = answer.get("ID", 0) if isinstance(answer, dict) else 0
                if number in self._awaited:
                    self._awaited.discard(number)
                    self._answers[number] = answer
            data = self._inflate.unconsumed_tail


class Client:
    """Connections of one client: dialled when a call needs one, and kept.

    All of them have the same id, by which the server knows what has logged in. Several
    threads may call at once; each has a connection of its own meanwhile.
    """

    def __init__(
        self,
        address: tuple[str, int],
        options: TlsOptions | None,
        *,
        size: int,
        timeout: float,
    ) -> None:
        """Take TLS options for TLS, how many connections to keep, seconds of a call."""
        self._address = address
        self._name = (options and options.ssl_server_name) or address[0]
        self._context = None if options is None else tls.context(options)
        self._timeout = timeout
        self._size = size
        self._room = threading.BoundedSemaphore(size)
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._identity = str(uuid.uuid4())
        self._closed = False

    def call(self, name: str, argument: str | bytes | None = None) -> Any:
        """Call a function; return its result.

        After `Unanswered` the connection of the call is the caller's: `wait` for the
        answer, or `drop` it.
        """
        with self._room:
            connection = self._idle_one() or Connection(
                self._address,
                self._context,
                name=self._name,
                identity=self._identity,
                timeout=self._timeout,
            )
            try:
                result = connection.call(name, argument, self._timeout)
            except CallError:
                self._keep(connection)
                raise
            except TransientError:
                raise
            except BaseException:
                connection.close()
                raise
            self._keep(connection)
            return result

    def wait(self, call: Call, timeout: float | None = None) -> Any:
        """Wait again for the answer of a call; return its result."""
        seconds = self._timeout if timeout is None else timeout
        try:
            result = call.connection.wait(call, seconds)
        except CallError:
            self._keep(call.connection)
            raise
        self._keep(call.connection)
        return result

    def drop(self, call: Call) -> None:
        """Wait no longer for an answer."""
        call.connection.close()

    def renew(self) -> None:
        """Begin anew, as another client: with another id and no connection."""
        with self._lock:
            idle, self._idle = self._idle, []
            self._identity = str(uuid.uuid4())
        for connection in idle:
            connection.close()

    def close(self) -> None:
        """Close every connection that no call has."""
        self._closed = True
        self.renew()

    def _idle_one(self) -> Connection | None:
        """Return the connection that was used last, of those that are still there."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection = self._idle.pop()
            if not connection.is_gone():
                return connection
            connection.close()

    def _keep(self, connection: Connection) -> None:
        with self._lock:
            ours = connection.identity == self._identity and not self._closed
            if ours and len(self._idle) < self._size:
                self._idle.append(connection)
                return
        connection.close()


def _keep_alive(made: socket.socket) -> None:
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with contextlib.suppress(AttributeError):  # not every system has these
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_SECONDS)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_SECONDS)


def _first_line(text: str) -> str:
    # A server function that panics sends its stack trace behind.
    return text.partition("\n")[0][:500]


def _words(exc: Exception) -> str:
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {exc.verify_message}"
    if isinstance(exc, TimeoutError) and not getattr(exc, "strerror", None):
        return "timed out"
    return getattr(exc, "strerror", None) or str(exc) or type(exc).__name__
