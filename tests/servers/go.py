"""The servers that are built from Go modules; their sources stand in golang."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from functools import partial
from pathlib import Path

from tests.servers.artefacts import Artefact

_SOURCES = Path(__file__).parent / "golang"
_TELEGRAF_TAGS = (
    # `custom` leaves out all plugins but the named ones.
    "custom,inputs.influxdb_listener,inputs.influxdb_v2_listener,inputs.statsd,"
    "inputs.syslog,outputs.file,parsers.influx,serializers.json"
)


_DISCOVER = "discover"
"""Stands in for a module that brings the clients of a dozen clouds along."""


def _build(folder: Path, *, name: str, package: str, tags: str) -> None:
    # Exact versions only: the lists of versions are never asked for.
    environment = {
        **os.environ,
        "GOFLAGS": "-mod=mod -buildvcs=false",
        "GOTOOLCHAIN": "local",
    }
    program = folder / name
    with tempfile.TemporaryDirectory() as work:
        for each in (name, _DISCOVER):
            shutil.copytree(_SOURCES / each, Path(work, each))
        subprocess.run(
            [
                "go",
                "build",
                "-trimpath",
                "-ldflags=-s -w",
                "-tags",
                tags,
                "-o",
                str(program),
                package,
            ],
            cwd=Path(work, name),
            env=environment,
            check=True,
        )


def _artefact(name: str, version: str, package: str = ".", tags: str = "") -> Artefact:
    sources = sorted((_SOURCES / name).iterdir())
    if f"../{_DISCOVER}" in (_SOURCES / name / "go.mod").read_text():
        sources += sorted((_SOURCES / _DISCOVER).rglob("*.*"))
    recipe = "\n".join([tags, *(source.read_text() for source in sources)])
    build = partial(_build, name=name, package=package, tags=tags)
    return Artefact(name, version, ("go",), build, recipe)


FERRETDB = _artefact("ferretdb", "1.24.0")
HEC = _artefact("hec", "0.128.0")
GELF = _artefact("gelf", "2.0.0")
TELEGRAF = _artefact(
    "telegraf",
    "1.36.0",
    "github.com/influxdata/telegraf/cmd/telegraf",
    _TELEGRAF_TAGS,
)
CONSUL = _artefact("consul", "1.19.2")
VAULT = _artefact("vault", "2.4.0")

ARTEFACTS: tuple[Artefact, ...] = (
    CONSUL,
    FERRETDB,
    GELF,
    HEC,
    TELEGRAF,
    VAULT,
)
