"""Damaged state files: whatever is hit, the rest is saved, and nothing is silent."""

from __future__ import annotations

import contextlib
import functools
import lzma
import os
import random
import shutil
import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tyk_pump import channel
from tyk_pump.errors import DamagedState, StateError
from tyk_pump.source.claims import Progress, pack
from tyk_pump.state import file as state_file
from tyk_pump.state import rescue
from tyk_pump.state.file import VERSION, StateFile
from tyk_pump.state.journal import Damaged, Frame, FrameStore
from tyk_pump.state.ledger import Ledger, Row
from tyk_pump.state.pages import PAGE, Pages
from tyk_pump.worker.outcome import DeadRecord

SAMPLES = int(os.environ.get("TYK_PUMP_SAMPLES", "40"))
STREAMS = ("01J0000000000000000000000A", "01J0000000000000000000000B")
FRAMES = 12
RECORDS = 10
CURSORS = ("CSV", "SQL/0:2", "SQL/1:2")


def records(stream: str, number: int) -> list[bytes]:
    """Return the records of a frame; some frames are longer than a page."""
    size = 20_000 if number % 3 else 50
    return [f"{stream}:{number}:{one}".encode().ljust(size) for one in range(RECORDS)]


def frame(stream: str, number: int) -> Frame:
    """Return a frame as the coordinator keeps it."""
    first = number * RECORDS
    data = channel.encode_frame(
        stream, "analytics", "msgpack", first, None, records(stream, number)
    )
    return Frame(
        stream=stream,
        first=first,
        end=first + RECORDS,
        claim=f"C{number // 4}",
        list="analytics",
        codec="msgpack",
        at=1000.0 + number,
        data=data,
    )


def fill(file: StateFile) -> None:
    """Put frames, cursors, letters, fields and the ledger into a file."""
    store, ledger = FrameStore(file), Ledger(file)
    for stream in STREAMS:
        for number in range(FRAMES):
            cursors = {name: pack(Progress(position=RECORDS)) for name in CURSORS}
            store.append([frame(stream, number)], {stream: cursors})
    letters = [
        DeadRecord(number, f"S:{number}", "no such field", b"raw %d " % number * 50)
        for number in range(40)
    ]
    file.store_dead("CSV", "analytics", "msgpack", letters, 100.0)
    file.put("S", {"claim:1": pack(Progress(position=1)), "pump:CSV": pack(Progress())})
    rows = [
        Row(
            stream=STREAMS[0],
            claim=f"C{number}",
            cursor="CSV",
            at=7200.0,
            base=number * 10,
            end=number * 10 + 10,
            claimed=10,
        )
        for number in range(30)
    ]
    ledger.write(rows, (), rows[:10], 7300.0)


def go_on(file: StateFile) -> None:
    """See that the file can be written."""
    one = frame(STREAMS[0], FRAMES)
    FrameStore(file).append([one], {STREAMS[0]: {"CSV": pack(Progress(position=9))}})
    file.store_dead("CSV", "l", "msgpack", [DeadRecord(1, "S:1", "r", b"x")], 1.0)
    file.ledger.fold(1.0)


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file that was closed in order."""
    folder = tmp_path_factory.mktemp("closed")
    with contextlib.closing(StateFile(folder / "state.sqlite")) as file:
        fill(file)
    return folder


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a kill leaves it: much of it in the write-ahead log."""
    folder = tmp_path_factory.mktemp("killed")
    living = tmp_path_factory.mktemp("living")
    with contextlib.closing(StateFile(living / "state.sqlite")) as file:
        fill(file)
        for name in ("state.sqlite", "state.sqlite-wal"):
            shutil.copy(living / name, folder / name)
    assert (folder / "state.sqlite-wal").stat().st_size > 20 * PAGE
    return folder


def copied(folder: Path, place: Path) -> Path:
    """Return a state file of one's own, to damage."""
    shutil.copytree(folder, place, dirs_exist_ok=True)
    return place / "state.sqlite"


def opened(path: Path) -> tuple[StateFile, rescue.Report | None]:
    """Open it as the coordinator does."""
    return rescue.opened(path, CURSORS, lambda at: pack(Progress(position=at)))


