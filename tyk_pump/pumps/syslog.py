"""Syslog: one message per record, in the reference's form or that of RFC 5424."""

from __future__ import annotations

import logging
import os
import re
import socket
import time
from collections.abc import Iterator
from typing import Annotated, ClassVar, Final

import msgspec

from tyk_pump.config.options import SocketOptions, doc
from tyk_pump.errors import CodecError
from tyk_pump.pumps.protocol import Batch
from tyk_pump.record.analytics import ZERO_TIME, AnalyticsRecord
from tyk_pump.record.document import Document
from tyk_pump.record.gotime import go_text, rfc3339
from tyk_pump.transport.datagram import LARGEST_DATAGRAM, address
from tyk_pump.transport.messages import Messages

log = logging.getLogger(__name__)

DEFAULT_ADDRESS: Final = "localhost:5140"
DEFAULT_TAG: Final = "syslog-pump"

KEYS: Final = {
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
    "raw_request": "raw_request",
    "raw_response": "raw_response",
    "request_time_ms": "request_time",
    "response_code": "response_code",
    "timestamp": "timestamp",
    "user_agent": "user_agent",
}
"""Key in the reference's map -> attribute."""
JSON_KEYS: Final = {**KEYS, "latency": "latency", "tags": "tags"}
"""The same in JSON."""
PARAMETERS: Final = {
    key: name
    for key, name in KEYS.items()
    if name not in ("raw_request", "raw_response")
}
"""The same in structured data: a body has no place in a header."""
SUMMARY: Final = ("method", "path", "response_code")

_TEXTS: Final = (
    *("alias", "api_id", "api_key", "api_name", "api_version", "host", "ip_address"),
    *("method", "oauth_id", "org_id", "path", "raw_path", "user_agent"),
)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_ESCAPES: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_SD_ID: Final = re.compile(r"[!#-<>-\\^-~]{1,32}")
_UNSEEN: Final = re.compile(r"[^!-~]")
_encode: Final = msgspec.json.Encoder().encode


class SyslogOptions(SocketOptions, frozen=True, kw_only=True):
    """Where the daemon is and what it gets."""

    network_addr: Annotated[
        str,
        doc("`host:port` of the daemon, `[::1]:514` for IPv6.", example="syslog:514"),
    ] = DEFAULT_ADDRESS
    log_level: Annotated[
        int,
        doc(
            "The message's priority, unchanged: 0 to 7 is a severity of the kernel; "
            "facility times 8 plus severity names another facility (134: local0, "
            "informational).",
            ge=0,
            le=191,
        ),
    ] = 0
    tag: Annotated[str, doc("The program's name in the header.")] = DEFAULT_TAG
    hostname: Annotated[
        str, doc("The host's name in the header; empty: this machine's.")
    ] = ""
    format: Annotated[
        str,
        doc(
            "`map`: the reference's own header and text. `rfc5424`: the header of RFC "
            "5424 with the record's own time.",
            choices=("map", "rfc5424"),
        ),
    ] = "map"
    message: Annotated[
        str,
        doc(
            "What follows the header of `rfc5424`: all values as `json`, or a short "
            "`text` of method, path and status.",
            choices=("json", "text"),
        ),
    ] = "json"
    structured_data: Annotated[
        str,
        doc(
            "Name of the structured data of `rfc5424`, with your enterprise number: "
            "it holds all values but the bodies. Empty: none.",
            example="tyk@32473",
        ),
    ] = ""
    framing: Annotated[
        str,
        doc(
            "What tells messages apart over TCP and TLS: a `newline` behind each, or "
            "its `octet-counting` in front (RFC 6587, RFC 5425).",
            choices=("newline", "octet-counting"),
        ),
    ] = "newline"
    max_datagram: Annotated[
        int,
        doc(
            "Bytes of a message over UDP; a larger one becomes a dead letter.",
            gt=0,
            le=LARGEST_DATAGRAM,
        ),
    ] = LARGEST_DATAGRAM
    truncate_datagrams: Annotated[
        bool, doc("Cut a larger one instead, and lose its end.")
    ] = False

    def faults(self) -> Iterator[tuple[str, str]]:
        """What goes into a header must not end it."""
        yield from super().faults()
        if self.network_addr:
            try:
                address(self.network_addr)
            except ValueError as exc:
                yield "network_addr", str(exc)
        for key, text in (("tag", self.tag), ("hostname", self.hostname)):
            if _CONTROL.search(text):
                yield key, "has a control character"
        if self.structured_data and not _SD_ID.fullmatch(self.structured_data):
            yield (
                "structured_data",
                "1 to 32 visible ASCII characters without = ] and quotes are needed",
            )


