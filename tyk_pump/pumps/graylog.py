"""Graylog: one GELF message per record."""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Final

import msgspec

from tyk_pump.config.options import SocketOptions, doc
from tyk_pump.errors import CodecError
from tyk_pump.log import ONCE
from tyk_pump.pumps.protocol import Batch
from tyk_pump.record import body
from tyk_pump.record.analytics import AnalyticsRecord, Time
from tyk_pump.record.document import Computed, Document
from tyk_pump.transport.messages import Messages

log = logging.getLogger(__name__)

HOST: Final = "tyk-pumps"
REFERENCE_PORT: Final = 1000
MOST_CHUNKS: Final = 128
"""GELF's own limit: a receiver drops a message of more."""
CHUNK: Final = b"\x1e\x0f"

TAGS: Final[Mapping[str, str | Computed]] = {
    "alias": "alias",
    "api_id": "api_id",
    "api_key": "api_key",
    "api_name": "api_name",
    "api_version": "api_version",
    "content_length": "content_length",
    "host": "host",
    "ip_address": "ip_address",
    "method": "method",
    "oauth_id": "oauth_id",
    "org_id": "org_id",
    "path": "path",
    "raw_path": "raw_path",
    "raw_request": Computed(lambda r: body.decoded(r.raw_request), ("raw_request",)),
    "raw_response": Computed(lambda r: body.decoded(r.raw_response), ("raw_response",)),
    "request_time": "request_time",
    "response_code": "response_code",
    "tracked": "track_path",
    "user_agent": "user_agent",
}
"""What `tags` may name -> the attribute, or how the value is made."""

_SUMMARY: Final = ("method", "path", "response_code")
_encode: Final = msgspec.json.Encoder().encode

Compress = Callable[[bytes], bytes]


class GraylogOptions(SocketOptions, frozen=True, kw_only=True):
    """Where the GELF input is, and what of a record it gets."""

    host: Annotated[str, doc("Name or address of the input.", env="GRAYLOGHOST")] = (
        "localhost"
    )
    port: Annotated[
        int,
        doc(
            "Port of the input. Those of Graylog listen on 12201 as a rule; 1000 is "
            "what the reference takes when nothing is set.",
            ge=0,
            le=65_535,
            env="GRAYLOGPORT",
            example=12_201,
        ),
    ] = REFERENCE_PORT
    tags: Annotated[
        list[str],
        doc(
            f"Values to send: {', '.join(TAGS)}.",
            example=["method", "path", "response_code", "api_id", "org_id"],
        ),
    ] = msgspec.field(default_factory=list)
    format: Annotated[
        str,
        doc(
            "`legacy`: all values as JSON text in the field `message`. `gelf-1.1`: a "
            "field `_<tag>` for each, with `short_message` and fractions of a second.",
            choices=("legacy", "gelf-1.1"),
        ),
    ] = "legacy"
    compression: Annotated[
        str,
        doc(
            "How messages are compressed over UDP; over TCP and TLS GELF has none.",
            choices=("zlib", "gzip", "none"),
        ),
    ] = "zlib"
    chunk_size: Annotated[
        int,
        doc(
            "Bytes of a message in one datagram, without the 12 of a chunk's head. "
            f"More than {MOST_CHUNKS} chunks no receiver takes.",
            gt=0,
            le=65_000,
        ),
    ] = 1420


