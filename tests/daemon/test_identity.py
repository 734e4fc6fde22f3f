"""The command behind a Redis that takes a cloud's tokens, over TLS as clouds demand."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.daemon.harness import (
    Daemon,
    assert_exactly_once,
    push,
    settled,
    wait_for,
)
from tests.servers import free_port
from tests.servers.google import Google
from tests.servers.redis import RedisServer
from tests.servers.tls import Authority


def test_tokens_come_and_go(
    tmp_path: Path, make_redis: Callable[..., RedisServer], authority: Authority
) -> None:
    """No record is lost or doubled by it, and no token stands in the log."""
    chain, key = authority.server()
    tls_port = free_port()
    server = make_redis(
        tls_port=str(tls_port),
        tls_cert_file=str(chain),
        tls_key_file=str(key),
        tls_ca_cert_file=str(authority.ca_file),
        tls_auth_clients="no",
    )
    admin: Any = server.client()
    with Google() as cloud, contextlib.closing(admin):
        admin.execute_command("ACL", "SETUSER", "admin", "on", ">admin", "~*", "+@all")
        admin.execute_command("AUTH", "admin", "admin")
        tokens = [f"ya29.token-number-{number}" for number in range(3)]
        names = [f"n{number}" for number in range(300)]
        _take(admin, cloud, tokens[0])
        iam = {
            "enabled": True,
            "provider": "gcp",
            "token_refresh_before_expiry": "1h",
        }
        storage: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": tls_port,
            "use_ssl": True,
            "ssl_ca_file": str(authority.ca_file),
            "iam_auth": iam,
        }
        out = tmp_path / "csv"
        key_file = cloud.write_key(tmp_path)
        cloud.seconds = 1
        with Daemon(
            tmp_path / "pump",
            server.port,
            {"csv": {"type": "csv", "meta": {"csv_dir": str(out)}}},
            analytics_storage_config=storage,
            environment={"GOOGLE_APPLICATION_CREDENTIALS": str(key_file)},
        ) as daemon:
            daemon.start("--debug").wait_ready()
            for number, token in enumerate(tokens):
                _take(admin, cloud, token)
                push(admin, names[number * 100 : number * 100 + 100])
                admin.execute_command("CLIENT", "KILL", "USER", "default")
                wait_for("all settled", lambda: settled(admin))
            assert daemon.stop() == 0
            log = daemon.log.read_text()
    assert_exactly_once(out, names)
    assert "ya29" not in log
    assert "identity" not in log, "no fault was logged"


def _take(admin: Any, cloud: Google, token: str) -> None:
    """Make this token the one that the cloud gives and Redis takes."""
    cloud.token = token
    admin.execute_command("ACL", "SETUSER", "default", "resetpass", f">{token}")
