"""SQL: one row per record, in one table or in one for each day."""

from __future__ import annotations

from typing import ClassVar, Final

from tyk_pump.pumps.protocol import Batch
from tyk_pump.record.columns import ANALYTICS, INDEXED, fields
from tyk_pump.transport.sql import RowStore, SqlOptions, Table
from tyk_pump.transport.sql_dialects import Index

TABLE: Final = "tyk_analytics"


class SqlPump:
    """Insert records into the table that a Dashboard reads."""

    options_type: ClassVar[type[SqlOptions]] = SqlOptions
    fields: Final = fields(ANALYTICS)
    guarantee: Final = (
        "Each record once, across crashes, restarts and answers that were lost: the "
        "rows and the position up to which they are there, in `_tyk_pump_watermarks`, "
        "are one transaction. With `once` off, and in tables without transactions, at "
        "least once. A replay of dead letters is not held against the rows of an "
        "earlier one."
    )
    differences: Final = (
        "Tables made by this version have the six indexes also when they are not for a "
        "day, or were made at the start. Tables that are there get none.",
        "Older tables get their missing columns when they are first written to; tables "
        "of days are looked for in the schema that they are written to.",
        "A row that the database refuses goes to the dead letters; the rest arrives.",
        "Bytes that are no UTF-8 are U+FFFD, in PostgreSQL NUL characters too.",
        "Lists and maps are JSON also with `postgres.prefer_simple_protocol`.",
        "`batch_size` may be of any size, and rows go in by COPY on PostgreSQL.",
        "Bodies, lists and maps are `longtext` whatever `mysql.default_string_size`.",
        "Where MySQL takes no zero dates, a time that was never set is NULL.",
        "`type` may be `sqlite`.",
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
