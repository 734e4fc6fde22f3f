"""What `select` does that no captured case shows."""

from __future__ import annotations

from tyk_pump.config.root import Filters, PumpConfig, RootOptions
from tyk_pump.record.analytics import AnalyticsRecord
from tyk_pump.worker import select


def test_without_options_nothing_is_called() -> None:
    """A pump that takes all records as they are has no step per record."""
    found = select.compile(PumpConfig(name="D", type="dummy"), RootOptions(), ())
    assert found.needs == ()
    assert found.select is None


def test_a_filter_adds_the_fields_that_it_looks_at() -> None:
    """They are decoded though the pump does not read them."""
    filters = Filters(skip_org_ids=["a"], response_codes=[200])
    pump = PumpConfig(name="D", type="dummy", filters=filters, ignore_fields=["path"])
    found = select.compile(pump, RootOptions(), ("alias",))
    assert found.needs == ("response_code", "org_id", "alias")
    assert found.select is not None
    assert found.select(AnalyticsRecord(org_id="b", response_code=200))
    assert not found.select(AnalyticsRecord(org_id="a", response_code=200))
    assert not found.select(AnalyticsRecord(org_id="b", response_code=404))


def test_a_cut_within_a_character_keeps_its_bytes() -> None:
    """Bytes are counted, and the ones of half a character survive the way out."""
    assert select.first_bytes("aé", 2).encode("utf-8", "surrogateescape") == b"a\xc3"
