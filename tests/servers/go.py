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


def _build(folder: Path, *, name: str, package: str, tags: str) -> None:
    # Exact versions only: the lists of versions are never asked for.
    environment = {
        **os.environ,
        "GOFLAGS": "-mod=mod -buildvcs=false",
        "GOTOOLCHAIN": "local",
    }
    program = folder / name
    with tempfile.TemporaryDirectory() as work:
        shutil.copytree(_SOURCES / name, work, dirs_exist_ok=True)
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
            cwd=work,
            env=environment,
            check=True,
        )


def _artefact(name: str, version: str, package: str = ".", tags: str = "") -> Artefact:
    sources = sorted((_SOURCES / name).iterdir())
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

ARTEFACTS: tuple[Artefact, ...] = (FERRETDB, GELF, HEC, TELEGRAF)
