"""Uptime reports to counters."""

from __future__ import annotations

from typing import Any

from tyk_pump.aggregate.model import Key, Place
from tyk_pump.aggregate.uptime import UptimeAggregator
from tyk_pump.record.uptime import UptimeRecord

HOUR = 1_773_493_200
URL = Place("url", "http://a.example/")


def report(code: int = 200, **values: Any) -> UptimeRecord:
    usual: dict[str, Any] = {
        "url": URL.key,
        "request_time": 10,
        "timestamp": (HOUR + 5, 0),
        "org_id": "org1",
    }
    return UptimeRecord(response_code=code, **(usual | values))


def test_a_report_of_minus_1_makes_its_url_known_and_harms_nothing() -> None:
    """Before and after reports of other codes, which the reference dies of."""
    lost, fine, bad = report(-1), report(204), report(503, request_time=30)
    (found,) = UptimeAggregator().aggregate([lost, fine, bad, lost]).values()
    for counter in (found.total, found.counters[URL]):
        assert (counter.hits, counter.success, counter.errors) == (2, 1, 1)
        assert counter.error_map == {"204": 1, "503": 1}
        assert counter.request_time == 20.0
    assert set(found.counters) == {URL, Place("errors", "503")}
    (only_lost,) = UptimeAggregator().aggregate([lost]).values()
    assert only_lost.counters[URL].hits == only_lost.total.hits == 0


def test_each_report_is_booked_on_its_own_hour() -> None:
    reports = [report(timestamp=(HOUR + 3600, 0)), report(timestamp=(HOUR + 3599, 0))]
    subject = UptimeAggregator(by_day=True)
    assert set(subject.aggregate(reports)) == {
        Key("org1", "", HOUR, "20260314"),
        Key("org1", "", HOUR + 3600, "20260314"),
    }


def test_other_codes_are_hits_and_nobody_s_reports_none() -> None:
    reports = [report(301), report(100), report(org_id="")]
    subject = UptimeAggregator()
    (found,) = subject.aggregate(reports).values()
    assert (found.total.hits, found.total.error_map) == (2, {})
    assert subject.passed_over == 1
