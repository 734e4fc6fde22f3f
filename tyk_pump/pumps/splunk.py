"""Splunk: one HTTP Event Collector event per record.

An event is the second of the record and an object with the chosen fields; events of a
batch stand one behind the other in a body, without separators.
"""

from __future__ import annotations

import binascii
import logging
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Final
from urllib.parse import urlsplit, urlunsplit

import msgspec

from tyk_pump.config.options import HttpOptions, Seconds, Secret, doc
from tyk_pump.errors import TransientError, WriteError
from tyk_pump.log import ONCE
from tyk_pump.pumps.protocol import Batch
from tyk_pump.record import body, json
from tyk_pump.record.analytics import ALL, AnalyticsRecord
from tyk_pump.record.document import Computed, Document
from tyk_pump.transport.bulk import Bulk, Part, Refused, TooLarge, Verdict
from tyk_pump.transport.http import HttpClient, Reply, fault_of

log = logging.getLogger(__name__)

EVENT_PATH: Final = "/services/collector/event/1.0"
ACK_PATH: Final = "/services/collector/ack"
KEYS: Final[Mapping[str, str]] = {
    "method": "method",
    "host": "host",
    "path": "path",
    "raw_path": "raw_path",
    "content_length": "content_length",
    "user_agent": "user_agent",
    "response_code": "response_code",
    "api_key": "api_key",
    "time_stamp": "timestamp",
    "api_version": "api_version",
    "api_name": "api_name",
    "api_id": "api_id",
    "org_id": "org_id",
    "oauth_id": "oauth_id",
    "raw_request": "raw_request",
    "request_time": "request_time",
    "raw_response": "raw_response",
    "ip_address": "ip_address",
    "geo": "geo",
    "network": "network",
    "latency": "latency",
    "tags": "tags",
    "alias": "alias",
    "track_path": "track_path",
}
"""Key of an event -> attribute of the record."""
USUAL: Final = (
    "method",
    "path",
    "response_code",
    "api_key",
    "time_stamp",
    "api_version",
    "api_name",
    "api_id",
    "org_id",
    "oauth_id",
    "raw_request",
    "request_time",
    "raw_response",
    "ip_address",
)
_USUAL: Final = ", ".join(USUAL)
_OTHERS: Final = ", ".join(key for key in KEYS if key not in USUAL)
BODY_BYTES: Final = 1_000_000
LARGEST_BODY: Final = 838_860_800
"""What a collector takes at most unless its operator has changed that."""
RECORD_ID: Final = "_tyk_pump_id"
STARS: Final = "****"
_SEARCHED: Final = 8
"""A shorter key is masked only where it stands alone: as a part of a text it means
nothing."""
_NO_DATA: Final = 5
_OPERATORS: Final = frozenset({_NO_DATA, 7, 10, 11, 14, 16})
"""Codes of an answer 400 that speak of the token, its index or channel, and not of an
event. No data: something on the way has taken the body away."""
_CODES_OF_NO_DATA: Final = ((400, _NO_DATA), (200, 0))
_FIRST_LOOK: Final = 0.05
_SLOWEST_LOOK: Final = 2.0


