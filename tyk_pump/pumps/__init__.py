"""The pumps: one file per back end, imported only when a worker asks for it."""

from __future__ import annotations

from importlib import import_module
from typing import Final, cast

from tyk_pump.errors import ConfigError
from tyk_pump.pumps.protocol import RegisteredPump

REGISTRY: Final[dict[str, str]] = {
    "csv": "tyk_pump.pumps.csv:CsvPump",
    "dogstatsd": "tyk_pump.pumps.dogstatsd:DogstatsdPump",
    "dummy": "tyk_pump.pumps.dummy:DummyPump",
    "elasticsearch": "tyk_pump.pumps.elasticsearch:ElasticsearchPump",
    "graylog": "tyk_pump.pumps.graylog:GraylogPump",
    "hybrid": "tyk_pump.pumps.hybrid:HybridPump",
    "influx": "tyk_pump.pumps.influx:InfluxPump",
    "influx2": "tyk_pump.pumps.influx2:Influx2Pump",
    "kafka": "tyk_pump.pumps.kafka:KafkaPump",
    "kinesis": "tyk_pump.pumps.kinesis:KinesisPump",
    "logzio": "tyk_pump.pumps.logzio:LogzioPump",
    "prometheus": "tyk_pump.pumps.prometheus:PrometheusPump",
    "resurfaceio": "tyk_pump.pumps.resurface:ResurfacePump",
    "splunk": "tyk_pump.pumps.splunk:SplunkPump",
    "moesif": "tyk_pump.pumps.moesif:MoesifPump",
    "segment": "tyk_pump.pumps.segment:SegmentPump",
    "sql": "tyk_pump.pumps.sql:SqlPump",
    "mongo": "tyk_pump.pumps.mongo:MongoPump",
    "mongo-graph": "tyk_pump.pumps.mongo_graph:MongoGraphPump",
    "mongo-mcp": "tyk_pump.pumps.mongo_mcp:MongoMCPPump",
    "mongo-mcp-aggregate": "tyk_pump.pumps.mongo_mcp_aggregate:MongoMcpAggregatePump",
    "mongo-pump-aggregate": "tyk_pump.pumps.mongo_aggregate:MongoAggregatePump",
    "mongo-pump-selective": "tyk_pump.pumps.mongo_selective:MongoSelectivePump",
    "sql-graph": "tyk_pump.pumps.sql_graph:SqlGraphPump",
    "sql-mcp": "tyk_pump.pumps.sql_mcp:SqlMcpPump",
    "sql_aggregate": "tyk_pump.pumps.sql_aggregate:SqlAggregatePump",
    "sql-graph-aggregate": "tyk_pump.pumps.sql_graph_aggregate:SqlGraphAggregatePump",
    "sql-mcp-aggregate": "tyk_pump.pumps.sql_mcp_aggregate:SqlMcpAggregatePump",
    "statsd": "tyk_pump.pumps.statsd:StatsdPump",
    "sqs": "tyk_pump.pumps.sqs:SqsPump",
    "stdout": "tyk_pump.pumps.stdout:StdoutPump",
    "syslog": "tyk_pump.pumps.syslog:SyslogPump",
    "timestream": "tyk_pump.pumps.timestream:TimestreamPump",
}
"""Type of a pump -> where its class is."""

UPTIME: Final[dict[str, str]] = {
    "uptime-mongo": "tyk_pump.pumps.uptime_mongo:UptimeMongoPump",
    "uptime-sql": "tyk_pump.pumps.uptime_sql:UptimeSqlPump",
}
"""The types that `uptime_pump_config` stands for; none that `pumps` may name."""

DISPLAY_NAMES: Final = {
    "csv": "CSV Pump",
    "dogstatsd": "DogStatsd Pump",
    "dummy": "Dummy Pump",
    "elasticsearch": "Elasticsearch Pump",
    "graylog": "Graylog Pump",
    "hybrid": "Hybrid pump",
    "influx": "InfluxDB Pump",
    "influx2": "InfluxDB2 Pump",
    "kafka": "Kafka Pump",
    "kinesis": "Kinesis Pump",
    "logzio": "Logzio Pump",
    "moesif": "Moesif Pump",
    "mongo": "MongoDB Pump",
    "mongo-graph": "MongoDB Graph Pump",
    "mongo-mcp": "MongoDB MCP Pump",
    "mongo-mcp-aggregate": "MongoDB MCP Aggregate Pump",
    "mongo-pump-aggregate": "MongoDB Aggregate Pump",
    "mongo-pump-selective": "MongoDB Selective Pump",
    "prometheus": "Prometheus Pump",
    "resurfaceio": "Resurface Pump",
    "segment": "Segment Pump",
    "splunk": "Splunk Pump",
    "sql": "SQL Pump",
    "sql-graph": "Graph SQL Pump",
    "sql-graph-aggregate": "Sql Graph Aggregate Pump",
    "sql-mcp": "MCP SQL Pump",
    "sql-mcp-aggregate": "SQL MCP Aggregate Pump",
    "sql_aggregate": "SQL Aggregate Pump",
    "sqs": "SQS Pump",
    "statsd": "Statsd Pump",
    "stdout": "Stdout Pump",
    "syslog": "Syslog Pump",
    "timestream": "Timestream Pump",
}
"""What the reference calls its pumps, in the metrics of its own instrumentation."""

STORE_BODIES_AS_SENT: Final = frozenset(
    {
        "mongo",
        "mongo-graph",
        "mongo-mcp",
        "mongo-mcp-aggregate",
        "mongo-pump-aggregate",
        "mongo-pump-selective",
        "sql",
        "sql_aggregate",
    }
)
"""Types on which `raw_request_decoded` and `raw_response_decoded` have no effect: who
reads these stores decodes the raw bodies."""


SERVING: Final = frozenset({"prometheus"})
"""Types that listen, to be asked for what they have: one process of each."""


def load(name: str) -> type[RegisteredPump]:
    """Return the class of a pump type; only now is its driver imported."""
    try:
        module, _, attribute = (REGISTRY | UPTIME)[name].partition(":")
    except KeyError:
        raise ConfigError(f"there is no pump type {name!r}") from None
    try:
        found = getattr(import_module(module), attribute)
    except ImportError as exc:
        raise ConfigError(f"the {name} pump needs {exc.name or exc}") from exc
    return cast("type[RegisteredPump]", found)
