"""Each server of the tests does what the tests rely on."""

from __future__ import annotations

import socket
import ssl
import threading
from pathlib import Path

import pytest

from tests.servers.artefacts import Artefact
from tests.servers.prepare import prepare
from tests.servers.tls import Authority, authority


def test_authority(tmp_path: Path) -> None:
    """Server and client certificates of one authority verify each other."""
    mine = authority(tmp_path)
    chain, key = mine.server()
    accepting = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    accepting.load_cert_chain(chain, key)
    accepting.load_verify_locations(mine.ca_file)
    accepting.verify_mode = ssl.CERT_REQUIRED
    # A second worker with the same folder has the same authority.
    connecting = ssl.create_default_context(cafile=str(authority(tmp_path).ca_file))
    connecting.load_cert_chain(*Authority(tmp_path).client())
    ours, theirs = socket.socketpair()

    def serve() -> None:
        with accepting.wrap_socket(theirs, server_side=True) as end:
            end.sendall(b"hello")

    thread = threading.Thread(target=serve)
    thread.start()
    with connecting.wrap_socket(ours, server_hostname="127.0.0.1") as end:
        assert end.recv(5) == b"hello"
    thread.join()


def test_prepare(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A build that fails leaves nothing; the next one starts anew, once."""
    monkeypatch.setenv("TYK_PUMP_TEST_CACHE", str(tmp_path))
    builds: list[Path] = []

    def build(folder: Path) -> None:
        builds.append(folder)
        assert not list(folder.iterdir())
        (folder / "file").write_text("half")
        if len(builds) == 1:
            raise OSError("no network")

    artefact = Artefact("toy", "1", ("sh",), build, recipe="text")
    with pytest.raises(OSError, match="no network"):
        prepare(artefact)
    assert not artefact.folder.exists()
    prepare(artefact)
    prepare(artefact)
    assert len(builds) == 2
    assert (artefact.folder / "file").read_text() == "half"
