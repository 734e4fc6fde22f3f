"""The pages, the schema and the example file say what the options are."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.config.conftest import Read
from tests.config.fake import FakeOptions
from tyk_pump import pumps
from tyk_pump.cli import COMMANDS
from tyk_pump.config import describe
from tyk_pump.config.fields import nearest
from tyk_pump.config.load import load
from tyk_pump.config.options import Options
from tyk_pump.config.root import PumpFrame, RedisOptions, RootOptions
from tyk_pump.metrics import METRICS, PUMP_METRICS

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def script() -> ModuleType:
    """The script that writes the pages, as a module."""
    path = ROOT / "scripts" / "build_reference.py"
    spec = importlib.util.spec_from_file_location("build_reference", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_files_are_fresh(script: ModuleType) -> None:
    """What is in the tree is what the options say; else run `make docs`."""
    assert script.stale() == []


def test_stale_files_are_noticed(script: ModuleType, tmp_path: Path) -> None:
    """A missing page is stale, and so is one that nothing makes any more."""
    assert set(script.stale(tmp_path)) == set(script.files())
    for path, text in script.files().items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    assert script.stale(tmp_path) == []
    gone = tmp_path / "docs/reference/pumps/gone.md"
    gone.write_text("", encoding="utf-8")
    assert script.stale(tmp_path) == [Path("docs/reference/pumps/gone.md")]


def test_variables_of_other_programs_are_on_their_page() -> None:
    """Where an option asks one, the page of the environment names both."""
    page = describe.pages()["environment.md"]
    assert "| `USAGE_LOGGERS_URL` | `capture_url` of resurfaceio, where" in page


def test_every_number_is_on_its_page(script: ModuleType) -> None:
    """Each metric stands there with its meaning and with what to do."""
    page = script.metrics_page()
    for metric in (*METRICS, *PUMP_METRICS):
        assert f"| `{metric.name}` | {metric.kind} |" in page
        assert f"| {metric.help} | {metric.act} |" in page


def test_every_command_is_on_its_page(script: ModuleType) -> None:
    """Each command and each one below it has a heading, each option a sentence."""
    page = script.commands_page()
    heads = set(re.findall(r"^## (.*)$", page, re.MULTILINE))
    assert set(COMMANDS) < heads
    assert {"dead-letters replay", "claims return"} < heads
    rows = re.findall(r"^\| `-.*$", page, re.MULTILINE)
    assert len(rows) > 20
    assert [row for row in rows if not row.rstrip("| ").endswith((".", "]"))] == []


@pytest.mark.parametrize("kind", sorted(pumps.REGISTRY | pumps.UPTIME))
def test_every_pump_states_its_guarantee(kind: str) -> None:
    """A pump's page says how often a record arrives, and what is put right."""
    page = describe.pages()[f"pumps/{kind}.md"]
    found = re.search(r"## Guarantee\n\n(.+)\n", page)
    assert found is not None
    assert re.search(r"\bonce\b", found.group(1))
    for difference in pumps.load(kind).differences:
        assert f"\n- {difference}\n" in page


@pytest.mark.parametrize("name", ["pump.example.conf", "pump.minimal.conf"])
def test_example_files_load(name: str) -> None:
    """The files that we ship load without a fault or a warning."""
    config = load(str(ROOT / "conf" / name), {})
    assert config.every_fault() == []
    assert config.warnings == []


def test_example_holds_every_option() -> None:
    """Every pump and every option of this version is in the example."""
    found = json.loads(describe.example())
    assert sorted(found["pumps"]) == sorted(pumps.REGISTRY)
    keys = {key for key, _ in describe.walk(RootOptions)}
    for key in keys:
        value: Any = found
        for part in key.split("."):
            value = next(iter(value.values())) if part == "*" else value[part]
    for kind, body in found["pumps"].items():
        wanted = {key.split(".")[0] for key, _ in describe.walk(PumpFrame)}
        assert set(body) == wanted
        walked = describe.walk(describe.options_of(kind))
        own = {key.split(".")[0].removesuffix("[]") for key, _ in walked}
        assert set(body["meta"]) == own