class SplunkOptions(HttpOptions, frozen=True, kw_only=True):
    """Where the collector is, what it gets, and how much at once."""

    collector_url: Annotated[
        str,
        doc(
            "Address of the collector: scheme, host, port and query. The path is "
            f"always `{EVENT_PATH}`.",
            example="https://splunk.example.com:8088/services/collector/event",
        ),
    ]
    collector_token: Annotated[
        Secret, doc("Token of the HTTP Event Collector.", example="<token>")
    ]
    fields: Annotated[
        list[str],
        doc(f"Keys of an event; empty: {_USUAL}. Possible are also {_OTHERS}."),
    ] = []
    obfuscate_api_keys: Annotated[
        bool,
        doc(
            "Show a key as `****`, also where it stands in tags and in the raw request "
            "and response."
        ),
    ] = False
    obfuscate_api_keys_length: Annotated[
        int, doc("So many last characters of a longer key stay readable.", ge=0)
    ] = 0
    ignore_tag_prefix_list: Annotated[
        list[str], doc("Tags that begin so are left out of `tags`.")
    ] = []
    enable_batch: Annotated[
        bool, doc("Send many events in a request, and not each in its own.")
    ] = False
    batch_max_content_length: Annotated[
        int,
        doc(
            "Bytes of a request with several events, before compression; an event "
            f"that alone has more is sent alone. 0 means {BODY_BYTES}.",
            ge=0,
            aliases=("max_content_length",),
        ),
    ] = BODY_BYTES
    max_retries: Annotated[
        int,
        doc(
            "Accepted and without effect: what may pass later is tried again as "
            "`retry` of the pump says.",
            ge=0,
        ),
    ] = 0
    gzip: Annotated[bool, doc("Compress requests.")] = False
    index: Annotated[str, doc("Index of the events; empty: as the token says.")] = ""
    source: Annotated[str, doc("Source of the events; empty: as the token says.")] = ""
    sourcetype: Annotated[
        str, doc("Source type of the events; empty: as the token says.")
    ] = ""
    host: Annotated[str, doc("Host of the events; empty: as the collector says.")] = ""
    record_id: Annotated[
        bool,
        doc(f"Send the record's id as the indexed field `{RECORD_ID}`."),
    ] = False
    indexer_acknowledgement: Annotated[
        bool,
        doc("Wait until the indexers have each event; for tokens that confirm this."),
    ] = False
    acknowledgement_timeout: Annotated[
        Seconds,
        doc("Time after which events that no indexer has confirmed go again.", gt=0),
    ] = 60.0

    def faults(self) -> Iterator[tuple[str, str]]:
        """The address and the token have to be there."""
        yield from super().faults()
        if not self.collector_url:
            yield "collector_url", "missing"
        elif fault := fault_of(self.collector_url):
            yield "collector_url", fault
        if not self.collector_token:
            yield "collector_token", "missing"


class Status(
    msgspec.Struct, rename={"invalid": "invalid-event-number", "ack": "ackId"}
):
    """What the collector says in an answer."""

    code: int
    text: str = ""
    invalid: int | None = None
    """Number of the event at which it stopped, from 0; those before it are taken."""
    ack: int | None = None
    """Asked for with this number, the indexers confirm what was taken."""


class Acks(msgspec.Struct):
    """What the indexers say: number of a request -> whether they have its events."""

    acks: dict[str, bool]


