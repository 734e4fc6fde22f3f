"""Prometheus: records as counters and histograms, which a server comes and scrapes."""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, ClassVar, Final
from urllib.parse import unquote
from wsgiref.types import StartResponse, WSGIEnvironment

import msgspec
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import (
    generate_latest as generate_openmetrics,
)

from tyk_pump.config.options import Options, doc
from tyk_pump.errors import TransientError
from tyk_pump.pumps.protocol import Batch
from tyk_pump.record.analytics import AnalyticsRecord
from tyk_pump.record.gotime import go_text
from tyk_pump.transport import exposition
from tyk_pump.transport.series import (
    KIND,
    CounterFamily,
    Family,
    HistogramFamily,
    Label,
    Series,
)
from tyk_pump.transport.series_file import SeriesFile
from tyk_pump.transport.wsgi import WsgiServer, listen

log = logging.getLogger(__name__)

UNTRACKED: Final = "unknown"
HIDDEN: Final = "--"
SHOWN: Final = 4
"""Characters of a key that are shown unless the length is set."""
BUCKETS: Final = (
    *(1, 2, 5, 7, 10, 15, 20, 25, 30, 40, 50, 60, 70, 80, 90, 100, 200, 300, 400, 500),
    *(1000, 2000, 5000, 10_000, 30_000, 60_000),
)
TIMES: Final = (
    ("total", "request_time"),
    ("upstream", "latency.upstream"),
    ("gateway", "latency.gateway"),
)
LATENCY: Final = "tyk_latency"
PER_KEY: Final = "tyk_http_status_per_key"
COUNTERS: Final = (
    ("tyk_http_status", "HTTP status codes per API", ("code", "api")),
    (
        "tyk_http_status_per_path",
        "HTTP status codes per API path and method",
        ("code", "api", "path", "method"),
    ),
    (PER_KEY, "HTTP status codes per API key", ("code", "key")),
    (
        "tyk_http_status_per_oauth_client",
        "HTTP status codes per oAuth client id",
        ("code", "client_id"),
    ),
)
LATENCY_HELP: Final = (
    "Latency added by Tyk, Total Latency, upstream latency, and gateway latency per API"
)
_KEYS: Final = ("api_key", "key")
_NAME: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*\Z")
_SUFFIXES: Final = ("", "_bucket", "_sum", "_count")


def _label(name: str, attribute: str, *, open: bool = True) -> Label:
    return Label(name, (attribute,), str, open)


LABELS: Final = {
    label.name: label
    for label in (
        _label("host", "host"),
        _label("method", "method", open=False),
        _label("path", "path"),
        _label("code", "response_code", open=False),
        _label("response_code", "response_code", open=False),
        _label("api_key", "api_key"),
        _label("key", "api_key"),
        Label("time_stamp", ("timestamp", "zone"), go_text),
        _label("api_version", "api_version", open=False),
        _label("api_name", "api_name", open=False),
        _label("api", "api_id", open=False),
        _label("api_id", "api_id", open=False),
        _label("org_id", "org_id", open=False),
        _label("client_id", "oauth_id"),
        _label("oauth_id", "oauth_id"),
        _label("request_time", "request_time"),
        _label("latency_total", "latency.total"),
        _label("latency_upstream", "latency.upstream"),
        _label("latency_gateway", "latency.gateway"),
        _label("ip_address", "ip_address"),
        _label("alias", "alias"),
        _label("mcp_method", "mcp_stats.jsonrpc_method"),
        _label("mcp_primitive_type", "mcp_stats.primitive_type"),
        _label("mcp_primitive_name", "mcp_stats.primitive_name"),
    )
}
"""What `labels` may name."""


