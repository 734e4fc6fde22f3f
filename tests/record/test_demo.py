"""Made-up records."""

from __future__ import annotations

from datetime import UTC, datetime
from random import Random
from typing import Any

from tyk_pump.record import demo, wire
from tyk_pump.record.analytics import AnalyticsRecord

NOW = datetime(2026, 3, 14, 9, 26, 53, tzinfo=UTC).timestamp()


def hours(**options: Any) -> list[list[AnalyticsRecord]]:
    """Return all batches of a demonstration."""
    chosen: dict[str, Any] = {
        "days": 2,
        "per_hour": 3,
        "api": "",
        "version": "",
        "track_path": False,
        "future": False,
    }
    chosen.update(options)
    return list(demo.generate("org1", **chosen, now=NOW, random=Random(7)))


def test_one_batch_an_hour_through_yesterday() -> None:
    """The days before today have 24 batches each, in order."""
    batches = hours()
    assert len(batches) == 48
    first, last = batches[0][0], batches[-1][-1]
    assert (first.year, first.month, first.day, first.hour) == (2026, 3, 12, 0)
    assert (last.day, last.hour) == (13, 23)
    assert first.timestamp == (1773273600, 0)
    assert [r.timestamp[0] - 1773273600 for r in batches[0]] == [0, 1200, 2400]


def test_future_begins_today() -> None:
    """Future data begin at this day's first hour."""
    assert hours(future=True)[0][0].day == 14


def test_records_per_hour_are_random_without_a_number() -> None:
    """Zero means between 300 and 499; more than one a second share the start."""
    assert all(300 <= len(batch) <= 499 for batch in hours(per_hour=0, days=1))
    assert {r.timestamp for r in hours(per_hour=3601, days=1)[0]} == {(1773360000, 0)}


def test_the_operators_choices_are_in_the_records() -> None:
    """The API, its version and the tracked path are those asked for."""
    record = hours(api="a1", version="v2", track_path=True)[0][0]
    assert (record.api_id, record.api_name) == ("a1", "Foo Bar")
    assert (record.api_version, record.track_path) == ("v2", True)
    assert record.tags == ["orgid-org1", "apiid-a1"]
    assert record.expire_at == (int(NOW) + 8760 * 3600, 0)


def test_keys_and_methods_vary() -> None:
    """Keys are fifty of the organisation; methods differ within an hour."""
    records = [r for batch in hours(per_hour=60) for r in batch]
    keys = {r.api_key for r in records}
    assert len(keys) == 50
    assert all(len(key) == 36 and key.startswith("org1") for key in keys)
    assert len({r.method for r in records[:60]}) == 6


def test_traffic_is_of_a_real_size() -> None:
    """A record of the mix is about 1.5 KB on the wire."""
    random = Random(7)
    sizes = [len(wire.pack(demo.traffic(random))) for _ in range(200)]
    assert 1300 < sum(sizes) / len(sizes) < 1800
