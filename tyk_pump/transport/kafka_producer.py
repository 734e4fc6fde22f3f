"""Record batches for a Kafka topic, and what became of each record.

A part of a batch becomes one record batch per partition, one request per leader. The
brokers tell record batches apart by producer, partition and sequence: one whose answer
was lost is sent again under its old number, with the same records, and kept once.
"""

from __future__ import annotations

import functools
import logging
import struct
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
from crc32c import crc32c
from kafka import codec
from kafka.partitioner import murmur2
from kafka.protocol.producer import InitProducerIdRequest, ProduceRequest

from tyk_pump.errors import TransientError
from tyk_pump.pumps.protocol import Batch
from tyk_pump.transport.bulk import Part, Refused, TooLarge, Verdict
from tyk_pump.transport.kafka import (
    UNSUPPORTED_VERSION,
    Cluster,
    Link,
    Topic,
    reason_of,
)

log = logging.getLogger(__name__)

HEADER: Final = struct.Struct(">qiibIhiqqqhii")
"""What stands before the records of a batch, in the format of Kafka 0.11 and later."""
BEFORE_SUM: Final = 21
"""Bytes of it that the check sum does not cover."""
BEFORE_LENGTH: Final = 12
AROUND: Final = 10
"""Most bytes of a record around key, value and headers."""

TOO_LARGE: Final = frozenset({10, 18})
DUPLICATE: Final = 46
MOVED: Final = frozenset({3, 5, 6, 9, 56, 74, 75, 100})
"""The partition is elsewhere, or is not known there."""
IN_DOUBT: Final = frozenset({7, 20})
"""The leader has the records, and the other replicas perhaps not."""
LOST_COUNT: Final = frozenset({45, 47, 49, 59, 90})
"""The broker knows our sequence otherwise: a new one is begun."""
INVALID: Final = frozenset({32, 87})
"""A record that the topic's settings do not allow."""
NO_IDENTITY: Final = frozenset({29, 31, 35, 53})
"""Producer ids are not to be had here."""


class Item(msgspec.Struct, array_like=True, gc=False):
    """A record as it stands in a record batch."""

    key: bytes | None
    body: bytes
    """Key, value and headers."""


def size_of(item: Item) -> int:
    """Return the bytes that a record takes, at most."""
    return len(item.body) + AROUND


def varint(number: int) -> bytes:
    """Return a number as records have it: zigzag, seven bits to a byte."""
    return _VARINTS[number] if 0 <= number < len(_VARINTS) else _varint(number)


def _varint(number: int) -> bytes:
    left = (number << 1) ^ (number >> 63)
    made = bytearray()
    while left > 0x7F:
        made.append(0x80 | left & 0x7F)
        left >>= 7
    made.append(left)
    return bytes(made)


_VARINTS: Final = tuple(_varint(number) for number in range(8192))
_NONE: Final = _varint(-1)


def body_of(key: bytes | None, value: bytes, header: bytes) -> bytes:
    """Return the part of a record that does not depend on its place."""
    if key is None:
        return b"".join((_NONE, varint(len(value)), value, header))
    return b"".join((varint(len(key)), key, varint(len(value)), value, header))


def header_of(name: str) -> Callable[[str], bytes]:
    """Return what makes a record's headers: one with this name, or none."""
    if not name:
        return lambda value: b"\0"
    head = varint(1) + varint(len(name.encode())) + name.encode()

    def made(value: str) -> bytes:
        data = value.encode()
        return head + varint(len(data)) + data

    return made


class Compression(msgspec.Struct, frozen=True):
    """How the records of a batch are made smaller."""

    number: int
    pack: Callable[[bytes], bytes]


def _gzip(data: bytes) -> bytes:
    # The first level has most of the gain.
    made = zlib.compressobj(1, zlib.DEFLATED, 31)
    return made.compress(data) + made.flush()


COMPRESSIONS: Final[Mapping[str, Compression]] = {
    "none": Compression(0, lambda data: data),
    "gzip": Compression(1, _gzip),
    "snappy": Compression(2, codec.snappy_encode),
    "lz4": Compression(3, codec.lz4_encode),
    "zstd": Compression(4, codec.zstd_encode),
}
ZSTD_VERSION: Final = 7
"""The first version of a produce request that may carry zstd."""