class CustomMetric(Options, frozen=True, kw_only=True):
    """A metric of the operator's own."""

    name: Annotated[str, doc("Name of the metric.", example="tyk_requests_total")] = ""
    help: Annotated[
        str,
        doc(
            "What it is, for who reads it.",
            aliases=("description",),
            example="Requests by host",
        ),
    ] = ""
    metric_type: Annotated[
        str,
        doc(
            "`counter`: of records; `histogram`: of their times in milliseconds. A "
            "metric of another type is left out, with an error in the log.",
            example="counter",
        ),
    ] = ""
    buckets: Annotated[
        list[float],
        doc("Upper bounds of a histogram's buckets; empty means the usual 26."),
    ] = []
    labels: Annotated[
        list[str],
        doc("What tells its series apart: " + ", ".join(f"`{x}`" for x in LABELS)),
    ] = []
    obfuscate_api_keys: Annotated[
        bool, doc("Show only the end of keys in this metric.")
    ] = False
    obfuscate_api_keys_length: Annotated[
        int,
        doc("Characters of a key that are shown then; 0 means the pump's.", ge=0),
    ] = 0
    mcp_only: Annotated[
        bool, doc("Count calls of the Model Context Protocol only.")
    ] = False

    @property
    def known_type(self) -> bool:
        """Whether there is such a kind of metric."""
        return self.metric_type in ("counter", "histogram")

    def names(self) -> set[str]:
        """Return the names that its lines have."""
        if self.metric_type == "histogram":
            return {self.name + suffix for suffix in _SUFFIXES}
        return {self.name}

    def chosen(self) -> list[str]:
        """Return the labels; the type of a histogram is not the operator's."""
        histogram = self.metric_type == "histogram"
        return [name for name in self.labels if not (histogram and name == KIND)]


class PrometheusOptions(Options, frozen=True, kw_only=True):
    """Where metrics are served, and which."""

    listen_address: Annotated[
        str,
        doc(
            "Address to serve on, as `host:port`; `:9090` means all addresses.",
            env="ADDR",
            example="localhost:9090",
        ),
    ] = ""
    path: Annotated[str, doc("Path of the metrics.")] = "/metrics"
    aggregate_observations: Annotated[
        bool,
        doc(
            "Sort the records of a batch into buckets by the average time of their "
            "label set; sums and counts stay exact."
        ),
    ] = False
    disabled_metrics: Annotated[
        list[str], doc("Metrics of the pump's own to leave out, by name.")
    ] = []
    track_all_paths: Annotated[
        bool,
        doc("Show the path of each call, not only of those that the API tracks."),
    ] = False
    custom_metrics: Annotated[
        list[CustomMetric], doc("Metrics of the operator's own.")
    ] = []
    obfuscate_api_keys: Annotated[
        bool, doc("Show only the end of keys, in all metrics.")
    ] = False
    obfuscate_api_keys_length: Annotated[
        int, doc("Characters of a key that are shown then; 0 means 4.", ge=0)
    ] = 0
    max_series: Annotated[
        int,
        doc(
            "Label sets that a metric may have. Beyond nine tenths of it new values of "
            "keys, paths, addresses and the like are counted as `other`, and at the "
            "end all values; `tyk_pump_series_overflow_total` says of how many "
            "records.",
            ge=10,
        ),
    ] = 100_000
    persist: Annotated[
        str,
        doc(
            "What outlives the worker's process. `never`: nothing, counters begin at "
            "0. `scrape`: what a scraper has been shown, stored before it is sent. "
            "`batch`: everything, stored before a batch is settled.",
            choices=("never", "scrape", "batch"),
        ),
    ] = "never"
    fsync: Annotated[
        bool,
        doc("Bring what is stored to the disk at once, against power cuts."),
    ] = True
    preferred_format: Annotated[
        str,
        doc(
            "What a scraper gets that takes both formats, as Prometheus does: `text` "
            "has the names of the reference; in `openmetrics` counters end with "
            "`_total` and bounds with a fraction, `1.0`.",
            choices=("text", "openmetrics"),
        ),
    ] = "text"

    def faults(self) -> Iterator[tuple[str, str]]:
        """The address is one, and metrics can be told apart and have known labels."""
        if not self.listen_address:
            yield "listen_address", "missing"
        elif _address(self.listen_address) is None:
            yield "listen_address", f"{self.listen_address!r} is no host:port"
        taken = {exposition.OVERFLOW}
        for name, _, _ in COUNTERS:
            if name not in self.disabled_metrics:
                taken.add(name)
        if LATENCY not in self.disabled_metrics:
            taken |= {LATENCY + suffix for suffix in _SUFFIXES}
        for number, metric in enumerate(self.custom_metrics):
            place = f"custom_metrics[{number}]"
            if metric.known_type:
                yield from _metric_faults(metric, place, taken)
                taken |= metric.names()


