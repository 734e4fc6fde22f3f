"""What a record says as a Model Context Protocol call.

The gateway has read the bodies already and says what it found in `mcp_stats`; nothing
is looked up in the bodies again.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from tyk_pump.record.analytics import AnalyticsRecord

FIELDS: Final = ("mcp_stats",)
"""The attributes of the record that `derive` reads."""


class MCPRecord(NamedTuple):
    """What stands beside the plain record; a method may name no primitive."""

    jsonrpc_method: str
    primitive_type: str
    """tool, resource, prompt or nothing."""
    primitive_name: str


def derive(record: AnalyticsRecord) -> MCPRecord | None:
    """Return the MCP form; None: it was no MCP call."""
    stats = record.mcp_stats
    if not stats.is_mcp:
        return None
    return MCPRecord(stats.jsonrpc_method, stats.primitive_type, stats.primitive_name)