class SyslogPump:
    """Send records to a syslog daemon."""

    options_type: ClassVar[type[SyslogOptions]] = SyslogOptions
    fields: tuple[str, ...] = tuple(JSON_KEYS.values())
    guarantee: Final = (
        "Over UDP a record is on its way once: nobody confirms it, and a daemon that "
        "does not keep up drops datagrams in its kernel, so give it a large receive "
        "buffer (rsyslog: `rcvbufSize` of imudp) or use `tcp`. Where the daemon's "
        "machine refuses datagrams, the batch is sent again. Over TCP and TLS at least "
        "once, until the daemon has read it (`confirm`); what it does then is its own "
        "affair. `rfc5424` carries the record's id as `record_id`."
    )
    differences: Final = (
        "Control characters in fields are escaped, so that no client can end a message "
        "and begin another. In the two raw bodies only line feeds are, as ever.",
        "A message that does not fit a datagram becomes a dead letter, or is cut with "
        "`truncate_datagrams`.",
        "`tls` works. A daemon that is away stops nothing: its records wait.",
        "Over TCP each batch has a connection of its own, unless `confirm` says "
        "`received`.",
    )

    def __init__(self, options: SyslogOptions) -> None:
        self._options = options
        self._tag = options.tag or DEFAULT_TAG
        self._make = self._map
        if options.format == "map":
            self.fields = tuple(KEYS.values())
        else:
            self._make = self._rfc5424
            self._document = Document(JSON_KEYS)
            wanted = {*SUMMARY, "timestamp"}
            if options.message == "json":
                wanted |= {*JSON_KEYS.values()}
            if options.structured_data:
                wanted |= {*PARAMETERS.values()}
            self.fields = tuple(name for name in type(self).fields if name in wanted)
        if options.transport == "udp":
            self._frame = self._datagram
        elif options.framing == "newline":
            self._frame = _line
        else:
            self._frame = _counted

    def open(self) -> None:
        """Set the header; the connection waits for the first record."""
        options = self._options
        host, port = address(options.network_addr or DEFAULT_ADDRESS)
        self._messages = Messages(options, host, port)
        self._host = options.hostname or socket.gethostname()
        self._head = ""
        if options.format == "rfc5424":
            tag = _seen(self._tag, 48)
            name = _seen(self._host, 255)
            self._head = f"{name} {tag} {os.getpid()} analytics "

    def probe(self) -> str:
        """Connect; over UDP resolve the name."""
        return self._messages.probe()

    def write(self, batch: Batch) -> None:
        """Send each record as one message."""
        options = self._options
        if options.format == "map":
            now = rfc3339((int(time.time()), 0))
            self._head = (
                f"<{options.log_level}>{now} {self._host} {self._tag}[{os.getpid()}]: "
            )
        self._messages.send(batch, self._item)

    def close(self) -> None:
        """Let go of the socket."""
        self._messages.close()

    def _item(self, batch: Batch, index: int) -> bytes:
        return self._frame(self._make(batch, index))

    def _map(self, batch: Batch, index: int) -> bytes:
        text = self._head + map_text(batch.records[index])
        return text.encode("utf-8", "surrogateescape")

    def _rfc5424(self, batch: Batch, index: int) -> bytes:
        record, identity = batch.records[index], batch.record_id(index)
        options = self._options
        data = "-"
        if options.structured_data:
            data = _structured(options.structured_data, record, identity)
        head = f"<{options.log_level}>1 {_stamp(record)} {self._head}{data} "
        if options.message == "json":
            values = self._document.encode(record)[1:]
            text = b'{"record_id":%b,%b' % (_encode(identity), values)
        else:
            text = _bytes(
                escaped(f"{record.method} {record.path} {record.response_code}")
            )
        return _bytes(head) + text

    def _datagram(self, message: bytes) -> bytes:
        # The line feed of the reference's form stands in a datagram, too.
        end = b"\n" if self._options.format == "map" else b""
        size, limit = len(message) + len(end), self._options.max_datagram
        if size <= limit:
            return message + end
        if not self._options.truncate_datagrams:
            raise CodecError(f"too large for a datagram: {size} bytes of {limit}")
        return _first_bytes(message, limit - len(end)) + end


