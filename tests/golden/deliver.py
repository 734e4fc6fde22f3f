"""Runs a golden case through the production worker, in this process.

The way for pumps that write to a network: every case needs a server that answers as
in the capture, and a clock that does not wait between attempts.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from pathlib import Path

import msgspec
import pytest

from tests.golden.loader import Case, Wire
from tests.golden.run import configuration, messages, zone
from tests.worker.bench import End, StillClock
from tyk_pump import channel, pumps
from tyk_pump.config.load import Config
from tyk_pump.config.root import PumpConfig
from tyk_pump.errors import TransientError
from tyk_pump.source.lists import UPTIME_CODEC, UPTIME_LIST
from tyk_pump.worker import outcome
from tyk_pump.worker.loop import Worker

OPENINGS = 20
STREAM = "01JZZZZZZZZZZZZZZZZZZZZZZZ"


class _Limited(End):
    """Tells the worker to stop after so many troubles."""

    def __init__(self, made: list[bytes], troubles: int) -> None:
        super().__init__(made)
        self._left = troubles

    def answer(self, message: outcome.Message) -> None:
        super().answer(message)
        if isinstance(message, outcome.Trouble):
            self._left -= 1
            if self._left == 0:
                self.slot[channel.STOP] = 1


class Delivered(msgspec.Struct):
    """What the workers of a case have said."""

    config: Config
    end: End
    """The worker's end of the channel: outcomes, troubles."""
    names: list[str]
    """Name of the record at each position."""
    messages: list[str]
    """Log messages."""
    openings: list[str]
    """Why `open` failed, as often as it did."""

    @property
    def refused(self) -> dict[str, str]:
        """Return the dead letters: name of the record -> reason."""
        return {
            self.names[letter.position]: letter.reason
            for done in self.end.outcomes
            for letter in done.dead
        }

    @property
    def delivered(self) -> int:
        """Return how many records have arrived."""
        return sum(done.delivered for done in self.end.outcomes)

    @property
    def settled(self) -> int:
        """Return how many have arrived, or have no place in the back end."""
        return self.delivered + sum(done.filtered for done in self.end.outcomes)


def frames(case: Case) -> tuple[list[bytes], list[str]]:
    """Return the case's records as frames, one per list or batch, and their names."""
    made: list[bytes] = []
    names: list[str] = []
    pushed = case.pushed()
    sizes = [len(batch) for batch in case.about.get("batches", [])]
    sizes = sizes or [len(purge) for purge in case.purges()]
    for size in sizes:
        batch, pushed = pushed[:size], pushed[size:]
        for (key, form), group in groupby(batch, key=lambda one: one[:2]):
            wires: list[Wire] = [wire for _, _, wire in group]
            raws = [wire.bytes_in(form) or b"" for wire in wires]
            first = len(names)
            codec: str = form
            if case.uptime:
                key, codec = UPTIME_LIST, UPTIME_CODEC
            made.append(channel.encode_frame(STREAM, key, codec, first, None, raws))
            names += [wire.name for wire in wires]
    return made, names


def deliver(
    case: Case,
    live: Mapping[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    clock: StillClock | None = None,
    attempts: int = 50,
) -> Delivered:
    """Let a worker deliver a case whose configuration has one pump without fault.

    After so many failed attempts it is told to stop: what is in hand then has no
    outcome.
    """
    folder = tmp_path / "out"
    folder.mkdir(exist_ok=True)
    made, names = frames(case)
    said: list[str] = []
    with zone(case.env["TZ"], monkeypatch), messages(said):
        config = configuration(case, folder, live)
        assert config.faults == []
        (section,) = config.pumps[1:] if case.uptime else config.pumps
        assert not section.fault, section.fault
        end = _Limited(made, attempts)
        openings = _work(config, section, end, clock or StillClock())
    return Delivered(config, end, names, said, openings)


def _work(
    config: Config, section: PumpConfig, end: End, clock: StillClock
) -> list[str]:
    failures: list[str] = []
    pump = pumps.load(section.type)(section.options)
    while True:
        try:
            pump.open()
            break
        except TransientError as exc:
            failures.append(exc.reason)
            if len(failures) >= OPENINGS:
                raise
    try:
        Worker(
            section,
            config.root,
            pump,
            end,  # type: ignore[arg-type]
            lane=0,
            clock=clock,
            parent_alive=lambda: True,
        ).run()
    finally:
        pump.close()
    return failures
