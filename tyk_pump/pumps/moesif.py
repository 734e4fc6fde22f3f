"""Moesif: one event per record, posted in batches to the collector.

Moesif's own client for Python is not used: its application id, its address and its
connections belong to the whole process, it knows no time limit, and its answer to a
batch keeps neither Retry-After nor a way to tell one refused event from a bad key.
"""

from __future__ import annotations

import binascii
import json
import logging
import re
import uuid
from collections.abc import Collection, Iterator, Mapping
from hashlib import sha1
from time import monotonic
from typing import Annotated, Any, ClassVar, Final, TypeGuard

import msgspec

from tyk_pump.config.options import HttpOptions, Options, Secret, doc
from tyk_pump.errors import TransientError
from tyk_pump.log import ONCE
from tyk_pump.pumps.protocol import Batch
from tyk_pump.record import json as record_json
from tyk_pump.record.analytics import AnalyticsRecord, Time
from tyk_pump.record.body import decoded_bytes
from tyk_pump.record.gotime import rfc3339
from tyk_pump.transport.bulk import Bulk, Part, Refused, TooLarge
from tyk_pump.transport.http import HttpClient, Reply, fault_of

log = logging.getLogger(__name__)

ENDPOINT: Final = "https://api.moesif.net"
BATCH_SIZE: Final = 200
LARGEST_BATCH: Final = 50_000_000
"""Bytes of a batch before compression, as Moesif documents it. Of one event: it cuts
the bodies of an event of more than 1 MB itself, and says so in its own pages."""
CONFIG_SECONDS: Final = 10.0
REFRESH_SECONDS: Final = 60.0
ETAG: Final = "X-Moesif-Config-Etag"
MASK: Final = "*****"

_TAKEN: Final = frozenset({201, 202})
_REFUSED: Final = frozenset({400, 422})
_NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_URL, "tyk-pump:record").bytes
_RANGE: Final = 2.0**64 / 100
_BLANK_LINE: Final = b"\r\n\r\n"
_EMPTY_LINE: Final = re.compile(r"\n\r?\n")
_HEADER: Final = re.compile(r"^([^:\n]*):(.*)", re.MULTILINE)


class BulkConfig(Options, frozen=True, kw_only=True):
    """How events are put together; read only with `enable_bulk`."""

    api_endpoint: Annotated[
        str,
        doc("Address of the collector, without a path; empty: Moesif's own."),
    ] = ""
    batch_size: Annotated[
        int,
        doc("Events in a request; 0 means 200.", ge=0, numeral=True),
    ] = BATCH_SIZE
    event_queue_size: Annotated[
        int,
        doc(
            "Accepted and without effect: `window_records` bounds what waits, and "
            "nothing is dropped.",
            ge=0,
            numeral=True,
        ),
    ] = 10_000
    timer_wake_up_seconds: Annotated[
        int,
        doc(
            "Accepted and without effect: events are sent at once.",
            ge=0,
            numeral=True,
        ),
    ] = 2

    def faults(self) -> Iterator[tuple[str, str]]:
        """The address is a whole one."""
        if self.api_endpoint and (fault := fault_of(self.api_endpoint)):
            yield "api_endpoint", fault


