"""Bulk requests: whatever the sizes, limits and answers, each record has one fate."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tyk_pump.errors import CodecError, RejectedRecords, TransientError
from tyk_pump.pumps.protocol import Batch
from tyk_pump.record.analytics import AnalyticsRecord
from tyk_pump.transport.bulk import Bulk, Part, Refused, TooLarge, Verdict

SIZES = st.lists(st.integers(1, 60), max_size=40)


def batch(sizes: list[int]) -> Batch:
    """Return records whose content length is their size."""
    records = [AnalyticsRecord(content_length=size) for size in sizes]
    return Batch("S", 0, "list", range(len(records)), records)


def encode(records: Batch, index: int) -> bytes | None:
    """Return as many bytes; of size 7 nothing is sent, 13 cannot be expressed."""
    size = records.records[index].content_length
    if size == 7:
        return None
    if size == 13:
        raise CodecError("thirteen")
    return b"x" * size


class BackEnd:
    """Refuses some records in one of the ways that back ends have."""

    def __init__(self, way: str, bad: set[int], largest: int, fails_at: int) -> None:
        self.taken: list[int] = []
        self.parts: list[list[int]] = []
        self._way = way
        self._bad = bad
        self._largest = largest
        self._fails_at = fails_at
        self._lock = threading.Lock()

    def post(self, part: Part) -> Verdict | None:
        """Take a part, or some of it."""
        with self._lock:
            self.parts.append(part.indexes)
            if len(self.parts) == self._fails_at:
                raise TransientError("away", retry_after=3)
            if part.size > self._largest:
                raise TooLarge("too large for this server")
            bad = [at for at, index in enumerate(part.indexes) if index in self._bad]
            if not bad:
                self.taken += part.indexes
                return None
            if self._way == "whole":
                raise Refused("something in it")
            if self._way == "first":
                self.taken += part.indexes[: bad[0]]
                again = list(range(bad[0] + 1, len(part)))
                return Verdict({bad[0]: "bad"}, again=again)
            good = [i for at, i in enumerate(part.indexes) if at not in bad]
            self.taken += good
            if self._way == "later":
                return Verdict(pending=bad, reason="not now")
            return Verdict(dict.fromkeys(bad, "bad"))


@settings(max_examples=300, deadline=None)
@given(
    sizes=SIZES,
    bad=st.sets(st.integers(0, 39), max_size=6),
    way=st.sampled_from(["whole", "first", "each", "later"]),
    most=st.integers(20, 200),
    count=st.one_of(st.none(), st.integers(1, 10)),
    largest=st.integers(20, 250),
    fails_at=st.sampled_from([0, 0, 1, 2, 3, 5]),
    workers=st.sampled_from([1, 1, 3]),
    overhead=st.sampled_from([0, 2]),
)
def test_each_record_has_one_fate(
    sizes: list[int],
    bad: set[int],
    way: str,
    most: int,
    count: int | None,
    largest: int,
    fails_at: int,
    workers: int,
    overhead: int,
) -> None:
    """Delivered, left out, pending or refused with a reason; nothing is taken twice."""
    back_end = BackEnd(way, bad, largest, fails_at)
    bulk = Bulk(max_bytes=most, max_count=count, workers=workers, overhead=overhead)
    pending: set[int] = set()
    rejected: dict[int, str] = {}
    whole = batch(sizes)
    try:
        bulk.send(whole, encode, back_end.post)
    except TransientError as exc:
        assert exc.pending
        pending, rejected = set(exc.pending), exc.rejected
    except RejectedRecords as exc:
        assert exc.rejected and not exc.pending
        rejected = exc.rejected
    finally:
        bulk.close()
    everything = set(range(len(sizes)))
    taken = set(back_end.taken)
    assert len(taken) == len(back_end.taken)
    left_out = {index for index, size in enumerate(sizes) if size == 7} - pending
    assert taken | left_out | pending | set(rejected) == everything
    assert len(taken) + len(pending) + len(rejected) == len(everything) - len(left_out)
    assert whole.left_out == len(left_out)
    assert all(rejected.values())
    for index in rejected:
        known = sizes[index] == 13 or sizes[index] + overhead > min(most, largest)
        assert known or (index in bad and way != "later")
    if not fails_at:
        assert pending == (bad & everything & pending if way == "later" else set())
    for part in back_end.parts:
        assert part == sorted(part)
        assert count is None or len(part) <= count
        assert overhead + sum(sizes[index] for index in part) <= most
    if workers == 1 and way != "whole":
        assert back_end.taken == sorted(back_end.taken)


def test_a_size_that_was_refused_is_remembered() -> None:
    """The next batch is cut smaller from the beginning."""
    back_end = BackEnd("each", set(), largest=50, fails_at=0)
    bulk = Bulk(max_bytes=400)
    for _ in range(2):
        bulk.send(batch([10] * 40), encode, back_end.post)
    assert [len(part) for part in back_end.parts[-8:]] == [5] * 8


def test_a_larger_item_than_a_part_should_have_goes_alone() -> None:
    """`flush_bytes` bounds parts of several records only."""
    back_end = BackEnd("each", set(), largest=500, fails_at=0)
    bulk = Bulk(max_bytes=100, flush_bytes=25)
    with pytest.raises(RejectedRecords) as failed:
        bulk.send(batch([10, 10, 60, 10, 101]), encode, back_end.post)
    assert back_end.parts == [[0, 1], [2], [3]]
    assert failed.value.rejected == {4: "too large: 101 bytes, the limit is 100"}


def test_the_longest_wait_that_is_asked_for_counts() -> None:
    """And what was taken before the failure stays taken."""
    back_end = BackEnd("each", set(), largest=500, fails_at=2)
    with pytest.raises(TransientError) as failed:
        Bulk(max_bytes=20).send(batch([10] * 6), encode, back_end.post)
    assert failed.value.pending == [2, 3, 4, 5]
    assert failed.value.retry_after == 3