class SplunkPump:
    """Send records to an HTTP Event Collector."""

    options_type: ClassVar[type[SplunkOptions]] = SplunkOptions
    fields: tuple[str, ...] = tuple(name for name in ALL if name in KEYS.values())
    guarantee: Final = (
        "At least once: events whose answer was lost are sent again. An answer of the "
        "collector means that it has taken the events; with `indexer_acknowledgement` "
        "that the indexers have them. `record_id` makes repeats visible: the id is the "
        "same every time."
    )
    differences: Final = (
        "An event that is refused or cannot be expressed becomes a dead letter with "
        "the collector's words; the events around it arrive.",
        "An event larger than `batch_max_content_length` is sent alone, wherever it "
        "stands, and no empty request is. The default is 1 MB, not 800 MiB.",
        "With `obfuscate_api_keys` a key of `obfuscate_api_keys_length` or fewer "
        "characters becomes `****`. In tags, and in raw requests and responses, a key "
        f"of {_SEARCHED} characters or more is masked too.",
        "All tags with an ignored prefix are left out, neighbours too; an empty prefix "
        "means none; the tags of other pumps stay as they are.",
        "Success is status 200 with `code` 0 in the answer. Wrong tokens, a wrong "
        "index, a closed connection and every other trouble that is not the record's "
        "are tried again; `max_retries` has no effect.",
        "A request has a time limit, `request_timeout`.",
        "TLS options are those of this pump alone; TLS 1.2 is the oldest.",
    )

    def __init__(self, options: SplunkOptions) -> None:
        self._options = options
        self._event = Document(_sources(options))
        needed = {*self._event.fields, "timestamp"}
        self.fields = tuple(name for name in ALL if name in needed)
        self._tail = _metadata(options)
        self._channel = str(uuid.uuid4())
        self._confirms = False
        """Whether the token is known to be one whose events are confirmed."""
        self._awaited: dict[int, list[int]] = {}
        """Number of a request -> indexes of its events in the batch."""

    def open(self) -> None:
        """Prepare connections; the first request makes one."""
        options = self._options
        unknown = sorted(set(options.fields) - set(KEYS))
        if unknown:
            log.warning(
                "unknown fields are left out", extra={**ONCE, "reason": repr(unknown)}
            )
        headers = {"Authorization": f"Splunk {options.collector_token.reveal()}"}
        if options.indexer_acknowledgement:
            headers["X-Splunk-Request-Channel"] = self._channel
        self._url = _address(options.collector_url, EVENT_PATH)
        self._ack_url = _address(options.collector_url, ACK_PATH)
        self._http = HttpClient(options, headers, timeout=options.request_timeout)
        self._bulk = Bulk(
            max_bytes=LARGEST_BODY,
            flush_bytes=options.batch_max_content_length or BODY_BYTES,
            max_count=None if options.enable_batch else 1,
        )

    def probe(self) -> str:
        """Send no data with the token: a collector that takes it misses the data."""
        reply = self._http.post(self._url, b"")
        status = _status(reply)
        if status is None or (reply.status, status.code) not in _CODES_OF_NO_DATA:
            raise _failure(reply, status)
        if self._options.indexer_acknowledgement:
            self._ask_for_confirmation()
            return f"{reply.place} takes the token, and its indexers confirm"
        return f"{reply.place} takes the token"

    def write(self, batch: Batch) -> None:
        """Send every record, and wait for the indexers where they are to confirm."""
        if self._options.indexer_acknowledgement and not self._confirms:
            self._ask_for_confirmation()
        self._awaited = {}
        failure: WriteError | None = None
        try:
            self._bulk.send(batch, self._encode, self._post)
        except WriteError as exc:
            failure = exc
        why = self._wait_for_indexers()
        if self._awaited:
            lost = [index for part in self._awaited.values() for index in part]
            raise _with_unconfirmed(failure, lost, why)
        if failure is not None:
            raise failure

    def close(self) -> None:
        """Close the connections."""
        self._http.close()
        self._bulk.close()

    def _encode(self, batch: Batch, index: int) -> bytes:
        record = batch.records[index]
        event, tail = self._event.encode(record), self._tail
        if self._options.record_id:
            known = json.compact({RECORD_ID: batch.record_id(index)})
            tail += b',"fields":' + known
        return b'{"time":%d,"event":%b%b}' % (record.timestamp[0], event, tail)

    def _post(self, part: Part) -> Verdict | None:
        events, gzip = b"".join(part.items), self._options.gzip
        reply = self._http.post(self._url, events, gzip=gzip, accept=(503,))
        status = _status(reply)
        stopped = _stopped_at(status, part)
        if reply.status == 200 and status is not None and status.code == 0:
            self._note_all_taken(part, status, reply)
            return None
        if reply.status == 413:
            raise TooLarge(_words(reply, status))
        if reply.status == 400 and (status is None or status.code not in _OPERATORS):
            if status is None or stopped is None:
                raise Refused(_words(reply, status))
            taken = self._note_taken(part, stopped, status)
            again = [at for at in range(taken, len(part)) if at != stopped]
            return Verdict({stopped: _words(reply, status)}, again=again)
        failure = _failure(reply, status)
        if reply.status == 503 and status is not None and stopped:
            # Whether it counts from 0 is not certain here: one event may go twice.
            taken = self._note_taken(part, stopped - 1, status)
            failure.pending = list(range(taken, len(part)))
        raise failure

    def _note_all_taken(self, part: Part, status: Status, reply: Reply) -> None:
        if self._note_taken(part, len(part), status) < len(part):
            # The token has been changed: nothing is sent before it confirms again.
            self._confirms = False
            reason = "the answer has no number to ask the indexers with"
            raise TransientError(f"{reply.place}: {reason}")

    def _note_taken(self, part: Part, count: int, status: Status) -> int:
        """The first events of a part are taken; return how many need no repeat."""
        if not self._options.indexer_acknowledgement:
            return count
        if status.ack is None:
            return 0
        self._awaited[status.ack] = part.indexes[:count]
        return count

    def _ask_for_confirmation(self) -> None:
        """See that the token's events are confirmed, before any is sent."""
        self._ask([0])
        self._confirms = True

    def _wait_for_indexers(self) -> str:
        """Forget what the indexers have; return why they may not have the rest."""
        seconds = self._options.acknowledgement_timeout
        until, pause, why = time.monotonic() + seconds, _FIRST_LOOK, ""
        while self._awaited:
            try:
                place, acks = self._ask(list(self._awaited))
                why = f"{place}: the indexers did not confirm in {seconds:g} s"
            except TransientError as exc:
                acks, why = {}, exc.reason
            for number in [n for n in self._awaited if acks.get(str(n))]:
                del self._awaited[number]
            if not self._awaited or time.monotonic() + pause > until:
                break
            time.sleep(pause)
            pause = min(2 * pause, _SLOWEST_LOOK)
        return why

    def _ask(self, numbers: list[int]) -> tuple[str, dict[str, bool]]:
        """Return who answered, and which of these requests the indexers have."""
        question = msgspec.json.encode({"acks": numbers})
        reply = self._http.post(self._ack_url, question)
        try:
            return reply.place, msgspec.json.decode(reply.body, type=Acks).acks
        except msgspec.DecodeError:
            raise _failure(reply, _status(reply)) from None


