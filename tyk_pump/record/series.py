"""Lines of metrics: names and tags by the values they are made of, numbers by record.

Such values are few by their nature: each set of them is a series, which the back end
keeps. So what is made of a set is kept as a template, and a record only puts its
numbers in.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from operator import attrgetter
from typing import Any, Final

from tyk_pump.record.analytics import AnalyticsRecord

PER_RECORD: Final = frozenset({"timestamp", "raw_request", "raw_response"})
"""Sources that differ from record to record: no template of theirs is kept."""
_KEPT, _LONGEST_KEPT = 10_000, 1000
"""So many templates are kept, but none that long values make large."""


class Series:
    """Writes what a template and the numbers of a record make."""

    def __init__(
        self,
        sources: Collection[str],
        numbers: Sequence[str],
        template: Callable[[AnalyticsRecord], bytes],
    ) -> None:
        """`template` makes one from the sources alone, with a `%d` for each number."""
        self._kind = _getter([*dict.fromkeys(sources)])
        self._numbers = _getter(numbers)
        self._make = template
        self._keeps = PER_RECORD.isdisjoint(sources)
        self._templates: dict[Any, bytes] = {}
        read = (source.partition(".")[0] for source in (*sources, *numbers))
        self.fields: tuple[str, ...] = tuple(dict.fromkeys(read))
        """The attributes of a record that are read."""

    def encode(self, records: Sequence[AnalyticsRecord]) -> list[bytes]:
        """Return the lines of each record."""
        kinds, numbers = map(self._kind, records), map(self._numbers, records)
        known, made = self._templates.get, self._made
        return [
            (known(kind) or made(record, kind)) % number
            for record, kind, number in zip(records, kinds, numbers, strict=True)
        ]

    def _made(self, record: AnalyticsRecord, kind: Any) -> bytes:
        template = self._make(record)
        if self._keeps and len(template) <= _LONGEST_KEPT:
            if len(self._templates) >= _KEPT:
                self._templates.clear()
            self._templates[kind] = template
        return template


def _getter(sources: Sequence[str]) -> Callable[[AnalyticsRecord], Any]:
    """Return what reads these attributes: a tuple, or the value of a single one."""
    return attrgetter(*sources) if sources else lambda record: ()
