"""The project as a whole: who may import whom, and whether the pages tell the truth."""

from __future__ import annotations

import ast
import configparser
import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

import tyk_pump

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "tyk_pump"
MODULES = sorted(PACKAGE.rglob("*.py"))
PAGES = [
    *sorted(ROOT.glob("*.md")),
    ROOT / "docs" / "architecture.md",
    ROOT / "docs" / "guarantees.md",
    ROOT / "docs" / "operating.md",
]

PUMPS_MAY_IMPORT = (
    "tyk_pump.aggregate",
    "tyk_pump.config.options",
    "tyk_pump.errors",
    "tyk_pump.pumps.protocol",
    "tyk_pump.record",
    "tyk_pump.transport",
    # The line formats only: stdout prints its records as the log prints its lines.
    "tyk_pump.log",
    # Ids alone.
    "tyk_pump.ulid",
)
COORDINATOR_DATA = "tyk_pump.coordinator.snapshot"
"""What the coordinator says of itself: plain data, which `admin` shows."""


def imports(path: Path) -> Iterator[str]:
    """Yield the dotted names that a file imports from this package."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from package import module` names the module, not the package.
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                whole = ROOT.joinpath(*name.split("."))
                is_module = whole.is_dir() or whole.with_suffix(".py").exists()
                yield name if is_module else node.module


def ours(path: Path) -> set[str]:
    """Return what a file imports of this package."""
    return {name for name in imports(path) if name.split(".")[0] == "tyk_pump"}


def within(name: str, allowed: tuple[str, ...]) -> bool:
    """Say whether a module is one of these or below one."""
    return any(name == top or name.startswith(f"{top}.") for top in allowed)


def names(paths: list[Path]) -> list[str]:
    """Return short test ids."""
    return [str(path.relative_to(ROOT)) for path in paths]


PUMPS = [
    path
    for path in sorted((PACKAGE / "pumps").glob("*.py"))
    if path.name not in ("__init__.py", "protocol.py")
]


@pytest.mark.parametrize("path", PUMPS, ids=names(PUMPS))
def test_a_pump_imports_only_what_pumps_share(path: Path) -> None:
    """A pump knows nothing of processes, queues, Redis or the state folder."""
    assert {n for n in ours(path) if not within(n, PUMPS_MAY_IMPORT)} == set()


def test_only_the_commands_import_the_coordinator() -> None:
    """The coordinator stands on top: below it nobody knows it, but for its numbers."""
    above = ("cli", "coordinator")
    wrong = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in MODULES
        if path.relative_to(PACKAGE).parts[0] not in above
        for name in ours(path)
        if within(name, ("tyk_pump.coordinator",)) and name != COORDINATOR_DATA
    }
    assert wrong == set()


@pytest.mark.parametrize("path", MODULES, ids=names(MODULES))
def test_a_module_says_where_it_stands(path: Path) -> None:
    """Every module opens with its place in the data's way."""
    text = path.read_text()
    if path.name == "__init__.py" and not text.strip():
        pytest.skip("an empty package file")
    assert ast.get_docstring(ast.parse(text)), f"{path} has no docstring"


