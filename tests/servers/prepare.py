"""Fetch and build the servers of the tests: python -m tests.servers.prepare [NAME ...].

What is there is left alone. A folder gets its name when all is in it, so what was
interrupted is done again.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time

from tests.servers import debian, go, java, locked, npm, pypi
from tests.servers.artefacts import Artefact, cache

ARTEFACTS: dict[str, Artefact] = {
    artefact.name: artefact
    for artefact in (
        *java.ARTEFACTS,
        *go.ARTEFACTS,
        *debian.ARTEFACTS,
        *npm.ARTEFACTS,
        *pypi.ARTEFACTS,
    )
}


def prepare(artefact: Artefact) -> None:
    """Make one artefact, unless it is there."""
    if artefact.folder.is_dir():
        return
    with locked(cache() / f".{artefact.name}.lock"):
        if artefact.folder.is_dir():
            return
        missing = [need for need in artefact.needs if shutil.which(need) is None]
        if missing:
            raise SystemExit(f"{artefact.name}: {' and '.join(missing)} missing")
        print(f"{artefact.name} {artefact.version}: preparing", flush=True)
        began = time.monotonic()
        partial = cache() / f".{artefact.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            artefact.build(partial)
        except subprocess.CalledProcessError as exc:
            said = (exc.stdout or b"").decode(errors="replace")
            raise SystemExit(f"{said}\n{artefact.name}: {exc}") from exc
        partial.rename(artefact.folder)
        seconds = time.monotonic() - began
        print(f"{artefact.name} {artefact.version}: done in {seconds:.1f} s")


def main(names: list[str]) -> None:
    """Make the named artefacts, or all."""
    if unknown := sorted(set(names) - set(ARTEFACTS)):
        known = ", ".join(sorted(ARTEFACTS))
        raise SystemExit(f"unknown: {', '.join(unknown)}; there are: {known}")
    for name in names or ARTEFACTS:
        prepare(ARTEFACTS[name])


if __name__ == "__main__":
    main(sys.argv[1:])