def map_text(r: AnalyticsRecord) -> str:
    """Return a record as Go prints a map with the verb for texts."""
    front = (
        f"map[alias:{r.alias} api_id:{r.api_id} api_key:{r.api_key} "
        f"api_name:{r.api_name} api_version:{r.api_version} "
        f"content_length:%!s(int64={r.content_length}) host:{r.host} "
        f"ip_address:{r.ip_address} method:{r.method} oauth_id:{r.oauth_id} "
        f"org_id:{r.org_id} path:{r.path} raw_path:{r.raw_path} raw_request:"
    )
    agent = r.user_agent
    if not (front.isprintable() and agent.isprintable()) and _has_control(front, agent):
        return map_text(_escaped_record(r))
    request, response = r.raw_request, r.raw_response
    if "\n" in request:
        request = request.replace("\n", "\\n")
    if "\n" in response:
        response = response.replace("\n", "\\n")
    return (
        f"{front}{request} raw_response:{response} "
        f"request_time_ms:%!s(int64={r.request_time}) "
        f"response_code:%!s(int={r.response_code}) "
        f"timestamp:{go_text(r.timestamp, r.zone)} user_agent:{agent}]"
    )


def escaped(text: str) -> str:
    """Return a text with its control characters as Go writes them in quotes."""
    return _CONTROL.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    char = found[0]
    return _ESCAPES.get(char) or f"\\x{ord(char):02x}"


def _has_control(*texts: str) -> bool:
    # Nearly every text is printable, which is quickly seen; not all others are bad.
    return any(_CONTROL.search(text) for text in texts)


def _escaped_record(record: AnalyticsRecord) -> AnalyticsRecord:
    changed = {name: escaped(getattr(record, name)) for name in _TEXTS}
    return msgspec.structs.replace(record, **changed)


def _structured(name: str, record: AnalyticsRecord, identity: str) -> str:
    items = [f'record_id="{identity}"']
    for key, attribute in PARAMETERS.items():
        value = getattr(record, attribute)
        if attribute == "timestamp":
            value = rfc3339(value, record.zone)
        items.append(f'{key}="{_quoted(str(value))}"')
    return f"[{name} {' '.join(items)}]"


def _quoted(text: str) -> str:
    if '"' in text or "\\" in text or "]" in text:
        text = text.replace("\\", "\\\\").replace('"', '\\"').replace("]", "\\]")
    return text if text.isprintable() else escaped(text)


def _stamp(record: AnalyticsRecord) -> str:
    """Return the record's time; RFC 5424 knows microseconds, and a dash for no time."""
    seconds, nanoseconds = record.timestamp
    if (seconds, nanoseconds) == ZERO_TIME:
        return "-"
    return rfc3339((seconds, nanoseconds // 1000 * 1000), record.zone)


def _seen(text: str, most: int) -> str:
    return _UNSEEN.sub("_", text)[:most] or "-"


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _line(message: bytes) -> bytes:
    return message + b"\n"


def _counted(message: bytes) -> bytes:
    return b"%d %b" % (len(message), message)


def _first_bytes(data: bytes, size: int) -> bytes:
    """Return at most so many bytes, and no half of a character."""
    end = max(0, size)
    while end and end > size - 4 and data[end] & 0xC0 == 0x80:
        end -= 1
    return data[:end]
