"""What every thread of the coordinator is doing, for `enable_http_profiler`."""

from __future__ import annotations

import collections
import sys
import threading
import time
import traceback
from typing import Final

_INTERVAL: Final = 0.01


def index() -> str:
    """Return the page that leads to the profiles."""
    return (
        "<!doctype html><html><head><title>/debug/pprof/</title></head><body>"
        "<h1>/debug/pprof/</h1><ul>"
        '<li><a href="threads">threads</a>: the stack of every thread now</li>'
        '<li><a href="profile?seconds=10">profile</a>: stacks sampled for some'
        " seconds, one line each with its count, for flame graphs</li>"
        "</ul></body></html>"
    )


def threads() -> str:
    """Return the stack of every thread."""
    parts = []
    for number, frame in sys._current_frames().items():
        stack = "".join(traceback.format_stack(frame))
        parts.append(f"thread {_name(number)}\n{stack}")
    return "\n".join(parts)


def sample(seconds: float) -> str:
    """Look at all stacks again and again; return them collapsed, with counts."""
    own = threading.get_ident()
    counts: collections.Counter[str] = collections.Counter()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for number, frame in sys._current_frames().items():
            if number != own:
                stack = traceback.StackSummary.extract(
                    traceback.walk_stack(frame), lookup_lines=False
                )
                names = [f"{entry.filename}:{entry.name}" for entry in reversed(stack)]
                counts[";".join([_name(number), *names])] += 1
        time.sleep(_INTERVAL)
    return "".join(f"{stack} {count}\n" for stack, count in counts.most_common())


def _name(number: int) -> str:
    for thread in threading.enumerate():
        if thread.ident == number:
            return thread.name
    return str(number)
