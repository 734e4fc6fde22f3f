"""ULIDs: made by the clock, or from a name."""

from __future__ import annotations

import re

import pytest

from tyk_pump.ulid import ulid, ulid_of, ulid_time

FORM = re.compile("[0-7][0-9A-HJKMNP-TV-Z]{25}")


def test_they_tell_their_time() -> None:
    """To the millisecond, and sort by it."""
    assert FORM.fullmatch(ulid()) and ulid(1.0) < ulid(2.0)
    assert ulid_time(ulid(1_741_183_629.123)) == pytest.approx(1_741_183_629.123)


def test_that_of_a_name() -> None:
    """Is the same each time, with the time that the name begins with."""
    stream = ulid(1_741_183_629.0)
    made = [ulid_of(f"{stream}:{position}") for position in range(10_000)]
    assert len(set(made)) == 10_000 and all(map(FORM.fullmatch, made))
    assert ulid_of(f"{stream}:7") == made[7]
    assert ulid_time(made[0]) == 1_741_183_629.0


@pytest.mark.parametrize("name", ["", "S:1", "8ZZZZZZZZZ", "01jz000000:1", "é" * 12])
def test_that_of_a_name_without_a_time(name: str) -> None:
    """Has none."""
    assert FORM.fullmatch(ulid_of(name)) and ulid_time(ulid_of(name)) == 0
