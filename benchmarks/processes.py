"""Processor time and peak memory of a process and all its descendants, from /proc."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

TICK = 1 / os.sysconf("SC_CLK_TCK")


@dataclass
class Usage:
    """What one process has used so far."""

    pid: int
    command: str
    cpu_seconds: float
    peak_kib: int


def descendants(root: int) -> list[int]:
    """Return a process and everything that it, and they, have started."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [root]
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def stat(pid: int) -> list[str]:
    """Return the fields of /proc/<pid>/stat after the name; none when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def usage(pid: int) -> Usage | None:
    """Return what a process has used, threads and ended children included."""
    fields = stat(pid)
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return None
    if not fields:
        return None
    peak = next(
        (int(line.split()[1]) for line in status.splitlines() if "VmHWM" in line), 0
    )
    # utime, stime, cutime, cstime
    ticks = sum(int(field) for field in fields[11:15])
    words = command.replace(b"\0", b" ").decode(errors="replace")
    return Usage(pid, words, ticks * TICK, peak)


def tree(root: int) -> list[Usage]:
    """Return what a process and its descendants have used."""
    found = (usage(pid) for pid in descendants(root))
    return [each for each in found if each is not None]


def cpu(root: int) -> float:
    """Return the processor seconds of a process and its descendants."""
    return sum(each.cpu_seconds for each in tree(root))
