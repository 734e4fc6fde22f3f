"""The dummy says what the reference said."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.golden import loader
from tests.golden.conftest import Runner
from tests.golden.loader import Case
from tests.golden.run import run_command
from tests.servers.receiver import UdpReceiver
from tests.servers.redis import RedisServer

CASES = loader.cases("dummy")
ABOUT_ITSELF = [case for case in CASES if "statsd_connection_string" in case.settings]
ABOUT_RECORDS = [case for case in CASES if case not in ABOUT_ITSELF]


@pytest.mark.parametrize("case", ABOUT_ITSELF, ids=lambda case: case.name)
def test_the_process_reports_to_statsd(
    case: Case, tmp_path: Path, redis_server: RedisServer
) -> None:
    """The reference's names, twice each; a counter's lines may be added up."""
    with UdpReceiver() as statsd:
        run_command(case, tmp_path, redis_server, {"port": str(statsd.port)})
    found = statsd.datagrams
    assert all(len(data) <= 1440 and data.endswith(b"\n") for data in found)
    lines = b"".join(found).decode().splitlines()
    captured = loader.json_lines(case.files["expected.jsonl"])
    assert _told(line for line in lines if "pauses_quantile" not in line) == _told(
        line["data"] for line in captured
    )


def _told(lines: Iterable[str]) -> dict[str, int | str]:
    """Return the sum of each counter, and the kind of every other metric."""
    found: dict[str, int | str] = {}
    for line in lines:
        name, value, kind = re.split("[:|]", line)
        if kind == "c":
            found[name] = int(found.get(name, 0)) + int(value)
        else:
            found[name] = kind
    return found


@pytest.mark.parametrize("case", ABOUT_RECORDS, ids=lambda case: case.name)
def test_dummy_case(case: Case, run_case: Runner) -> None:
    """It greets and counts; windows may split the count, the sum is the same."""
    output = run_case(case)
    captured = case.expected("log")[""].decode()
    greeting, *counts = re.findall(r'message="([^"]*)"', captured)
    assert output.messages[0] == greeting
    assert _sum(output.messages[1:]) == _sum(counts)


def _sum(messages: list[str]) -> int:
    found = (re.fullmatch(r"Writing (\d+) records", text) for text in messages)
    return sum(int(match[1]) for match in found if match)
