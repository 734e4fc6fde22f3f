"""Vault: the engines of OpenBao, and what stands before a real one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.secrets.stores import faults_of, opened, refused
from tests.servers import free_port
from tests.servers.http import Answer, HttpServer, Request, of
from tests.servers.tls import Authority
from tests.servers.vault import Vault

KIND = "hashicorp_vault"


def how(vault: Vault, **more: Any) -> dict[str, Any]:
    """Return the configuration of a store on this server."""
    return {
        "address": vault.url,
        "token": vault.token,
        "ssl_ca_file": str(vault.authority.ca_file),
        **more,
    }


def test_version_2(vault: Vault) -> None:
    """All fields of a secret, the newest version; the path begins with the mount."""
    vault.put("secret/tyk/redis", {"password": "old"})
    vault.put("secret/tyk/redis", {"password": "hunter2", "port": 6379})
    with opened(KIND, **how(vault)) as store:
        found = json.loads(store.read("secret/tyk/redis"))
        assert found == {"password": "hunter2", "port": 6379}
        assert refused(store.read, "secret/none") == "is not there"
        assert refused(store.read, "none/none") == "is not there"
        assert refused(store.read, "secret") == "names a mount and no secret in it"
        vault.ask("DELETE", "secret/data/tyk/redis")
        assert refused(store.read, "secret/tyk/redis") == "is not there"


def test_version_1(vault: Vault) -> None:
    """The older engine keeps no versions."""
    vault.ask("POST", "old/a/b", token="hunter2")
    with opened(KIND, **how(vault, kv_version=1)) as store:
        assert store.read("old/a/b") == '{"token":"hunter2"}'
        assert refused(store.read, "old/none") == "is not there"


def test_a_mount_of_several_parts(vault: Vault) -> None:
    """It has to be named; the path may repeat it."""
    vault.put("team/kv/a", {"x": "y"})
    with opened(KIND, **how(vault, mount_path="/team/kv/")) as store:
        assert store.read("team/kv/a") == '{"x":"y"}'
        assert store.read("a") == '{"x":"y"}'


def test_namespaces(vault: Vault) -> None:
    """The same path leads elsewhere in a namespace."""
    vault.ask("POST", "sys/namespaces/blue")
    mount = {"type": "kv", "options": {"version": "2"}}
    vault.ask("POST", "sys/mounts/secret", namespace="blue", **mount)
    vault.put("secret/a", {"in": "blue"}, namespace="blue")
    vault.put("secret/a", {"in": "root"})
    with opened(KIND, **how(vault, namespace="blue")) as store:
        assert store.read("secret/a") == '{"in":"blue"}'
    with opened(KIND, **how(vault)) as store:
        assert store.read("secret/a") == '{"in":"root"}'


def test_nobody_without_a_token(vault: Vault) -> None:
    """A wrong token is told as such; it is the operator's to mend."""
    vault.put("secret/a", {"x": "y"})
    with opened(KIND, **how(vault, token="hvs.wrong")) as store:
        assert refused(store.read, "secret/a") == "is refused: permission denied"


def test_the_variables_of_vaults_own_programs(vault: Vault) -> None:
    """Address, token and authority may come from them."""
    vault.put("secret/a", {"x": "y"})
    environ = {
        "VAULT_ADDR": vault.url,
        "VAULT_TOKEN": vault.token,
        "VAULT_CACERT": str(vault.authority.ca_file),
    }
    assert faults_of(KIND) == ["c.token: missing, here and in VAULT_TOKEN"]
    # What nobody has written is asked for, an address of ours is none.
    with opened(KIND, environ) as store:
        assert store.read("secret/a") == '{"x":"y"}'


def test_a_sealed_vault(vault: Vault) -> None:
    """It may be unsealed any moment."""
    vault.put("secret/a", {"x": "y"})
    vault.seal()
    with opened(KIND, **how(vault)) as store:
        reason = refused(store.read, "secret/a", passing=True)
        assert "sealed" in reason
        vault.unseal()
        assert store.read("secret/a") == '{"x":"y"}'


def test_a_vault_that_is_not_believed(vault: Vault) -> None:
    """A certificate of somebody else's authority lets nothing through."""
    with opened(KIND, **how(vault, ssl_ca_file="")) as store:
        assert "certificate" in refused(store.read, "secret/a", passing=True)
    with opened(KIND, **how(vault, ssl_ca_file="", ssl_insecure_skip_verify=True)) as s:
        assert refused(s.read, "secret/a") == "is not there"


