"""DogStatsD: the request time of each record as a sample of a histogram with tags."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from decimal import Decimal
from random import random
from typing import Annotated, ClassVar, Final

import msgspec

from tyk_pump.config.options import Options, Seconds, doc
from tyk_pump.errors import WriteError
from tyk_pump.pumps.protocol import Batch
from tyk_pump.record.analytics import AnalyticsRecord
from tyk_pump.record.series import Series
from tyk_pump.transport.datagram import LARGEST_DATAGRAM
from tyk_pump.transport.packets import (
    UDP_SIZE,
    UNIX_SIZE,
    Packets,
    fault_of,
    unix_path,
)

log = logging.getLogger(__name__)

TAGS: Final = {
    "path": "path",
    "method": "method",
    "response_code": "response_code",
    "api_version": "api_version",
    "api_name": "api_name",
    "api_id": "api_id",
    "org_id": "org_id",
    "tracked": "track_path",
    "oauth_id": "oauth_id",
}
"""Name of a tag -> attribute; what is sent where no tags are chosen, in this order."""
NAMESPACE: Final = "default"
PORT: Final = "8125"
MESSAGES: Final = 16
OURS: Final = "tyk-pump"
NUMBER: Final = "\0"
"""Stands for the value until the rest of a message is made."""

_NAME: Final = re.compile(r"[^\x00-\x20\x7f:|@#,]*")
_REPLACED: Final = str.maketrans({",": "_", "|": "_", "\n": None})


class DogstatsdOptions(Options, frozen=True, kw_only=True):
    """Where the agent is, and what it is sent."""

    address: Annotated[
        str,
        doc(
            "`host:port` of the agent for UDP, 8125 where no port is named, or "
            "`unix:///path` of its datagram socket. Empty: `agent_host`.",
            example="localhost:8125",
        ),
    ] = ""
    namespace: Annotated[
        str, doc("Prefix of the metric's name; a dot is put behind it.")
    ] = NAMESPACE
    sample_rate: Annotated[
        float,
        doc(
            "Part of the records that are sent, by chance; the agent is told and "
            "counts the others in. 0 and what is above 1 mean 1.",
            ge=0,
        ),
    ] = 1.0
    async_uds: Annotated[
        bool,
        doc(
            "Take `async_uds_write_timeout_seconds` for a unix socket, instead of 0.1. "
            "It does not choose the unix socket: `address` does."
        ),
    ] = False
    async_uds_write_timeout_seconds: Annotated[
        Seconds,
        doc(
            "Time that a unix socket may be full before a new attempt; 0 means 1. "
            "Nothing is dropped then.",
            ge=0,
            env="ASYNCUDSWRITETIMEOUT",
        ),
    ] = 1.0
    buffered: Annotated[
        bool,
        doc(
            "Several messages in a datagram, a line each. `false`: each in its own, "
            "which is what the reference does unless told otherwise."
        ),
    ] = True
    buffered_max_messages: Annotated[
        int,
        doc(
            f"Messages in a datagram at most, where `buffered`; 0 means {MESSAGES}.",
            ge=0,
        ),
    ] = MESSAGES
    tags: Annotated[
        list[str],
        doc(
            f"Tags to send, in this order: {', '.join(TAGS)}. Empty: all of them. "
            "Slashes at the end of a path are cut only where `path` is listed here.",
            example=["path", "method", "response_code", "api_id"],
        ),
    ] = msgspec.field(default_factory=list)
    packet_size: Annotated[
        int,
        doc(
            "Bytes of a datagram with several messages. 0: what the path takes, at "
            f"most {UDP_SIZE} over UDP and {UNIX_SIZE} over a unix socket.",
            ge=0,
            le=LARGEST_DATAGRAM,
        ),
    ] = 0
    agent_host: Annotated[
        str,
        doc(
            "Host of the agent where `address` is empty; the agent's own variable "
            "says it, too. Also `host:port` or `unix:///path`.",
            variable="DD_AGENT_HOST",
        ),
    ] = ""
    agent_port: Annotated[
        str,
        doc("Port behind `agent_host`, 8125 if empty.", variable="DD_DOGSTATSD_PORT"),
    ] = ""
    entity_id: Annotated[
        str,
        doc("Tag `dd.internal.entity_id` of all messages.", variable="DD_ENTITY_ID"),
    ] = ""
    env: Annotated[str, doc("Tag `env` of all messages.", variable="DD_ENV")] = ""
    service: Annotated[
        str, doc("Tag `service` of all messages.", variable="DD_SERVICE")
    ] = ""
    version: Annotated[
        str, doc("Tag `version` of all messages.", variable="DD_VERSION")
    ] = ""

    def faults(self) -> Iterator[tuple[str, str]]:
        """There is an agent, and nothing else in the place of names."""
        place = self.place()
        key = "address" if self.address or not self.agent_host else "agent_host"
        if not place:
            yield key, "missing; DD_AGENT_HOST is not set either"
        elif fault := fault_of(place):
            yield key, fault
        for name in self.tags:
            if name not in TAGS:
                yield "tags", f"undefined tag {name!r}, there are {', '.join(TAGS)}"
        if not _NAME.fullmatch(self.namespace):
            yield "namespace", "has a space or one of : | @ # ,"

    def place(self) -> str:
        """Return where the agent is; "" where nobody says it."""
        if self.address:
            return _with_port(self.address, PORT)
        if self.agent_host:
            return _with_port(self.agent_host, self.agent_port or PORT)
        return ""


class DogstatsdPump:
    """Send one histogram sample per record to a Datadog agent."""

    options_type: ClassVar[type[DogstatsdOptions]] = DogstatsdOptions
    fields: tuple[str, ...] = ("request_time", *TAGS.values())
    guarantee: Final = (
        "Over UDP a record is on its way once: nobody confirms it, and an agent that "
        "does not keep up drops datagrams in its kernel. Where the agent's machine "
        "refuses datagrams, the batch is sent again, and some of it may be counted "
        "twice. What a unix socket has taken is not sent again; one that is absent or "
        "full is waited for."
    )
    differences: Final = (
        "Messages share datagrams unless `buffered` is `false`.",
        "A batch is sent when it is settled: nothing waits in a buffer that the end of "
        "the process, a full queue or a broken socket would lose.",
        "An unknown name in `tags` is a fault at start.",
        "`,` and `|` in values become `_`: they would end the tag.",
        "A message that is longer than the datagrams of others goes alone, up to the "
        f"{UNIX_SIZE} bytes that an agent reads, or `packet_size` if that is more; "
        "beyond it becomes a dead letter.",
        "Whole numbers beyond 2^53 are sent exactly.",
        "The client library's counters of itself are not sent into your namespace: "
        "our own numbers say what was delivered and refused.",
        "A negative `sample_rate` is a fault at start.",
        "The tags of the `DD_` variables come in the order entity, env, service, "
        "version.",
    )

    def __init__(self, options: DogstatsdOptions) -> None:
        self._options = options
        rate = options.sample_rate or 1.0
        self._rate = min(rate, 1.0)
        self._series = series(options, self._rate)
        self.fields = self._series.fields

    def open(self) -> None:
        """Say how it is set; the socket waits for the first record."""
        options = self._options
        patience = 0.1
        if options.async_uds:
            patience = options.async_uds_write_timeout_seconds or 1.0
        most = (options.buffered_max_messages or MESSAGES) if options.buffered else 1
        self._packets = Packets(
            options.place(),
            size=options.packet_size,
            most=most,
            longest=max(UNIX_SIZE, options.packet_size),
            patience=patience,
        )
        buffered, async_uds = str(options.buffered).lower(), str(options.async_uds)
        log.info(f"namespace: {options.namespace}.")
        log.info(f"sample_rate: {int(self._rate * 100)}%")
        log.info(f"buffered: {buffered}, max_messages: {most}")
        log.info(f"async_uds: {async_uds.lower()}, write_timeout: {patience:g}s")

    def probe(self) -> str:
        """Reach the unix socket, or resolve the name."""
        return self._packets.probe()

    def write(self, batch: Batch) -> None:
        """Send the records that the sample has."""
        if self._rate >= 1:
            self._packets.send(self._series.encode(batch.records))
            return
        chosen = [at for at in range(len(batch)) if random() < self._rate]
        try:
            records = [batch.records[at] for at in chosen]
            self._packets.send(self._series.encode(records))
        except WriteError as exc:
            # The positions are those in the sample.
            if exc.pending is not None:
                exc.pending = [chosen[at] for at in exc.pending]
            exc.rejected = {chosen[at]: why for at, why in exc.rejected.items()}
            raise

    def close(self) -> None:
        """Let go of the socket."""
        self._packets.close()


def series(options: DogstatsdOptions, rate: float) -> Series:
    """Return what writes the message of a record."""
    names = [*(options.tags or TAGS)]
    head = _head(options, rate)

    def template(record: AnalyticsRecord) -> bytes:
        tags = [_tag(record, name, listed=bool(options.tags)) for name in names]
        text = "".join([head, *filter(None, tags), "\n"]).replace("%", "%%")
        data = text.encode("utf-8", "surrogateescape")
        return data.replace(NUMBER.encode(), b"%d", 1)

    return Series([TAGS[name] for name in names], ["request_time"], template)


def _head(options: DogstatsdOptions, rate: float) -> str:
    """Return what stands before the tags of a record."""
    shared = {
        "dd.internal.entity_id": options.entity_id,
        "env": options.env,
        "service": options.service,
        "version": options.version,
    }
    tags = [f"{name}:{_cleaned(value)}" for name, value in shared.items() if value]
    sampled = f"|@{Decimal(repr(rate)):f}" if rate < 1 else ""
    behind = ",".join([*tags, OURS])
    return f"{options.namespace}.request_time:{NUMBER}|h{sampled}|#{behind}"


def _tag(record: AnalyticsRecord, name: str, *, listed: bool) -> str:
    """Return a tag with the comma before it; "" where it is left out."""
    value = getattr(record, TAGS[name])
    if name == "oauth_id" and not value:
        return ""
    if name == "tracked":
        value = "true" if value else "false"
    elif name == "path" and listed:
        value = value.rstrip("/")
    return f",{name}:{_cleaned(str(value))}"


def _cleaned(text: str) -> str:
    return text.translate(_REPLACED)


def _with_port(place: str, port: str) -> str:
    if unix_path(place) is not None or ":" in place:
        return place
    return f"{place}:{port}"
