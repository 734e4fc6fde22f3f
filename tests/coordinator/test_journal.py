"""Windows on the disk: who is where, after copies, crashes and other owners."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.coordinator.test_books import Disk
from tests.source.world import FakeClock
from tyk_pump import channel, cursors
from tyk_pump.config.root import JournalOptions, RootOptions
from tyk_pump.coordinator.audit import numbers
from tyk_pump.coordinator.book import Book, Held
from tyk_pump.coordinator.books import Books
from tyk_pump.coordinator.journal import Journal
from tyk_pump.coordinator.lanes import Lane, Span
from tyk_pump.coordinator.windows import Windows
from tyk_pump.cursors import Counts
from tyk_pump.errors import LeaseLost, StateError
from tyk_pump.source.claims import Claim, Progress, Stream, Window, pack
from tyk_pump.state.file import StateFile
from tyk_pump.state.ledger import Row

STREAM = "01J0000000000000000000000A"


class Redis:
    """A source with one stream whose claims have so many records."""

    def __init__(self, *lengths: int, **cursors: int) -> None:
        self.stream = Stream(id=STREAM, own=True)
        for number, length in enumerate(lengths):
            base = self.stream.end
            claim = Claim("l", "msgpack", f"k{number}", base, length, total=length)
            self.stream.claims[f"C{number}"] = claim
            self.stream.end = base + length
        self.stream.progress = {
            field: Progress(position=position) for field, position in cursors.items()
        }
        self.stream.trimmed = min(cursors.values(), default=0)
        self.streams = {STREAM: self.stream}
        self.lease_end = 1e12
        self.lost = False
        self.reads: list[int] = []

    def backlog(self) -> tuple[int, int]:
        return len(self.stream.claims), self.stream.end - self.stream.trimmed

    def renew(self) -> None:
        raise LeaseLost("gone")

    def read(self, stream: str, position: int, count: int) -> Window:
        self.reads.append(position)
        found = self.stream.find(position)
        assert found is not None
        end = min(position + count, found[1].end)
        records = [b"r%d" % n for n in range(position, end)]
        return Window(stream, "l", "msgpack", position, records)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateFile]:
    """Yield a new state file."""
    with contextlib.closing(StateFile(tmp_path / "state.sqlite")) as opened:
        yield opened


def make(state: StateFile, **options: Any) -> tuple[Journal, Windows]:
    """Return a journal and the windows that read through it."""
    root = RootOptions(
        journal=JournalOptions(**{"type": "disk", **options}), window_records=10
    )
    journal = Journal(root, state, FakeClock())
    return journal, Windows(root, journal.frame)


def copy(journal: Journal, windows: Windows, source: Any) -> bool:
    """Copy some of what is to be copied; say whether something was."""
    wanted = journal.wanted(source, windows)
    return wanted > 0 and bool(journal.copy(source, windows, wanted))


def copy_all(journal: Journal, windows: Windows, source: Any) -> None:
    """Copy until there is nothing to copy."""
    while copy(journal, windows, source):
        pass


def positions(journal: Journal) -> dict[str, int]:
    """Return where everyone is in the part on the disk."""
    return {f: p.position for f, p in journal.parts[STREAM].progress.items()}


def names(frame: Any) -> list[bytes]:
    """Return the records of a frame."""
    return list(channel.decode_frame(frame.data)[5])


def test_all_is_copied_and_cursors_in_redis_stand_behind(state: StateFile) -> None:
    """Everyone keeps their place: on the disk, or ahead of it in Redis."""
    source: Any = Redis(30, 20, P=0, Q=35, R=50)
    journal, windows = make(state)
    copy_all(journal, windows, source)
    assert journal.kept(STREAM) == 50 and journal.frames == len(source.reads)
    assert {p.position for p in source.stream.progress.values()} == {50}
    assert positions(journal) == {"P": 0, "Q": 35, "R": 50}
    assert journal.parts[STREAM].trimmed == 0
    again = make(state)[0]
    assert positions(again) == positions(journal)
    assert [(c.base, c.end) for c in again.parts[STREAM].claims.values()] == [
        (0, 30),
        (30, 50),
    ]


def test_only_what_is_too_much_is_copied(state: StateFile) -> None:
    """With `redis` nothing is copied below the limit, and not much more beyond."""
    source: Any = Redis(100, P=0)
    journal, windows = make(state, type="redis", max_bytes=400)
    copy_all(journal, windows, source)
    copied = journal.kept(STREAM)
    assert 0 < copied < 100
    source.stream.trimmed = copied
    assert not copy(journal, windows, source)
    assert (100 - copied) * windows.mean <= 400


def test_frames_of_the_disk_are_read_in_any_cut(state: StateFile) -> None:
    """A lane's block or a suspect asks for less than a frame."""
    source: Any = Redis(30, P=0)
    journal, windows = make(state)
    copy_all(journal, windows, source)
    windows.clear()
    reads = len(source.reads)
    frame = windows.frame(source, Span(STREAM, 3, 30))
    assert frame is not None and names(frame)[0] == b"r3" and frame.end <= 13
    frame = windows.frame(source, Span(STREAM, 4, 6))
    assert frame is not None and names(frame) == [b"r4", b"r5"]
    assert journal.read(STREAM, 29).records == [b"r29"]
    assert len(source.reads) == reads


