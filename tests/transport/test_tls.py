"""TLS of a pump: whom it believes, who it says it is, and what is wrong with files."""

from __future__ import annotations

import ssl
from pathlib import Path

import msgspec
import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from tests.servers.http import HttpServer
from tests.servers.tls import Authority
from tyk_pump.config.options import HttpOptions
from tyk_pump.errors import ConfigError, TransientError
from tyk_pump.transport import tls
from tyk_pump.transport.http import HttpClient


def get(server: HttpServer, **options: object) -> int:
    """Return the status of an answer."""
    client = HttpClient(HttpOptions(**options))  # type: ignore[arg-type]
    try:
        return client.get(server.url).status
    finally:
        client.close()


def test_own_authorities_stand_in_place_of_the_systems(
    authority: Authority, tmp_path: Path
) -> None:
    """Without them ours is unknown, with them it is the only one."""
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    with HttpServer(authority=authority) as server:
        assert get(server, ssl_ca_file=str(authority.ca_file)) == 200
        for options in ({}, {"ssl_ca_file": str(other)}):
            with pytest.raises(TransientError, match="certificate verify failed"):
                get(server, **options)
    context = tls.context(HttpOptions(ssl_ca_file=str(authority.ca_file)))
    assert context.cert_store_stats()["x509_ca"] == 1


def test_a_certificate_that_is_demanded(authority: Authority) -> None:
    """It is shown, and a connection without one is a reason of a line."""
    cert, key = authority.client("tyk")
    own = {"ssl_cert_file": str(cert), "ssl_key_file": str(key)}
    ca = {"ssl_ca_file": str(authority.ca_file)}
    with HttpServer(authority=authority, demand_certificate=True) as server:
        assert get(server, **ca, **own) == 200
        peer = server.requests[0].peer
        assert peer is not None and "tyk" in str(peer["subject"])
        with pytest.raises(TransientError) as failed:
            get(server, **ca)
    assert "\n" not in failed.value.reason


def test_server_name_and_no_check(authority: Authority) -> None:
    """The name is looked for in the certificate, unless nothing is."""
    ca = {"ssl_ca_file": str(authority.ca_file)}
    with HttpServer(authority=authority) as server:
        assert get(server, **ca, ssl_server_name="localhost") == 200
        with pytest.raises(TransientError, match=r"elsewhere\.example"):
            get(server, **ca, ssl_server_name="elsewhere.example")
        assert get(server, ssl_insecure_skip_verify=True) == 200
        with pytest.raises(TransientError):  # the other client's affair only
            get(server)


def test_old_versions_are_not_spoken() -> None:
    """TLS 1.2 is the oldest."""
    oldest = tls.context(HttpOptions()).minimum_version
    assert oldest is ssl.TLSVersion.TLSv1_2


def test_files_that_are_none(authority: Authority, tmp_path: Path) -> None:
    """Each fault names the option and the file; a pass phrase is not asked for."""
    cert, key = map(str, authority.client())
    other_key = str(authority.server()[1])
    rubbish = tmp_path / "rubbish"
    rubbish.write_text("no PEM")
    locked = tmp_path / "locked.key"
    plain = serialization.load_pem_private_key(Path(key).read_bytes(), None)
    locked.write_bytes(
        plain.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"phrase"),
        )
    )
    for options, words in (
        ({"ssl_ca_file": "/nowhere"}, "ssl_ca_file: /nowhere: No such file"),
        ({"ssl_ca_file": str(rubbish)}, "ssl_ca_file: .* holds no PEM"),
        ({"ssl_cert_file": "/c", "ssl_key_file": key}, "ssl_cert_file: /c: No such"),
        ({"ssl_cert_file": cert, "ssl_key_file": "/k"}, "ssl_key_file: /k: No such"),
        ({"ssl_cert_file": str(rubbish), "ssl_key_file": key}, "are not a certif"),
        ({"ssl_cert_file": cert, "ssl_key_file": other_key}, "are not a certif"),
        ({"ssl_cert_file": cert, "ssl_key_file": str(locked)}, "are not a certif"),
    ):
        with pytest.raises(ConfigError, match=words):
            tls.context(msgspec.convert(options, HttpOptions))