class MoesifOptions(HttpOptions, frozen=True, kw_only=True):
    """Which application the events are for, and what of a call they show."""

    application_id: Annotated[
        Secret,
        doc(
            "Collector Application Id; may stay empty only with an `api_endpoint` "
            "that adds it.",
            example="<application id>",
        ),
    ] = Secret()
    request_header_masks: Annotated[
        list[str],
        doc("Request headers whose value is replaced by `*****`, in any case."),
    ] = []
    response_header_masks: Annotated[
        list[str],
        doc("Response headers whose value is replaced by `*****`, in any case."),
    ] = []
    request_body_masks: Annotated[
        list[str],
        doc(
            "Keys of a JSON request body whose value is replaced by `*****`, at any "
            "depth, also within arrays. A body that is no JSON is sent as it is."
        ),
    ] = []
    response_body_masks: Annotated[
        list[str],
        doc("The same for the response body."),
    ] = []
    disable_capture_request_body: Annotated[bool, doc("Send no request body.")] = False
    disable_capture_response_body: Annotated[bool, doc("Send no response body.")] = (
        False
    )
    user_id_header: Annotated[
        str,
        doc(
            "Header, of the response or else of the request, that names the user. "
            "Otherwise: the alias, the OAuth client, the authorization header."
        ),
    ] = ""
    company_id_header: Annotated[
        str,
        doc("Header, of the response or else of the request, that names the company."),
    ] = ""
    authorization_header_name: Annotated[
        str,
        doc("Request header searched for a user: Basic, Bearer or a bare JWT."),
    ] = "authorization"
    authorization_user_id_field: Annotated[
        str,
        doc("Claim of a JWT that names the user, as written, else in small letters."),
    ] = "sub"
    enable_bulk: Annotated[
        bool, doc("Read `bulk_config`; events go in batches either way.")
    ] = False
    bulk_config: BulkConfig = BulkConfig()
    uri_scheme: Annotated[
        str,
        doc(
            "Put this scheme and the record's host before the path in `request.uri`; "
            "empty: send the path and query alone, as ever.",
            choices=("http", "https"),
        ),
    ] = ""

    def faults(self) -> Iterator[tuple[str, str]]:
        """Moesif itself takes nothing without an application id."""
        yield from super().faults()
        if not self.application_id and not self.bulk().api_endpoint:
            yield "application_id", "missing"

    def bulk(self) -> BulkConfig:
        """Return the bulk configuration that counts."""
        return self.bulk_config if self.enable_bulk else BulkConfig()


class _Request(msgspec.Struct, gc=False):
    time: str
    uri: Any
    verb: Any
    headers: Any
    api_version: Any
    ip_address: Any
    body: Any
    transfer_encoding: str = "base64"


class _Response(msgspec.Struct, gc=False):
    time: str
    status: int
    headers: Any
    body: Any
    transfer_encoding: str = "base64"


class _Tyk(msgspec.Struct, gc=False):
    api_name: Any
    tags: Any


class _Metadata(msgspec.Struct, gc=False):
    tyk: Any


class _Event(msgspec.Struct, gc=False):
    request: Any
    response: Any
    session_token: Any
    user_id: Any
    company_id: Any
    metadata: Any
    direction: str
    weight: int
    transaction_id: str


class Rates(msgspec.Struct, frozen=True):
    """How many of a hundred events Moesif wants."""

    app: float = 100.0
    users: dict[str, float] = {}
    companies: dict[str, float] = {}

    @property
    def highest(self) -> float:
        """Return the highest rate that anybody has."""
        return max([self.app, *self.users.values(), *self.companies.values()])

    def of(self, user: str, company: str) -> float:
        """Return the rate of an event."""
        rate = self.users.get(user)
        if rate is None:
            rate = self.companies.get(company)
        return self.app if rate is None else rate


