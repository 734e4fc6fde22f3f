"""Which records a pump gets, and how much of each: filters, cuts, blanks, decoding.

The worker calls `select` on each decoded record before the pump sees it. A record is
the worker's own copy, so it is changed in place. The order is the reference's: omit
or cut the raw bodies, filter, blank, decode.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

import msgspec

from tyk_pump.config.root import Filters, PumpConfig, RootOptions
from tyk_pump.record import analytics, body
from tyk_pump.record.analytics import AnalyticsRecord

log = logging.getLogger(__name__)

Step = Callable[[Any], bool]
"""Changes a record in place; False = the pump shall not have it."""

RAW: Final = ("raw_request", "raw_response")


class Selector(msgspec.Struct, frozen=True):
    """What is to be done with the records of one pump."""

    needs: tuple[str, ...]
    """The fields to decode, in wire order."""
    select: Callable[[AnalyticsRecord], bool] | None
    """None = every record, as it is."""


def compile(pump: PumpConfig, root: RootOptions, fields: Collection[str]) -> Selector:
    """Return what a pump's configuration does to records of these fields."""
    filters = _filters(pump.filters)
    wanted = set(fields) | {name for name, _ in filters}
    steps: list[Step] = []
    raw = [name for name in RAW if name in fields]
    if pump.omit_detailed_recording or root.omit_detailed_recording:
        steps += [_blank(name, str) for name in raw]
    elif size := pump.max_record_size or root.max_record_size:
        steps += [_cut(name, size) for name in raw]
    steps += [_keep(name, test) for name, test in filters]
    blanks = ignored_fields(pump)
    # A field that the pump does not read is not decoded: nothing to blank.
    steps += [_blank(name, _zero(name)) for name in blanks if name in fields]
    decoded = {
        "raw_request": pump.raw_request_decoded,
        "raw_response": pump.raw_response_decoded,
    }
    steps += [_decode(name) for name in raw if decoded[name]]
    needs = tuple(name for name in analytics.ALL if name in wanted)
    return Selector(needs, _chain(steps))


def ignored_fields(pump: PumpConfig) -> list[str]:
    """Return the attributes to blank; names that nobody knows are said once."""
    found: dict[str, None] = {}
    for name in pump.ignore_fields:
        if name == "-":  # an accident of the reference: the table override
            found["collection_name"] = None
        elif name in analytics.JSON_NAMES:
            found[analytics.JSON_NAMES[name]] = None
        else:
            log.warning(
                "ignore_fields names no field of a record, nothing is ignored for it",
                extra={"pump": pump.name, "reason": repr(name)},
            )
    return list(found)


def _filters(filters: Filters) -> list[tuple[str, Callable[[Any], bool]]]:
    """Return which field is looked at and how, the skip lists first."""
    skipped: list[tuple[str, Sequence[Any]]] = [
        ("api_id", filters.skip_api_ids),
        ("org_id", filters.skip_org_ids),
        ("response_code", filters.skip_response_codes),
    ]
    allowed: list[tuple[str, Sequence[Any]]] = [
        ("api_id", filters.api_ids),
        ("org_id", filters.org_ids),
        ("response_code", filters.response_codes),
    ]
    found: list[tuple[str, Callable[[Any], bool]]] = []
    for name, values in skipped:
        if values:
            found.append((name, _none_of(frozenset(values))))
    for name, values in allowed:
        if values:
            found.append((name, frozenset(values).__contains__))
    return found


def _none_of(values: frozenset[Any]) -> Callable[[Any], bool]:
    return lambda value: value not in values


def _keep(name: str, test: Callable[[Any], bool]) -> Step:
    return lambda record: test(getattr(record, name))


def _zero(name: str) -> Callable[[], Any]:
    if name in ("timestamp", "expire_at"):
        # Not only a zero time: one that is shown in UTC whatever our zone is.
        return lambda: analytics.BLANK_TIME
    return analytics.ZERO[name]


def _blank(name: str, zero: Callable[[], Any]) -> Step:
    def blank(record: Any) -> bool:
        setattr(record, name, zero())
        return True

    return blank


def _cut(name: str, size: int) -> Step:
    # Bytes of the encoded text are counted, as ever: a size that is no multiple of
    # four can leave a body that no longer decodes, and then it stays encoded.
    def cut(record: Any) -> bool:
        text = getattr(record, name)
        # No text has more than four bytes to a character.
        if len(text) * 4 > size:
            setattr(record, name, first_bytes(text, size))
        return True

    return cut


def first_bytes(text: str, size: int) -> str:
    """Return at most so many bytes of a text; a split character leaves its bytes."""
    if text.isascii():
        return text[:size]
    cut = text.encode("utf-8", "surrogateescape")[:size]
    return cut.decode("utf-8", "surrogateescape")


def _decode(name: str) -> Step:
    def decode(record: Any) -> bool:
        text = getattr(record, name)
        if text:
            setattr(record, name, body.decoded(text))
        return True

    return decode


def _chain(steps: Sequence[Step]) -> Step | None:
    if not steps:
        return None
    if len(steps) == 1:
        return steps[0]

    # A tuple and a loop: `all()` with a generator costs twice as much.
    chain = tuple(steps)

    def select(record: Any) -> bool:
        for step in chain:  # noqa: SIM110
            if not step(record):
                return False
        return True

    return select
