"""One history: the happenings of a seed, then calm, then the laws."""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable
from typing import Final

import msgspec

from tests.faults.redis_model import RedisModel, Value
from tests.faults.simulation import instance as machine
from tests.faults.simulation import laws
from tests.faults.simulation.ends import BackEnd
from tests.faults.simulation.instance import Instance
from tests.faults.simulation.plan import Plan
from tests.faults.simulation.world import Broken, World
from tyk_pump.config.load import Config
from tyk_pump.source.lists import lists

PATIENCE: Final = 240.0
"""Seconds, of the world's, in which all must be settled after the last fault."""
LEAVING: Final = 30.0


class Verdict(msgspec.Struct):
    """What came of a seed."""

    seed: int
    broken: str = ""
    plan: str = ""
    steps: int = 0
    records: int = 0
    seconds: float = 0.0
    """Of the world's time."""


class MortalRedis(RedisModel):
    """A Redis that remembers what it let expire."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self.expired: list[tuple[str, Value]] = []

    def _end_lives(self) -> None:
        now = self.clock()
        for key in [key for key, at in self.expiries.items() if at <= now]:
            self.expired.append((key, self.data[key]))
            self._remove(key)


class History:
    """Everything that there is in one world."""

    def __init__(
        self,
        seed: int,
        trace: Callable[[str], None] | None = None,
        always: str = "",
    ) -> None:
        random.seed(seed)  # the pauses of back-offs come from there
        self.world = World(seed, trace)
        self.rng = self.world.rng
        machine.enter(self.world)
        self.plan = Plan(self.rng, always)
        self.redis = MortalRedis(lambda: self.world.now)
        self.ends = {
            pump.name: BackEnd(pump.name, self.world.fail) for pump in self.plan.pumps
        }
        prefix = self.plan.root.analytics_storage_config.prefix()
        self.lists = [one.key for one in lists(prefix)][:3]
        self.pushed = 0
        self.foreign: set[int] = set()
        """Records that somebody else has taken."""
        self.losable: set[int] = set()
        """Records that Redis has lost."""
        self.calm = False
        """True once nothing goes wrong any more."""
        self.lossy = False
        """True once Redis has lost anything, or come back with what was gone."""
        self.lossy_again = False
        """True once it has done so twice."""
        self.scarce = False
        """True once Redis had no memory: then numbers may be lost, never records."""
        self.instances = [
            Instance(name, self.world, self.redis, self.plan, self.ends, self._config)
            for name in "ABC"[: self.plan.instances]
        ]

    def _config(self, without: str) -> Config:
        pumps = [pump for pump in self.plan.pumps if pump.name != without]
        return Config(root=self.plan.root, pumps=pumps)

    # The course of things

    def play(self) -> None:
        """Let it happen; Broken when a law does not hold."""
        world = self.world
        world.tell("plan", self.plan.describe())
        for one in self.instances:
            world.after(self.rng.uniform(0.0, 1.0), one.start)
        for happening in self.plan.happenings:
            world.after(happening.at, self._happen, happening.kind)
        self._watch()
        world.run(self.plan.duration)
        self._calm()
        self._settle()
        laws.judge(self)

    def _calm(self) -> None:
        self.world.tell("plan", "calm")
        self.calm = True
        self.plan.calm()
        self.redis.full = False
        for one in self.instances:
            one.disk_full = False
            one.frozen_until = 0.0
            one.wanted = True
            if one.without:
                one.without = ""
                self.plan.unsure = True
                one.crash()
            one.start()

    def _settle(self) -> None:
        """Run until nothing is left; what Redis has brought back takes another life."""
        for attempt in range(4):
            if not self.world.run(PATIENCE, lambda: laws.quiet(self)):
                raise Broken(f"no end in sight: {laws.unsettled(self)}")
            for one in self.instances:
                one.stop()
            left = self.world.run(
                LEAVING, lambda: not any(one.alive for one in self.instances)
            )
            if not left:
                raise Broken("an instance does not leave")
            left_behind = laws.left_behind(self)
            waiting = laws.waiting(self)
            if not (left_behind or waiting) or attempt == 3:
                return
            self.world.tell("plan", f"left behind: {left_behind}, {waiting}")
            if not waiting and not self.lossy and attempt > 1:
                return
            for one in self.instances:
                one.wanted = True
                one.start()

    def _watch(self) -> None:
        laws.bounded(self)
        self.world.after(0.5, self._watch)

    # What happens

    def _happen(self, kind: str) -> None:
        getattr(self, "_" + kind.replace(" ", "_"))()

    def _some(self) -> Instance:
        return self.rng.choice(self.instances)

    def _push(self) -> None:
        if self.redis.full or self.plan.redis_away > self.world.now:
            return
        key = self.rng.choice(self.lists)
        count = self.rng.choice((1, 3, 10, 30))
        raws = []
        for number in range(self.pushed, self.pushed + count):
            for pump in self.plan.pumps:
                self.plan.fate(pump.name, number, self.rng)
            raws.append(b"%d %s" % (number, b"." * self.rng.randrange(20)))
        self.world.tell(
            "gateway", f"pushes {self.pushed}-{self.pushed + count - 1} to {key[-8:]}"
        )
        self.pushed += count
        self.redis.run(("RPUSH", key, *raws))
        if self.plan.ttl:
            self.redis.run(("PEXPIRE", key, self.plan.ttl * 1000))

    def _foreign_consumer(self) -> None:
        key = self.rng.choice(self.lists)
        taken = self.redis.run(("LRANGE", key, 0, -1))
        self.redis.run(("UNLINK", key))
        self.world.tell("foreign", f"takes {len(taken)} from {key[-8:]}")
        self.foreign.update(map(laws.number, taken))

    def _crash(self) -> None:
        self._some().crash()

    def _freeze(self) -> None:
        self._some().freeze(self.rng.choice((0.3, 1.5, 4.0)))

    def _restart(self) -> None:
        one = self._some()
        one.stop()

        def again() -> None:
            if self.calm:
                return
            one.wanted = True
            one.start()

        self.world.after(self.rng.uniform(0.5, 5.0), again)

    def _fewer_pumps(self) -> None:
        """A pump is not in a configuration for some time: it keeps what it is owed."""
        one = self._some()
        if len(self.plan.pumps) < 2 or one.without:
            return
        one.without = self.rng.choice(self.plan.pumps).name
        self.world.tell(one.name, f"is configured without {one.without}")
        one.again()

        def whole() -> None:
            if one.without:
                one.without = ""
                self.world.tell(one.name, "is configured with all pumps")
                one.again()

        self.world.after(self.rng.uniform(1.0, 6.0), whole)

    def _redis_away(self) -> None:
        seconds = self.rng.choice((0.2, 1.0, 3.0))
        self.world.tell("redis", f"is away for {seconds} s")
        self.plan.redis_away = self.world.now + seconds

    def _redis_full(self) -> None:
        self.world.tell("redis", "is full")
        self.redis.full = self.scarce = True

        def room() -> None:
            self.world.tell("redis", "has room again")
            self.redis.full = False

        self.world.after(self.rng.choice((0.3, 1.0, 3.0)), room)

    def _failover(self) -> None:
        """A replica stops to follow; some time later it is made the master."""
        image, era = self.redis.snapshot(), self.plan.era

        def over() -> None:
            if era != self.plan.era:
                return  # it followed a master that is gone
            old = laws.numbers(image[0])
            self.losable |= laws.numbers(self.redis.data) - old
            self.lossy, self.lossy_again = True, self.lossy
            for end in self.ends.values():
                end.twice_allowed |= old
                end.unordered = True
            self.world.tell("redis", "comes back with older data")
            self.redis.restore(image)
            self.plan.era += 1

        self.world.after(self.rng.choice((0.01, 0.1, 0.5, 1.5)), over)

    def _disk_full(self) -> None:
        one = self._some()
        self.world.tell(one.name, "has a full disk")
        one.disk_full = True

        def room() -> None:
            self.world.tell(one.name, "has room on its disk again")
            one.disk_full = False

        self.world.after(self.rng.choice((0.3, 1.5, 4.0)), room)

    def _kill_worker(self) -> None:
        found = list(self._some().table.alive.values())
        if found:
            self.rng.choice(found).die(-9)

    def _freeze_worker(self) -> None:
        found = list(self._some().table.alive.values())
        if found:
            self.rng.choice(found).freeze()

    def _replay(self) -> None:
        self.plan.mended = self.rng.random() < 0.5
        self._some().ask("dead-letters.replay", {})

    def _clock_step(self) -> None:
        far = 86400.0 * 40 if self.plan.always else 5.0
        self._some().clock.step += self.rng.choice((-3600.0, -far, far, 3600.0))


def play(
    seed: int, trace: Callable[[str], None] | None = None, always: str = ""
) -> Verdict:
    """Play the history of a seed; whatever goes wrong stands in the verdict."""
    verdict = Verdict(seed)
    history = History(seed, trace, always)
    try:
        history.play()
    except Broken as exc:
        verdict.broken = str(exc)
    except Exception:
        verdict.broken = traceback.format_exc()
    finally:
        history.world.close()
    verdict.plan = history.plan.describe()
    verdict.steps = history.world.steps
    verdict.records = history.pushed
    verdict.seconds = history.world.now - 1000
    return verdict