class MoesifPump:
    """Each record becomes an API call in Moesif: request, response, user, company."""

    options_type: ClassVar[type[MoesifOptions]] = MoesifOptions
    fields: Collection[str] = (
        "method",
        "host",
        "path",
        "response_code",
        "api_key",
        "timestamp",
        "api_version",
        "api_name",
        "oauth_id",
        "request_time",
        "raw_request",
        "raw_response",
        "ip_address",
        "tags",
        "alias",
    )
    guarantee: ClassVar[str] = (
        "At least once: a batch counts when Moesif has confirmed it. What is sent "
        "again, after a crash too, has the same `transaction_id`, by which Moesif "
        "leaves out repeats. Moesif takes batches of 50 MB: a record that alone is "
        "larger becomes a dead letter, as does one that Moesif refuses (events of "
        "more than 30 days ago, by default). Bodies of an event of more than 1 MB are "
        "cut by Moesif."
    )
    differences: ClassVar[tuple[str, ...]] = (
        "Events have a `transaction_id`, a UUID made from the record's id.",
        "Which records a sampling rate leaves out depends on the record's id alone: a "
        "record that is sent again is drawn as before. One that is left out counts as "
        "delivered. Rate 0 sends nothing, rate 50 half, and a rate above 100 still "
        "has weight 1.",
        "Sampling rates that could not be read are asked for again after a minute.",
        "A refused or lost batch is sent again; nothing waits for a timer, so nothing "
        "is lost at the stop.",
        "Header masks hold in any case; body masks hold within arrays.",
        "A body is sent as it is, to the byte; only one in which something is masked "
        "is written anew, with sorted keys, and then its numbers stay as they were.",
        "The name of a claim is looked up as written first; a claim that is a number "
        "is taken as its digits.",
        "A request or response that is no base64 is taken as plain text.",
        "Headers have no limit, and end at the first empty line also where lines end "
        "in a single line feed.",
        "A slash at the end of `api_endpoint` is not doubled.",
        "Numbers in `bulk_config` may be texts, and its options have variables, such "
        "as `TYK_PMP_PUMPS_MOESIF_META_BULKCONFIG_BATCHSIZE`.",
    )

    def __init__(self, options: MoesifOptions) -> None:
        self._options = options
        bulk = options.bulk()
        self._endpoint = (bulk.api_endpoint or ENDPOINT).rstrip("/")
        self._bulk = Bulk(
            max_bytes=LARGEST_BATCH,
            max_count=bulk.batch_size or BATCH_SIZE,
            overhead=2,
            size=lambda event: len(event) + 1,
        )
        if not options.uri_scheme:
            self.fields = tuple(name for name in self.fields if name != "host")
        self._request_masks = _lower(options.request_header_masks)
        self._response_masks = _lower(options.response_header_masks)
        self._request_keys = frozenset(options.request_body_masks)
        self._response_keys = frozenset(options.response_body_masks)
        self._user_header = options.user_id_header.lower()
        self._company_header = options.company_id_header.lower()
        self._authorization = (
            options.authorization_header_name.lower() or "authorization"
        )
        self._claim = options.authorization_user_id_field or "sub"
        self._client: HttpClient | None = None
        self._rates = Rates()
        self._highest = 100.0
        self._rates_known = False
        self._rates_etag = ""
        self._batch_etag = ""
        self._asked = 0.0

    def open(self) -> None:
        """Ask for the sampling rates; without them every event is sent."""
        given = self._options.bulk_config
        if not self._options.enable_bulk and given != BulkConfig():
            log.warning("bulk_config is not read while enable_bulk is off", extra=ONCE)
        self._client = HttpClient(
            self._options,
            {
                "Content-Type": "application/json; charset=utf-8",
                "X-Moesif-Application-Id": self._options.application_id.reveal(),
            },
            timeout=self._options.request_timeout,
        )
        try:
            self._ask_for_rates(self._client)
        except BaseException:
            self._client.close()
            raise

    def probe(self) -> str:
        """Have the application id accepted."""
        reply = self._ask(self._connected())
        if reply.status != 200:
            raise TransientError(f"{self._endpoint}: {reply.reason}")
        rates = _rates(reply)
        app = 100.0 if rates is None else rates.app
        return f"Moesif accepts the application id and wants {app:g} % of the events"

    def write(self, batch: Batch) -> None:
        """Post the events that the sampling rates leave."""
        if len(batch):
            self._refresh(self._connected())
            self._bulk.send(batch, self._encode, self._post)

    def close(self) -> None:
        """Close the connections."""
        self._bulk.close()
        self._connected().close()

    def _connected(self) -> HttpClient:
        assert self._client is not None, "open comes first"
        return self._client

    # Sampling rates

    def _ask(self, client: HttpClient) -> Reply:
        return client.get(
            f"{self._endpoint}/v1/config",
            # Moesif takes events also while this does not work.
            accept=[*range(200, 400), *range(500, 600)],
            timeout=min(CONFIG_SECONDS, self._options.request_timeout),
        )

    def _ask_for_rates(self, client: HttpClient) -> None:
        self._asked = monotonic()
        self._rates_known = False
        reply = self._ask(client)
        found = _rates(reply) if reply.status == 200 else None
        if found is None:
            log.warning(
                "no sampling rates, they stay as they are",
                extra={"reason": reply.title, "rate": self._rates.app},
            )
            return
        self._rates, self._highest, self._rates_known = found, found.highest, True
        # An answer without a tag is as new as the last batch.
        self._rates_etag = reply.headers.get(ETAG, "") or self._batch_etag

    def _refresh(self, client: HttpClient) -> None:
        """Ask again where Moesif's last answer hints at other rates."""
        if monotonic() - self._asked <= REFRESH_SECONDS:
            return
        changed = self._batch_etag and self._batch_etag != self._rates_etag
        if self._rates_known and not changed:
            return
        try:
            self._ask_for_rates(client)
        except TransientError as exc:
            # If Moesif cannot be reached, the events say so.
            log.warning("no sampling rates", extra={"reason": exc.reason})

    # Events

    def _encode(self, batch: Batch, index: int) -> bytes | None:
        """Return an event, or None where sampling leaves it out."""
        digest = sha1(_NAMESPACE + batch.record_id(index).encode()).digest()
        draw = int.from_bytes(digest[8:16], "big") / _RANGE
        if draw >= self._highest:
            return None
        record = batch.records[index]
        options = self._options
        head, body = _parts(record.raw_request)
        back, answer = _parts(record.raw_response)
        asked, answered = _headers(head), _headers(back)
        if self._request_masks:
            _mask(asked, self._request_masks)
        if self._response_masks:
            _mask(answered, self._response_masks)
        user = self._user(record, asked, answered)
        company = ""
        if name := self._company_header:
            company = answered.get(name) or asked.get(name, "")
        rate = self._rates.of(user, company)
        if draw >= rate:
            return None
        capture = not options.disable_capture_request_body
        request = _Request(
            rfc3339(record.timestamp, "UTC"),
            self._uri(record, _target(head, body), asked),
            record.method,
            asked,
            record.api_version,
            record.ip_address,
            _shown(body, self._request_keys) if capture else None,
        )
        capture = not options.disable_capture_response_body
        response = _Response(
            rfc3339(_later(record.timestamp, record.request_time), "UTC"),
            record.response_code,
            answered,
            _shown(answer, self._response_keys) if capture else None,
        )
        return record_json.compact(
            _Event(
                request,
                response,
                record.api_key,
                user,
                company,
                _Metadata(_Tyk(record.api_name, record.tags)),
                "Incoming",
                max(1, int(100 / rate)),
                _uuid(digest),
            )
        )

    def _user(
        self,
        record: AnalyticsRecord,
        asked: Mapping[str, str],
        answered: Mapping[str, str],
    ) -> str:
        if name := self._user_header:
            found = answered.get(name) or asked.get(name)
            if found:
                return found
        if record.alias or record.oauth_id:
            return record.alias or record.oauth_id
        value = asked.get(self._authorization)
        return user_of(value, self._claim) if value else ""

    def _uri(
        self, record: AnalyticsRecord, target: str, asked: Mapping[str, str]
    ) -> str:
        target = target or record.path
        if not self._options.uri_scheme or not target.startswith("/"):
            return target
        host = record.host or asked.get("host", "")
        if not host or host == MASK:
            return target
        return f"{self._options.uri_scheme}://{host}{target}"

    def _post(self, part: Part) -> None:
        body = b"[" + b",".join(part.items) + b"]"
        client = self._connected()
        reply = client.post(f"{self._endpoint}/v1/events/batch", body, gzip=True)
        if reply.status in _TAKEN:
            self._batch_etag = reply.headers.get(ETAG, "") or self._batch_etag
        elif reply.status == 413:
            raise TooLarge(reply.reason)
        elif reply.status in _REFUSED:
            raise Refused(reply.reason)
        else:
            # A page to log in with status 200, say, is none of Moesif's answers.
            raise TransientError(f"{self._endpoint}: {reply.reason}")


