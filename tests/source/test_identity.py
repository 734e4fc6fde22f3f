"""Redis behind a cloud identity: tokens for passwords, renewed, refused, withheld."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.daemon.harness import wait_for
from tests.servers.google import Google
from tests.servers.http import Answer, of
from tests.servers.redis import RedisServer
from tests.servers.sentinel import NAME, SENTINEL_PASSWORD, watched
from tests.source.world import options
from tyk_pump.backoff import delay
from tyk_pump.config.load import load
from tyk_pump.config.options import Secret
from tyk_pump.config.root import IamAuthOptions
from tyk_pump.errors import ConfigError, SourceError
from tyk_pump.source import identity
from tyk_pump.source.identity import SCOPE, Identity, Token
from tyk_pump.source.redis import Link

ADMIN = {"username": "admin", "password": "admin"}
NO_PUMPS = "No pumps configured"
LOG = "tyk_pump.source.identity"


class World:
    """A Redis that takes the token of a cloud, and that cloud."""

    def __init__(self, server: RedisServer, cloud: Google) -> None:
        self.server = server
        self.cloud = cloud
        with contextlib.closing(server.client()) as client:
            make_admin(client)
        server.kwargs = ADMIN
        self.admin: Any = server.client()
        self.rotate(cloud.token)

    def rotate(self, token: str) -> None:
        """Have the cloud give out another token, and Redis take this one only."""
        self.cloud.token = token
        take_only(self.admin, token)

    def drop_connections(self) -> None:
        """Redis ends every connection of the identity, as clouds do after hours."""
        self.admin.execute_command("CLIENT", "KILL", "USER", "default")

    def link(self, **how: Any) -> contextlib.closing[Link]:
        """Return a link of the identity."""
        iam = {"enabled": True, "provider": "gcp", **how.pop("iam", {})}
        return contextlib.closing(Link(options(self.server, iam_auth=iam, **how)))


def make_admin(client: Any) -> None:
    """Make a user who may do all."""
    client.execute_command("ACL", "SETUSER", "admin", "on", ">admin", "~*", "+@all")


def take_only(admin: Any, token: str) -> None:
    """Make this token the one password of the default user."""
    admin.execute_command("ACL", "SETUSER", "default", "resetpass", f">{token}")


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Google]:
    """Google's endpoints, with an account that this process has the key of."""
    with Google() as found:
        path = found.write_key(tmp_path)
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
        yield found


@pytest.fixture
def world(make_redis: Callable[..., RedisServer], cloud: Google) -> Iterator[World]:
    """A single server."""
    made = World(make_redis(), cloud)
    yield made
    made.admin.close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens may be asked for again at once."""
    monkeypatch.setattr(identity, "SHORTEST_PAUSE", 0.0)
    monkeypatch.setattr(identity, "LONGEST_PAUSE", 0.0)
    monkeypatch.setattr("tyk_pump.backoff.delay", lambda *a, **k: 0.0)
    monkeypatch.setattr("google.auth._exponential_backoff.time.sleep", lambda s: None)


def until_served(link: Link) -> None:
    """Ask as the coordinator does: trouble may pass."""

    def served() -> bool:
        with contextlib.suppress(SourceError):
            return link.execute([("SET", "x", "1")])[0] in (b"OK", True)
        return False

    wait_for("an answer", served, 20)


def test_a_token_is_the_password(world: World) -> None:
    """One is fetched for all connections; username and password do not count."""
    with world.link(username="nobody", password=Secret("wrong")) as link:
        assert link.execute([("SET", "x", "1"), ("GET", "x")])[1] == b"1"
    assert world.cloud.scopes == [SCOPE]


def test_the_environment_says_the_same(world: World) -> None:
    """Each option has its variable, under each of the three prefixes."""
    config = load(
        None,
        {
            "TYK_PMP_ANALYTICSSTORAGECONFIG_IAMAUTH_ENABLED": "true",
            "TYK_PMP_REDIS_IAMAUTH_PROVIDER": " GCP ",
            "TYK_PMP_REDIS_IAMAUTH_SERVICEACCOUNT": "a@b",
            "TYK_PMP_TEMPORAL_STORAGE_IAMAUTH_TOKENREFRESHBEFOREEXPIRY": "2m",
        },
    )
    assert config.faults == [NO_PUMPS]
    assert config.root.analytics_storage_config.iam_auth == IamAuthOptions(
        enabled=True,
        provider=" GCP ",
        service_account="a@b",
        token_refresh_before_expiry=120,
    )


def test_a_service_account_is_impersonated(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The token is that one's, fetched with the ambient identity's."""
    place = f"{world.cloud.url}/v1/projects/-/serviceAccounts/{{}}:generateAccessToken"
    monkeypatch.setattr("google.auth.iam._IAM_ENDPOINT", place)
    take_only(world.admin, f"{world.cloud.token}-as-other@x")
    with world.link(iam={"service_account": "other@x"}) as link:
        assert link.execute([("LLEN", "x")]) == [0]
    (body,) = [r.json for r in world.cloud.requests if r.path != "/token"]
    assert body["scope"] == [SCOPE]


