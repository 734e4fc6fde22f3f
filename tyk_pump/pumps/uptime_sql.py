"""Uptime in SQL: a row per organisation, hour and what was seen in it."""

from __future__ import annotations

from typing import ClassVar, Final

from tyk_pump.aggregate.uptime import UptimeAggregator
from tyk_pump.pumps.protocol import Batch
from tyk_pump.record.uptime import UptimeRecord
from tyk_pump.transport.sql import SqlOptions, Table
from tyk_pump.transport.sql_aggregates import BY_ORG, Layout
from tyk_pump.transport.sql_dialects import Index
from tyk_pump.transport.sql_upsert import AggregateStore

TABLE: Final = "tyk_uptime_analytics"
INDEX: Final = Index(
    "dimension",
    ("timestamp", "org_id", "dimension", "dimension_value"),
    older="dimension",
)


class UptimeSqlPump:
    """Count uptime reports by organisation, hour, URL and error."""

    options_type: ClassVar[type[SqlOptions]] = SqlOptions
    fields: Final = UptimeRecord.__struct_fields__
    guarantee: Final = (
        "Each report is counted once, across crashes, restarts and answers that were "
        "lost: the rows and the position up to which they count are one transaction. "
        "With `once` off, and in tables without transactions, at least once."
    )
    differences: Final = (
        "Each report counts in its own hour, and with `table_sharding` in the table of "
        "its own day; a whole purge is not put into the hour of its first report.",
        "The average request time is that of all hits, not of the first batch's.",
        "Reports with the code -1 are followed by others without a crash.",
        "Reports that no row counts, for want of an organisation, are left out, as "
        "ever, and count as filtered; what is no report is a dead letter.",
        "The index is named after its table, so each day's table has one.",
        "MySQL and MariaDB take the rows; long URLs are not cut there, and the index "
        "has their beginnings. `type` may be `sqlite`.",
    )

    def __init__(self, options: SqlOptions) -> None:
        self._store = AggregateStore(
            options,
            UptimeAggregator(by_day=options.table_sharding),
            Table(TABLE, BY_ORG, (INDEX,)),
            Layout(BY_ORG, by_api=False, least=0),
        )

    def open(self) -> None:
        """Connect, and make the tables."""
        self._store.open()

    def probe(self) -> str:
        """Ask the database something."""
        return self._store.probe()

    def write(self, batch: Batch) -> None:
        """Add to the rows what the database has not counted yet."""
        self._store.write(batch)

    def close(self) -> None:
        """Let go of the connection."""
        self._store.close()
