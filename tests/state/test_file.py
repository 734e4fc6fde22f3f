"""The state file: what is stored is there after a crash, and a repeat replaces."""

from __future__ import annotations

import contextlib
import lzma
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tyk_pump.errors import StateError
from tyk_pump.state.file import VERSION, StateFile
from tyk_pump.worker.outcome import DeadRecord


@pytest.fixture
def file(tmp_path: Path) -> Iterator[StateFile]:
    """An empty state file."""
    with contextlib.closing(StateFile(tmp_path / "state.sqlite")) as made:
        yield made


def dead(position: int, reason: str = "no such field") -> DeadRecord:
    """Return a refused record that is known by its position."""
    return DeadRecord(position, f"S:{position}", reason, b"raw %d" % position)


def store(file: StateFile, *letters: DeadRecord, pump: str = "CSV") -> None:
    """Store letters as the coordinator does."""
    file.store_dead(pump, "analytics", "msgpack", letters, 100.0)


def test_a_repeat_replaces(file: StateFile) -> None:
    """The same record refused twice at one pump is one letter, with the last reason."""
    store(file, dead(1), dead(2))
    store(file, dead(1, "still none"))
    store(file, dead(1), pump="STDOUT")
    assert file.counts() == {"CSV": 2, "STDOUT": 1}
    first, second = file.letters(pump="CSV")
    assert (first.reason, first.refusals) == ("still none", 2)
    assert (second.reason, second.refusals) == ("no such field", 1)


def test_letters_are_found_by_reason_time_and_place(file: StateFile) -> None:
    """Each condition narrows the list."""
    store(file, dead(1, "Mapping conflict"), dead(2, "too large"))
    assert [x.record_id for x in file.letters(reason="mapping")] == ["S:1"]
    assert file.letters(since=101.0) == []
    assert len(file.letters(limit=1)) == 1
    first = file.letters()[0]
    assert [x.record_id for x in file.letters(after=first.id)] == ["S:2"]


def test_a_letter_has_its_bytes(file: StateFile) -> None:
    """What was refused comes back byte for byte."""
    odd = DeadRecord(7, "S:7", "no \udc80 text", b"\x00\xff")
    store(file, odd)
    found = file.letter(file.letters()[0].id)
    assert found is not None
    assert (found.raw, found.size, found.codec) == (b"\x00\xff", 2, "msgpack")
    assert file.letter(999) is None


def test_dropping_by_id_and_by_pump(file: StateFile) -> None:
    """Only what was named goes."""
    store(file, dead(1), dead(2))
    store(file, dead(1), pump="STDOUT")
    ids = [letter.id for letter in file.letters(pump="CSV")]
    assert file.drop(ids=ids[:1]) == 1
    assert file.drop(pump="STDOUT") == 1
    assert file.counts() == {"CSV": 1}


def test_a_replay_hands_the_letters_out_in_order(file: StateFile) -> None:
    """Positions are the replay's own; the original ids stay."""
    store(file, *(dead(n) for n in (5, 9, 11)))
    assert file.mark_replay("R", "CSV") == 3
    (replay,) = file.replays("CSV")
    assert (replay.stream, replay.first, replay.end) == ("R", 0, 3)
    window = file.read_replay("R", 0, max_records=2, max_bytes=1000)
    assert window is not None
    assert (window.first, list(window.ids)) == (0, ["S:5", "S:9"])
    assert list(window.records) == [b"raw 5", b"raw 9"]
    assert (window.list, window.codec) == ("analytics", "msgpack")
    assert file.settle_replay("R", 2) == 2
    window = file.read_replay("R", 0, max_records=2, max_bytes=1000)
    assert window is not None and window.first == 2
    assert file.settle_replay("R", 3) == 1
    assert file.replays() == []
    assert file.read_replay("R", 0, 2, 1000) is None


def test_what_a_replay_refuses_stays_a_letter(file: StateFile) -> None:
    """Stored again first, it has left the replay when the rest is settled."""
    store(file, dead(1), dead(2))
    file.mark_replay("R", "CSV")
    store(file, dead(2, "again"))
    assert file.settle_replay("R", 2) == 1
    (left,) = file.letters()
    assert (left.record_id, left.refusals, left.replaying) == ("S:2", 2, False)


def test_a_letter_is_in_one_replay_only(file: StateFile) -> None:
    """Asking twice does not send twice; a cancelled replay leaves letters."""
    store(file, dead(1))
    assert file.mark_replay("R", "CSV") == 1
    assert file.mark_replay("Q", "CSV") == 0
    assert file.letters()[0].replaying
    assert file.cancel_replay("R") == 1
    assert file.mark_replay("Q", "CSV", ids=[file.letters()[0].id]) == 1
    assert file.mark_replay("P", "CSV", ids=[]) == 0


