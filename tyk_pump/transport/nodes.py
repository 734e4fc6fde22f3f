"""The nodes of a cluster behind one HTTP client: each in turn, around dead ones."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import msgspec

from tyk_pump.errors import TransientError
from tyk_pump.transport.http import HttpClient, Reply, Unreachable

FIRST_REST: Final = 2.0
LONGEST_REST: Final = 60.0
"""Seconds for which a node that did not answer is left out, doubling each time."""
GREETING_SECONDS: Final = 3.0
"""How long a node that was dead may take to say that it is back."""


def addresses(text: str) -> list[str]:
    """Return the addresses of a list with commas, blanks around them cut off."""
    return [url for url in (part.strip() for part in text.split(",")) if url]


def without_userinfo(url: str) -> str:
    """Return an address without name and password, whatever else is wrong with it."""
    scheme, sign, rest = url.rpartition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{sign}{host.rpartition('@')[2]}{slash}{path}"


def userinfo(urls: Sequence[str]) -> tuple[str, str] | None:
    """Return name and password of the first address that has them."""
    for url in urls:
        found, at, _ = urlsplit(url).netloc.rpartition("@")
        if at:
            name, _, password = found.partition(":")
            return unquote(name), unquote(password)
    return None


class _Node(msgspec.Struct):
    url: str
    failures: int = 0
    rests_until: float = 0.0


class Nodes:
    """Sends each request to the next node that lives; usable by several threads.

    A request that had no answer goes on to the next node at once: it may have been
    served nevertheless, so only what can be repeated is to be sent this way.
    """

    def __init__(
        self,
        http: HttpClient,
        urls: Sequence[str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`urls` have no slash at their end."""
        self._http = http
        self._clock = clock
        self._lock = threading.Lock()
        self._next = 0
        self._nodes = [_Node(url) for url in urls]

    @property
    def urls(self) -> list[str]:
        """Return the addresses of all nodes, dead ones too."""
        return [node.url for node in self._nodes]

    def replace(self, urls: Sequence[str]) -> None:
        """Go on with these nodes; what is known of each stays."""
        with self._lock:
            known = {node.url: node for node in self._nodes}
            self._nodes = [known.get(url) or _Node(url) for url in urls]

    def request(
        self, method: str, path: str, body: bytes | None = None, **how: Any
    ) -> Reply:
        """Return the first answer; the keywords are those of the client's `request`.

        Unreachable when no node answers.
        """
        failure: TransientError = Unreachable("no node answers")
        for node in self._candidates():
            try:
                reply = self._http.request(method, node.url + path, body, **how)
            except Unreachable as exc:
                self._rest(node)
                failure = exc
            except TransientError:
                node.failures = 0
                raise
            else:
                node.failures = 0
                return reply
        raise failure

    def _candidates(self) -> Iterator[_Node]:
        now = self._clock()
        with self._lock:
            start = self._next % len(self._nodes)
            self._next += 1
            order = self._nodes[start:] + self._nodes[:start]
        awake = [node for node in order if node.rests_until <= now]
        found = False
        for node in awake:
            if node.failures and len(order) > 1 and not self._is_back(node):
                continue
            found = True
            yield node
        if not found:
            # All of them are dead as far as we know: then that may be wrong.
            yield from order

    def _is_back(self, node: _Node) -> bool:
        """Ask a node that was dead before it is trusted with a whole request."""
        try:
            self._http.request("HEAD", f"{node.url}/", timeout=GREETING_SECONDS)
        except Unreachable:
            self._rest(node)
            return False
        except TransientError:
            pass  # it answers, and that it may not be asked this is no matter
        return True

    def _rest(self, node: _Node) -> None:
        with self._lock:
            rest = min(LONGEST_REST, FIRST_REST * 2 ** min(node.failures, 16))
            node.failures += 1
            node.rests_until = self._clock() + rest
