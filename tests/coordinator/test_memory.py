"""The forecast of a full Redis: early, once per change, and robust."""

from __future__ import annotations

import math

import pytest

from tyk_pump.coordinator.memory import LOOK_SECONDS, Guard, Usage

MB = 1_000_000


def looks(guard: Guard, used: list[int], start: float = 0.0) -> None:
    """Let the guard look so often, one node, 1000 MB."""
    for number, one in enumerate(used):
        usage = Usage(used=one, limit=1000 * MB, policy="noeviction")
        guard.look({"": usage}, start + number * LOOK_SECONDS, 7)


def test_a_straight_growth_is_forecast(caplog: pytest.LogCaptureFixture) -> None:
    """1 MB a second, 700 MB left: about twelve minutes, and one line for it."""
    guard = Guard()
    looks(guard, [100 * MB + 10 * MB * n for n in range(20)])
    assert guard.full_in == pytest.approx(710, abs=1)
    assert not guard.danger
    (line,) = caplog.records
    assert "full in about" in line.getMessage() and line.levelname == "WARNING"
    looks(guard, [300 * MB + 10 * MB * n for n in range(20)], 200.0)
    assert guard.full_in < 600 and "mend the pump" in guard.danger
    assert [line.levelname for line in caplog.records] == ["WARNING", "ERROR"]


def test_bursts_do_not_bend_it() -> None:
    """A save that doubles the memory for one look says nothing."""
    guard = Guard()
    used = [100 * MB + MB * n for n in range(30)]
    used[12] = used[20] = 800 * MB
    looks(guard, used)
    assert guard.full_in == pytest.approx(8710, rel=0.1)


def test_no_forecast_without_growth_or_limit() -> None:
    """Shrinking, level, too few looks, no maxmemory."""
    guard = Guard()
    looks(guard, [500 * MB - MB * n for n in range(20)])
    assert math.isinf(guard.full_in) and not guard.danger
    guard = Guard()
    looks(guard, [100 * MB, 200 * MB, 300 * MB])
    assert math.isinf(guard.full_in)
    guard.look({"": Usage(used=MB)}, 99.0, 0)
    assert (guard.limit, guard.full_in) == (0, math.inf)


def test_the_fullest_node_counts() -> None:
    """In a cluster each node is full for itself."""
    guard = Guard()
    nodes = {"a": Usage(95, 100, "noeviction"), "b": Usage(1, 100, "allkeys-lru")}
    guard.look(nodes, 1.0, 0)
    assert (guard.used, guard.limit) == (96, 200)
    assert "95%" in guard.danger and "allkeys-lru" in guard.evicting
    guard.look({"a": Usage(10, 100, "noeviction")}, 2.0, 0)
    assert not guard.danger and not guard.evicting
