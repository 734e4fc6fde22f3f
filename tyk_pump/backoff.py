"""Seconds before attempt n: doubling, jitter, ceiling."""

from __future__ import annotations

import random
from collections.abc import Callable


def delay(
    attempt: int,
    *,
    initial: float,
    ceiling: float,
    multiplier: float = 2.0,
    jitter: Callable[[], float] = random.random,
) -> float:
    """Return the pause in seconds after failed attempt `attempt` (the first is 1).

    Half of the pause is fixed and half random, so that many workers that lost
    the same back end do not all return at the same moment.
    """
    exponent = min(attempt - 1, 64)
    full = min(ceiling, initial * multiplier**exponent)
    return full * (0.5 + 0.5 * jitter())
