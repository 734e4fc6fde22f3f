"""The servers whose Debian packages are unpacked into the cache, not installed."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from tests.servers.artefacts import Artefact

# Installed, syslog-ng would push rsyslog out. The libraries are those that a small
# Debian lacks.
_SYSLOG_NG = (
    "libglib2.0-0",
    "libivykis0",
    "libjson-c5",
    "libnet1",
    "libnsl2",
    "libpcre3",
    "libtirpc3",
    "libwrap0",
    "syslog-ng-core",
)


def _unpack(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as work:
        # As root, apt fetches as a user of its own, who must be able to write here.
        Path(work).chmod(0o777)
        try:
            _apt_get(work, "download", *_SYSLOG_NG)
        except subprocess.CalledProcessError:
            # The lists of the machine are old or missing; these here need no root.
            Path(work, "lists", "partial").mkdir(parents=True)
            state, kept = f"Dir::State::lists={work}/lists", f"Dir::Cache={work}"
            lists = ("-o", state, "-o", kept)
            _apt_get(work, *lists, "update")
            _apt_get(work, *lists, "download", *_SYSLOG_NG)
        for package in sorted(Path(work).glob("*.deb")):
            subprocess.run(["dpkg-deb", "-x", str(package), str(folder)], check=True)


def _apt_get(folder: str, *arguments: str) -> None:
    subprocess.run(["apt-get", "-qq", *arguments], cwd=folder, check=True)


SYSLOG_NG = Artefact(
    "syslog-ng", "3.38", ("apt-get", "dpkg-deb"), _unpack, " ".join(_SYSLOG_NG)
)

ARTEFACTS: tuple[Artefact, ...] = (SYSLOG_NG,)
