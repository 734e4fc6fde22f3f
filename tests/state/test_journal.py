"""Frames in the state file: kept, read, set aside when damaged, removed in time."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tyk_pump.state.file import StateFile
from tyk_pump.state.journal import Damaged, Frame, FrameStore

STREAM = "01J0000000000000000000000A"


@pytest.fixture
def file(tmp_path: Path) -> Iterator[StateFile]:
    """Yield a new state file."""
    with contextlib.closing(StateFile(tmp_path / "state.sqlite")) as opened:
        yield opened


@pytest.fixture
def store(file: StateFile) -> FrameStore:
    """Return its frames."""
    return FrameStore(file)


def frame(first: int, end: int, data: bytes = b"x" * 100, at: float = 1.0) -> Frame:
    """Return a frame of the stream."""
    return Frame(
        stream=STREAM,
        first=first,
        end=end,
        claim=f"C{first // 100}",
        list="analytics",
        codec="msgpack",
        at=at,
        data=data,
    )


def test_frames_come_back_with_cursors_and_claims(store: FrameStore) -> None:
    """What one transaction kept is there after it, whole."""
    store.append([frame(0, 50), frame(50, 100)], {STREAM: {"P": b"1", "Q": b"2"}})
    store.append([frame(100, 120)], {STREAM: {"P": b"3"}})
    (part,) = store.parts()
    assert (part.stream, part.kept) == (STREAM, 120)
    assert part.cursors == {"P": b"3", "Q": b"2"}
    assert [(c.name, c.first, c.end) for c in part.claims] == [
        ("C0", 0, 100),
        ("C1", 100, 120),
    ]
    assert store.size() == (3, 300)


def test_a_position_is_found_in_its_frame_or_the_next(store: FrameStore) -> None:
    """A frame is found by any of its positions."""
    store.append([frame(10, 20), frame(30, 40)], {})
    found = [store.read(STREAM, position) for position in (10, 19, 20, 39, 40)]
    assert [one and one.first for one in found] == [10, 10, 30, 30, None]


def test_the_same_frame_twice_is_one(store: FrameStore) -> None:
    """What a crash repeats replaces itself."""
    store.append([frame(0, 50)], {})
    store.append([frame(0, 50)], {})
    assert store.size() == (1, 100)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE frames SET data = x'00' || substr(data, 2) WHERE first = 50",
        "UPDATE frames SET data = substr(data, 2) WHERE first = 50",
        "UPDATE frames SET digest = digest + 1 WHERE first = 50",
        "UPDATE frames SET data = 'text' WHERE first = 50",
    ],
)
def test_a_damaged_frame_costs_itself(
    store: FrameStore, file: StateFile, damage: str
) -> None:
    """It is named, set aside, and all others can be read."""
    store.append([frame(0, 50), frame(50, 100), frame(100, 120)], {})
    with contextlib.closing(sqlite3.connect(file.path)) as db, db:
        db.execute(damage)
    with pytest.raises(Damaged) as caught:
        store.read(STREAM, 60)
    assert (caught.value.first, caught.value.end) == (50, 100)
    store.set_aside(STREAM, 50, str(caught.value), 7.0)
    again = store.read(STREAM, 60)
    assert again is not None and again.data == b""
    for position in (0, 100):
        other = store.read(STREAM, position)
        assert other is not None and other.data == b"x" * 100
    with contextlib.closing(sqlite3.connect(file.path)) as db:
        rows = db.execute("SELECT stream, first, end, at FROM damaged_frames")
        assert rows.fetchall() == [(STREAM, 50, 100, 7.0)]


def test_a_frame_in_a_wrong_place_is_damaged(
    store: FrameStore, file: StateFile
) -> None:
    """The check sum is that of its place, too."""
    store.append([frame(0, 50)], {})
    with contextlib.closing(sqlite3.connect(file.path)) as db, db:
        db.execute("UPDATE frames SET first = 1")
    with pytest.raises(Damaged):
        store.read(STREAM, 1)


def test_settled_frames_go_when_their_time_has_passed(store: FrameStore) -> None:
    """By time, by size, and only what all have settled."""
    frames = [frame(n * 10, n * 10 + 10, at=float(n)) for n in range(10)]
    store.append(frames, {STREAM: {"P": b"1"}})
    assert store.prune({}, before=100.0) == (0, 0)
    assert store.prune({STREAM: 60}, before=2.0) == (2, 200)
    assert store.prune({STREAM: 60}, before=0.0, over=150) == (2, 200)
    assert store.prune({STREAM: 60}, before=100.0) == (2, 200)
    assert store.size() == (4, 400)
    store.drop_parts([STREAM])
    assert store.parts() == []
    assert store.prune({}, before=100.0) == (4, 400)


def test_the_file_shrinks_once_much_of_it_is_free(
    store: FrameStore, file: StateFile
) -> None:
    """Room that a dead back end has cost is given back."""
    blob = b"x" * (1 << 20)
    for first in range(0, 80, 10):
        store.append([frame(first + n, first + n + 1, blob) for n in range(10)], {})
    before = file.path.stat().st_size
    store.prune({STREAM: 80}, before=100.0)
    store.shrink()
    assert file.path.stat().st_size < before / 10
