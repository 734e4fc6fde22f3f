"""Words to systemd arrive, and their absence harms nobody."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tyk_pump.coordinator import notify


def test_each_word_is_a_datagram(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As sd_notify(3) describes them."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        notify.ready()
        notify.watchdog()
        notify.status("two\nlines")
        notify.stopping()
        words = [manager.recv(1000).decode() for _ in range(4)]
    assert words == [
        f"READY=1\nMAINPID={os.getpid()}",
        "WATCHDOG=1",
        "STATUS=two lines",
        "STOPPING=1",
    ]


def test_abstract_sockets_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that begins with @ is not in the file system."""
    name = f"tyk-pump-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}")
        manager.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        notify.watchdog()
        assert manager.recv(1000) == b"WATCHDOG=1"


@pytest.mark.parametrize("address", ["", "relative", "/nobody/listens/here"])
def test_without_a_manager_nothing_happens(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """A missing or dead socket is no reason to stop."""
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify.ready()
