"""MongoDB: calls of MCP, counted per organisation, API and hour."""

from __future__ import annotations

from typing import ClassVar, Final

from tyk_pump.aggregate.aggregator import Aggregator
from tyk_pump.pumps.protocol import Batch
from tyk_pump.transport import mongo_aggregates
from tyk_pump.transport.mongo_aggregates import AggregateOptions, Aggregates, Kind

KIND: Final = Kind(
    "mcp", "z_tyk_mcp_analyticz_aggregate_", "tyk_mcp_analytics_aggregate"
)


class MongoMcpAggregatePump:
    """Count records of MCP calls into documents per organisation, API and hour."""

    options_type: ClassVar[type[AggregateOptions]] = AggregateOptions
    fields: Final = Aggregator("mcp").fields
    guarantee: Final = mongo_aggregates.GUARANTEE
    differences: Final = (
        "Equal API ids of two organisations are two documents.",
        "`track_all_paths`, `ignore_tag_prefix_list`, `threshold_len_tag_list`, "
        "`ignore_aggregations` and `enable_aggregate_self_healing` have an effect.",
        *mongo_aggregates.DIFFERENCES,
    )

    def __init__(self, options: AggregateOptions) -> None:
        self._aggregates = Aggregates(options, KIND)

    def open(self) -> None:
        """Connect."""
        self._aggregates.open()

    def probe(self) -> str:
        """Ask the server what it is, logged in."""
        return self._aggregates.probe()

    def write(self, batch: Batch) -> None:
        """Count; return when the documents hold every record."""
        self._aggregates.write(batch)

    def close(self) -> None:
        """Close every connection."""
        self._aggregates.close()
