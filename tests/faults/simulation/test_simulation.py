"""Histories out of seeds: `python -m tests.faults.simulation SEED` plays one again."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SEEDS = int(os.environ.get("TYK_PUMP_SEEDS", "450"))


@pytest.mark.timeout(120 + 2 * SEEDS)
@pytest.mark.parametrize("always", ["", "clock step"])
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
