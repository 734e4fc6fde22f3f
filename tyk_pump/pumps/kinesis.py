"""Kinesis: one stream record per call of an API, JSON of what describes it."""

from __future__ import annotations

import logging
import re
from binascii import b2a_base64
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Final, NamedTuple

import msgspec

from tyk_pump.config.options import doc
from tyk_pump.errors import ConfigError
from tyk_pump.log import ONCE
from tyk_pump.pumps.protocol import Batch
from tyk_pump.record.document import Document
from tyk_pump.transport.aws import (
    Access,
    AwsOptions,
    FailedCall,
    Service,
    denied,
    records_fault,
)
from tyk_pump.transport.bulk import Bulk, Part, Refused, Verdict
from tyk_pump.transport.http import excerpt, place

log = logging.getLogger(__name__)

KEYS: Final[dict[str, str]] = {
    name: name
    for name in (
        *("alias", "api_id", "api_key", "api_name", "api_version", "content_length"),
        *("host", "ip_address", "method", "oauth_id", "org_id", "path", "raw_path"),
        *("raw_request", "raw_response", "response_code", "tags", "timestamp"),
        "user_agent",
    )
} | {"request_time_ms": "request_time"}
"""Key of the JSON object -> attribute of the record."""
MOST_RECORDS: Final = 500
BATCH_SIZE: Final = 100
REQUEST_BYTES: Final = 5 * 1024 * 1024
"""Of data and partition keys, what every stream takes in one request."""
RECORD_BYTES: Final = 10 * 1024 * 1024
"""The most that a stream can be set up for; the stream refuses what is beyond it."""
STREAM: Final = re.compile(r"[a-zA-Z0-9_.-]{1,128}")

_json: Final = msgspec.json.Encoder().encode


class KinesisOptions(AwsOptions, frozen=True, kw_only=True):
    """Which stream, who asks, and how records go there."""

    stream_name: Annotated[str, doc("Stream to write to.", example="tyk-analytics")] = (
        ""
    )
    batch_size: Annotated[
        int,
        doc("Records in a request, 500 at most; 0 means 100.", ge=0),
    ] = BATCH_SIZE
    kms_key_id: Annotated[
        str,
        doc(
            "Key (id, ARN or alias) with which the stream is encrypted from the start "
            "on; a stream that has another key is not written to.",
            example="alias/aws/kinesis",
        ),
    ] = ""

    def faults(self) -> Iterator[tuple[str, str]]:
        """A name that no stream has."""
        yield from super().faults()
        if not self.stream_name:
            yield "stream_name", "missing"
        elif not STREAM.fullmatch(self.stream_name):
            yield "stream_name", f"{self.stream_name!r} is no name of a stream"


class Item(NamedTuple):
    """A record as it stands in a request."""

    data: bytes
    key: bytes
    """The partition key, as JSON."""


