"""Logz.io: one line of JSON per record, sent in bulk to the listener."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Final
from urllib.parse import quote, urlsplit, urlunsplit

from tyk_pump.config.options import HttpOptions, Seconds, Secret, doc
from tyk_pump.errors import CodecError
from tyk_pump.pumps.protocol import Batch
from tyk_pump.record.document import Document
from tyk_pump.transport.bulk import Bulk, Part, Refused, TooLarge
from tyk_pump.transport.http import HttpClient, fault_of

KEYS: Final = {
    "@timestamp": "timestamp",
    "api_id": "api_id",
    "api_key": "api_key",
    "api_name": "api_name",
    "api_version": "api_version",
    "http_method": "method",
    "ip_address": "ip_address",
    "oauth_id": "oauth_id",
    "org_id": "org_id",
    "raw_request": "raw_request",
    "raw_response": "raw_response",
    "request_time_ms": "request_time",
    "request_uri": "path",
    "response_code": "response_code",
}
BODY_BYTES: Final = 3 * 1024 * 1024
LINE_BYTES: Final = 500_000
"""The listener refuses longer lines."""


class LogzioOptions(HttpOptions, frozen=True, kw_only=True):
    """Where the listener is, and the account's token."""

    token: Annotated[
        Secret, doc("Token for shipping logs.", example="<YOUR-LOGZ.IO-TOKEN>")
    ] = Secret()
    url: Annotated[
        str, doc("Address of the listener; https:// on port 8071 of the region.")
    ] = "https://listener.logz.io:8071"
    log_type: Annotated[
        str, doc("Log type, by which Logz.io parses; unset, it takes http-bulk.")
    ] = ""
    gzip: Annotated[bool, doc("Compress what is sent.")] = False
    drain_duration: Annotated[
        Seconds, doc("Accepted; records are sent at once and wait nowhere.", ge=0)
    ] = 3.0
    queue_dir: Annotated[
        str, doc("Accepted; what is not yet delivered stays in the journal.")
    ] = ""
    check_disk_space: Annotated[bool, doc("Accepted; no disk is used here.")] = True
    disk_threshold: Annotated[
        int, doc("Accepted; no disk is used here.", ge=0, le=100)
    ] = 98

    def faults(self) -> Iterator[tuple[str, str]]:
        """The token is needed, and an address that is one."""
        yield from super().faults()
        if not self.token:
            yield "token", "missing"
        if fault := fault_of(self.url):
            yield "url", fault


class LogzioPump:
    """Send records to a Logz.io listener."""

    options_type: ClassVar[type[LogzioOptions]] = LogzioOptions
    _document = Document(KEYS)
    fields = _document.fields
    guarantee: Final = (
        "At least once: a request that was answered too late, or a part of it that was "
        "taken beside a refused line, is sent again. The listener knows no identifiers."
    )
    differences: Final = (
        "A request that fails is sent again whole, never with an empty body.",
        "Records are sent at once and wait in no queue of their own, so `queue_dir`, "
        "`drain_duration` and the disk options do nothing; a stop loses nothing.",
        "A wrong token (401) holds the records until it is right; the reference drops "
        "them.",
        "A line beyond the listener's 500,000 bytes is a dead letter.",
        "`url` may have a path, a query or a slash at its end.",
        "The token stands in no log line.",
    )

    def __init__(self, options: LogzioOptions) -> None:
        self._options = options
        self._url = _address(options)
        self._bulk = Bulk(max_bytes=BODY_BYTES)

    def open(self) -> None:
        """Read the files of the TLS options; the first batch connects."""
        self._http = HttpClient(
            self._options,
            {"Content-Type": "text/plain"},
            timeout=self._options.request_timeout,
        )

    def probe(self) -> str:
        """Send no line at all: the listener looks at the token first."""
        reply = self._http.post(self._url, b"", accept=(400,))
        return f"{self._options.url} takes the token ({reply.title})"

    def write(self, batch: Batch) -> None:
        """Send every record; return when the listener has taken them."""
        self._bulk.send(batch, self._line, self._post)

    def close(self) -> None:
        """Close the connections."""
        self._bulk.close()
        self._http.close()

    def _line(self, batch: Batch, index: int) -> bytes:
        line = self._document.encode(batch.records[index]) + b"\n"
        if len(line) > LINE_BYTES:
            raise CodecError(f"too large: {len(line)} bytes, the limit is {LINE_BYTES}")
        return line

    def _post(self, part: Part) -> None:
        body = b"".join(part.items)
        reply = self._http.post(self._url, body, gzip=self._options.gzip)
        if reply.status == 413:
            raise TooLarge(reply.reason)
        if reply.status == 400:
            # It counts the lines that it refuses and does not say which.
            raise Refused(reply.reason)
        if reply.status != 200 or reply.body.strip():
            raise reply.failure()  # a page of something on the way


def _address(options: LogzioOptions) -> str:
    parts = urlsplit(options.url)
    query = [parts.query] if parts.query else []
    query.append(f"token={quote(options.token.reveal(), safe='')}")
    if options.log_type:
        query.append(f"type={quote(options.log_type, safe='')}")
    return urlunsplit(parts._replace(path=parts.path or "/", query="&".join(query)))
