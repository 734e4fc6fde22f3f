"""Google's Secret Manager: its own client before an imitation over TLS."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.secrets.stores import faults_of, opened, refused
from tests.servers import free_port
from tests.servers.http import Answer, HttpServer, Request, of
from tests.servers.tls import Authority
from tyk_pump.errors import ConfigError

KIND = "gcp_secret_manager"
SECRETS = {
    "projects/p/secrets/a/versions/latest": b"new\n",
    "projects/p/secrets/a/versions/1": b"old",
    "projects/p/secrets/binary/versions/latest": b"\xff",
    "projects/p/locations/eu/secrets/a/versions/latest": b"regional",
}


class Google:
    """Gives out tokens, and secrets to who has one or signs one with the key."""

    def __init__(self, key: str) -> None:
        self.broken: Answer | None = None
        private = serialization.load_pem_private_key(key.encode(), None)
        assert isinstance(private, rsa.RSAPrivateKey)
        self._key = private.public_key()

    def respond(self, request: Request) -> Answer:
        """Answer as Google documents it."""
        if request.path == "/token":
            kind = "urn:ietf:params:oauth:token-type:access_token"
            given = {"access_token": "t0k3n", "issued_token_type": kind}
            return of({**given, "token_type": "Bearer", "expires_in": 3600})
        if self.broken is not None:
            return self.broken
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token != "t0k3n" and not self._signed(token):
            return of({"error": {"code": 401, "message": "no"}}, 401)
        path = request.path.removeprefix("/v1/")
        name, _, verb = path.partition(":")
        if verb != "access" or name not in SECRETS:
            error = {"code": 404, "message": f"Secret {name} not found", "status": "N"}
            return of({"error": error}, 404)
        data = base64.b64encode(SECRETS[name]).decode()
        return of({"name": name, "payload": {"data": data}})

    def _signed(self, token: str) -> bool:
        """Tell whether a service account has signed this token for itself."""
        signed, _, signature = token.rpartition(".")
        try:
            self._key.verify(
                base64.urlsafe_b64decode(signature + "=="),
                signed.encode(),
                padding.PKCS1v15(),
                hashes.SHA256(),
            )
        except (InvalidSignature, ValueError):
            return False
        claims = json.loads(base64.urlsafe_b64decode(signed.split(".")[1] + "=="))
        return str(claims["iss"]) == "pump@p.iam.gserviceaccount.com"


@pytest.fixture
def google(key: str) -> Google:
    """What the imitation does."""
    return Google(key)


@pytest.fixture
def server(
    google: Google, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> Iterator[HttpServer]:
    """The imitation, believed by Google's client."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.ca_file))
    with HttpServer(google.respond, authority=authority) as server:
        yield server


@pytest.fixture(scope="module")
def key() -> str:
    """A service account's private key."""
    made = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return made.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


@pytest.fixture
def account(key: str, server: HttpServer) -> dict[str, str]:
    """A service account whose tokens the imitation gives out."""
    return {
        "type": "service_account",
        "project_id": "p",
        "private_key_id": "k",
        "private_key": key,
        "client_email": "pump@p.iam.gserviceaccount.com",
        "client_id": "1",
        "token_uri": f"{server.url}/token",
    }


@pytest.fixture
def how(account: dict[str, str], server: HttpServer) -> dict[str, Any]:
    """The configuration of a store on the imitation."""
    return {
        "project_id": "p",
        "endpoint": server.url.removeprefix("https://"),
        "credentials_json": json.dumps(account),
    }


def test_secrets(how: dict[str, Any]) -> None:
    """The latest version, or the one that the path names."""
    with opened(KIND, **how) as store:
        assert store.read("a") == "new\n"
        assert store.read("a/1") == "old"
        assert store.read("a/versions/1") == "old"
        assert refused(store.read, "none") == "is not there"
        assert refused(store.read, "binary") == "is no UTF-8 text"
    with opened(KIND, **how, trim_trailing_newline=True) as store:
        assert store.read("a") == "new"
    with opened(KIND, **how, location="eu") as store:
        assert store.read("a") == "regional"


def test_credentials_in_a_file(
    how: dict[str, Any], tmp_path: Path, server: HttpServer
) -> None:
    """They may stand in a file; the quota's project goes along."""
    path = tmp_path / "account.json"
    path.write_text(how.pop("credentials_json"))
    kind = {"credentials_type": "service_account", "quota_project_id": "q"}
    with opened(KIND, **how, credentials_file=str(path), **kind) as store:
        assert store.read("a") == "new\n"
    assert server.requests[-1].headers["x-goog-user-project"] == "q"


