"""Signals become counters that the loop looks at; a pipe wakes it."""

from __future__ import annotations

import contextlib
import os
import signal
from types import FrameType


class Signals:
    """Counts stop and reload signals; `fd` becomes readable when one has come."""

    def __init__(self) -> None:
        self.stop = 0
        self.reload = 0
        self.fd, self._write = os.pipe()
        os.set_blocking(self.fd, False)
        os.set_blocking(self._write, False)

    def install(self) -> None:
        """Take over SIGTERM, SIGINT and SIGHUP; ignore what the reference ignores."""
        signal.signal(signal.SIGTERM, self._note)
        signal.signal(signal.SIGINT, self._note)
        signal.signal(signal.SIGHUP, self._note)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)

    def wake(self) -> None:
        """Wake the loop from another thread."""
        # A full pipe does no harm: the loop is about to wake anyway.
        with contextlib.suppress(BlockingIOError):
            os.write(self._write, b"\0")

    def drain(self) -> None:
        """Empty the pipe before looking at the counters."""
        try:
            while os.read(self.fd, 4096):
                pass
        except BlockingIOError:
            return

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self.reload += 1
        else:
            self.stop += 1
        self.wake()
