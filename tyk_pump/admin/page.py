"""The status page: one document, complete in itself, that works without a network."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from typing import Final

from tyk_pump.coordinator.snapshot import PumpSnapshot, Snapshot
from tyk_pump.log import masked

POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline';"
    " connect-src 'self'"
)
_WIDTH, _HEIGHT = 120, 24
_STATES = {"running": "good", "failed": "bad", "paused": "bad", "stopped": "off"}


def render(now: Snapshot) -> str:
    """Return the page for a snapshot."""
    shell = resources.files("tyk_pump.admin").joinpath("page.html").read_text("utf-8")
    return shell.replace("{{title}}", escape(now.instance)).replace(
        "{{content}}", _content(now)
    )


def duration(seconds: float) -> str:
    """Return a time span as a person says it: `3.2 s`, `4 min`, `2 h 5 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = int(seconds // 60)
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def size(count: int) -> str:
    """Return a number of bytes as a person says it: `3.2 MiB`."""
    amount, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"


def redis_memory(now: Snapshot) -> str:
    """Return how full Redis is, and when it will be full, in a few words."""
    text = f"Redis uses {now.redis_used / 1e6:,.0f} MB"
    if now.redis_limit:
        text += f" of {now.redis_limit / 1e6:,.0f} MB"
    if now.redis_full_seconds >= 0:
        text += f", full in about {duration(now.redis_full_seconds)}"
    return text


def _content(now: Snapshot) -> str:
    state = "ready" if now.ready else "not ready"
    kind = "good" if now.ready else "bad"
    age = duration(max(0.0, time.time() - now.started))
    return (
        f'<header><h1>Tyk Pump</h1><span class="badge {kind}">{state}</span>'
        f"<span>{escape(now.instance)}</span><span>version {escape(now.version)}</span>"
        f"<span>up {age}</span><span>pid {now.pid}</span></header>"
        + _reasons(now.reasons)
        + _tiles(now)
        + _pumps(now.pumps)
        + _lists(now)
    )


def _reasons(reasons: Sequence[str]) -> str:
    if not reasons:
        return ""
    items = "".join(f"<li>{escape(masked(one))}</li>" for one in reasons)
    return f'<ul class="reasons">{items}</ul>'


def _tiles(now: Snapshot) -> str:
    tiles = [
        (
            "Redis",
            "answers" if not now.redis else "away",
            masked(now.redis) or redis_memory(now),
        ),
        ("In the gateway's lists", f"{sum(now.lists.values()):,}", "records"),
        ("Claimed, not settled", f"{now.claimed_records:,}", f"in {now.claims} claims"),
        (
            "On the disk, not settled",
            f"{now.journal_records:,}",
            f"frames take {size(now.journal_bytes)}",
        ),
        ("Claimed since the start", f"{now.claimed_total:,}", "records"),
        ("Lost", f"{now.lost_records:,}", "records"),
    ]
    cells = "".join(
        f"<div><b>{escape(value)}</b><span>{escape(label)}</span>"
        f"<small>{escape(note)}</small></div>"
        for label, value, note in tiles
    )
    return f'<section class="tiles">{cells}</section>'


def _pumps(pumps: Iterable[PumpSnapshot]) -> str:
    heads = "Pump,State,Last minute,Rate,Delivered,Filtered,Dead,Pending,Lag,Last error"
    head = "".join(f"<th>{name}</th>" for name in heads.split(","))
    rows = "".join(map(_pump, pumps))
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _pump(pump: PumpSnapshot) -> str:
    kind = _STATES.get(pump.state, "warn")
    dead = ' class="bad"' if pump.dead else ""
    return (
        f"<tr><td><b>{escape(pump.name)}</b> <small>{escape(pump.type)}</small></td>"
        f'<td><span class="badge {kind}">{escape(pump.state)}</span></td>'
        f"<td>{_sparkline(pump.history)}</td>"
        f"<td>{pump.rate:,.0f}/s</td><td>{pump.delivered:,}</td>"
        f"<td>{pump.filtered:,}</td><td{dead}>{pump.dead:,}</td>"
        f"<td>{pump.pending:,}</td>"
        f"<td>{duration(pump.lag_seconds) if pump.pending else '–'}</td>"
        f'<td class="error">{escape(masked(pump.last_error))}</td></tr>'
    )


def _sparkline(history: Sequence[int]) -> str:
    top = max(history, default=0)
    if len(history) < 2 or not top:
        points = f"0,{_HEIGHT - 1} {_WIDTH},{_HEIGHT - 1}"
    else:
        step = _WIDTH / (len(history) - 1)
        points = " ".join(
            f"{i * step:.1f},{(_HEIGHT - 1) - (_HEIGHT - 2) * count / top:.1f}"
            for i, count in enumerate(history)
        )
    return (
        f'<svg width="{_WIDTH}" height="{_HEIGHT}" role="img"'
        f' aria-label="records settled per second, at most {top:,}">'
        f'<polyline points="{points}"/></svg>'
    )


def _lists(now: Snapshot) -> str:
    filled = [(name, length) for name, length in sorted(now.lists.items()) if length]
    if not filled:
        return ""
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{length:,}</td></tr>"
        for name, length in filled
    )
    return (
        '<div class="wide"><table class="lists"><thead><tr><th>Redis list</th>'
        f"<th>Records</th></tr></thead><tbody>{rows}</tbody></table></div>"
    )
