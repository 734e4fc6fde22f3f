"""What a seed makes of a history: pumps, options, and which faults there are.

Each history has only some kinds of faults, and those often: a mixture of everything
hides what two of them do to each other.
"""

from __future__ import annotations

import random
from typing import Final

import msgspec

from tests.faults.simulation.ends import KINDS
from tests.faults.simulation.workers import FILTERED, POISON, REFUSED
from tyk_pump.config.root import JournalOptions, PumpConfig, RetryOptions, RootOptions

LEASE: Final = 2.0
JOURNALS: Final = ("redis", "spilling", "disk", "full disk")


class Links(msgspec.Struct):
    """What goes wrong between us and Redis, as probabilities per exchange."""

    slow: float = 0.0
    lost: float = 0.0
    crash: float = 0.0
    torn: float = 0.0
    """Others' commands come in between those of a pipeline."""


class Disks(msgspec.Struct):
    """What goes wrong with a transaction of the state file."""

    refuse: float = 0.0
    crash: float = 0.0


class Workers(msgspec.Struct):
    """What goes wrong in a worker process, per frame."""

    seconds: float = 0.02
    """The longest write that is not hung."""
    die: float = 0.0
    hang: float = 0.0
    trouble: float = 0.0
    unanswered: float = 0.0
    """It has delivered, and dies before it says so."""
    twice: float = 0.0
    not_open: float = 0.0


class Happening(msgspec.Struct, order=True):
    """Something that befalls the world at a time."""

    at: float
    kind: str


class Plan:
    """One history's settings; `calm` ends all trouble."""

    def __init__(self, rng: random.Random, always: str = "") -> None:
        self.always = always
        """A kind of trouble that no history is without, and often."""
        self.duration = rng.uniform(3.0, 8.0)
        self.instances = rng.choice((1, 1, 2, 2, 3))
        self.journal = rng.choice(JOURNALS)
        self.fates: dict[str, dict[int, str]] = {}
        self.unowed: dict[str, set[int]] = {}
        """Per pump the records that were claimed where it was not configured."""
        self.mended = False
        """True once refused records would be taken."""
        self.redis_away = 0.0
        self.era = 0
        """How many times Redis was another server."""
        self.ttl = rng.choice((0, 0, 30))
        """Seconds after which the gateway lets a list expire."""
        self._choose_faults(rng)
        self.unsure = bool(
            self.links.lost
            or self.links.crash
            or self.disks.crash
            or "crash" in self.kinds
        )
        """Whether it may be unknown what became of a command, or its sender died."""
        self.belated = bool(self.links.lost)
        """Whether a command may come when its sender has another life."""
        self.late = self.instances > 1 and bool(
            self.links.slow or self.links.lost or "freeze" in self.kinds
        )
        """Whether a trim may come when another instance has the stream already."""
        self.pumps = _pumps(rng)
        self.root = _root(rng, self.journal)
        self.happenings = self._happenings(rng)

    def _choose_faults(self, rng: random.Random) -> None:
        def some(most: float, share: float = 0.4) -> float:
            return rng.uniform(0.1, 1.0) * most if rng.random() < share else 0.0

        self.links = Links(
            slow=some(0.05), lost=some(0.15), crash=some(0.03), torn=some(0.5)
        )
        self.disks = Disks(refuse=some(0.3, 0.25), crash=some(0.1, 0.25))
        self.workers = Workers(
            seconds=rng.choice((0.001, 0.02, 0.2)),
            die=some(0.1),
            hang=some(0.05),
            trouble=some(0.4),
            unanswered=some(0.1),
            twice=some(0.3),
            not_open=some(0.2, 0.15),
        )
        self.kinds = [
            kind
            for kind, share in (
                ("crash", 0.4),
                ("freeze", 0.3),
                ("redis away", 0.25),
                ("failover", 0.2),
                ("redis full", 0.25),
                ("disk full", 0.3),
                ("kill worker", 0.3),
                ("freeze worker", 0.15),
                ("foreign consumer", 0.25),
                ("restart", 0.25),
                ("replay", 0.3),
                ("clock step", 0.15),
                ("fewer pumps", 0.2),
            )
            if rng.random() < share
        ]
        self.odd = {
            fate: rng.random() * most
            for fate, most, share in (
                (FILTERED, 0.3, 0.4),
                (REFUSED, 0.2, 0.4),
                (POISON, 0.03, 0.15),
            )
            if rng.random() < share
        }

    def _happenings(self, rng: random.Random) -> list[Happening]:
        found = [
            Happening(rng.uniform(0.0, self.duration), "push")
            for _ in range(rng.randrange(4, 16))
        ]
        for kind in self.kinds:
            for _ in range(rng.randrange(1, 4)):
                found.append(Happening(rng.uniform(0.2, self.duration), kind))
        if self.always:
            found += [
                Happening(rng.uniform(0.2, self.duration), self.always)
                for _ in range(6)
            ]
        return sorted(found)

    def fate(self, pump: str, number: int, rng: random.Random) -> None:
        """Decide what a pump makes of a record."""
        fates = self.fates.setdefault(pump, {})
        for fate, share in self.odd.items():
            if rng.random() < share:
                fates[number] = fate
                return

    def calm(self) -> None:
        """No fault any more; records that kill stay what they are."""
        self.links, self.disks = Links(), Disks()
        self.workers = Workers(seconds=0.01)
        self.redis_away = 0.0

    def describe(self) -> str:
        """Return the settings for a person."""
        rates = [
            f"{field}={value:.3f}"
            for part in (self.links, self.disks, self.workers)
            for field, value in msgspec.structs.asdict(part).items()
            if value
        ]
        pumps = [f"{pump.name}x{pump.workers}" for pump in self.pumps]
        return (
            f"{self.instances} instances, journal {self.journal},"
            f" window {self.root.window_records}, pumps {' '.join(pumps)},"
            f" {', '.join(self.kinds) or 'nothing'}; {' '.join(rates)}; {self.odd}"
        )


def _pumps(rng: random.Random) -> list[PumpConfig]:
    count = rng.choice((1, 2, 3))
    return [
        PumpConfig(
            name=name,
            type="simulated",
            timeout=rng.choice((0.0, 1.0)),
            workers=rng.choice((1, 1, 1, 2)),
            retry=RetryOptions(max=1.0),
        )
        for name in sorted(rng.sample(KINDS, count))
    ]


def _root(rng: random.Random, journal: str) -> RootOptions:
    kind, limit = {
        "redis": ("redis", 0),
        "spilling": ("redis", rng.choice((1, 100, 600))),
        "disk": ("disk", 0),
        "full disk": ("disk", rng.choice((1, 150, 600))),
    }[journal]
    return RootOptions(
        purge_delay=rng.choice((0.2, 0.5, 1.0)),
        lease_time=LEASE,
        window_records=rng.choice((1, 3, 8, 50)),
        window_bytes=rng.choice((40, 200, 100_000)),
        queue_bytes=rng.choice((60, 400, 100_000)),
        beat_timeout=2.0,
        stuck_timeout=3.0,
        shutdown_timeout=rng.choice((0.5, 3.0)),
        journal=JournalOptions(
            type=kind,
            max_bytes=limit,
            retention=rng.choice((0.0, 1.0, 3600.0)),
            retention_bytes=rng.choice((0, 500, 1 << 30)),
        ),
    )