class Identity(msgspec.Struct):
    """Who we are to the brokers, and how many records each partition has had."""

    producer: int = -1
    epoch: int = -1
    sequences: dict[int, int] = msgspec.field(default_factory=dict)


def record_batch(
    items: Sequence[Item],
    stamp: int,
    compression: Compression,
    identity: Identity,
    sequence: int,
) -> bytes:
    """Return records as a topic keeps them, all with this time in milliseconds."""
    parts: list[bytes] = []
    for offset, item in enumerate(items):
        place = varint(offset)
        body = item.body
        parts += (varint(2 + len(place) + len(body)), b"\0\0", place, body)
    records = b"".join(parts)
    attributes = 0
    if compression.number:
        packed = compression.pack(records)
        if len(packed) < len(records):
            records, attributes = packed, compression.number
    batch = bytearray(HEADER.size + len(records))
    batch[HEADER.size :] = records
    length, last = len(batch) - BEFORE_LENGTH, len(items) - 1
    known = (stamp, stamp, identity.producer, identity.epoch, sequence, len(items))
    HEADER.pack_into(batch, 0, 0, length, 0, 2, 0, attributes, last, *known)
    check = crc32c(memoryview(batch)[BEFORE_SUM:])
    struct.pack_into(">I", batch, 17, check)
    return bytes(batch)


class _Sending(msgspec.Struct):
    """Records of a part that go to one partition."""

    partition: int
    offsets: list[int]
    """Where each stands in the part."""
    rest: list[int]
    """What waits until these are settled."""
    sequence: int


class _Doubt(msgspec.Struct):
    """A record batch that was sent and not confirmed."""

    ids: tuple[str, ...]
    sequence: int


class _Account(msgspec.Struct):
    """What became of a part so far, by offset."""

    rejected: dict[int, str] = msgspec.field(default_factory=dict)
    pending: list[int] = msgspec.field(default_factory=list)
    again: list[int] = msgspec.field(default_factory=list)
    large: list[int] = msgspec.field(default_factory=list)
    invalid: list[int] = msgspec.field(default_factory=list)
    reason: str = ""

    def wait(self, sending: _Sending, reason: str) -> None:
        """These may pass later."""
        self.pending += sending.offsets + sending.rest
        self.reason = self.reason or reason


