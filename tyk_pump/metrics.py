"""Every number that we report of ourselves: its name, kind, meaning, and what to do.

The page `/metrics` and the reference page are both made from this table.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import Metric as Family

from tyk_pump.coordinator.snapshot import WRITE_BUCKETS, PumpSnapshot, Snapshot

Kind = Literal["counter", "gauge", "histogram"]
Sample = tuple[list[str], float]


class Metric(msgspec.Struct, frozen=True):
    """One declared metric."""

    name: str
    kind: Kind
    help: str
    act: str
    """What to do when it moves."""
    labels: tuple[str, ...] = ()
    field: str = ""
    """The field of the snapshot that it shows; "" where a function below makes it."""


PUMP = ("pump",)

PUMP_METRICS = (
    Metric(
        "tyk_pump_records_delivered_total",
        "counter",
        "Records that the back end has taken.",
        "Alert when it stands still while tyk_pump_pending_records grows.",
        PUMP,
        "delivered",
    ),
    Metric(
        "tyk_pump_records_filtered_total",
        "counter",
        "Records that the pump's own filters left out.",
        "Nothing; a sudden rise follows a change of filters.",
        PUMP,
        "filtered",
    ),
    Metric(
        "tyk_pump_records_dead_total",
        "counter",
        "Records refused for good and kept as dead letters.",
        "Look at `tyk-pump dead-letters list`; replay once the cause is mended.",
        PUMP,
        "dead",
    ),
    Metric(
        "tyk_pump_write_retries_total",
        "counter",
        "Writes that failed and were tried again.",
        "A steady rise means an overloaded or flapping back end.",
        PUMP,
        "retried",
    ),
    Metric(
        "tyk_pump_pending_records",
        "gauge",
        "Records claimed and not yet settled by this pump.",
        "Alert when it keeps growing: the back end is away or too slow.",
        PUMP,
        "pending",
    ),
    Metric(
        "tyk_pump_replay_pending_records",
        "gauge",
        "Kept records that `tyk-pump replay` asked for and that wait.",
        "It falls while a replay goes on; `tyk-pump replay --cancel` ends one.",
        PUMP,
        "replaying",
    ),
    Metric(
        "tyk_pump_lag_seconds",
        "gauge",
        "Age of the oldest claim that this pump has not settled.",
        "The best single number to alert on; choose what your dashboards can bear.",
        PUMP,
        "lag_seconds",
    ),
    Metric(
        "tyk_pump_worker_restarts_total",
        "counter",
        "How often a worker process was started again.",
        "Look for its last words in the log; report it.",
        PUMP,
        "restarts",
    ),
    Metric(
        "tyk_pump_pump_running",
        "gauge",
        "1 while the pump is open and its writes pass, else 0.",
        "Look at the status page for the state and the last error.",
        ("pump", "type"),
    ),
    Metric(
        "tyk_pump_ledger_records",
        "gauge",
        "Records that the ledger has for this pump: claimed, and what became of them.",
        "Alert when lost grows; `tyk-pump audit` explains the states.",
        ("pump", "state"),
    ),
    Metric(
        "tyk_pump_ledger_difference",
        "gauge",
        "Claimed records of which nobody knows what became; 0 while all is well.",
        "Alert on anything but 0; run `tyk-pump audit --hours` and report it.",
        PUMP,
    ),
    Metric(
        "tyk_pump_write_duration_seconds",
        "histogram",
        "Time for the writes of one frame, retries included.",
        "Compare with the pump's `timeout`; add workers or look at the back end.",
        PUMP,
    ),
)

METRICS = (
    Metric(
        "tyk_pump_ready",
        "gauge",
        "1 while /ready answers 200, else 0.",
        "Ask /ready for the reasons.",
        field="ready",
    ),
    Metric(
        "tyk_pump_redis_up",
        "gauge",
        "1 while Redis answers, else 0.",
        "Alert: unclaimed records expire while no pump reads them.",
    ),
    Metric(
        "tyk_pump_redis_memory_used_bytes",
        "gauge",
        "Memory that Redis uses, all nodes together; 0 while it is not known.",
        "Compare with tyk_pump_redis_memory_max_bytes.",
        field="redis_used",
    ),
    Metric(
        "tyk_pump_redis_memory_max_bytes",
        "gauge",
        "Memory that Redis may use (maxmemory), 0 without a limit.",
        "Nothing.",
        field="redis_limit",
    ),
    Metric(
        "tyk_pump_redis_full_seconds",
        "gauge",
        "When a node of Redis is full at the rate of the last minutes; -1 if never.",
        "Alert from 0 to 3600: mend the pump furthest behind, or raise maxmemory.",
        field="redis_full_seconds",
    ),
    Metric(
        "tyk_pump_redis_list_records",
        "gauge",
        "Records in each list of the gateway at the last look.",
        "Near zero after each purge; growth means that claiming fails.",
        ("list",),
    ),
    Metric(
        "tyk_pump_streams",
        "gauge",
        "Streams that this instance owns, adopted ones included.",
        "More than one for long: an adopted stream cannot be finished.",
        field="streams",
    ),
    Metric(
        "tyk_pump_claims",
        "gauge",
        "Claimed lists that not all pumps have settled.",
        "Growth follows the pump that is furthest behind.",
        field="claims",
    ),
    Metric(
        "tyk_pump_claimed_records",
        "gauge",
        "Records that Redis keeps for us until all pumps have settled them.",
        "Compare with the memory that Redis has left.",
        field="claimed_records",
    ),
    Metric(
        "tyk_pump_journal_records",
        "gauge",
        "Records in the state file that not all pumps have settled.",
        "Growth follows the pump that is furthest behind; watch the disk.",
        field="journal_records",
    ),
    Metric(
        "tyk_pump_journal_bytes",
        "gauge",
        "Bytes of frames in the state file, those kept for a replay included.",
        "Compare with `journal.max_bytes` and with the room on the disk.",
        field="journal_bytes",
    ),
    Metric(
        "tyk_pump_records_claimed_total",
        "counter",
        "Records taken over from the gateway's lists.",
        "Standing still means no traffic, or no Redis.",
        field="claimed_total",
    ),
    Metric(
        "tyk_pump_records_lost_total",
        "counter",
        "Claimed records that Redis lost, by a restart with older data or a failover.",
        "Alert above 0: look at the persistence of Redis.",
        field="lost_records",
    ),
    Metric(
        "tyk_pump_purges_total",
        "counter",
        "Rounds over all lists.",
        "Standing still means that the coordinator hangs or Redis is away.",
        field="purges",
    ),
    Metric(
        "tyk_pump_source_errors_total",
        "counter",
        "Commands that Redis did not or could not answer.",
        "Look at Redis and at the way to it.",
        field="source_errors",
    ),
    Metric(
        "tyk_pump_statsd_errors_total",
        "counter",
        "Datagrams of our own metrics (TYK_INSTRUMENTATION) that StatsD did not take.",
        "Look at statsd_connection_string and at the server there.",
        field="statsd_errors",
    ),
    Metric(
        "tyk_pump_start_time_seconds",
        "gauge",
        "When this process began, in seconds since the epoch.",
        "A jump is a restart; counters begin again at 0.",
        field="started",
    ),
    Metric(
        "tyk_pump_build_info",
        "gauge",
        "Always 1; the labels say which version runs as which instance.",
        "Nothing.",
        ("version", "instance"),
    ),
)


class SnapshotCollector:
    """Shows one snapshot to prometheus_client."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Family]:
        """Yield every declared metric."""
        for metric in METRICS:
            yield _family(metric, _root_samples(metric, self._snapshot))
        for metric in PUMP_METRICS:
            if metric.kind == "histogram":
                yield _histogram(metric, self._snapshot.pumps)
            else:
                yield _family(metric, _pump_samples(metric, self._snapshot.pumps))


