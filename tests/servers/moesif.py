"""Moesif's collector, as its pages describe it: who may write, what an event is.

It keeps events by `transaction_id`, so that a repeat adds nothing, and refuses a batch
as a whole, with one word for all of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from tests.servers.http import Answer, HttpServer, Request, of
from tests.servers.tls import Authority

ETAG = "X-Moesif-Config-Etag"
LARGEST = 50_000_000
_NEEDED = {
    "request": ("time", "uri", "verb", "headers"),
    "response": ("time", "status", "headers"),
}


class Moesif:
    """Listens from its making on; `http` is the server beneath."""

    def __init__(
        self,
        application_id: str | None = "app-1",
        *,
        authority: Authority | None = None,
        demand_certificate: bool = False,
    ) -> None:
        """No application id means that any is right."""
        self.application_id = application_id
        self.config: Any = {"sample_rate": 100}
        self.config_etag = ""
        self.batch_etag = ""
        self.largest = LARGEST
        self.refuses: Callable[[Any], bool] = lambda event: False
        self.before: Callable[[Request], Answer | None] = lambda request: None
        """Answers in the collector's place where it returns an answer."""
        self._events: dict[str, Any] = {}
        self._lock = threading.Lock()
        self.http = HttpServer(
            self._respond, authority=authority, demand_certificate=demand_certificate
        )

    def __enter__(self) -> Moesif:
        return self

    def __exit__(self, *exc: object) -> None:
        self.http.close()

    @property
    def url(self) -> str:
        """Return the address without a path."""
        return self.http.url

    @property
    def events(self) -> list[Any]:
        """Return the events that are kept, in the order of their coming."""
        with self._lock:
            return list(self._events.values())

    def asked(self, method: str) -> list[Request]:
        """Return the requests of a method."""
        return [one for one in self.http.requests if one.method == method]

    def _respond(self, request: Request) -> Answer:
        answer = self.before(request)
        if answer is not None:
            return answer
        known = {"/v1/config": "GET", "/v1/events/batch": "POST"}
        if request.path not in known:
            return of({"message": "not found"}, 404)
        if request.method != known[request.path]:
            return of({"message": "method not allowed"}, 405)
        given = request.headers.get("x-moesif-application-id", "")
        if self.application_id not in (None, given):
            return of({"message": "wrong application id"}, 401)
        if request.method == "GET":
            headers = {ETAG: self.config_etag} if self.config_etag else {}
            return of(self.config, headers=headers)
        return self._take(request)

    def _take(self, request: Request) -> Answer:
        if not request.headers.get("content-type", "").startswith("application/json"):
            return of({"message": "not acceptable"}, 406)
        if len(request.body) > self.largest:
            return of({"message": "too large"}, 413)
        events = request.json
        if not isinstance(events, list) or not all(map(self._right, events)):
            return of({"message": "an event is wrong"}, 400)
        with self._lock:
            for event in events:
                self._events.setdefault(event["transaction_id"], event)
        headers = {ETAG: self.batch_etag} if self.batch_etag else {}
        return of({}, 201, headers=headers)

    def _right(self, event: Any) -> bool:
        whole = all(
            key in event.get(part, {}) for part, keys in _NEEDED.items() for key in keys
        )
        return whole and not self.refuses(event)
