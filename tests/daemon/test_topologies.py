"""The command on a cluster, behind a sentinel, and with TLS and a user of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from tests.daemon.harness import (
    LIST,
    Daemon,
    assert_exactly_once,
    count_lines,
    csv_pump,
    push,
    record,
    wait_for,
)
from tests.servers import free_port
from tests.servers.redis import RedisServer
from tests.servers.sentinel import NAME, PASSWORD, SENTINEL_PASSWORD, watched
from tests.servers.tls import Authority
from tyk_pump.source.lists import acl_commands, acl_patterns

pytestmark = pytest.mark.timeout(180)


def test_the_shards_of_a_cluster(
    tmp_path: Path, redis_cluster: list[RedisServer]
) -> None:
    """Lists on every node of a cluster are claimed where they are."""
    out = tmp_path / "csv"
    gateway = redis.RedisCluster(host="127.0.0.1", port=redis_cluster[0].port)
    names: list[str] = []
    storage = {
        "addrs": [f"127.0.0.1:{server.port}" for server in redis_cluster],
        "enable_cluster": True,
    }
    with Daemon(
        tmp_path / "a", 0, {"csv": csv_pump(out)}, analytics_storage_config=storage
    ) as daemon:
        daemon.start().wait_ready()
        for shard in ("", *(f"_{number}" for number in range(10))):
            fresh = [f"c{shard}-{number}" for number in range(50)]
            gateway.rpush(LIST + shard, *[record(name) for name in fresh])
            names += fresh
        wait_for("all rows", lambda: count_lines(out) == len(names) + 1)
        assert daemon.stop() == 0
    gateway.close()
    assert_exactly_once(out, names)


def test_a_sentinel_fails_over(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The master is killed, the replica promoted: the command goes on there."""
    out = tmp_path / "csv"
    with watched(tmp_path_factory.mktemp("sentinel")) as servers:
        storage = {
            "addrs": [f"127.0.0.1:{servers.sentinel.port}"],
            "master_name": NAME,
            "sentinel_password": SENTINEL_PASSWORD,
            "password": PASSWORD,
        }
        with Daemon(
            tmp_path / "a", 0, {"csv": csv_pump(out)}, analytics_storage_config=storage
        ) as daemon:
            daemon.start().wait_ready()
            before = [f"b{number}" for number in range(300)]
            push(servers.master.client(), before)
            wait_for("the first rows", lambda: count_lines(out) == 301)
            servers.fail_over()
            after = [f"a{number}" for number in range(300)]
            push(servers.replica.client(), after)
            wait_for("the other rows", lambda: count_lines(out) == 601)
            wait_for("readiness", daemon.ready)
            assert daemon.stop() == 0
    assert_exactly_once(out, [*before, *after])


def test_tls_and_a_user_for_the_prefix_only(
    tmp_path: Path, make_redis: Callable[..., RedisServer], authority: Authority
) -> None:
    """A user with just the keys and commands that `check` prints, over TLS."""
    cert, key = authority.server()
    patterns = " ".join(acl_patterns("analytics-"))
    acl = tmp_path / "users.acl"
    acl.write_text(
        f"user pump on >secret {patterns} {acl_commands()}\n"
        "user default on nopass ~* &* +@all\n"
    )
    tls_port = str(free_port())
    server = make_redis(
        tls_port=tls_port,
        tls_cert_file=str(cert),
        tls_key_file=str(key),
        tls_ca_cert_file=str(authority.ca_file),
        tls_auth_clients="no",
        tls_protocols="TLSv1.2",
        aclfile=str(acl),
    )
    out = tmp_path / "csv"
    storage = {
        "host": "127.0.0.1",
        "port": int(tls_port),
        "username": "pump",
        "password": "secret",
        "use_ssl": True,
        "ssl_ca_file": str(authority.ca_file),
        "ssl_min_version": "1.2",
        "ssl_max_version": "1.2",
    }
    with Daemon(
        tmp_path / "a", 0, {"csv": csv_pump(out)}, analytics_storage_config=storage
    ) as daemon:
        daemon.start().wait_ready()
        push(server.client(), ["a", "b", "c"])
        wait_for("rows", lambda: count_lines(out) == 4)
        assert daemon.stop() == 0
        checked = daemon.command("check")
        assert checked.returncode == 0, checked.stdout + checked.stderr
        server.client().config_set("tls-protocols", "TLSv1.3")
        refused = daemon.command("check")
        assert refused.returncode == 1, "ssl_max_version 1.2 keeps from speaking 1.3"
        assert "secret" not in daemon.tail() + checked.stdout + checked.stderr
    assert_exactly_once(out, ["a", "b", "c"])
    assert server.client().keys("*claim*") == []
