"""What every registered pump does: the one suite that all of them pass."""

from __future__ import annotations

import contextlib
import json
import logging
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from tests.contract.cases import CASES, FAULTY, UNFIT, Case, Seen
from tests.worker.bench import End, StillClock, run
from tyk_pump import channel, pumps
from tyk_pump.config.load import load
from tyk_pump.config.options import Secret
from tyk_pump.config.root import Filters, PumpConfig, RetryOptions
from tyk_pump.pumps.protocol import Batch, Keeper, Pump
from tyk_pump.record import analytics, wire
from tyk_pump.record.analytics import AnalyticsRecord
from tyk_pump.worker import outcome

TIME = (1_741_183_629, 0)


class Rig:
    """One pump, loaded from a configuration as the command does it."""

    def __init__(self, case: Case, seen: Seen, folder: Path) -> None:
        self.case = case
        self.seen = seen
        self._folder = folder
        self.config = self.load()

    def load(self, **meta: Any) -> PumpConfig:
        """Return the pump's configuration, with other options."""
        options = {**self.case.meta(self.seen), **meta}
        section = {"type": self.case.type, "meta": options}
        path = self._folder / "pump.conf"
        path.write_text(json.dumps({"pumps": {"x": section}}))
        config = load(str(path), {})
        assert config.every_fault() == [] and config.warnings == []
        return config.pumps[0]

    def pump(self) -> Pump:
        """Return a new pump that is open."""
        made = self.made()
        made.open()
        return made

    def made(self) -> Pump:
        """Return a new pump that is not open."""
        pump = pumps.load(self.case.type)(self.config.options)
        if isinstance(pump, Keeper):
            pump.keep_in(self.seen.folder / "kept")
        return pump

    def record(self, name: str, **fields: Any) -> AnalyticsRecord:
        """Return a record that this pump takes."""
        return record(name, **{**self.case.fields, **fields})

    def frame(self, names: list[str], first: int = 0, **fields: Any) -> bytes:
        """Return a frame of records that this pump takes."""
        return frame(names, first, **{**self.case.fields, **fields})

    def arrived(self) -> list[str]:
        """Return the names of what has arrived."""
        return self.case.arrived(self.seen)

    def assert_arrived(self, names: list[str], *, after_failure: bool = False) -> None:
        """See that just these have arrived, once and in order.

        After a failure a back end that confirms nothing singly may have some twice.
        """
        found = self.arrived()
        if after_failure and not self.case.exact:
            found = list(dict.fromkeys(found))
        assert found == self.known(names)

    def known(self, names: list[str]) -> list[str]:
        """Return the names as this pump keeps them."""
        keeps = {"alias", "api_name"} & set(pumps.load(self.case.type).fields)
        return names if keeps and self.case.names else [""] * len(names)


@pytest.fixture(params=CASES, ids=lambda case: case.type)
def rig(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Rig]:
    """Each pump in turn, in a folder of its own, with a server of its own."""
    monkeypatch.setitem(pumps.REGISTRY, "faulty", FAULTY)
    logging.getLogger("tyk_pump").setLevel(logging.DEBUG)
    caplog.set_level(logging.DEBUG)
    folder = tmp_path / "out"
    folder.mkdir()
    seen = Seen(folder, capfd, caplog)
    with contextlib.ExitStack() as stack:
        if request.param.server is not None:
            seen.server = stack.enter_context(request.param.server(request))
        yield Rig(request.param, seen, tmp_path)


def numbered(first: int, end: int) -> list[str]:
    """Return names of records."""
    return [f"n{number:04}" for number in range(first, end)]


def record(name: str, **fields: Any) -> AnalyticsRecord:
    """Return a record of about half a kilobyte."""
    made = AnalyticsRecord(
        alias=name,
        api_name=name,
        timestamp=TIME,
        expire_at=TIME,
        raw_request="R" * 300,
    )
    for key, value in fields.items():
        setattr(made, key, value)
    return made


def frame(names: list[str], first: int = 0, **fields: Any) -> bytes:
    """Return a frame of records with these names."""
    raws = [wire.pack(record(name, **fields)) for name in names]
    return channel.encode_frame("S", "analytics", "msgpack", first, None, raws)


