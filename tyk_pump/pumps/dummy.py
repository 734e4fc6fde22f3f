"""Dummy: counts what it is given and lets it go; to try a configuration out."""

from __future__ import annotations

import logging
from typing import ClassVar, Final

from tyk_pump.config.options import Options
from tyk_pump.pumps.protocol import Batch

log = logging.getLogger(__name__)


class DummyOptions(Options, frozen=True, kw_only=True):
    """The dummy has no options."""


class DummyPump:
    """Log how many records there were."""

    options_type: ClassVar[type[DummyOptions]] = DummyOptions
    fields: Final[tuple[str, ...]] = ()
    guarantee: Final = (
        "At least once: records that were in hand when the process was killed are "
        "counted again."
    )
    differences: Final = (
        "A line counts the records of one window (`window_records`, `window_bytes`), "
        "not of a whole purge.",
    )

    def __init__(self, options: DummyOptions) -> None:
        self._options = options

    def open(self) -> None:
        """Say that we are there, as the reference does."""
        log.info("Dummy Initialized")

    def probe(self) -> str:
        """Nothing can be wrong here."""
        return "nothing to reach"

    def write(self, batch: Batch) -> None:
        """Log the count, in the words that operators know."""
        log.info(f"Writing {len(batch)} records")

    def close(self) -> None:
        """Nothing is open."""
