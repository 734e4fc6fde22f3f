"""AWS Secrets Manager, before moto and before answers of its kind."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.secrets.stores import faults_of, opened, refused
from tests.servers import free_port
from tests.servers.http import Answer, HttpServer, Request, of
from tests.servers.moto import REGION, Moto
from tyk_pump.errors import ConfigError

KIND = "aws_secrets_manager"
KEYS = {"access_key_id": "AKIAEXAMPLE", "secret_access_key": "sEcrEt/k3y"}


@pytest.fixture(autouse=True)
def _nobody_elses_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """The tests see no account of whoever runs them."""
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    yield


def how(server: Moto | HttpServer, **more: Any) -> dict[str, Any]:
    """Return the configuration of a store on this server."""
    return {"region": REGION, "endpoint": server.url, **KEYS, **more}


def test_secrets(moto: Moto) -> None:
    """By name and by ARN; texts and bytes; line ends as wanted."""
    client = moto.client("secretsmanager")
    arn = client.create_secret(Name="tyk/redis", SecretString="hunter2\n")["ARN"]
    client.create_secret(Name="bytes", SecretBinary=b"h\xc3\xa9")
    client.create_secret(Name="binary", SecretBinary=b"\xff")
    client.close()
    with opened(KIND, **how(moto)) as store:
        assert store.read("tyk/redis") == "hunter2\n"
        assert store.read(arn) == "hunter2\n"
        assert store.read("bytes") == "hé"
        assert refused(store.read, "binary") == "is no UTF-8 text"
        assert refused(store.read, "none") == "is not there"
    with opened(KIND, **how(moto, trim_trailing_newline=True)) as store:
        assert store.read("tyk/redis") == "hunter2"


def test_versions(moto: Moto) -> None:
    """The current one, one by its stage, one by its id."""
    client = moto.client("secretsmanager")
    first = client.create_secret(Name="a", SecretString="old")["VersionId"]
    client.put_secret_value(SecretId="a", SecretString="new")
    client.close()
    with opened(KIND, **how(moto)) as store:
        assert store.read("a") == "new"
    with opened(KIND, **how(moto, version_stage="AWSPREVIOUS")) as store:
        assert store.read("a") == "old"
    with opened(KIND, **how(moto, version_id=first)) as store:
        assert store.read("a") == "old"


def test_a_role(moto: Moto, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is taken on with the keys, and then it asks."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", moto.url)
    client = moto.client("secretsmanager")
    client.create_secret(Name="a", SecretString="hunter2")
    client.close()
    role = {
        "role_arn": "arn:aws:iam::123456789012:role/pump",
        "external_id": "42",
        "role_session_name": "reader",
    }
    with opened(KIND, **how(moto, **role)) as store:
        assert store.read("a") == "hunter2"
    seen: list[Request] = []

    def respond(request: Request) -> Answer:
        seen.append(request)
        return Answer(403, b"<ErrorResponse/>")

    with HttpServer(respond) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", server.url)
        with opened(KIND, **how(moto, **role)) as store:
            assert "no credentials" in refused(store.read, "a", passing=True)
    assert b"RoleSessionName=reader" in seen[0].body
    assert b"ExternalId=42" in seen[0].body


def test_profiles(moto: Moto, tmp_path: Path) -> None:
    """Credentials may stand in the shared files."""
    client = moto.client("secretsmanager")
    client.create_secret(Name="a", SecretString="hunter2")
    client.close()
    (tmp_path / "credentials").write_text(
        "[pump]\naws_access_key_id = AKIAPROFILE\naws_secret_access_key = x\n"
    )
    config = {"region": REGION, "endpoint": moto.url}
    with opened(KIND, **config, profile="pump") as store:
        assert store.read("a") == "hunter2"
    with opened(KIND, **config) as store:
        assert "no credentials" in refused(store.read, "a", passing=True)
    with (
        pytest.raises(ConfigError, match=r"^profile: "),
        opened(KIND, **config, profile="none"),
    ):
        pass


@pytest.mark.parametrize(
    ("answer", "passing", "reason"),
    [
        (of({"__type": "AccessDeniedException"}, 400), False, "AccessDenied"),
        (of({"__type": "ThrottlingException"}, 400), True, "Throttling"),
        (of({"__type": "InternalServiceError"}, 500), True, "InternalServiceError"),
        (of({"__type": "InvalidParameterException"}, 400), False, "InvalidParameter"),
        (of({"__type": "UnrecognizedClientException"}, 400), False, "Unrecognized"),
        (Answer(502, b"<html>"), True, "502"),
        (Answer(hang_up=True), True, ""),
    ],
)
def test_answers(answer: Answer, passing: bool, reason: str) -> None:
    """What may pass is told from what may not."""
    with (
        HttpServer(lambda request: answer) as server,
        opened(KIND, **how(server)) as store,
    ):
        told = refused(store.read, "a", passing=passing)
    assert reason in told
    assert KEYS["secret_access_key"] not in told


def test_who_asks_is_signed() -> None:
    """Key, region and service stand in the signature; the token goes along."""
    found = of({"SecretBinary": base64.b64encode(b"hunter2").decode()})
    with (
        HttpServer(lambda request: found) as server,
        opened(KIND, **how(server, session_token="t0k3n")) as store,
    ):
        assert store.read("a") == "hunter2"
        (request,) = server.requests
    assert "AKIAEXAMPLE" in request.headers["authorization"]
    assert f"/{REGION}/secretsmanager/" in request.headers["authorization"]
    assert request.headers["x-amz-security-token"] == "t0k3n"
    assert request.headers["x-amz-target"] == "secretsmanager.GetSecretValue"


def test_nobody_there() -> None:
    """Nobody listens."""
    url = f"http://127.0.0.1:{free_port()}"
    with opened(KIND, region=REGION, endpoint=url, **KEYS) as store:
        assert "refused" in refused(store.read, "a", passing=True)


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({}, "c.region: missing"),
        ({"region": ""}, "c.region: missing"),
        ({"region": "r", "access_key_id": "x"}, "c.access_key_id: comes together"),
        (
            {"region": "r", "version_id": "x", "version_stage": "y"},
            "c.version_id: cannot stand beside",
        ),
        ({"region": "r", "timeout": "10m1s"}, "c.timeout: expected float <= 600"),
    ],
)
def test_options(config: dict[str, Any], fault: str) -> None:
    """What is wrong is told before anybody is asked."""
    assert faults_of(KIND, **config)[0].startswith(fault)
