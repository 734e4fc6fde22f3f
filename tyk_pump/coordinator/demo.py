"""Demo mode of the reference: made-up records straight to the configured pumps.

No Redis list is touched; the workers, their selection and their pumps are the real
ones, and the process ends when each pump has settled everything.
"""

from __future__ import annotations

import logging
import random
import time
from typing import TYPE_CHECKING

from tyk_pump import channel
from tyk_pump.coordinator.demo_options import DemoOptions
from tyk_pump.coordinator.lanes import Span
from tyk_pump.errors import SourceError
from tyk_pump.record import demo as made_up
from tyk_pump.record import wire
from tyk_pump.source.redis import Link
from tyk_pump.ulid import ulid

if TYPE_CHECKING:
    from tyk_pump.coordinator.loop import Coordinator

logger = logging.getLogger(__name__)

NO_LEASE = float("inf")


def run(coordinator: Coordinator, options: DemoOptions) -> int:
    """Write the demo records; return the exit code."""
    logger.info("BUILDING DEMO DATA AND EXITING...")
    now = time.time()
    hours = made_up.generate(
        org=options.org,
        days=options.days,
        per_hour=options.records_per_hour,
        api=options.api,
        version=options.api_version,
        track_path=options.track_path,
        future=options.future,
        now=now,
        random=random.Random(),
    )
    position = 0
    stream = ulid()
    ok = coordinator.open_for_demo(NO_LEASE)
    for number, records in enumerate(hours, start=1):
        if not ok or coordinator.signals.stop:
            break
        if records:
            raws = [wire.pack(record) for record in records]
            frame = channel.encode_frame(
                stream, "demo", "msgpack", position, None, raws
            )
            end = position + len(raws)
            span = Span(stream, position, end)
            ok = coordinator.deliver_demo(span, frame)
            position = end
        if number % 24 == 0:
            logger.info(f"Finished {number // 24} of {options.days}")
    finished = coordinator.close_demo()
    return 0 if ok and finished else 1


def note_version(link: Link, version: str) -> None:
    """Leave our version where the reference leaves its own, as a real start does."""
    try:
        link.execute([("SET", "version-check-pump", version)])
    except SourceError as exc:
        logger.error("version is not stored", extra={"reason": str(exc)})
