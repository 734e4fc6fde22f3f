"""What the segment pump's options do, and what it makes of answers."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from tests.servers.segment import KEY, Api
from tests.servers.tls import Authority
from tyk_pump.config.options import Secret
from tyk_pump.errors import RejectedRecords, TransientError
from tyk_pump.pumps.protocol import Batch
from tyk_pump.pumps.segment import SegmentOptions, SegmentPump
from tyk_pump.record.analytics import AnalyticsRecord

TIME = (1_741_183_629, 123_000_000)


def opened(server: Api, **options: Any) -> SegmentPump:
    """Return an open pump that writes to an API."""
    given = {"segment_write_key": Secret(KEY), "segment_url": server.url, **options}
    pump = SegmentPump(SegmentOptions(**given))
    pump.open()
    return pump


def batch(*records: AnalyticsRecord) -> Batch:
    """Return a batch of these."""
    for record in records:
        record.timestamp = TIME
    return Batch("S", 0, "analytics", range(len(records)), list(records))


def test_a_repeated_batch_has_the_same_identifiers() -> None:
    """So that Segment drops it."""
    with Api() as server:
        pump = opened(server)
        for _ in range(2):
            pump.write(batch(AnalyticsRecord(api_key="k"), AnalyticsRecord()))
        pump.close()
        assert list(server.events) == ["S:0", "S:1"]
        assert len(server.requests) == 2


def test_time_and_identifier_are_those_of_the_call() -> None:
    """Also where it had no key."""
    with Api() as server:
        pump = opened(server)
        pump.write(batch(AnalyticsRecord(api_key="k"), AnalyticsRecord()))
        pump.close()
        first, second = server.events.values()
        assert first["anonymousId"] == "k" and second["anonymousId"] == "keyless"
        assert first["timestamp"].startswith("2025-03-05T14:07:09.123")
        assert server.requests[0].json["context"]["library"]["name"] == "tyk-pump"


def test_keys_can_be_hashed() -> None:
    """The key itself does not leave then, in no field that names it."""
    hashed = hashlib.sha256(b"k3y").hexdigest()
    with Api() as server:
        pump = opened(server, hash_api_key=True)
        pump.write(batch(AnalyticsRecord(api_key="k3y", tags=["key-k3y", "a"])))
        pump.close()
        (event,) = server.events.values()
        assert event["anonymousId"] == event["properties"]["api_key"] == hashed
        assert event["properties"]["tags"] == [f"key-{hashed}", "a"]
        assert b"k3y" not in server.requests[0].raw


def test_batches_keep_to_the_limits() -> None:
    """Of 250 events, of 500,000 bytes, and of 32 KiB for one event."""
    with Api() as server:
        pump = opened(server)
        records = [AnalyticsRecord(raw_request="x" * 5000) for _ in range(300)]
        records[7].raw_request = "x" * 40_000
        with pytest.raises(RejectedRecords, match="too large: 4") as caught:
            pump.write(batch(*records))
        pump.close()
        assert list(caught.value.rejected) == [7]
        assert len(server.events) == 299
        assert all(len(request.raw) <= 500_000 for request in server.requests)
        many = [AnalyticsRecord() for _ in range(251)]
        pump = opened(server)
        pump.write(batch(*many))
        pump.close()
        assert [len(r.json["batch"]) for r in server.requests[-2:]] == [250, 1]


def test_one_refused_event_is_found() -> None:
    """Segment refuses the whole batch; the others arrive, each once."""
    with Api() as server:
        pump = opened(server)
        records = [AnalyticsRecord() for _ in range(20)]
        records[13].path = server.unfit or ""
        with pytest.raises(RejectedRecords, match="malformed JSON") as caught:
            pump.write(batch(*records))
        pump.close()
        assert list(caught.value.rejected) == [13]
        assert len(server.events) == 19


def test_a_wrong_key_holds_the_records(authority: Authority) -> None:
    """And is not in the reason."""
    with Api(authority) as server:
        key = Secret("wr0ng")
        trust = str(authority.ca_file)
        pump = opened(server, segment_write_key=key, ssl_ca_file=trust)
        with pytest.raises(TransientError, match="401") as caught:
            pump.write(batch(AnalyticsRecord()))
        assert "wr0ng" not in str(caught.value)
        pump.close()


def test_probe_sends_no_event() -> None:
    """It says what can be known."""
    with Api() as server:
        pump = opened(server)
        assert "answers (200 OK)" in pump.probe()
        pump.close()
        assert server.events == {}


def test_faults_name_the_option() -> None:
    """A missing key and an address that is none."""
    options = SegmentOptions(segment_url="api.segment.io")
    assert [k for k, _ in options.faults()] == ["segment_write_key", "segment_url"]
