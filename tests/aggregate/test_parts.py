"""Buckets, keys and tags: the small parts of the aggregation."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tyk_pump.aggregate import keys
from tyk_pump.aggregate.buckets import Bucket, Buckets
from tyk_pump.aggregate.counter import MIN_INT, saturated
from tyk_pump.aggregate.tags import common_prefixes
from tyk_pump.record.analytics import BLANK_TIME, MAX_INT, ZERO_TIME
from tyk_pump.record.gotime import civil

HOUR = 1_773_493_200  # 13:00 UTC
ZONES = st.sampled_from(
    ["UTC", "Asia/Kolkata", "Asia/Kathmandu", "America/St_Johns", "Australia/Lord_Howe"]
)
ODD = st.text(st.sampled_from(["%", ".", "$", "\0", "2", "5", "E", "4", "0", "é"]))


@pytest.mark.parametrize(
    ("window", "minutes", "start"),
    [
        (60, 59, 0),
        (1, 59, 59),
        (30, 29, 0),
        (30, 30, 30),
        (7, 6, 0),
        (7, 55, 49),
        (7, 56, 56),
        (7, 59, 56),
        (45, 44, 0),
        (45, 45, 45),
    ],
)
def test_buckets_lie_on_the_clock(window: int, minutes: int, start: int) -> None:
    """Where the window does not divide 60 the last one of the hour is shorter."""
    time = HOUR + minutes * 60 + 59, 999_999_999
    assert Buckets(window).of(time, "UTC")[0] == Bucket(HOUR + start * 60, "")


@pytest.mark.parametrize(
    ("zone", "start"), [("Asia/Kolkata", -1800), ("Asia/Kathmandu", -2700), ("UTC", 0)]
)
def test_hours_are_those_of_the_records_zone(zone: str, start: int) -> None:
    assert Buckets(60).of((HOUR, 0), zone)[0].start == HOUR + start


def test_a_time_set_blank_is_booked_in_utc() -> None:
    bucket, _ = Buckets(60, by_day=True).of(BLANK_TIME, "Asia/Kolkata")
    assert bucket == Bucket(ZERO_TIME[0], "00010101")


@settings(deadline=None)
@given(st.integers(-(2**36), 2**36), ZONES, st.integers(1, 60))
def test_a_bucket_begins_on_its_zones_clock(
    seconds: int, zone: str, window: int
) -> None:
    """Also in the years when clocks showed the sun's time, to the second."""
    buckets = Buckets(window)
    bucket, whole = buckets.of((seconds, 0), zone)
    assert 0 <= seconds - bucket.start < window * 60
    shown, begin = civil(seconds, zone), civil(bucket.start, zone)
    if shown.offset == begin.offset:
        assert (begin.second, begin.minute % window) == (0, 0)
    assert buckets.of((seconds, 0), zone) == (bucket, whole)
    if whole:
        first = seconds // buckets.slot * buckets.slot
        for other in (first, first + buckets.slot - 1):
            assert Buckets(window).of((other, 0), zone)[0] == bucket


@pytest.mark.parametrize("window", [0, 61, -1])
def test_a_bucket_has_1_to_60_minutes(window: int) -> None:
    with pytest.raises(ValueError, match="1 to 60 minutes"):
        Buckets(window)


@settings(deadline=None)
@given(st.one_of(ODD, st.text()))
def test_a_bson_name_is_safe_and_can_be_read_back(key: str) -> None:
    name = keys.bson_name(key)
    assert name
    assert not name.startswith("$")
    assert not {".", "\0"} & set(name)
    assert keys.bson_key(name) == key


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("/users/1\\u2ejson", "/users/1\\u2ejson"),
        ("a.b", "a%2Eb"),
        ("$cash", "%24cash"),
        ("ca$h", "ca$h"),
        ("", "%"),
        ("%", "%25"),
        ("100%", "100%"),
        ("%2E", "%252E"),
        ("a\0b", "a%00b"),
    ],
)
def test_names_are_changed_only_where_they_must_be(key: str, name: str) -> None:
    assert keys.bson_name(key) == name


def test_keys_are_the_references() -> None:
    assert keys.versions_key("api1", "v1") == "YXBpMTp2MQ"
    assert keys.path_key("api1", "/users/1.json") == "YXBpMTovdXNlcnMvMS5qc29u"
    assert keys.endpoint_key("/users/1.json") == "/users/1\\u2ejson"
    assert (
        keys.api_endpoint_key("api1", "v1", "/users/1.json")
        == "617069313a76313a2f75736572732f312e6a736f6e"
    )
    assert keys.api_endpoint_key("", "", "\udcff") == "3a3aff"


@pytest.mark.parametrize(
    ("tags", "ignored", "kept"),
    [
        (["key-1", " key-1", "ke.y-2"], [], ["key-1", "key-2"]),
        ([" prod.eu ", "..", "", " "], [], ["prodeu"]),
        (["a", "a"], [], ["a", "a"]),
        (["env-1", " env-1", "Env-1"], ["env-"], ["env-1", "Env-1"]),
        (["a"], [""], []),
        (["\x1fa\u2003"], [], ["\x1fa"]),
    ],
)
def test_tags_are_cleaned_and_kept_by_the_rules(
    tags: list[str], ignored: list[str], kept: list[str]
) -> None:
    assert keys.kept_tags(tags, ignored) == kept


@settings(deadline=None)
@given(st.lists(st.text("ab", max_size=5), max_size=12, unique=True))
def test_prefixes_are_those_of_most_pairs(tags: list[str]) -> None:
    votes: Counter[str] = Counter()
    for one, other in combinations(tags, 2):
        size = max(n for n in range(6) if one[:n] == other[:n] and n <= len(one))
        if size and len(other) >= size:
            votes[one[:size]] += 1
    ordered = sorted(votes.items(), key=lambda vote: (-vote[1], vote[0]))
    assert common_prefixes(tags) == [prefix for prefix, _ in ordered[:5]]


def test_a_hundred_thousand_tags_are_no_work() -> None:
    """All pairs of them would take hours."""
    tags = [f"user-{number}" for number in range(100_000)]
    assert common_prefixes(tags, 1) == ["user-"]


def test_sums_stop_at_64_bits() -> None:
    assert saturated(2**63) == MAX_INT
    assert saturated(-(2**63) - 1) == MIN_INT
    assert saturated(7) == 7
