"""The struct print, held against the stdout pump's captured lines."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable

import pytest

from tests.golden import loader
from tyk_pump.errors import CodecError
from tyk_pump.record import analytics, codec, gotext
from tyk_pump.record.analytics import AnalyticsRecord
from tyk_pump.record.json import encode

_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}


def cases(kind: str, *, without: str) -> list[str]:
    """Return the cases of one format whose records are shown as they came."""
    return [
        case.name
        for case in loader.cases("stdout")
        if case.name.startswith(kind) and re.search(without, case.name) is None
    ]


def unquoted(line: str) -> str:
    """Return the record of a text line without the log's quoting."""
    found = re.search(r'="(\{.*\})"', line)
    assert found is not None

    def plain(match: re.Match[str]) -> str:
        escape = match[1]
        if escape[0] == "x":
            return bytes([int(escape[1:], 16)]).decode("utf-8", "surrogateescape")
        if escape[0] in "uU":
            return chr(int(escape[1:], 16))
        return _ESCAPES.get(escape, escape)

    pattern = r"\\(x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8}|.)"
    return re.sub(pattern, plain, found[1])


def decoded(_: str, kind: loader.Codec, wire: loader.Wire) -> AnalyticsRecord:
    """Decode a pushed record, less what the reference loses of protobuf ones."""
    raw = wire.bytes_in(kind)
    assert raw is not None
    record = codec.decoder(kind, analytics.ALL)(raw)
    if kind == "protobuf":
        record.geo.city.names = None
        if wire.name in {"time-zone-east", "time-zone-west"}:
            # A zone nobody knows: there the times are lost, here they are not.
            assert record.timestamp != analytics.ZERO_TIME
            record.timestamp = record.expire_at = analytics.BLANK_TIME
    return record


@pytest.mark.parametrize("name", cases("text", without="payload|level|json|field"))
def test_text_is_what_go_prints(name: str, set_zone: Callable[[str], None]) -> None:
    """Each record prints byte for byte as the reference prints it."""
    (case,) = (case for case in loader.cases("stdout") if case.name == name)
    set_zone(case.env["TZ"])
    data = case.expected("log")[""].decode("utf-8", "surrogateescape")
    lines = [line for line in data.split("\n") if line]
    records = [decoded(*pushed) for pushed in case.pushed()]
    assert len(lines) == len(records)
    for record, line in zip(records, lines, strict=True):
        assert gotext.encode(record) == unquoted(line)


@pytest.mark.parametrize("name", cases("json", without="decoded|payload|env|upper"))
def test_json_is_the_stdout_pumps(name: str, set_zone: Callable[[str], None]) -> None:
    """Each record stands in its captured line; what has no form has no line."""
    (case,) = (case for case in loader.cases("stdout") if case.name == name)
    set_zone(case.env["TZ"])
    shown = []
    for pushed in case.pushed():
        with contextlib.suppress(CodecError):
            shown.append(encode(decoded(*pushed)))
    lines = [line for line in case.expected("jsonl")[""].split(b"\n") if line]
    assert len(lines) == len(shown)
    for record_json, line in zip(shown, lines, strict=True):
        assert record_json in line


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0.0, "0"),
        (-0.0, "-0"),
        (1e-4, "0.0001"),
        (1e-5, "1e-05"),
        (999999.5, "999999.5"),
        (1e6, "1e+06"),
        (-123456789.125, "-1.23456789125e+08"),
        (1e100, "1e+100"),
        (5e-324, "5e-324"),
        (float("nan"), "NaN"),
        (float("inf"), "+Inf"),
        (float("-inf"), "-Inf"),
    ],
)
def test_numbers(number: float, shown: str) -> None:
    """The exponent begins at a million and has two digits or more."""
    assert gotext.float_text(number) == shown


@pytest.mark.parametrize(
    ("month", "shown"), [(1, "January"), (12, "December"), (0, "%!Month(0)")]
)
def test_months(month: int, shown: str) -> None:
    """A month is its English name, any other number Go's complaint."""
    assert gotext.month_name(month) == shown
