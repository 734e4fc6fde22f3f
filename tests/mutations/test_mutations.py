"""Each deliberate bug can still be planted, and names tests that are there.

`make mutants` plants them all and runs those tests; here that is done with two.
"""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest

from tests.mutations.run import ROOT, Mutant, fault, mutants, survives

FAST = ("frame-without-cursors", "note-over-adopter")
ALL = mutants()
LONG = bool(os.environ.get("TYK_PUMP_KILLS"))


def functions(path: Path) -> set[str]:
    """Return the tests in a file."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("mutant", ALL, ids=lambda mutant: str(mutant.name))
def test_it_can_still_be_planted(mutant: Mutant) -> None:
    """And it says what it breaks, and which tests find that."""
    assert not fault(mutant)
    assert mutant.breaks and mutant.tests
    for test in mutant.tests:
        file, _, name = test.partition("::")
        assert name.partition("[")[0] in functions(ROOT / file)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "mutant",
    [one for one in ALL if LONG or one.name in FAST],
    ids=lambda mutant: str(mutant.name),
)
def test_it_is_found(mutant: Mutant) -> None:
    """The tests that it names fail with it."""
    assert not survives(mutant)


def test_there_are_enough() -> None:
    """Ten at least; the fast ones are among them."""
    assert len(ALL) >= 10
    assert set(FAST) <= {one.name for one in ALL}
