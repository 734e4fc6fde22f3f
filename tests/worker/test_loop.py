"""The worker's loop: every record of a frame ends delivered, filtered or dead."""

from __future__ import annotations

import itertools

import pytest

from tests.worker.bench import End, ScriptedPump, StillClock, config, frame, run
from tyk_pump import channel
from tyk_pump.config.root import Filters, RetryOptions
from tyk_pump.errors import RejectedRecords, TransientError
from tyk_pump.pumps.protocol import Batch
from tyk_pump.worker import outcome

NAMES = ["a", "b", "c", "d"]


def test_all_arrive_once_and_in_order() -> None:
    """Two frames are written in order and answered in order."""
    pump = ScriptedPump()
    end = run(pump, [frame(NAMES), frame(["e"], first=4)])
    assert pump.arrived == ["a", "b", "c", "d", "e"]
    spans = [(o.first, o.end, o.delivered) for o in end.outcomes]
    assert spans == [(0, 4, 4), (4, 5, 1)]


def test_a_transient_failure_resends_only_what_is_pending() -> None:
    """Records that were confirmed are not sent again."""
    pump = ScriptedPump(
        TransientError("busy", pending=[1, 3], rejected={2: "too long"}), None
    )
    (done,) = run(pump, [frame(NAMES)]).outcomes
    assert pump.calls == [NAMES, ["b", "d"]]
    assert pump.arrived == ["a", "b", "d"]
    assert (done.delivered, done.filtered) == (3, 0)
    assert [(d.position, d.record_id, d.reason) for d in done.dead] == [
        (2, "S:2", "too long")
    ]


def test_what_a_pump_leaves_out_counts_as_filtered() -> None:
    """It is settled with the attempt that says so, and never pending."""

    class Choosy(ScriptedPump):
        def write(self, batch: Batch) -> None:
            batch.left_out = sum(record.api_id == "c" for record in batch.records)
            super().write(batch)

    pump = Choosy(TransientError("busy", pending=[1]), None, None)
    first, second = run(pump, [frame(NAMES), frame(["c", "e"], first=4)]).outcomes
    assert (first.delivered, first.filtered) == (3, 1)
    assert (second.delivered, second.filtered) == (1, 1)
    assert pump.calls == [NAMES, ["b"], ["c", "e"]]


def test_an_unavailable_back_end_is_retried_until_it_answers() -> None:
    """Twenty failures in a row lose nothing and end with the word that it recovered."""
    pump = ScriptedPump(*[TransientError("away")] * 20)
    end = run(pump, [frame(NAMES)])
    assert pump.arrived == NAMES
    assert sum(isinstance(a, outcome.Trouble) for a in end.answers) == 20
    assert any(isinstance(a, outcome.Recovered) for a in end.answers)


def test_back_off_grows_and_has_a_ceiling() -> None:
    """Pauses double from `initial` up to `max`."""
    clock = StillClock()
    pump = ScriptedPump(*[TransientError("away")] * 12)
    times: list[float] = []
    pump.before = lambda: times.append(clock.time)
    settings = config(retry=RetryOptions(initial=1.0, max=8.0))
    run(pump, [frame(["a"])], settings=settings, clock=clock)
    pauses = [b - a for a, b in itertools.pairwise(times)]
    assert 0.5 <= pauses[0] <= 1.1
    assert all(4.0 <= pause <= 8.1 for pause in pauses[4:])


def test_retry_after_is_honoured() -> None:
    """A back end that names a pause is not asked before it is over."""
    clock = StillClock()
    pump = ScriptedPump(TransientError("429", retry_after=40.0))
    times: list[float] = []
    pump.before = lambda: times.append(clock.time)
    run(pump, [frame(["a"])], clock=clock)
    assert times[1] - times[0] >= 40.0


def test_max_elapsed_sends_to_the_dead_letters() -> None:
    """With `retry.max_elapsed` a lasting failure ends, and each record says why."""
    pump = ScriptedPump(*[TransientError("away")] * 1000)
    settings = config(retry=RetryOptions(max_elapsed=20.0))
    (done,) = run(pump, [frame(NAMES)], settings=settings).outcomes
    assert done.delivered == 0
    assert len(done.dead) == 4
    assert "away" in done.dead[0].reason and "given up" in done.dead[0].reason


def test_a_write_that_hangs_for_ever_is_given_up_by_its_successor() -> None:
    """The time since when writes fail outlives the worker that was replaced."""
    end = End([frame(NAMES)])
    clock = StillClock()
    end.slot[channel.TROUBLE] = clock.time - 100
    pump = ScriptedPump()
    settings = config(retry=RetryOptions(max_elapsed=60.0))
    (done,) = run(pump, [], settings=settings, end=end, clock=clock).outcomes
    assert pump.calls == []
    assert len(done.dead) == 4