def _metric_faults(
    metric: CustomMetric, place: str, taken: set[str]
) -> Iterator[tuple[str, str]]:
    if not metric.name:
        yield f"{place}.name", "missing"
    elif not _NAME.match(metric.name):
        yield f"{place}.name", f"{metric.name!r} is no name of a metric"
    elif metric.names() & taken or metric.name.startswith("process_"):
        yield f"{place}.name", f"{metric.name} is the name of another metric"
    seen = set()
    for index, name in enumerate(metric.chosen()):
        if name in seen:
            yield f"{place}.labels", f"{name} twice"
        elif name not in LABELS:
            known = ", ".join(LABELS)
            yield f"{place}.labels[{index}]", f"{name!r} is not one of {known}"
        seen.add(name)
    if sorted(set(metric.buckets)) != metric.buckets:
        yield f"{place}.buckets", "not in ascending order"


class _Metric(msgspec.Struct):
    """A family with what is done to records before."""

    family: Family
    mcp_only: bool
    attributes: set[str]


class PrometheusPump:
    """Count records and show the counts over HTTP."""

    options_type: ClassVar[type[PrometheusOptions]] = PrometheusOptions
    fields: tuple[str, ...] = (
        *("method", "host", "path", "response_code", "api_key", "timestamp"),
        *("api_version", "api_name", "api_id", "org_id", "oauth_id", "request_time"),
        *("ip_address", "latency", "alias", "track_path", "mcp_stats"),
    )
    guarantee: Final = (
        "Each record is counted once in the life of a worker process; a new one begins "
        "at 0, and records that the old one had counted but not settled count there. "
        "With `persist` `batch` each record is counted once for good: its counts and "
        "the position in the stream are stored in one transaction, in the state "
        "folder, before the batch is settled. With `scrape` no record counts twice, "
        "and what a scraper has seen is never taken back; a crash loses the counts "
        "since then. With either, what is sent to a scraper is stored before, so that "
        "no counter falls. A metric that is configured otherwise begins anew."
    )
    differences: Final = (
        "`buckets` and `obfuscate_api_keys_length` have their effect, and `description`"
        " is taken for `help`.",
        "A metric with a name that is none or another's, with an unknown label or one "
        "twice, is a fault of the configuration.",
        "Label values that contain two dashes are told apart; bytes that are no UTF-8 "
        "are shown as U+FFFD.",
        "A metric has `max_series` label sets at most.",
        "With `aggregate_observations` histograms count records, not writes, and "
        "averages are not cut to whole numbers.",
        "A negative time counts as 0, one of more than 30 days as 30 days: sums do not "
        "fall, and go on growing.",
        "`obfuscate_api_keys` beside `listen_address` hides the keys of "
        "`tyk_http_status_per_key`, too.",
        "OpenMetrics is offered, protobuf is not; only GET and HEAD are answered, and "
        "only on `path`. There are `process_` metrics, but no `go_` and `promhttp_` "
        "ones.",
        "Sums are shown with all their digits, never with an exponent.",
    )

    def __init__(self, options: PrometheusOptions) -> None:
        self._options = options
        path = options.path or "/metrics"
        self._path = path if path.startswith("/") else f"/{path}"
        self._metrics = list(_metrics(options))
        self._families = [metric.family for metric in self._metrics]
        read = {name for metric in self._metrics for name in metric.attributes}
        self._hides_paths = "path" in read and not options.track_all_paths
        read |= {"track_path"} if self._hides_paths else set()
        self._has_mcp = any(metric.mcp_only for metric in self._metrics)
        read |= {"mcp_stats"} if self._has_mcp else set()
        roots = {name.partition(".")[0] for name in read}
        self.fields = tuple(name for name in self.fields if name in roots)
        self._folder: Path | None = None
        self._file: SeriesFile | None = None
        self._server: WsgiServer | None = None
        self._counting = threading.Lock()
        """Held to change series or to read several of them."""
        self._saving = threading.Lock()
        self._touched: set[Series] = set()
        self._marks: dict[str, int] = {}
        self._moved: dict[str, int] = {}
        """Marks that are not stored yet."""
        self._unsaved = ""
        """Why the last attempt to store failed."""

    def keep_in(self, folder: Path) -> None:
        """Store series in this folder, if they are to outlive the process."""
        if self._options.persist != "never":
            self._folder = folder

    def open(self) -> None:
        """Take up what is stored, and listen."""
        for metric in self._options.custom_metrics:
            if not metric.known_type:
                log.error(
                    "custom metric is neither a counter nor a histogram, left out",
                    extra={"reason": f"{metric.name}: {metric.metric_type!r}"},
                )
        host, port = _address(self._options.listen_address) or ("", 0)
        self._restore()
        try:
            listener = listen(host, port)
        except OSError as exc:
            self._close_file()
            reason = os.strerror(exc.errno) if exc.errno and exc.errno > 0 else exc
            raise TransientError(
                f"cannot listen on {self._options.listen_address}: {reason}"
            ) from exc
        self._server = WsgiServer(self._answer, listener, "scrapes")

    def probe(self) -> str:
        """Say where the metrics are."""
        host, _ = _address(self._options.listen_address) or ("", 0)
        port = self._server.port if self._server else 0
        shown = f"[{host}]" if ":" in host else host or "*"
        return f"metrics can be served at http://{shown}:{port}{self._path}"

    def write(self, batch: Batch) -> None:
        """Count the records that are not counted yet."""
        prefix = f"{batch.stream} "
        key = prefix + batch.watermark
        marks = {
            name[len(prefix) :]: position
            for name, position in self._marks.items()
            if name.startswith(prefix)
        }
        fresh = batch.fresh(marks)
        records = batch.records
        if len(fresh) < len(records):
            records = [records[index] for index in fresh]
        if records:
            with self._counting:
                self._count(records)
                self._marks[key] = self._moved[key] = batch.positions[-1] + 1
        if self._options.persist == "batch":
            try:
                self._save()
            except (OSError, sqlite3.Error) as exc:
                raise TransientError(f"counts cannot be stored: {exc}") from exc

    def close(self) -> None:
        """Close the port; store what is not stored yet."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self._save_if_possible()
        self._close_file()

    # Counting

    def _count(self, records: Sequence[AnalyticsRecord]) -> None:
        if self._hides_paths:
            for record in records:
                if not record.track_path:
                    record.path = UNTRACKED
        mcp = [one for one in records if one.mcp_stats.is_mcp] if self._has_mcp else []
        touched = None if self._file is None else self._touched
        for metric in self._metrics:
            if chosen := mcp if metric.mcp_only else records:
                metric.family.add(chosen, touched)

    # Storing

    def _restore(self) -> None:
        if self._folder is None:
            return
        try:
            self._file = SeriesFile(self._folder, fsync=self._options.fsync)
            self._marks = self._file.restore(self._families)
        except (OSError, sqlite3.Error) as exc:
            self._close_file()
            raise TransientError(f"stored counts cannot be read: {exc}") from exc

    def _save(self) -> None:
        """Store all that has changed, with the positions that it includes."""
        if self._file is None:
            return
        with self._saving:
            with self._counting:
                touched, self._touched = self._touched, set()
                moved, self._moved = self._moved, {}
                rows = self._file.rows(touched)
            if not moved:
                return
            try:
                self._file.save(rows, moved)
            except BaseException:
                with self._counting:
                    self._touched |= touched
                    self._moved = moved | self._moved
                raise

    def _save_if_possible(self) -> None:
        try:
            self._save()
        except (OSError, sqlite3.Error) as exc:
            if not self._unsaved:
                log.error("counts cannot be stored", extra={"reason": str(exc)})
            self._unsaved = str(exc)
        else:
            if self._unsaved:
                log.info("counts are stored again")
            self._unsaved = ""

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    # Serving

    def _answer(
        self, environ: WSGIEnvironment, start_response: StartResponse
    ) -> Iterable[bytes]:
        target = str(environ.get("REQUEST_URI") or environ.get("PATH_INFO", "/"))
        method = environ["REQUEST_METHOD"]
        status, body = HTTPStatus.OK, b""
        if unquote(target.partition("?")[0]) != self._path:
            status, body = HTTPStatus.NOT_FOUND, b"404 page not found\n"
        elif method not in ("GET", "HEAD"):
            status = HTTPStatus.METHOD_NOT_ALLOWED
        if status is not HTTPStatus.OK:
            headers = [("Content-Type", "text/plain; charset=utf-8")]
            start_response(f"{status.value} {status.phrase}", headers)
            return [body]
        accept = str(environ.get("HTTP_ACCEPT", ""))
        openmetrics = exposition.wants_openmetrics(
            accept, preferred=self._options.preferred_format == "openmetrics"
        )
        kind = exposition.OPENMETRICS if openmetrics else exposition.TEXT
        headers = [("Content-Type", kind)]
        chunks = self._exposed(openmetrics)
        if exposition.takes_gzip(str(environ.get("HTTP_ACCEPT_ENCODING", ""))):
            headers.append(("Content-Encoding", "gzip"))
            chunks = exposition.gzipped(chunks)
        start_response("200 OK", headers)
        if method == "HEAD":
            return []
        if self._file is not None:
            # All of it is made first and stored next: what is shown is never more
            # than what a new process begins with.
            whole = list(chunks)
            self._save_if_possible()
            return whole
        return chunks

    def _exposed(self, openmetrics: bool) -> Iterator[bytes]:
        yield from exposition.render(
            self._families, self._counting, openmetrics=openmetrics
        )
        yield _process_metrics(openmetrics=openmetrics)


def _process_metrics(*, openmetrics: bool) -> bytes:
    """Return what the library says of this process, and the end mark."""
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    write: Callable[[CollectorRegistry], bytes] = generate_latest
    if openmetrics:
        write = generate_openmetrics
    return write(registry)


def _metrics(options: PrometheusOptions) -> Iterator[_Metric]:
    """Yield the metrics that are to be shown."""
    own = [
        CustomMetric(name=name, help=help, metric_type="counter", labels=[*labels])
        for name, help, labels in COUNTERS
    ]
    own.append(
        CustomMetric(
            name=LATENCY, help=LATENCY_HELP, metric_type="histogram", labels=["api"]
        )
    )
    shown = [metric for metric in own if metric.name not in options.disabled_metrics]
    shown += [metric for metric in options.custom_metrics if metric.known_type]
    for number, metric in enumerate(shown):
        yield _made(metric, options, number)


def _made(metric: CustomMetric, options: PrometheusOptions, number: int) -> _Metric:
    hidden = metric.obfuscate_api_keys or options.obfuscate_api_keys
    shown = metric.obfuscate_api_keys_length or options.obfuscate_api_keys_length
    ending = (shown or SHOWN) if hidden else 0
    labels = [LABELS[name] for name in metric.chosen()]
    if ending:
        hide = _hiding(ending)
        labels = [
            Label(x.name, x.attributes, hide) if x.name in _KEYS else x for x in labels
        ]
    read = {name for label in labels for name in label.attributes}
    place = (metric.name, metric.help, labels, options.max_series, number)
    family: Family
    if metric.metric_type == "counter":
        family = CounterFamily(*place)
    else:
        # A histogram of this name has the three times, whoever has made it.
        times = TIMES if metric.name == LATENCY else TIMES[:1]
        family = HistogramFamily(
            *place,
            times=times,
            bounds=metric.buckets or [*map(float, BUCKETS)],
            averaged=options.aggregate_observations,
        )
        read |= {attribute for _, attribute in times}
    if ending:
        # Stored series with other forms of keys are of no use.
        family.form = f"keys {ending}"
    return _Metric(family, metric.mcp_only, read - {"zone"})


def _hiding(ending: int) -> Callable[[str], str]:
    def hide(key: str) -> str:
        # Bytes are counted, and none of a split character is shown.
        data = key.encode("utf-8", "surrogateescape")
        if len(data) <= ending:
            return HIDDEN
        return "****" + data[-ending:].decode("utf-8", "surrogateescape")

    return hide


def _address(text: str) -> tuple[str, int] | None:
    """Return host and port, or None where it is no address."""
    host, colon, port = text.strip().rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or (":" in host and not bracketed) or not port.isdecimal():
        return None
    if not port.isascii() or int(port) > 65535:
        return None
    return host.removeprefix("[").removesuffix("]"), int(port)
