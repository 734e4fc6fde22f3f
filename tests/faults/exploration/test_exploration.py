"""No state within these bounds breaks a promise, and from each all can be settled.

`make torture`, which sets TYK_PUMP_KILLS, walks through the larger bounds too.
"""

from __future__ import annotations

import os

import pytest

from tests.faults.exploration.explorer import Bounds, Explorer

ONE = (("P",),)
BOTH = (("P",), ("P",))

SMALL = {
    "failure": Bounds(failures=1),
    "leave": Bounds(leaves=1),
    "kill": Bounds(kills=1, instances=ONE, pushes=((0, 1), (1, 1))),
    "unanswered, and late": Bounds(instances=ONE, failures=1, ghosts=1),
    "another consumer": Bounds(instances=ONE, kills=1, foreign=1),
}
LARGE = {
    "kill": Bounds(kills=1),
    "unanswered, and late": Bounds(failures=1, ghosts=1),
    "kill, other consumer": Bounds(kills=1, foreign=1),
    "frozen": Bounds(freezes=1),
    "short of memory": Bounds(shortages=1, pushes=((0, 1),)),
    "two kills": Bounds(kills=2, instances=ONE, fine=True),
}


@pytest.mark.parametrize("name", SMALL)
def test_no_state_breaks_a_promise(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every one that can be reached, each once."""
    walk(name, SMALL[name], capsys)


@pytest.mark.skipif(not os.environ.get("TYK_PUMP_KILLS"), reason="for make torture")
@pytest.mark.parametrize("name", LARGE)
@pytest.mark.timeout(3600)
def test_no_state_breaks_a_promise_in_larger_bounds(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As above, with more of everything."""
    walk(name, LARGE[name], capsys)


def walk(name: str, bounds: Bounds, capsys: pytest.CaptureFixture[str]) -> None:
    """Visit all states, and say how many there are."""
    explorer = Explorer(bounds)
    explorer.explore()
    with capsys.disabled():
        print(
            f"\n{name}: {explorer.states} states, {explorer.edges} steps,"
            f" at rest in {explorer.settled}"
        )
    assert explorer.settled
