"""Log lines: the reference's three formats, one line each, and no secrets."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator

import pytest

from tyk_pump import log
from tyk_pump.config.options import Secret
from tyk_pump.config.root import RedisOptions, RootOptions
from tyk_pump.errors import ConfigError

AT = 1_795_420_584.7
"""2026-11-23T07:56:24Z and a bit."""


@pytest.fixture(autouse=True)
def untouched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave the process's secrets and zone as they were."""
    monkeypatch.setattr(log, "_hidden", {})
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("format", "line"),
    [
        (
            "text",
            'time="2026-11-23T07:56:24Z" level=info message="Init Pump: DUMMY"'
            " prefix=main",
        ),
        (
            "nonsense",
            'time="2026-11-23T07:56:24Z" level=info message="Init Pump: DUMMY"'
            " prefix=main",
        ),
        (
            "legacy",
            'time="Nov 23 07:56:24" level=info msg="Init Pump: DUMMY" prefix=main',
        ),
        (
            "json",
            '{"level":"info","message":"Init Pump: DUMMY","prefix":"main",'
            '"time":"2026-11-23T07:56:24Z"}',
        ),
    ],
)
def test_the_lines_are_the_reference_s(format: str, line: str) -> None:
    """Byte for byte what operators' parsers read today."""
    made = log.format_line(format, "info", "Init Pump: DUMMY", {"prefix": "main"}, AT)
    assert made == line


def test_the_zone_is_the_local_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are shown where the process lives."""
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    time.tzset()
    assert log.rfc3339(AT) == "2026-11-23T13:41:24+05:45"
    monkeypatch.setenv("TZ", "America/St_Johns")
    time.tzset()
    assert log.rfc3339(AT) == "2026-11-23T04:26:24-03:30"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a.b-c_d/e@f^g+h", "a.b-c_d/e@f^g+h"),
        ("", ""),
        ("two words", '"two words"'),
        ('"\\\n\t\x00', '"\\"\\\\\\n\\t\\x00"'),
        ("héllo", '"héllo"'),
        ("\u200b", '"\\u200b"'),
        ("\udcff", '"\\xff"'),
        (True, "true"),
        (12, "12"),
    ],
)
def test_text_values_are_quoted_when_they_must_be(value: object, shown: str) -> None:
    """Whatever is in a value, the line stays one line and can be split again."""
    line = log.format_line("text", "info", "", {"v": value}, AT)
    assert line.partition(" v=")[2] == shown


def test_json_survives_odd_values() -> None:
    """Lone surrogates, infinities and objects become text; keys do not clash."""
    fields = {"a": "\udcff", "b": float("nan"), "c": object, "level": "x", "d": "<&>"}
    line = log.format_line("json", "info", "m", fields, AT)
    found = json.loads(line)
    assert (found["a"], found["b"], found["fields.level"]) == ("\ufffd", "nan", "x")
    assert "\\u003c\\u0026\\u003e" in line


def test_fields_prefix_and_level_of_a_logger(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The part that speaks is the prefix; extra fields follow, sorted."""
    log.setup("json", "warn")
    logger = logging.getLogger("tyk_pump.coordinator.loop")
    logger.info("not shown")
    logger.warning("records refused", extra={"pump": "CSV", "records": 3})
    logging.getLogger("tyk_pump.pumps.csv").error("full")
    lines = list(map(json.loads, capsys.readouterr().err.splitlines()))
    # A thread of another test (a server that ends) may have had its say, too.
    ours = [line for line in lines if line["message"] in ("records refused", "full")]
    first, second = ours
    assert (first["prefix"], first["pump"], first["records"]) == ("main", "CSV", 3)
    assert (first["level"], second["prefix"]) == ("warning", "csv-pump")