def delivered(file: StateFile) -> set[bytes]:
    """Return what a pump that is owed all of the disk gets, as the journal reads."""
    store, found = FrameStore(file), set()
    for part in store.parts():
        assert set(part.cursors) == set(CURSORS)
        begins = [msgspec.msgpack.decode(value)[0] for value in part.cursors.values()]
        position = min(begins)
        while position < part.kept:
            try:
                one = store.read(part.stream, position)
            except Damaged as exc:
                assert exc.end > position
                position = exc.end
                continue
            if one is None:
                break
            if one.first > position:
                position = one.first
                continue
            if one.data:
                found.update(channel.decode_frame(one.data)[5])
            assert one.end > position
            position = one.end
    return found


def owed() -> set[bytes]:
    """Return what is owed: all but the first frame of each stream."""
    return {
        one
        for stream in STREAMS
        for number in range(1, FRAMES)
        for one in records(stream, number)
    }


@functools.cache
def where(path: Path) -> dict[tuple[str, int], set[tuple[str, int]]]:
    """Return which bytes' pages each frame stands in: (file, page of that file)."""
    found: dict[tuple[str, int], set[tuple[str, int]]] = {}
    with contextlib.closing(Pages(path)) as pages:
        roots = {
            row.values[1]: row.values[3]
            for row in pages.tree(1, [])
            if row.values[0] == "table"
        }

        def place(number: int) -> tuple[str, int]:
            offset = pages.log.pages.get(number)
            if offset is None:
                return "state.sqlite", number - 1
            return "state.sqlite-wal", (offset - 56) // (PAGE + 24)

        heap = [roots["frames"]]
        while heap:
            number = heap.pop()
            page = pages.page(number)
            kind, _, count = struct.unpack_from(">BHH", page)
            if kind == 5:
                starts = struct.unpack_from(f">{count}H", page, 12)
                heap += [struct.unpack_from(">I", page, at)[0] for at in starts]
                heap.append(struct.unpack_from(">I", page, 8)[0])
                continue
            for start in struct.unpack_from(f">{count}H", page, 8):
                before = set(pages.reached)
                row = pages._cell(page, kind, start)
                used = {place(n) for n in pages.reached - before} | {place(number)}
                found[row.values[0], row.values[1]] = used
    return found


