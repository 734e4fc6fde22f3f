"""Resurface: one message per call, what its rules allow of request and response."""

from __future__ import annotations

import logging
import re
import socket
import zlib
from collections.abc import Iterator
from hashlib import blake2b
from time import monotonic
from typing import Annotated, ClassVar, Final
from urllib.parse import unquote

import msgspec

from tyk_pump.config.options import HttpOptions, doc
from tyk_pump.errors import ConfigError, TransientError
from tyk_pump.log import ONCE
from tyk_pump.pumps.protocol import Batch
from tyk_pump.record import message
from tyk_pump.record.analytics import ALL, AnalyticsRecord
from tyk_pump.record.resurface_rules import FILE, Detail, Fault, Rules, text_of
from tyk_pump.record.text import clean
from tyk_pump.transport.bulk import Bulk, Part, Refused, TooLarge
from tyk_pump.transport.http import HttpClient, Reply, fault_of

log = logging.getLogger(__name__)

CONTENT_TYPE: Final = "application/ndjson; charset=UTF-8"
BUNDLE_BYTES: Final = 5 * 1024 * 1024
LARGEST_MESSAGE: Final = 64 * 1024 * 1024
"""More than two bodies can make of themselves, each byte written as an escape."""
QUIET_SECONDS: Final = 600.0
"""Between two warnings of the same."""

_ABSOLUTE: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_encode: Final = msgspec.json.Encoder().encode


class ResurfaceOptions(HttpOptions, frozen=True, kw_only=True):
    """Where the capture endpoint is, and what it may see."""

    capture_url: Annotated[
        str,
        doc(
            "Capture endpoint. Where it is empty, the variable `USAGE_LOGGERS_URL` "
            "says it. `http:` only with the rule `allow_http_url`.",
            env="URL",
            variable="USAGE_LOGGERS_URL",
            example="https://resurface.example.com:7701/message",
        ),
    ] = ""
    rules: Annotated[
        str,
        doc(
            "Logging rules, one on a line, or `file://` and the path of a file of "
            "them. None are the strict ones: no bodies, no parameters, few headers.",
            example="include standard\nsample 50",
        ),
    ] = ""
    queue: Annotated[
        list[str], doc("Without effect; in the reference it keeps all in memory.")
    ] = msgspec.field(default_factory=list)
    disable: Annotated[
        bool,
        doc(
            "Send nothing; records count as filtered. Where it is not said, the "
            "variable `USAGE_LOGGERS_DISABLE` says it.",
            variable="USAGE_LOGGERS_DISABLE",
        ),
    ] = False
    bundle_size: Annotated[
        int,
        doc(
            "Bytes of a request before compression; a larger message goes alone. Where "
            "it is not said, the variable `USAGE_LOGGERS_BUNDLE_SIZE` says it.",
            gt=0,
            variable="USAGE_LOGGERS_BUNDLE_SIZE",
        ),
    ] = BUNDLE_BYTES
    host: Annotated[
        str,
        doc(
            "Name of this machine in each message. Where it is empty, the variable "
            "`DYNO` says it, or the system.",
            variable="DYNO",
        ),
    ] = ""
    url_scheme: Annotated[
        str,
        doc(
            "Scheme of `request_url` where no X-Forwarded-Proto header tells it.",
            choices=("http", "https"),
        ),
    ] = "http"
    keep_case: Annotated[
        bool,
        doc("Leave the values of custom fields as they are, not in small letters."),
    ] = False
    remove_chunk_framing: Annotated[
        bool,
        doc("Take out what `Transfer-Encoding: chunked` puts between parts of a body."),
    ] = False

    def faults(self) -> Iterator[tuple[str, str]]:
        """Rules that cannot be followed, and an address that they do not allow."""
        yield from super().faults()
        rules: Rules | None = None
        try:
            rules = parsed_rules(self.rules)
        except Fault as exc:
            yield "rules", str(exc)
        if not self.capture_url:
            yield "capture_url", "missing"
        elif fault := fault_of(self.capture_url):
            yield "capture_url", fault
        elif (
            rules is not None
            and "allow_http_url" not in rules.switches
            and not self.capture_url.lower().startswith("https:")
        ):
            reason = "must begin with https:// unless the rules say allow_http_url"
            yield "capture_url", reason


def parsed_rules(option: str) -> Rules:
    """Return the rules of an option; Fault names file and line."""
    text = text_of(option)
    try:
        return Rules(text)
    except Fault as exc:
        if option.startswith(FILE):
            path = option.removeprefix(FILE).strip()
            raise Fault(f"{path}: {exc}") from exc
        raise