def test_a_replay_window_keeps_to_one_list_and_to_its_bytes(file: StateFile) -> None:
    """A window ends where list, codec or numbering changes; one record always fits."""
    store(file, dead(1), dead(2), dead(3))
    file.store_dead("CSV", "other", "protobuf", [dead(4)], 1.0)
    file.mark_replay("R", "CSV")
    tight = file.read_replay("R", 0, 10, max_bytes=1)
    assert tight is not None and list(tight.ids) == ["S:1"]
    wide = file.read_replay("R", 0, 10, max_bytes=1000)
    assert wide is not None and list(wide.ids) == ["S:1", "S:2", "S:3"]
    file.drop(ids=[file.letters()[1].id])
    gap = file.read_replay("R", 0, 10, max_bytes=1000)
    assert gap is not None and list(gap.ids) == ["S:1"]
    last = file.read_replay("R", 3, 10, max_bytes=1000)
    assert last is not None and (last.list, last.codec) == ("other", "protobuf")


def test_stream_fields_wait_until_they_are_cleared(file: StateFile) -> None:
    """What Redis had no room for survives here, the last value of each field."""
    file.put("S", {"claim:1": b"a", "CSV": b"1"})
    file.put("S", {"CSV": b"2"})
    assert file.pending() == {"S": {"CSV": b"2", "claim:1": b"a"}}
    file.clear("S", ["CSV"])
    assert file.pending() == {"S": {"claim:1": b"a"}}


def test_what_was_stored_survives_a_kill(tmp_path: Path) -> None:
    """A process that dies right after `store_dead` returned has lost nothing."""
    path = tmp_path / "state.sqlite"
    code = (
        "import os, sys; from tyk_pump.state.file import StateFile;"
        "from tyk_pump.worker.outcome import DeadRecord;"
        "StateFile(sys.argv[1]).store_dead("
        "'CSV', 'l', 'msgpack', [DeadRecord(1, 'S:1', 'r', b'x')], 1.0);"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    with contextlib.closing(StateFile(path)) as file:
        assert file.counts() == {"CSV": 1}


def test_threads_share_the_file(file: StateFile) -> None:
    """Each thread has its own connection; nobody's letters are lost."""

    def write(pump: str) -> None:
        for position in range(10):
            store(file, dead(position), pump=pump)

    threads = [threading.Thread(target=write, args=(f"P{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert file.counts() == {f"P{n}": 10 for n in range(4)}


def test_a_failed_transaction_leaves_nothing(file: StateFile) -> None:
    """All letters of one call are stored, or none."""
    broken = DeadRecord(2, "S:2", "r", None)  # type: ignore[arg-type]
    with pytest.raises(StateError, match="NOT NULL"):
        store(file, dead(1), broken)
    assert file.counts() == {}


def test_a_newer_schema_is_refused_in_plain_words(tmp_path: Path) -> None:
    """An old program does not touch what it does not understand."""
    path = tmp_path / "state.sqlite"
    StateFile(path).close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version = {VERSION + 1}")
    with pytest.raises(StateError, match="newer tyk-pump"):
        StateFile(path)


def test_a_foreign_or_broken_file_is_refused(tmp_path: Path) -> None:
    """Neither somebody's database nor garbage is written over."""
    foreign = tmp_path / "foreign.sqlite"
    with contextlib.closing(sqlite3.connect(foreign)) as db:
        db.execute("CREATE TABLE theirs (x)")
    with pytest.raises(StateError, match="not written by tyk-pump"):
        StateFile(foreign)
    garbage = tmp_path / "garbage.sqlite"
    garbage.write_bytes(os.urandom(4096))
    with pytest.raises(StateError, match="not a database"):
        StateFile(garbage)


def test_a_file_of_the_first_version_is_taken_on(tmp_path: Path) -> None:
    """As that version wrote it: letters, a replay, fields; the ledger begins."""
    path = tmp_path / "state.sqlite"
    kept = Path(__file__).with_name("version-1.sqlite.xz")
    path.write_bytes(lzma.decompress(kept.read_bytes()))
    for _ in range(2):
        with contextlib.closing(StateFile(path)) as file:
            assert file.counts() == {"CSV": 3, "STDOUT": 1}
            assert [one.stream for one in file.replays()] == ["R"]
            assert file.pending() == {"S": {"claim:C": b"x"}}
            found = file.ledger.letters()
            assert (found["CSV"].stored, found["CSV"].kept) == (3, 3)
            assert file.ledger.hours() == {} and not file.ledger.open_streams()
    with contextlib.closing(StateFile(path)) as file:
        assert file.settle_replay("R", 1) == 1
        assert file.ledger.letters()["CSV"].replayed == 1
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (VERSION,)


def test_a_full_disk_lets_the_log_be_used_anew(file: StateFile) -> None:
    """Its transactions go to the file: there may be room in the log's own pages."""
    store(file, dead(1))
    before = file.path.stat().st_size
    with file.transaction(write=False) as db:
        pages = db.execute("PRAGMA page_count").fetchone()[0]
    file._connection().execute(f"PRAGMA max_page_count = {pages}")
    large = DeadRecord(2, "S:2", "too large", bytes(1 << 20))
    with pytest.raises(StateError, match="full"):
        store(file, large)
    assert file.path.stat().st_size > before
    assert [one.record_id for one in file.letters()] == ["S:1"]
    file._connection().execute("PRAGMA max_page_count = 1000000")
    store(file, large)
    assert file.counts() == {"CSV": 2}
