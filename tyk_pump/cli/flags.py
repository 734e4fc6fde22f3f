"""The reference's own flags, read as its parser reads them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from tyk_pump.coordinator.demo_options import DemoOptions
from tyk_pump.errors import TykPumpError

SUMMARY: Final = (
    "-c/--conf FILE, --debug, --version, --demo ORG, --demo-api ID,"
    " --demo-api-version V, --demo-days N, --demo-records-per-hour N,"
    " --demo-track-path, --demo-future-data."
)


class UsageError(TykPumpError):
    """The words on the command line cannot be understood."""


class Flags(msgspec.Struct, kw_only=True):
    """What the flags say; the name of a field is the name of its flag."""

    conf: str = "pump.conf"
    demo_org: str = msgspec.field(default="", name="demo")
    demo_api: str = ""
    demo_api_version: str = ""
    demo_track_path: bool = False
    demo_days: int = 30
    demo_records_per_hour: int = 0
    demo_future_data: bool = False
    debug: bool = False
    version: bool = False
    help: bool = False

    def demo(self) -> DemoOptions:
        """Return what demo mode needs; without an organisation none is wanted."""
        return DemoOptions(
            org=self.demo_org,
            days=self.demo_days,
            records_per_hour=self.demo_records_per_hour,
            api=self.demo_api,
            api_version=self.demo_api_version,
            track_path=self.demo_track_path,
            future=self.demo_future_data,
        )


_FIELDS = {
    field.encode_name.replace("_", "-"): field
    for field in msgspec.structs.fields(Flags)
}
_SHORT = {"c": "conf", "h": "help"}
# Words that begin a number in Go and not in Python are left out: nobody writes them.
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\Z")


def parse(words: Sequence[str]) -> Flags:
    """Return what the words say; raises UsageError in the reference's words."""
    values: dict[str, Any] = {}
    left = list(words)
    while left:
        word = left.pop(0)
        if word == "--":
            if left:
                raise UsageError(f"unexpected {left[0]}")
        elif word.startswith("--"):
            _long(word[2:], left, values)
        elif word.startswith("-") and len(word) > 1:
            _short(word[1:], left, values)
        else:
            raise UsageError(f"unexpected {word}")
    return Flags(**values)


def _long(text: str, left: list[str], values: dict[str, Any]) -> None:
    name, equals, value = text.partition("=")
    known, on = "help" if name == "help-long" else name, True
    if known not in _FIELDS and name.startswith("no-"):
        known, on = name.removeprefix("no-"), False
    field = _FIELDS.get(known)
    if field is None or (not on and field.type is not bool):
        raise UsageError(f"unknown long flag '--{name}'")
    if equals:
        left.insert(0, value)
    _set(field, f"--{name}", on, left, values, attached=bool(equals))


def _short(text: str, left: list[str], values: dict[str, Any]) -> None:
    letter, rest = text[0], text[1:]
    if letter not in _SHORT:
        raise UsageError(f"unknown short flag '-{letter}'")
    field = _FIELDS[_SHORT[letter]]
    if rest:
        # What follows a letter is its value, or more letters.
        left.insert(0, f"-{rest}" if field.type is bool else rest)
    _set(field, f"-{letter}", True, left, values, attached=bool(rest))


def _set(
    field: Any,
    shown: str,
    on: bool,
    left: list[str],
    values: dict[str, Any],
    *,
    attached: bool,
) -> None:
    if field.name in values:
        raise UsageError(f"flag '{field.encode_name}' cannot be repeated")
    if field.type is bool:
        values[field.name] = on
        return
    if not left or (left[0].startswith("-") and len(left[0]) > 1 and not attached):
        raise UsageError(f"expected argument for flag '{shown}'")
    value = left.pop(0)
    values[field.name] = _number(value) if field.type is int else value


def _number(text: str) -> int:
    if not _NUMBER.match(text):
        raise UsageError(f'strconv.ParseFloat: parsing "{text}": invalid syntax')
    return int(float(text))