class AtFirstPause(StillClock):
    """Does something once, when the worker first waits after a failure.

    `then` is done after a minute of waiting, where the failure does not end.
    """

    def __init__(
        self, action: Callable[[], None], then: Callable[[], None] | None = None
    ) -> None:
        super().__init__()
        self._action: Callable[[], None] | None = action
        self._then = then
        self._until = self.time + 60

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        if self._action is not None:
            self._action()
        self._action = None
        if self._then is not None and self.time > self._until:
            self._then()


class Until(End):
    """Does something once, as soon as the worker has given a certain answer."""

    def __init__(
        self,
        frames: list[bytes],
        reached: Callable[[list[outcome.Message]], bool],
        action: Callable[[], object],
    ) -> None:
        super().__init__(frames)
        self._reached = reached
        self._action: Callable[[], object] | None = action

    def answer(self, message: outcome.Message) -> None:
        super().answer(message)
        if self._action is not None and self._reached(self.answers):
            action, self._action = self._action, None
            action()


# The table


def test_every_registered_pump_has_a_case() -> None:
    """The table of cases and the registry name the same pumps."""
    assert {case.type for case in CASES} == {*pumps.REGISTRY, "faulty"}


def test_every_registered_pump_is_whole(rig: Rig) -> None:
    """Four methods, options that are ours, fields that a record has."""
    found = pumps.load(rig.case.type)
    for method in ("open", "probe", "write", "close"):
        assert callable(getattr(found, method)) and getattr(found, method).__doc__
    assert set(found.fields) <= set(analytics.ALL)


# Delivery


def test_all_arrive_once_and_in_order(rig: Rig) -> None:
    """Whatever the size of the frames."""
    pump = rig.pump()
    names = numbered(0, 161)
    spans = [(0, 100), (100, 101), (101, 161)]
    end = run(pump, [rig.frame(names[a:b], a) for a, b in spans], settings=rig.config)
    pump.close()
    rig.assert_arrived(names)
    assert [(o.first, o.end, o.delivered) for o in end.outcomes] == [
        (a, b, b - a) for a, b in spans
    ]


def test_an_empty_batch_sends_nothing(rig: Rig) -> None:
    """Nor does a frame of which everything is filtered."""
    pump = rig.pump()
    pump.write(Batch("S", 0, "analytics", [], [], cursor="X"))
    filters = Filters(org_ids=["another"])
    settings = msgspec.structs.replace(rig.config, filters=filters)
    names = numbered(0, 5)
    end = run(pump, [rig.frame(names, org_id="org")], settings=settings)
    pump.close()
    assert rig.arrived() == []
    assert [(o.delivered, o.filtered) for o in end.outcomes] == [(0, 5)]


def test_positions_with_gaps(rig: Rig) -> None:
    """Records between which others were filtered arrive as any others."""
    pump = rig.pump()
    names = numbered(0, 30)
    records = [rig.record(name) for name in names]
    positions = range(7, 97, 3)
    pump.write(Batch("S", 0, "analytics", positions, records, cursor="X"))
    pump.close()
    rig.assert_arrived(names)


def test_a_refused_record_does_not_hold_up_the_others(rig: Rig) -> None:
    """It is named with a reason; the rest arrives, in order."""
    if rig.case.unfit is None:
        pytest.skip("this back end takes every record")
    raws = [wire.pack(rig.record(name)) for name in numbered(0, 9)]
    raws.insert(4, wire.pack(rig.record(UNFIT[0], **rig.case.unfit)))
    data = channel.encode_frame("S", "analytics", "msgpack", 0, None, raws)
    pump = rig.pump()
    (done,) = run(pump, [data], settings=rig.config).outcomes
    pump.close()
    rig.assert_arrived(numbered(0, 9), after_failure=True)
    assert [letter.position for letter in done.dead] == [4]
    assert done.dead[0].reason and done.dead[0].raw == raws[4]
    assert done.delivered == 9


# Failure


