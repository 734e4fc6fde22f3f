"""Kafka: one message per record, a JSON object, acknowledged by all replicas."""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Iterator
from typing import Annotated, ClassVar, Final

from tyk_pump.config.options import Seconds, Secret, TlsOptions, doc
from tyk_pump.errors import ConfigError
from tyk_pump.log import ONCE
from tyk_pump.pumps.protocol import Batch
from tyk_pump.record.analytics import AnalyticsRecord
from tyk_pump.record.document import Computed, Document
from tyk_pump.transport import tls
from tyk_pump.transport.bulk import Bulk, Part, Verdict
from tyk_pump.transport.kafka import Access, Cluster, address
from tyk_pump.transport.kafka_producer import (
    COMPRESSIONS,
    HEADER,
    Item,
    Producer,
    body_of,
    header_of,
    size_of,
)

log = logging.getLogger(__name__)

PATIENCE: Final = 10.0
BATCH_BYTES: Final = 1_048_576
DRIVERS: Final = {"snappy": "snappy", "lz4": "lz4", "zstd": "zstandard"}
TOPIC: Final = re.compile(r"[A-Za-z0-9._-]{1,249}")
MECHANISMS: Final = {
    "plain": "PLAIN",
    "scram-sha-256": "SCRAM-SHA-256",
    "scram-sha-512": "SCRAM-SHA-512",
}
KEYS: Final[dict[str, str | Computed]] = {
    "timestamp": "timestamp",
    "method": "method",
    "path": "path",
    "raw_path": "raw_path",
    "response_code": "response_code",
    "alias": "alias",
    "api_key": "api_key",
    "api_version": "api_version",
    "api_name": "api_name",
    "api_id": "api_id",
    "org_id": "org_id",
    "oauth_id": "oauth_id",
    "raw_request": "raw_request",
    "request_time_ms": "request_time",
    "raw_response": "raw_response",
    "ip_address": "ip_address",
    "host": "host",
    "content_length": "content_length",
    "user_agent": "user_agent",
    "tags": "tags",
}
"""Key of the JSON object -> attribute of the record."""
KEY_FIELDS: Final = (
    "api_id",
    "api_key",
    "api_name",
    "api_version",
    "alias",
    "host",
    "ip_address",
    "method",
    "oauth_id",
    "org_id",
    "path",
)


class KafkaOptions(TlsOptions, frozen=True, kw_only=True):
    """Where the topic is, who we are, and how records go there."""

    broker: Annotated[
        list[str],
        doc(
            "Brokers to begin with, as `host:port`; they name the others.",
            min_length=1,
            example=["localhost:9092"],
        ),
    ]
    topic: Annotated[
        str, doc("Topic that the records go to.", min_length=1, example="tyk-pump")
    ]
    client_id: Annotated[
        str, doc("Name of this client in the brokers' logs and quotas.")
    ] = "tyk-pump"
    timeout: Annotated[
        Seconds,
        doc("Time that connecting or one request may take; 0 means 10 seconds.", ge=0),
    ] = 0.0
    batch_bytes: Annotated[
        int,
        doc(
            "Most bytes of a record batch, which is also the most for one record; 0 or "
            "less means 1048576."
        ),
    ] = BATCH_BYTES
    compressed: Annotated[bool, doc("Compress with snappy.")] = False
    compression: Annotated[
        str,
        doc(
            "How batches are compressed; when absent, `compressed` decides.",
            choices=tuple(COMPRESSIONS),
        ),
    ] = ""
    meta_data: Annotated[
        dict[str, str],
        doc(
            "Texts added to each message; a key of ours among them is overwritten.",
            example={"key": "value"},
        ),
    ] = {}
    key_field: Annotated[
        str,
        doc(
            "Field whose text is the message's key: records with the same one stay in "
            "order, in one partition. When absent, messages have no key and go to the "
            "partition with the fewest bytes.",
            choices=KEY_FIELDS,
        ),
    ] = ""
    record_id_header: Annotated[
        str,
        doc(
            "Header with the record's id, the same each time the record is sent, so "
            "that consumers can drop repetitions; empty for none."
        ),
    ] = "_tyk_pump_id"
    idempotent: Annotated[
        bool,
        doc(
            "Let the brokers drop what was sent twice because an answer was lost. "
            "Brokers that refuse it are written to without."
        ),
    ] = True
    use_ssl: Annotated[bool, doc("Speak TLS.")] = False
    sasl_mechanism: Annotated[
        str,
        doc(
            "How to log in; `scram` with the hash of `sasl_algorithm`. When absent, no "
            "log-in.",
            choices=("plain", "scram", "scram-sha-256", "scram-sha-512"),
        ),
    ] = ""
    sasl_username: Annotated[str, doc("User to log in as.", env="USERNAME")] = ""
    sasl_password: Annotated[Secret, doc("The user's password.", env="PASSWORD")] = (
        Secret()
    )
    sasl_algorithm: Annotated[
        str,
        doc(
            "Hash of the mechanism `scram`.",
            env="ALGORITHM",
            choices=("sha-256", "sha-512"),
        ),
    ] = "sha-256"

    def faults(self) -> Iterator[tuple[str, str]]:
        """Addresses, the topic's name, and a log-in without a user."""
        yield from super().faults()
        for broker in self.broker:
            try:
                address(broker)
            except ValueError as exc:
                yield "broker", str(exc)
        if not TOPIC.fullmatch(self.topic) or self.topic in (".", ".."):
            yield "topic", f"{self.topic!r} is no name of a topic"
        if self.sasl_mechanism and not self.sasl_username:
            yield "sasl_username", "missing beside sasl_mechanism"

    def mechanism(self) -> str:
        """Return the standard name of the SASL mechanism, "" for none."""
        chosen = self.sasl_mechanism
        if chosen == "scram":
            chosen = f"scram-{self.sasl_algorithm}"
        return MECHANISMS.get(chosen, "")

    def codec(self) -> str:
        """Return the name of the compression."""
        return self.compression or ("snappy" if self.compressed else "none")


