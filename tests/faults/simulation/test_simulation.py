"""Histories out of seeds: `python -m tests.faults.simulation SEED` plays one again."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SEEDS = int(os.environ.get("TYK_PUMP_SEEDS", "450"))


@pytest.mark.timeout(120 + 2 * SEEDS)
def test_every_history_ends_well() -> None:
    """In a process of its own: the order of sets is a part of the history."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.simulation", "--seeds", str(SEEDS)],
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