def test_a_retry_sends_only_what_was_not_confirmed(rig: Rig) -> None:
    """A write fails half-way; after the retry each record is there once, in order."""
    if rig.case.broken is None:
        pytest.skip("this back end never fails")
    pump = rig.pump()
    names = numbered(0, 120)
    run(pump, [rig.frame(names[:20])], settings=rig.config)
    with contextlib.ExitStack() as stack:
        stack.enter_context(rig.case.broken(rig.seen))
        clock = AtFirstPause(stack.close)
        frames = [rig.frame(names[20:100], 20), rig.frame(names[100:], 100)]
        end = run(pump, frames, settings=rig.config, clock=clock)
    pump.close()
    assert any(isinstance(answer, outcome.Trouble) for answer in end.answers)
    assert isinstance(end.answers[-3], outcome.Recovered)
    assert [o.delivered for o in end.outcomes] == [80, 20]
    rig.assert_arrived(names, after_failure=True)


def test_stop_in_the_middle(rig: Rig) -> None:
    """Told to stop while retrying: no answer, and the next incarnation goes on."""
    if rig.case.broken is None:
        pytest.skip("this back end never fails")
    names = numbered(0, 120)
    frames = [rig.frame(names[:80]), rig.frame(names[80:], 80)]
    pump = rig.pump()
    end = End(frames)

    def stop() -> None:
        end.slot[channel.STOP] = 1

    with rig.case.broken(rig.seen):
        run(pump, frames, settings=rig.config, clock=AtFirstPause(stop), end=end)
        pump.close()
    assert end.outcomes == []
    again = rig.pump()
    answers = run(again, frames, settings=rig.config)
    again.close()
    assert [o.delivered for o in answers.outcomes] == [80, 40]
    if rig.case.once:
        rig.assert_arrived(names)
    else:
        assert set(rig.arrived()) == set(rig.known(names))
        assert rig.arrived()[-40:] == rig.known(names[80:])


def test_a_repeated_frame(rig: Rig) -> None:
    """Its answer was lost: once where the pump promises so, else once more."""
    names = numbered(0, 10)
    for _ in range(2):
        pump = rig.pump()
        run(pump, [rig.frame(names)], settings=rig.config)
        pump.close()
    rig.assert_arrived(names if rig.case.once else names * 2)


def test_what_is_broken_for_too_long(rig: Rig) -> None:
    """After `retry.max_elapsed` each record owed is a dead letter with the reason.

    Nothing that is not dead is missing, and the next frame goes its way.
    """
    if rig.case.broken is None:
        pytest.skip("this back end never fails")
    retry = RetryOptions(initial=4, max=4, max_elapsed=3)
    settings = msgspec.structs.replace(rig.config, retry=retry)
    names = numbered(0, 120)
    frames = [rig.frame(names[20:100], 20), rig.frame(names[100:], 100)]
    pump = rig.pump()
    run(pump, [rig.frame(names[:20])], settings=settings)
    with contextlib.ExitStack() as stack:
        stack.enter_context(rig.case.broken(rig.seen))
        end = Until(frames, lambda told: _settled(told, 1), stack.close)
        run(pump, [], settings=settings, end=end)
    pump.close()
    given_up, after = end.outcomes
    assert (after.delivered, after.dead) == (20, [])
    assert given_up.attempts > 1 and given_up.dead
    assert given_up.delivered + len(given_up.dead) == 80
    raws = channel.decode_frame(frames[0])[5]
    for letter in given_up.dead:
        assert letter.raw == raws[letter.position - 20]
        assert re.match(r"given up after \d s: .", letter.reason)
    dead = {letter.position for letter in given_up.dead}
    assert len(dead) == len(given_up.dead)
    left = [name for position, name in enumerate(names) if position not in dead]
    if rig.case.exact and not rig.case.unheard:
        rig.assert_arrived(left)
    elif rig.case.names:
        assert [name for name in rig.arrived() if name in left] == left
        assert set(rig.arrived()) <= set(names)
    else:
        assert len(left) <= len(rig.arrived()) <= len(names)


def _settled(answers: list[outcome.Message], frames: int) -> bool:
    return sum(isinstance(one, outcome.Outcome) for one in answers) >= frames


