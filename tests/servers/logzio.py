"""A Logz.io listener: tokens, lines and limits as its documentation has them."""

from __future__ import annotations

import json

from tests.servers.http import Answer, HttpServer, Request, of
from tests.servers.tls import Authority

TOKEN = "s3cret-token"
BODY_BYTES = 10_485_760
LINE_BYTES = 500_000


class Listener(HttpServer):
    """Keeps the documents that it takes."""

    def __init__(self, authority: Authority | None = None) -> None:
        self.documents: list[dict[str, object]] = []
        self.token = TOKEN
        self.unfit: str | None = "/unfit"
        super().__init__(self.listen, authority=authority)

    def listen(self, request: Request) -> Answer:
        """Answer as the vendor does."""
        if request.query.get("token") != self.token:
            return Answer(401, b"Logging token is missing or not valid")
        if len(request.body) > BODY_BYTES:
            return Answer(413)
        good, malformed, oversized, empty = [], 0, 0, 0
        for line in request.body.split(b"\n")[:-1]:
            if len(line) > LINE_BYTES:
                oversized += 1
                continue
            if not line:
                empty += 1
                continue
            try:
                found = json.loads(line)
            except ValueError:
                malformed += 1
                continue
            if found.get("request_uri") == self.unfit:
                malformed += 1
            else:
                good.append(found)
        self.documents += good
        if malformed or oversized or empty:
            counts = {
                "malformedLines": malformed,
                "successfulLines": len(good),
                "oversizedLines": oversized,
                "emptyLogLines": empty,
            }
            return of(counts, 400)
        return Answer(200)