def test_credentials_of_the_machine(
    how: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any in the options those of the environment are taken."""
    path = tmp_path / "account.json"
    path.write_text(how.pop("credentials_json"))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    with opened(KIND, **how) as store:
        assert store.read("a") == "new\n"


def test_another_account_is_acted_as(
    how: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its token is asked for with the first one's; the address is Google's own."""
    from google.auth import impersonated_credentials

    asked: list[tuple[Any, ...]] = []

    def refresh(self: Any, request: Any) -> None:
        asked.append((self._target_principal, self._delegates))
        self.token = "t0k3n"

    kind = impersonated_credentials.Credentials
    monkeypatch.setattr(kind, "_refresh_token", refresh, raising=False)
    monkeypatch.setattr(kind, "_perform_refresh_token", refresh, raising=False)
    who = {"impersonate_service_account": "b@p", "impersonate_delegates": ["c@p"]}
    with opened(KIND, **how, **who) as store:
        assert store.read("a") == "new\n"
    assert asked == [("b@p", ["c@p"])]


@pytest.mark.parametrize(
    ("answer", "passing", "reason"),
    [
        (of({"error": {"message": "no right"}}, 403), False, "is refused: no right"),
        (of({"error": {"message": "quota"}}, 429), True, "is refused: quota"),
        (of({"error": {"message": "away"}}, 503), True, "cannot be had now: away"),
        (Answer(hang_up=True), True, "no answer: "),
    ],
)
def test_answers(
    how: dict[str, Any], google: Google, answer: Answer, passing: bool, reason: str
) -> None:
    """What may pass is told from what may not."""
    google.broken = answer
    with opened(KIND, **how) as store:
        told = refused(store.read, "a", passing=passing)
    assert told.startswith(reason)


def test_a_federated_identity(
    how: dict[str, Any], tmp_path: Path, server: HttpServer
) -> None:
    """A token of somebody else is changed for one of Google's, if it can be reached."""
    (tmp_path / "theirs").write_text("f3d3rat3d")
    who = {
        "type": "external_account",
        "audience": "//iam.googleapis.com/projects/1/x",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": f"{server.url}/token",
        "credential_source": {"file": str(tmp_path / "theirs")},
    }
    how["credentials_json"] = json.dumps(who)
    with opened(KIND, **how, credentials_type="external_account") as store:
        assert store.read("a") == "new\n"
    assert b"subject_token=f3d3rat3d" in server.requests[0].body
    who["token_url"] = f"https://127.0.0.1:{free_port()}/token"
    how["credentials_json"] = json.dumps(who)
    with opened(KIND, **how) as store:
        assert "f3d3rat3d" not in refused(store.read, "a", passing=True)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("hunter2", "credentials_json: is no JSON"),
        ('{"type": "authorized_user"}', "credentials_json: is not of the type"),
    ],
)
def test_bad_credentials(text: str, fault: str) -> None:
    """They are told when the store is opened, without their words."""
    config = {"project_id": "p", "credentials_type": "service_account"}
    with (
        pytest.raises(ConfigError, match=fault) as caught,
        opened(KIND, **config, credentials_json=text),
    ):
        pass
    assert "hunter2" not in str(caught.value)
    with (
        pytest.raises(ConfigError, match="credentials_file: /none: No such file"),
        opened(KIND, **config, credentials_file="/none"),
    ):
        pass


def test_the_grpc_transport(how: dict[str, Any]) -> None:
    """It is there for who wants it; it knows nothing of our authority."""
    with opened(KIND, **how, transport="grpc", timeout=2) as store:
        refused(store.read, "a", passing=True)


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({"project_id": ""}, "c.project_id: missing"),
        (
            {"project_id": "p", "credentials_file": "x", "credentials_json": "y"},
            "c.credentials_json: cannot stand beside",
        ),
        (
            {"project_id": "p", "impersonate_delegates": ["x"]},
            "c.impersonate_delegates: needs",
        ),
        ({"project_id": "p", "transport": "soap"}, "c.transport: 'soap' is not one"),
        ({"project_id": "p", "credentials_type": "x"}, "c.credentials_type: 'x' is"),
    ],
)
def test_options(config: dict[str, Any], fault: str) -> None:
    """What is wrong is told before anybody is asked."""
    assert faults_of(KIND, **config)[0].startswith(fault)
