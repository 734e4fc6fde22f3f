"""The table at the end of `make torture`: figures, bounds, and a broken one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.daemon.figures import figure

SCRIPT = Path(__file__).parents[2] / "scripts" / "figures.py"


def table(path: Path) -> tuple[int, str]:
    """Return exit code and output of the script."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(path)], capture_output=True, text=True
    )
    return done.returncode, done.stdout


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the figures, with those that each run has to have."""
    found = tmp_path / "figures.jsonl"
    monkeypatch.setenv("TYK_PUMP_FIGURES", str(found))
    figure("kills", 20)
    figure("kills", 1200)
    figure("records lost", 0, at_most=0)
    figure("repeats where a back end can tell", 0, at_most=0)
    return found


def test_figures_of_one_name_are_one_line(path: Path) -> None:
    """Figures and bounds add up, or the worst counts."""
    figure("repeated", 3, at_most=4)
    figure("repeated", 7, at_most=6)
    figure("recovery", 1.5, at_most=5, unit="s", how="max")
    figure("recovery", 0.25, at_most=5, unit="s", how="max")
    code, text = table(path)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert code == 0
    assert lines == [
        "kills 1,220",
        "records lost 0 at most 0",
        "repeats where a back end can tell 0 at most 0",
        "repeated 10 at most 10",
        "recovery 1.50 s at most 5 s",
    ]


def test_a_broken_bound_is_named(path: Path) -> None:
    """Exit 1, and the line says so."""
    figure("throughput", 0.85, at_least=0.9, how="min")
    figure("throughput", 0.95, at_least=0.9, how="min")
    code, text = table(path)
    assert code == 1
    (line,) = (one for one in text.splitlines() if one.endswith("BROKEN"))
    assert line.split()[:2] == ["throughput", "0.85"]


def test_a_run_without_figures_has_shown_nothing(tmp_path: Path) -> None:
    """Exit 1 as well."""
    code, text = table(tmp_path / "none")
    assert code == 1
    assert text.count("not measured") == 3
