"""Pack captured golden folders into tests/golden, one compressed archive for each.

    python scripts/pack_golden.py <captured folder> [name ...]

The captured folder holds one folder per pump (and `corpus`, `codec`, `daemon`) as
they were captured from the reference, release v1.16.0: facts to compare with, never
edited by hand. The same input always gives the same archive.
"""

from __future__ import annotations

import io
import lzma
import sys
import tarfile
from pathlib import Path

TARGET = Path(__file__).resolve().parent.parent / "tests" / "golden"
NAMES = (
    "corpus",
    "codec",
    "daemon",
    "csv",
    "stdout",
    "dummy",
    "preprocess",
    "graylog",
    "moesif",
    "syslog",
    "influx",
    "influx2",
    "elasticsearch",
    "resurface",
    "splunk",
    "logzio",
    "segment",
    "prometheus",
    "kafka",
    "kinesis",
    "sqs",
    "sql",
    "mongo",
    "mongo-pump-selective",
    "sql-graph",
    "sql-mcp",
    "mongo-pump-aggregate",
    "mongo-mcp-aggregate",
    "sql_aggregate",
    "sql-graph-aggregate",
    "sql-mcp-aggregate",
    "mongo-graph",
    "mongo-mcp",
    "sql-graph",
    "sql-mcp",
    "hybrid",
    "uptime-mongo",
    "uptime-sql",
    "statsd",
    "dogstatsd",
)
"""What is packed when no name is given: the parts that have tests."""


def pack(folder: Path) -> bytes:
    """Return the archive of one folder, without owners, modes and dates."""
    tape = io.BytesIO()
    with tarfile.open(fileobj=tape, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            name = path.relative_to(folder.parent).as_posix()
            data = path.read_bytes()
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return lzma.compress(tape.getvalue(), preset=6)


def main(arguments: list[str]) -> int:
    """Pack the named folders, or all that have tests."""
    if not arguments:
        print(__doc__, file=sys.stderr)
        return 2
    source = Path(arguments[0])
    for name in arguments[1:] or NAMES:
        if not (source / name).is_dir():
            print(f"{source / name}: no such folder", file=sys.stderr)
            return 1
        data = pack(source / name)
        (TARGET / f"{name}.tar.xz").write_bytes(data)
        print(f"{name}.tar.xz: {len(data)} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
