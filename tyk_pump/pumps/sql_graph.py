"""SQL: one row per GraphQL call, with what was asked for."""

from __future__ import annotations

from typing import ClassVar, Final

from tyk_pump.pumps.protocol import Batch
from tyk_pump.record import graph
from tyk_pump.record.columns import FIELDS, GRAPH, derived
from tyk_pump.transport.sql import (
    DIFFERENCES,
    GUARANTEE,
    NamedTableOptions,
    RowStore,
    Table,
)

TABLE: Final = "tyk_analytics_graph"


class SqlGraphOptions(NamedTableOptions, frozen=True, kw_only=True):
    """Where the database is; an empty `table_name` is `tyk_analytics_graph`."""


class SqlGraphPump:
    """Insert GraphQL calls into the table that a Dashboard reads; skip all others."""

    options_type: ClassVar[type[SqlGraphOptions]] = SqlGraphOptions
    fields: Final = FIELDS
    guarantee: Final = GUARANTEE
    differences: Final = DIFFERENCES

    def __init__(self, options: SqlGraphOptions) -> None:
        self._store = RowStore(options, Table(options.table_name or TABLE, GRAPH))

    def open(self) -> None:
        """Connect, and make the tables."""
        self._store.open()

    def probe(self) -> str:
        """Ask the database something."""
        return self._store.probe()

    def write(self, batch: Batch) -> None:
        """Insert the rows that the database does not hold yet."""
        self._store.write(batch, derived(graph.derive, batch.records))

    def close(self) -> None:
        """Let go of the connection."""
        self._store.close()
