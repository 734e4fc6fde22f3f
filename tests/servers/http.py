"""An HTTP(S) server for the tests: keeps every request and answers by a function.

The function may also misbehave: be late, cut the answer, send garbage, hang up.
A CONNECT request is served as a proxy does, except that the server itself answers
within the tunnel, with a certificate for the name that was asked for.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import msgspec

from tests.servers.tls import Authority


class Request(msgspec.Struct, frozen=True):
    """What has been asked."""

    method: str
    target: str
    """Path and query as they stand in the request line."""
    headers: dict[str, str]
    """By lower-case name."""
    raw: bytes
    """The body as it came."""
    client: tuple[str, int]
    """The connection that it came on."""
    authority: str = ""
    """The target of the tunnel that it came through."""
    peer: dict[str, Any] | None = None
    """The client's certificate."""

    @property
    def path(self) -> str:
        """Return the path alone."""
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        """Return the parameters, the last where one is repeated."""
        found = parse_qs(urlsplit(self.target).query, keep_blank_values=True)
        return {name: values[-1] for name, values in found.items()}

    @property
    def body(self) -> bytes:
        """Return the body without its compression."""
        kind = self.headers.get("content-encoding", "")
        if kind == "gzip":
            return gzip.decompress(self.raw)
        return zlib.decompress(self.raw) if kind.startswith("deflate") else self.raw

    @property
    def json(self) -> Any:
        """Return what the body means."""
        return json.loads(self.body)


class Answer(msgspec.Struct, frozen=True):
    """How a request is answered."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    delay: float = 0.0
    """Seconds before the first byte; `close` of the server ends the wait."""
    cut: int | None = None
    """Only so many bytes of the body are sent, then the connection is reset."""
    garbage: bytes | None = None
    """These bytes are sent instead of an HTTP answer, then the end."""
    drip: float = 0.0
    """Seconds between the single bytes of the body."""
    hang_up: bool = False
    """The connection is closed instead of an answer."""


def of(value: Any, status: int = 200, **how: Any) -> Answer:
    """Return an answer of JSON."""
    headers = {"Content-Type": "application/json", **how.pop("headers", {})}
    return Answer(status, json.dumps(value).encode(), headers, **how)


Respond = Callable[[Request], Answer]


class HttpServer:
    """Listens on a free port from its making on; `requests` has what was answered."""

    def __init__(
        self,
        respond: Respond | None = None,
        *,
        authority: Authority | None = None,
        demand_certificate: bool = False,
        plain: bool = False,
    ) -> None:
        """With an authority it speaks TLS, with a certificate for 127.0.0.1; if it is
        `plain` all the same, in the tunnels through it only."""
        self.respond: Respond = respond or (lambda request: Answer())
        self.requests: list[Request] = []
        self.tunnels: list[str] = []
        """Targets of CONNECT requests."""
        self.reads: int | None = None
        """Only so many bytes of a body are read, then the connection is reset."""
        self.authority = authority
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._demand = demand_certificate
        self._tls = authority is not None and not plain
        self.port = 0
        self._server: _Listener | None = None
        self.restart()

    @property
    def url(self) -> str:
        """Return the address without a path."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def restart(self) -> None:
        """Listen (again) on the same port."""
        self.closing.clear()
        self._server = _Listener(("127.0.0.1", self.port), _Handler)
        self._server.owner = self
        self._server.context = self.context() if self._tls else None
        self.port = self._server.server_address[1]
        threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        ).start()

    def context(self, *names: str) -> ssl.SSLContext:
        """Return what a connection is accepted with."""
        assert self.authority is not None
        cert, key = self.authority.server(*names)
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.load_cert_chain(cert, key)
        if self._demand:
            made.verify_mode = ssl.CERT_REQUIRED
            made.load_verify_locations(self.authority.ca_file)
        return made

    def close(self) -> None:
        """Listen no longer, and reset the connections that there are."""
        if self._server is None:
            return
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._server = None
        with self._lock:
            for one in self._sockets:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def answering(self, respond: Respond) -> Iterator[None]:
        """Answer in another way for a while."""
        before, self.respond = self.respond, respond
        try:
            yield
        finally:
            self.respond = before

    def keep(self, request: Request) -> None:
        """Note a request."""
        with self._lock:
            self.requests.append(request)

    def holds(self, connection: socket.socket) -> None:
        """Note a connection, so that `close` can end it."""
        with self._lock:
            self._sockets.add(connection)

    def dropped(self, connection: socket.socket) -> None:
        """Forget a connection."""
        with self._lock:
            self._sockets.discard(connection)