def test_who_was_ahead_in_redis_stays_ahead(state: StateFile) -> None:
    """A part that grows later takes in those that had gone on in Redis."""
    source: Any = Redis(30, 20, P=0, Q=0)
    journal, windows = make(state, max_bytes=100)
    copy_all(journal, windows, source)
    kept = journal.kept(STREAM)
    assert journal.full and kept < 50
    part, stream = journal.parts[STREAM], source.stream
    part.progress["Q"].position = kept  # settled, and goes on in Redis
    stream.progress["Q"].position = kept + 4
    stream.progress["Q"].counts = Counts(delivered=4)
    journal.root = RootOptions(journal=JournalOptions(type="disk"), window_records=10)
    copy_all(journal, windows, source)
    assert positions(journal) == {"P": 0, "Q": kept + 4}
    assert part.progress["Q"].counts == Counts(delivered=4)
    assert stream.progress["Q"].position == 50
    assert stream.progress["Q"].counts == Counts()


def test_pumps_in_step_read_nothing_twice(state: StateFile) -> None:
    """Copying waits while pumps take what is at hand; where none does it goes on."""
    source: Any = Redis(200, P=0)
    journal, windows = make(state)
    assert copy(journal, windows, source)
    assert windows.ahead == journal.frames > 2
    position = 0
    for _ in range(windows.ahead - 1):
        frame = windows.frame(source, Span(STREAM, position, 200))
        assert frame is not None
        position = frame.end
        assert not copy(journal, windows, source)
    assert copy(journal, windows, source)
    while copy(journal, windows, source):
        pass
    assert journal.kept(STREAM) == 200
    assert len(source.reads) == journal.frames


