"""Play seeds: `python -m tests.faults.simulation SEED`, or `--seeds N [--from M]`."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import sys
import time

from tests.faults.simulation import instance
from tests.faults.simulation.history import Verdict, play

TRACE_LINES = 150


def main() -> int:
    """Play one seed with its trace, or many without; 1 when a law was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.simulation")
    parser.add_argument("seed", nargs="?", type=int, help="play this one, and trace it")
    parser.add_argument("--seeds", type=int, default=1000, help="how many to play")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first")
    parser.add_argument("--seconds", type=float, default=0, help="stop after so long")
    parser.add_argument("--go-on", action="store_true", help="also after a failure")
    parser.add_argument("--always", default="", help="a kind of trouble to have often")
    parser.add_argument("--lines", type=int, default=TRACE_LINES, help="of the trace")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    instance.install()
    if options.seed is not None:
        return _show(options.seed, options)
    return _many(options)


def _many(options: argparse.Namespace) -> int:
    gc.collect()
    gc.freeze()
    began, busy = time.monotonic(), time.process_time()
    failed: list[Verdict] = []
    played = steps = records = 0
    world = 0.0
    for seed in range(options.first, options.first + options.seeds):
        verdict = play(seed, always=options.always)
        played, steps = played + 1, steps + verdict.steps
        records, world = records + verdict.records, world + verdict.seconds
        if verdict.broken:
            failed.append(verdict)
            last = verdict.broken.strip().splitlines()[-1]
            print(f"seed {seed}: {last[:300]}", flush=True)
            if not options.go_on:
                break
        if options.seconds and time.monotonic() - began > options.seconds:
            break
    spent, busy = time.monotonic() - began, time.process_time() - busy
    print(
        f"{played} seeds, {records} records, {steps} steps, {world / 3600:.1f} hours"
        f" of the world in {spent:.1f} s: {played / spent * 60:.0f} seeds a minute"
        f" ({played / busy * 60:.0f} in a minute of processor time);"
        f" {len(failed)} broken"
    )
    if failed and not options.go_on:
        _show(failed[0].seed, options)
    return 1 if failed else 0


def _show(seed: int, options: argparse.Namespace) -> int:
    """Play a seed again and print how it came to its end."""
    trace: list[str] = []
    verdict, lines = play(seed, trace.append, options.always), options.lines
    if len(trace) > lines:
        print(f"... {len(trace) - lines} lines before; see --lines")
    print("\n".join(trace[-lines:]))
    print(f"seed {seed}: {verdict.plan}")
    print(verdict.broken or "all laws hold")
    return 1 if verdict.broken else 0


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":
        # The order of sets is a part of the history.
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", __package__, *sys.argv[1:]])
    sys.exit(main())