@pytest.mark.parametrize("codec", ["msgpack", "protobuf"])
def test_bytes_that_are_no_record(rig: Rig, codec: str) -> None:
    """They are dead letters at the first decoding; those around them arrive."""
    names = numbered(0, 40)
    pack = wire.pack if codec == "msgpack" else wire.pack_protobuf
    raws = [pack(rig.record(name)) for name in names]
    junk = [b"junk", b"\xc1", b"\xff" * 3000, raws[7][:-20], b"\x0a\xff\xff", b"\x93"]
    for number, data in enumerate(junk):
        raws.insert(3 + 5 * number, data)
    pump = rig.pump()
    data = channel.encode_frame("S", "analytics", codec, 100, None, raws)
    (done,) = run(pump, [data], settings=rig.config).outcomes
    pump.close()
    assert [(x.position, x.raw) for x in done.dead] == [
        (103 + 5 * number, data) for number, data in enumerate(junk)
    ]
    assert all(letter.reason.startswith(outcome.UNDECODABLE) for letter in done.dead)
    assert (done.delivered, done.filtered) == (40, 0)
    rig.assert_arrived(names)


def test_a_back_end_that_refuses_everything(rig: Rig) -> None:
    """After a few dead letters the pump pauses and probes, until it is mended.

    Where the pump itself refuses the records nothing is mended: they stay owed.
    """
    if rig.case.unfit is None:
        pytest.skip("this back end takes every record")
    names, mended = [*UNFIT, "n0000"], rig.case.mended
    spans = [(0, 4), (4, 8), (8, 12), (12, 16)]
    frames = [rig.frame(names[a:b], a, **rig.case.unfit) for a, b in spans]
    frames.append(rig.frame(names[16:], 16))

    def paused_long(answers: list[outcome.Message]) -> bool:
        pauses = (isinstance(x, outcome.Trouble) and x.paused for x in answers)
        return sum(pauses) == 4

    def mend() -> None:
        assert rig.arrived() == []
        end.stop() if mended is None else mended(rig.seen)

    pump = rig.pump()
    end = Until(frames, paused_long, mend)
    run(pump, [], settings=rig.config, end=end)
    pump.close()
    dead = [len(done.dead) for done in end.outcomes]
    assert paused_long(end.answers)
    if mended is None:
        assert dead == [4, 4, 4] and rig.arrived() == []
    else:
        assert dead == [4, 4, 4, 0, 0]
        assert any(isinstance(one, outcome.Recovered) for one in end.answers)
        rig.assert_arrived(names[12:])


# Life


def test_open_probe_and_close(rig: Rig) -> None:
    """Making a pump touches nothing; a probe says one line and sends nothing."""
    pump = rig.made()
    assert not rig.case.touched(rig.seen)
    pump.open()
    said = pump.probe()
    assert said and "\n" not in said
    pump.close()
    assert rig.arrived() == []
    again = rig.pump()
    run(again, [rig.frame(["a"])], settings=rig.config)
    again.close()
    rig.assert_arrived(["a"])


def test_the_configuration_survives_the_way_to_the_worker(rig: Rig) -> None:
    """Options are pickled for the child process and are the same there."""
    assert pickle.loads(pickle.dumps(rig.config)) == rig.config


def test_no_secret_in_a_log(rig: Rig) -> None:
    """Whatever is logged or printed of a pump's options, a Secret is not in it."""
    secrets = {
        field.encode_name: f"s3cret-{field.name}"
        for field in msgspec.structs.fields(pumps.load(rig.case.type).options_type)
        if field.type is Secret or Secret in get_args(field.type)
    }
    shaped = {key: rig.case.secret(rig.seen, text) for key, text in secrets.items()}
    rig.config = rig.load(**shaped)
    pump = rig.pump()
    broken = rig.case.broken
    with contextlib.ExitStack() as stack:
        if broken is not None:
            stack.enter_context(broken(rig.seen))
        # A back end that refuses the credentials is not waited for.
        end = End([rig.frame(numbered(0, 60))])
        clock = AtFirstPause(stack.close, then=end.stop)
        run(pump, [], settings=rig.config, clock=clock, end=end)
    pump.close()
    shown = "\n".join(
        [
            repr(pump.__class__),
            repr(rig.config.options),
            str(rig.config.options),
            repr(end.answers),
            *(f"{vars(entry)}" for entry in rig.seen.log.records),
        ]
    )
    assert [text for text in secrets.values() if text in shown] == []