def test_configuration_for_every_type() -> None:
    """The longest example of the reference's own pages, with addresses that could be,
    loads as it is."""
    config = load(str(Path(__file__).parent / "every-type.conf"), {})
    assert config.faults == []
    assert config.warnings == []
    assert config.skipped == []
    assert len(config.pumps) == 17
    for pump in config.pumps:
        assert not pump.fault and pump.options is not None
    assert config.root.health_check_endpoint_name == "hello"
    uptime = config.pumps[-1]
    assert (uptime.name, uptime.type) == ("uptime", "uptime-mongo")
    assert uptime.options.collection_name == "tyk_uptime_analytics"


@pytest.mark.parametrize(
    ("pump", "option", "placeholder", "fault"),
    [
        ("influx", "address", "http//localhost:8086", "'http//localhost:8086' must "),
        ("splunk", "collector_url", "<url>", "'<url>' must begin with http"),
        ("moesif", "application_id", "", "missing"),
    ],
)
def test_what_that_file_leaves_open_is_named(
    tmp_path: Path, pump: str, option: str, placeholder: str, fault: str
) -> None:
    """As it stands in those pages: one pump says so, the others start."""
    about = json.loads((Path(__file__).parent / "every-type.conf").read_text())
    about["pumps"][pump]["meta"][option] = placeholder
    path = tmp_path / "pump.conf"
    path.write_text(json.dumps(about))
    (line,) = load(str(path), {}).every_fault()
    assert line.startswith(f"pumps.{pump}.meta.{option}: {fault}")


def test_every_option_is_described() -> None:
    """Each option has a sentence, and each stands in the pages."""
    pages = describe.pages()
    together = "\n".join(pages.values())
    described: list[type[Options]] = [RootOptions, RedisOptions, PumpFrame]
    described += [describe.options_of(kind) for kind in describe.pump_types()]
    for options in described:
        for key, field in describe.walk(options):
            assert field.text, key
            assert f"`{key.removeprefix('analytics_storage_config.')}`" in together


def test_variable_names_are_all_different() -> None:
    """No two options share a variable."""
    names = [name for _, name in describe.variables(RootOptions, "TYK_PMP")]
    names += [name for _, name in describe.variables(PumpFrame, "TYK_PMP_PUMPS_X")]
    assert len(names) == len(set(names))


def test_described_variables_work(read: Read) -> None:
    """A variable as the page names it sets the option that the page names."""
    for key, name in describe.variables(RootOptions, "TYK_PMP"):
        config = read({"pumps": {"dummy": {}}}, **{name: "\x00"})
        # Nothing but a text takes this value; and no name is unknown.
        assert config.warnings == [], key
        assert all(fault.startswith((name, key)) for fault in config.faults)


def test_schema_follows_the_options(read: Read) -> None:
    """Types, limits, defaults and required keys reach the schema; secrets do not."""
    read({})
    found = describe.schema()
    delay = found["properties"]["purge_delay"]
    assert delay["type"] == ["number", "string", "null"]
    assert (delay["minimum"], delay["default"]) == (0, 10)
    pump = found["properties"]["pumps"]["additionalProperties"]
    metas = {
        rule["if"]["properties"]["type"]["const"]: rule["then"]["properties"]["meta"]
        for rule in pump["allOf"]
    }
    assert set(metas) == set(pumps.REGISTRY)
    fake = metas["splunk"]
    assert fake["required"] == ["url"]
    assert fake["properties"]["size"]["minimum"] == 1
    assert fake["properties"]["token"]["default"] == ""
    assert fake["properties"]["targets"]["items"]["required"] == ["url"]
    assert "address" in fake["properties"]
    assert fake["additionalProperties"] is False


def test_text_of_a_type(read: Read) -> None:
    """The command's text names each option with type, default and sentence."""
    read({})
    lines = describe.text("splunk").splitlines()
    assert "url  (text, required)" in lines
    assert "    Where. Also address." in lines
    assert "bulk.workers  (whole number, default 1)" in lines
    assert "targets[].url  (text, required)" in lines
    assert "purge_delay  (seconds, default 10)" in describe.text().splitlines()
    assert len(lines) == 2 * len(list(describe.walk(FakeOptions)))


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("csvdir", ", nearest is csv_dir"),
        ("csv-dir", ", nearest is csv_dir"),
        ("csv_dri", ", nearest is csv_dir"),
        ("zzz", ""),
    ],
)
def test_nearest(word: str, hint: str) -> None:
    """A word without its underscores, or with a slip, is recognised."""
    assert nearest(word, ["csv_dir", "fsync"]) == hint
