"""What the reference gets wrong in its captured output, put right before comparing.

Every function states one right value. The cases name the defect in `defects`; the
values come from captures of the same record where the reference is right.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from typing import Any

from tests.golden.loader import Case, Wire, archive, cases, corpus
from tyk_pump.record import codec
from tyk_pump.record import json as record_json

CELL = re.compile(rb'("(?:[^"]|"")*"|[^,\n]*)([,\n]|\Z)')
COUNTS = (
    "ContentLength",
    "Day",
    "Year",
    "Hour",
    "ResponseCode",
    "RequestTime",
    "NetworkStats.OpenConnections",
    "NetworkStats.ClosedConnection",
    "NetworkStats.BytesIn",
    "NetworkStats.BytesOut",
)
UNKNOWN_ZONES = ("time-zone-east", "time-zone-west", "zone-unknown")


@functools.cache
def shown() -> Mapping[str, dict[str, Any]]:
    """Return the captured JSON of edge and traffic records by name; numbers as text."""

    def parsed(text: str | bytes) -> Any:
        return json.loads(text, parse_float=str, parse_int=str)

    found: dict[str, dict[str, Any]] = {}
    for line in archive("codec")["edge-msgpack.jsonl"].splitlines():
        row = parsed(line)
        record = row["record"]
        found[row["name"]] = parsed(record) if isinstance(record, str) else record
    case = next(c for c in cases("stdout") if c.name == "json-traffic")
    lines = case.expected("jsonl")[""].splitlines()
    for name, line in zip(corpus("traffic"), lines, strict=True):
        found[name] = parsed(line)["tyk-analytics-record"]
    return found


@functools.cache
def _json_floats() -> list[dict[str, Any]]:
    case = next(c for c in cases("stdout") if c.name == "json-floats")
    lines = case.expected("jsonl")[""].splitlines()
    parsed = [json.loads(line, parse_float=str, parse_int=str) for line in lines]
    return [line["tyk-analytics-record"] for line in parsed]


def table(data: bytes) -> list[list[bytes]]:
    """Return the cells of a CSV file as they are written, quotes and all."""
    rows: list[list[bytes]] = [[]]
    at = 0
    while at < len(data):
        match = CELL.match(data, at)
        assert match is not None
        rows[-1].append(match[1])
        at = match.end()
        if match[2] == b"\n":
            rows.append([])
    assert rows.pop() == []
    return rows


def untable(rows: list[list[bytes]]) -> bytes:
    """Return the file that `table` took apart."""
    return b"".join(b",".join(row) + b"\n" for row in rows)


def csv_file(case: Case, data: bytes, wires: list[Wire], *, header: bool) -> bytes:
    """Return a captured file with coordinates, signs and protobuf losses put right."""
    rows = table(data)
    first = rows.pop(0) if header else None
    columns = [c.decode() for c in (first or table(_header())[0])]
    assert len(rows) == len(wires)
    for number, (row, wire) in enumerate(zip(rows, wires, strict=True)):
        cells = dict(zip(columns, row, strict=True))
        for column in COUNTS:
            if int(cells[column]) >= 2**63:
                cells[column] = b"%d" % (int(cells[column]) - 2**64)
        if not _is_ignored(case, "geo"):
            latitude, longitude = _coordinates(case, wire, number)
            cells["GeoData.Location.Latitude"] = latitude.encode()
            cells["GeoData.Location.Longitude"] = longitude.encode()
        if case.codec == "protobuf":
            names = shown()[wire.name]["geo"]["city"]["names"] or {}
            text = ";".join(f"{key}:{names[key]}" for key in sorted(names))
            cells["GeoData.City.Names"] = text.encode()
            if wire.name in UNKNOWN_ZONES:
                cells.update(_edge_times(wire.name))
        row[:] = [cells[column] for column in columns]
    return untable(([first] if first else []) + rows)


@functools.cache
def _edge() -> list[list[bytes]]:
    case = next(c for c in cases("csv") if c.name == "edge")
    return table(case.expected("csv")[""])


def _header() -> bytes:
    return b",".join(_edge()[0]) + b"\n"


def _edge_times(name: str) -> dict[str, bytes]:
    """Return the times that the reference shows in UTC for the msgpack form."""
    row = _edge()[1 + list(corpus("edge")).index(name)]
    cells = {c.decode(): v for c, v in zip(_edge()[0], row, strict=True)}
    return {column: cells[column] for column in ("TimeStamp", "ExpireAt")}


def _is_ignored(case: Case, field: str) -> bool:
    sections = case.pumps.values()
    return any(field in section.get("ignore_fields", ()) for section in sections)


def _coordinates(case: Case, wire: Wire, number: int) -> tuple[str, str]:
    if case.name == "floats":
        location = _json_floats()[number]["geo"]["location"]
    elif wire.name in shown():
        location = shown()[wire.name]["geo"]["location"]
    else:
        # No capture shows these records as JSON: the form that json-floats holds us to.
        assert wire.msgpack is not None
        record = codec.decoder("msgpack", ("geo",))(wire.msgpack)
        place = record.geo.location
        both = (record_json.go_float(place.latitude), place.longitude)
        return both[0], record_json.go_float(both[1])
    return location["latitude"], location["longitude"]


def json_line(case: Case, line: bytes, wire: Wire) -> bytes:
    """Return a captured JSON line with the losses of the protobuf way put right."""
    # The hand-made forms of the wire cases carry the values of one record.
    right = shown().get(wire.name) or shown()["plain"]
    if b'"names":null' in line and not _is_ignored(case, "geo"):
        names = right["geo"]["city"]["names"]
        line = line.replace(b'"names":null', b'"names":' + _go_json(names), 1)
    if wire.name in UNKNOWN_ZONES:
        for key in ("timestamp", "expireAt"):
            old = f'"{key}":"0001-01-01T00:00:00Z"'.encode()
            line = line.replace(old, f'"{key}":"{right[key]}"'.encode(), 1)
    return line


def _go_json(value: Any) -> bytes:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text.encode()


def text_line(line: bytes, wire: Wire) -> bytes:
    """Return a captured text line with the city names of the protobuf way."""
    names = shown()[wire.name]["geo"]["city"]["names"] or {}
    text = " ".join(f"{key}:{names[key]}" for key in sorted(names))
    return line.replace(b"map[]} {", f"map[{text}]}} {{".encode(), 1)


def selected(case: Case, section: Mapping[str, Any]) -> list[Wire]:
    """Return the records that pass the filters of a pump, by plain rules."""
    filters = section.get("filters", {})
    wires = []
    for _, form, wire in case.pushed():
        raw = wire.bytes_in(form)
        assert raw is not None
        record = codec.decoder(form, ("api_id", "org_id", "response_code"))(raw)
        values = {
            "api_ids": record.api_id,
            "org_ids": record.org_id,
            "response_codes": record.response_code,
        }
        kept = all(
            value not in filters.get(f"skip_{key}", ())
            and (not filters.get(key) or value in filters[key])
            for key, value in values.items()
        )
        if kept:
            wires.append(wire)
    return wires