def test_a_refusing_disk_changes_nothing(
    state: StateFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cursors stand where they stood, and it is tried again a second later."""
    source: Any = Redis(30, P=0)
    journal, windows = make(state)

    def refuse(*_: Any) -> None:
        raise StateError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(journal._store, "append", refuse)
        assert not copy(journal, windows, source)
    assert journal.error == "disk full" and not journal.parts
    assert source.stream.progress["P"].position == 0
    assert not copy(journal, windows, source)
    journal._clock.ahead = 2.0  # type: ignore[attr-defined]
    assert copy(journal, windows, source) and not journal.error


def test_who_was_frozen_copies_nothing(state: StateFile) -> None:
    """After the end of the lease others may have it all."""
    source: Any = Redis(30, P=0)
    source.lease_end = -1.0
    journal, windows = make(state)
    with pytest.raises(LeaseLost):
        copy(journal, windows, source)
    assert not journal.parts


def test_settled_parts_leave_nothing(state: StateFile) -> None:
    """Cursors are written, frames go, and at last the part."""
    source: Any = Redis(30, P=0)
    journal, windows = make(state, type="redis", max_bytes=1)
    windows.frame(source, Span(STREAM, 0, 10))
    copy_all(journal, windows, source)
    part = journal.parts[STREAM]
    part.progress["P"].position = 30
    journal.moved(STREAM, "P")
    assert journal.due
    journal.write(lambda stream: stream.progress["P"].position, ())
    assert part.trimmed == 30 and not part.claims
    assert journal.prune(source.streams) == []
    assert journal.frames == journal.bytes == 0
    assert make(state)[0].parts[STREAM].progress["P"].position == 30
    journal._clock.ahead = 2.0  # type: ignore[attr-defined]
    assert journal.prune({}) == [STREAM]
    assert make(state)[0].parts == {}


def test_what_is_not_written_is_not_settled(state: StateFile) -> None:
    """While a row of the ledger is on no disk its cursor waits, and the frames stay."""
    source: Any = Redis(30, P=0)
    journal, windows = make(state)
    copy_all(journal, windows, source)
    journal.parts[STREAM].progress["P"].position = 30
    journal.moved(STREAM, "P")
    journal.write(lambda stream: 30, {(STREAM, "P")})
    assert journal.parts[STREAM].trimmed == 0
    assert make(state)[0].parts[STREAM].progress["P"].position == 0


def test_a_removed_pump_is_owed_nothing_of_the_disk(state: StateFile) -> None:
    """Its cursor goes from memory and from the file."""
    source: Any = Redis(30, P=0, Q=0)
    journal, windows = make(state)
    copy_all(journal, windows, source)
    journal.forget("Q")
    assert positions(journal) == positions(make(state)[0]) == {"P": 0}


def test_what_is_known_of_a_claim_stays_known_as_its_part_grows(
    state: StateFile,
) -> None:
    """A claim in both places: what was settled of it on the disk is not forgotten."""
    source: Any = Redis(100, P=0, Q=0)
    journal, windows = make(state, max_bytes=150)
    copy_all(journal, windows, source)
    first = journal.kept(STREAM)
    part, stream = journal.parts[STREAM], source.stream
    part.progress["Q"] = Progress(first, since=0, counts=Counts(delivered=first))
    stream.progress["Q"] = Progress(
        60, since=first, counts=Counts(delivered=60 - first)
    )
    journal.root = RootOptions(
        journal=JournalOptions(type="disk", max_bytes=300), window_records=10
    )
    copy_all(journal, windows, source)
    assert first < journal.kept(STREAM) < 60
    assert part.progress["Q"].counts + stream.progress["Q"].counts == Counts(60)
    journal.root = RootOptions(journal=JournalOptions(type="disk"), window_records=10)
    copy_all(journal, windows, source)
    assert journal.kept(STREAM) == 100
    assert part.progress["Q"] == Progress(60, since=0, counts=Counts(60))
    assert stream.progress["Q"] == Progress(100)


def test_what_others_had_meanwhile_is_a_gap_and_not_lost(state: StateFile) -> None:
    """A stream that comes back further on: its part goes on behind a gap."""
    source: Any = Redis(30, P=0)
    journal, windows = make(state)
    copy_all(journal, windows, source)
    back: Any = Redis(30, 20, 10, P=50)
    del back.stream.claims["C0"], back.stream.claims["C1"]
    copy_all(journal, windows, back)
    windows.clear()
    assert journal.frames == len(source.reads) + len(back.reads) + 1
    assert positions(journal) == {"P": 0}
    frame = windows.frame(back, Span(STREAM, 30, 60))
    assert frame is not None
    assert (frame.first, frame.end, frame.data, frame.lost) == (30, 50, b"", False)
    frame = windows.frame(back, Span(STREAM, 50, 60))
    assert frame is not None and names(frame)[0] == b"r50"


def test_a_row_that_is_missing_is_a_loss(state: StateFile) -> None:
    """Only what is written down as a gap is one."""
    source: Any = Redis(30, P=0)
    journal, windows = make(state)
    copy_all(journal, windows, source)
    windows.clear()
    with state.transaction() as db:
        db.execute("DELETE FROM frames WHERE first > 0")
    frame = windows.frame(source, Span(STREAM, 29, 30))
    assert frame is not None and not frame.data and frame.lost


def test_a_lane_without_a_part_of_the_rest_stays_ahead_in_redis(
    state: StateFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has nothing of its own in what is left on the disk, and went on."""
    monkeypatch.setattr(cursors, "BLOCK", 5)
    source: Any = Redis(10, 10, **{"P/0:2": 0, "P/1:2": 0})
    journal, windows = make(state, max_bytes=1)
    copy_all(journal, windows, source)
    assert journal.kept(STREAM) == 10
    journal.parts[STREAM].progress["P/0:2"].position = 5  # 5 to 10 are the other's
    source.stream.progress["P/0:2"].position = 15
    journal.root = RootOptions(journal=JournalOptions(type="disk"), window_records=10)
    copy_all(journal, windows, source)
    assert journal.kept(STREAM) == 20
    assert positions(journal)["P/0:2"] == 15


def test_claims_without_a_share_do_not_end_what_was_counted(
    state: StateFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Positions 10 to 15 are the other lane's: their claim is gone from the books."""
    monkeypatch.setattr(cursors, "BLOCK", 5)
    books = Books(state, {}, FakeClock())
    book = Book(STREAM, [Held("C", 14, 54, 0.0)], adopted=False)
    counted, other = (
        Progress(17, since=13, counts=Counts(delivered=2)) for _ in range(2)
    )
    books._begin(book, "P/1:2", counted)
    assert counted == Progress(17, since=14, counts=Counts(delivered=2))
    books._begin(book, "P/0:2", other)  # 13 was its own, of a claim that is gone
    assert other == Progress(17, since=17)


def test_what_comes_back_settled_keeps_what_was_booked(state: StateFile) -> None:
    """Another had the end of a claim, and no memory for his cursor."""
    now = FakeClock().now()
    place = {"stream": STREAM, "claim": "C0", "cursor": "P", "base": 0, "end": 30}
    row = Row(**place, at=now, claimed=30)  # type: ignore[arg-type]
    state.ledger.write([row], [], [], now)
    row.counts, row.handed_over = Counts(delivered=24, dead=1), 5
    state.ledger.write([], [], [row], now)
    source: Any = Redis(30, 10, P=30)
    source.stream.own, source.stream.shared = False, True
    source.stream.progress["P"] = Progress(30, since=25)
    source.stream.raised = {"P": 25}
    source.owners, source.owner = {STREAM: "me#1"}, "me#1"
    books = Books(state, {}, FakeClock())
    books.sync(source)
    books.write(source)
    with state.transaction(write=False) as db:
        (found,) = db.execute(
            """SELECT claimed, delivered, dead, unknown, handed_over FROM ledger
            WHERE claim = 'C0'"""
        )
    assert tuple(found) == (30, 24, 1, 5, 0)


def test_a_claim_that_is_not_on_the_disk_is_not_lost(state: StateFile) -> None:
    """After a start a part stands alone until the rest is in our hands again."""
    source: Any = Redis(10, 10, P=0)
    journal, windows = make(state, max_bytes=1)
    copy_all(journal, windows, source)
    books = Books(state, journal.parts, FakeClock())
    source.owners, source.owner = {STREAM: "me#1"}, "me#1"
    books.sync(source)
    books.write(source)
    again = make(state)[0]
    alone: Any = Redis(P=0)
    alone.streams, alone.owners, alone.owner = {}, {STREAM: "me#1"}, "me#2"
    books = Books(state, again.parts, FakeClock())
    books.sync(alone)
    books.write(alone)
    assert again.parts[STREAM].end == 10
    assert {row.claim for row in state.ledger.open_rows()} == {"C0", "C1"}


def test_a_row_waits_for_the_part_on_the_disk(
    state: StateFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lane that owns nothing of the rest is past the claim in Redis, not here."""
    monkeypatch.setattr(cursors, "BLOCK", 5)
    source: Any = Redis(10, **{"P/0:2": 0, "P/1:2": 0})
    journal, windows = make(state, max_bytes=1)
    windows.root = RootOptions(window_records=5)
    books = Books(state, journal.parts, FakeClock())
    source.owners, source.owner = {STREAM: "me#1"}, "me#1"
    books.sync(source)
    copy_all(journal, windows, source)
    assert journal.kept(STREAM) == 5
    part, lane = journal.parts[STREAM], Lane("P", 0, 2)
    books.record(lane, part, 1, Counts(delivered=1))
    books.sync(source)
    books.write(source)
    assert [row.cursor for row in state.ledger.open_rows()] == ["P/0:2", "P/1:2"]
    books.record(lane, part, 5, Counts(delivered=4))
    books.sync(source)
    books.write(source)
    assert [row.cursor for row in state.ledger.open_rows()] == ["P/1:2"]
    assert state.ledger.totals()["P"].delivered == 5


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A state file on a disk that can be full."""
    with contextlib.closing(Disk(tmp_path / "state.sqlite")) as opened:
        yield opened


@pytest.mark.parametrize("room", [False, True])
def test_what_the_disk_refuses_outlives_the_lease(disk: Disk, room: bool) -> None:
    """The part on the disk is ours still, and its cursor counts nothing twice."""
    source: Any = Redis(10, 10, P=0)
    source.owners, source.owner = {STREAM: "me#1"}, "me#1"
    journal, windows = make(disk, max_bytes=1)
    windows.root = RootOptions(window_records=15)
    books, lane = Books(disk, journal.parts, FakeClock()), Lane("P", 0, 1)
    books.sync(source)
    copy_all(journal, windows, source)
    books.write(source)
    assert journal.kept(STREAM) == 10
    disk.full = True
    books.record(lane, journal.parts[STREAM], 10, Counts(delivered=9, dead=1))
    with pytest.raises(StateError):
        books.write(source)
    assert books.unwritten == {(STREAM, "P")}
    books.forget()
    disk.full = not room
    again: Any = Redis(10, 10, P=10)
    again.stream.claims.pop("C0")
    again.owners, again.owner = {STREAM: "me#2"}, "me#2"
    books.sync(again)
    disk.full = False
    books.write(again)
    sums = disk.ledger.totals()["P"]
    assert (sums.claimed, sums.delivered, sums.dead) == (20, 9, 1)
    assert [row.claim for row in disk.ledger.open_rows()] == ["C1"]


@pytest.mark.parametrize("first", [0, 4])
@pytest.mark.parametrize("done", [0, 3])
@pytest.mark.parametrize("room", [False, True])
def test_a_row_that_comes_back_before_the_disk_has_it(
    disk: Disk, room: bool, done: int, first: int
) -> None:
    """Another had the rest of the claim, and gave it back: both shares are counted.

    What it has done meanwhile stays handed over.
    """
    source: Any = Redis(20, P=first)
    source.owners, source.owner = {STREAM: "me#1"}, "me#1"
    journal, windows = make(disk, max_bytes=1)
    books, lane = Books(disk, journal.parts, FakeClock()), Lane("P", 0, 1)
    books.sync(source)
    copy_all(journal, windows, source)
    books.write(source)
    part = journal.parts[STREAM]
    assert part.end == first + 10
    books.forget()
    away: Any = Redis()
    away.streams, away.owners, away.owner = {}, {STREAM: "other#1"}, "me#2"
    books.sync(away)
    books.record(lane, part, part.end, Counts(delivered=10))
    books.sync(away)
    disk.full = not room
    with contextlib.nullcontext() if room else pytest.raises(StateError):
        books.write(away)
    assert bool(books.unwritten) is not room
    back: Any = Redis(20, P=part.end + done)
    back.stream.shared = True
    back.owners, back.owner = {STREAM: "me#2"}, "me#2"
    books.sync(back)
    books.record(lane, back.stream, 20, Counts(delivered=20 - part.end - done))
    disk.full = False
    books.write(back)
    sums = disk.ledger.totals()["P"]
    assert sums.claimed == 20 - first and sums.handed_over == done
    assert sums.delivered == sums.claimed - done
    assert not disk.ledger.open_rows()


def test_a_claim_of_which_a_lane_has_nothing_is_no_hole(
    state: StateFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is forgotten once the other lane is done; what comes behind it counts."""
    monkeypatch.setattr(cursors, "BLOCK", 5)
    journal = make(state)[0]
    part = Stream(id=STREAM, own=False, disk=True, end=10)
    part.claims["C1"] = Claim("l", "msgpack", "", 5, 5, total=5)
    part.progress["P/1:2"] = Progress(0)
    journal.parts[STREAM] = part
    source: Any = Redis()
    source.streams, source.owners, source.owner = {}, {}, "me#1"
    source.finished = {STREAM: "me"}
    books = Books(state, journal.parts, FakeClock())
    books.sync(source)
    books.record(Lane("P", 1, 2), part, 7, Counts(delivered=2))
    books.record(Lane("P", 1, 2), part, 10, Counts(delivered=3))
    books.write(source)
    assert state.ledger.totals()["P"].delivered == 5
    assert not state.ledger.open_rows()


def restarted(state: StateFile, journal: Journal, source: Any) -> Books:
    """Return the books of the next life, that has the stream in hand."""
    source.owners, source.owner = {STREAM: "me#2"}, "me#2"
    return Books(state, journal.parts, FakeClock())


def test_a_claim_behind_the_part_that_redis_has_lost(state: StateFile) -> None:
    """The disk has the claim before it, and a pump is still there."""
    source: Any = Redis(30, 30, P=0)
    journal, windows = make(state, max_bytes=1)
    windows.root = RootOptions(window_records=30)
    books = restarted(state, journal, source)
    books.sync(source)
    copy_all(journal, windows, source)
    assert journal.kept(STREAM) == 30
    books.write(source)
    back: Any = Redis(P=30)
    back.stream.own = False
    again = restarted(state, journal, back)
    again.sync(back)
    again.write(back)
    assert state.ledger.totals()["P"].lost == 30
    assert [row.claim for row in state.ledger.open_rows()] == ["C0"]


def test_claims_behind_the_part_of_a_stream_that_has_only_its_name(
    state: StateFile,
) -> None:
    """Redis came back with the stream's owner and nothing of its hash."""
    source: Any = Redis(15, 5, P=0)
    journal, windows = make(state, max_bytes=1)
    books = restarted(state, journal, source)
    books.sync(source)
    copy_all(journal, windows, source)
    assert journal.kept(STREAM) == 10
    books.write(source)
    back: Any = Redis()
    back.stream.own = False
    again = restarted(state, journal, back)
    again.sync(back)
    again.write(back)
    assert state.ledger.totals()["P"].lost == 5
    assert [row.claim for row in state.ledger.open_rows()] == ["C0"]


def test_what_was_counted_of_a_claim_that_redis_has_lost(state: StateFile) -> None:
    """The part grows up to it; how far it was settled stays known."""
    source: Any = Redis(10, 2, 8, P=15)
    source.stream.progress["P"] = Progress(15, since=12, counts=Counts(delivered=3))
    source.stream.trimmed = 0
    del source.stream.claims["C2"]
    journal, windows = make(state)
    assert journal.copy(source, windows, 1)
    copy_all(journal, windows, source)
    assert journal.kept(STREAM) == 12
    cursor = journal.parts[STREAM].progress["P"]
    assert (cursor.since, cursor.counts.delivered) == (12, 3)


def test_what_is_lost_in_a_hole_is_not_of_the_claim_behind_it(
    state: StateFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the lane has nothing of that, and is over both at once."""
    monkeypatch.setattr(cursors, "BLOCK", 5)
    source: Any = Redis(11, 1, **{"P/1:2": 5})
    del source.stream.claims["C0"]
    books = restarted(state, make(state)[0], source)
    books.sync(source)
    books.record(Lane("P", 1, 2), source.stream, 10, Counts(lost=5))
    books.write(source)
    assert "P" not in state.ledger.totals()


def test_a_stream_that_was_out_of_our_hands_is_met_anew(state: StateFile) -> None:
    """Redis came back with what we had finished, all within one round."""
    source: Any = Redis(20, P=0)
    journal, windows = make(state, max_bytes=1)
    books, lane = restarted(state, journal, source), Lane("P", 0, 1)
    books.sync(source)
    copy_all(journal, windows, source)
    books.record(lane, journal.parts[STREAM], 10, Counts(delivered=10))
    books.record(lane, source.stream, 20, Counts(delivered=10))
    books.write(source)
    assert state.ledger.totals()["P"].delivered == 20
    source.stream = source.streams[STREAM] = Redis(20, P=10).stream
    assert books.sync(source) == {STREAM: {"P"}}
    assert source.stream.progress["P"].position == 20


def test_what_redis_has_lost_between_the_disk_and_the_rest(state: StateFile) -> None:
    """It is unknown, and stays so when the part grows over it; the part counts."""
    source: Any = Redis(20, 10, 10, P=0)
    journal, windows = make(state, max_bytes=1)
    books, lane = restarted(state, journal, source), Lane("P", 0, 1)
    books.sync(source)
    copy_all(journal, windows, source)
    assert journal.kept(STREAM) == 10
    books.write(source)
    back: Any = Redis(20, 10, 10, P=30)
    del back.stream.claims["C0"], back.stream.claims["C1"]
    back.stream.raised["P"] = 10
    again = restarted(state, journal, back)
    again.sync(back)
    again.write(back)
    journal.root = RootOptions(journal=JournalOptions(type="disk"), window_records=10)
    copy_all(journal, windows, back)
    part = journal.parts[STREAM]
    assert part.end == 40
    again.record(lane, part, 10, Counts(delivered=10))
    again.record(lane, part, 30, Counts())
    again.record(lane, part, 40, Counts(delivered=10))
    again.write(back)
    sums = state.ledger.totals()["P"]
    assert (sums.claimed, sums.delivered, sums.unknown) == (40, 20, 20)
    assert not state.ledger.open_rows()


def test_what_another_had_between_is_not_ours_to_book(state: StateFile) -> None:
    """The stream came back behind what is on the disk, and is copied: a gap."""
    source: Any = Redis(40, P=0)
    journal, windows = make(state, max_bytes=1)
    books, lane = restarted(state, journal, source), Lane("P", 0, 1)
    books.sync(source)
    copy_all(journal, windows, source)
    assert journal.kept(STREAM) == 10
    books.write(source)
    back: Any = Redis(40, P=30)
    back.stream.shared = True
    again = restarted(state, journal, back)
    again.sync(back)
    again.write(back)
    journal.root = RootOptions(journal=JournalOptions(type="disk"), window_records=10)
    copy_all(journal, windows, back)
    for part in (journal.parts[STREAM], make(state)[0].parts[STREAM]):
        assert (part.end, part.gaps) == (40, [(10, 30)])
    sums = numbers(again, back)["P"]
    assert (sums.claimed, sums.handed_over, sums.pending) == (40, 20, 20)
    journal = make(state)[0]
    back.streams.clear()
    last = restarted(state, journal, back)
    last.sync(back)
    part = journal.parts[STREAM]
    last.record(lane, part, 10, Counts(delivered=10))
    last.record(lane, part, 30, Counts())
    last.record(lane, part, 40, Counts(delivered=10))
    last.write(back)
    done = state.ledger.totals()["P"]
    assert (done.claimed, done.delivered, done.handed_over) == (40, 20, 20)
    assert not state.ledger.open_rows()


def test_a_pump_that_is_ahead_in_redis_is_not_set_back(state: StateFile) -> None:
    """Another delivered what is behind our part: its pump goes on from there."""
    source: Any = Redis(40, P=0, Q=0)
    journal, windows = make(state, max_bytes=1)
    copy_all(journal, windows, source)
    assert journal.kept(STREAM) == 10
    back: Any = Redis(40, P=30, Q=10)
    journal.root = RootOptions(journal=JournalOptions(type="disk"), window_records=10)
    copy_all(journal, windows, back)
    assert journal.kept(STREAM) == 10 and back.stream.progress["P"].position == 30
    journal.parts[STREAM].progress["P"].position = 10
    copy_all(journal, windows, back)
    assert positions(journal) == {"P": 30, "Q": 0} and journal.kept(STREAM) == 40


def test_a_cursor_that_the_disk_has_moved_is_written(state: StateFile) -> None:
    """Killed between a copy and the cursors: Redis is told before it is trimmed."""
    source: Any = Redis(30, P=0)
    journal, windows = make(state)
    copy_all(journal, windows, source)
    source.stream.settled["P"] = pack(Progress())
    assert source.stream.progress["P"].position == 30
    assert restarted(state, journal, source).sync(source) == {STREAM: {"P"}}


def test_trouble_ends_when_nothing_waits_for_the_disk(
    state: StateFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was not copied has been delivered from Redis meanwhile."""

    def refuse(*args: Any) -> None:
        raise StateError("disk full")

    source: Any = Redis(10, P=0)
    journal, windows = make(state)
    clock = FakeClock()
    monkeypatch.setattr(journal, "_clock", clock)
    monkeypatch.setattr(journal._store, "append", refuse)
    assert not copy(journal, windows, source) and journal.error
    source.stream.trimmed = 10
    source.stream.claims.clear()
    monkeypatch.setattr(source, "backlog", lambda: (0, 0))
    clock.ahead += 2.0
    copy(journal, windows, source)
    assert not journal.error


def test_a_part_of_a_claim_is_not_the_whole_of_it(state: StateFile) -> None:
    """Its beginning is settled on the disk before the rest is in our hands again."""
    source: Any = Redis(20, P=0)
    journal, windows = make(state, max_bytes=1)
    books = Books(state, journal.parts, FakeClock())
    source.owners, source.owner = {STREAM: "me#1"}, "me#1"
    books.sync(source)
    books.write(source)
    copy_all(journal, windows, source)
    assert journal.kept(STREAM) == 10
    alone: Any = Redis()
    alone.streams, alone.owners, alone.owner = {}, {STREAM: "me#1"}, "me#2"
    again = make(state)[0]
    part, books = again.parts[STREAM], Books(state, again.parts, FakeClock())
    books.sync(alone)
    books.record(Lane("P", 0, 1), part, 10, Counts(delivered=10))
    books.sync(alone)
    books.write(alone)
    books = Books(state, {}, FakeClock())
    rest: Any = Redis(20, P=10)
    rest.owners, rest.owner = {STREAM: "me#3"}, "me#3"
    books.sync(rest)
    assert rest.stream.progress["P"].position == 10
