"""Segment's tracking API: batches, identifiers and limits as its documentation says."""

from __future__ import annotations

import base64
from typing import Any

from tests.servers.http import Answer, HttpServer, Request, of
from tests.servers.tls import Authority

KEY = "s3cret-segment_write_key"
EVENT_BYTES = 32_768
BATCH_BYTES = 512_000


class Api(HttpServer):
    """Keeps the events that it takes, each `messageId` once."""

    def __init__(self, authority: Authority | None = None) -> None:
        self.events: dict[str, dict[str, Any]] = {}
        self.unfit = "unfit"
        super().__init__(self.track, authority=authority)

    def track(self, request: Request) -> Answer:
        """Answer as the vendor does."""
        if request.method != "POST" or request.path != "/v1/batch":
            return Answer(404)
        wanted = base64.b64encode(f"{KEY}:".encode()).decode()
        if request.headers.get("authorization") != f"Basic {wanted}":
            return of({"success": False, "message": "no write key"}, 401)
        if len(request.raw) > BATCH_BYTES:
            return of({"success": False, "message": "exceeds 500kb"}, 400)
        batch = request.json["batch"]
        for event in batch:
            if not event["anonymousId"] or event["properties"]["path"] == self.unfit:
                return of({"success": False, "message": "malformed JSON"}, 400)
        self.events.update({event["messageId"]: event for event in batch})
        return of({"success": True})
