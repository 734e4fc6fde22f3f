"""SQL aggregates of MCP calls: a row per hour, API and what was counted."""

from __future__ import annotations

from typing import ClassVar, Final

from tyk_pump.aggregate.aggregator import Aggregator
from tyk_pump.pumps.protocol import Batch
from tyk_pump.transport.sql_upsert import (
    COUNTED_ONCE,
    DIFFERENCES,
    DIFFERENCES_BY_API,
    AggregateOptions,
)

TABLE: Final = "tyk_mcp_aggregated"


class SqlMcpAggregatePump:
    """Count MCP calls, with their methods, primitives and names."""

    options_type: ClassVar[type[AggregateOptions]] = AggregateOptions
    fields: Final = Aggregator("mcp").fields
    guarantee: Final = COUNTED_ONCE
    differences: Final = (*DIFFERENCES, *DIFFERENCES_BY_API)

    def __init__(self, options: AggregateOptions) -> None:
        self._options = options
        self._store = options.store("mcp", TABLE)

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
