"""SQS: one message per record, the whole record as JSON."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from hashlib import md5
from typing import Annotated, Any, ClassVar, Final, NamedTuple

import msgspec

from tyk_pump.config.options import doc
from tyk_pump.log import ONCE
from tyk_pump.pumps.protocol import Batch
from tyk_pump.record import analytics, json
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
from tyk_pump.ulid import ulid_of

log = logging.getLogger(__name__)

MOST_MESSAGES: Final = 10
MOST_BYTES: Final = 1024 * 1024
"""Of the bodies in a request, and of one of them; a queue may be set up for less."""
LONGEST_DELAY: Final = 900
FIFO: Final = ".fifo"
QUEUE: Final = re.compile(r"[A-Za-z0-9_-]{1,75}\.fifo|[A-Za-z0-9_-]{1,80}")

_json: Final = msgspec.json.Encoder().encode


class SqsOptions(AwsOptions, frozen=True, kw_only=True):
    """Which queue, who asks, and how messages go there."""

    aws_queue_name: Annotated[
        str,
        doc(
            "Queue to write to; the name of a FIFO queue ends with `.fifo`.",
            env="QUEUENAME",
            env_aliases=("AWSQUEUENAME",),
            example="tyk-analytics",
        ),
    ] = ""
    aws_message_group_id: Annotated[
        str,
        doc(
            "Group of all messages, which a FIFO queue keeps in order. When absent, "
            "each message of a FIFO queue is a group of its own."
        ),
    ] = ""
    aws_message_id_deduplication_enabled: Annotated[
        bool,
        doc(
            "Give messages of a FIFO queue an id made from the record's, so that the "
            "queue drops repetitions. A queue without deduplication by content gets "
            "it anyway."
        ),
    ] = False
    aws_delay_seconds: Annotated[
        int,
        doc(
            "Seconds before consumers see a message; 0 leaves that to the queue. Not "
            "for FIFO queues.",
            ge=0,
            le=LONGEST_DELAY,
        ),
    ] = 0
    aws_sqs_batch_limit: Annotated[
        int,
        doc("Messages in a request; 0 means 10, which is also the most."),
    ] = 0
    workers: Annotated[
        int,
        doc(
            "Requests that are on their way side by side; a FIFO queue with a message "
            "group has one.",
            gt=0,
        ),
    ] = 1

    def faults(self) -> Iterator[tuple[str, str]]:
        """What the kind of queue does not have."""
        yield from super().faults()
        if not self.aws_queue_name:
            yield "aws_queue_name", "missing"
        elif not QUEUE.fullmatch(self.aws_queue_name):
            yield "aws_queue_name", f"{self.aws_queue_name!r} is no name of a queue"
        elif self.fifo and self.aws_delay_seconds:
            yield "aws_delay_seconds", "a FIFO queue has no delay for single messages"
        elif not self.fifo and self.aws_message_id_deduplication_enabled:
            reason = "only a FIFO queue, whose name ends with .fifo, knows repetitions"
            yield "aws_message_id_deduplication_enabled", reason

    @property
    def fifo(self) -> bool:
        """Say whether it is a queue that keeps an order."""
        return self.aws_queue_name.endswith(FIFO)


class Item(NamedTuple):
    """A message before its request."""

    id: str
    body: bytes


class SqsPump:
    """Send records to a queue."""

    options_type: ClassVar[type[SqsOptions]] = SqsOptions
    fields: Final = analytics.ALL
    guarantee: Final = (
        "At least once: a request whose answer was lost is sent again. A FIFO queue "
        "drops the repetition if it comes within five minutes and has the same "
        "deduplication id (`aws_message_id_deduplication_enabled`), which is made from "
        "the record's id. A message has arrived when the answer names it with the "
        "right checksum."
    )
    differences: Final = (
        "An unset `aws_sqs_batch_limit` means 10, a greater one too; the reference "
        "sends empty requests without end, or none.",
        "Messages that the answer names as failed are sent again, or become dead "
        "letters where the message is at fault; the reference loses them.",
        "Requests are cut by bytes too, and a message that is too large for the queue "
        "becomes a dead letter; the others arrive.",
        "Entry and deduplication ids are ULIDs made from the record's id: the same "
        "each time it is sent.",
        "A FIFO queue without `aws_message_group_id` gets a group for each message, "
        "where the reference's requests are refused.",
        "Delays on a FIFO queue, and deduplication on another, are faults.",
        "A queue that is not there yet is looked for again; the pump is not skipped.",
        "U+FFFE and U+FFFF, which SQS refuses, are written as escapes of JSON.",
        "Role, profile and TLS can be set per pump.",
    )

    def __init__(self, options: SqsOptions) -> None:
        self._options = options
        limit = options.aws_sqs_batch_limit
        ordered = options.fifo and options.aws_message_group_id
        self._bulk = Bulk(
            max_bytes=MOST_BYTES,
            max_count=min(limit, MOST_MESSAGES) if limit > 0 else MOST_MESSAGES,
            workers=1 if ordered else options.workers,
            size=_size,
        )
        self._service: Service | None = None
        self._own_group = options.fifo and not options.aws_message_group_id
        self._deduplicates = False
        self._head = b""
        self._tail = b"}"
        if group := options.aws_message_group_id:
            self._tail = b',"MessageGroupId":%b}' % _json(group)
        if delay := options.aws_delay_seconds:
            self._tail = b',"DelaySeconds":%d%b' % (delay, self._tail)

    def open(self) -> None:
        """Read who we are; the queue is looked up when there is something."""
        options = self._options
        if not 0 <= options.aws_sqs_batch_limit <= MOST_MESSAGES:
            log.warning(
                "aws_sqs_batch_limit is not between 1 and 10, 10 counts", extra=ONCE
            )
        self._service = Access(options).service("sqs", options.aws_endpoint)

    def probe(self) -> str:
        """Look the queue up."""
        self._look_up()
        service = self._connected()
        return f"queue {self._options.aws_queue_name} in {service.region} is there"

    def write(self, batch: Batch) -> None:
        """Return when every message is confirmed."""
        if not self._head:
            self._look_up()
        self._bulk.send(batch, _item, self._post)

    def close(self) -> None:
        """Close the connections."""
        self._bulk.close()
        self._connected().close()

    def _connected(self) -> Service:
        assert self._service is not None, "open comes first"
        return self._service

    # Messages

    def _entry(self, item: Item) -> bytes:
        name = item.id.encode()
        body = _json(item.body.decode())
        more = b""
        if self._deduplicates:
            more = b',"MessageDeduplicationId":"%b"' % name
        if self._own_group:
            more += b',"MessageGroupId":"%b"' % name
        return b'{"Id":"%b","MessageBody":%b%b%b' % (name, body, more, self._tail)

    def _post(self, part: Part) -> Verdict | None:
        entries = b",".join([self._entry(item) for item in part.items])
        body = b"%b%b]}" % (self._head, entries)
        service = self._connected()
        answer = service.call("SendMessageBatch", body)
        try:
            arrived = {one["Id"]: one for one in answer.get("Successful") or ()}
            failed = {one["Id"]: one for one in answer.get("Failed") or ()}
        except (LookupError, TypeError) as exc:
            raise service.failure("SendMessageBatch does not say what it did") from exc
        verdict = Verdict()
        for offset, item in enumerate(part.items):
            fault = ""
            if item.id in failed:
                code = str(failed[item.id].get("Code") or "failed")
                words = failed[item.id].get("Message") or ""
                fault = excerpt(f"{code}: {words}".rstrip(": "))
                if records_fault(code):
                    verdict.rejected[offset] = fault
                    continue
            elif item.id not in arrived:
                fault = "no answer for a message"
            elif arrived[item.id].get("MD5OfMessageBody") != _digest(item.body):
                fault = "a message has arrived with another checksum"
            if fault:
                verdict.pending.append(offset)
                verdict.reason = f"{place(service.url)}: SendMessageBatch: {fault}"
        return verdict if verdict.pending or verdict.rejected else None

    # The queue

    def _ask(self, operation: str, **content: Any) -> Any:
        service = self._connected()
        try:
            return service.call(operation, content)
        except Refused as exc:
            # There is no record in it.
            raise service.failure(str(exc)) from exc

    def _look_up(self) -> None:
        options = self._options
        answer = self._ask("GetQueueUrl", QueueName=options.aws_queue_name)
        url = answer.get("QueueUrl")
        if not isinstance(url, str):
            raise self._connected().failure("GetQueueUrl names no address")
        self._deduplicates = options.fifo and (
            options.aws_message_id_deduplication_enabled or self._asks_for_ids(url)
        )
        self._head = b'{"QueueUrl":%b,"Entries":[' % _json(url)

    def _asks_for_ids(self, url: str) -> bool:
        """Say whether a FIFO queue takes no message without a deduplication id."""
        name = "ContentBasedDeduplication"
        try:
            answer = self._ask(
                "GetQueueAttributes", QueueUrl=url, AttributeNames=[name]
            )
        except FailedCall as exc:
            if not denied(exc.code):
                raise
            # The permission is no necessary one.
            return False
        found = answer.get("Attributes")
        return isinstance(found, dict) and found.get(name) == "false"


def _item(batch: Batch, index: int) -> Item:
    body = json.encode(batch.records[index])
    if b"\xef\xbf" in body:
        # XML, which SQS is still made of, has neither.
        body = body.replace(b"\xef\xbf\xbe", b"\\ufffe")
        body = body.replace(b"\xef\xbf\xbf", b"\\uffff")
    return Item(ulid_of(batch.record_id(index)), body)


def _size(item: Item) -> int:
    return len(item.body)


def _digest(body: bytes) -> str:
    return md5(body, usedforsecurity=False).hexdigest()
