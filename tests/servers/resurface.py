"""Resurface's capture endpoint: takes bundles of messages, answers 204 or refuses.

It keeps no ids: a bundle that comes twice is there twice.
"""

from __future__ import annotations

import json
import threading
import zlib
from collections.abc import Callable
from typing import Any

from tests.servers.http import Answer, HttpServer, Request
from tests.servers.tls import Authority

PATH = "/message"
Message = list[list[str]]


class Capture:
    """Listens from its making on; `http` is the server beneath."""

    def __init__(
        self,
        *,
        path: str = PATH,
        authority: Authority | None = None,
        demand_certificate: bool = False,
    ) -> None:
        self.path = path
        self.largest = 2**40
        """Bytes of a request, once it is inflated."""
        self.refuses: Callable[[Message], bool] = lambda message: False
        self.before: Callable[[Request], Answer | None] = lambda request: None
        """Answers in the endpoint's place where it returns an answer."""
        self.bundles: list[list[Message]] = []
        self._lock = threading.Lock()
        self.http = HttpServer(
            self._respond, authority=authority, demand_certificate=demand_certificate
        )

    def __enter__(self) -> Capture:
        return self

    def __exit__(self, *exc: object) -> None:
        self.http.close()

    @property
    def url(self) -> str:
        """Return the address of the endpoint."""
        return f"{self.http.url}{self.path}"

    @property
    def messages(self) -> list[Message]:
        """Return what was taken, in the order of its coming."""
        with self._lock:
            return [message for bundle in self.bundles for message in bundle]

    def values(self, name: str) -> list[str]:
        """Return the value of a detail in each message, "" where it is not told."""
        return [
            next((value for known, value in message if known == name), "")
            for message in self.messages
        ]

    def _respond(self, request: Request) -> Answer:
        answer = self.before(request)
        if answer is not None:
            return answer
        if request.path != self.path:
            return Answer(404)
        if request.method != "POST":
            return Answer(405)
        if request.headers.get("content-type") != "application/ndjson; charset=UTF-8":
            return Answer(415)
        encoding = request.headers.get("content-encoding", "")
        if encoding not in ("", "deflated"):
            return Answer(415)
        try:
            body = zlib.decompress(request.raw) if encoding else request.raw
            lines = body.decode().removesuffix("\n").split("\n") if body else []
            bundle = [_checked(json.loads(line)) for line in lines]
        except ValueError as exc:
            return Answer(400, str(exc).encode())
        if len(body) > self.largest:
            return Answer(413, b"bundle is too large")
        if any(self.refuses(message) for message in bundle):
            return Answer(400, b"invalid message")
        with self._lock:
            self.bundles.append(bundle)
        return Answer(204)


def _checked(message: Any) -> Message:
    if not isinstance(message, list) or not message:
        raise ValueError("a message is a list of pairs")
    for pair in message:
        if not isinstance(pair, list) or [type(part) for part in pair] != [str, str]:
            raise ValueError("a pair is a name and a value")
        if not pair[1]:
            raise ValueError("an empty value")
    return message
