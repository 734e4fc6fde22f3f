"""Demo mode of the reference: made-up records straight to the configured pumps.

No Redis list is touched; the workers, their selection and their pumps are the real
ones, and the process ends when each pump has settled everything.
"""

from __future__ import annotations

import logging
import random
import time
from typing import TYPE_CHECKING

import tyk_pump
from tyk_pump import channel, cursors
from tyk_pump.coordinator.demo_options import DemoOptions
from tyk_pump.coordinator.lanes import Span
from tyk_pump.errors import SourceError
from tyk_pump.record import demo as made_up
from tyk_pump.record import wire
from tyk_pump.source.lists import VERSION_KEY
from tyk_pump.source.redis import Link
from tyk_pump.ulid import ulid

if TYPE_CHECKING:
    from tyk_pump.coordinator.loop import Coordinator

logger = logging.getLogger(__name__)

NO_LEASE = float("inf")
HOURS_A_DAY = 24


def run(coordinator: Coordinator, options: DemoOptions) -> int:
    """Write the demo records; return the exit code."""
    logger.info("BUILDING DEMO DATA AND EXITING...")
    hours = made_up.generate(
        org=options.org,
        days=options.days,
        per_hour=options.records_per_hour,
        api=options.api,
        version=options.api_version,
        track_path=options.track_path,
        future=options.future,
        now=time.time(),
        random=random.Random(),
    )
    position = 0
    stream = ulid()
    complete = _open(coordinator)
    for number, records in enumerate(hours, start=1):
        if not complete:
            break
        if records:
            raws = [wire.pack(record) for record in records]
            end = position + len(raws)
            data = channel.encode_frame(stream, "demo", "msgpack", position, None, raws)
            complete = _deliver(coordinator, Span(stream, position, end), data)
            position = end
        if number % HOURS_A_DAY == 0:
            logger.info(f"Finished {number // HOURS_A_DAY} of {options.days}")
    complete = _close(coordinator) and complete
    return 0 if complete else 1


def _open(coordinator: Coordinator) -> bool:
    """Start the workers; say whether each pump is open."""
    coordinator.signals.install()
    # Made-up records are no uptime reports.
    pumps = [p for p in coordinator.config.pumps if p.name != cursors.UPTIME]
    coordinator.make_workers(pumps)
    _note_version(coordinator)
    for worker in coordinator.workers:
        worker.set_lease(NO_LEASE)
        if worker.due():
            worker.start()
    while not coordinator.signals.stop:
        if any(worker.state == "failed" for worker in coordinator.workers):
            return False
        if all(worker.ready() for worker in coordinator.workers):
            return True
        coordinator.listen(0.1)
    return False


def _note_version(coordinator: Coordinator) -> None:
    """Leave our version where the reference leaves its own, as a real start does."""
    link = Link(coordinator.root.analytics_storage_config)
    try:
        link.execute([("SET", VERSION_KEY, tyk_pump.__version__)])
    except SourceError as exc:
        logger.error("version is not stored", extra={"reason": str(exc)})
    finally:
        link.close()


def _deliver(coordinator: Coordinator, span: Span, data: bytes) -> bool:
    """Hand one frame to every pump, waiting for room; False when one has died."""
    waiting = [w for w in coordinator.workers if w.lane.index == 0]
    while waiting and not coordinator.signals.stop:
        for worker in list(waiting):
            worker.watch()
            if worker.process is None:
                return False  # it died with frames that no claim keeps
            if not worker.has_room(coordinator.root.queue_bytes):
                continue
            if worker.channel is not None and worker.channel.offer(data):
                worker.lane.offered(span, span.end, len(data))
                waiting.remove(worker)
        coordinator.listen(0.05 if waiting else 0.0)
    return not waiting


def _close(coordinator: Coordinator) -> bool:
    """Wait until all is settled, stop the workers; say whether all was settled."""
    workers = coordinator.workers
    while not coordinator.signals.stop and any(w.lane.sent for w in workers):
        for worker in workers:
            worker.watch()
        if any(worker.process is None for worker in workers):
            break
        coordinator.listen(0.1)
    complete = not any(worker.lane.sent for worker in workers)
    for worker in workers:
        worker.stop()
    until = coordinator.clock.monotonic() + coordinator.root.shutdown_timeout
    while coordinator.clock.monotonic() < until:
        if all(worker.process is None for worker in workers):
            break
        coordinator.listen(0.1)
    for worker in workers:
        worker.drop()
    return complete
