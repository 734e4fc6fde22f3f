"""One authority for all certificates of the tests."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import trustme
from cryptography.hazmat.primitives import serialization

from tests.servers import locked


class Authority:
    """A CA kept in a folder; workers that name the same folder share it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca_file = folder / "ca.pem"
        with self._locked():
            key_file = folder / "ca.key"
            if key_file.exists():
                self._ca = trustme.CA.from_pem(
                    self.ca_file.read_bytes(), key_file.read_bytes()
                )
            else:
                self._ca = trustme.CA()
                self.ca_file.write_bytes(self._ca.cert_pem.bytes())
                key_file.write_bytes(self._ca.private_key_pem.bytes())

    def server(self, *names: str) -> tuple[Path, Path]:
        """Return certificate and key of a server; for this machine, if none is named.

        The key is unencrypted PKCS 8, which every server here reads.
        """
        return self._issue("server", *(names or ("127.0.0.1", "localhost")))

    def client(self, name: str = "client") -> tuple[Path, Path]:
        """Return certificate and key of a client; the name is its common name too."""
        return self._issue("client", name, common_name=name)

    def _issue(
        self, use: str, *names: str, common_name: str | None = None
    ) -> tuple[Path, Path]:
        stem = "-".join((use, *names)).replace("*", "any").replace(os.sep, "_")
        chain, key = self.folder / f"{stem}.pem", self.folder / f"{stem}.key"
        with self._locked():
            if not key.exists():
                issued = self._ca.issue_cert(*names, common_name=common_name)
                blobs = issued.cert_chain_pems
                chain.write_bytes(b"".join(blob.bytes() for blob in blobs))
                key.write_bytes(_pkcs8(issued.private_key_pem.bytes()))
        return chain, key

    def _locked(self) -> contextlib.AbstractContextManager[None]:
        return locked(self.folder / ".lock")


def authority(folder: Path) -> Authority:
    """Return the authority of a folder, made when it is not there yet."""
    return Authority(folder)


def _pkcs8(pem: bytes) -> bytes:
    key = serialization.load_pem_private_key(pem, password=None)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