def test_the_changelog_begins_with_this_version() -> None:
    """Whoever reads the changelog finds the version that is installed first."""
    text = (ROOT / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## (\S+)", text, re.MULTILINE)
    assert versions[0] == tyk_pump.__version__


def test_the_licence_is_the_mpl() -> None:
    """The file holds the whole licence that the metadata name."""
    text = (ROOT / "LICENSE").read_text()
    assert text.startswith("Mozilla Public License Version 2.0")
    assert "Exhibit B" in text
    assert setup_cfg()["metadata"]["license"] == "MPL-2.0"


def setup_cfg() -> configparser.ConfigParser:
    """Return the parsed package metadata."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def test_all_means_every_driver() -> None:
    """The extra `all` names every other extra, the one for developers excepted."""
    extras = setup_cfg()["options.extras_require"]
    named = re.search(r"\[(.*)\]", extras["all"])
    assert named is not None
    assert set(named.group(1).split(",")) == set(extras) - {"all", "dev"}


def test_the_readme_says_what_each_extra_is_for() -> None:
    """Its table has every extra, the one of all and the one for developers excepted."""
    table = (ROOT / "README.md").read_text().partition("| extra | brings |")[2]
    first = [row.split("|")[1] for row in table.partition("\n\n")[0].splitlines()[2:]]
    named = set(re.findall(r"`([a-z0-9]+)`", " ".join(first)))
    assert named == set(setup_cfg()["options.extras_require"]) - {"all", "dev"}


def test_each_extra_installs_something() -> None:
    """No extra is a name without a driver."""
    extras = setup_cfg()["options.extras_require"]
    assert [name for name, value in extras.items() if not value.split()] == []


def service() -> dict[str, list[str]]:
    """Return the settings of the systemd unit; a setting may stand more than once."""
    settings: dict[str, list[str]] = {}
    for line in (ROOT / "conf" / "tyk-pump.service").read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            settings.setdefault(key, []).append(value)
    return settings


def test_the_service_is_ready_watched_and_reloaded_by_systemd() -> None:
    """The unit uses what the coordinator reports to $NOTIFY_SOCKET."""
    unit = service()
    assert unit["Type"] == ["notify"]
    assert unit["NotifyAccess"] == ["main"]
    assert float(unit["WatchdogSec"][0]) >= 30
    assert "HUP $MAINPID" in unit["ExecReload"][0]
    assert unit["StateDirectory"] == ["tyk-pump"]


def test_the_service_leaves_time_to_stop() -> None:
    """systemd waits longer than the pump's own deadline, and kills only then."""
    from tyk_pump.config.root import RootOptions

    assert float(service()["TimeoutStopSec"][0]) > RootOptions().shutdown_timeout
    assert service()["KillMode"] == ["mixed"]


def test_the_service_runs_in_a_sandbox() -> None:
    """The pump needs no privilege, so it has none."""
    unit = service()
    assert unit["NoNewPrivileges"] == ["yes"]
    assert unit["ProtectSystem"] == ["strict"]
    assert unit["CapabilityBoundingSet"] == [""]
    # Workers, their queues and the control socket need these.
    assert "AF_UNIX" in unit["RestrictAddressFamilies"][0].split()


def test_the_service_starts_a_command_that_exists() -> None:
    """ExecStart is the console script with a subcommand and a flag it knows."""
    program, command, *flags = shlex.split(service()["ExecStart"][0])
    assert f"{program} = " in setup_cfg()["options.entry_points"]["console_scripts"]
    assert (command, flags[0]) == ("start", "--conf")


def test_the_readme_configuration_is_without_fault(tmp_path: Path) -> None:
    """The first configuration that a newcomer copies loads without a warning."""
    from tyk_pump.config.load import load

    minimal = (ROOT / "conf" / "pump.minimal.conf").read_text()
    blocks = re.findall(r"```json\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert blocks == [minimal]
    for number, block in enumerate(blocks):
        path = tmp_path / f"{number}.conf"
        path.write_text(block)
        config = load(str(path), {})
        assert (config.faults, config.warnings) == ([], [])
        assert len(config.pumps) == len(json.loads(block)["pumps"])


def test_the_readme_names_every_command() -> None:
    """Each subcommand of tyk-pump stands in the readme."""
    from tyk_pump.cli import COMMANDS

    text = (ROOT / "README.md").read_text()
    quoted = set(re.findall(r"`(?:tyk-pump )?([a-z-]+)`", text))
    assert set(COMMANDS) <= quoted


def test_the_service_is_not_started_again_in_vain() -> None:
    """A refused configuration has an exit code of its own, which the unit knows."""
    from tyk_pump.cli.daemon import REFUSED

    assert service()["RestartPreventExitStatus"] == [str(REFUSED)]


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    """A link to a file of the project names a file that is there."""
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_pages_name_only_targets_that_exist(page: Path) -> None:
    """`make something` in a page is a target of the Makefile."""
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = set(re.findall(r"`make ([a-z-]+)", page.read_text()))
    assert named <= targets


def test_options_named_in_pages_exist() -> None:
    """An option of ours that a page explains is an option of the root."""
    import msgspec

    from tyk_pump.config.root import RootOptions

    known = {field.name for field in msgspec.structs.fields(RootOptions)}
    text = (ROOT / "CHANGELOG.md").read_text()
    line = next(part for part in text.split("\n- ") if part.startswith("`state_dir`"))
    assert set(re.findall(r"`(\w+)`", line)) <= known


def test_numbers_named_in_pages_are_declared() -> None:
    """A metric that a page tells operators to watch is one that we report."""
    from tyk_pump import metrics

    declared = {each.name for each in (*metrics.METRICS, *metrics.PUMP_METRICS)}
    named = {
        name
        for page in PAGES
        for name in re.findall(r"`(tyk_pump_\w+)`", page.read_text())
    }
    assert named
    assert named <= declared


def test_each_promise_names_tests_that_exist() -> None:
    """A row of docs/guarantees.md ends with tests that are there."""
    text = (ROOT / "docs" / "guarantees.md").read_text()
    rows = [row for row in text.splitlines() if row.startswith("| ")]
    promises = [row for row in rows if not row.startswith(("| promise ", "| --- "))]
    assert len(promises) > 30
    for row in promises:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row.split(" | ")[-1])
        assert named, row
        for path, name in named:
            found = (ROOT / path).read_text()
            assert f"\ndef {name}(" in found, f"{path}::{name}"


def test_torture_runs_tests_that_exist() -> None:
    """`make torture` names its tests and the variables that they read."""
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", "")
    listed = re.search(r"^TORTURE := (.*)$", makefile, re.M)
    assert listed is not None
    files = [ROOT / word for word in listed[1].split()]
    texts = [path.read_text() for path in files]
    longer = re.compile("KILLS|LONG|SAMPLES|SEEDS")
    assert all(map(longer.search, texts))
    variables = re.findall(r"\b(TYK_PUMP_\w+)=\$\(", makefile)
    assert {"TYK_PUMP_KILLS", "TYK_PUMP_FIGURES"} < set(variables)
    read = "".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    for variable in variables:
        assert f'os.environ.get("{variable}"' in read


def test_the_ci_run_can_be_started() -> None:
    """CI starts a file, not a shell with a file."""
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_every_test_folder_is_a_package() -> None:
    """Two files of one name in two folders must not collide."""
    folders = {path.parent for path in (ROOT / "tests").rglob("test_*.py")}
    assert [f for f in folders if not (f / "__init__.py").exists()] == []
