"""Chosen fields of a record as one JSON object, byte for byte as the reference's."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any, Final

import msgspec

from tyk_pump.record import json
from tyk_pump.record.analytics import AnalyticsRecord
from tyk_pump.record.gotime import rfc3339


class Computed(msgspec.Struct, frozen=True):
    """A value that is made from a record."""

    make: Callable[[AnalyticsRecord], Any]
    reads: tuple[str, ...]
    """The attributes that it looks at."""


SHOWN: Final[Mapping[str, Computed]] = {
    "timestamp": Computed(lambda r: rfc3339(r.timestamp, r.zone), ("timestamp",)),
    "expire_at": Computed(lambda r: rfc3339(r.expire_at, r.zone), ("expire_at",)),
    "geo": Computed(lambda r: json.geo(r.geo), ("geo",)),
    "network": Computed(lambda r: json.network(r.network), ("network",)),
    "latency": Computed(lambda r: json.latency(r.latency), ("latency",)),
}
"""Attributes whose JSON form is not their value."""

_ESCAPED: Final = re.compile(r'["\\\x00-\x1f\ud800-\udfff]')
_ANY: Final = "__class__"
"""Stands where no attribute is read: a record has what was asked for and no more."""


class Document:
    """Writes records as JSON objects with these keys, in the order of their bytes."""

    def __init__(self, keys: Mapping[str, str | Computed]) -> None:
        """`keys` gives for each key the attribute that stands there, or how it is made.

        A constant is `Computed(lambda record: value, ())`.
        """
        order = sorted(keys, key=lambda key: key.encode("utf-8", "surrogateescape"))
        sources = [_source(keys[key]) for key in order]
        attributes = [s if isinstance(s, str) else _ANY for s in sources]
        self._make = [
            (at, source.make)
            for at, source in enumerate(sources)
            if isinstance(source, Computed)
        ]
        # Two at least, else the getter returns no tuple.
        self._surplus = max(0, 2 - len(attributes))
        self._values: Callable[[AnalyticsRecord], tuple[Any, ...]] = attrgetter(
            *attributes, *[_ANY] * self._surplus
        )
        self._object = _object_of(order)
        self.fields: tuple[str, ...] = tuple(
            dict.fromkeys(
                name
                for source in sources
                for name in ((source,) if isinstance(source, str) else source.reads)
            )
        )
        """The attributes of a record that are read."""

    def encode(self, record: AnalyticsRecord) -> bytes:
        """Return the record as JSON; CodecError says what JSON cannot express."""
        values = list(self._values(record))
        if self._surplus:
            del values[-self._surplus :]
        for at, make in self._make:
            values[at] = make(record)
        return json.compact(self._object(*values))


def _object_of(keys: Sequence[str]) -> Callable[..., Any]:
    """Return what makes an object of values in the order of these keys."""
    if any(map(_ESCAPED.search, keys)):
        # A struct's names have to stand in JSON as they are; a map is slower.
        return lambda *values: dict(zip(keys, values, strict=True))
    # Any other key is possible, names of attributes have to be made up.
    return msgspec.defstruct(
        "Document",
        [(f"f{at}", Any, msgspec.field(name=key)) for at, key in enumerate(keys)],
        gc=False,
    )


def _source(source: str | Computed) -> str | Computed:
    return SHOWN.get(source, source) if isinstance(source, str) else source
