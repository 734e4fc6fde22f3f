"""The book of a lane: what it is owed, what was offered, who is to blame."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tyk_pump.coordinator.lanes import Lane, add
from tyk_pump.cursors import BLOCK
from tyk_pump.source.claims import Counts, Progress, Stream


def stream(end: int, **progress: int) -> Stream:
    """Return an owned stream of so many positions with cursors."""
    made = Stream(id="S", own=True)
    made.end = end
    made.progress = {name: Progress(position=at) for name, at in progress.items()}
    return made


def drain(lane: Lane, source: Stream, window: int) -> list[tuple[int, int]]:
    """Offer and settle everything; return the spans in order."""
    spans = []
    while (span := lane.next_span([source])) is not None:
        end = min(span.end, span.first + window)
        lane.offered(span, end, 1)
        assert lane.acknowledged("S", span.first, end)
        add(source.progress[lane.field], end, Counts())
        spans.append((span.first, end))
    return spans


@settings(deadline=None)
@given(
    st.integers(0, 12 * BLOCK),
    st.integers(1, 5),
    st.integers(50, 3000),
)
def test_lanes_share_every_position_once(end: int, lanes: int, window: int) -> None:
    """All lanes of a pump together cover each position exactly once, in order."""
    seen: list[int] = []
    for index in range(lanes):
        lane = Lane("P", index, lanes)
        source = stream(end, **{lane.field: 0})
        spans = drain(lane, source, window)
        assert spans == sorted(spans)
        seen += [p for first, last in spans for p in range(first, last)]
        assert lane.settled(source) == end
        assert lane.pending([source]) == 0
    assert sorted(seen) == list(range(end))


@given(st.integers(0, 9000), st.integers(0, 9000), st.integers(1, 5))
def test_the_share_of_a_lane_is_what_it_owns(a: int, b: int, lanes: int) -> None:
    """Arithmetic says the same as counting position by position."""
    first, end = min(a, b), max(a, b)
    for index in range(lanes):
        lane = Lane("P", index, lanes)
        owned = sum(p // BLOCK % lanes == index for p in range(first, end))
        assert lane.share(first, end) == owned


def test_a_pump_without_cursor_is_owed_nothing() -> None:
    """A stream that was adopted owes nothing to a pump it does not know."""
    lane = Lane("NEW", 0, 1)
    assert lane.next_span([stream(100, OLD=0)]) is None
    assert lane.settled(stream(100, OLD=0)) == 100


def test_a_lane_behind_holds_the_trim() -> None:
    """The lane that is behind decides what is settled, whatever the others did."""
    ahead, behind = Lane("P", 0, 2), Lane("P", 1, 2)
    source = stream(4000, **{ahead.field: 3000, behind.field: 1200})
    assert ahead.settled(source) == 4000
    assert behind.settled(source) == 1200


def test_a_restart_offers_again_from_the_cursor() -> None:
    """What was with a dead worker and not answered is offered again."""
    lane = Lane("P", 0, 1)
    source = stream(500, P=100)
    span = lane.next_span([source])
    assert span is not None and span.first == 100
    lane.offered(span, 300, 1)
    again = lane.next_span([source])
    assert again is not None and again.first == 300
    lane.restarted()
    again = lane.next_span([source])
    assert again is not None and again.first == 100


def test_an_answer_that_nobody_waits_for_is_ignored() -> None:
    """An answer of a frame that was not offered moves nothing."""
    assert not Lane("P", 0, 1).acknowledged("S", 0, 10)


@given(st.integers(1, 600), st.data())
def test_the_poison_record_is_found_alone(size: int, data: st.DataObject) -> None:
    """A record that kills each worker is found; all the others are delivered."""
    guilty = data.draw(st.integers(0, size - 1))
    lane = Lane("P", 0, 1)
    source = stream(size, P=0)
    delivered: list[int] = []
    deaths = 0
    while (span := lane.next_span([source])) is not None:
        lane.offered(span, span.end, 1)
        if span.first <= guilty < span.end and guilty not in delivered:
            deaths += 1
            poison = lane.died(span.first)
            lane.restarted()
            if poison is not None:
                assert (poison.first, poison.end) == (guilty, guilty + 1)
                lane.skip("S", poison.end)
                add(source.progress["P"], poison.end, Counts(dead=1))
                delivered.append(guilty)
            continue
        delivered += range(span.first, span.end)
        lane.acknowledged("S", span.first, span.end)
        add(source.progress["P"], span.end, Counts())
    assert delivered == list(range(size))
    assert source.progress["P"].dead == 1
    assert 2 <= deaths <= 2 + 10


def test_one_death_blames_nobody_for_good() -> None:
    """A frame that killed one worker only is offered whole again."""
    lane = Lane("P", 0, 1)
    source = stream(100, P=0)
    span = lane.next_span([source])
    assert span is not None
    lane.offered(span, 100, 1)
    assert lane.died(0) is None
    lane.restarted()
    span = lane.next_span([source])
    assert span is not None and (span.first, span.end) == (0, 100)


def test_a_death_with_nothing_in_hand_blames_nobody() -> None:
    """A worker that dies while it waits says nothing about its frames."""
    lane = Lane("P", 0, 1)
    source = stream(100, P=0)
    span = lane.next_span([source])
    assert span is not None
    lane.offered(span, 100, 1)
    assert lane.died(-1) is None
    assert lane.suspect is None
