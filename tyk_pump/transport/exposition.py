"""Series -> what a scraper reads: the classic text format and OpenMetrics.

prometheus_client's own writer gives each counter the ending `_total` and makes several
objects per line; here names are the operator's, and a line is one format of a string.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import accumulate
from typing import Any, Final, Protocol

from tyk_pump.record.gotext import float_text
from tyk_pump.transport.series import Family, HistogramFamily, parts

TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
OVERFLOW: Final = "tyk_pump_series_overflow_total"
_OVERFLOW_HELP: Final = (
    "Records that were counted under other, their metric had as many series as it may."
)
_PART: Final = 500
_OPEN_KIND: Final = "application/openmetrics-text"
_OPEN_VERSIONS: Final = ("1.0.0", "0.0.1")


class Writer(Protocol):
    """Makes one of the formats."""

    def head(self, name: str, help: str, kind: str) -> str:
        """Return the lines in front of a metric's series."""

    def counter(self, family: Family, values: list[tuple[Any, int]]) -> str:
        """Return the lines of some series of a counter."""

    def histogram(self, family: HistogramFamily, values: list[Any]) -> str:
        """Return the lines of some series of a histogram."""


class ClassicWriter:
    """The text format 0.0.4, as the reference shows it."""

    def head(self, name: str, help: str, kind: str) -> str:
        """Return the lines in front of a metric's series."""
        shown = help.replace("\\", r"\\").replace("\n", r"\n")
        return f"# HELP {name} {shown}\n# TYPE {name} {kind}\n"

    def counter(self, family: Family, values: list[tuple[Any, int]]) -> str:
        """Return the lines of some series of a counter."""
        name = family.name
        if not family.tables[0].names:
            return f"{name} {values[0][1]}\n"
        return "".join([f"{name}{{{one.text}}} {n}\n" for one, n in values])

    def histogram(self, family: HistogramFamily, values: list[Any]) -> str:
        """Return the lines of some series of a histogram."""
        name = family.name
        bounds = [*map(float_text, family.bounds), "+Inf"]
        lines = []
        for series, counts, total in values:
            text, ups = series.text, list(accumulate(counts))
            lines += [
                f'{name}_bucket{{{text},le="{bound}"}} {up}\n'
                for bound, up in zip(bounds, ups, strict=True)
            ]
            lines.append(f"{name}_sum{{{text}}} {total}\n")
            lines.append(f"{name}_count{{{text}}} {ups[-1]}\n")
        return "".join(lines)


class OpenMetricsWriter:
    """OpenMetrics 1.0: counters end with `_total`, and each series has a birthday."""

    def __init__(self, families: Iterable[Family]) -> None:
        stems = Counter(family.name.removesuffix("_total") for family in families)
        # A counter whose name without the ending is another metric's, too, keeps its
        # own, and is of the kind that says nothing.
        self._plain = {
            family.name
            for family in families
            if family.kind == "counter"
            and stems[family.name.removesuffix("_total")] > 1
        }

    def head(self, name: str, help: str, kind: str) -> str:
        """Return the lines in front of a metric's series."""
        shown = help.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
        if name in self._plain:
            kind = "unknown"
        stem = name.removesuffix("_total") if kind == "counter" else name
        return f"# HELP {stem} {shown}\n# TYPE {stem} {kind}\n"

    def counter(self, family: Family, values: list[tuple[Any, int]]) -> str:
        """Return the lines of some series of a counter."""
        if family.name in self._plain:
            return ClassicWriter().counter(family, values)
        name = family.name.removesuffix("_total")
        lines = []
        for one, n in values:
            labels = f"{{{one.text}}}" if one.text else ""
            lines.append(f"{name}_total{labels} {n}\n")
            lines.append(f"{name}_created{labels} {one.created:.3f}\n")
        return "".join(lines)

    def histogram(self, family: HistogramFamily, values: list[Any]) -> str:
        """Return the lines of some series of a histogram."""
        name = family.name
        bounds = [*map(canonical, family.bounds), "+Inf"]
        lines = []
        for series, counts, total in values:
            text, ups = series.text, list(accumulate(counts))
            lines += [
                f'{name}_bucket{{{text},le="{bound}"}} {up}\n'
                for bound, up in zip(bounds, ups, strict=True)
            ]
            lines.append(f"{name}_count{{{text}}} {ups[-1]}\n")
            lines.append(f"{name}_sum{{{text}}} {total}\n")
            lines.append(f"{name}_created{{{text}}} {series.created:.3f}\n")
        return "".join(lines)


def render(
    families: Sequence[Family],
    lock: AbstractContextManager[Any],
    *,
    openmetrics: bool,
) -> Iterator[bytes]:
    """Yield what is shown of the metrics that have series, without an end mark.

    The lock is held for some hundred series at a time only: each is shown whole, and
    whoever counts waits for no more than that.
    """
    writer: Writer = OpenMetricsWriter(families) if openmetrics else ClassicWriter()
    for family in sorted(families, key=lambda family: family.name):
        with lock:
            order = family.all()
        if order:
            yield writer.head(family.name, family.help, family.kind).encode()
        for part in parts(order, _PART):
            if isinstance(family, HistogramFamily):
                with lock:
                    seen = [(one, [*one.counts], one.total) for one in part]
                yield writer.histogram(family, seen).encode()
            else:
                with lock:
                    numbers = [(one, one.n) for one in part]
                yield writer.counter(family, numbers).encode()
    full = [family for family in families if family.overflow]
    if full:
        lines = [writer.head(OVERFLOW, _OVERFLOW_HELP, "counter")]
        lines += [f'{OVERFLOW}{{metric="{x.name}"}} {x.overflow}\n' for x in full]
        yield "".join(lines).encode()


def canonical(bound: float) -> str:
    """Return a bound as OpenMetrics wants it: a number with a fraction."""
    text = float_text(bound)
    return text if "." in text or "e" in text else f"{text}.0"


def wants_openmetrics(accept: str, *, preferred: bool) -> bool:
    """Say whether OpenMetrics is to be sent, by what the scraper takes.

    Where it takes both with reason, `preferred` decides.
    """
    weights: dict[str, float] = {}
    for kind, given in _media(accept):
        if kind == _OPEN_KIND and given.get("version", "1.0.0") not in _OPEN_VERSIONS:
            continue
        weights[kind] = max(weights.get(kind, 0.0), _weight(given))
    openmetrics, text = weights.get(_OPEN_KIND, 0.0), weights.get("text/plain", 0.0)
    if openmetrics and text:
        return preferred and openmetrics >= text
    return openmetrics > 0


def gzipped(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Compress as it comes."""
    packer = zlib.compressobj(1, wbits=31)
    for chunk in chunks:
        if packed := packer.compress(chunk):
            yield packed
    yield packer.flush()


def takes_gzip(accept: str) -> bool:
    """Say whether an answer may be compressed."""
    kinds = dict(_media(accept))
    given = kinds.get("gzip", kinds.get("*"))
    return given is not None and _weight(given) > 0


def _media(accept: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield what a header names, with the parameters of each."""
    for one in accept.lower().split(","):
        kind, *parameters = [part.strip() for part in one.split(";")]
        yield kind, dict(part.partition("=")[::2] for part in parameters)


def _weight(given: dict[str, str]) -> float:
    try:
        return float(given.get("q", "1"))
    except ValueError:
        return 0.0