@pytest.mark.usefixtures("quick")
def test_a_new_token_opens_the_connections_anew(world: World) -> None:
    """Before the old one ends; a command in between is not disturbed."""
    with world.link(iam={"token_refresh_before_expiry": 3600}) as link:
        world.cloud.seconds = 1
        link.execute([("LLEN", "x")])
        before = link.execute([("CLIENT", "ID")])
        world.cloud.seconds = 3600
        world.rotate("ya29.second-token-of-the-account")
        wait_for(
            "another connection", lambda: link.execute([("CLIENT", "ID")]) != before
        )
        world.drop_connections()
        until_served(link)


@pytest.mark.usefixtures("quick")
def test_a_refused_token_is_replaced(world: World) -> None:
    """Redis knows it no longer although it has not ended: the cloud is asked again."""
    with world.link() as link:
        link.execute([("LLEN", "x")])
        world.rotate("ya29.second-token-of-the-account")
        assert link.execute([("LLEN", "x")]) == [0], "who is in stays in"
        world.drop_connections()
        with pytest.raises(SourceError):
            link.execute([("LLEN", "x")])
        until_served(link)
    assert len(world.cloud.requests) == 2


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "fault",
    [of({"error": "unauthorized_client"}, 401), Answer(503), Answer(hang_up=True)],
    ids=["refused", "down", "cut"],
)
def test_a_cloud_that_gives_nothing_is_trouble_that_may_pass(
    world: World, fault: Answer, caplog: pytest.LogCaptureFixture
) -> None:
    """SourceError, logged once when it begins and once when it ends."""
    world.cloud.fault = fault
    with world.link() as link:
        for _ in range(3):
            with pytest.raises(SourceError, match="no token of the identity: "):
                link.execute([("LLEN", "x")])
        world.cloud.fault = None
        with caplog.at_level(logging.INFO, LOG):
            until_served(link)
    messages = [r.getMessage() for r in caplog.records if r.name == LOG]
    assert messages == ["identity gets no token", "identity has a token again"]


def test_a_cloud_that_hangs_is_waited_for_as_redis_is(world: World) -> None:
    """The coordinator has a lease to keep; the answer still counts when it comes."""
    world.cloud.fault = Answer(delay=60)
    with world.link(timeout=0.05) as link, pytest.raises(SourceError, match="no answ"):
        link.execute([("LLEN", "x")])


@pytest.mark.usefixtures("quick")
def test_who_is_in_stays_in_while_the_cloud_is_away(world: World) -> None:
    """An ended token is no reason to close what Redis still serves."""
    with world.link(iam={"token_refresh_before_expiry": 3600}) as link:
        world.cloud.seconds = 1
        link.execute([("LLEN", "x")])
        world.cloud.fault = Answer(503)
        asked = len(world.cloud.requests)
        wait_for(
            "another request",
            lambda: link.execute([("LLEN", "x")]) and len(world.cloud.requests) > asked,
        )
        wait_for("its end", lambda: _ended(link))
        assert link.execute([("LLEN", "x")]) == [0]
        world.drop_connections()
        with pytest.raises(SourceError):
            link.execute([("LLEN", "x")])
        world.cloud.fault = None
        until_served(link)


def _ended(link: Link) -> bool:
    assert link._identity is not None
    with contextlib.suppress(redis.exceptions.ConnectionError):
        return not link._identity.get_credentials()
    return True


