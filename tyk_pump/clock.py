"""Time and sleep behind one small object, so that tests need not wait."""

from __future__ import annotations

import time


class Clock:
    """The real clock; a test passes one of its own with the same methods."""

    def now(self) -> float:
        """Return seconds since the epoch (wall clock)."""
        return time.time()

    def monotonic(self) -> float:
        """Return seconds that never run backwards, the same in all processes."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)