def _lower(names: Collection[str]) -> frozenset[str]:
    return frozenset(name.lower() for name in names)


def _rates(reply: Reply) -> Rates | None:
    """Return the rates of an answer; None where it is no object of JSON."""
    try:
        said = msgspec.json.decode(reply.body)
    except (msgspec.DecodeError, RecursionError):
        return None
    if not isinstance(said, dict):
        return None
    app = said.get("sample_rate")
    return Rates(
        app=float(app) if _is_number(app) else 100.0,
        users=_numbers(said.get("user_sample_rate")),
        companies=_numbers(said.get("company_sample_rate")),
    )


def _numbers(value: Any) -> dict[str, float]:
    if not isinstance(value, dict):
        return {}
    return {name: float(rate) for name, rate in value.items() if _is_number(rate)}


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _parts(raw: str) -> tuple[str, bytes | None]:
    """Return head and body of a request or response.

    The body is None where no empty line stands before it.
    """
    if not raw:
        return "", None
    head, blank, body = decoded_bytes(raw).partition(_BLANK_LINE)
    text = head.decode("utf-8", "surrogateescape")
    # Bare line feeds: what stands behind the first empty line is no header.
    if "\n\n" in text or "\n\r\n" in text:
        text = _EMPTY_LINE.split(text, maxsplit=1)[0]
    return text, body if blank else None


