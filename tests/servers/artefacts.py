"""What has to be fetched or built before the tests, and where it is kept.

Standard library only: the preparation runs before anything is installed.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.servers import absent


@dataclass(frozen=True)
class Artefact:
    """A server program, and how it is made."""

    name: str
    version: str
    needs: tuple[str, ...]
    """The commands that `build` runs."""
    build: Callable[[Path], None]
    """Fill this empty folder, with absolute paths; it is moved when all is done."""
    recipe: str = ""
    """Whatever `build` depends on beside the version; a change builds it anew."""

    @property
    def folder(self) -> Path:
        """Where it is once it has been prepared."""
        digest = f"-{zlib.crc32(self.recipe.encode()):08x}" if self.recipe else ""
        return cache() / f"{self.name}-{self.version}{digest}"


def cache() -> Path:
    """Return the folder of all artefacts, outside the checkout."""
    if named := os.environ.get("TYK_PUMP_TEST_CACHE"):
        return Path(named).absolute()
    above = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(above, "tyk-pump-tests").absolute()


def found(artefact: Artefact) -> Path:
    """Return the folder of an artefact; skip or fail the test where there is none."""
    if not artefact.folder.is_dir():
        absent(artefact.name, "is not prepared: run `make servers`")
    return artefact.folder
