"""Captured lines of the stdout pump beside the ones that we print."""

from __future__ import annotations

import re
from typing import Any

from tests.golden import repair
from tests.golden.loader import Case, Wire
from tests.golden.run import Output

JSON_TIME = re.compile(rb'"time":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:Z|[+-]\d\d:\d\d)"')
TEXT_TIME = re.compile(
    rb'^time="(?:\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:Z|[+-]\d\d:\d\d)'
    rb'|[A-Z][a-z]{2} \d\d \d\d:\d\d:\d\d)"'
)


def without_time(line: bytes) -> bytes:
    """Return a line with the captures' placeholder for its time."""
    if line.startswith(b"time="):
        return TEXT_TIME.sub(b'time="<time>"', line, count=1)
    return JSON_TIME.sub(b'"time":"<time>"', line, count=1)


def printed(output: Output, field: str = "") -> list[bytes]:
    """Return the lines that hold a record under a key, or all."""
    lines = [without_time(line) for line in output.stdout.split(b"\n")[:-1]]
    assert output.stdout.endswith(b"\n") or not output.stdout
    key = f'"{field}":'.encode()
    return [line for line in lines if not field or key in line]


def expected(case: Case, data: bytes, wires: list[Wire], output: Output) -> list[bytes]:
    """Return captured lines put right; refused records have none."""
    lines = data.split(b"\n")[:-1] if data else []
    wires = [wire for wire in wires if wire.name not in output.refused]
    assert len(lines) == len(wires), (len(lines), [wire.name for wire in wires])
    found = []
    forms = {id(wire): form for _, form, wire in case.pushed()}
    for line, wire in zip(lines, wires, strict=True):
        if forms.get(id(wire), case.codec) == "protobuf":
            if line.startswith(b"time="):
                line = repair.text_line(line, wire)
            else:
                line = repair.json_line(case, line, wire)
        found.append(line)
    return found


def field_name(section: dict[str, Any]) -> str:
    """Return the key that a pump puts its records under."""
    meta = {key.lower(): value for key, value in section.get("meta", {}).items()}
    name: str = meta.get("log_field_name", "tyk-analytics-record")
    return name
