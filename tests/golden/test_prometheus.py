"""The prometheus pump shows what the reference showed, in the same order."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.golden import loader
from tests.golden.deliver import deliver
from tests.golden.loader import Case
from tyk_pump.pumps.prometheus import PrometheusOptions, PrometheusPump
from tyk_pump.pumps.protocol import Batch

CASES = loader.cases("prometheus")
Lines = list[tuple[str, float | str]]
HUGE = 30 * 86_400_000


def _lines(data: bytes) -> Lines:
    """Return the lines without our own process, numbers as numbers."""
    found: Lines = []
    for line in data.decode().split("\n")[:-1]:
        name = line.split(" ")[2] if line.startswith("#") else line
        if not name.startswith("process_"):
            head, _, value = line.rpartition(" ")
            found.append((line, "") if line.startswith("#") else (head, float(value)))
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_prometheus_case(
    case: Case,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One scrape after each write is what the capture has."""
    shown: list[Lines] = []
    write: Callable[[PrometheusPump, Batch], None] = PrometheusPump.write

    def and_scrape(pump: PrometheusPump, batch: Batch) -> None:
        write(pump, batch)
        path = "/env" if case.name == "env-meta" else pump._path
        assert pump._server is not None
        url = f"http://127.0.0.1:{pump._server.port}{path}"
        with urllib.request.urlopen(url) as answer:
            assert answer.headers["Content-Type"] == (
                "text/plain; version=0.0.4; charset=utf-8"
            )
            shown.append(_lines(answer.read()))

    monkeypatch.setattr(PrometheusPump, "write", and_scrape)
    live = {"host": "127.0.0.1", "prom_port": "0"}
    done = deliver(case, live, tmp_path, monkeypatch)
    assert done.refused == {} and done.delivered + _filtered(done) == len(done.names)
    expected = case.expected("prom")
    assert len(shown) == len(expected)
    for number, found in enumerate(shown, 1):
        wanted = _lines(expected[str(number) if len(expected) > 1 else ""])
        _compare(case, found, wanted)
    skipped = [m for m in done.messages if "neither a counter" in m]
    assert len(skipped) == (case.name == "custom-bad-type")


def _filtered(done: object) -> int:
    return sum(one.filtered for one in done.end.outcomes)  # type: ignore[attr-defined]


def _compare(case: Case, found: Lines, wanted: Lines) -> None:
    name = case.name
    if name == "counter-key-collision":
        # Captured as one series of 3: the values contain what they were joined by.
        assert found[2:] == [
            ('my_requests{alias="a",oauth_id="b--c"}', 2.0),
            ('my_requests{alias="a--b",oauth_id="c"}', 1.0),
        ]
    elif name == "obfuscate-length-8":
        # Captured with 4 characters: the length was ignored.
        assert dict(found) == {_with_eight(line): value for line, value in wanted}
    elif name == "custom-histogram-buckets":
        # Captured with the default buckets: the configured ones were ignored.
        bounds = {line.partition('le="')[2] for line, _ in found if "_bucket" in line}
        assert bounds == {'1"}', '10"}', '100.5"}', '1000"}', '+Inf"}'}
        ours = [one for one in found if one[0].partition('le="')[2] != '100.5"}']
        kept = [one for one in wanted if not _other_bound(one[0])]
        assert ours == kept
    elif "aggregate" in name:
        _compare_averages(found, wanted)
    elif name.startswith("edge"):
        assert [_tamed(one) for one in wanted] == [_tamed(one) for one in found]
        sums = [value for line, value in found if "_sum" in line]
        assert all(isinstance(s, float) and 0 <= s < 3 * HUGE for s in sums)
    else:
        assert found == wanted


def _with_eight(line: str) -> str:
    return line.replace("****8f90", "****6d7e8f90").replace("****aces", "****d spaces")


def _other_bound(line: str) -> bool:
    bound = line.partition('le="')[2].removesuffix('"}')
    return bound != "" and bound not in ("1", "10", "1000", "+Inf")


def _tamed(one: tuple[str, float | str]) -> tuple[str, float | str]:
    """A sum that a time of years or a negative one went into cannot be compared."""
    line = one[0]
    spoilt = line.startswith("tyk_latency_sum") and 'api="b84fe1a0' in line
    return (line, "") if spoilt else one


def _compare_averages(found: Lines, wanted: Lines) -> None:
    """Captured with one observation per write: counts counted writes."""
    assert [line for line, _ in found] == [line for line, _ in wanted]
    ours, theirs = dict(found), dict(wanted)
    for line, value in found:
        if "_bucket" not in line and "_sum" not in line and "_count" not in line:
            assert theirs[line] == value
    counts = {
        line.replace("_count", ""): value for line, value in found if "_count" in line
    }
    for line, number in counts.items():
        assert isinstance(number, float) and number >= 1
        name, brace, labels = line.partition("{")
        total = ours[f"{name}_sum{brace}{labels}"]
        assert isinstance(total, float) and total >= 0
        top = ours[f'{name}_bucket{brace}{labels[:-1]},le="+Inf"}}']
        assert top == number


def test_every_label_has_a_case() -> None:
    """What may stand in `labels` is what the captures know."""
    from tyk_pump.pumps.prometheus import LABELS

    names = {case.name.removeprefix("label-") for case in CASES}
    assert set(LABELS) <= names
    assert PrometheusOptions(listen_address=":1").path == "/metrics"
