"""The coordinator's hold on Redis: connect, lease, rounds, trouble and back-off."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence

from tyk_pump import backoff
from tyk_pump.clock import Clock
from tyk_pump.config.root import RootOptions
from tyk_pump.coordinator.journal import Journal
from tyk_pump.coordinator.memory import LOOK_SECONDS, Guard, Usage
from tyk_pump.errors import ConfigError, LeaseLost, SourceError, StateError
from tyk_pump.source.claims import Source, Stream
from tyk_pump.source.redis import Link
from tyk_pump.state.file import StateFile
from tyk_pump.state.folder import StateFolder

logger = logging.getLogger(__name__)

LONGEST_PAUSE = 2.0
RIVAL_LEASES = 1.5
"""Leases to wait for the end of an instance that has our name."""


class Lifeline:
    """Runs every action that needs Redis; trouble is noted here and never raised."""

    def __init__(
        self,
        root: RootOptions,
        folder: StateFolder,
        state: StateFile,
        journal: Journal,
        clock: Clock,
        *,
        fields: Callable[[], Sequence[str]],
        on_lease: Callable[[float], None],
        on_lost: Callable[[], None],
    ) -> None:
        self._root = root
        self._folder = folder
        self._state = state
        self._journal = journal
        self._clock = clock
        self._fields = fields
        self._on_lease = on_lease
        self._on_lost = on_lost
        self._link: Link | None = None
        self.source: Source | None = None
        self._started = False
        self._next = 0.0
        self._attempt = 0
        self._cost = 0.0
        self.deadline = math.inf
        """Monotonic time by which all has to be done; set when we stop."""
        self.error = "not connected yet"
        self.errors = 0
        self.purges = 0
        self.claimed = 0
        self.lengths: dict[str, int] = {}
        self.memory = Guard()
        self._memory_next = 0.0
        self._rival_since = 0.0

    @property
    def usable(self) -> bool:
        """True when Redis has answered and no back-off is running."""
        now = self._clock.monotonic()
        # A Redis that hangs costs a time-out at each attempt.
        return self._started and now >= self._next and now + self._cost <= self.deadline

    @property
    def recovering(self) -> bool:
        """True when there was trouble and it is time to try again."""
        return bool(self.error) and self._clock.monotonic() >= self._next

    @property
    def lease_end(self) -> float:
        """Monotonic time until which our workers may begin frames."""
        return self.source.lease_end if self.source and self._started else 0.0

    def streams(self) -> list[Stream]:
        """Return the streams that we own, the oldest first."""
        return list(self.source.streams.values()) if self.source else []

    def purge(self) -> bool:
        """One round: claim what has come, adopt what nobody owns."""
        if self._clock.monotonic() < self._next:
            return False
        if not self._started and not self.run(self._begin):
            return False
        return self.run(self._round)

    def keep(self) -> None:
        """Renew the lease when a third of it has passed."""
        left = self.lease_end - self._clock.monotonic()
        if self.usable and left < self._root.lease_time * 2 / 3:
            self.run(self._renew)

    def run(self, action: Callable[[Source], None]) -> bool:
        """Do something with Redis; False when it could not be done."""
        began = self._clock.monotonic()
        try:
            if self.source is None:
                self.source = self._new_source()
            if self._started and self._clock.monotonic() >= self.source.lease_end:
                # We may have been frozen: ask before anything else is believed.
                self._renew(self.source)
            action(self.source)
        except LeaseLost as exc:
            self._lost(str(exc))
            return False
        except (SourceError, StateError) as exc:
            # The state file takes notes that Redis has no memory for, or cannot.
            self._cost = self._clock.monotonic() - began
            self._trouble(str(exc))
            return False
        self._cost = 0.0
        if self._attempt:
            logger.info("Redis answers again", extra={"prefix": "main"})
        self.error = ""
        self._attempt = 0
        return True

    def close(self) -> None:
        """Let go of the connection."""
        if self._link is not None:
            self._link.close()

    def _begin(self, source: Source) -> None:
        try:
            source.start()
        except ConfigError as exc:
            # It may be our own past, killed together with its state folder: then its
            # lease ends. A rival that lives renews it, and we leave.
            now = self._clock.monotonic()
            self._rival_since = self._rival_since or now
            if now - self._rival_since > self._root.lease_time * RIVAL_LEASES:
                raise
            raise SourceError(str(exc)) from exc
        self._rival_since = 0.0
        self._started = True
        self._on_lease(source.lease_end)
        self._memory_next = 0.0

    def _round(self, source: Source) -> None:
        look = source.round()
        self._on_lease(source.lease_end)
        self.purges += 1
        self.lengths = look.lengths
        self.claimed += look.claimed
        for stream in look.adopted:
            logger.info("stream adopted", extra={"prefix": "main", "batch": stream})
        if self._clock.monotonic() >= self._memory_next:
            self._memory_next = self._clock.monotonic() + LOOK_SECONDS
            self._look_at_memory(source)

    def _look_at_memory(self, source: Source) -> None:
        """See how full Redis is; where it says nothing of itself, nothing is known."""
        assert self._link is not None
        try:
            found = self._link.infos("memory")
        except SourceError as exc:  # an ACL may forbid it; no reason to stop
            logger.debug("Redis tells nothing of itself", extra={"reason": str(exc)})
            return
        nodes = {
            name: Usage(
                used=_number(facts.get("used_memory")),
                limit=_number(facts.get("maxmemory")),
                policy=facts.get("maxmemory_policy", ""),
            )
            for name, facts in found.items()
        }
        _, waiting = source.backlog()
        self.memory.look(nodes, self._clock.monotonic(), waiting)
        self._journal.redis_limit = self.memory.limit
        self._journal.hurry = bool(self.memory.danger)

    def _renew(self, source: Source) -> None:
        source.renew()
        self._on_lease(source.lease_end)

    def _new_source(self) -> Source:
        if self._link is None:
            self._link = Link(self._root.analytics_storage_config)
        return Source(
            self._link,
            prefix=self._root.analytics_storage_config.prefix(),
            name=self._folder.name,
            incarnation=self._folder.incarnation,
            previous=self._folder.previous,
            lease_time=self._root.lease_time,
            fields=self._fields(),
            book=self._state,
            shelf=self._journal,
            clock=self._clock,
        )

    def _trouble(self, reason: str) -> None:
        self.errors += 1
        self._attempt += 1
        if self._attempt == 1:
            logger.error(
                "Redis cannot serve us now", extra={"prefix": "main", "reason": reason}
            )
        self.error = reason
        pause = backoff.delay(self._attempt, initial=0.1, ceiling=LONGEST_PAUSE)
        self._next = self._clock.monotonic() + pause

    def _lost(self, reason: str) -> None:
        """Another instance may be the owner: drop what is in hand and begin anew."""
        logger.error(
            "lease lost, what was in hand is dropped",
            extra={"prefix": "main", "reason": reason},
        )
        try:
            if self.source is not None:
                self.source.keep_intents()
        except StateError as exc:
            logger.error(
                "lists that were about to be claimed are noted in Redis only",
                extra={"prefix": "main", "reason": str(exc)},
            )
        self._on_lost()
        self._folder.renew()
        self.source = None
        self._started = False
        self._trouble(reason)


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() else 0
