"""An index template: what a new index of Elasticsearch or OpenSearch looks like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from tyk_pump.transport.elastic import TYPED

Kind = Literal["date", "number", "exact", "text"]
"""`exact` is compared and counted as a whole, `text` is searched by its words."""
PRIORITY: Final = 200
"""Above the templates that come with a server, which have up to 100."""
_TYPES: Final[Mapping[Kind, Mapping[str, Any]]] = {
    "date": {"type": "date"},
    "number": {"type": "long"},
    # A term has at most 32,766 bytes, a character at most four.
    "exact": {"type": "keyword", "ignore_above": 8191},
    "text": {"type": "text"},
}
_OLD_TYPES: Final[Mapping[Kind, Mapping[str, Any]]] = {
    **_TYPES,
    "exact": {"type": "string", "index": "not_analyzed", "ignore_above": 8191},
    "text": {"type": "string"},
}


def template(
    names: Sequence[str],
    kinds: Mapping[str, Kind],
    version: str,
    *,
    document_type: str,
    rolling: bool,
    data_stream: bool,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Return a template for these indices, in the form that a version takes."""
    patterns = [f"{name}-*" if rolling else name for name in names]
    types = _OLD_TYPES if version == "3" else _TYPES
    mappings = {"properties": {key: types[kind] for key, kind in kinds.items()}}
    if version in TYPED:
        body = {"settings": settings, "mappings": {document_type: mappings}}
        if version == "6":
            return {"index_patterns": patterns, **body}
        return {"template": patterns[0], **body}  # these have room for one
    made: dict[str, Any] = {
        "index_patterns": patterns,
        "priority": PRIORITY,
        "template": {"settings": settings, "mappings": mappings},
    }
    return made | {"data_stream": {}} if data_stream else made