def _target(head: str, body: bytes | None) -> str:
    """Return the target of a request line, nothing where there is none."""
    line, end, _ = head.partition("\n")
    if body is None and not (end and line.endswith("\r")):
        # Without the line's end, what looks like a request may be anything.
        return ""
    words = line.split()
    return words[1] if len(words) > 2 else ""


def _headers(head: str) -> dict[str, str]:
    """Return the headers, names in small letters; of a repeated one the last."""
    start = head.find("\n") + 1
    if not start:
        return {}
    found = _HEADER.findall(head, start)
    return {name.lower(): value.strip() for name, value in found}


def _mask(headers: dict[str, str], names: frozenset[str]) -> None:
    for name in names & headers.keys():
        headers[name] = MASK


def _shown(body: bytes | None, keys: frozenset[str]) -> str | None:
    """Return a body in base64, values of these keys masked."""
    if body is None:
        return None
    if keys:
        body = masked_body(body, keys)
    return binascii.b2a_base64(body, newline=False).decode("ascii")


def masked_body(body: bytes, keys: frozenset[str]) -> bytes:
    """Return a body with the values of these keys masked; as it is if none is there."""
    # An escape may hide the letters of a key.
    if b"\\" not in body and not any(key.encode() in body for key in keys):
        return body
    text = body.decode("utf-8", "surrogateescape")
    try:
        value = json.loads(
            text, parse_float=_number, parse_int=_number, parse_constant=_no_number
        )
        masked, found = _masked(value, keys)
        return record_json.compact(masked) if found else body
    except ValueError:
        return body  # no JSON
    except RecursionError:
        # Too deep to look into: better nothing than what should be masked.
        return record_json.compact(MASK)


def _number(text: str) -> msgspec.Raw:
    """Keep a number as it is written."""
    return msgspec.Raw(text.encode())


def _no_number(text: str) -> Any:
    raise ValueError(text)


def _masked(value: Any, keys: frozenset[str]) -> tuple[Any, bool]:
    """Return the value, masked, and whether anything was masked."""
    any_found = False
    if isinstance(value, dict):
        for key, item in value.items():
            if key in keys:
                value[key], any_found = MASK, True
            elif isinstance(item, dict | list):
                _, found = _masked(item, keys)
                any_found |= found
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, dict | list):
                _, found = _masked(item, keys)
                any_found |= found
    return value, any_found


def user_of(authorization: str, claim: str) -> str:
    """Return the user that an authorization header names, or nothing."""
    if "Basic" in authorization:
        credentials = authorization.replace("Basic", "", 1).strip()
        return _unpadded(credentials).partition(b":")[0].decode("utf-8", "replace")
    parts = authorization.split(".")
    if len(parts) > 1:
        return _claim(parts[1], claim)
    return "" if "Bearer" in authorization else _claim(authorization, claim)


def _claim(payload: str, name: str) -> str:
    text = payload.strip().replace("-", "+").replace("_", "/")
    try:
        claims = msgspec.json.decode(_unpadded(text), type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, RecursionError):
        return ""
    found = claims.get(name)
    if found is None:
        # The reference knew claims in small letters only.
        found = claims.get(name.lower())
    if found is None:
        return ""
    value = bytes(found)
    if value[:1] == b'"':
        return msgspec.json.decode(value, type=str)
    return value.decode() if value[:1] in b"-0123456789" else ""


def _unpadded(text: str) -> bytes:
    """Decode base64 with or without its padding; nothing where it is none."""
    text = text.rstrip("=")
    try:
        return binascii.a2b_base64(text + "=" * (-len(text) % 4), strict_mode=True)
    except ValueError:
        return b""


def _later(time: Time, milliseconds: int) -> Time:
    """Return a time some milliseconds on."""
    seconds, nanoseconds = time
    # A call of centuries is nonsense; it wraps at 64 bits, as it always has.
    passed = (milliseconds * 1_000_000 + 2**63) % 2**64 - 2**63
    further, nanoseconds = divmod(nanoseconds + passed, 1_000_000_000)
    return seconds + further, nanoseconds


def _uuid(digest: bytes) -> str:
    """Return the UUID of version 5 that a digest makes; `uuid` takes five times as
    long."""
    text = digest[:16].hex()
    variant = "89ab"[digest[8] >> 4 & 3]
    return (
        f"{text[:8]}-{text[8:12]}-5{text[13:16]}-{variant}{text[17:20]}-{text[20:32]}"
    )
