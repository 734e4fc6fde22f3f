"""Elasticsearch and OpenSearch: one document per record, under the record's id."""

from __future__ import annotations

import base64
import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, ClassVar, Final
from urllib.parse import quote

from tyk_pump.config.options import HttpOptions, Options, Secret, TlsOptions, doc
from tyk_pump.errors import ConfigError
from tyk_pump.log import ONCE
from tyk_pump.pumps.protocol import Batch
from tyk_pump.record import json
from tyk_pump.record.analytics import AnalyticsRecord
from tyk_pump.record.body import decoded_part
from tyk_pump.record.document import Computed, Document
from tyk_pump.record.gotime import civil
from tyk_pump.transport.bulk import Bulk, Part
from tyk_pump.transport.elastic import TYPED, VERSIONS, Cluster
from tyk_pump.transport.http import (
    HttpClient,
    basic_header,
    encoded_pair,
    fault_of,
)
from tyk_pump.transport.index_template import Kind, template
from tyk_pump.transport.nodes import (
    addresses,
    userinfo,
    without_userinfo,
)

log = logging.getLogger(__name__)

DEFAULT_NAME: Final = "tyk_analytics"
DEFAULT_ACTIONS: Final = 1000
DEFAULT_SIZE: Final = 5 * 1024 * 1024
LARGEST_BODY: Final = 100 * 1024 * 1024
"""What a server takes at once unless its `http.max_content_length` says otherwise."""

_BASE: Final[dict[str, str | Computed]] = {
    "@timestamp": "timestamp",
    "alias": "alias",
    "api_id": "api_id",
    "api_key": "api_key",
    "api_name": "api_name",
    "api_version": "api_version",
    "content_length": "content_length",
    "http_method": "method",
    "ip_address": "ip_address",
    "oauth_id": "oauth_id",
    "org_id": "org_id",
    "request_time_ms": "request_time",
    "request_uri": "path",
    "request_uri_full": "raw_path",
    "response_code": "response_code",
    "tags": "tags",
}
_EXTENDED: Final[dict[str, str | Computed]] = {
    "raw_request": "raw_request",
    "raw_response": "raw_response",
    "user_agent": "user_agent",
}
_DECODED: Final[dict[str, str | Computed]] = {
    "raw_request": Computed(lambda r: decoded_part(r.raw_request), ("raw_request",)),
    "raw_response": Computed(lambda r: decoded_part(r.raw_response), ("raw_response",)),
}
_MCP: Final[dict[str, str | Computed]] = {
    "mcp_method": Computed(lambda r: r.mcp_stats.jsonrpc_method, ("mcp_stats",)),
    "mcp_primitive_type": Computed(lambda r: r.mcp_stats.primitive_type, ()),
    "mcp_primitive_name": Computed(lambda r: r.mcp_stats.primitive_name, ()),
}
_KINDS: Final[dict[str, Kind]] = {
    **dict.fromkeys([*_BASE, *_EXTENDED, *_MCP], "exact"),
    **dict.fromkeys(["content_length", "request_time_ms", "response_code"], "number"),
    **dict.fromkeys(["raw_request", "raw_response"], "text"),
    "@timestamp": "date",
}


class BulkConfig(Options, frozen=True, kw_only=True):
    """How many records a request holds. 0 stands for the default."""

    workers: Annotated[int, doc("Requests that are on their way side by side.")] = 1
    flush_interval: Annotated[
        int,
        doc(
            "Accepted and without effect: nothing is left to be flushed after a time, "
            "as every batch is sent to its end before it counts as written."
        ),
    ] = 0
    bulk_actions: Annotated[int, doc("Records per request; -1 for any number.")] = 1000
    bulk_size: Annotated[
        int,
        doc("Bytes per request, unless a single record has more; -1 for 100 MiB."),
    ] = DEFAULT_SIZE


