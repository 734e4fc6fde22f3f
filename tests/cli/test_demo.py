"""The show for newcomers, run as they run it."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tyk_pump.cli.demo import Progress, Result, Totals, count_rows, print_table
from tyk_pump.cli.embedded import EmbeddedServer


def run(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run a short demo in a folder."""
    command = [sys.executable, "-m", "tyk_pump", "demo", "--folder", str(folder)]
    command += ["--records", "2000", "--rate", "20000", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=100)


def test_everything_that_went_in_comes_out(tmp_path: Path) -> None:
    """The demo exits with 0 and both outputs hold each record once."""
    done = run(tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["pushed"] == figures["csv"] == figures["stdout"] == 2000
    assert (figures["left"], figures["exit_code"]) == (0, 0)
    assert count_rows(tmp_path / "csv") == 2000


def test_the_files_of_an_earlier_demo_are_kept(tmp_path: Path) -> None:
    """A second demo in the same folder would count the first one's rows: refused."""
    (tmp_path / "csv").mkdir()
    done = run(tmp_path)
    assert done.returncode == 1
    assert "earlier demo" in done.stderr


def test_the_progress_fits_a_small_terminal() -> None:
    """A line drawn over itself must not wrap at 80 columns."""
    out = io.StringIO()
    Progress(50_000, out).end(50_000, Totals(csv=50_000, stdout=50_000))
    (line,) = out.getvalue().splitlines()
    assert len(line) < 80


@pytest.mark.parametrize("csv", [99, 101])
def test_a_record_lost_or_doubled_is_said(
    csv: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table does not call a wrong count a success."""
    result = Result(
        pushed=100,
        bytes=1000,
        push_seconds=1.0,
        drain_seconds=1.0,
        csv=csv,
        stdout=100,
        left=0,
        cpu_seconds=0.1,
        exit_code=0,
    )
    assert not result.complete()
    print_table(result, tmp_path)
    assert "NOT COMPLETE" in capsys.readouterr().out


def test_the_server_lives_as_long_as_the_block(tmp_path: Path) -> None:
    """The embedded server answers inside its block and is gone after it."""
    with EmbeddedServer(tmp_path) as server:
        with server.client() as client:
            assert client.ping()
        pid = server.pid
    assert not Path(f"/proc/{pid}").exists()
