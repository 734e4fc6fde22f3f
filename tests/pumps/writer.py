"""A process that writes numbered rows until it is done or killed.

    python -m tests.pumps.writer <folder> <stream> <cursor> <records> <window>

It begins at position 0 each time, as after a lost answer, in windows of its own size.
"""

from __future__ import annotations

import sys

from tyk_pump.pumps.csv import CsvOptions, CsvPump
from tyk_pump.pumps.protocol import Batch
from tyk_pump.record.analytics import AnalyticsRecord


def record(stream: str, position: int) -> AnalyticsRecord:
    """Return a record that is known by its alias."""
    raw = "R0VUIC9w" * (position % 97)
    return AnalyticsRecord(alias=f"{stream}/{position}", raw_request=raw)


def batch(
    stream: str, positions: range, *, cursor: str = "CSV", lane: int = 0
) -> Batch:
    """Return a run of records."""
    records = [record(stream, position) for position in positions]
    return Batch(stream, lane, "list", positions, records, cursor=cursor)


def main(arguments: list[str]) -> None:
    """Write all records, window by window."""
    folder, stream, cursor, records, window = arguments[:5]
    pump = CsvPump(CsvOptions(csv_dir=folder, fsync=False))
    pump.open()
    size = int(window)
    print("open", flush=True)
    for first in range(0, int(records), size):
        end = min(first + size, int(records))
        pump.write(batch(stream, range(first, end), cursor=cursor))
    pump.close()


if __name__ == "__main__":
    main(sys.argv[1:])