class GraylogPump:
    """Send records to a GELF input."""

    options_type: ClassVar[type[GraylogOptions]] = GraylogOptions
    fields: tuple[str, ...] = (
        *(name if isinstance(name, str) else name.reads[0] for name in TAGS.values()),
        "timestamp",
    )
    guarantee: Final = (
        "Over UDP a record is on its way once: nobody confirms it, and a receiver that "
        "does not keep up drops datagrams in its kernel, so give it a large receive "
        "buffer (Graylog: `recv_buffer_size`, with `net.core.rmem_max`) or use `tcp`. "
        "Where the receiver's machine refuses datagrams, the batch is sent again. Over "
        "TCP and TLS at least once, until the receiver has read it (`confirm`). "
        "`gelf-1.1` carries the record's id as `_record_id`."
    )
    differences: Final = (
        "Raw bodies that are no base64 go out as they are.",
        f"A message beyond {MOST_CHUNKS} chunks becomes a dead letter.",
        "`tracked` among `tags` has an effect; unknown names, an empty list and port "
        "1000 are warned about at start.",
        "The compressed bytes are others, what they mean is the same.",
    )

    def __init__(self, options: GraylogOptions) -> None:
        self._options = options
        chosen = {name: TAGS[name] for name in options.tags if name in TAGS}
        if options.format == "legacy":
            self._document = Document(chosen)
            self._message = self._legacy
        else:
            self._document = Document(_extra(chosen))
            self._message = self._gelf_11
        reads = dict.fromkeys((*self._document.fields, "timestamp"))
        if options.format != "legacy":
            reads |= dict.fromkeys(_SUMMARY)
        self.fields = tuple(reads)

    def open(self) -> None:
        """Warn of what is odd; the connection waits for the first record."""
        options = self._options
        port = options.port or REFERENCE_PORT
        if port == REFERENCE_PORT:
            log.warning(
                "port is 1000, GELF inputs listen on 12201 as a rule", extra=ONCE
            )
        if not options.tags:
            log.warning("tags is empty, messages say nothing of a record", extra=ONCE)
        for name in options.tags:
            if name not in TAGS:
                log.warning(
                    "tags has an unknown name", extra={**ONCE, "reason": repr(name)}
                )
        self._messages = Messages(options, options.host or "localhost", port)

    def probe(self) -> str:
        """Connect; over UDP resolve the name."""
        return self._messages.probe()

    def write(self, batch: Batch) -> None:
        """Send each record as one message."""
        encode = self._datagrams if self._options.transport == "udp" else self._framed
        self._messages.send(batch, encode)

    def close(self) -> None:
        """Let go of the socket."""
        self._messages.close()

    def _framed(self, batch: Batch, index: int) -> bytes:
        return self._message(batch, index) + b"\0"

    def _datagrams(self, batch: Batch, index: int) -> bytes | list[bytes]:
        """Return a message as one datagram, or as chunks."""
        message = self._message(batch, index)
        compress, harder = COMPRESSIONS[self._options.compression]
        data, size = compress(message), self._options.chunk_size
        if len(data) <= size:
            return data
        if len(data) > size * MOST_CHUNKS:
            data = harder(message)
        count = -(-len(data) // size)
        if count > MOST_CHUNKS:
            raise CodecError(
                f"too large: {len(data)} bytes in {count} chunks, "
                f"GELF has {MOST_CHUNKS} at most"
            )
        return list(chunks(data, size, count))

    def _legacy(self, batch: Batch, index: int) -> bytes:
        record = batch.records[index]
        # JSON within JSON: what Go would escape is escaped within.
        text = _encode(self._document.encode(record).decode())
        return b'{"host":"%b","message":%b,"timestamp":%d}' % (
            HOST.encode(),
            text,
            record.timestamp[0],
        )

    def _gelf_11(self, batch: Batch, index: int) -> bytes:
        record = batch.records[index]
        fields = self._document.encode(record)[1:-1]
        return b'{"version":"1.1","host":"%b",%b,"timestamp":%b,"level":6%b%b}' % (
            HOST.encode(),
            _SHORT.encode(record)[1:-1],
            seconds(record.timestamp),
            b',"_record_id":' + _encode(batch.record_id(index)),
            b"," + fields if fields else b"",
        )


def _extra(chosen: Mapping[str, str | Computed]) -> dict[str, str | Computed]:
    """Return the fields of GELF 1.1, whose values are texts and numbers."""
    made = {f"_{name}": source for name, source in chosen.items()}
    if "_tracked" in made:
        made["_tracked"] = Computed(
            lambda r: "true" if r.track_path else "false", ("track_path",)
        )
    return made


def _summary(record: AnalyticsRecord) -> Any:
    return f"{record.method} {record.path} {record.response_code}"


_SHORT: Final = Document({"short_message": Computed(_summary, _SUMMARY)})


def seconds(time: Time) -> bytes:
    """Return a time as a number of seconds with its fraction."""
    nanoseconds = time[0] * 1_000_000_000 + time[1]
    whole, part = divmod(abs(nanoseconds), 1_000_000_000)
    text = f"{'-' if nanoseconds < 0 else ''}{whole}.{part:09d}"
    return text.rstrip("0").removesuffix(".").encode()


def chunks(data: bytes, size: int, count: int) -> Iterator[bytes]:
    """Yield the datagrams of a message that does not fit into one."""
    head = CHUNK + os.urandom(8)
    for number in range(count):
        begin = number * size
        yield head + bytes((number, count)) + data[begin : begin + size]


def _deflated(bits: int, level: int) -> Compress:
    def compress(data: bytes) -> bytes:
        made = zlib.compressobj(level, zlib.DEFLATED, bits)
        return made.compress(data) + made.flush()

    return compress


# Level 1 takes half the time of the usual level for a long body; for a short one nearly
# all is spent on the tables that begin it, whatever the level.
COMPRESSIONS: Final[Mapping[str, tuple[Compress, Compress]]] = {
    "zlib": (_deflated(15, 1), _deflated(15, 9)),
    "gzip": (_deflated(31, 1), _deflated(31, 9)),
    "none": (bytes, bytes),
}
"""How a message is compressed, and how where that leaves it too large."""
