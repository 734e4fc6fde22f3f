"""The Python packages that cannot stand beside those of the project.

They are for a process of their own, with the artefact's folder as PYTHONPATH.
"""

from __future__ import annotations

import subprocess
import tempfile
import venv
from pathlib import Path

from tests.servers.artefacts import Artefact


def _pymongo(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as work:
        # The Python of a system may have no pip of its own.
        venv.create(work, with_pip=True)
        subprocess.run(
            [
                str(Path(work, "bin", "pip")),
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--target",
                str(folder),
                f"pymongo=={PYMONGO.version}",
            ],
            check=True,
        )


# The last that talks to servers as old as the one written in Java says it is.
PYMONGO = Artefact("pymongo", "4.15.5", (), _pymongo)

ARTEFACTS: tuple[Artefact, ...] = (PYMONGO,)
