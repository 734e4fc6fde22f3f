"""Lines of metrics to a StatsD server: several in a datagram, over UDP or unix sockets.

A line is a measurement, and a server takes it for one more each time it comes. So
records whose lines are known to have arrived are never sent again; what is known
depends on the way. See `Packets.send`.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

from tyk_pump.errors import RejectedRecords, TransientError
from tyk_pump.transport.datagram import (
    LARGEST_DATAGRAM,
    Datagrams,
    TooLong,
    UnixDatagrams,
    address,
)

UDP_SIZE, UNIX_SIZE = 1432, 8192
"""Bytes of a datagram at most, where nobody says another number: what an Ethernet takes
whole with room for tunnels, and what an agent reads at once."""
_HEADERS: Final = 1500 - UDP_SIZE
"""Bytes of a packet that are left to headers, ours and those of tunnels."""
_UNIX: Final = ("unix://", "unixgram://")


def fault_of(place: str) -> str:
    """Return what is wrong with `host:port` or `unix:///path`; "" where nothing is."""
    path = unix_path(place)
    if path is not None:
        return "" if path else f"{place!r} has no path"
    try:
        address(place)
    except ValueError as exc:
        return str(exc)
    return ""


def unix_path(place: str) -> str | None:
    """Return the path of a unix socket; None where the place is none."""
    for prefix in _UNIX:
        if place.startswith(prefix):
            return place.removeprefix(prefix)
    return None


class Packets:
    """Packs the lines of a batch into datagrams, and sends them in order."""

    def __init__(
        self,
        place: str,
        *,
        size: int = 0,
        most: int = sys.maxsize,
        longest: int = sys.maxsize,
        patience: float = 1.0,
    ) -> None:
        """`size` bytes of several lines go into one datagram, those of the path for 0,
        and the lines of `most` records. The lines of a record stay together if they
        fit; one record has `longest` bytes at most. A full unix socket is waited for
        as long as `patience` says.
        """
        self._place = place
        self._size, self._most, self._longest = size, most, longest
        path = unix_path(place)
        self._is_unix = path is not None
        self._datagrams: Datagrams
        if path is None:
            self._datagrams = Datagrams(*address(place))
        else:
            self._datagrams = UnixDatagrams(path, patience)

    def send(self, items: Sequence[bytes]) -> None:
        """Return when every line is where no more can be told of it; else raise a
        WriteError whose positions are those of the items.

        An item is the lines of a record, each with its line feed.

        A unix socket takes a datagram or does not: what it took is not sent again. Over
        UDP the refusal of one is told with a later one, and which was meant is not
        said: the batch is sent again.
        """
        if not items:
            return
        rejected: dict[int, str] = {}
        begin = 0
        try:
            left = deque(self._spans(items))
            while left:
                begin, end = left.popleft()
                try:
                    self._post(b"".join(items[begin:end])[:-1])
                except TooLong as exc:
                    if end - begin == 1:
                        rejected[begin] = str(exc)
                    else:
                        # Each alone, the first of them first.
                        alone = ((at, at + 1) for at in range(begin, end))
                        left.extendleft(reversed([*alone]))
            if not self._is_unix:
                self._datagrams.check()
        except TransientError as exc:
            pending = range(begin, len(items)) if self._is_unix else None
            raise TransientError(
                exc.reason, pending=pending, rejected=rejected
            ) from exc
        if rejected:
            reason = next(iter(rejected.values()))
            raise RejectedRecords(reason, rejected=rejected)

    def probe(self) -> str:
        """Reach the socket, or resolve the name, and say what was found."""
        self._datagrams.open()
        if self._is_unix:
            return f"{self._place} takes datagrams"
        return f"{self._place} over udp, which nobody confirms"

    def close(self) -> None:
        """Let go of the socket."""
        self._datagrams.close()

    def _spans(self, items: Sequence[bytes]) -> Iterator[tuple[int, int]]:
        """Yield begin and end of the items that go into one datagram."""
        if not self._size:
            self._size = UNIX_SIZE
            if not self._is_unix:
                self._size = min(UDP_SIZE, self._datagrams.mtu() - _HEADERS)
        # The last line feed of a datagram is not sent.
        most, room = self._most, self._size + 1
        begin = total = 0
        for index, size in enumerate(map(len, items)):
            total += size
            if (total > room or index - begin == most) and index > begin:
                yield begin, index
                begin, total = index, size
        yield begin, len(items)

    def _post(self, lines: bytes) -> None:
        if len(lines) <= self._size:
            self._datagrams.send(lines)
            return
        # Those of one record. Nothing of it is sent if something cannot be.
        if len(lines) > self._longest:
            limit = self._longest
            raise TooLong(f"too large: {len(lines)} bytes, the limit is {limit}")
        datagrams = [*split(lines, self._size)]
        if (longest := max(map(len, datagrams))) > LARGEST_DATAGRAM:
            raise TooLong(f"{longest} bytes do not fit a datagram")
        for datagram in datagrams:
            self._datagrams.send(datagram)


def split(lines: bytes, size: int) -> Iterator[bytes]:
    """Yield lines in as few datagrams of this size as their order allows; a line that
    is longer goes alone."""
    begin = 0
    while len(lines) - begin > size:
        end = lines.rfind(b"\n", begin, begin + size + 1)
        if end < 0:
            end = lines.find(b"\n", begin)
        if end < 0:
            break
        yield lines[begin:end]
        begin = end + 1
    yield lines[begin:]