def test_bytes_that_are_no_record_are_dead_letters() -> None:
    """Garbage between records costs only itself."""
    data = channel.decode_frame(frame(NAMES))
    raws = [*data[5][:2], b"\xc1 no record", *data[5][2:]]
    mixed = channel.encode_frame("S", "analytics", "msgpack", 10, None, raws)
    pump = ScriptedPump()
    (done,) = run(pump, [mixed]).outcomes
    assert pump.arrived == NAMES
    assert [(d.position, d.raw) for d in done.dead] == [(12, b"\xc1 no record")]


def test_filtered_records_are_counted_as_filtered() -> None:
    """A filter takes records out before the pump and counts them."""
    pump = ScriptedPump()
    settings = config(filters=Filters(skip_api_ids=["b"]))
    (done,) = run(pump, [frame(NAMES)], settings=settings).outcomes
    assert pump.arrived == ["a", "c", "d"]
    assert (done.delivered, done.filtered, done.dead) == (3, 1, [])


def test_nothing_left_calls_no_back_end() -> None:
    """A frame of which nothing is left after selection is settled without a write."""
    pump = ScriptedPump()
    settings = config(filters=Filters(api_ids=["z"]))
    (done,) = run(pump, [frame(NAMES)], settings=settings).outcomes
    assert pump.calls == []
    assert done.filtered == 4


def test_a_back_end_that_refuses_everything_makes_the_pump_pause() -> None:
    """After a run of refused batches nothing more drains away."""
    refusals = [RejectedRecords("mapping")] * 30
    pump = ScriptedPump(*refusals)
    frames = [frame(NAMES, first=4 * i) for i in range(6)]
    end = run(pump, frames)
    assert any(isinstance(a, outcome.Trouble) and a.paused for a in end.answers)
    dead = sum(len(o.dead) for o in end.outcomes)
    assert dead == 12  # three batches, then it pauses and probes until it is mended
    assert len(pump.arrived) == 12


def test_a_large_batch_that_is_wholly_refused_makes_the_pump_pause_at_once() -> None:
    """A thousand records refused together are no thousand bad records."""
    pump = ScriptedPump(*[RejectedRecords("mapping")] * 5)
    names = [f"n{number}" for number in range(1000)]
    end = run(pump, [frame(names)])
    assert [len(o.dead) for o in end.outcomes] == [0]
    assert pump.arrived == names


def test_single_refused_records_do_not_pause() -> None:
    """A few bad records, each alone in its batch, are ordinary dead letters."""
    pump = ScriptedPump(*[RejectedRecords("bad")] * 9)
    frames = [frame(["x"], first=i) for i in range(10)]
    end = run(pump, frames)
    assert not any(isinstance(a, outcome.Trouble) for a in end.answers)
    assert sum(len(o.dead) for o in end.outcomes) == 9
    assert pump.arrived == ["x"]


def test_told_to_stop_while_it_waits_leaves_the_frame_unanswered() -> None:
    """A worker in back-off leaves at once; what it had in hand stays owed."""
    end = End([frame(NAMES)])
    pump = ScriptedPump(*[TransientError("away")] * 5)

    def stop() -> None:
        end.slot[channel.STOP] = 1

    pump.before = stop
    run(pump, [], end=end)
    assert len(pump.calls) == 1
    assert end.outcomes == []


def test_nothing_begins_after_the_end_of_the_lease() -> None:
    """Without a lease a frame waits; told to stop, it is not written at all."""
    end = End([frame(NAMES)])
    clock = StillClock()
    end.slot[channel.LEASE] = clock.time - 1
    sleeps = 0

    def sleep(seconds: float) -> None:
        nonlocal sleeps
        sleeps += 1
        clock.time += seconds
        if sleeps == 5:
            end.slot[channel.STOP] = 1

    clock.sleep = sleep  # type: ignore[method-assign]
    pump = ScriptedPump()
    run(pump, [], end=end, clock=clock)
    assert pump.calls == [] and end.outcomes == []


def test_a_replay_keeps_the_original_record_ids() -> None:
    """The ids of a replayed frame are the ones that the letters had."""
    pump = ScriptedPump(RejectedRecords("bad", rejected={1: "no"}))
    (done,) = run(pump, [frame(["a", "b"], ids=["O:7", "O:9"])]).outcomes
    assert [d.record_id for d in done.dead] == ["O:9"]


def test_an_unexpected_error_of_a_pump_is_not_swallowed() -> None:
    """A programming error ends the worker: the coordinator finds the guilty record."""
    end = End([frame(NAMES, first=40)])
    with pytest.raises(ZeroDivisionError):
        run(ScriptedPump(ZeroDivisionError()), [], end=end)
    assert end.slot[channel.FRAME] == 40
    assert end.slot[channel.STAGE] == channel.WORK


def test_nothing_is_in_hand_between_frames() -> None:
    """A worker that dies while it waits blames no frame."""
    end = run(ScriptedPump(), [frame(NAMES, first=40)])
    assert end.slot[channel.FRAME] == channel.NO_FRAME
    assert end.slot[channel.STAGE] == channel.IDLE