def hit(path: Path, name: str, offset: int, *, cut: bool = False) -> set[bytes]:
    """Return the records that may be gone, since their frame's page was hit."""
    size = path.with_name(name).stat().st_size
    length = PAGE + 24 if name.endswith("-wal") else PAGE
    start = max(0, offset - 32) if name.endswith("-wal") else offset
    pages = {(name, start // length)}
    if name.endswith("-wal") and offset < 32:
        pages = set()
    if cut:
        pages = {(name, one) for one in range(start // length, size // length + 1)}
    return {
        one
        for (stream, first), used in where(path).items()
        if used & pages
        for one in records(stream, first // RECORDS)
    }


def flips(path: Path, name: str, seed: int) -> Iterator[tuple[int, int]]:
    """Yield offsets and what is flipped there: all of the head, then heads of pages
    more often."""
    chance = random.Random(seed)
    size = path.with_name(name).stat().st_size
    if name == "state.sqlite":
        yield from ((offset, 0xFF) for offset in range(100))
    for _ in range(SAMPLES // 4 if name.endswith("-wal") else SAMPLES):
        kind = chance.random()
        if kind < 0.15:
            offset = chance.randrange(100)
        elif kind < 0.6:
            page = chance.randrange(size // PAGE) * PAGE
            offset = min(size - 1, page + chance.randrange(200))
        else:
            offset = chance.randrange(size)
        yield offset, chance.choice((0xFF, 1 << chance.randrange(8)))


def test_a_whole_file_is_left_alone(closed: Path, killed: Path, tmp_path: Path) -> None:
    """Neither a closed one nor one after a kill is damaged."""
    for folder in (closed, killed):
        path = copied(folder, tmp_path / folder.name)
        assert rescue.fault_of(path) == ""
        file, report = opened(path)
        with contextlib.closing(file):
            assert report is None
            assert delivered(file) >= owed()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["state.sqlite", "state.sqlite-wal"])
def test_a_flipped_byte_costs_its_page_at_most(
    closed: Path, killed: Path, tmp_path: Path, name: str
) -> None:
    """Wherever it is: the file opens, and all frames of other pages are there."""
    folder = killed if name.endswith("-wal") else closed
    source = folder / "state.sqlite"
    for number, (offset, change) in enumerate(flips(source, name, 7)):
        if name == "state.sqlite" and 60 <= offset < 64:
            continue  # the version, see below
        place = tmp_path / "one"
        path = copied(folder, place)
        data = bytearray(path.with_name(name).read_bytes())
        data[offset] ^= change
        path.with_name(name).write_bytes(data)
        file, _ = opened(path)
        with contextlib.closing(file):
            missing = owed() - delivered(file) - hit(source, name, offset)
            assert not missing, (number, offset, change, len(missing))
            go_on(file)
        shutil.rmtree(place)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["state.sqlite", "state.sqlite-wal"])
def test_a_cut_file_keeps_what_stood_before_the_cut(
    closed: Path, killed: Path, tmp_path: Path, name: str
) -> None:
    """At every length, sampled."""
    folder = killed if name.endswith("-wal") else closed
    source = folder / "state.sqlite"
    chance = random.Random(11)
    size = source.with_name(name).stat().st_size
    lengths = [0, 1, 16, 99, 100, 511, PAGE - 1, PAGE, PAGE + 1, size - 1]
    lengths += [chance.randrange(size) for _ in range(SAMPLES // 4)]
    if name.endswith("-wal"):
        lengths = lengths[::4]
    for length in lengths:
        place = tmp_path / "one"
        path = copied(folder, place)
        os.truncate(path.with_name(name), length)
        file, report = opened(path)
        with contextlib.closing(file):
            assert report is not None or name.endswith("-wal") or not length
            if name == "state.sqlite":
                missing = owed() - delivered(file) - hit(source, name, length, cut=True)
                assert not missing, (length, len(missing))
            go_on(file)
        shutil.rmtree(place)


def test_a_missing_log_and_a_missing_file(killed: Path, tmp_path: Path) -> None:
    """What stands in the one that is left is saved."""
    path = copied(killed, tmp_path / "file")
    path.unlink()
    file, report = opened(path)
    with contextlib.closing(file):
        assert report is not None and report.saved["frames"] == 2 * FRAMES
        assert delivered(file) >= owed()
    path = copied(killed, tmp_path / "log")
    path.with_name("state.sqlite-wal").unlink()
    file, _ = opened(path)
    with contextlib.closing(file):
        go_on(file)


def test_what_is_no_database_is_kept_aside(tmp_path: Path) -> None:
    """Garbage, text, and a folder in its place: set aside, and a fresh file made."""
    path = tmp_path / "state.sqlite"
    for number in range(3):
        if number == 2:
            path.mkdir()
            (path / "theirs").write_text("kept")
        else:
            path.write_bytes(os.urandom(5000) if number else b"not a database")
        file, report = opened(path)
        with contextlib.closing(file):
            assert report is not None and report.remains
            go_on(file)
        path.unlink()
    assert report is not None
    assert (Path(report.kept) / "theirs").read_text() == "kept"
    assert len(rescue.reports(tmp_path)) == 3
    shutil.rmtree(report.kept)
    assert len(rescue.reports(tmp_path)) == 2


@pytest.mark.parametrize("version", [VERSION + 1, 99])
def test_a_newer_file_is_refused_untouched(
    closed: Path, tmp_path: Path, version: int
) -> None:
    """Damaged or not, what a newer version wrote is not for us."""
    path = copied(closed, tmp_path)
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version = {version}")
    before = path.read_bytes()
    with pytest.raises(StateError, match=f"newer tyk-pump .schema {version}"):
        opened(path)
    assert path.read_bytes() == before
    assert sorted(one.name for one in tmp_path.iterdir()) == ["state.sqlite"]


def test_somebody_elses_file_is_refused_untouched(tmp_path: Path) -> None:
    """A database without a table of ours is not written over."""
    path = tmp_path / "state.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE theirs (x)")
    before = path.read_bytes()
    with pytest.raises(StateError, match="not written by tyk-pump"):
        opened(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("version", [0, 1, 0x02000002])
def test_a_damaged_version_is_seen(closed: Path, tmp_path: Path, version: int) -> None:
    """The tables say which version it really is."""
    path = copied(closed, tmp_path)
    data = bytearray(path.read_bytes())
    data[60:64] = version.to_bytes(4, "big")
    path.write_bytes(data)
    file, report = opened(path)
    with contextlib.closing(file):
        assert report is not None and "version" in report.reason
        assert delivered(file) >= owed()
        assert file.counts() == {"CSV": 40}


def test_a_damaged_file_of_the_first_version_is_saved_too(tmp_path: Path) -> None:
    """Its letters are in the ledger afterwards, as a migration has them."""
    path = tmp_path / "state.sqlite"
    kept = Path(__file__).with_name("version-1.sqlite.xz")
    data = bytearray(lzma.decompress(kept.read_bytes()))
    data[18] = 7
    path.write_bytes(data)
    file, report = opened(path)
    with contextlib.closing(file):
        assert report is not None
        assert file.counts() == {"CSV": 3, "STDOUT": 1}
        assert [one.stream for one in file.replays()] == ["R"]
        assert file.ledger.letters()["CSV"].stored == 3


def test_a_migration_that_dies_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever statement it dies at: the file is the old one until it is through."""
    path = tmp_path / "state.sqlite"
    kept = Path(__file__).with_name("version-1.sqlite.xz")
    versions = state_file._VERSIONS
    for count in range(len(versions[1])):
        path.write_bytes(lzma.decompress(kept.read_bytes()))
        broken = (versions[0], (*versions[1][:count], "KILL"))
        monkeypatch.setattr(state_file, "_VERSIONS", broken)
        with pytest.raises(StateError, match="KILL"):
            StateFile(path)
        monkeypatch.undo()
        assert rescue.fault_of(path) == ""
        with contextlib.closing(StateFile(path)) as file:
            assert file.counts() == {"CSV": 3, "STDOUT": 1}


@pytest.mark.parametrize("step", ["ready", "aside"])
def test_a_change_of_places_that_dies_is_finished(
    closed: Path, tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash while the saved file takes the damaged one's place loses neither."""
    path = copied(closed, tmp_path)
    path.write_bytes(b"?" + path.read_bytes()[1:])
    real, calls = os.replace, iter(range(9))

    def replace(source: Path, target: Path) -> None:
        if next(calls) == {"ready": 1, "aside": 2}[step]:
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        opened(path)
    monkeypatch.undo()
    file, _ = opened(path)
    with contextlib.closing(file):
        assert delivered(file) >= owed()
    assert len(rescue.reports(tmp_path)) == 1


def test_lost_cursors_begin_at_the_first_frame(closed: Path, tmp_path: Path) -> None:
    """Where nobody knows how far a pump was, it is sent all: a repeat, not a loss."""
    path = copied(closed, tmp_path)
    with contextlib.closing(Pages(path)) as pages:
        roots = {r.values[1]: r.values[3] for r in pages.tree(1, [])}
    data = bytearray(path.read_bytes())
    for name in ("part_cursors", "parts"):
        at = (roots[name] - 1) * PAGE
        data[at : at + PAGE] = bytes(PAGE)
    path.write_bytes(data)
    file, report = opened(path)
    with contextlib.closing(file):
        assert report is not None and report.lost_records == 0
        parts = FrameStore(file).parts()
        assert [part.kept for part in parts] == [FRAMES * RECORDS] * 2
        assert len(delivered(file)) == 2 * FRAMES * RECORDS


def test_damage_found_in_operation_is_seen_at_the_next_start(
    closed: Path, tmp_path: Path
) -> None:
    """SQLite's complaint becomes a StateError that says what helps."""
    path = copied(closed, tmp_path)
    with contextlib.closing(Pages(path)) as pages:
        roots = {r.values[1]: r.values[3] for r in pages.tree(1, [])}
    with contextlib.closing(StateFile(path)) as file:
        with path.open("r+b") as raw:
            raw.seek((roots["dead_letters"] - 1) * PAGE)
            raw.write(bytes(PAGE))
        with pytest.raises(DamagedState, match="the next start saves"):
            file.letters()
    assert "while it was used" in rescue.fault_of(path)
    file, report = opened(path)
    with contextlib.closing(file):
        assert report is not None and delivered(file) >= owed()
    assert rescue.fault_of(path) == ""
