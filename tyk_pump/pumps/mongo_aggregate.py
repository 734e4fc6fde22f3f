"""MongoDB: what the Dashboard shows, counted per organisation and hour."""

from __future__ import annotations

from typing import ClassVar, Final

from tyk_pump.aggregate.aggregator import Aggregator
from tyk_pump.pumps.protocol import Batch
from tyk_pump.transport import mongo_aggregates
from tyk_pump.transport.mongo_aggregates import AggregateOptions, Aggregates, Kind

KIND: Final = Kind("api", "z_tyk_analyticz_aggregate_", "tyk_analytics_aggregates")


class MongoAggregatePump:
    """Count records into documents per organisation and hour."""

    options_type: ClassVar[type[AggregateOptions]] = AggregateOptions
    fields: Final = Aggregator("api").fields
    guarantee: Final = mongo_aggregates.GUARANTEE
    differences: Final = (
        "Records of GraphQL and MCP calls and those without an organisation are left "
        "out, as ever.",
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