def test_a_traceback_stays_in_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A fault with its stack is still one line for whoever collects lines."""
    log.setup("text", "")
    try:
        raise ValueError("odd")
    except ValueError:
        logging.getLogger("tyk_pump.worker").exception("it fell")
    lines = capsys.readouterr().err.splitlines()
    (line,) = [line for line in lines if "it fell" in line]
    assert "ValueError: odd" in line


def test_the_banner_appears_at_every_level(capsys: pytest.CaptureFixture[str]) -> None:
    """Which version runs is never a secret."""
    log.setup("text", "error")
    log.banner("1.2.3")
    line = capsys.readouterr().err
    assert 'level=info message="## Tyk Pump, v1.2.3 ##" prefix=main' in line


@pytest.mark.parametrize(
    "said",
    [
        "a b/c\"d'é\\e",
        "a%20b/c%22d'%C3%A9%5Ce",
        "a%20b%2fc%22d%27%c3%a9%5ce",
        "a+b%2Fc%22d%27%C3%A9%5Ce",
        repr("a b/c\"d'é\\e")[1:-1],
        json.dumps("a b/c\"d'é\\e")[1:-1],
        "a b/c&quot;d&#x27;é\\e",
    ],
)
def test_secrets_are_masked_in_every_form(said: str) -> None:
    """Addresses, quotes and HTML write some characters in ways of their own."""
    log.hide(["a b/c\"d'é\\e", "longest-first", "longest-f"])
    assert log.masked(f"<{said}>") == "<***>"
    assert log.masked("longest-first!") == "***!"
    assert log.masked("longest-f!") == "***!"


def test_each_line_of_a_secret_is_masked() -> None:
    """A part of a key is a part of the secret; its frame is not."""
    log.hide(["-----BEGIN KEY-----\nMIIabcdefg\n-----END KEY-----\n"])
    assert log.masked("at MIIabcdefg") == "at ***"
    assert log.masked("-----BEGIN KEY-----") == "-----BEGIN KEY-----"


def test_secrets_are_masked(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither options' secrets nor passwords inside addresses leave the process."""
    log.setup("json", "")
    redis = RedisOptions(password=Secret('pa"ss&word'))
    log.hide_secrets([RootOptions(analytics_storage_config=redis)])
    logging.getLogger("x").error(
        'cannot use pa"ss&word', extra={"reason": "mongodb://u:p@host/db refused"}
    )
    line = capsys.readouterr().err
    assert json.loads(line)["message"] == "cannot use ***"
    assert json.loads(line)["reason"] == "mongodb://***@host/db refused"


def test_levels() -> None:
    """The file's words are taken in any case, `warning` is none; variables win."""
    assert log.parse_level("WARN") == logging.WARNING
    with pytest.raises(ConfigError, match="log_level"):
        log.parse_level("warning")
    root = RootOptions(log_level="ERROR", log_format="json")
    assert log.chosen_level(root, {}) == "error"
    assert log.chosen_level(root, {"TYK_LOGLEVEL": "Debug"}) == "debug"
    assert log.chosen_level(root, {"TYK_LOGLEVEL": "nonsense"}) == "info"
    assert log.chosen_format(root, {"TYK_LOGFORMAT": "legacy"}) == "legacy"
    assert log.chosen_format(root, {"TYK_LOGFORMAT": "nonsense"}) == "text"


def test_setup_twice_writes_once(capsys: pytest.CaptureFixture[str]) -> None:
    """A reload changes the format and leaves no second handler."""
    log.setup("text", "")
    log.setup("json", "")
    logging.getLogger("x").error("once")
    assert capsys.readouterr().err.count("once") == 1
    assert os.environ["TZ"] == "UTC"


def test_a_worker_that_starts_again_says_nothing_twice(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What tells of options alone is in the log already; all else is new."""
    for again in (False, True):
        log.setup("text", again=again)
        try:
            there = logging.getLogger("tyk_pump.pumps.odd")
            there.warning("of an option", extra={**log.ONCE, "reason": "r"})
            there.warning("of the world")
        finally:
            for handler in list(logging.getLogger().handlers):
                if isinstance(handler.formatter, log.LineFormatter):
                    logging.getLogger().removeHandler(handler)
    err = capsys.readouterr().err
    assert (err.count("of an option"), err.count("of the world")) == (1, 2)
    assert "once" not in err
