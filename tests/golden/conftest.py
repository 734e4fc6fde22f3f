"""How the cases of this folder are run: by the whole command, a process for each."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.golden.loader import Case
from tests.golden.run import Output, run, run_command
from tests.servers.redis import RedisServer

Runner = Callable[[Case], Output]


@pytest.fixture
def run_case(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Runner:
    """Run a case from Redis to its output; GOLDEN_IN_PROCESS=1 leaves out Redis and
    processes, to try a change in a second."""
    if os.environ.get("GOLDEN_IN_PROCESS") == "1":
        return lambda case: run(case, tmp_path, monkeypatch)
    server: RedisServer = request.getfixturevalue("redis_server")
    return lambda case: run_command(case, tmp_path, server)
