"""Plant each deliberate bug in a copy of the tree, and see that its tests fail.

`python -m tests.mutations.run [NAME ...]`; with `--check` only whether all can still be
planted. A patch says in its head what it breaks (`Breaks:`) and which tests find that
(`Fails:`, any number of lines). A bug that its tests do not find is an error: then the
tests are to be mended.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent.parent
COPIED = ("tyk_pump", "tests", "setup.cfg")
FAILED = 1
"""How pytest ends when it could run the tests and some have failed."""
SECONDS = 600.0


class Mutant(msgspec.Struct, frozen=True):
    """One deliberate bug."""

    path: Path
    breaks: str
    tests: Sequence[str]

    @property
    def name(self) -> str:
        """Name of its file, without the suffix."""
        return self.path.stem


def mutants(names: Sequence[str] = ()) -> list[Mutant]:
    """Return all, or those with these names."""
    found = [_read(path) for path in sorted(FOLDER.glob("*.patch"))]
    return [one for one in found if not names or one.name in names]


def _read(path: Path) -> Mutant:
    head = path.read_text().partition("\n--- ")[0].splitlines()
    lines = [line.partition(": ") for line in head]
    (breaks,) = [value for key, _, value in lines if key == "Breaks"]
    tests = [value for key, _, value in lines if key == "Fails"]
    return Mutant(path, breaks, tests)


def apply(mutant: Mutant, folder: Path) -> str:
    """Plant a bug below a folder; return why that cannot be done, or nothing."""
    done = subprocess.run(
        ["git", "apply", "--verbose", str(mutant.path)],
        cwd=folder,
        env={**os.environ, "GIT_CEILING_DIRECTORIES": str(folder.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    # Where git takes a folder for a part of a repository it skips the patch.
    if done.returncode == 0 and "Skipped" not in done.stderr:
        return ""
    return done.stderr.strip() or f"git ends with {done.returncode}"


def copy(folder: Path, *, whole: bool = True) -> None:
    """Copy what a bug is planted into, and what finds it."""
    for name in COPIED if whole else COPIED[:1]:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
            shutil.copytree(source, folder / name, ignore=ignored, symlinks=True)
        else:
            shutil.copy(source, folder / name)


def fault(mutant: Mutant) -> str:
    """Return why a bug cannot be planted any more, or nothing."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        folder = Path(name)
        copy(folder, whole=False)
        return apply(mutant, folder)


def survives(mutant: Mutant) -> str:
    """Plant a bug and run its tests; return the trouble, or nothing if they fail."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        folder = Path(name)
        copy(folder)
        trouble = apply(mutant, folder)
        if trouble:
            return trouble
        for test in mutant.tests:
            trouble = _passes(test, folder)
            if trouble:
                return trouble
    return ""


def _passes(test: str, folder: Path) -> str:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    # A long run's numbers are not for them.
    kept = {k: v for k, v in os.environ.items() if not k.startswith("TYK_PUMP_")}
    try:
        done = subprocess.run(
            [*command, test],
            cwd=folder,
            env={**kept, "PYTHONPATH": str(folder)},
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"{test} does not end"
    if done.returncode == FAILED:
        return ""
    if done.returncode == 0:
        return f"survives {test}"
    return f"{test} cannot be run: {(done.stdout + done.stderr).strip()[-400:]}"


def main(words: Sequence[str] | None = None) -> int:
    """Plant the bugs that are named, or all; 1 when one is not found."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutations.run")
    parser.add_argument("names", nargs="*", help="of the patches, without .patch")
    parser.add_argument("--check", action="store_true", help="do they still apply?")
    options = parser.parse_args(words)
    bad = 0
    chosen = mutants(options.names)
    if not chosen:
        parser.error("there is no such patch")
    for mutant in chosen:
        began = time.monotonic()
        trouble = fault(mutant) if options.check else survives(mutant)
        bad += bool(trouble)
        found = trouble or ("applies" if options.check else "killed")
        print(
            f"{mutant.name:28} {time.monotonic() - began:6.1f} s  {found}", flush=True
        )
    print(f"{len(chosen)} deliberate bugs, {len(chosen) - bad} as they should be")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
