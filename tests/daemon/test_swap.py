"""A rolling swap: another consumer pops the same lists while we start, run and stop.

It takes what is there as the reference does, LRANGE and DEL in one MULTI. A record is
its or ours, never both's and never nobody's.
"""

from __future__ import annotations

import contextlib
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
import redis

from tests.daemon.figures import figure
from tests.daemon.harness import (
    KILLS,
    LIST,
    Daemon,
    csv_names,
    csv_pump,
    names,
    push,
    settled,
    wait_for,
)
from tests.servers.redis import RedisServer
from tyk_pump.record.codec import decoder

_decode = decoder("msgpack", ["alias"])
TURNS = max(5, KILLS // 10)
JOURNALS: dict[str, dict[str, Any]] = {
    "redis": {"type": "redis"},
    "disk": {"type": "disk"},
    "spill": {"type": "redis", "max_bytes": 30_000},
}


def alias(raw: bytes) -> str:
    """Return the name of a record."""
    return _decode(raw).alias


class Foreign:
    """A consumer of the lists that is not ours; it runs while it is entered."""

    def __init__(self, server: RedisServer, seed: int) -> None:
        self.names: Counter[str] = Counter()
        self._client: redis.Redis = server.client()
        self._chance = random.Random(seed)
        self._ends = threading.Event()
        self._thread: threading.Thread | None = None

    def pop(self) -> int:
        """Take all that is there; return how much."""
        with self._client.pipeline(transaction=True) as pipe:
            pipe.lrange(LIST, 0, -1)
            pipe.delete(LIST)
            records, _ = pipe.execute()
        self.names.update(alias(raw) for raw in records)
        return len(records)

    def __enter__(self) -> Self:
        self._ends.clear()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._thread is not None
        self._ends.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ends.wait(self._chance.random() * 0.1):
            self.pop()

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()


class Gateway:
    """Pushes records, a few at a time, while it is entered."""

    def __init__(self, server: RedisServer, run: str) -> None:
        self.names: list[str] = []
        self._client: redis.Redis = server.client()
        self._run_name = run
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ends.set()
        self._thread.join()
        self._client.close()

    def _run(self) -> None:
        chance = random.Random(self._run_name)
        turn = 0
        while not self._ends.wait(0.005):
            fresh = names(f"{self._run_name}{turn}", chance.randrange(1, 20))
            push(self._client, fresh)
            self.names += fresh
            turn += 1


def check(pushed: list[str], theirs: Counter[str], ours: Counter[str]) -> None:
    """Assert that each record is with one of them, once."""
    both = theirs + ours
    lost = set(pushed) - set(both)
    twice = [name for name, times in both.items() if times > 1]
    figure("records of a rolling swap", len(pushed))
    figure("records lost", len(lost), at_most=0)
    figure("repeats in a rolling swap", len(twice), at_most=0)
    assert not lost, f"{len(lost)} lost, {sorted(lost)[:3]}"
    assert not twice, f"{len(twice)} twice, {sorted(twice)[:3]}"
    assert set(both) == set(pushed)


@pytest.mark.timeout(240 + 15 * TURNS)
@pytest.mark.parametrize("journal", JOURNALS)
def test_each_record_goes_to_one_of_two_consumers(
    tmp_path: Path, make_redis: Callable[..., RedisServer], journal: str
) -> None:
    """It pops all along, while we start, run, are killed and stop."""
    server = make_redis()
    chance = random.Random(journal)
    out = tmp_path / "csv"
    with (
        contextlib.closing(Foreign(server, 1)) as foreign,
        Daemon(
            tmp_path / "a",
            server.port,
            {"csv": csv_pump(out, retry={"max": 0.5})},
            window_records=50,
            journal=JOURNALS[journal],
        ) as daemon,
    ):
        with Gateway(server, "g") as gateway, foreign:
            for turn in range(TURNS):
                daemon.start()
                if chance.random() < 0.7:
                    before = len(gateway.names)
                    daemon.wait_ready()
                    wait_for("traffic", lambda: len(gateway.names) > before)  # noqa: B023
                time.sleep(chance.random() * 0.3)
                if turn % 2:
                    daemon.kill()
                else:
                    daemon.stop(signal.SIGTERM)
        # The swap is done: what is still there is ours.
        daemon.start().wait_ready()
        client = server.client()
        wait_for("the end", lambda: settled(client))
        wait_for("the rest", lambda: not daemon.pump("CSV")["pending"])
        assert daemon.stop() == 0
        check(gateway.names, foreign.names, csv_names(out))
        assert foreign.names, "it has got nothing"
        assert csv_names(out), "we have got nothing"


@pytest.mark.timeout(240)
@pytest.mark.parametrize("end", ["stop", "kill"])
@pytest.mark.parametrize("journal", JOURNALS)
def test_back_to_the_other_one(
    tmp_path: Path, make_redis: Callable[..., RedisServer], journal: str, end: str
) -> None:
    """What a pump in trouble has not got goes back to the lists, in order."""
    server = make_redis()
    client = server.client()
    out = tmp_path / "csv"
    with (
        contextlib.closing(Foreign(server, 2)) as foreign,
        Daemon(
            tmp_path / "a",
            server.port,
            {"csv": csv_pump(out, retry={"max": 0.5})},
            window_records=50,
            shutdown_timeout=2,
            journal=JOURNALS[journal],
        ) as daemon,
    ):
        daemon.start().wait_ready()
        first = names("first", 300)
        push(client, first)
        wait_for("them", lambda: settled(client) and out.is_dir())
        wait_for("an end", lambda: not daemon.pump("CSV")["pending"])
        saved = out.rename(tmp_path / "saved")
        out.write_text("not a folder")
        waiting = names("waits", 1000)
        push(client, waiting)
        wait_for("a claim", lambda: daemon.pump("CSV")["pending"] == len(waiting))
        wait_for("trouble", lambda: daemon.pump("CSV")["last_error"])
        if end == "stop":
            assert daemon.stop() == 0
        else:
            daemon.kill()
        late = names("late", 100)
        push(client, late)
        done = wait_for("its lease to end", lambda: returned(daemon))
        assert str(len(waiting)) in done.replace(",", ""), done
        raws: Any = client.lrange(LIST, 0, -1)
        wrote = [alias(raw) for raw in raws]
        assert wrote == waiting + late
        foreign.pop()
        check(first + waiting + late, foreign.names, csv_names(saved))
        # And forth again: nothing of it comes a second time.
        out.unlink()
        daemon.start().wait_ready()
        again = names("again", 100)
        push(client, again)
        wait_for("the end", lambda: settled(client) and out.is_dir())
        wait_for("the rest", lambda: not daemon.pump("CSV")["pending"])
        assert daemon.stop() == 0
        assert csv_names(out) == Counter(again)
        daemon.audit()


def returned(daemon: Daemon) -> str:
    """Give everything back; "" while the last lease is still there."""
    done = daemon.command("claims", "return")
    if done.returncode:
        assert "stop it first" in done.stderr, done.stderr
        return ""
    return done.stdout