class ElasticsearchOptions(HttpOptions, frozen=True, kw_only=True):
    """Where the cluster is and how documents are laid down in it."""

    elasticsearch_url: Annotated[
        str,
        doc(
            "Addresses of the nodes, with commas between them. A name and password in "
            "one of them are used where no other credentials are set."
        ),
    ] = "http://localhost:9200"
    index_name: Annotated[str, doc("Index, alias or data stream to write to.")] = (
        "tyk_analytics"
    )
    mcp_index_name: Annotated[
        str, doc("The same for records of MCP calls; empty = as all others.")
    ] = ""
    version: Annotated[
        str,
        doc(
            "Form of the requests: `3` (servers 1 and 2), `5` and `6` send a document "
            "type, `7`, `8`, `9` and `opensearch` do not. `auto` asks the server, and "
            "takes one that does not say what it is for a `3`.",
            choices=VERSIONS,
        ),
    ] = "auto"
    document_type: Annotated[
        str, doc("Type of the documents, where the version has types.")
    ] = "tyk_analytics"
    rolling_index: Annotated[bool, doc("Append the day to the index: -2016.02.28.")] = (
        False
    )
    rolling_index_by: Annotated[
        str,
        doc(
            "Whose day that is: `record`, the day of the call in UTC, or `pump`, the "
            "day of writing in the pump's zone, as the reference does it.",
            choices=("record", "pump"),
        ),
    ] = "record"
    data_stream: Annotated[
        bool, doc("The names are data streams: no day is appended to them.")
    ] = False
    op_type: Annotated[
        str,
        doc(
            "`create` adds documents only, `index` replaces one with the same id; data "
            "streams take the first only.",
            choices=("create", "index"),
        ),
    ] = "create"
    index_template: Annotated[
        bool,
        doc(
            "Make an index template of the index's name, unless there is one: "
            "`keyword` for texts, `long` for numbers, a data stream where asked for."
        ),
    ] = False
    index_template_settings: Annotated[
        dict[str, Any],
        doc("Index settings for that template.", example={"number_of_shards": 1}),
    ] = {}
    extended_stats: Annotated[
        bool,
        doc("Add raw request, raw response and user agent.", env="EXTENDEDSTATISTICS"),
    ] = False
    decode_base64: Annotated[
        bool, doc("Decode the raw request and response of `extended_stats`.")
    ] = False
    generate_id: Annotated[
        bool,
        doc(
            "Take the document's id from what the record says instead of its place in "
            "the stream: equal time, method, path, address, API, OAuth client, "
            "duration and alias are one document."
        ),
    ] = False
    use_sniffing: Annotated[
        bool,
        doc(
            "Ask the cluster for its nodes, at the start and every 15 minutes.",
            env="ENABLESNIFFING",
            aliases=("enable_sniffing",),
        ),
    ] = False
    disable_bulk: Annotated[bool, doc("Send one request per record.")] = False
    bulk_config: Annotated[BulkConfig, doc("Bounds of a bulk request.")] = BulkConfig()
    auth_api_key_id: Annotated[str, doc("Id of the API key `auth_api_key`.")] = ""
    auth_api_key: Annotated[
        Secret, doc("API key; in effect together with `auth_api_key_id`.")
    ] = Secret()
    auth_api_key_encoded: Annotated[
        Secret, doc("Id and API key in the single encoded form that the cluster shows.")
    ] = Secret()
    auth_basic_username: Annotated[
        str, doc("Name for basic authentication.", env="USERNAME")
    ] = ""
    auth_basic_password: Annotated[
        Secret, doc("Password for basic authentication.", env="PASSWORD")
    ] = Secret()
    use_ssl: Annotated[
        bool,
        doc(
            "Apply the `ssl_*` options, and go to the nodes past the environment's "
            "proxies. An https address works without it too."
        ),
    ] = False
    use_ssl_through_proxy: Annotated[
        bool, doc("Use the environment's proxies beside `use_ssl` too.")
    ] = False
    compatible_with: Annotated[
        int,
        doc(
            "Major version to ask for by Elastic's own media types; 0 sends the plain "
            "ones, which all servers take.",
            ge=0,
        ),
    ] = 0

    def faults(self) -> Iterator[tuple[str, str]]:
        """Addresses, and what data streams do not allow."""
        if self.use_ssl:
            yield from super().faults()
        urls = addresses(self.elasticsearch_url)
        if not urls:
            yield "elasticsearch_url", "names no node"
        for url in urls:
            if fault := fault_of(without_userinfo(url)):
                yield "elasticsearch_url", fault
        if self.data_stream and self.rolling_index:
            yield "rolling_index", "a data stream rolls by itself"
        if self.data_stream and self.op_type == "index":
            yield "op_type", "a data stream takes nothing but create"
        if self.data_stream and self.version in TYPED:
            yield "data_stream", f"version {self.version} has none"

    def __repr__(self) -> str:
        shown = [without_userinfo(url) for url in addresses(self.elasticsearch_url)]
        values = ", ".join(
            f"{name}={getattr(self, name)!r}"
            for name in self.__struct_fields__
            if name != "elasticsearch_url"
        )
        return f"ElasticsearchOptions(elasticsearch_url={','.join(shown)!r}, {values})"


