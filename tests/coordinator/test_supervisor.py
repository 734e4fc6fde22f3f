"""Workers as processes: what happens when one cannot be made or has ended."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.coordinator.test_settling import handle
from tyk_pump.coordinator import supervisor


class NoProcess:
    """A process that the kernel has no room for."""

    def __init__(self, **named: Any) -> None:
        pass

    def start(self) -> None:
        raise BlockingIOError("no more processes")


def test_a_worker_that_cannot_be_made_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither process nor channel is listened to, and it can be started later."""
    worker = handle()
    context = supervisor._context

    class Context:
        Process = NoProcess

        def __getattr__(self, name: str) -> Any:
            return getattr(context, name)

    monkeypatch.setattr(supervisor, "_context", Context())
    with pytest.raises(BlockingIOError):
        worker.start()
    assert worker.process is None and worker.channel is None
    worker.start_at = 0.0
    assert worker.due()


def test_pauses_grow_and_a_settled_frame_ends_them() -> None:
    """Each death in a row makes the pause longer."""
    worker = handle()
    pauses = []
    for _ in range(12):
        worker._again("restarting", "died")
        assert worker.start_at is not None
        pauses.append(worker.start_at - worker._clock.monotonic())
    assert pauses[0] <= 0.5 and pauses[-1] > 25
    assert max(pauses) <= supervisor.LONGEST_PAUSE


def test_a_new_worker_may_be_silent_longer_until_its_first_beat() -> None:
    """It reads its code first; afterwards `beat_timeout` counts."""
    worker = handle()
    worker._began = 7.0
    worker._root = msgspec.structs.replace(worker._root, beat_timeout=0.5)
    assert worker._patience(7.0) == supervisor.START_SECONDS
    assert worker._patience(7.1) == 0.5