class Producer:
    """Sends parts of batches to one topic."""

    def __init__(
        self,
        cluster: Cluster,
        topic: str,
        *,
        timeout: float,
        compression: Compression,
        idempotent: bool,
    ) -> None:
        self._cluster = cluster
        self._name = topic
        self._timeout = timeout
        # The broker's patience with its replicas ends before ours with it.
        patience = timeout - 1 if timeout > 1 else timeout * 0.75
        self._patience_ms = int(patience * 1000)
        self._compression = compression
        self._idempotent = idempotent
        self._identity: Identity | None = None
        self._doubts: dict[int, _Doubt] = {}
        self._bytes: dict[int, int] = {}
        self._quiet_until = 0.0

    def post(self, batch: Batch, part: Part) -> Verdict | None:
        """Send a part of a batch; see `transport.bulk` for what comes back."""
        self._keep_quiet()
        try:
            topic = self._cluster.topic(self._name)
            self._be_someone()
        except TransientError:
            self._cluster.forget()
            raise
        account = _Account()
        sendings = self._sendings(topic, batch, part)
        by_leader: dict[int, list[_Sending]] = {}
        for sending in sendings:
            leader = topic.leaders.get(sending.partition)
            if leader is None:
                why = (
                    f"topic {self._name!r}: partition {sending.partition} has no leader"
                )
                account.wait(sending, why)
                self._cluster.forget()
            else:
                by_leader.setdefault(leader, []).append(sending)
        asked = [
            (link, group)
            for group in by_leader.values()
            if (link := self._send(part, group, account)) is not None
        ]
        for link, group in asked:
            self._receive(link, batch, part, group, account)
        return self._verdict(part, account)

    # Who we are

    def _be_someone(self) -> None:
        """Have a producer id, where the brokers give one."""
        if self._identity is not None:
            return
        identity = Identity()
        if self._idempotent:
            link = self._cluster.any()
            request = InitProducerIdRequest(transactional_id=None)
            request.transaction_timeout_ms = 60_000
            code = UNSUPPORTED_VERSION
            if link.version(request) >= 0:
                found = link.ask(request)
                code = found.error_code
            if code == 0:
                identity = Identity(found.producer_id, found.producer_epoch)
            elif code in NO_IDENTITY:
                self._idempotent = False
                log.warning(
                    "no idempotent producer, what is sent again may be there twice",
                    extra={"reason": reason_of(code)},
                )
            else:
                raise TransientError(f"{link.place}: producer id: {reason_of(code)}")
        self._identity = identity
        self._doubts.clear()

    def _sequence(self, partition: int) -> int:
        assert self._identity is not None
        if self._identity.producer < 0:
            return -1
        return self._identity.sequences.get(partition, 0)

    def _count(self, sending: _Sending) -> None:
        """The brokers have these: the next ones get the next numbers."""
        assert self._identity is not None
        if sending.sequence >= 0:
            following = (sending.sequence + len(sending.offsets)) % 2**31
            self._identity.sequences[sending.partition] = following

    # Which records go where

    def _sendings(self, topic: Topic, batch: Batch, part: Part) -> list[_Sending]:
        groups: dict[int, list[int]] = {}
        nobody: int | None = None
        for offset, item in enumerate(part.items):
            if item.key is not None:
                partition = _place(item.key) % topic.count
            elif nobody is None:
                partition = nobody = self._partition(topic, batch, part, offset)
            else:
                partition = nobody
            groups.setdefault(partition, []).append(offset)
        if self._doubts and not self._known(batch, part, groups):
            # What is in doubt does not come again: its numbers cannot be given anew.
            self._identity = None
            self._be_someone()
        return [
            self._sending(partition, offsets) for partition, offsets in groups.items()
        ]

    def _sending(self, partition: int, offsets: list[int]) -> _Sending:
        doubt = self._doubts.get(partition)
        if doubt is None:
            return _Sending(partition, offsets, [], self._sequence(partition))
        count = len(doubt.ids)
        return _Sending(partition, offsets[:count], offsets[count:], doubt.sequence)

    def _known(self, batch: Batch, part: Part, groups: dict[int, list[int]]) -> bool:
        """Say whether each partition begins with what is in doubt there."""
        return all(
            partition not in self._doubts
            or self._doubts[partition].ids
            == _ids(batch, part, offsets[: len(self._doubts[partition].ids)])
            for partition, offsets in groups.items()
        )

    def _partition(self, topic: Topic, batch: Batch, part: Part, offset: int) -> int:
        """Return where records without a key go: where the fewest bytes went so far."""
        first = batch.record_id(part.indexes[offset])
        for partition, doubt in self._doubts.items():
            if doubt.ids[0] == first:
                return partition
        if self._bytes.keys() != topic.leaders.keys():
            self._bytes = dict.fromkeys(topic.leaders, 0)
        chosen = min(self._bytes, key=self._bytes.__getitem__)
        self._bytes[chosen] += part.size
        return chosen

    # To the leaders and back

    def _send(
        self, part: Part, group: list[_Sending], account: _Account
    ) -> Link | None:
        """Send to one leader what is its own; None: it is not to be reached."""
        try:
            link = self._cluster.leader(group[0].partition)
            link.send(self._request(part, group, link))
        except TransientError as exc:
            self._cluster.forget()
            for sending in group:
                account.wait(sending, exc.reason)
            return None
        return link

    def _request(self, part: Part, group: list[_Sending], link: Link) -> Any:
        assert self._identity is not None
        data = ProduceRequest.TopicProduceData
        stamp = time.time_ns() // 1_000_000
        batches = [
            data.PartitionProduceData(
                index=sending.partition,
                records=record_batch(
                    [part.items[offset] for offset in sending.offsets],
                    stamp,
                    self._compression,
                    self._identity,
                    sending.sequence,
                ),
            )
            for sending in group
        ]
        request = ProduceRequest(
            transactional_id=None,
            acks=-1,
            timeout_ms=self._patience_ms,
            topic_data=[data(name=self._name, partition_data=batches)],
            # Later ones name the topic by a number.
            max_version=12,
        )
        if self._compression.number == 4 and 0 <= link.version(request) < ZSTD_VERSION:
            raise TransientError(f"{link.place}: the broker is too old for zstd")
        return request

    def _receive(
        self,
        link: Link,
        batch: Batch,
        part: Part,
        group: list[_Sending],
        account: _Account,
    ) -> None:
        try:
            found = link.answer()
        except TransientError as exc:
            self._cluster.forget()
            for sending in group:
                self._doubt(batch, part, sending)
                account.wait(sending, exc.reason)
            return
        if found.throttle_time_ms:
            self._quiet_until = time.monotonic() + found.throttle_time_ms / 1000
        results = {
            one.index: one
            for topic in found.responses
            for one in topic.partition_responses
        }
        for sending in group:
            result = results.get(sending.partition)
            if result is None:
                self._doubt(batch, part, sending)
                account.wait(sending, f"{link.place}: no word of the records")
            elif result.error_code in (0, DUPLICATE):
                self._count(sending)
                self._doubts.pop(sending.partition, None)
                account.again += sending.rest
            else:
                self._refused(batch, part, sending, result, account)

    def _refused(
        self,
        batch: Batch,
        part: Part,
        sending: _Sending,
        result: Any,
        account: _Account,
    ) -> None:
        code = result.error_code
        if code in TOO_LARGE:
            account.large += sending.offsets
            account.again += sending.rest
            return
        words = reason_of(code)
        if result.error_message:
            words = f"{words}: {result.error_message}"
        if code in INVALID:
            named = {one.batch_index: one for one in result.record_errors or ()}
            for at, offset in enumerate(sending.offsets):
                if at in named:
                    said = named[at].batch_index_error_message or words
                    account.rejected[offset] = said
                elif named:
                    account.again.append(offset)
                else:
                    account.invalid.append(offset)
            account.again += sending.rest
            account.reason = account.reason or words
            return
        if code in IN_DOUBT:
            self._doubt(batch, part, sending)
        elif code in MOVED:
            self._cluster.forget()
        elif code in LOST_COUNT:
            self._identity = None
        account.wait(sending, f"topic {self._name!r}: {words}")

    def _doubt(self, batch: Batch, part: Part, sending: _Sending) -> None:
        """Remember under which number these went out."""
        if sending.sequence >= 0:
            ids = _ids(batch, part, sending.offsets)
            self._doubts[sending.partition] = _Doubt(ids, sending.sequence)

    def _verdict(self, part: Part, account: _Account) -> Verdict | None:
        again = [*account.again, *account.large, *account.invalid]
        if account.pending:
            raise TransientError(
                account.reason,
                pending=sorted([*account.pending, *again]),
                rejected=account.rejected,
            )
        if len(account.large) == len(part):
            why = f"too large: {part.size} bytes, the topic takes fewer"
            raise TooLarge(why)
        if len(account.invalid) == len(part):
            raise Refused(account.reason)
        if not again and not account.rejected:
            return None
        return Verdict(account.rejected, again=sorted(again))

    def _keep_quiet(self) -> None:
        """Wait as long as the brokers have asked for: they would not answer."""
        left = self._quiet_until - time.monotonic()
        if left > 0:
            time.sleep(min(left, self._timeout))


def _ids(batch: Batch, part: Part, offsets: Sequence[int]) -> tuple[str, ...]:
    return tuple(batch.record_id(part.indexes[offset]) for offset in offsets)


@functools.lru_cache(maxsize=65536)
def _place(key: bytes) -> int:
    """Return the number that all clients of Kafka divide by the partitions."""
    return int(murmur2(key)) & 0x7FFFFFFF