class KafkaPump:
    """Send records to a topic."""

    options_type: ClassVar[type[KafkaOptions]] = KafkaOptions
    fields = tuple(dict.fromkeys(Document(KEYS).fields))
    guarantee: Final = (
        "At least once, and once as long as the pump's process lives: a batch whose "
        "acknowledgement was lost is sent again under the same sequence numbers, and "
        "the brokers drop what they have. After a crash of the pump, or where the "
        "brokers refuse idempotent producers, the batch that was in hand may be there "
        "twice; the header `_tyk_pump_id` is the same both times. A record has arrived "
        "when all in-sync replicas have it."
    )
    differences: Final = (
        "Messages carry a header `_tyk_pump_id` with the record's id; an empty "
        "`record_id_header` leaves it away.",
        "A message that is too large for `batch_bytes` or for the topic becomes a dead "
        "letter; the reference loses it and all later ones of the purge.",
        "Nothing is lost while a broker is away, a partition moves or a topic is being "
        "created: the records are sent again.",
        "One connection per broker is kept; a purge does not wait a second for more.",
        "Partitions are balanced by whole batches, not message by message.",
        "An unknown `sasl_mechanism` or `sasl_algorithm` is a fault, where the "
        "reference connects without a log-in; standard names (`SCRAM-SHA-512`) are "
        "known.",
        "`timeout` keeps the fraction of a number, and its variable goes by the pump's "
        "own prefix.",
        "A record that JSON cannot express becomes a dead letter with its reason.",
        "Brokers older than 0.11 are not served.",
    )

    def __init__(self, options: KafkaOptions) -> None:
        self._options = options
        constants = {key: _constant(text) for key, text in options.meta_data.items()}
        self._document = Document({**KEYS, **constants})
        self._key = options.key_field
        self.fields = tuple(
            dict.fromkeys((*self._document.fields, *filter(None, (self._key,))))
        )
        self._header = header_of(options.record_id_header)
        limit = options.batch_bytes if options.batch_bytes > 0 else BATCH_BYTES
        self._bulk = Bulk(max_bytes=limit, overhead=HEADER.size, size=size_of)

    def open(self) -> None:
        """Read the certificates; the brokers are asked when there is something."""
        options = self._options
        codec = options.codec()
        driver = DRIVERS.get(codec)
        if driver and importlib.util.find_spec(driver) is None:
            raise ConfigError(f"compression: {codec} needs the package {driver}")
        if options.batch_bytes < 0:
            log.warning("batch_bytes is negative, the default counts", extra=ONCE)
        mechanism = options.mechanism()
        if options.sasl_username and not mechanism:
            log.warning(
                "sasl_mechanism is empty, the user is not logged in", extra=ONCE
            )
        if mechanism and not options.use_ssl:
            log.warning("the log-in goes over a connection without TLS", extra=ONCE)
        timeout = options.timeout or PATIENCE
        access = Access(
            client_id=options.client_id,
            timeout=timeout,
            tls=tls.context(options) if options.use_ssl else None,
            server_name=options.ssl_server_name,
            mechanism=mechanism,
            username=options.sasl_username,
            password=options.sasl_password,
        )
        self._cluster = Cluster(options.broker, access)
        self._producer = Producer(
            self._cluster,
            options.topic,
            timeout=timeout,
            compression=COMPRESSIONS[codec],
            idempotent=options.idempotent,
        )

    def probe(self) -> str:
        """Log in and look the topic up, without making it."""
        return self._cluster.describe(self._options.topic)

    def write(self, batch: Batch) -> None:
        """Return when all in-sync replicas of the partitions have every record."""

        def post(part: Part) -> Verdict | None:
            return self._producer.post(batch, part)

        self._bulk.send(batch, self._encode, post)

    def close(self) -> None:
        """Close the connections."""
        self._cluster.close()

    def _encode(self, batch: Batch, index: int) -> Item:
        record = batch.records[index]
        key = _bytes(getattr(record, self._key)) if self._key else None
        value = self._document.encode(record)
        header = self._header(batch.record_id(index))
        return Item(key, body_of(key, value, header))


def _constant(text: str) -> Computed:
    def value(record: AnalyticsRecord) -> str:
        return text

    return Computed(value, ())


def _bytes(text: str) -> bytes | None:
    """Return a key; records without one are spread."""
    return text.encode("utf-8", "surrogateescape") or None
