"""First lines of the worker process: signals, log, lock, open the pump, say "ready"."""

from __future__ import annotations

import ctypes
import faulthandler
import fcntl
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec

from tyk_pump import channel, log, pumps
from tyk_pump.channel import CoordinatorGone, WorkerEnd
from tyk_pump.clock import Clock
from tyk_pump.config.root import PumpConfig, RootOptions
from tyk_pump.errors import ConfigError, TykPumpError
from tyk_pump.pumps.protocol import Keeper, Pump
from tyk_pump.worker import outcome
from tyk_pump.worker.loop import Worker

logger = logging.getLogger(__name__)

EXIT_CANNOT_OPEN = 3
PR_SET_PDEATHSIG = 1
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES = 32 * 1024 * 1024
"""As much as the allocator keeps by such a switch; several windows."""
MALLOC_VARIABLES = (
    *("GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"),
    *("MALLOC_TOP_PAD_", "MALLOC_MMAP_MAX_"),
)


class Assignment(msgspec.Struct, frozen=True):
    """Everything a worker is started with besides its channel; plain data."""

    pump: PumpConfig
    root: RootOptions
    lane: int
    parent: int
    """Process id of the coordinator."""
    state_dir: str
    log_format: str
    log_level: str
    again: bool
    """A worker of this pump has been started before, or another one beside this."""


def main(assignment: Assignment, end: WorkerEnd) -> None:
    """Run one worker until it is told to stop or its parent is gone."""
    _die_with(assignment.parent)
    keep_memory()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # A terminal sends SIGINT to the whole group, a service manager may do so
        # with SIGTERM: the parent decides, and tells us through the slot.
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    faulthandler.enable()
    log.setup(assignment.log_format, assignment.log_level, again=assignment.again)
    log.hide_secrets(
        [assignment.root, assignment.pump.options, assignment.pump.secrets]
    )
    threading.Thread(target=_beat, args=(end.slot,), daemon=True).start()
    name = assignment.pump.name
    try:
        lock = _lock(assignment, end)
        make: Any = pumps.load(assignment.pump.type)
        pump: Pump = make(assignment.pump.options)
        end.slot[channel.STAGE] = channel.IDLE
        if isinstance(pump, Keeper):
            pump.keep_in(_place(assignment, "pump"))
        pump.open()
    except TykPumpError as exc:
        permanent = isinstance(exc, ConfigError)
        end.answer(outcome.Failed(log.masked(str(exc)), permanent))
        sys.exit(EXIT_CANNOT_OPEN)
    except Exception as exc:
        logger.exception("pump cannot be opened", extra={"pump": name})
        reason = log.masked(f"{type(exc).__name__}: {exc}")
        end.answer(outcome.Failed(reason, False))
        sys.exit(EXIT_CANNOT_OPEN)
    try:
        worker = Worker(
            assignment.pump,
            assignment.root,
            pump,
            end,
            lane=assignment.lane,
            clock=Clock(),
            parent_alive=lambda: os.getppid() == assignment.parent,
        )
        end.answer(outcome.Ready())
        worker.run()
    except CoordinatorGone:
        # It has closed the pipe: what is not confirmed stays claimed.
        return
    except Exception:
        logger.exception("worker failed", extra={"pump": name})
        raise
    finally:
        pump.close()
        lock.close()
    end.answer(outcome.Stopped())


def _die_with(parent: int) -> None:
    """Have the kernel kill us when the coordinator dies, however it dies."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the request was in place
        os._exit(EXIT_CANNOT_OPEN)


def keep_memory() -> None:
    """Have the C library keep what a batch has freed: the next one needs as much.

    Else each batch gives its memory back to the system and gets new pages, which is a
    fifth of a worker's time. Whoever has set the allocator by the environment knows
    better. Other C libraries have no such switch.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt") and not any(map(os.environ.get, MALLOC_VARIABLES)):
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        libc.mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)


class _Lock:
    """Held for the life of a worker: two incarnations never write at once."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab")

    def try_acquire(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        self._file.close()


def _place(assignment: Assignment, what: str) -> Path:
    """Return a path in the state folder that is this worker's own."""
    name = f"{what}-{assignment.pump.name}-{assignment.lane}"
    return Path(assignment.state_dir) / name.replace("/", "_")


def _lock(assignment: Assignment, end: WorkerEnd) -> _Lock:
    lock = _Lock(_place(assignment, "worker").with_suffix(".lock"))
    while not lock.try_acquire():
        # The previous incarnation is about to be gone: it dies with its parent.
        if end.slot[channel.STOP] or os.getppid() != assignment.parent:
            os._exit(EXIT_CANNOT_OPEN)
        time.sleep(0.02)
    return lock


def _beat(slot: ctypes.Array[ctypes.c_double]) -> None:
    """Show once a second that this process runs and its interpreter is not stuck."""
    while True:
        slot[channel.BEAT] = time.monotonic()
        time.sleep(1.0)
