"""Metrics: each is declared once, described, and shown."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from tyk_pump.coordinator.snapshot import PumpSnapshot, Snapshot
from tyk_pump.metrics import METRICS, PUMP_METRICS, render


def test_every_declared_metric_is_shown_and_no_other() -> None:
    """The page and the table are the same set, with the same kinds."""
    pump = PumpSnapshot(name="P", type="dummy", state="failed")
    now = Snapshot(version="1", instance="i", started=1.0, ready=False, pumps=[pump])
    now.lists["l"] = 0
    found = {f.name: f for f in text_string_to_metric_families(render(now).decode())}
    declared = {m.name.removesuffix("_total"): m for m in (*METRICS, *PUMP_METRICS)}
    assert set(found) == set(declared)
    for name, metric in declared.items():
        assert found[name].type == metric.kind
        assert found[name].documentation == metric.help
        assert metric.act.endswith(".")
        assert found[name].samples


def test_the_state_shows_in_numbers() -> None:
    """A pump that cannot start and a Redis that is away are zeros."""
    pump = PumpSnapshot(name="P", type="dummy", state="failed")
    now = Snapshot(
        version="1", instance="i", started=1.0, ready=False, redis="away", pumps=[pump]
    )
    text = render(now).decode()
    assert 'tyk_pump_pump_running{pump="P",type="dummy"} 0.0' in text
    assert "tyk_pump_redis_up 0.0" in text
    assert "tyk_pump_ready 0.0" in text