class ElasticsearchPump:
    """Write records to an Elasticsearch or OpenSearch cluster."""

    options_type: ClassVar[type[ElasticsearchOptions]] = ElasticsearchOptions
    fields: Any = (
        *Document({**_BASE, **_EXTENDED}).fields,
        "mcp_stats",
    )
    guarantee: Final = (
        "Each record once per index: its document's id is the record's own, and what "
        "an earlier attempt has brought there is not written again. At least once "
        "where the index changes between two attempts: `rolling_index_by` `pump` "
        "around midnight, an alias or data stream that rolls over. With `generate_id` "
        "records with the same content are one document."
    )
    differences: Final = (
        "Every document has an `_id`, the record's id, and is written by `create`: a "
        "repeated attempt adds nothing. `op_type` `index` writes as before.",
        "`generate_id` makes other ids than before (22 letters and digits, of a hash "
        "with a border between its parts): the former ones were cut to broken "
        "text, and different records could replace each other.",
        "`version` unset asks the server; before it meant `3`, which no server of "
        "today takes. A server that does not say what it is still gets it.",
        "A rolling index bears the day of the record in UTC; `rolling_index_by` `pump` "
        "brings the pump's own day back.",
        "`mcp_index_name` is followed with `disable_bulk` too.",
        "Nothing waits for a full request: each batch is sent to its end.",
        "A document that the cluster refuses becomes a dead letter with the cluster's "
        "words; what it does not take now is sent again, that alone.",
        "A record whose time JSON cannot express becomes a dead letter; the others go.",
        "An API key is sent with `use_ssl` too. Sniffed nodes keep the scheme of "
        "`elasticsearch_url`. Blanks between addresses do not matter.",
        "A bulk request asks for statuses and errors alone in the answer "
        "(`filter_path`). Nodes are not greeted by HEAD before and between requests, "
        "except one that was dead.",
        "An answer that does not say what became of the records, `{}` say, is none.",
    )

    def __init__(self, options: ElasticsearchOptions) -> None:
        self._options = options
        keys = dict(_BASE)
        if options.extended_stats:
            keys |= _EXTENDED | (_DECODED if options.decode_base64 else {})
        self._document = Document(keys).encode
        with_mcp = Document(keys | _MCP)
        self._mcp_document = with_mcp.encode
        self.fields = with_mcp.fields
        self._index = options.index_name or DEFAULT_NAME
        self._template_made = not options.index_template
        self._bulk = _bulk(options)

    def open(self) -> None:
        """Ask the cluster for what has to be known of it, if anything."""
        options = self._options
        urls = addresses(options.elasticsearch_url)
        for url in urls:
            if fault := fault_of(without_userinfo(url)):
                raise ConfigError(f"elasticsearch_url: {fault}")
        tls = ("ssl_insecure_skip_verify", "ssl_ca_file", "ssl_cert_file")
        if not options.use_ssl and any(getattr(options, name) for name in tls):
            log.warning("the ssl_ options have no effect without use_ssl", extra=ONCE)
        self._http = HttpClient(
            options if options.use_ssl else TlsOptions(),
            _credentials(options, urls),
            timeout=options.request_timeout,
            connections=max(10, options.bulk_config.workers),
            proxies=not options.use_ssl or options.use_ssl_through_proxy,
        )
        self._cluster = Cluster(
            self._http,
            [without_userinfo(url).rstrip("/") for url in urls],
            version=options.version,
            sniffing=options.use_sniffing,
            compatible_with=options.compatible_with,
        )
        try:
            self._cluster.ready()
        except BaseException:
            self._http.close()
            raise

    def probe(self) -> str:
        """Ask the cluster what it is."""
        return f"{self._cluster.about()}, {len(self._cluster.urls)} node(s)"

    def write(self, batch: Batch) -> None:
        """Send documents; return when the cluster has confirmed each."""
        if not batch.records:
            return
        version = self._cluster.ready()
        if not self._template_made:
            self._put_template(version)
            self._template_made = True
        lines = _Lines(self._options, version)
        if self._options.disable_bulk:
            self._bulk.send(batch, self._single(lines), self._put)
        else:
            self._bulk.send(batch, self._action(lines), self._cluster.post_bulk)

    def close(self) -> None:
        """Close every connection."""
        self._bulk.close()
        self._http.close()

    def _put_template(self, version: str) -> None:
        options = self._options
        made = template(
            [name for name in (self._index, options.mcp_index_name) if name],
            _KINDS,
            version,
            document_type=options.document_type or DEFAULT_NAME,
            rolling=options.rolling_index,
            data_stream=options.data_stream,
            settings=options.index_template_settings,
        )
        if not self._cluster.put_template(self._index, made):
            log.info("index template is there", extra={"reason": self._index})

    def _action(self, lines: _Lines) -> Callable[[Batch, int], bytes]:
        plain, mcp = self._document, self._mcp_document
        identity = _content_id if self._options.generate_id else None

        def encode(batch: Batch, index: int) -> bytes:
            record = batch.records[index]
            is_mcp = record.mcp_stats.is_mcp
            body = mcp(record) if is_mcp else plain(record)
            name = identity(record) if identity else batch.record_id(index)
            head = lines.head(is_mcp, record.timestamp[0])
            return b"%b%b}}\n%b\n" % (head, json.compact(name), body)

        return encode

    def _single(self, lines: _Lines) -> Callable[[Batch, int], tuple[str, bytes]]:
        def encode(batch: Batch, index: int) -> tuple[str, bytes]:
            record = batch.records[index]
            is_mcp = record.mcp_stats.is_mcp
            body = self._mcp_document(record) if is_mcp else self._document(record)
            generated = self._options.generate_id
            name = _content_id(record) if generated else batch.record_id(index)
            return lines.path(is_mcp, record.timestamp[0], name), body

        return encode

    def _put(self, part: Part) -> None:
        path, body = part.items[0]
        self._cluster.put_document(path, body)