def _sources(options: SplunkOptions) -> dict[str, str | Computed]:
    """Return where the value of each key of an event comes from."""
    names = options.fields or USUAL
    found: dict[str, str | Computed] = {
        name: KEYS[name] for name in names if name in KEYS
    }
    ignored = tuple(prefix for prefix in options.ignore_tag_prefix_list if prefix)
    if options.obfuscate_api_keys:
        found |= _masked(options.obfuscate_api_keys_length, ignored)
    elif ignored:
        found["tags"] = Computed(lambda r: _kept(r.tags, ignored), ("tags",))
    return {name: source for name, source in found.items() if name in names}


def _masked(readable: int, ignored: tuple[str, ...]) -> dict[str, Computed]:
    """Return the values in which a key may stand, without it."""

    def key(record: AnalyticsRecord) -> str:
        return mask(record.api_key, readable)

    def tags(record: AnalyticsRecord) -> list[str] | None:
        found = _kept(record.tags, ignored)
        if found is None or len(record.api_key) < _SEARCHED:
            return found
        return [tag.replace(record.api_key, key(record)) for tag in found]

    def raw(text: str, record: AnalyticsRecord) -> str:
        if len(record.api_key) < _SEARCHED:
            return text
        return without_key(text, record.api_key, key(record))

    def request(record: AnalyticsRecord) -> str:
        return raw(record.raw_request, record)

    def response(record: AnalyticsRecord) -> str:
        return raw(record.raw_response, record)

    return {
        "api_key": Computed(key, ("api_key",)),
        "tags": Computed(tags, ("api_key", "tags")),
        "raw_request": Computed(request, ("api_key", "raw_request")),
        "raw_response": Computed(response, ("api_key", "raw_response")),
    }


def mask(key: str, readable: int) -> str:
    """Return a key with no more than its last characters readable."""
    if not key:
        return ""
    return STARS + key[-readable:] if 0 < readable < len(key) else STARS


def without_key(text: str, key: str, shown: str) -> str:
    """Return a raw request or response, in base64 or plain, with its key masked."""
    if key in text:
        return text.replace(key, shown)
    # What `max_record_size` has cut may end within a group of four.
    plain = body.decoded(text[: len(text) // 4 * 4])
    if key not in plain:
        return text
    masked = plain.replace(key, shown).encode("utf-8", "surrogateescape")
    return binascii.b2a_base64(masked, newline=False).decode()


def _kept(tags: list[str] | None, ignored: tuple[str, ...]) -> list[str] | None:
    if tags is None or not ignored:
        return tags
    return [tag for tag in tags if not tag.startswith(ignored)]


def _metadata(options: SplunkOptions) -> bytes:
    """Return what stands behind the event in each, but for the record's id."""
    names = ("host", "index", "source", "sourcetype")
    given = {name: value for name in names if (value := getattr(options, name))}
    return b"," + json.compact(given)[1:-1] if given else b""


def _address(url: str, path: str) -> str:
    """Return the collector's address with this path; credentials are the token's."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, path, parts.query, ""))


def _status(reply: Reply) -> Status | None:
    """Return what the collector says; None where it is no collector's answer."""
    if reply.body.strip() == b'"OK"':
        return Status(0)  # early OpenTelemetry collectors
    try:
        return msgspec.json.decode(reply.body, type=Status)
    except msgspec.DecodeError:
        return None


def _stopped_at(status: Status | None, part: Part) -> int | None:
    at = None if status is None else status.invalid
    return at if at is not None and 0 <= at < len(part) else None


def _words(reply: Reply, status: Status | None) -> str:
    if status is None:
        return reply.reason
    return f"{reply.title}: {' '.join(status.text.split())} (code {status.code})"


def _failure(reply: Reply, status: Status | None) -> TransientError:
    words = _words(reply, status)
    if status is None:
        words = f"no answer of a collector: {words}"
    return reply.failure(words)


def _with_unconfirmed(
    failure: WriteError | None, lost: list[int], why: str
) -> TransientError:
    if failure is None:
        return TransientError(why, pending=sorted(lost))
    return TransientError(
        failure.reason if failure.pending else why,
        pending=sorted({*lost, *(failure.pending or ())}),
        rejected=failure.rejected,
        retry_after=failure.retry_after,
    )
