"""What the reference's `--demo` flags ask for."""

from __future__ import annotations

import msgspec


class DemoOptions(msgspec.Struct, kw_only=True, frozen=True):
    """Made-up records to write straight to the configured pumps, then to exit."""

    org: str
    days: int = 30
    records_per_hour: int = 0
    """0 means a random number, 300 to 499."""
    api: str = ""
    api_version: str = ""
    track_path: bool = False
    future: bool = False