class _Lines:
    """Where the documents of one batch go."""

    def __init__(self, options: ElasticsearchOptions, version: str) -> None:
        self._op = options.op_type
        self._names = options.index_name or DEFAULT_NAME, options.mcp_index_name
        self._rolling = options.rolling_index
        self._type = options.document_type or DEFAULT_NAME if version in TYPED else ""
        by_pump = options.rolling_index_by == "pump"
        self._today = time.strftime("-%Y.%m.%d") if by_pump else ""
        self._heads: dict[tuple[bool, int], bytes] = {}

    def head(self, is_mcp: bool, seconds: int) -> bytes:
        """Return the action line of a record up to its id."""
        day = seconds // 86_400 if self._rolling else 0
        head = self._heads.get((is_mcp, day))
        if head is None:
            where = {"_index": self._index(is_mcp, day)}
            if self._type:
                where["_type"] = self._type
            line = json.compact({self._op: where})
            head = self._heads[is_mcp, day] = line[:-2] + b',"_id":'
        return head

    def path(self, is_mcp: bool, seconds: int, name: str) -> str:
        """Return the place of a single document."""
        index = _quoted(self._index(is_mcp, seconds // 86_400))
        create = self._op == "create"
        if not self._type:
            return f"/{index}/{'_create' if create else '_doc'}/{_quoted(name)}"
        path = f"/{index}/{_quoted(self._type)}/{_quoted(name)}"
        return f"{path}/_create" if create else path

    def _index(self, is_mcp: bool, day: int) -> str:
        name = self._names[1] if is_mcp and self._names[1] else self._names[0]
        if not self._rolling:
            return name
        if self._today:
            return name + self._today
        shown = civil(day * 86_400, "UTC")
        return f"{name}-{shown.year:04d}.{shown.month:02d}.{shown.day:02d}"


def _bulk(options: ElasticsearchOptions) -> Bulk:
    if options.disable_bulk:
        return Bulk(max_bytes=LARGEST_BODY, max_count=1, size=lambda item: len(item[1]))
    bulk = options.bulk_config
    size = bulk.bulk_size or DEFAULT_SIZE
    actions = bulk.bulk_actions or DEFAULT_ACTIONS
    return Bulk(
        max_bytes=max(size, LARGEST_BODY),
        flush_bytes=size if size > 0 else LARGEST_BODY,
        max_count=actions if actions > 0 else None,
        workers=bulk.workers,
    )


def _quoted(part: str) -> str:
    return quote(part, safe="")


def _content_id(record: AnalyticsRecord) -> str:
    """Return an id that equal calls share."""
    seconds, nanoseconds = record.timestamp
    text = "\0".join(
        (
            f"{seconds}.{nanoseconds:09d}",
            record.method,
            record.path,
            record.ip_address,
            record.api_id,
            record.oauth_id,
            str(record.request_time),
            record.alias,
        )
    )
    data = text.encode("utf-8", "surrogateescape")
    made = hashlib.blake2b(data, digest_size=16).digest()
    return base64.urlsafe_b64encode(made)[:22].decode()


def _credentials(options: ElasticsearchOptions, urls: Sequence[str]) -> dict[str, str]:
    """Return the header of the strongest credentials: API key, basic, an address's."""
    if options.auth_api_key_encoded:
        return {"Authorization": f"ApiKey {options.auth_api_key_encoded.reveal()}"}
    if options.auth_api_key_id and options.auth_api_key:
        key = options.auth_api_key.reveal()
        encoded = encoded_pair(options.auth_api_key_id, key)
        return {"Authorization": f"ApiKey {encoded}"}
    if options.auth_api_key_id or options.auth_api_key:
        log.warning("auth_api_key and auth_api_key_id count together only", extra=ONCE)
    if options.auth_basic_username or options.auth_basic_password:
        password = options.auth_basic_password.reveal()
        return {"Authorization": basic_header(options.auth_basic_username, password)}
    basic = userinfo(urls)
    return {"Authorization": basic_header(*basic)} if basic else {}
