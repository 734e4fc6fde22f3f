"""Our own metrics on their way to StatsD, in the lines and datagrams of the reference.

The coordinator's loop only puts lines down; a thread gathers them for a moment, packs
and sends them. What cannot be sent is counted and forgotten: nothing waits for it.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from typing import Final

from tyk_pump.errors import ConfigError, TransientError
from tyk_pump.transport.datagram import Datagrams, TooLong

logger = logging.getLogger(__name__)

FLUSH_SECONDS: Final = 0.1
DATAGRAM_BYTES: Final = 1440
"""Longer lines are dropped, as the reference does."""
MOST_LINES: Final = 20_000
"""Lines that may wait for a name server that hangs."""
QUIET_SECONDS: Final = 60.0
"""An error is logged when there was none for that long."""
GAUGE_SECONDS: Final = 5.0
_CLOSE_SECONDS: Final = 1.0
_ODD: Final = re.compile(r"[^A-Za-z0-9_.-]")


class Sink:
    """Sends every metric twice: under its event, and under its job and event."""

    def __init__(
        self, host: str, port: int, prefix: str, look: Callable[[Sink], None]
    ) -> None:
        """`look` is called at once and every few seconds, to put down gauges."""
        self.errors = 0
        """Datagrams and lines that were not taken."""
        self._prefix = f"{_clean(prefix)}." if prefix else ""
        self._look = look
        self._datagrams = Datagrams(host, port)
        self._lock = threading.Condition()
        self._lines: list[str] = []
        self._counts: dict[str, int] = {}
        self._closing = threading.Event()
        self._last_error = 0.0
        try:
            self._datagrams.open()
        except TransientError as exc:
            raise ConfigError(f"statsd_connection_string: {exc.reason}") from exc
        self._thread = threading.Thread(target=self._run, name="statsd", daemon=True)
        self._thread.start()

    def count(self, job: str, event: str, number: int) -> None:
        """Add to a counter; what a moment brings is one line."""
        with self._lock:
            for name in self._names(job, event):
                self._counts[name] = self._counts.get(name, 0) + number
            self._lock.notify()

    def timing(self, job: str, event: str, seconds: float) -> None:
        """Send how long something took."""
        self._put(job, event, f"{milliseconds(seconds)}|ms")

    def gauge(self, job: str, event: str, value: float) -> None:
        """Send a value as it stands now."""
        self._put(job, event, f"{shortened(value)}|g")

    def close(self) -> None:
        """Send what is there, and let go of the socket."""
        self._closing.set()
        with self._lock:
            self._lock.notify()
        # A name server that hangs must not hold up our end.
        self._thread.join(_CLOSE_SECONDS)

    def _put(self, job: str, event: str, value: str) -> None:
        with self._lock:
            if len(self._lines) < MOST_LINES:
                self._lines += (f"{n}:{value}\n" for n in self._names(job, event))
                self._lock.notify()
            else:
                self.errors += 1

    def _names(self, job: str, event: str) -> Iterator[str]:
        yield f"{self._prefix}{_clean(event)}"
        yield f"{self._prefix}{_clean(f'{job}.{event}')}"

    # The thread

    def _run(self) -> None:
        next_look = time.monotonic()
        while not self._closing.is_set():
            if time.monotonic() >= next_look:
                next_look = time.monotonic() + GAUGE_SECONDS
                self._look(self)
            with self._lock:
                if not self._lines and not self._counts and not self._closing.is_set():
                    self._lock.wait(max(0.0, next_look - time.monotonic()))
                    continue
            self._closing.wait(FLUSH_SECONDS)
            self._flush()
        self._flush()
        self._datagrams.close()

    def _flush(self) -> None:
        with self._lock:
            lines, self._lines = self._lines, []
            counts, self._counts = self._counts, {}
        lines += (f"{name}:{number}|c\n" for name, number in counts.items())
        for datagram in packed(lines):
            self._send(datagram)

    def _send(self, datagram: bytes) -> None:
        try:
            self._datagrams.send(datagram)
        except TooLong as exc:
            self._failed(str(exc))
        except TransientError as exc:
            # What came back was about an earlier one; this one has a try of its own.
            self._failed(exc.reason)
            try:
                self._datagrams.send(datagram)
            except (TooLong, TransientError) as again:
                self._failed(str(again))

    def _failed(self, reason: str) -> None:
        self.errors += 1
        now = time.monotonic()
        if not self._last_error or now - self._last_error > QUIET_SECONDS:
            logger.warning(
                "StatsD does not take our own metrics",
                extra={"prefix": "main", "reason": reason},
            )
        self._last_error = now


def packed(lines: Iterable[str]) -> Iterator[bytes]:
    """Yield the lines in as few datagrams as their order allows."""
    found: list[bytes] = []
    size = 0
    for line in lines:
        data = line.encode()
        if len(data) > DATAGRAM_BYTES:
            continue
        if size + len(data) > DATAGRAM_BYTES:
            yield b"".join(found)
            found, size = [], 0
        found.append(data)
        size += len(data)
    if found:
        yield b"".join(found)


def milliseconds(seconds: float) -> str:
    """Return a duration as the reference writes it."""
    nanoseconds = round(seconds * 1e9)
    if nanoseconds >= 10_000_000:
        return str(nanoseconds // 1_000_000)
    return f"{nanoseconds / 1e6:.2f}"


def shortened(value: float) -> str:
    """Return a gauge as the reference writes it."""
    if abs(value) < 0.1:
        return f"{Decimal(repr(value)).normalize():f}"
    return f"{value:.2f}"


def _clean(name: str) -> str:
    return _ODD.sub("$", name)
