"""The servers that are packages of npm; no script of a package is run."""

from __future__ import annotations

import subprocess
from functools import partial
from pathlib import Path

from tests.servers.artefacts import Artefact


def _install(folder: Path, *, name: str, version: str) -> None:
    subprocess.run(
        [
            "npm",
            "install",
            "--silent",
            "--no-audit",
            "--no-fund",
            "--ignore-scripts",
            "--omit=dev",
            "--omit=optional",
            "--prefix",
            str(folder),
            f"{name}@{version}",
        ],
        cwd=folder,
        check=True,
    )


def _artefact(name: str, version: str) -> Artefact:
    build = partial(_install, name=name, version=version)
    return Artefact(name, version, ("node", "npm"), build)


KINESALITE = _artefact("kinesalite", "3.3.3")
STATSD = _artefact("statsd", "0.9.0")

ARTEFACTS: tuple[Artefact, ...] = (KINESALITE, STATSD)
