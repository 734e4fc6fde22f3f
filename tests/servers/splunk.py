"""An HTTP Event Collector as Splunk documents it: tokens, codes, acknowledgement."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec

from tests.servers.http import Answer, HttpServer, Request, of
from tests.servers.tls import Authority

TOKEN = "85FBC7DE-451F-4FBE-B847-2797D3510464"
DISABLED = "11111111-0000-0000-0000-000000000000"
EVENTS = ("/services/collector", "/services/collector/event")
TEXTS = {
    0: "Success",
    1: "Token disabled",
    2: "Token is required",
    3: "Invalid authorization",
    4: "Invalid token",
    5: "No data",
    6: "Invalid data format",
    7: "Incorrect index",
    9: "Server is busy",
    10: "Data channel is missing",
    12: "Event field is required",
    13: "Event field cannot be blank",
    14: "ACK is disabled",
    15: "Error in handling indexed fields",
}
STATUSES = {0: 200, 1: 403, 2: 401, 3: 401, 4: 403, 9: 503}
"""All others are 400."""
KNOWN = {"time", "host", "source", "sourcetype", "index", "event", "fields"}


def says(code: int, **more: Any) -> Answer:
    """Return the collector's answer with this code."""
    content = {"text": TEXTS[code], "code": code}
    return of(content | more, STATUSES.get(code, 400))


class Channel(msgspec.Struct):
    """Requests of a client that are numbered, for acknowledgement."""

    requests: list[bool] = []
    """Whether the indexers have them; False again once this was told."""


class Collector:
    """Keeps the events that it takes."""

    def __init__(
        self,
        *,
        authority: Authority | None = None,
        demand_certificate: bool = False,
        acknowledges: bool = False,
        indexes: tuple[str, ...] = ("main",),
    ) -> None:
        self.events: list[dict[str, Any]] = []
        self.refuses: Callable[[dict[str, Any]], bool] = lambda event: False
        """Whether an event is one that it does not take."""
        self.acknowledges = acknowledges
        self.indexing = True
        """Whether the indexers get on with what is taken."""
        self.names_positions = True
        self.largest = 838_860_800
        self.room: int | None = None
        """So many requests are taken before it is busy."""
        self.channels: dict[str, Channel] = {}
        self._indexes = indexes
        self.http = HttpServer(
            self.answer, authority=authority, demand_certificate=demand_certificate
        )

    @property
    def url(self) -> str:
        """Return the address without a path."""
        return self.http.url

    def __enter__(self) -> Collector:
        return self

    def __exit__(self, *exc: object) -> None:
        self.http.close()

    def values(self, key: str) -> list[Any]:
        """Return what all events have under a key."""
        return [event["event"].get(key) for event in self.events]

    def answer(self, request: Request) -> Answer:
        """Answer as the path asks."""
        path = request.path.removesuffix("/1.0")
        if path not in (*EVENTS, "/services/collector/ack"):
            return Answer(
                404, b'{"text":"The requested URL was not found.","code":404}'
            )
        if request.method != "POST":
            return Answer(405)
        if fault := self._fault_of_token(request):
            return fault
        channel = request.headers.get("x-splunk-request-channel", "")
        channel = channel or request.query.get("channel", "")
        if path.endswith("/ack"):
            return self._confirm(request, channel)
        return self._take(request, channel)

    def _fault_of_token(self, request: Request) -> Answer | None:
        given = request.headers.get("authorization", "")
        if not given:
            return says(2)
        kind, _, token = given.partition(" ")
        if kind != "Splunk" or not token:
            return says(3)
        if token == DISABLED:
            return says(1)
        return None if token == TOKEN else says(4)

    def _confirm(self, request: Request, channel: str) -> Answer:
        if not self.acknowledges:
            return says(14)
        if not channel:
            return says(10)
        known = self.channels.setdefault(channel, Channel()).requests
        told: dict[str, bool] = {}
        for number in request.json["acks"]:
            there = number < len(known) and known[number] and self.indexing
            told[str(number)] = there
            if there:
                known[number] = False
        return of({"acks": told})

    def _take(self, request: Request, channel: str) -> Answer:
        if self.acknowledges and not channel:
            return says(10)
        if len(request.body) > self.largest:
            return Answer(413, b"<html><body>Content too large</body></html>")
        if self.room is not None:
            if self.room <= 0:
                return says(9)
            self.room -= 1
        if not request.body:
            return says(5)
        found, code = self._read(request.body.decode())
        self.events += found
        more: dict[str, Any] = {}
        if code and self.names_positions:
            # It counts an event before it looks at its index.
            more = {"invalid-event-number": len(found) + (code == 7)}
        if self.acknowledges and not code:
            numbers = self.channels.setdefault(channel, Channel()).requests
            more["ackId"] = len(numbers)
            numbers.append(True)
        if code and not self.names_positions:
            del self.events[len(self.events) - len(found) :]
        return says(code, **more)

    def _read(self, text: str) -> tuple[list[dict[str, Any]], int]:
        """Return the events up to the first that is not taken, and why it is not."""
        decoder = json.JSONDecoder()
        at = 0
        found: list[dict[str, Any]] = []
        while at < len(text):
            try:
                event, at = decoder.raw_decode(text, at)
            except ValueError:
                return found, 6
            if code := self._fault_of(event):
                return found, code
            found.append(event)
        return found, 0

    def _fault_of(self, event: Any) -> int:
        if not isinstance(event, dict) or not set(event) <= KNOWN:
            return 6
        if "event" not in event:
            return 12
        if event["event"] in ("", {}):
            return 13
        if event.get("index", self._indexes[0]) not in self._indexes:
            return 7
        fields = event.get("fields", {})
        if not all(isinstance(value, str | list) for value in fields.values()):
            return 15
        return 6 if self.refuses(event) else 0
