"""A worker without a process: frames in, answers out, a clock that does not wait."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from tyk_pump import channel
from tyk_pump.clock import Clock
from tyk_pump.config.root import PumpConfig, RetryOptions, RootOptions
from tyk_pump.pumps.protocol import Batch, Pump
from tyk_pump.record import wire
from tyk_pump.record.analytics import ALL, AnalyticsRecord
from tyk_pump.worker import outcome
from tyk_pump.worker.loop import Worker


class StillClock(Clock):
    """A clock whose sleep moves the time at once."""

    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds


class End:
    """Stands in for the channel's worker end; stops when the frames are out."""

    def __init__(self, frames: Sequence[bytes]) -> None:
        self.slot = [0.0] * channel.SLOTS
        self.slot[channel.LEASE] = 1e18
        self.frames = deque(frames)
        self.answers: list[outcome.Message] = []

    def take(self, seconds: float) -> bytes | None:
        if self.frames:
            return self.frames.popleft()
        self.slot[channel.STOP] = 1
        return None

    def answer(self, message: outcome.Message) -> None:
        self.answers.append(outcome.decode(outcome.encode(message)))

    def stop(self) -> None:
        """Tell the worker to stop."""
        self.slot[channel.STOP] = 1

    @property
    def outcomes(self) -> list[outcome.Outcome]:
        return [a for a in self.answers if isinstance(a, outcome.Outcome)]


class ScriptedPump:
    """A pump whose back end answers by script; keeps what has arrived."""

    options_type: ClassVar[type[Any]] = dict
    fields: Any = ALL

    def __init__(self, *script: BaseException | None) -> None:
        self.script = deque(script)
        self.arrived: list[str] = []
        self.calls: list[list[str]] = []
        self.before: Callable[[], None] = lambda: None

    def open(self) -> None:
        pass

    def probe(self) -> str:
        return "ok"

    def write(self, batch: Batch) -> None:
        self.before()
        names = [record.api_id for record in batch.records]
        self.calls.append(names)
        answer = self.script.popleft() if self.script else None
        if answer is None:
            self.arrived += names
            return
        pending = getattr(answer, "pending", None)
        rejected = getattr(answer, "rejected", {})
        if pending is None or not (pending or rejected):
            raise answer
        bad = set(pending) | set(rejected)
        self.arrived += [name for i, name in enumerate(names) if i not in bad]
        raise answer

    def close(self) -> None:
        pass


def frame(names: Sequence[str], first: int = 0, ids: list[str] | None = None) -> bytes:
    """Return a frame of one record per name; its api_id is the name."""
    raws = [wire.pack(AnalyticsRecord(api_id=name)) for name in names]
    return channel.encode_frame("S", "analytics", "msgpack", first, ids, raws)


def config(**options: Any) -> PumpConfig:
    """Return the configuration of a pump with these common options."""
    retry = options.pop("retry", RetryOptions())
    return PumpConfig(name="T", type="dummy", retry=retry, **options)


def run(
    pump: Pump,
    frames: Sequence[bytes],
    *,
    settings: PumpConfig | None = None,
    clock: StillClock | None = None,
    end: End | None = None,
) -> End:
    """Let a worker settle the frames; return its end with the answers."""
    end = end or End(frames)
    worker = Worker(
        settings or config(),
        RootOptions(),
        pump,
        end,  # type: ignore[arg-type]
        lane=0,
        clock=clock or StillClock(),
        parent_alive=lambda: True,
    )
    worker.run()
    return end
