"""The hold on Redis: trouble is noted, never raised, and pauses grow."""

from __future__ import annotations

from typing import Any

import pytest

from tests.worker.bench import StillClock
from tyk_pump.config.root import RootOptions
from tyk_pump.coordinator.lifeline import LONGEST_PAUSE, Lifeline
from tyk_pump.errors import ConfigError, LeaseLost, SourceError, StateError


class Folder:
    """Stands in for the state folder."""

    renewed = 0

    def renew(self) -> None:
        self.renewed += 1


class Fake:
    """A source that fails as told."""

    lease_end = 1e9

    def __init__(self) -> None:
        self.streams: dict[str, Any] = {}

    def keep_intents(self) -> None:
        """There are none."""


def make(lost: list[int]) -> tuple[Lifeline, StillClock, Fake, Folder]:
    """Return a lifeline that has begun with a fake source."""
    clock, fake, folder = StillClock(), Fake(), Folder()
    line = Lifeline(
        RootOptions(),
        folder,  # type: ignore[arg-type]
        None,  # type: ignore[arg-type]
        None,  # type: ignore[arg-type]
        clock,
        fields=list,
        on_lease=lambda end: None,
        on_lost=lambda: lost.append(1),
    )
    line.source = fake  # type: ignore[assignment]
    line._started = True
    return line, clock, fake, folder


def fail(error: Exception) -> Any:
    """Return an action that raises."""

    def action(source: Any) -> None:
        raise error

    return action


def test_pauses_grow_and_end_with_an_answer() -> None:
    """The first pause is short, none is longer than the ceiling, success resets."""
    line, clock, _, _ = make([])
    pauses = []
    for _ in range(10):
        assert not line.run(fail(SourceError("away")))
        assert not line.usable
        pauses.append(line._next - clock.time)
        clock.time = line._next
        assert line.recovering
    assert pauses[0] <= 0.1 and LONGEST_PAUSE / 2 <= pauses[-1] <= LONGEST_PAUSE
    assert line.run(lambda source: None)
    assert not line.error
    line.run(fail(SourceError("away")))
    assert line._next - clock.time <= 0.1


def test_a_state_file_that_refuses_is_trouble_like_any_other() -> None:
    """Redis without memory and a full disk together do not end the coordinator."""
    line, _, _, _ = make([])
    assert not line.run(fail(StateError("disk full")))
    assert line.error == "disk full"


def test_a_lost_lease_drops_everything_once() -> None:
    """A new incarnation begins with a new source."""
    lost: list[int] = []
    line, _, _, folder = make(lost)
    assert not line.run(fail(LeaseLost("gone")))
    assert lost == [1] and folder.renewed == 1
    assert line.source is None and not line.usable


def test_a_hanging_redis_is_not_asked_again_when_there_is_no_time() -> None:
    """An attempt that would pass the end of the stop is not begun."""
    line, clock, _, _ = make([])

    def hang(source: Any) -> None:
        clock.time += 5.0
        raise SourceError("no answer")

    line.deadline = clock.time + 10.5
    line.run(hang)
    clock.time += 0.2
    assert line.usable
    clock.time += 1.0
    assert not line.usable


def test_a_rival_is_waited_for_before_we_leave() -> None:
    """Our own past ends with its lease; a rival that lives on makes us leave."""
    line, clock, fake, _ = make([])
    line._started = False

    def start() -> None:
        raise ConfigError("another living instance")

    fake.start = start  # type: ignore[attr-defined]
    assert not line.purge()
    assert "another living instance" in line.error
    clock.time += RootOptions().lease_time * 1.4
    assert not line.purge()
    clock.time += RootOptions().lease_time
    with pytest.raises(ConfigError):
        line.purge()
