"""Health, readiness, metrics and the status page over HTTP, on one port.

`/health` answers as the reference does, whatever the state: it says that the process
lives. `/ready` is honest. Both are answered by threads that never wait for the
coordinator: they show the last snapshot that it took.
"""

from __future__ import annotations

import logging
import posixpath
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qs, unquote
from wsgiref.types import StartResponse, WSGIEnvironment

import msgspec

from tyk_pump import log as lines
from tyk_pump import metrics
from tyk_pump.admin import page, profile
from tyk_pump.config.root import RootOptions
from tyk_pump.coordinator.snapshot import Snapshot
from tyk_pump.errors import TykPumpError
from tyk_pump.transport.wsgi import WsgiServer, listen

log = logging.getLogger(__name__)

PROFILER: Final = "/debug/pprof/"
_JSON: Final = "application/json"
_PLAIN: Final = "text/plain; charset=utf-8"
_HTML: Final = "text/html; charset=utf-8"
_METRICS: Final = "text/plain; version=0.0.4; charset=utf-8"
_LONGEST_PROFILE: Final = 60.0


class Reply(msgspec.Struct, frozen=True):
    """What to answer."""

    status: HTTPStatus
    body: bytes = b""
    content_type: str = ""
    headers: tuple[tuple[str, str], ...] = ()


class AdminApp:
    """The WSGI application."""

    def __init__(self, snapshot: Callable[[], Snapshot], root: RootOptions) -> None:
        self._snapshot = snapshot
        name = root.health_check_endpoint_name
        self._health = {f"/{name or 'health'}"}
        if not name:
            # The name under which Tyk's other components answer.
            self._health.add("/hello")
        self._profiler = root.enable_http_profiler

    def __call__(
        self, environ: WSGIEnvironment, start_response: StartResponse
    ) -> Iterable[bytes]:
        """Answer one request."""
        # PATH_INFO has lost a second slash at the beginning, which we must see.
        target = str(environ.get("REQUEST_URI") or environ.get("PATH_INFO", "/"))
        path, _, query = target.partition("?")
        method = str(environ["REQUEST_METHOD"])
        reply = self.reply(method, unquote(path), query)
        headers = [("Content-Length", str(len(reply.body))), *reply.headers]
        if reply.content_type:
            headers.append(("Content-Type", reply.content_type))
        start_response(f"{reply.status.value} {reply.status.phrase}", headers)
        return [] if method == "HEAD" else [reply.body]

    def reply(self, method: str, path: str, query: str = "") -> Reply:
        """Return the answer to a method on a path."""
        clean = _cleaned(path)
        if clean != path:
            location = clean + (f"?{query}" if query else "")
            return Reply(
                HTTPStatus.MOVED_PERMANENTLY, headers=(("Location", location),)
            )
        if path in self._health:
            if method != "GET":
                return Reply(HTTPStatus.METHOD_NOT_ALLOWED)
            return Reply(HTTPStatus.OK, b'{"status": "ok"}', _JSON)
        make = self._page(path, query)
        if make is None:
            return _not_found("404 page not found\n")
        if method not in ("GET", "HEAD"):
            return Reply(HTTPStatus.METHOD_NOT_ALLOWED)
        return make()

    def _page(self, path: str, query: str) -> Callable[[], Reply] | None:
        if path == "/ready":
            return self._ready
        if path == "/metrics":
            return self._metrics
        if path == "/":
            return self._status
        if self._profiler and path.startswith(PROFILER):
            return lambda: _profile(path.removeprefix(PROFILER), query)
        return None

    def _ready(self) -> Reply:
        now = self._snapshot()
        if now.ready:
            return Reply(HTTPStatus.OK, b'{"status": "ready"}', _JSON)
        reasons = [lines.masked(reason) for reason in now.reasons]
        body = msgspec.json.encode({"status": "not ready", "reasons": reasons})
        return Reply(HTTPStatus.SERVICE_UNAVAILABLE, body, _JSON)

    def _metrics(self) -> Reply:
        return Reply(HTTPStatus.OK, metrics.render(self._snapshot()), _METRICS)

    def _status(self) -> Reply:
        # Refreshed by the page itself: a stored copy would show a false state.
        headers = (
            ("Cache-Control", "no-store"),
            ("Content-Security-Policy", page.POLICY),
        )
        body = page.render(self._snapshot()).encode("utf-8", "replace")
        return Reply(HTTPStatus.OK, body, _HTML, headers)


class AdminServer:
    """Serves the application from threads of its own."""

    def __init__(
        self,
        snapshot: Callable[[], Snapshot],
        root: RootOptions,
        *,
        port: int | None = None,
    ) -> None:
        self._app = AdminApp(snapshot, root)
        self._name = root.health_check_endpoint_name or "health"
        self.port = root.health_check_endpoint_port if port is None else port
        self._server: WsgiServer | None = None

    def start(self) -> None:
        """Listen on all addresses; a port that is taken ends the start."""
        try:
            listener = listen("", self.port)
        except OSError as exc:
            raise TykPumpError(
                f"health_check_endpoint_port: cannot listen on port {self.port}:"
                f" {exc.strerror}"
            ) from exc
        self._server = WsgiServer(self._app, listener, "admin")
        self.port = self._server.port
        log.info(
            f"Serving health check endpoint at http://localhost:{self.port}"
            f"/{self._name} ..."
        )

    def close(self) -> None:
        """Close the port and the connections."""
        if self._server is not None:
            self._server.close()


def _cleaned(path: str) -> str:
    """Return the path without double slashes and dots, a last slash kept."""
    if not path.startswith("/"):
        path = f"/{path}"
    clean = "/" + posixpath.normpath(path).lstrip("/")
    return f"{clean}/" if path.endswith("/") and clean != "/" else clean


def _not_found(text: str) -> Reply:
    return Reply(
        HTTPStatus.NOT_FOUND,
        text.encode(),
        _PLAIN,
        (("X-Content-Type-Options", "nosniff"),),
    )


def _profile(name: str, query: str) -> Reply:
    if name == "":
        return Reply(HTTPStatus.OK, profile.index().encode(), _HTML)
    if name == "threads":
        return Reply(HTTPStatus.OK, profile.threads().encode(), _PLAIN)
    if name == "profile":
        try:
            seconds = float(parse_qs(query).get("seconds", ["10"])[0])
        except ValueError:
            return Reply(HTTPStatus.BAD_REQUEST, b"seconds: not a number\n", _PLAIN)
        text = profile.sample(min(max(seconds, 0.0), _LONGEST_PROFILE))
        return Reply(HTTPStatus.OK, text.encode(), _PLAIN)
    return _not_found("Unknown profile\n")
