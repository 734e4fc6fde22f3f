"""Segment: one track call, named Hit, per record."""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, ClassVar, Final

import msgspec

from tyk_pump.config.options import HttpOptions, Secret, doc
from tyk_pump.errors import CodecError
from tyk_pump.pumps.protocol import Batch
from tyk_pump.record import json
from tyk_pump.record.analytics import ALL, AnalyticsRecord
from tyk_pump.record.gotime import rfc3339
from tyk_pump.transport.bulk import Bulk, Part, Refused, TooLarge
from tyk_pump.transport.http import HttpClient, basic_header, fault_of

BATCH_COUNT: Final = 250
BATCH_BYTES: Final = 500_000
EVENT_BYTES: Final = 32_768
"""What Segment takes; beyond it answers 400."""
KEYLESS: Final = "keyless"
"""Stands for the key in calls that have none: Segment demands an identifier."""


_YES: Final = re.compile(rb'\A\s*(?:\{[^{}]*"success"\s*:\s*true\b|"?OK"?\s*\Z)')
"""Segment's answer, or that of servers that take Segment's calls in its place."""


class SegmentOptions(HttpOptions, frozen=True, kw_only=True):
    """Which source the calls are for."""

    segment_write_key: Annotated[
        Secret,
        doc("Write key of the source.", env="WRITEKEY", example="<YOUR-WRITE-KEY>"),
    ] = Secret()
    segment_url: Annotated[
        str, doc("Address of the API; workspaces in the EU have another.")
    ] = "https://api.segment.io"
    hash_api_key: Annotated[
        bool,
        doc("Send the SHA-256 of API keys instead of the keys themselves."),
    ] = False

    def faults(self) -> Iterator[tuple[str, str]]:
        """The key is needed, and an address that is one."""
        yield from super().faults()
        if not self.segment_write_key:
            yield "segment_write_key", "missing"
        if fault := fault_of(self.segment_url):
            yield "segment_url", fault


class SegmentPump:
    """Send records to Segment's batch API."""

    options_type: ClassVar[type[SegmentOptions]] = SegmentOptions
    fields = tuple(name for name in ALL if name != "collection_name")
    guarantee: Final = (
        "Each event once in effect: the id of the record is the `messageId`, and "
        "Segment drops what comes again under the same one within its window (24 "
        "hours at least)."
    )
    differences: Final = (
        "`messageId` is the id of the record, not a random one.",
        "`timestamp` is the time of the call, not of its sending.",
        f"A call without API key has the `anonymousId` `{KEYLESS}`; the reference "
        "loses it.",
        "Whole numbers beyond 2^53 keep all digits.",
        f"An event beyond Segment's {EVENT_BYTES:,} bytes is a dead letter; "
        "`max_record_size` cuts the recorded bodies.",
        "`context.library` is `tyk-pump`.",
        "A 400 is not tried again for the event that it is about.",
        "Nothing waits for five seconds before it is sent, or is lost at a stop.",
    )

    def __init__(self, options: SegmentOptions) -> None:
        self._options = options
        self._url = options.segment_url.rstrip("/") + "/v1/batch"
        library = {"name": "tyk-pump"}
        self._head = json.compact({"context": {"library": library}})[:-1]
        self._bulk = Bulk(
            max_bytes=BATCH_BYTES, max_count=BATCH_COUNT, overhead=len(self._head) + 200
        )

    def open(self) -> None:
        """Read the files of the TLS options; the first batch connects."""
        key = self._options.segment_write_key.reveal()
        self._http = HttpClient(
            self._options,
            {
                "Authorization": basic_header(key, ""),
                "Content-Type": "application/json",
            },
            timeout=self._options.request_timeout,
        )

    def probe(self) -> str:
        """Send a batch of nothing."""
        reply = self._http.post(self._url, self._body([]), accept=(400,))
        return (
            f"{self._options.segment_url} answers ({reply.title}); it never says "
            "whether a write key is right"
        )

    def write(self, batch: Batch) -> None:
        """Send every record; return when Segment has taken them."""
        self._bulk.send(batch, self._event, self._post)

    def close(self) -> None:
        """Close the connections."""
        self._bulk.close()
        self._http.close()

    def _event(self, batch: Batch, index: int) -> bytes:
        record = batch.records[index]
        if record.api_key and self._options.hash_api_key:
            record = _without_key(record)
        event = {
            "properties": msgspec.Raw(json.encode_sorted(record)),
            "anonymousId": record.api_key or KEYLESS,
            "event": "Hit",
            "type": "track",
            "messageId": batch.record_id(index),
            "timestamp": rfc3339(record.timestamp, record.zone),
        }
        written = json.compact(event) + b","
        if len(written) > EVENT_BYTES:
            size = len(written)
            raise CodecError(f"too large: {size} bytes, the limit is {EVENT_BYTES}")
        return written

    def _post(self, part: Part) -> None:
        reply = self._http.post(self._url, self._body(part.items))
        if reply.status == 413:
            raise TooLarge(reply.reason)
        if reply.status == 400:
            raise Refused(reply.reason)
        if reply.status != 200 or _YES.search(reply.body) is None:
            raise reply.failure()  # a page of something on the way

    def _body(self, events: list[bytes]) -> bytes:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        tail = f'],"messageId":"{uuid.uuid4()}","sentAt":"{now}"}}'
        listed = b"".join(events).removesuffix(b",")
        return self._head + b',"batch":[' + listed + tail.encode()


def _without_key(record: AnalyticsRecord) -> AnalyticsRecord:
    """Return a record with its key's hash where the key stands alone or in a tag."""
    key, tags = record.api_key, record.tags
    hashed = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
    if tags:
        tags = [tag.replace(key, hashed) for tag in tags]
    return msgspec.structs.replace(record, api_key=hashed, tags=tags)
