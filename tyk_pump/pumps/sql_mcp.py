"""SQL: one row per call by the Model Context Protocol, with what it addressed."""

from __future__ import annotations

from typing import ClassVar, Final

from tyk_pump.pumps.protocol import Batch
from tyk_pump.record import mcp
from tyk_pump.record.columns import FIELDS, MCP, derived
from tyk_pump.transport.sql import (
    DIFFERENCES,
    GUARANTEE,
    NamedTableOptions,
    RowStore,
    Table,
)

TABLE: Final = "tyk_analytics_mcp"


class SqlMcpOptions(NamedTableOptions, frozen=True, kw_only=True):
    """Where the database is; an empty `table_name` is `tyk_analytics_mcp`."""


class SqlMcpPump:
    """Insert what the Model Context Protocol has asked for; skip all other calls."""

    options_type: ClassVar[type[SqlMcpOptions]] = SqlMcpOptions
    fields: Final = FIELDS
    guarantee: Final = GUARANTEE
    differences: Final = DIFFERENCES

    def __init__(self, options: SqlMcpOptions) -> None:
        self._store = RowStore(options, Table(options.table_name or TABLE, MCP))

    def open(self) -> None:
        """Connect, and make the tables."""
        self._store.open()

    def probe(self) -> str:
        """Ask the database something."""
        return self._store.probe()

    def write(self, batch: Batch) -> None:
        """Insert the rows that the database does not hold yet."""
        self._store.write(batch, derived(mcp.derive, batch.records))

    def close(self) -> None:
        """Let go of the connection."""
        self._store.close()
