"""The reference's flags: the same words, the same refusals."""

from __future__ import annotations

import pytest

import tyk_pump
from tyk_pump.cli import daemon, flags, main
from tyk_pump.coordinator.demo_options import DemoOptions


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        (["--nonsense"], "unknown long flag '--nonsense'"),
        (["--no-conf"], "unknown long flag '--no-conf'"),
        (["-x"], "unknown short flag '-x'"),
        (["extra"], "unexpected extra"),
        (["--", "extra"], "unexpected extra"),
        (["--debug=true"], "unexpected true"),
        (["--conf"], "expected argument for flag '--conf'"),
        (["--conf", "--debug"], "expected argument for flag '--conf'"),
        (["-c"], "expected argument for flag '-c'"),
        (["--debug", "--debug"], "flag 'debug' cannot be repeated"),
        (["--demo-days", "x"], 'strconv.ParseFloat: parsing "x": invalid syntax'),
    ],
)
def test_what_the_reference_refuses(
    words: list[str], refusal: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line on standard error, exit code 1."""
    assert main(words) == 1
    assert capsys.readouterr().err == f"tyk-pump: error: {refusal}, try --help\n"


@pytest.mark.parametrize("words", [["--version"], ["--no-debug", "--version"]])
def test_the_version_goes_to_standard_error(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """As the reference's does, and it is our own."""
    assert main(words) == 0
    assert capsys.readouterr() == ("", f"v{tyk_pump.__version__}\n")


@pytest.mark.parametrize("word", ["--help", "-h", "--help-long"])
def test_help_goes_to_standard_output(
    word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It names our commands and the reference's flags."""
    assert main([word]) == 0
    out, err = capsys.readouterr()
    assert "dead-letters" in out and "--demo-records-per-hour" in out and not err


def test_all_flags() -> None:
    """Values attached, apart or short; numbers as the reference reads them."""
    line = "--demo-api-version v2 --demo-track-path --demo-days 1e1 --debug --demo org"
    more = ["--conf=a.conf", "--demo-api=x", "--demo-records-per-hour=2"]
    given = flags.parse([*line.split(), *more, "--demo-future-data"])
    assert (given.conf, given.debug) == ("a.conf", True)
    assert given.demo() == DemoOptions(
        org="org",
        days=10,
        records_per_hour=2,
        api="x",
        api_version="v2",
        track_path=True,
        future=True,
    )
    assert flags.parse([]).conf == "pump.conf"
    assert flags.parse(["-c", "b"]).conf == flags.parse(["-cb"]).conf == "b"
    assert not flags.parse(["--no-demo-track-path"]).demo_track_path


def test_without_a_command_the_pump_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an old unit file calls starts the pump; every failure is exit code 1."""
    seen: list[object] = []

    def run(conf: str, *, debug: bool, demo: DemoOptions) -> int:
        seen.append((conf, debug, demo.org))
        return daemon.REFUSED

    monkeypatch.setattr(daemon, "run", run)
    assert main(["--conf", "/etc/pump.conf", "--debug"]) == 1
    assert seen == [("/etc/pump.conf", True, "")]