def render(snapshot: Snapshot) -> bytes:
    """Return the snapshot in Prometheus's text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(SnapshotCollector(snapshot))
    return generate_latest(registry)


def _root_samples(metric: Metric, snapshot: Snapshot) -> Iterator[Sample]:
    if metric.field:
        yield [], float(getattr(snapshot, metric.field))
    elif metric.labels == ("list",):
        for name, length in sorted(snapshot.lists.items()):
            yield [name], length
    elif metric.labels:
        yield [snapshot.version, snapshot.instance], 1
    else:
        yield [], float(not snapshot.redis)


def _pump_samples(metric: Metric, pumps: Iterable[PumpSnapshot]) -> Iterator[Sample]:
    for pump in pumps:
        if metric.field:
            yield [pump.name], float(getattr(pump, metric.field))
        elif metric.labels == PUMP:
            yield [pump.name], float(pump.ledger.difference)
        elif "state" in metric.labels:
            for state, count in msgspec.structs.asdict(pump.ledger).items():
                if state != "difference":
                    yield [pump.name, state], float(count)
        else:
            yield [pump.name, pump.type], float(pump.state == "running")


def _family(metric: Metric, samples: Iterator[Sample]) -> Family:
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = kind(metric.name, metric.help, labels=metric.labels)
    for labels, value in samples:
        family.add_metric(labels, value)
    return family


def _histogram(metric: Metric, pumps: Iterable[PumpSnapshot]) -> Family:
    family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
    bounds = [*map(str, WRITE_BUCKETS), "+Inf"]
    for pump in pumps:
        total, buckets = 0, []
        for bound, count in zip(bounds, pump.write_buckets, strict=True):
            total += count
            buckets.append((bound, float(total)))
        family.add_metric([pump.name], buckets, pump.write_seconds)
    return family
