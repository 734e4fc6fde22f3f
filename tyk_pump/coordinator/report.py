"""Workers and streams as numbers for people: the pumps' part of a snapshot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from tyk_pump.coordinator.lanes import Lane
from tyk_pump.coordinator.snapshot import Numbers, PumpSnapshot
from tyk_pump.coordinator.supervisor import WorkerHandle
from tyk_pump.source.claims import Stream

RATE_SECONDS = 10


def pump_snapshot(
    workers: Sequence[WorkerHandle],
    streams: Sequence[Stream],
    now: float,
    books: Mapping[str, Numbers],
    replaying: Mapping[str, int],
) -> PumpSnapshot:
    """Add up the workers of one pump; the state is that of the worst."""
    worst = next((w for w in workers if w.state != "running"), workers[0])
    counts = [worker.counts for worker in workers]
    history = _columns([worker.history for worker in workers])
    oldest = [at for w in workers for at in _waiting_since(w.lane, streams)]
    return PumpSnapshot(
        name=worst.config.name,
        type=worst.config.type,
        state=worst.state,
        delivered=sum(c.delivered for c in counts),
        filtered=sum(c.filtered for c in counts),
        dead=sum(c.dead for c in counts),
        retried=sum(c.retried for c in counts),
        pending=sum(w.lane.pending(streams) for w in workers),
        lag_seconds=max(0.0, now - min(oldest)) if oldest else 0.0,
        restarts=sum(c.restarts for c in counts),
        last_error=worst.last_error,
        rate=sum(history[-RATE_SECONDS - 1 : -1]) / RATE_SECONDS,
        history=history,
        write_buckets=_columns([c.write_buckets for c in counts]),
        write_seconds=sum(c.write_seconds for c in counts),
        replaying=replaying.get(worst.config.name, 0),
        ledger=books.get(worst.config.name, Numbers()),
        pids=[w.process.pid for w in workers if w.process and w.process.pid],
    )


def _columns(rows: Sequence[Sequence[int]]) -> list[int]:
    return [sum(column) for column in zip(*rows, strict=True)]


def _waiting_since(lane: Lane, streams: Sequence[Stream]) -> Iterator[float]:
    """Yield, per stream, when the oldest claim came that the lane has not settled."""
    for stream in streams:
        if lane.field not in stream.progress:
            continue
        found = stream.find(lane.settled(stream))
        if found is not None:
            yield found[1].at
