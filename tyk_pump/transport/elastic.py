"""A cluster of Elasticsearch or OpenSearch: its dialect, its nodes, its verdicts."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlsplit

import msgspec

from tyk_pump.errors import RejectedRecords, TransientError
from tyk_pump.transport.bulk import Part, Refused, TooLarge
from tyk_pump.transport.http import HttpClient, Reply, Unreachable
from tyk_pump.transport.nodes import Nodes

log = logging.getLogger(__name__)
_T = TypeVar("_T")

VERSIONS: Final = ("auto", "3", "5", "6", "7", "8", "9", "opensearch")
TYPED: Final = frozenset({"3", "5", "6"})
"""Versions whose documents have a type beside their index."""
UNTOLD: Final = "3"
"""What a server is taken for that does not say what it is: the reference's default."""
SNIFF_SECONDS: Final = 900.0
_BULK: Final = "/_bulk?filter_path=errors,items.*.status,items.*.error"
_OK: Final = frozenset({200, 201})
_ANY: Final = frozenset({400, 403, 404, 405, 406})

_PASSING: Final = frozenset({401, 403, 404, 408, 429})
"""Statuses of an item that are not the record's fault, beside all from 500 on."""
_OPERATORS: Final = frozenset(
    {
        "action_request_validation_exception",
        "cluster_block_exception",
        "index_closed_exception",
        "invalid_alias_name_exception",
        "invalid_index_name_exception",
        "security_exception",
        "type_missing_exception",
        # "this action would add [2] shards", beyond what the cluster may have.
        "validation_exception",
    }
)
"""Errors of status 400 that somebody has to mend outside the records."""
# Only beginnings are compared: further on a client's own words may stand.
_OPERATORS_WORDS: Final = re.compile(
    r"illegal_argument_exception: (?:"
    r"no write index is defined|alias \[[^\]]*\] has more than one ind"
    r"|only write ops with an op_type of create are allowed in data streams"
    r"|rejecting mapping update to \[[^\]]*\] as the final mapping would have more"
    r"|pipeline with id \[[^\]]*\] does not exist)",
    re.IGNORECASE,
)
_DIALECT: Final = re.compile(
    r"action_request_validation_exception|media_type_header_exception"
    r"|illegal_argument_exception: (?:action/metadata line|explicit index)"
    r"|no handler found|content-type header",
    re.IGNORECASE,
)


class _Item(msgspec.Struct):
    status: int = 0
    error: Any = None


class _Bulk(msgspec.Struct):
    errors: bool | None = None
    items: list[dict[str, _Item]] = []


class _Document(msgspec.Struct):
    id: str = msgspec.field(default="", name="_id")


_decode_bulk: Final = msgspec.json.Decoder(_Bulk).decode
_decode_document: Final = msgspec.json.Decoder(_Document).decode


