"""Where the run of frames began that a worker is in: its watermarks count from there.

What a worker takes one after the other, it has delivered from the first on. Nothing of
the kind is known of what was before, nor of what was passed over: it may be on the
disk of an instance that had the stream once, and still on its way.
"""

from __future__ import annotations

from typing import Final

import msgspec

from tyk_pump import cursors

KEPT: Final = 100
"""Streams of which it is known where the last frame ended."""


class _Run(msgspec.Struct):
    """Positions of a stream that were taken one after the other."""

    begin: int
    end: int


class Runs:
    """The runs of one worker, by stream."""

    def __init__(self, lane: int, lanes: int) -> None:
        self._lane = lane
        self._lanes = lanes
        self._runs: dict[str, _Run] = {}

    def begin(self, stream: str, first: int, end: int) -> int:
        """Return where the run began that a frame belongs to: it is the last one."""
        run = self._runs.pop(stream, None)
        if run is None or cursors.own(run.end, self._lane, self._lanes) != first:
            run = _Run(first, end)
        run.end = end
        self._runs[stream] = run
        if len(self._runs) > KEPT:
            del self._runs[next(iter(self._runs))]
        return run.begin
