"""`python -m benchmarks.run`: measure, and print as multiples of the yardstick."""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import shutil
import sys
from typing import Any

from benchmarks import end_to_end, reference, stages, targets, yardstick

WAYS = (*([name] for name in targets.ALONE), ["dummy", "csv", "stdout"])
WIDTH = 24
HEAD = (
    f"{'pumps':<{WIDTH}}{'records/s':>10}{'us CPU':>8}{'worker':>8}{'coord':>7}"
    f"{'/s, core':>10}{'Y':>7}{'times Y':>9}{'of ref.':>8}{'asked':>7}  MiB"
)
"""`/s, core`: records a second that a core can write in the worker. `of ref.`: the part
of the reference's effort, as `reference` explains it, and how much was asked for."""


def main() -> int:
    """Measure what the arguments ask for."""
    options = arguments().parse_args()
    raws = yardstick.golden_traffic()
    if options.small:
        raws = yardstick.small(raws)
    elif options.cut_bodies:
        raws = yardstick.without_bodies(raws)
    if options.keys:
        raws = yardstick.of_many_keys(raws, options.keys)
    if options.one_hour:
        raws = yardstick.in_one_hour(raws)
    size = sum(map(len, raws)) / len(raws)
    results: dict[str, Any] = {"python": platform.python_version(), "bytes": size}
    if not options.json:
        print(f"Python {results['python']}, {size:.0f} bytes per record\n")
    if not options.only or options.only == "stages":
        results["stages"] = run_stages(raws, options)
    if not options.only or options.only == "end-to-end":
        results["end_to_end"] = run_ways(raws, options)
    if options.json:
        json.dump(results, sys.stdout, indent=2)
        print()
    return 0


def arguments() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run", description=__doc__
    )
    parser.add_argument("--only", choices=("stages", "end-to-end"))
    parser.add_argument("--rounds", type=int, default=15, help="rounds per stage")
    parser.add_argument("--records", type=int, default=50_000, help="end to end")
    parser.add_argument(
        "--backlog",
        action="store_true",
        help="a million records at once (about 2 GB in Redis), all pumps",
    )
    parser.add_argument(
        "--pumps",
        help="only these, together: dummy,csv. Known: " + ", ".join(targets.ALONE),
    )
    parser.add_argument(
        "--cut-bodies", action="store_true", help="records without recorded bodies"
    )
    parser.add_argument(
        "--small",
        action="store_true",
        help="nor what older gateways do not write: about 650 bytes each",
    )
    parser.add_argument(
        "--one-hour",
        action="store_true",
        help="all of one hour, as live traffic is; else of two days, which aggregates "
        "have a document or rows for each hour of",
    )
    parser.add_argument(
        "--keys",
        type=int,
        help="records of so many API keys and paths, which are as many series",
    )
    parser.add_argument(
        "--journal",
        choices=("redis", "disk"),
        default="redis",
        help="where records wait: `journal.type` of the configuration",
    )
    parser.add_argument("--server", help="path of the server to use")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def run_stages(raws: list[bytes], options: argparse.Namespace) -> list[Any]:
    """Measure every stage."""
    found = []
    if not options.json:
        print(f"{'stage':<28}{'us/record':>10}{'Y':>8}{'times Y':>9}")
    for each in stages.measure(raws, options.rounds):
        found.append(dataclasses.asdict(each) | {"ratio": each.ratio})
        if not options.json:
            line = f"{each.name:<28}{each.micros:>10.2f}{each.yardstick:>8.2f}"
            print(f"{line}{each.ratio:>9.2f}", flush=True)
    return found


def run_ways(raws: list[bytes], options: argparse.Namespace) -> list[Any]:
    """Measure the whole way for one set of pumps after the other."""
    records = 1_000_000 if options.backlog else options.records
    ways = [options.pumps.split(",")] if options.pumps else list(WAYS)
    if options.backlog and not options.pumps:
        ways = ways[-1:]
    # The server that operators run, where there is one.
    binary = options.server or shutil.which("redis-server")
    found = []
    if not options.json:
        print(f"\n{records:,} records through the real command, {binary or 'Valkey'}")
        print(HEAD)
    for names in ways:
        try:
            run = end_to_end.measure(raws, names, records, binary, options.journal)
        except targets.AbsentError as exc:
            print(f"{'+'.join(names):<{WIDTH}}{exc}", file=sys.stderr, flush=True)
            continue
        about = {"rate": run.rate, "ratio": run.ratio, "share": run.share}
        found.append(dataclasses.asdict(run) | about | {"core_rate": run.core_rate})
        if not options.json:
            print(line_of(run, whole=not cut(options)), flush=True)
    return found


def line_of(run: end_to_end.Run, *, whole: bool) -> str:
    """Return a run as a line of the table; `whole` records are the reference's own."""
    worker, coordinator = run.roles["worker"], run.roles["coordinator"]
    share = f"{run.share:.0%}" if whole and run.share is not None else ""
    known = reference.REFERENCE.get(targets.kind(run.pumps[0]))
    asked = f"{known.asked:.0%}" if share and known and known.asked else ""
    peaks = ", ".join(
        f"{role} {kib / 1024:.0f}" for role, kib in run.peaks if role != "helper"
    )
    return (
        f"{'+'.join(run.pumps):<{WIDTH}}{run.rate:>10,.0f}{run.micros:>8.1f}"
        f"{worker:>8.1f}{coordinator:>7.1f}{run.core_rate:>10,.0f}"
        f"{run.yardstick:>7.2f}{run.ratio:>9.2f}{share:>8}{asked:>7}  {peaks}"
    )


def cut(options: argparse.Namespace) -> bool:
    """Say whether the records are smaller than those that the reference was given."""
    return bool(options.cut_bodies or options.small)


if __name__ == "__main__":
    raise SystemExit(main())
