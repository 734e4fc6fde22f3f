"""Azure Key Vault: its own client before an imitation over TLS.

The vault answers as a name of the real domain, and challenges who comes without a
token; the authority stands on the same port, under the path of its tenant.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trustme

from tests.secrets.stores import faults_of, opened, refused
from tests.servers.http import Answer, HttpServer, Request, of
from tests.servers.tls import Authority
from tyk_pump.errors import ConfigError

KIND = "azure_key_vault"
TENANT = "7f1c1d5e-0000-4000-8000-000000000001"
HOSTS = ("unit.vault.azure.net", "login.tyk-pump.test")


class Azure:
    """The vault and who gives out its tokens."""

    def __init__(self) -> None:
        self.broken: Answer | None = None
        self.grants: list[str] = []
        self.url = ""

    def respond(self, request: Request) -> Answer:
        """Answer as Azure documents it."""
        if "openid-configuration" in request.path:
            base = f"{self.url}/{TENANT}"
            return of(
                {
                    "token_endpoint": f"{base}/oauth2/v2.0/token",
                    "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
                    "issuer": f"{base}/v2.0",
                }
            )
        if request.path.endswith("/oauth2/v2.0/token"):
            self.grants.append(request.body.decode())
            if "wrong" in request.body.decode():
                error = {"error": "invalid_client", "error_description": "AADSTS7000"}
                return of(error, 401)
            return of(
                {"access_token": "t0k3n", "expires_in": 3600, "token_type": "Bearer"}
            )
        return self.secret(request)

    def secret(self, request: Request) -> Answer:
        """Answer as the vault."""
        if request.headers.get("authorization") != "Bearer t0k3n":
            challenge = (
                f'Bearer authorization="{self.url}/{TENANT}", '
                f'resource="https://vault.azure.net:{urlsplit(self.url).port}"'
            )
            return of({}, 401, headers={"WWW-Authenticate": challenge})
        if self.broken is not None:
            return self.broken
        values = {"/secrets/a/": "new\n", "/secrets/a/v1": "old"}
        if request.path not in values:
            error = {"code": "SecretNotFound", "message": "none"}
            return of({"error": error}, 404)
        value = values[request.path]
        return of({"value": value, "id": f"https://{HOSTS[0]}{request.path}"})


@pytest.fixture
def azure() -> Azure:
    """What the imitation does."""
    return Azure()


@pytest.fixture
def server(
    azure: Azure, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> Iterator[HttpServer]:
    """The imitation under the names of the vault and the authority."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.ca_file))
    real = socket.getaddrinfo

    def here(host: Any, *rest: Any, **more: Any) -> Any:
        return real("127.0.0.1" if host in HOSTS else host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", here)
    with HttpServer(azure.respond, authority=_Named(authority)) as server:
        azure.url = f"https://{HOSTS[1]}:{server.port}"
        yield server


class _Named(Authority):
    """Certifies the names of the imitation."""

    def __init__(self, authority: Authority) -> None:
        super().__init__(authority.folder)

    def server(self, *names: str) -> tuple[Path, Path]:
        """Return certificate and key for all names."""
        return super().server(*(names or HOSTS))


@pytest.fixture
def how(azure: Azure, server: HttpServer) -> dict[str, Any]:
    """The configuration of a store on the imitation."""
    return {
        "vault_url": f"https://{HOSTS[0]}:{server.port}",
        "tenant_id": TENANT,
        "client_id": "c",
        "authority_host": azure.url,
    }


@pytest.fixture
def by_secret(how: dict[str, Any]) -> dict[str, Any]:
    """The same with a client's secret."""
    return {**how, "credential_type": "client_secret", "client_secret": "cl1ent"}


def test_secrets(by_secret: dict[str, Any], azure: Azure) -> None:
    """The current version, or the one that the path names; one log-in for all."""
    with opened(KIND, **by_secret) as store:
        assert store.read("a") == "new\n"
        assert store.read("a/v1") == "old"
        assert refused(store.read, "none") == "is not there"
    assert len(azure.grants) == 1
    assert "client_secret=cl1ent" in azure.grants[0]
    with opened(KIND, **by_secret, trim_trailing_newline=True) as store:
        assert store.read("a") == "new"


def test_a_workload_identity(how: dict[str, Any], azure: Azure, tmp_path: Path) -> None:
    """The token of the file is shown to the authority."""
    (tmp_path / "token").write_text("f3d3rat3d")
    config = {**how, "credential_type": "workload_identity"}
    with opened(KIND, **config, federated_token_file=str(tmp_path / "token")) as store:
        assert store.read("a") == "new\n"
    assert "client_assertion=f3d3rat3d" in azure.grants[0]


def test_variables_of_a_workload(
    how: dict[str, Any], azure: Azure, tmp_path: Path
) -> None:
    """A pod's variables say who it is."""
    (tmp_path / "token").write_text("f3d3rat3d")
    environ = {
        "AZURE_TENANT_ID": how.pop("tenant_id"),
        "AZURE_CLIENT_ID": how.pop("client_id"),
        "AZURE_FEDERATED_TOKEN_FILE": str(tmp_path / "token"),
        "AZURE_AUTHORITY_HOST": how.pop("authority_host"),
    }
    with opened(KIND, environ, **how, credential_type="workload_identity") as store:
        assert store.read("a") == "new\n"
    assert "client_id=c" in azure.grants[0]


def test_a_certificate(how: dict[str, Any], azure: Azure, tmp_path: Path) -> None:
    """The client signs with its key."""
    issued = trustme.CA().issue_cert("pump", key_type=trustme.KeyType.RSA)
    (tmp_path / "both.pem").write_bytes(issued.private_key_and_cert_chain_pem.bytes())
    config = {**how, "credential_type": "client_certificate"}
    file = {"client_certificate_file": str(tmp_path / "both.pem")}
    with opened(KIND, **config, **file) as store:
        assert store.read("a") == "new\n"
    assert "client_assertion_type=urn" in azure.grants[0]
    with (
        pytest.raises(ConfigError, match="client_certificate_file: /none: No such"),
        opened(KIND, **config, client_certificate_file="/none"),
    ):
        pass


def test_a_managed_identity(
    how: dict[str, Any], azure: Azure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine gives out its token; here as an App Service does it."""

    def respond(request: Request) -> Answer:
        assert request.headers["x-identity-header"] == "h3ad3r"
        assert request.query["client_id"] == "c"
        return of(
            {
                "access_token": "t0k3n",
                "expires_on": "4000000000",
                "resource": "https://vault.azure.net",
                "token_type": "Bearer",
            }
        )

    with HttpServer(respond) as machine:
        monkeypatch.setenv("IDENTITY_ENDPOINT", f"{machine.url}/token")
        monkeypatch.setenv("IDENTITY_HEADER", "h3ad3r")
        with opened(KIND, vault_url=how["vault_url"], client_id="c") as store:
            assert store.read("a") == "new\n"
    assert azure.grants == []


@pytest.mark.parametrize(
    ("answer", "passing"),
    [
        (of({"error": {"code": "Forbidden", "message": "no right"}}, 403), False),
        (of({"error": {"code": "Throttled", "message": "slow"}}, 429), True),
        (of({"error": {"code": "Broken", "message": "x"}}, 503), True),
        (Answer(hang_up=True), True),
    ],
)
def test_answers(
    by_secret: dict[str, Any],
    azure: Azure,
    answer: Answer,
    passing: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What may pass is told from what may not."""
    monkeypatch.setattr("azure.core.pipeline.transport.HttpTransport.sleep", _no_sleep)
    azure.broken = answer
    with opened(KIND, **by_secret) as store:
        told = refused(store.read, "a", passing=passing)
    assert "cl1ent" not in told


def _no_sleep(*_: object) -> None:
    """The client waits between its attempts."""


def test_a_wrong_secret(by_secret: dict[str, Any]) -> None:
    """The authority says so; its words have no secret."""
    by_secret["client_secret"] = "wrong-hunter2"
    with opened(KIND, **by_secret) as store:
        told = refused(store.read, "a")
    assert "AADSTS7000" in told
    assert "hunter2" not in told


def test_a_vault_of_somebody_else(
    by_secret: dict[str, Any], server: HttpServer, azure: Azure
) -> None:
    """A vault outside the domain of its challenge gets no token."""
    by_secret["vault_url"] = f"https://{HOSTS[1]}:{server.port}"
    with opened(KIND, **by_secret) as store:
        assert "does not match" in refused(store.read, "a")
    assert all("t0k3n" not in json.dumps(r.headers) for r in server.requests)


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({"vault_url": ""}, "c.vault_url: missing"),
        ({"vault_url": "x"}, "c.vault_url: "),
        ({"vault_url": "http://x"}, "c.vault_url: is no https address"),
        (
            {"vault_url": "https://x", "credential_type": "client_secret"},
            "c.tenant_id: missing for client_secret",
        ),
        (
            {"vault_url": "https://x", "credential_type": "password"},
            "c.credential_type: 'password' is not one of",
        ),
    ],
)
def test_options(config: dict[str, Any], fault: str) -> None:
    """What is wrong is told before anybody is asked."""
    assert faults_of(KIND, **config)[0].startswith(fault)
