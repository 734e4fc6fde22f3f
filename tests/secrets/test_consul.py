"""Consul: a real agent with an ACL, over plain HTTP and TLS."""

from __future__ import annotations

from typing import Any

import pytest

from tests.secrets.stores import faults_of, opened, refused
from tests.servers import free_port
from tests.servers.consul import TOKEN, Consul
from tests.servers.http import Answer, HttpServer, of
from tests.servers.tls import Authority

KIND = "hashicorp_consul"


def test_keys(consul: Consul) -> None:
    """A value is taken as it is."""
    consul.put("tyk/redis", b' {"password": "hunter2"}\n')
    consul.put("tyk/empty", b"")
    consul.put("tyk/binary", b"\xff")
    with opened(KIND, address=consul.address, token=TOKEN) as store:
        assert store.read("tyk/redis") == ' {"password": "hunter2"}\n'
        assert store.read("tyk/empty") == ""
        assert refused(store.read, "tyk/none") == "is not there"
        assert refused(store.read, "tyk/binary") == "is no UTF-8 text"


def test_tls(consul: Consul, authority: Authority) -> None:
    """Consul is believed by our authority, and believes our certificate."""
    consul.put("a", "hunter2")
    chain, key = authority.client("pump")
    tls = {
        "ca_file": str(authority.ca_file),
        "cert_file": str(chain),
        "key_file": str(key),
    }
    config = {
        "address": f"127.0.0.1:{consul.tls_port}",
        "scheme": "https",
        "token": TOKEN,
    }
    with opened(KIND, **config, tls_config=tls) as store:
        assert store.read("a") == "hunter2"
    with opened(KIND, **config, tls_config={**tls, "address": "localhost"}) as store:
        assert store.read("a") == "hunter2"
    with opened(KIND, **config, tls_config={**tls, "address": "other"}) as store:
        assert "certificate" in refused(store.read, "a", passing=True)
    with opened(KIND, **config, tls_config={"ca_file": tls["ca_file"]}) as store:
        assert "certificate" in refused(store.read, "a", passing=True).lower()
    free = {**tls, "ca_file": "", "insecure_skip_verify": True}
    with opened(KIND, **config, tls_config=free) as store:
        assert store.read("a") == "hunter2"


def test_nobody_without_the_token(
    consul: Consul, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The option counts, whatever variable stands in the process."""
    consul.put("a", "hunter2")
    with opened(KIND, address=consul.address) as store:
        assert refused(store.read, "a") == "is refused: permission denied"
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "wrong")
    with opened(KIND, address=consul.address, token=TOKEN) as store:
        assert store.read("a") == "hunter2"


def test_the_variables_of_consuls_own_programs(consul: Consul) -> None:
    """Address and token may come from them."""
    consul.put("a", "hunter2")
    environ = {
        "CONSUL_HTTP_ADDR": f"http://{consul.address}",
        "CONSUL_HTTP_TOKEN": TOKEN,
    }
    with opened(KIND, environ) as store:
        assert store.read("a") == "hunter2"


def test_another_datacenter(consul: Consul) -> None:
    """One that there is not is the agent's to say."""
    with opened(KIND, address=consul.address, token=TOKEN, datacenter="dc9") as store:
        assert "No path to datacenter" in refused(store.read, "a", passing=True)
    consul.put("a", "hunter2")
    with opened(KIND, address=consul.address, token=TOKEN, datacenter="dc1") as store:
        assert store.read("a") == "hunter2"


def test_log_in_at_a_proxy() -> None:
    """Basic authentication goes along."""
    found = of([{"Value": "aHVudGVyMg=="}], headers={"X-Consul-Index": "1"})
    login = {"username": "u", "password": "p"}
    with HttpServer(lambda request: found) as server:
        address = server.url.removeprefix("http://")
        with opened(KIND, address=address, http_auth=login, wait_time="1m") as store:
            assert store.read("a") == "hunter2"
        assert server.requests[0].headers["authorization"] == "Basic dTpw"
        assert server.requests[0].target == "/v1/kv/a"


@pytest.mark.parametrize(
    ("answer", "passing", "reason"),
    [
        (Answer(500, b"No cluster leader"), True, "cannot be had now: 500 No cluster"),
        (Answer(400, b"bad"), False, "is refused: 400 bad"),
        (Answer(429, b"rate"), True, "is refused: 429 rate"),
        (Answer(hang_up=True), True, "no answer: "),
        (Answer(200, b"<html>"), True, "the answer is not Consul's"),
    ],
)
def test_answers(answer: Answer, passing: bool, reason: str) -> None:
    """What may pass is told from what may not."""
    with (
        HttpServer(lambda request: answer) as server,
        opened(KIND, address=server.url) as store,
    ):
        assert refused(store.read, "a", passing=passing).startswith(reason)


def test_no_consul() -> None:
    """Nobody listens."""
    with opened(KIND, address=f"127.0.0.1:{free_port()}", token="hunter2") as store:
        assert "refused" in refused(store.read, "a", passing=True)


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({"scheme": "ftp"}, "c.scheme: 'ftp' is not one of http, https"),
        ({"address": "ftp://x"}, "c.address: "),
        ({"address": "x:port"}, "c.address: "),
        ({"tls_config": {"cert_file": "x"}}, "c.tls_config: cert_file and key_file"),
        ({"tls_config": {"certfile": "x"}}, "c.tls_config.certfile: unknown option"),
        ({"http_auth": {"user": "x"}}, "c.http_auth.user: unknown option"),
    ],
)
def test_options(config: dict[str, Any], fault: str) -> None:
    """What is wrong is told before anybody is asked."""
    assert faults_of(KIND, **config)[0].startswith(fault)