class _Listener(ThreadingHTTPServer):
    owner: HttpServer
    context: ssl.SSLContext | None = None
    request_queue_size = 128
    daemon_threads = True

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Shake hands in the connection's own thread."""
        if self.context is not None:
            request.settimeout(10)
            try:
                request = self.context.wrap_socket(request, server_side=True)
            except (OSError, ssl.SSLError):
                return
        self.owner.holds(request)
        try:
            super().finish_request(request, client_address)
        except OSError:
            pass  # the client has gone, or `close` has ended the connection
        finally:
            self.owner.dropped(request)
            request.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Let the test show what is wrong, not standard error."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    tunnel = ""
    _wrapped: ssl.SSLSocket | None = None

    def finish(self) -> None:
        """Close the tunnel's end too."""
        super().finish()
        if self._wrapped is not None:
            self._owner().dropped(self._wrapped)
            self._wrapped.close()

    def handle_one_request(self) -> None:
        """Read a request of any method."""
        self.raw_requestline = self.rfile.readline(1 << 20)
        if not self.raw_requestline:
            self.close_connection = True
        elif self.parse_request():
            if self.command == "CONNECT":
                self._open_tunnel()
            else:
                self._answer()

    def _owner(self) -> HttpServer:
        assert isinstance(self.server, _Listener)
        return self.server.owner

    def _open_tunnel(self) -> None:
        owner = self._owner()
        host = self.path.rpartition(":")[0]
        owner.tunnels.append(self.path)
        self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        tunnel, self.tunnel = self.path, ""
        try:
            wrapped = owner.context(host).wrap_socket(self.connection, server_side=True)
        except (OSError, ssl.SSLError):
            self.close_connection = True
            return
        self.connection = self._wrapped = wrapped
        self.rfile = wrapped.makefile("rb")
        self.wfile = wrapped.makefile("wb", buffering=0)  # type: ignore[assignment]
        self.tunnel = tunnel
        # An older client asks for the tunnel by HTTP/1.0, and means to use it.
        self.close_connection = False
        owner.holds(wrapped)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self) -> None:
        owner = self._owner()
        if owner.reads is not None:
            self.rfile.read(min(owner.reads, int(self.headers["Content-Length"] or 0)))
            self._reset()
            return
        peer = None
        if isinstance(self.connection, ssl.SSLSocket):
            peer = self.connection.getpeercert()
        request = Request(
            self.command,
            self.path,
            {name.lower(): value for name, value in self.headers.items()},
            self._body(),
            self.client_address,
            self.tunnel,
            peer,
        )
        owner.keep(request)
        answer = owner.respond(request)
        if answer.delay:
            owner.closing.wait(answer.delay)
        self._send(answer)

    def _send(self, answer: Answer) -> None:
        if answer.hang_up or answer.garbage is not None:
            self.wfile.write(answer.garbage or b"")
            self._reset()
            return
        self.send_response(answer.status)
        body = b"" if answer.status in (204, 304) else answer.body
        headers = {"Content-Length": str(len(body)), **answer.headers}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if answer.drip:
            for byte in body:
                self.wfile.write(bytes([byte]))
                if self._owner().closing.wait(answer.drip):
                    break
        else:
            self.wfile.write(body[: answer.cut])
        if answer.cut is not None:
            self._reset()

    def _reset(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep standard error to the tests."""


def wait_for(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    """Wait until something is so; fail the test when it does not become so."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.01)
