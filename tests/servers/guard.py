"""Runs a server and ends it when a process is gone: guard.py PID COMMAND ...

It prints its own pid and goes into the background. SIGTERM it hands on, SIGUSR1 stands
for kill -9; it ends when the server has. Killed itself, it takes the server along.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys

PR_SET_PDEATHSIG = 1
PATIENCE = 10.0
"""Seconds a server has to end by itself when the tests are gone."""


def main(watched: int, command: list[str]) -> int:
    """Run the command until it ends or the watched process does."""
    try:
        gone = os.pidfd_open(watched)
    except ProcessLookupError:
        return 1
    if os.fork():
        # Without buffers and destructors: those are the child's now.
        os._exit(0)
    os.setsid()
    os.write(1, f"{os.getpid()}\n".encode())
    os.dup2(2, 1)
    libc = ctypes.CDLL(None)
    server = subprocess.Popen(
        command,
        preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL),
        process_group=0,
    )
    signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    signal.signal(signal.SIGUSR1, lambda *_: os.killpg(server.pid, signal.SIGKILL))
    ended = os.pidfd_open(server.pid)
    ready, _, _ = select.select([gone, ended], [], [])
    if ended not in ready:
        server.terminate()
        select.select([ended], [], [], PATIENCE)
        os.killpg(server.pid, signal.SIGKILL)
    return server.wait()


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
