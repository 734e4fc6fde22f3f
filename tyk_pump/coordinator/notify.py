"""Words to systemd: ready, still alive, stopping.

Each is one datagram to the socket that the environment names; without one nothing is
said. A word that cannot be sent is no reason to stop: systemd has time-outs of its own.
"""

from __future__ import annotations

import contextlib
import os
import socket


def ready() -> None:
    """Say that the first claim is done."""
    _send(f"READY=1\nMAINPID={os.getpid()}")


def watchdog() -> None:
    """Say that the loop still turns."""
    _send("WATCHDOG=1")


def status(text: str) -> None:
    """Say in one line how it goes; `systemctl status` shows it."""
    _send("STATUS=" + text.replace("\n", " "))


def stopping() -> None:
    """Say that we are about to leave."""
    _send("STOPPING=1")


def _send(message: str) -> None:
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
    ):
        sender.setblocking(False)
        sender.sendto(message.encode(), address)
