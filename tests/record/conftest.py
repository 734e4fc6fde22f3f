"""A local zone for each test: UTC unless it sets another."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tyk_pump.record import gotime


@pytest.fixture(autouse=True)
def set_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Set the local zone of the process, and look it up again afterwards."""

    def put(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        gotime.reset()

    put("UTC")
    yield put
    monkeypatch.undo()
    gotime.reset()
