"""A way to FerretDB on which commands take turns.

Its updates read a document, change it and replace it, with nothing to hold others off
meanwhile: of two clients that change one document, one may be forgotten. MongoDB does
each update in one step, and on this way FerretDB does, too.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import Self


class Turns:
    """Passes whole messages on, each when the one before has been answered."""

    def __init__(self, port: int) -> None:
        self._server = port
        self._turn = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, database: str = "tyk_analytics") -> str:
        """Return the address of a database."""
        return f"mongodb://127.0.0.1:{self.port}/{database}"

    def close(self) -> None:
        """Take no more connections."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        # The end of the listener is an error.
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._pass, args=(client,), daemon=True).start()

    def _pass(self, client: socket.socket) -> None:
        """Pass messages and answers on until one of both has gone."""
        with client, contextlib.suppress(OSError):
            address = ("127.0.0.1", self._server)
            with socket.create_connection(address) as server:
                while asked := _message(client):
                    # Who has asked may be dead by now: as to a server, that is all one.
                    with self._turn:
                        server.sendall(asked)
                        answered = _message(server)
                    if not answered:
                        return
                    client.sendall(answered)


def _message(connection: socket.socket) -> bytes:
    """Return the next message; nothing when the other end has gone."""
    head = _bytes(connection, 4)
    if len(head) < 4:
        return b""
    rest = struct.unpack("<i", head)[0] - 4
    body = _bytes(connection, rest)
    return head + body if len(body) == rest else b""


def _bytes(connection: socket.socket, size: int) -> bytes:
    found = bytearray()
    while len(found) < size and (part := connection.recv(size - len(found))):
        found += part
    return bytes(found)
