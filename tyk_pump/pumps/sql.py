"""SQL: one row per record, in one table or in one for each day."""

from __future__ import annotations

from typing import ClassVar, Final

from tyk_pump.pumps.protocol import Batch
from tyk_pump.record.columns import ANALYTICS, FIELDS, INDEXED
from tyk_pump.transport.sql import DIFFERENCES, GUARANTEE, RowStore, SqlOptions, Table
from tyk_pump.transport.sql_dialects import Index

TABLE: Final = "tyk_analytics"


class SqlPump:
    """Insert records into the table that a Dashboard reads."""

    options_type: ClassVar[type[SqlOptions]] = SqlOptions
    fields: Final = FIELDS
    guarantee: Final = GUARANTEE
    differences: Final = (
        "Tables made by this version have the six indexes also when they are not for a "
        "day, or were made at the start. Tables that are there get none.",
        *DIFFERENCES,
    )

    def __init__(self, options: SqlOptions) -> None:
        indexes = tuple(Index(f"idx_{name}", (name,)) for name in INDEXED)
        self._store = RowStore(options, Table(TABLE, ANALYTICS, indexes))

    def open(self) -> None:
        """Connect, and make the tables."""
        self._store.open()

    def probe(self) -> str:
        """Ask the database something."""
        return self._store.probe()

    def write(self, batch: Batch) -> None:
        """Insert the rows that the database does not hold yet."""
        # Calls by the Model Context Protocol are for `sql-mcp`.
        self._store.write(
            batch, [None if r.mcp_stats.is_mcp else r for r in batch.records]
        )

    def close(self) -> None:
        """Let go of the connection."""
        self._store.close()
