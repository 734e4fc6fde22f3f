"""Documents: names, types and what BSON cannot hold."""

from __future__ import annotations

from typing import Any

import bson as driver
import pytest
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.int64 import Int64
from bson.objectid import ObjectId
from hypothesis import given
from hypothesis import strategies as st

from tyk_pump.errors import CodecError
from tyk_pump.record import bson
from tyk_pump.record.analytics import AnalyticsRecord, MCPStats
from tyk_pump.record.text import clean as cleaned

NAME = bytes(range(12))
EXACT: CodecOptions[dict[str, Any]] = CodecOptions(
    datetime_conversion=DatetimeConversion.DATETIME_MS
)
ODD = "aé\0\udc80"
TEXTS = st.text(
    st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from(ODD))
)


def test_the_layout_is_what_the_pumps_read() -> None:
    """One attribute for each name, in its order; `_id` leads."""
    document = bson.raw(AnalyticsRecord())
    flat = [name.replace("_", "").lower() for name in bson.RAW_FIELDS]
    assert [name.lower() for name in document] == flat
    assert next(iter(driver.decode(bson.encode(document, NAME)))) == "_id"


def test_long_numbers_stay_long() -> None:
    """Whatever their value: readers know them as 64 bits wide."""
    found = driver.decode(bson.encode(bson.raw(AnalyticsRecord()), NAME), EXACT)
    long = [found["contentlength"], found["requesttime"]]
    long += [*found["network"].values(), *found["latency"].values()]
    assert {type(number) for number in long} == {Int64} and len(long) == 9
    short = ("day", "month", "year", "hour", "responsecode")
    assert {type(found[name]) for name in short} == {int}


@given(st.lists(TEXTS, max_size=5), st.dictionaries(TEXTS, TEXTS, max_size=3))
def test_any_text(texts: list[str], names: dict[str, str]) -> None:
    """Odd bytes and NUL in names are replaced; all else comes back as it was."""
    made = bson.encode({"tags": texts, "names": names}, NAME)
    clean = {
        cleaned(key).replace("\0", "\ufffd"): cleaned(text)
        for key, text in names.items()
    }
    assert driver.decode(made) == {
        "_id": ObjectId(NAME),
        "tags": [cleaned(text) for text in texts],
        "names": clean,
    }
    assert int.from_bytes(made[:4], "little") == len(made)


@pytest.mark.parametrize(
    ("time", "found"),
    [
        ((0, 0), 0),
        ((1, 1_999_999), 1001),
        ((-1, 999_999_999), -1),
        ((-62_135_596_800, 0), -62_135_596_800_000),
        ((2**63 - 1, 0), -1000),
    ],
)
def test_times_are_cut(time: tuple[int, int], found: int) -> None:
    """To milliseconds; beyond all reason they go round, as in the reference."""
    assert int(bson.date(time)) == found


def test_what_has_no_form() -> None:
    """The record is refused, with the reason."""
    with pytest.raises(CodecError, match=r"^has no form in BSON: .*8-byte ints"):
        bson.encode({"n": 2**70}, NAME)


def test_what_is_left_out() -> None:
    """Calls of MCP, and what the gateway gave the code -1."""
    assert bson.unless_mcp(AnalyticsRecord(response_code=-1)) is None
    assert bson.unless_mcp(AnalyticsRecord(mcp_stats=MCPStats(is_mcp=True))) is None
    assert bson.unless_mcp(AnalyticsRecord(response_code=200)) is not None


def test_sizes_are_in_bytes() -> None:
    """Also where the bytes are no UTF-8."""
    sizes = [bson.size(text) for text in ("abc", "aé", "\ud800")]
    assert sizes == [3, 3, 3]
