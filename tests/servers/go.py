"""The servers that are built from Go modules."""

from __future__ import annotations

from tests.servers.artefacts import Artefact

ARTEFACTS: tuple[Artefact, ...] = ()
