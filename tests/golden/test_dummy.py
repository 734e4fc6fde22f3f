"""The dummy says what the reference said."""

from __future__ import annotations

import re

import pytest

from tests.golden import loader
from tests.golden.conftest import Runner
from tests.golden.loader import Case

CASES = loader.cases("dummy")
NOT_RUN = {
    "instrumentation": "the statsd metrics of the process are not in this version",
    "instrumentation-prefix": "the same",
}
"""Case -> why it is left out."""


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_dummy_case(case: Case, run_case: Runner) -> None:
    """It greets and counts; windows may split the count, the sum is the same."""
    if case.name in NOT_RUN:
        pytest.skip(NOT_RUN[case.name])
    output = run_case(case)
    captured = case.expected("log")[""].decode()
    greeting, *counts = re.findall(r'message="([^"]*)"', captured)
    assert output.messages[0] == greeting
    assert _sum(output.messages[1:]) == _sum(counts)


def _sum(messages: list[str]) -> int:
    found = (re.fullmatch(r"Writing (\d+) records", text) for text in messages)
    return sum(int(match[1]) for match in found if match)
