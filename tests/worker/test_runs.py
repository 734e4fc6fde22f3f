"""Runs of a worker, and what watermarks of several runs say together."""

from __future__ import annotations

from tyk_pump import cursors
from tyk_pump.worker.runs import KEPT, Runs


def test_a_run_goes_on_while_frames_are_neighbours() -> None:
    """Another begins where positions were passed over, or taken once more."""
    runs = Runs(0, 1)
    assert [runs.begin("S", 0, 5), runs.begin("S", 5, 9)] == [0, 0]
    assert runs.begin("T", 7, 8) == 7
    assert [runs.begin("S", 12, 14), runs.begin("S", 14, 15)] == [12, 12]
    assert runs.begin("S", 3, 4) == 3


def test_blocks_of_other_lanes_end_no_run() -> None:
    """A lane has every so many blocks."""
    runs = Runs(1, 2)
    assert runs.begin("S", 1000, 2000) == 1000
    assert runs.begin("S", 3000, 3500) == 1000
    assert runs.begin("S", 5000, 5500) == 5000  # 3500 to 4000 are missing


def test_streams_of_long_ago_are_forgotten() -> None:
    """A run of theirs begins anew."""
    runs = Runs(0, 1)
    for number in range(KEPT + 1):
        runs.begin(f"S{number}", 0, 5)
    assert runs.begin("S1", 5, 6) == 0
    assert runs.begin("S0", 5, 6) == 5


def test_what_any_run_has_is_not_fresh() -> None:
    """Each mark holds what is between its beginning and its position."""
    marks = {"P": 3, "P@5": 7, "P@x": 99, "PQ": 99, "P/0:2": 99, "P@20": 4}
    assert list(cursors.fresh(range(10), "P", marks)) == [3, 4, 7, 8, 9]
    assert list(cursors.fresh([4, 6, 8], "P", marks)) == [0, 2]
    assert cursors.fresh(range(10), "Q", marks) == range(10)


def test_names_of_marks() -> None:
    """From 0 on it is the cursor's own, as it has always been."""
    assert [cursors.watermark("P", at) for at in (0, 5)] == ["P", "P@5"]
    assert [cursors.start_of(n, "P") for n in ("P", "P@5", "Q")] == [0, 5, None]