class Cluster:
    """Speaks to whatever node lives, in the dialect of its version."""

    def __init__(
        self,
        http: HttpClient,
        urls: Sequence[str],
        *,
        version: str,
        sniffing: bool = False,
        compatible_with: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`urls` have no slash at their end."""
        self._nodes = Nodes(http, urls, clock)
        self._seeds = list(urls)
        self._asked = version == "auto"
        self._version = "" if self._asked else version
        self._sniffing = sniffing
        self._sniff_at = clock()
        self._compatible_with = compatible_with
        self._clock = clock
        self._lock = threading.Lock()

    @property
    def version(self) -> str:
        """Return the dialect, asking the server where it is not known yet."""
        with self._lock:
            if not self._version:
                self._version = _dialect(self._greeting())
            return self._version

    @property
    def urls(self) -> list[str]:
        """Return the addresses of the nodes."""
        return self._nodes.urls

    def ready(self) -> str:
        """Find the nodes where that is due; return the dialect."""
        version = self.version
        if self._sniffing and self._clock() >= self._sniff_at:
            self._sniff()
        return version

    def about(self) -> str:
        """Return in a line what answers."""
        reply = self._greeting()
        version = self.version
        name, number = _product(reply)
        if not number:
            return f"{name} answers {reply.title}, spoken to as version {version}"
        return f"{name} {number} answers, spoken to as version {version}"

    def put_template(self, name: str, template: Mapping[str, Any]) -> bool:
        """Make an index template; False where there is one of that name."""
        kind = "_template" if self.version in TYPED else "_index_template"
        path = f"/{kind}/{quote(name, safe='')}?create=true"
        headers = {"Content-Type": "application/json"}
        body = msgspec.json.encode(template)
        reply = self._request("PUT", path, body, headers=headers)
        if reply.status in _OK:
            return True
        if reply.status == 400 and b"already exists" in reply.body:
            return False
        error = _words(_object(reply).get("error")) or reply.reason
        raise reply.failure(f"index template {name}: {error}")

    def post_bulk(self, part: Part) -> None:
        """Send actions and documents, lines that are ready; None when all are in."""
        headers: dict[str, str] = {}
        if self.version != "3":
            headers["Content-Type"] = self._media("x-ndjson")
        reply = self._request("POST", _BULK, b"".join(part.items), headers=headers)
        if reply.status not in _OK:
            raise self._refusal(reply)
        answer = _decoded(_decode_bulk, reply)
        if answer.errors is False and len(answer.items) in (0, len(part)):
            return
        if len(answer.items) != len(part):
            told = f"the answer speaks of {len(answer.items)} records, not {len(part)}"
            raise reply.failure(told)
        _judge(answer)

    def put_document(self, path: str, body: bytes) -> None:
        """Send one document to where it is to stand."""
        headers = {"Content-Type": self._media("json")}
        reply = self._request("PUT", path, body, headers=headers, accept=(409,))
        if reply.status == 409:
            return
        if reply.status not in _OK:
            raise self._refusal(reply)
        if not _decoded(_decode_document, reply).id:
            raise reply.failure(f"no document is named in the answer: {reply.reason}")

    def _request(
        self, method: str, path: str, body: bytes | None = None, **how: Any
    ) -> Reply:
        headers = {"Accept": self._media("json"), **how.pop("headers", {})}
        try:
            return self._nodes.request(method, path, body, headers=headers, **how)
        except Unreachable:
            if self._sniffing:
                # The nodes that we know of may be gone for good.
                self._nodes.replace(self._seeds)
                self._sniff_at = self._clock()
            raise

    def _media(self, kind: str) -> str:
        if not self._compatible_with:
            return f"application/{kind}"
        elastic = f"application/vnd.elasticsearch+{kind}"
        return f"{elastic}; compatible-with={self._compatible_with}"

    def _greeting(self) -> Reply:
        return self._request("GET", "/", accept=_ANY)

    def _refusal(self, reply: Reply) -> Exception:
        """Return what an answer means that refuses a request as a whole."""
        error = _object(reply).get("error")
        words = _words(error)
        reason = f"{reply.title}: {words}" if words else reply.reason
        if reply.status == 413:
            return TooLarge(reason)
        if _DIALECT.match(words):
            version = self._version
            if self._asked:
                self._version = ""  # it may be another server by now
            hint = f"it does not take the form of version {version}, see `version`"
            return reply.failure(f"{reason} ({hint})")
        if reply.status == 400 and not _is_operators(error):
            return Refused(reason)
        return reply.failure(reason)

    def _sniff(self) -> None:
        self._sniff_at = self._clock() + SNIFF_SECONDS
        try:
            reply = self._request("GET", "/_nodes/http")
            found = _published(reply)
        except Unreachable:
            raise
        except TransientError as exc:
            self._not_sniffed(exc.reason)
            return
        if not found:
            self._not_sniffed("no node publishes an address")
            return
        scheme = urlsplit(self._seeds[0]).scheme
        self._nodes.replace([f"{scheme}://{address}" for address in found])
        log.debug("nodes found", extra={"reason": ", ".join(found)})

    def _not_sniffed(self, reason: str) -> None:
        log.warning(
            "nodes cannot be asked for, the known ones are used",
            extra={"reason": reason},
        )


def _judge(answer: _Bulk) -> None:
    """Raise what keeps records from being in; offsets are those of the answer."""
    rejected: dict[int, str] = {}
    pending: list[int] = []
    reason = ""
    for offset, entry in enumerate(answer.items):
        item = next(iter(entry.values()), _Item())
        status = item.status
        if 200 <= status < 300 or status == 409:
            continue  # a conflict: a former attempt has brought it there
        error = item.error
        if 400 <= status < 500 and status not in _PASSING and not _is_operators(error):
            rejected[offset] = _words(error) or f"refused with status {status}"
        else:
            pending.append(offset)
            reason = reason or f"{status}: {_words(error)}"
    if pending:
        raise TransientError(reason, pending=pending, rejected=rejected)
    if rejected:
        reason = next(iter(rejected.values()))
        raise RejectedRecords(reason, rejected=rejected)


def _is_operators(error: Any) -> bool:
    kind = error.get("type") if isinstance(error, dict) else ""
    return kind in _OPERATORS or _OPERATORS_WORDS.match(_words(error)) is not None


def _words(error: Any) -> str:
    """Return type and reason of an error with its causes, in a line."""
    parts: list[str] = []
    while isinstance(error, dict) and len(parts) < 4:
        part = ": ".join(str(error[key]) for key in ("type", "reason") if key in error)
        if part and part not in parts:
            parts.append(part)
        error = error.get("caused_by")
    if isinstance(error, str):
        parts.append(error)
    return " ".join(", caused by ".join(parts).split())[:1000]


def _object(reply: Reply) -> dict[str, Any]:
    """Return the object of an answer, an empty one where it is something else."""
    try:
        answer = msgspec.json.decode(reply.body)
    except (msgspec.DecodeError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}


def _decoded(decode: Callable[[bytes], _T], reply: Reply) -> _T:
    try:
        return decode(reply.body)
    except (msgspec.DecodeError, RecursionError) as exc:
        excerpt = reply.body[:100].decode("utf-8", "replace")
        raise reply.failure(f"the answer is none to a bulk: {excerpt!r}") from exc


def _product(reply: Reply) -> tuple[str, str]:
    """Return name and version number of what has answered, "" where it is not told."""
    answer = _object(reply) if reply.status in _OK else {}
    told = answer.get("version")
    told = told if isinstance(told, dict) else {}
    number = told.get("number")
    if told.get("distribution") == "opensearch":
        return "OpenSearch", str(number or "")
    elastic = number or reply.headers.get("X-Elastic-Product")
    return "Elasticsearch" if elastic else "a server", str(number or "")


def _dialect(reply: Reply) -> str:
    name, number = _product(reply)
    if name == "OpenSearch":
        return "opensearch"
    major = re.match(r"\d+", number)
    if major is None:
        # Who keeps this to himself is no server of the days of types.
        return "7" if name == "Elasticsearch" or reply.status not in _OK else UNTOLD
    if int(major[0]) < 5:
        return "3"
    return str(min(int(major[0]), 9))


def _published(reply: Reply) -> list[str]:
    """Return host:port of the nodes that take requests."""
    nodes = _object(reply).get("nodes")
    found: dict[str, None] = {}
    for node in nodes.values() if isinstance(nodes, dict) else ():
        if not isinstance(node, dict) or node.get("roles") == ["master"]:
            continue
        http = node.get("http")
        published = http.get("publish_address") if isinstance(http, dict) else None
        if address := _address(published or node.get("http_address") or ""):
            found[address] = None
    return list(found)


def _address(published: str) -> str:
    """Return host:port of `inet[/10.0.0.7:9200]`, `es1/10.0.0.7:9200` and the like."""
    inner = re.sub(r"^inet\[(.*)\]$", r"\1", published)
    name, slash, address = inner.rpartition("/")
    if slash and name:
        # The name is what a certificate holds.
        return f"{name}:{address.rpartition(':')[2]}"
    return address
