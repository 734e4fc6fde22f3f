"""Time, the order of events, and the coordinators as greenlets.

There is one thread. A coordinator runs until it asks for something that takes time:
an answer of Redis, a commit, the next thing to listen to. Then the next event is due,
whoever's that is. All chance comes from one generator: a seed is a history.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from greenlet import getcurrent, greenlet

from tyk_pump.clock import Clock

if TYPE_CHECKING:
    from tests.faults.simulation.instance import Instance

EPOCH = 1_800_000_000.0


class Died(BaseException):
    """The process was killed: no handler of the program may run."""


class Broken(Exception):
    """A law does not hold."""


class World:
    """The hub: events in the order of their time."""

    def __init__(self, seed: int, trace: Callable[[str], None] | None = None) -> None:
        self.now = 1000.0
        self.rng = random.Random(seed)
        self.current: Instance | None = None
        self.broken: list[str] = []
        self.steps = 0
        self._trace = trace
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._number = 0
        self._hub: greenlet = getcurrent()

    # Events

    def after(self, seconds: float, action: Callable[..., None], *args: Any) -> None:
        """Do something later."""
        self._number += 1
        heapq.heappush(self._events, (self.now + seconds, self._number, action, args))

    def run(self, seconds: float, done: Callable[[], bool] | None = None) -> bool:
        """Let time pass; stop early, with True, when it is done."""
        end = self.now + seconds
        look_at = self.now
        while self._events and not self.broken:
            if done is not None and self.now >= look_at:
                look_at = self.now + 0.25
                if done():
                    return True
            if self._events[0][0] > end:
                break
            self.now, _, action, args = heapq.heappop(self._events)
            self.steps += 1
            action(*args)
        if self.broken:
            raise Broken(self.broken[0])
        self.now = max(self.now, end)
        return done is not None and done()

    def close(self) -> None:
        """Forget what would still have happened, and whom it would have happened to."""
        self._events.clear()

    def back(self) -> None:
        """Give the turn back to the hub, from within a coordinator."""
        self._hub.switch()

    def fail(self, why: str) -> None:
        """A law does not hold; the history ends here."""
        self.tell("BROKEN", why)
        self.broken.append(why)

    # Chance and trace

    def chance(self, probability: float) -> bool:
        """Return True that often."""
        return probability > 0 and self.rng.random() < probability

    @property
    def tracing(self) -> bool:
        """Say whether somebody reads the trace."""
        return self._trace is not None

    def tell(self, who: str, what: str) -> None:
        """Add a line to the trace."""
        if self._trace is not None:
            self._trace(f"{self.now - 1000:9.4f} {who:10} {what}")


class SimClock(Clock):
    """The time of a world, as one machine knows it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.step = 0.0
        """How far the wall clock is off."""

    def now(self) -> float:
        return EPOCH + self._world.now + self.step

    def monotonic(self) -> float:
        return self._world.now

    def sleep(self, seconds: float) -> None:
        if self._world.current is not None:
            self._world.current.sleep(seconds)
