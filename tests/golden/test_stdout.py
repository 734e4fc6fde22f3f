"""The stdout pump prints what the reference printed, its defects put right."""

from __future__ import annotations

import pytest

from tests.golden import lines, loader, repair
from tests.golden.conftest import Runner
from tests.golden.loader import Case

CASES = loader.cases("stdout")
SILENCED = ("text-log-level-error", "text-log-level-warn-env")
"""Cases in which the reference printed nothing: its text follows the log level."""
REFUSED = {
    "json-nan": {"nan", "inf"},
    "json-tz-berlin": {"time-far-future"},
    "json-tz-kathmandu": {"time-far-future"},
}
"""Records that JSON cannot express: dropped without a word by the reference, refused
with a reason by us."""


def _captured(case: Case) -> bytes:
    if case.name in SILENCED:
        # Ours does not depend on the level: the same records print as they do there.
        other = next(c for c in CASES if c.name == "json-uppercase-is-text")
        assert case.about["names"] == other.about["names"]
        case = other
    found = {**case.expected("jsonl"), **case.expected("log")}
    return found[""]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_stdout_case(case: Case, run_case: Runner) -> None:
    """Each line is byte for byte as captured, on standard output at every level."""
    output = run_case(case)
    (section,) = case.pumps.values()
    wires = repair.selected(case, section)
    right = lines.expected(case, _captured(case), wires, output)
    assert lines.printed(output) == right
    if case.name in REFUSED:
        assert set(output.refused) == REFUSED[case.name]
    elif "times" not in case.name:
        assert output.refused == {}
    for reason in output.refused.values():
        assert reason
