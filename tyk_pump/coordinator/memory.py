"""How full Redis is, and when it will be full, as far as the last minutes tell.

The forecast is a straight line through the used memory of each node: the median of
the slopes between all pairs of looks, so that a single save or burst does not bend it.
Where it does not rise there is no forecast.
"""

from __future__ import annotations

import collections
import itertools
import logging
import math
import statistics
from collections.abc import Mapping
from typing import Final

import msgspec

logger = logging.getLogger(__name__)

LOOK_SECONDS: Final = 10.0
LOOKS: Final = 30
"""Looks that a forecast is made of: those of five minutes."""
FEWEST: Final = 6
EARLY: Final = 3600.0
"""Seconds before Redis is full from which on a warning is logged."""
SOON: Final = 600.0
"""The same for not being ready, and for spilling whatever waits."""
NEARLY: Final = 0.9
"""Share of its memory from which on Redis is in danger whatever the forecast."""


class Usage(msgspec.Struct, frozen=True):
    """What one node of Redis says of its memory."""

    used: int
    limit: int = 0
    """`maxmemory`, 0 where there is none."""
    policy: str = ""


class Guard:
    """Looks at the memory of all nodes; the one that is full first counts."""

    def __init__(self) -> None:
        self.used = 0
        self.limit = 0
        self.full_in = math.inf
        """Seconds until a node is full; infinite without a forecast."""
        self.danger = ""
        """Why Redis will take no more soon, empty when it will."""
        self.evicting = ""
        """Why claims could vanish from Redis, empty when they cannot."""
        self._looks: dict[str, collections.deque[tuple[float, int]]] = {}
        self._state = ""

    def look(self, nodes: Mapping[str, Usage], now: float, waiting: int) -> None:
        """Take in what nodes say at a monotonic time; `waiting` records are claimed."""
        self.used = sum(one.used for one in nodes.values())
        self.limit = sum(one.limit for one in nodes.values())
        for gone in set(self._looks) - set(nodes):
            del self._looks[gone]
        shares, times = [0.0], [math.inf]
        for name, one in nodes.items():
            looks = self._looks.setdefault(name, collections.deque(maxlen=LOOKS))
            looks.append((now, one.used))
            if one.limit:
                shares.append(one.used / one.limit)
                times.append(forecast(looks, one.limit))
        self.full_in = min(times)
        self._judge(max(shares), waiting)
        self._look_at_policies(nodes)

    def _judge(self, share: float, waiting: int) -> None:
        when = ""
        if self.full_in < EARLY:
            when = f", and full in about {self.full_in / 60:.0f} min at this rate"
        text = (
            f"Redis uses {share:.0%} of its memory{when}; {waiting:,} records wait in"
            " claims: mend the pump that is furthest behind, or raise maxmemory"
        )
        state = ""
        if share >= NEARLY or self.full_in < SOON:
            state = "danger"
        elif self.full_in < EARLY:
            state = "early"
        self.danger = text if state == "danger" else ""
        if state != self._state:
            if state:
                level = logging.ERROR if self.danger else logging.WARNING
                logger.log(level, text, extra={"prefix": "main"})
            else:
                logger.info("Redis has room again", extra={"prefix": "main"})
        self._state = state

    def _look_at_policies(self, nodes: Mapping[str, Usage]) -> None:
        before = self.evicting
        policies = sorted(
            {n.policy for n in nodes.values() if n.policy.startswith("allkeys")}
        )
        self.evicting = ""
        if policies:
            self.evicting = (
                f"Redis evicts keys (maxmemory-policy {', '.join(policies)}): claims"
                " could vanish"
            )
        if self.evicting and self.evicting != before:
            logger.warning(self.evicting, extra={"prefix": "main"})


def forecast(looks: collections.deque[tuple[float, int]], limit: int) -> float:
    """Return the seconds until the limit is reached, infinite where nothing grows."""
    used = looks[-1][1]
    if used >= limit:
        return 0.0
    if len(looks) < FEWEST:
        return math.inf
    slopes = [
        (after - before) / (end - start)
        for (start, before), (end, after) in itertools.combinations(looks, 2)
        if end > start
    ]
    slope = statistics.median(slopes) if slopes else 0.0
    return (limit - used) / slope if slope > 0 else math.inf
