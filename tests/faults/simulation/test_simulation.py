"""Histories out of seeds: `python -m tests.faults.simulation SEED` plays one again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.faults.redis_model import RedisModel
from tests.faults.simulation.instance import SimLink
from tyk_pump.source.redis import Command

SEEDS = int(os.environ.get("TYK_PUMP_SEEDS", "450"))


@pytest.mark.timeout(120 + 2 * SEEDS)
@pytest.mark.parametrize("always", ["", "clock step", "fewer pumps"])
def test_every_history_ends_well(always: str) -> None:
    """In a process of its own: the order of sets is a part of the history."""
    seeds = str(SEEDS // 2 if always else SEEDS)
    program = [sys.executable, "-m", "tests.faults.simulation", "--seeds", seeds]
    done = subprocess.run(
        [*program, "--always", always],
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


class Overtaken:
    """An instance whose answers take so long that another sets the field before."""

    def __init__(self) -> None:
        self.redis = RedisModel()

    def exchange(
        self,
        commands: Sequence[Command],
        atomic: bool,
        guard: Callable[[], bool] | None = None,
    ) -> list[Any]:
        if guard is not None and not guard():
            return []
        replies = self.redis.execute(commands, atomic=atomic)
        if commands[0][0] == "HGET":
            self.redis.run(("HSET", "h", "f", "theirs"))
        return replies


def test_of_two_who_set_a_field_one_is_first() -> None:
    """Else a stream has two owners who both heard that it is theirs."""
    instance = Overtaken()
    instance.redis.run(("HSET", "h", "f", "old"))
    link = SimLink(instance)  # type: ignore[arg-type]
    assert not link.compare_and_set("h", "f", b"old", "ours")
    assert instance.redis.run(("HGET", "h", "f")) == b"theirs"