def test_no_vault() -> None:
    """Nobody listens."""
    url = f"http://127.0.0.1:{free_port()}"
    with opened(KIND, address=url, token="hunter2", max_retries=0) as store:
        assert "refused" in refused(store.read, "secret/a", passing=True)


def test_an_agent_knows_the_token() -> None:
    """It is asked in Vault's place, and without a token if it needs none."""
    seen: list[Request] = []

    def respond(request: Request) -> Answer:
        seen.append(request)
        return of({"data": {"data": {"x": "y"}}})

    with (
        HttpServer(respond) as server,
        opened(KIND, address="http://127.0.0.1:1", agent_address=server.url) as store,
    ):
        assert store.read("secret/a") == '{"x":"y"}'
    assert seen[0].target == "/v1/secret/data/a"
    assert "x-vault-token" not in seen[0].headers


def test_a_standby_leads_on(authority: Authority) -> None:
    """It redirects to the active one."""

    def respond(request: Request) -> Answer:
        if request.path.startswith("/v1/"):
            return Answer(307, headers={"Location": f"{server.url}/active/v1/x"})
        return of({"data": {"data": {"x": "y"}}})

    with HttpServer(respond, authority=authority) as server:
        config = {"address": server.url, "ssl_ca_file": str(authority.ca_file)}
        with opened(KIND, token="t", **config) as store:
            assert store.read("secret/a") == '{"x":"y"}'


@pytest.mark.parametrize(("retries", "asked"), [(0, 1), (2, 3)])
def test_retries(retries: int, asked: int) -> None:
    """A failing server is asked again so often, and its last word told."""
    broken = of({"errors": ["internal error"]}, 500)
    with HttpServer(lambda request: broken) as server:
        config = {"address": server.url, "max_retries": retries}
        with opened(KIND, token="hunter2", **config) as store:
            reason = refused(store.read, "secret/a", passing=True)
        assert len(server.requests) == asked
    assert reason == "cannot be had now: internal error"


@pytest.mark.parametrize(
    ("answer", "passing", "reason"),
    [
        (of({"errors": ["bad namespace"]}, 400), False, "is refused: bad namespace"),
        (of({"errors": ["slow down"]}, 429), True, "cannot be had now: slow down"),
        (of({"errors": ["Vault is sealed"]}, 503), True, "cannot be had now: Vault is"),
        (of({"data": None}), False, "the answer is not Vault's"),
        (of({"data": {"data": ["hunter2"]}}), False, "the answer is not Vault's"),
        (Answer(200, b"<html>hunter2"), False, "the answer is not Vault's"),
        (Answer(hang_up=True), True, "no answer: "),
        (of({"data": {"data": {"a": "b" * 99}}}, cut=20), True, "no answer: "),
    ],
)
def test_answers(answer: Answer, passing: bool, reason: str) -> None:
    """What may pass is told from what may not; no content is told."""
    with (
        HttpServer(lambda request: answer) as server,
        opened(KIND, address=server.url, token="t", max_retries=0) as store,
    ):
        told = refused(store.read, "secret/a", passing=passing)
    assert told.startswith(reason)
    assert "hunter2" not in told


def test_client_certificates(authority: Authority) -> None:
    """Some Vaults believe nobody without one."""
    chain, key = authority.client("pump")
    answer = of({"data": {"data": {"x": "y"}}})
    with HttpServer(
        lambda request: answer, authority=authority, demand_certificate=True
    ) as server:
        config = {
            "address": server.url,
            "ssl_ca_file": str(authority.ca_file),
            "ssl_cert_file": str(chain),
            "ssl_key_file": str(key),
        }
        with opened(KIND, token="t", **config) as store:
            assert store.read("secret/a") == '{"x":"y"}'


def test_options() -> None:
    """What is wrong is told before anybody is asked."""
    token = {"token": "t"}
    assert faults_of(KIND, **token) == []
    assert "must begin with http" in faults_of(KIND, address="vault:8200", **token)[0]
    assert "ssl_key_file: missing" in faults_of(KIND, ssl_cert_file="x", **token)[0]
    assert "max_retries" in faults_of(KIND, max_retries=-1, **token)[0]
    assert "nearest is token" in faults_of(KIND, tokn="x", **token)[0]
