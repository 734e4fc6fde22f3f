"""SQL aggregates: a row per hour, organisation and what was counted."""

from __future__ import annotations

from typing import ClassVar, Final

from tyk_pump.aggregate.aggregator import Aggregator
from tyk_pump.pumps.protocol import Batch
from tyk_pump.transport.sql_upsert import (
    COUNTED_ONCE,
    DIFFERENCES,
    AggregateOptions,
)

TABLE: Final = "tyk_aggregated"


class SqlAggregatePump:
    """Count records into the rows that a Dashboard reads."""

    options_type: ClassVar[type[AggregateOptions]] = AggregateOptions
    fields: Final = Aggregator("api").fields
    guarantee: Final = COUNTED_ONCE
    differences: Final = DIFFERENCES

    def __init__(self, options: AggregateOptions) -> None:
        self._options = options
        self._store = options.store("api", TABLE)

    def open(self) -> None:
        """Connect, and make the tables."""
        self._options.say_unknown()
        self._store.open()

    def probe(self) -> str:
        """Ask the database something."""
        return self._store.probe()

    def write(self, batch: Batch) -> None:
        """Count what the database has not counted yet."""
        self._store.write(batch)

    def close(self) -> None:
        """Let go of the connection."""
        self._store.close()
