"""Write what is made from the code: docs/reference, the schema, the example file.

Options, metrics and commands are described where they are declared, and only there.

With --check nothing is written: the command fails and names the stale files.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
# Run from a checkout, also where the package is not installed.
sys.path.insert(0, str(ROOT))

from tyk_pump import cli, metrics  # noqa: E402
from tyk_pump.cli import flags  # noqa: E402
from tyk_pump.config import describe  # noqa: E402

GENERATED = "<!-- Written by scripts/build_reference.py; edit the code instead. -->"


def files() -> dict[Path, str]:
    """Return every generated file, by its place in the checkout, with its text."""
    found = {
        Path("docs/reference") / name: text for name, text in describe.pages().items()
    }
    found[Path("docs/reference/metrics.md")] = metrics_page()
    found[Path("docs/reference/commands.md")] = commands_page()
    schema = json.dumps(describe.schema(), indent=2) + "\n"
    found[Path("conf/pump.schema.json")] = schema
    found[Path("conf/pump.example.conf")] = describe.example()
    return found


def metrics_page() -> str:
    """Return the page of the numbers that /metrics shows."""
    parts = [
        "# Metrics",
        GENERATED,
        "What `/metrics` shows, in Prometheus's text format, on "
        "`health_check_endpoint_port`. Counters begin at 0 with each start.",
        "## The instance",
        _metrics_table(metrics.METRICS),
        "## Each pump",
        _metrics_table(metrics.PUMP_METRICS),
    ]
    return "\n\n".join(parts) + "\n"


def _metrics_table(found: Iterable[metrics.Metric]) -> str:
    rows = ["| name | kind | labels | meaning | when it moves |", "|" + " --- |" * 5]
    for each in found:
        labels = ", ".join(f"`{label}`" for label in each.labels)
        cells = (f"`{each.name}`", each.kind, labels, each.help, each.act)
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def commands_page() -> str:
    """Return the page of all commands with their arguments and options."""
    parts = [
        "# Commands",
        GENERATED,
        "`tyk-pump COMMAND --help` says the same. Without a command the reference's "
        f"flags are taken:\n\n    {flags.SUMMARY.rstrip('.')}",
    ]
    context = click.Context(cli.commands, info_name="tyk-pump")
    for name in cli.commands.list_commands(context):
        command = cli.commands.get_command(context, name)
        assert command is not None
        parts += _command(click.Context(command, parent=context, info_name=name))
    return "\n\n".join(parts) + "\n"


def _command(context: click.Context) -> Iterator[str]:
    command = context.command
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"## {context.command_path.removeprefix('tyk-pump ')}"
    yield f"`{context.command_path} {usage}`"
    yield _flowing(command.help)
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            yield from _command(click.Context(below, parent=context, info_name=name))
        return
    options = [each for each in command.params if isinstance(each, click.Option)]
    records = (each.get_help_record(context) for each in options)
    rows = [f"| `{names}` | {text} |" for names, text in filter(None, records)]
    if rows:
        yield "\n".join(["| option | |", "| --- | --- |", *rows])


def _flowing(text: str | None) -> str:
    """Return a docstring without the indentation of its lines."""
    return "\n".join(line.strip() for line in (text or "").strip().splitlines())


def stale(root: Path = ROOT) -> list[Path]:
    """Return the files that are not what the options say, superfluous ones too."""
    wanted = files()
    found = [
        path
        for path, text in wanted.items()
        if not (root / path).exists()
        or (root / path).read_text(encoding="utf-8") != text
    ]
    pumps = (root / "docs/reference/pumps").glob("*.md")
    return found + [
        path for page in pumps if (path := page.relative_to(root)) not in wanted
    ]


def main() -> int:
    """Write the files, or with --check only name the stale ones."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing")
    arguments = parser.parse_args()
    wanted = files()
    wrong = stale()
    for path in wrong:
        print(f"stale: {path}" if arguments.check else f"written: {path}")
        if arguments.check:
            continue
        target = ROOT / path
        if path not in wanted:
            target.unlink()
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(wanted[path], encoding="utf-8")
    return 1 if arguments.check and wrong else 0


if __name__ == "__main__":
    sys.exit(main())