class ResurfacePump:
    """Send messages to Resurface's capture endpoint."""

    options_type: ClassVar[type[ResurfaceOptions]] = ResurfaceOptions
    fields: Final = tuple(
        name
        for name in ALL
        if name
        in (
            "method",
            "host",
            "path",
            "raw_path",
            "response_code",
            "api_key",
            "timestamp",
            "api_version",
            "api_name",
            "api_id",
            "org_id",
            "oauth_id",
            "request_time",
            "raw_request",
            "raw_response",
            "ip_address",
        )
    )
    guarantee: Final = (
        "At least once: a bundle whose answer was lost is sent again, and Resurface "
        "does not know repeats. Arrived is what was answered with status 204. Records "
        "that a `stop` or `sample` rule keeps back count as filtered; so do records "
        "without a raw request and response, of which nothing is sent (a warning tells "
        "it): switch on detailed recording at the gateway, and leave "
        "`omit_detailed_recording` off here."
    )
    differences: Final = (
        "A status other than 204, a closed connection or silence is tried again. A "
        "message that the endpoint refuses (400, 413, 422) becomes a dead letter, the "
        "others of its bundle arrive.",
        "A record of which the raw request or response is missing, no base64, cut, or "
        "no HTTP makes a message of what is there and of the record's own fields.",
        "`now` has milliseconds; 1970-01-01 stays what it is.",
        "Headers are whole behind a second colon, and need no space behind the first.",
        "A body without headers before it is kept.",
        "`include standard` masks request parameters too, as it says. `include strict` "
        "and `include default` keep the URL up to `?` or `;`. A set is included by a "
        "line, not by a comment that mentions it.",
        "`stop_unless` rules: each must be fulfilled by one detail at least, however "
        "many fulfil another.",
        "`sample` draws by the record's id: a repeat is drawn the same.",
        "`request_url` is `https:` where X-Forwarded-Proto or `url_scheme` say so. A "
        "query in the record's own path is not joined with that of the raw request.",
        "A compressed body that came in chunks or was cut is shown as far as possible.",
        "`queue` diverts nothing; no `.env` file is read, and the variables that size "
        "the reference's queues have no effect.",
        "Rules are Go's regular expressions, but matched by trial and error: one with "
        "repeats in repeats, such as `(a+)+b`, may take for ever on a body that was "
        "made for it. Unicode classes (`\\pL`) and the flag `U` are refused.",
        "`USAGE_LOGGERS_DISABLE` lets records pass unsent; the pump runs.",
        "Each message ends with a line feed; a bundle has `bundle_size` bytes at most "
        "unless a single message is larger.",
        "The User-Agent is this program's.",
    )

    def __init__(self, options: ResurfaceOptions) -> None:
        self._options = options
        self._http: HttpClient | None = None
        self._bulk = Bulk(max_bytes=LARGEST_MESSAGE, flush_bytes=options.bundle_size)
        self._quiet_until: float = 0.0
        self._unsaid = 0

    def open(self) -> None:
        """Read the rules and prepare connections; the first request makes one."""
        options = self._options
        try:
            self._rules = parsed_rules(options.rules)
        except Fault as exc:
            raise ConfigError(f"rules: {exc}") from exc
        self._host = options.host or socket.gethostname() or "unknown"
        self._http = HttpClient(
            options, {"Content-Type": CONTENT_TYPE}, timeout=options.request_timeout
        )
        if options.queue:
            log.warning("queue has no effect, messages are sent", extra=ONCE)
        if self._silent():
            log.warning("nothing is sent", extra={**ONCE, "reason": self._silent()})

    def probe(self) -> str:
        """Post a bundle of no message."""
        if silent := self._silent():
            return f"nothing is sent: {silent}"
        reply = self._send(b"")
        if reply.status in (400, 422):
            return (
                f"{reply.place} is there, and refuses an empty bundle ({reply.title})"
            )
        _confirmed(reply)
        return f"{reply.place} takes bundles"

    def write(self, batch: Batch) -> None:
        """Send what the rules allow."""
        if self._silent():
            batch.left_out = len(batch)
        else:
            self._bulk.send(batch, self._line, self._post)

    def close(self) -> None:
        """Close the connections."""
        self._connected().close()
        self._bulk.close()

    def _connected(self) -> HttpClient:
        assert self._http is not None, "open comes first"
        return self._http

    def _silent(self) -> str:
        """Return what keeps all records back, or nothing."""
        if self._options.disable:
            return "disable is set"
        return "skip_submission" if "skip_submission" in self._rules.switches else ""

    # Requests

    def _send(self, bundle: bytes) -> Reply:
        headers = {}
        if "skip_compression" not in self._rules.switches:
            # The name is Resurface's own; the bytes are zlib's.
            bundle = zlib.compress(bundle, 1)
            headers["Content-Encoding"] = "deflated"
        return self._connected().post(
            self._options.capture_url, bundle, headers=headers
        )

    def _post(self, part: Part) -> None:
        reply = self._send(b"".join(part.items))
        if reply.status == 413:
            raise TooLarge(reply.reason)
        if 400 <= reply.status < 500:
            raise Refused(reply.reason)
        _confirmed(reply)

    # Messages

    def _line(self, batch: Batch, index: int) -> bytes | None:
        """Return a message's line, or None where nothing is to be told."""
        sample = self._rules.sample
        if sample is not None and drawn(batch.record_id(index)) >= sample:
            return None
        record = batch.records[index]
        if not record.raw_request and not record.raw_response:
            self._warn_of_nothing()
            return None
        told = self._rules.apply(self._details(record))
        if not told:
            return None
        self._add_custom_fields(told, record)
        told.append(("host", self._host))
        try:
            line = _encode(told)
        except UnicodeEncodeError:
            line = _encode([(clean(name), clean(value)) for name, value in told])
        return line + b"\n"

    def _details(self, record: AnalyticsRecord) -> list[Detail]:
        request = message.parsed(record.raw_request)
        response = message.with_trailers(message.parsed(record.raw_response))
        unchunk = self._options.remove_chunk_framing
        method, target = _request_line(request)
        url, query = self._url(record, request, target)
        seconds, nanoseconds = record.timestamp
        details = [
            ("request_method", record.method or method),
            ("request_url", url),
            ("response_code", str(record.response_code or _status(response))),
            ("request_body", message.plain_body(request, unchunk=unchunk)),
        ]
        details += [(f"request_header:{n}", value) for n, value in request.headers]
        if record.ip_address and not request.header("x-forwarded-for"):
            details.append(("request_header:x-forwarded-for", record.ip_address))
        if query:
            details += _parameters(query)
        details += [(f"response_header:{n}", value) for n, value in response.headers]
        details.append(("response_body", message.plain_body(response, unchunk=unchunk)))
        if self._rules.session and (cookies := request.header("cookie")):
            details += self._session_fields(cookies)
        details.append(("now", str(seconds * 1000 + nanoseconds // 1_000_000)))
        details.append(("interval", str(record.request_time or 1)))
        return details

    def _url(
        self, record: AnalyticsRecord, request: message.Message, target: str
    ) -> tuple[str, str]:
        """Return the URL as Resurface shows it, and the query."""
        raw_query = target.partition("?")[2]
        path = record.raw_path or target or record.path
        bare, _, query = path.partition("#")[0].partition("?")
        query = query or raw_query
        if _ABSOLUTE.match(bare):
            return (f"{bare}?{query}" if query else bare), query
        if not bare.startswith("/"):
            bare = f"/{bare}"
        if "%" in bare:
            bare = unquote(bare, errors="surrogateescape")
        # The first is the client's own, others are of proxies on the way.
        told = request.header("x-forwarded-proto")
        scheme = told.partition(",")[0].strip().lower()
        if scheme not in ("http", "https"):
            scheme = self._options.url_scheme
        return f"{scheme}://{record.host or request.header('host')}{bare}", query

    def _session_fields(self, cookies: str) -> Iterator[Detail]:
        for cookie in cookies.split(";"):
            name, _, value = cookie.strip().partition("=")
            if not _TOKEN.fullmatch(name):
                continue
            name = name.lower()
            if any(pattern.search(name) for pattern in self._rules.session):
                yield f"session_field:{name}", value.strip('"')

    def _add_custom_fields(self, told: list[Detail], record: AnalyticsRecord) -> None:
        keep_case = self._options.keep_case
        for name, value in (
            ("custom_field:tyk-api-id", record.api_id),
            ("custom_field:tyk-api-key", record.api_key),
            ("custom_field:tyk-api-name", record.api_name),
            ("custom_field:tyk-api-version", record.api_version),
            ("custom_field:tyk-oauth-id", record.oauth_id),
            ("custom_field:tyk-org-id", record.org_id),
        ):
            if value:
                told.append((name, value if keep_case else value.lower()))

    def _warn_of_nothing(self) -> None:
        self._unsaid += 1
        if monotonic() >= self._quiet_until:
            log.warning(
                "records without raw request and response are not sent: switch on "
                "detailed recording at the gateway",
                extra={"records": self._unsaid},
            )
            self._quiet_until = monotonic() + QUIET_SECONDS
            self._unsaid = 0


def drawn(record_id: str) -> int:
    """Return a number below 100 that is the record's own for ever."""
    digest = blake2b(record_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % 100


def _confirmed(reply: Reply) -> None:
    if reply.status != 204:
        hint = "204 was expected: is capture_url the capture endpoint?"
        raise TransientError(f"{reply.place}: {reply.reason}; {hint}")


def _request_line(request: message.Message) -> tuple[str, str]:
    if len(request.start) < 2:
        return "", ""
    return request.start[0], request.start[1]


def _status(response: message.Message) -> int:
    """Return the status of a recorded answer, 0 where it has none."""
    if len(response.start) < 2 or not re.fullmatch("[0-9]{1,9}", response.start[1]):
        return 0
    return int(response.start[1])


def _parameters(query: str) -> Iterator[Detail]:
    for pair in query.split("&"):
        if pair:
            name, _, value = pair.partition("=")
            yield f"request_param:{_text(name).lower()}", _text(value)


def _text(text: str) -> str:
    return unquote(text.replace("+", " "), errors="surrogateescape")
