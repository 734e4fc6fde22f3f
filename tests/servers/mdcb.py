"""MDCB as its protocol is described: log-in, purges, and faults on demand.

It reads and writes gob by code of its own, written from the description and not from
the pump's: what both got wrong in the same way would look right. It also demands what
Go's library demands: types defined once and before their use, names to the letter.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import msgspec

from tests.servers import free_port
from tests.servers.tls import Authority

FUNCTIONS = (
    "Ping",
    "Login",
    "PurgeAnalyticsData",
    "PurgeAnalyticsDataAggregated",
    "PurgeAnalyticsDataMCPAggregated",
)
PURGES = FUNCTIONS[2:]
STACK = "Panic occured: {}\nStack trace: goroutine 7 [running]:\n" + "main.f()\n" * 150


class Call(msgspec.Struct):
    """One call as it came."""

    connection: int
    """Number of the connection, from 1."""
    number: int
    name: str
    argument: str | None

    @property
    def body(self) -> Any:
        """Return the argument of a purge."""
        return json.loads(self.argument or "null")


class Peer(msgspec.Struct):
    """One connection as it began."""

    identity: str
    compressed: bool
    certificate: dict[str, Any] = {}


class Answer(msgspec.Struct, frozen=True):
    """What is said to a call; nothing named means that all is well."""

    result: Any = None
    """Of `Login` and `Ping`; None is an answer without a value."""
    error: str = ""
    panic: str = ""
    until: threading.Event | None = None
    """The answer waits for this."""
    last: bool = False
    """The connection ends behind the answer."""
    cut: bool = False
    """The connection ends instead, as if the answer were lost."""
    half: bool = False
    """It ends in the middle of the answer."""
    silent: bool = False
    """No answer ever."""
    garbage: bytes = b""
    """These bytes instead of an answer, compressed like one."""


Respond = Callable[[Call], Answer | None]


class Mdcb:
    """An MDCB that keeps what it is sent; with an authority it speaks TLS."""

    def __init__(
        self,
        authority: Authority | None = None,
        *,
        demand_certificate: bool = False,
        key: str | None = "key",
        first_id: int = 64,
    ) -> None:
        self.key = key
        """The API key that is let in; None: each."""
        self.first_id = first_id
        """Number of its first type: 64 as of Go 1.26, 65 as of Go 1.19."""
        self.functions = set(FUNCTIONS)
        self.calls: list[Call] = []
        self.accepted: list[Call] = []
        """The purges that were answered well, or would have been."""
        self.peers: list[Peer] = []
        self.dialled = 0
        """Connections that came, whatever became of them."""
        self.open = 0
        """Connections that are open now."""
        self.failures: list[str] = []
        """What was wrong with a stream."""
        self.respond: Respond = lambda call: None
        """Answers a call in place of the usual, unless it says None."""
        self.hangs_up = False
        """While true, a connection ends when its preamble has been read."""
        self.authority = authority
        self.server_names: list[str | None] = []
        """The names that were asked for over TLS."""
        self._context: ssl.SSLContext | None = None
        if authority:
            self._context = self._made(authority, demand_certificate)
        self._lock = threading.Lock()
        self._ends: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._closing, self._leaving = threading.Event(), threading.Event()
        self.port = free_port()
        self.restart()

    @property
    def place(self) -> str:
        """Return `host:port`."""
        return f"127.0.0.1:{self.port}"

    def names(self) -> list[str]:
        """Return the names of all calls, in order."""
        return [call.name for call in self.calls]

    def records(self) -> list[dict[str, Any]]:
        """Return the records that were accepted, in order."""
        purges = [c for c in self.accepted if c.name == "PurgeAnalyticsData"]
        return [record for call in purges for record in call.body]

    def aggregates(self, *, mcp: bool = False) -> list[dict[str, Any]]:
        """Return the aggregates that were accepted, in order."""
        name = PURGES[2] if mcp else PURGES[1]
        calls = [call for call in self.accepted if call.name == name]
        return [one for call in calls for one in call.body.values()]

    def script(self, answers: Mapping[str, Sequence[Answer]]) -> None:
        """Answer the calls of each function so, one after the other; the last stays."""
        left = {name: list(those) for name, those in answers.items()}

        def respond(call: Call) -> Answer | None:
            those = left.get(call.name)
            if not those:
                return None
            return those.pop(0) if len(those) > 1 else those[0]

        self.respond = respond

    def cut(self) -> None:
        """End every connection."""
        with self._lock:
            ends = list(self._ends)
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def leave(self) -> None:
        """Take no new connection; those that are there stay."""
        self._leaving.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def restart(self) -> None:
        """Listen (again) on the same port."""
        self._leaving.clear()
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._begin(self._accept, self._listener)

    def close(self) -> None:
        """Go away, and end what is open."""
        self._closing.set()
        self.leave()
        self.cut()
        for thread in list(self._threads):
            thread.join(10)

    def wait_until_idle(self) -> None:
        """Wait until every client has left."""
        self.wait_until(lambda: not self.open)

    def wait_until(self, true: Callable[[], bool], seconds: float = 30) -> None:
        """Wait until something is true of the server."""
        until = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < until, f"{self.open} connections are open"
            time.sleep(0.002)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self, target: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while not self._leaving.is_set():
            try:
                end, _ = listener.accept()
            except OSError:
                return
            self.dialled += 1
            self._begin(self._serve, end)

    def _serve(self, plain: socket.socket) -> None:
        end = plain
        try:
            if self._context is not None:
                end = self._context.wrap_socket(plain, server_side=True)
            with self._lock:
                self._ends.add(end)
                self.open += 1
            try:
                self._converse(end)
            finally:
                with self._lock:
                    self._ends.discard(end)
                    self.open -= 1
        except (OSError, ssl.SSLError):
            pass  # The client left as it liked.
        except ValueError as exc:
            self.failures.append(str(exc))
        finally:
            end.close()
            plain.close()

    def _converse(self, end: socket.socket) -> None:
        with end.makefile("rb") as reader:
            if _exactly(reader, 6) != b"proto2":
                raise ValueError("no preamble")
            identity = _exactly(reader, _exactly(reader, 1)[0]).decode()
            compressed = _exactly(reader, 1) != b"\0"
            certificate: Any = {}
            if isinstance(end, ssl.SSLSocket):
                certificate = end.getpeercert() or {}
            self.peers.append(Peer(identity, compressed, dict(certificate)))
            number = len(self.peers)
            if self.hangs_up:
                return
            requests = Requests(Stream(reader, compressed))
            responses = Responses(end, compressed, self.first_id)
            while (found := requests.next()) is not None:
                call = Call(number, *found)
                self.calls.append(call)
                self._begin(self._answer, end, responses, call)

    def _answer(self, end: socket.socket, responses: Responses, call: Call) -> None:
        said = self.respond(call) or self._usual(call)
        while said.until is not None and not said.until.wait(0.05):
            if self._closing.is_set():
                return
        if call.name in PURGES and not (said.error or said.panic):
            self.accepted.append(call)
        if said.silent:
            return
        with contextlib.suppress(OSError):
            if said.cut or said.half:
                if said.half:
                    responses.send(call.number, said, half=True)
                end.shutdown(socket.SHUT_RDWR)
            else:
                responses.send(call.number, said)
            if said.last:
                end.shutdown(socket.SHUT_RDWR)

    def _made(self, authority: Authority, demand: bool) -> ssl.SSLContext:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.load_cert_chain(*authority.server("127.0.0.1", "localhost", "mdcb.test"))
        if demand:
            made.verify_mode = ssl.CERT_REQUIRED
            made.load_verify_locations(authority.ca_file)

        def asked(_: Any, name: str | None, __: ssl.SSLContext) -> None:
            self.server_names.append(name)

        made.sni_callback = asked
        return made

    def _usual(self, call: Call) -> Answer:
        if call.name not in self.functions:
            return Answer(error=f"gorpc.Dispatcher: unknown method [.{call.name}]")
        if call.name == "Ping":
            return Answer(result=True)
        if call.argument is None:
            words = f"unexpected request type for method [.{call.name}]: %!s(<nil>)"
            return Answer(error=f"gorpc.Dispatcher: {words}. Expected string")
        if call.name == "Login":
            return Answer(result=self.key is None or call.argument == self.key)
        return Answer()


def _exactly(reader: Any, size: int) -> bytes:
    data: bytes = reader.read(size)
    if len(data) < size:
        raise OSError("the client has left")
    return data


# The streams


class Stream:
    """Bytes of a direction, inflated as they come."""

    def __init__(self, reader: Any, compressed: bool) -> None:
        self._reader = reader
        self._inflate = zlib.decompressobj(wbits=-15) if compressed else None
        self._ready = bytearray()

    def take(self, size: int) -> bytes | None:
        """Return so many bytes, None where the client has left before."""
        while len(self._ready) < size:
            data = self._reader.read1(65536)
            if not data:
                return None
            if self._inflate is not None:
                try:
                    data = self._inflate.decompress(data)
                except zlib.error as exc:
                    raise ValueError(f"no raw DEFLATE stream: {exc}") from exc
            self._ready += data
        taken = bytes(self._ready[:size])
        del self._ready[:size]
        return taken


class Requests:
    """Reads requests, message by message."""

    WIRE = {"ID": 3, "Request": 8}
    CALL = {"Request": 8, "Name": 6}

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._known: dict[int, dict[int, str]] = {}
        """Number of a type -> its fields' names by number."""
        self._left = b""

    def next(self) -> tuple[int, str, str | None] | None:
        """Return number, function and argument of the next call, None at the end."""
        while True:
            if not self._message():
                return None
            kind = self._signed()
            if kind > 0:
                break
            self._define(-kind, self.WIRE)
        fields = self._fields(kind, {"ID": self._unsigned, "Request": self._call})
        if self._left:
            raise ValueError("bytes behind a request")
        name, argument = fields.get("Request") or ("", None)
        if not name.startswith("."):
            raise ValueError(f"cannot split {name!r}")
        return fields.get("ID", 0), name[1:], argument

    def _call(self) -> tuple[str, str | None]:
        registered = self._text()
        if registered != "*gorpc.dispatcherRequest":
            raise ValueError(f"the server dies of {registered!r}")
        kind = self._signed()
        if kind < 0:
            self._define(-kind, self.CALL)
            if self._left:
                self._unsigned()
            elif not self._message():
                raise OSError("the client has left")
            kind = self._signed()
        size = self._unsigned()
        before = len(self._left)
        found = self._fields(kind, {"Request": self._argument, "Name": self._text})
        if before - len(self._left) != size:
            raise ValueError("a call of another size than is said")
        return found["Name"], found.get("Request")

    def _argument(self) -> str:
        if self._text() != "string" or self._signed() != 6:
            raise ValueError("an argument that is no string")
        size = self._unsigned()
        before = len(self._left)
        if self._unsigned():
            raise ValueError("no zero before a value that is no struct")
        text = self._text()
        if before - len(self._left) != size:
            raise ValueError("an argument of another size than is said")
        return text

    def _fields(self, kind: int, read: Mapping[str, Callable[[], Any]]) -> Any:
        names, at, found = self._known[kind], -1, {}
        while step := self._unsigned():
            at += step
            found[names[at]] = read[names[at]]()
        return found

    def _define(self, kind: int, wanted: Mapping[str, int]) -> None:
        """Read `StructT {Name, Id} [{Name, Id}...]`, in the one way to write it."""
        if kind in self._known or kind < 64:
            raise ValueError(f"type {kind} is defined twice")
        self._expect(b"\x03\x01\x01")
        self._text()
        self._expect(b"\x01")
        if self._signed() != kind:
            raise ValueError("a definition of another type")
        self._expect(b"\x00\x01")
        names: dict[int, str] = {}
        for number in range(self._unsigned()):
            self._expect(b"\x01")
            name = self._text()
            self._expect(b"\x01")
            if wanted[name] != self._signed():
                raise ValueError(f"{name} has another type")
            self._expect(b"\x00")
            names[number] = name
        self._expect(b"\x00\x00")
        self._known[kind] = names

    def _message(self) -> bool:
        first = self._stream.take(1)
        if first is None:
            return False
        size = first[0]
        if size >= 128:
            rest = self._stream.take(256 - size)
            if rest is None or rest[0] == 0:
                raise ValueError("a length that is not minimal")
            size = int.from_bytes(rest, "big")
        data = self._stream.take(size)
        if data is None:
            return False
        self._left = data
        return True

    def _expect(self, data: bytes) -> None:
        if self._taken(len(data)) != data:
            raise ValueError(f"{data.hex()} expected")

    def _taken(self, size: int) -> bytes:
        if len(self._left) < size:
            raise ValueError("a message ends too soon")
        taken, self._left = self._left[:size], self._left[size:]
        return taken

    def _unsigned(self) -> int:
        first = self._taken(1)[0]
        if first < 128:
            return first
        return int.from_bytes(self._taken(256 - first), "big")

    def _signed(self) -> int:
        number = self._unsigned()
        return -(number // 2) - 1 if number % 2 else number // 2

    def _text(self) -> str:
        return self._taken(self._unsigned()).decode()


class Responses:
    """Writes responses as Go does, the second definition inside the first value."""

    def __init__(self, end: Any, compressed: bool, first_id: int) -> None:
        self._end = end
        self._deflate = zlib.compressobj(9, wbits=-15) if compressed else None
        self._outer, self._inner = first_id, first_id + 1
        self._is_first = True
        self._lock = threading.Lock()

    def send(self, number: int, said: Answer, *, half: bool = False) -> None:
        """Send the response to a call."""
        with self._lock:
            data = said.garbage or self.encode(number, said)
            if self._deflate is not None:
                data = self._deflate.compress(data)
                data += self._deflate.flush(zlib.Z_SYNC_FLUSH)
            self._end.sendall(data[: len(data) // 2] if half else data)

    def encode(self, number: int, said: Answer) -> bytes:
        """Return the messages of a response."""
        front, is_first = b"", self._is_first
        head = _int(self._outer) + b"\x01" + _uint(number)
        if is_first:
            outer = (("ID", 3), ("Response", 8), ("Error", 6))
            front = _message(_definition(self._outer, "wireResponse", outer))
            self._is_first = False
        if said.panic:
            # The inner type stays undefined until it is needed.
            self._is_first = is_first
            if is_first:
                raise ValueError("the first answer cannot be a panic here")
            return _message(head + b"\x02" + _str(STACK.format(said.panic)) + b"\x00")
        body = head + b"\x01" + _str("*gorpc.dispatcherResponse")
        if is_first:
            fields = (("Response", 8), ("Error", 6))
            body += _definition(self._inner, "dispatcherResponse", fields)
            front, body = front + _message(body), b""
        value = b""
        if said.error:
            value = b"\x02" + _str(said.error)
        elif isinstance(said.result, bool):
            value = b"\x01" + _str("bool") + b"\x02\x02\x00" + _uint(said.result)
        elif isinstance(said.result, str):
            text = b"\x00" + _str(said.result)
            value = b"\x01" + _str("string") + b"\x0c" + _uint(len(text)) + text
        value += b"\x00"
        body += _int(self._inner) + _uint(len(value)) + value + b"\x00"
        return front + _message(body)


def _definition(kind: int, name: str, fields: Sequence[tuple[str, int]]) -> bytes:
    listed = b"".join(
        b"\x01" + _str(field) + b"\x01" + _int(type_) + b"\x00"
        for field, type_ in fields
    )
    about = b"\x03\x01\x01" + _str(name) + b"\x01" + _int(kind) + b"\x00"
    return _int(-kind) + about + b"\x01" + _uint(len(fields)) + listed + b"\x00\x00"


def _message(data: bytes) -> bytes:
    return _uint(len(data)) + data


def _str(text: str) -> bytes:
    data = text.encode()
    return _uint(len(data)) + data


def _uint(number: int) -> bytes:
    if number < 128:
        return bytes([number])
    data = f"{number:x}"
    data = data.zfill(len(data) + len(data) % 2)
    return bytes([256 - len(data) // 2]) + bytes.fromhex(data)


def _int(number: int) -> bytes:
    return _uint(2 * number if number >= 0 else 2 * (-number - 1) + 1)