def test_the_same_token_again_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some clouds give a token out until shortly before its end."""
    fetched = threading.Event()
    monkeypatch.setattr(identity, "SHORTEST_PAUSE", 0.0)

    def fetch() -> Token:
        fetched.set()
        return Token("the-same-token", time.time() + 1000)

    made = Identity(fetch, before=2000, patience=10)
    assert not made.renewed()
    assert made.get_credentials() == ("default", "the-same-token")
    fetched.clear()
    assert not made.renewed() and not fetched.is_set(), "half of its time is ahead"
    made.refused()
    made.renewed()
    assert fetched.wait(10)
    wait_for("the end of the fetch", lambda: not made._fetching)
    assert not made.renewed()


def test_pauses_grow_while_there_is_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cloud is not asked again at once."""
    asked: list[int] = []

    def fetch() -> Token:
        asked.append(1)
        raise SourceError("away")

    attempts: list[int] = []

    def note(attempt: int, **how: Any) -> float:
        attempts.append(attempt)
        return delay(attempt, **how)

    monkeypatch.setattr("tyk_pump.backoff.delay", note)
    made = Identity(fetch, before=300, patience=10)
    made.renewed()
    wait_for("the end of the fetch", lambda: not made._fetching)
    for _ in range(5):
        made.renewed()
    assert len(asked) == 1 and attempts == [1]


def test_an_odd_answer_is_no_silence() -> None:
    """What the cloud's client stumbles over ends the attempt; the next one comes."""

    def fetch() -> Token:
        raise KeyError

    made = Identity(fetch, before=300, patience=10)
    made.renewed()
    wait_for("the end of the fetch", lambda: not made._fetching)
    with pytest.raises(redis.exceptions.ConnectionError, match="KeyError"):
        made.get_credentials()


def test_a_missing_client_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """For `check` and `start`, and for whoever comes another way."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    config = load(
        None,
        {
            "TYK_PMP_REDIS_IAMAUTH_ENABLED": "true",
            "TYK_PMP_REDIS_IAMAUTH_PROVIDER": "gcp",
        },
    )
    assert config.faults == [
        "analytics_storage_config.iam_auth.provider: gcp needs google-auth: "
        "install tyk-pump[gcp]",
        NO_PUMPS,
    ]

    def absent(name: str) -> None:
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr("importlib.import_module", absent)
    with pytest.raises(ConfigError, match=r"google.auth: install tyk-pump\[gcp\]"):
        identity.google("")


def test_no_identity_of_the_machine_is_said(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The key that the variable names is not there."""
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none"))
    with world.link() as link, pytest.raises(SourceError, match="none was not found"):
        link.execute([("LLEN", "x")])


def test_sentinels_keep_their_own_password(cloud: Google, tmp_path: Path) -> None:
    """The identity is for the servers behind them."""
    with watched(tmp_path / "set") as found:
        for server in (found.master, found.replica):
            client: Any = server.client()
            with contextlib.closing(client):
                take = f">{cloud.token}"
                client.execute_command("ACL", "SETUSER", "default", take)
        where = options(
            found.sentinel,
            master_name=NAME,
            sentinel_password=Secret(SENTINEL_PASSWORD),
            iam_auth={"enabled": True, "provider": "gcp"},
        )
        with contextlib.closing(Link(where)) as link:
            assert link.execute([("SET", "x", "1")])[0] in (b"OK", True)


@pytest.mark.usefixtures("quick")
def test_every_node_of_a_cluster_takes_the_token(
    cloud: Google, redis_cluster: list[RedisServer]
) -> None:
    """Each connection that the cluster's client makes, and after a new token too."""
    admins: list[Any] = [server.client() for server in redis_cluster]
    try:
        for admin in admins:
            take_only(admin, cloud.token)
        where = options(
            redis_cluster[0],
            enable_cluster=True,
            iam_auth={"enabled": True, "provider": "gcp"},
        )
        with contextlib.closing(Link(where)) as link:
            keys = [("SET", f"k{number}", "1") for number in range(30)]
            assert set(link.execute(keys)) <= {b"OK", True}
            cloud.token = "ya29.second-token-of-the-account"
            for admin in admins:
                take_only(admin, cloud.token)
                admin.execute_command(
                    "CLIENT", "KILL", "USER", "default", "SKIPME", "yes"
                )
            until_served(link)
            assert set(link.execute(keys)) <= {b"OK", True}
    finally:
        for admin in admins:
            admin.execute_command("ACL", "SETUSER", "default", "nopass")
            admin.close()
