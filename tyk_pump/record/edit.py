"""Records for people: every field by its JSON name, changed, and written back.

A field that is left as it was shown keeps what it holds, whatever a text can say of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

import msgspec

from tyk_pump.errors import CodecError
from tyk_pump.record import analytics, codec, gotime, uptime, wire
from tyk_pump.record.analytics import AnalyticsRecord, Time
from tyk_pump.record.uptime import UptimeRecord

UPTIME: Final = "uptime"
"""The codec of uptime reports."""

_TIMES: Final = frozenset({"timestamp", "expire_at"})
_REPORT_NAMES: Final = {
    {"expire_at": "expireAt"}.get(name, name): name for name in uptime.WIRE_NAMES
}
_STAMP: Final = re.compile(
    r"(?P<date>\d{4}-\d\d-\d\d)[Tt ](?P<clock>\d\d:\d\d:\d\d)(?:\.(?P<part>\d{1,9}))?"
    r"(?P<zone>[Zz]|[+-]\d\d:\d\d)"
)


class Unfit(ValueError):
    """What was written is no record; says where and why."""


def names(kind: str) -> Mapping[str, str]:
    """Return JSON name -> attribute name of the records of a codec."""
    return _REPORT_NAMES if kind == UPTIME else analytics.JSON_NAMES


def empty(kind: str) -> Any:
    """Return a record that says nothing."""
    return UptimeRecord() if kind == UPTIME else AnalyticsRecord()


def decode(kind: str, raw: bytes) -> Any:
    """Return the whole record; CodecError: it is none."""
    return codec.reader(kind, analytics.ALL)(raw)


def shown(record: Any, kind: str) -> dict[str, Any]:
    """Return a record as its JSON is shown; texts that are no UTF-8 hold surrogates."""
    found = {}
    for name, attribute in names(kind).items():
        value = getattr(record, attribute)
        if attribute in _TIMES:
            found[name] = gotime.rfc3339_any_year(value, record.zone)
        else:
            found[name] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        return {name: _plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value


def changed(record: Any, kind: str, written: object) -> Any:
    """Return the record with what was written differently from how it is shown.

    Fields that are left out stay as they are. Unfit names what is not right.
    """
    if not isinstance(written, dict):
        raise Unfit("expected one JSON object")
    known = names(kind)
    _refuse_unknown(written, known, "")
    before = shown(record, kind)
    fields = {field.name: field for field in msgspec.structs.fields(type(record))}
    values = {}
    for name, value in written.items():
        if value == before[name] and type(value) is type(before[name]):
            continue
        attribute = known[name]
        if attribute in _TIMES:
            values[attribute] = _time(value, name)
        else:
            now = getattr(record, attribute)
            values[attribute] = _fit(value, now, fields[attribute].type, name)
    return msgspec.structs.replace(record, **values)


def _bare(value: Any) -> Any:
    """Return a value in which all that holds nothing looks the same."""
    if isinstance(value, dict):
        value = {name: _bare(one) for name, one in value.items()}
    return None if value in ([], {}) else value


def _fit(value: Any, now: Any, wanted: Any, place: str) -> Any:
    if isinstance(now, msgspec.Struct) and isinstance(value, dict):
        _refuse_unknown(value, now.__struct_fields__, place + ".")
        fields = {field.name: field for field in msgspec.structs.fields(type(now))}
        return msgspec.structs.replace(
            now,
            **{
                name: _fit(
                    one, getattr(now, name), fields[name].type, f"{place}.{name}"
                )
                for name, one in value.items()
            },
        )
    if isinstance(value, list) and place.endswith("graphql_stats.errors"):
        value = [_wire_names(one) for one in value]
    try:
        return msgspec.convert(value, wanted)
    except msgspec.ValidationError as exc:
        text = f"{exc}".replace("`", "").partition(" - at ")[0]
        raise Unfit(f"{place}: {text[:1].lower()}{text[1:]}") from exc


def _wire_names(error: Any) -> Any:
    if not isinstance(error, dict):
        return error
    return {name.capitalize(): value for name, value in error.items()}


def _refuse_unknown(written: Any, known: Any, place: str) -> None:
    from tyk_pump.config.fields import nearest

    for name in written:
        if name not in known:
            raise Unfit(f"{place}{name}: no such field{nearest(str(name), known)}")


def _time(value: object, place: str) -> Time:
    found = _STAMP.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise Unfit(f"{place}: expected a time like 2025-03-05T14:07:09.5Z")
    zone = "+00:00" if found["zone"] in "Zz" else found["zone"]
    try:
        whole = datetime.fromisoformat(f"{found['date']}T{found['clock']}{zone}")
    except ValueError as exc:
        raise Unfit(f"{place}: {exc}") from exc
    away = whole - datetime.fromisoformat("1970-01-01T00:00:00+00:00")
    nanoseconds = int((found["part"] or "").ljust(9, "0"))
    return away.days * 86_400 + away.seconds, nanoseconds


def encode(record: Any, kind: str) -> bytes:
    """Return the record as the gateway would write it; Unfit: that has no room for it.

    What comes back from its bytes is the same record.
    """
    pack: Callable[[Any], bytes] = wire.pack
    if kind == UPTIME:
        pack = wire.pack_uptime
    elif kind == "protobuf":
        pack = wire.pack_protobuf
    try:
        raw = pack(record)
        back = shown(decode(kind, raw), kind)
    except (ValueError, TypeError, OverflowError, CodecError) as exc:
        raise Unfit(f"{kind} cannot hold it: {exc}") from exc
    wanted = shown(record, kind)
    for name, value in wanted.items():
        if _bare(value) != _bare(back[name]):
            raise Unfit(f"{name}: {kind} has no room for {value!r}")
    return raw