class KinesisPump:
    """Put records into a stream."""

    options_type: ClassVar[type[KinesisOptions]] = KinesisOptions
    _document = Document(KEYS)
    fields: Final = _document.fields
    guarantee: Final = (
        "At least once: a request whose answer was lost is sent again, and Kinesis "
        "does not know repeats. Both have the same partition key, the record's id, so "
        "that consumers can drop them. A record has arrived when the answer gives it a "
        "sequence number."
    )
    differences: Final = (
        "The partition key is the record's id (`stream:position`) in place of a random "
        "number; it spreads records as well.",
        "Records that a request fails to put (throttled shards, inner failures) are "
        "sent again, as is a failed request; the reference loses them.",
        "Requests have 500 records and 5 MiB at most; a record that the stream refuses "
        "becomes a dead letter with its reason.",
        "`kms_key_id` is compared by what it stands for: alias, id and ARN of one key "
        "are the same. That takes the permission `kms:DescribeKey` where the texts "
        "differ.",
        "A missing `stream_name` is a fault; a negative `batch_size` too.",
        "A record that JSON cannot express becomes a dead letter; it is not sent "
        "empty.",
        "Keys, role, profile and endpoint can be set per pump.",
    )

    def __init__(self, options: KinesisOptions) -> None:
        self._options = options
        self._head = b'{"StreamName":%b,"Records":[' % _json(options.stream_name)
        self._bulk = Bulk(
            max_bytes=RECORD_BYTES,
            flush_bytes=REQUEST_BYTES,
            max_count=min(options.batch_size or BATCH_SIZE, MOST_RECORDS),
            size=_size,
        )
        self._service: Service | None = None

    def open(self) -> None:
        """Read who we are; see to the stream's encryption where it is asked for."""
        options = self._options
        if options.batch_size > MOST_RECORDS:
            log.warning(
                "batch_size is beyond what Kinesis takes, 500 counts", extra=ONCE
            )
        self._access = Access(options)
        self._service = self._access.service("kinesis", options.aws_endpoint)
        if options.kms_key_id:
            try:
                self._encrypt(options.kms_key_id)
            except BaseException:
                self.close()
                raise

    def probe(self) -> str:
        """Look the stream up."""
        try:
            stream = self._description()
        except FailedCall as exc:
            if denied(exc.code):
                return f"credentials are known, but {exc.reason}"
            raise
        return (
            f"stream {self._options.stream_name} in {self._connected().region} is "
            f"{stream.get('StreamStatus')}"
        )

    def write(self, batch: Batch) -> None:
        """Return when every record has a sequence number."""
        self._bulk.send(batch, self._item, self._post)

    def close(self) -> None:
        """Close the connections."""
        self._connected().close()

    def _connected(self) -> Service:
        assert self._service is not None, "open comes first"
        return self._service

    # Records

    def _item(self, batch: Batch, index: int) -> Item:
        data = self._document.encode(batch.records[index])
        return Item(data, _json(batch.record_id(index)))

    def _post(self, part: Part) -> Verdict | None:
        records = b",".join(
            [
                b'{"Data":"%b","PartitionKey":%b}'
                % (b2a_base64(item.data, newline=False), item.key)
                for item in part.items
            ]
        )
        body = b"%b%b]}" % (self._head, records)
        service = self._connected()
        results = service.call("PutRecords", body).get("Records")
        if not isinstance(results, list) or len(results) != len(part):
            raise service.failure("PutRecords does not answer for every record")
        verdict = Verdict()
        for offset, result in enumerate(results):
            if not isinstance(result, dict):
                raise service.failure("PutRecords answers for a record with nothing")
            if result.get("SequenceNumber"):
                continue
            code = str(result.get("ErrorCode") or "no sequence number")
            reason = excerpt(f"{code}: {result.get('ErrorMessage') or ''}".rstrip(": "))
            if records_fault(code):
                verdict.rejected[offset] = reason
            else:
                verdict.pending.append(offset)
                verdict.reason = f"{place(service.url)}: PutRecords: {reason}"
        return verdict if verdict.pending or verdict.rejected else None

    # The stream

    def _ask(self, service: Service, operation: str, **content: Any) -> Any:
        try:
            return service.call(operation, content)
        except Refused as exc:
            # There is no record in it.
            raise ConfigError(str(exc)) from exc

    def _description(self) -> Any:
        answer = self._ask(
            self._connected(),
            "DescribeStream",
            StreamName=self._options.stream_name,
            Limit=1,
        )
        found = answer.get("StreamDescription")
        if not isinstance(found, dict):
            raise self._connected().failure("DescribeStream describes no stream")
        return found

    def _encrypt(self, key: str) -> None:
        """Switch encryption on; ConfigError where another key encrypts already."""
        stream = self._description()
        if stream.get("EncryptionType") == "KMS":
            self._compare(key, str(stream.get("KeyId")))
            log.info("the stream is encrypted with this key", extra={"key": key})
            return
        try:
            self._ask(
                self._connected(),
                "StartStreamEncryption",
                StreamName=self._options.stream_name,
                EncryptionType="KMS",
                KeyId=key,
            )
        except FailedCall as exc:
            if exc.code != "ResourceInUseException":
                raise
            log.info("the stream is just being changed", extra={"reason": exc.reason})
        else:
            log.info("the stream's encryption begins", extra={"key": key})

    def _compare(self, wanted: str, found: str) -> None:
        if wanted == found:
            return
        name = self._options.stream_name
        told = f"the stream {name} is encrypted with the key {found}"
        kms = self._access.service("kms")
        try:
            ours, theirs = self._arn(kms, wanted), self._arn(kms, found)
        except FailedCall as exc:
            if not denied(exc.code):
                raise
            reason = f"{told}, and KMS does not tell whether that is the same"
            raise ConfigError(f"kms_key_id: {reason}: {exc.reason}") from exc
        finally:
            kms.close()
        if ours != theirs:
            raise ConfigError(f"kms_key_id: {told}, which is another one")

    def _arn(self, kms: Service, key: str) -> Any:
        answer = self._ask(kms, "DescribeKey", KeyId=key)
        described = answer.get("KeyMetadata")
        if not isinstance(described, dict) or not described.get("Arn"):
            raise kms.failure("DescribeKey describes no key")
        return described["Arn"]


def _size(item: Item) -> int:
    return len(item.data) + len(item.key) - 2
