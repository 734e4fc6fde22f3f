"""Waiting at the start for a disk that is full, read-only or sick.

To end and be started again would be the same with more noise; and a start that is
refused for good (a newer file, a folder in use) must be told from one that is not.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Final, TypeVar

import tyk_pump
from tyk_pump import backoff
from tyk_pump.admin.http import AdminServer
from tyk_pump.clock import Clock
from tyk_pump.config.root import RootOptions
from tyk_pump.coordinator import notify
from tyk_pump.coordinator.snapshot import Snapshot
from tyk_pump.errors import StateError

logger = logging.getLogger(__name__)

LONGEST_PAUSE: Final = 10.0
_ERRNOS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})
_CODES: Final = frozenset(
    {sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR}
)

Opened = TypeVar("Opened")


def wait_for_room(
    action: Callable[[], Opened], place: Path, root: RootOptions, clock: Clock
) -> Opened:
    """Return what an action returns, as soon as the disk allows it.

    Meanwhile /health answers, /ready says why not, and SIGTERM ends the process.
    """
    try:
        return action()
    except (OSError, StateError) as exc:
        if not is_passing(exc, place):
            raise
        first = exc
    logger.error(
        "the state folder cannot be used yet: nothing is claimed, waiting for the disk",
        extra={"prefix": "main", "path": str(place), "reason": str(first)},
    )
    shown = Snapshot(
        version=tyk_pump.__version__, instance="", started=clock.now(), ready=False
    )
    shown.pid = os.getpid()
    old = {number: signal.signal(number, _leave) for number in _ENDS}
    # The configuration has just been read; to be killed by a reload would be absurd.
    old[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    admin = AdminServer(lambda: shown, root)
    admin.start()
    try:
        reason, attempt = str(first), 1
        while True:
            shown.reasons = [f"the state folder cannot be used: {reason}"]
            notify.status(shown.reasons[0])
            clock.sleep(backoff.delay(attempt, initial=0.5, ceiling=LONGEST_PAUSE))
            try:
                found = action()
            except (OSError, StateError) as exc:
                if not is_passing(exc, place):
                    raise
                reason, attempt = str(exc), attempt + 1
            else:
                notify.status("")
                logger.info("the state folder can be used", extra={"prefix": "main"})
                return found
    finally:
        admin.close()
        for number, handler in old.items():
            signal.signal(number, handler)


_ENDS: Final = (signal.SIGTERM, signal.SIGINT)


def _leave(number: int, frame: FrameType | None) -> None:
    """End at once, in order: nothing is in hand, and process 1 knows no default."""
    sys.exit(0)


def is_passing(exc: BaseException, place: Path) -> bool:
    """Say whether it is the disk's trouble, which may pass, and not the folder's."""
    for one in _causes(exc):
        if isinstance(one, OSError) and one.errno in _ERRNOS:
            return True
        if isinstance(one, sqlite3.Error):
            code = getattr(one, "sqlite_errorcode", 0) & 0xFF
            # SQLite does not say why it could not make the files beside its own.
            if code in _CODES or (code == sqlite3.SQLITE_CANTOPEN and _no_room(place)):
                return True
    return False


def _causes(exc: BaseException | None) -> Iterator[BaseException]:
    while exc is not None:
        yield exc
        exc = exc.__cause__


def _no_room(place: Path) -> bool:
    try:
        found = os.statvfs(place)
    except OSError:
        return False
    full = not found.f_bavail or (found.f_files and not found.f_favail)
    return bool(full or found.f_flag & os.ST_RDONLY)
