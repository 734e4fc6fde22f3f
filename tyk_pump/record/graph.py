"""What a record says as a GraphQL call: the form that GraphQL stores keep.

The gateway has read the bodies already and says what it found in `graphql_stats`;
nothing is looked up in the bodies again.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from tyk_pump.record.analytics import AnalyticsRecord

FIELDS: Final = ("graphql_stats", "response_code")
"""The attributes of the record that `derive` reads."""

_OPERATIONS: Final = {1: "Query", 2: "Mutation", 3: "Subscription"}


class GraphRecord(msgspec.Struct, frozen=True, gc=False):
    """What stands beside the plain record; nothing in here is None."""

    types: dict[str, list[str]]
    """Object type -> its fields that were asked for."""
    operation_type: str
    """Query, Mutation, Subscription or nothing."""
    variables: str
    root_fields: list[str]
    errors: list[dict[str, Any]]
    """Each with `message` and `path`, a list of names and places."""
    has_errors: bool
    """The answer had some, or its status alone says so."""


def derive(record: AnalyticsRecord) -> GraphRecord | None:
    """Return the GraphQL form; None: it was no GraphQL call."""
    stats = record.graphql_stats
    if not stats.is_graphql:
        return None
    return GraphRecord(
        {name: fields or [] for name, fields in (stats.types or {}).items()},
        _OPERATIONS.get(stats.operation_type, ""),
        stats.variables,
        stats.root_fields or [],
        [
            {"message": error.message, "path": error.path or []}
            for error in stats.errors or ()
        ],
        stats.has_errors or record.response_code >= 400,
    )
