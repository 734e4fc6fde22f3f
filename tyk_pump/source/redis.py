"""Connections to Redis: single, sentinel or cluster; nothing is ever sent twice.

redis-py brings the connections (TLS, ACL, sentinel, topology). Commands are written to
them and read back here, because its own clients resend after a lost connection: a
RENAME that is resent after its answer was lost overwrites what the first one saved.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.connection import ConnectionPool, SSLConnection
from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    ExecAbortError,
    MasterDownError,
    MovedError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool

from tyk_pump.config.root import RedisOptions
from tyk_pump.errors import SourceError
from tyk_pump.source.identity import identity

Command = tuple[Any, ...]

_UNAVAILABLE = (
    AskError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    ReadOnlyError,
    TryAgainError,
)
_WRONG_NODE = (AskError, ClusterDownError, MovedError, ReadOnlyError, TryAgainError)


def length_of(reply: Any) -> int:
    """Return LLEN's answer; 0 where the name is a tombstone by now."""
    if isinstance(reply, ResponseError):
        if not wrong_type(reply):
            raise SourceError(f"Redis: {reply}") from reply
        return 0
    return int(reply)


def wrong_type(reply: Any) -> bool:
    """Say whether a command was refused because the key is no list any more."""
    return isinstance(reply, ResponseError) and str(reply).startswith("WRONGTYPE")


def out_of_memory(reply: Any) -> bool:
    """Say whether a reply is Redis' refusal to take more data."""
    if not isinstance(reply, ResponseError):
        return False
    text = str(reply).upper()
    return isinstance(reply, redis.exceptions.OutOfMemoryError) or "OOM" in text


class _Limited:
    """A TLS connection with a context of our making."""

    context: ssl.SSLContext
    host: str

    def _wrap_socket_with_ssl(self, sock: socket.socket) -> ssl.SSLSocket:
        return self.context.wrap_socket(sock, server_hostname=self.host)


class Link:
    """One user's way to Redis; for one thread."""

    def __init__(self, options: RedisOptions) -> None:
        self._options = options
        self._identity = identity(options.iam_auth, options.timeout_seconds())
        self._cluster: RedisCluster | None = None
        self._pool: ConnectionPool | None = None

    # Commands

    def execute(
        self, commands: Sequence[Command], *, atomic: bool = False
    ) -> list[Any]:
        """Send the commands in one round trip per node, return their replies in order.

        A command is its name, its key and its arguments. Error replies stand in their
        places; what keeps Redis from serving us raises SourceError, and then nothing
        may be assumed about any of the commands. `atomic` wraps them into one
        MULTI/EXEC: all keys in one slot.
        """
        if not commands:
            return []
        with self._translated():
            parts = self._route(commands)
            if len(parts) == 1:
                pool, indexes = parts[0]
                return self._checked(
                    self._exchange([(pool, [commands[i] for i in indexes])], atomic)[0]
                )
            replies = self._exchange(
                [(pool, [commands[i] for i in ix]) for pool, ix in parts], atomic
            )
            result: list[Any] = [None] * len(commands)
            for (_, indexes), part in zip(parts, replies, strict=True):
                for index, reply in zip(indexes, part, strict=True):
                    result[index] = reply
            return self._checked(result)

    def compare_and_set(
        self, key: str, field: str, old: bytes, new: str | bytes
    ) -> bool:
        """Set a hash field of ours if it still holds `old`; False when it does not.

        False too when Redis has no memory for it.
        """
        with self._translated():
            (pool, _), *_ = self._route([("HGET", key)])
            connection = pool.get_connection()
            try:
                _send(connection, [("WATCH", key), ("HGET", key, field)])
                _, found = self._checked(_receive(connection, 2))
                if found != old:
                    _send(connection, [("UNWATCH",)])
                    _receive(connection, 1)
                    return False
                command = ("HSET", key, field, new)
                _send(connection, [("MULTI",), command, ("EXEC",)])
                _, queued, done = self._checked(_receive(connection, 3))
            except BaseException:
                connection.disconnect()  # type: ignore[no-untyped-call]
                raise
            finally:
                pool.release(connection)
            if out_of_memory(queued):
                return False
            if isinstance(done, ResponseError):
                raise SourceError(f"Redis: {done}") from done
            return done is not None

    def ping(self) -> str:
        """Reach Redis and return what it is, in one line."""
        found = self.info("server")
        name = "Valkey" if "valkey_version" in found else "Redis"
        version = found.get("valkey_version") or found.get("redis_version", "unknown")
        mode = found.get("redis_mode", "")
        return f"{name} {version} ({mode})" if mode else f"{name} {version}"

    def info(self, section: str = "") -> dict[str, str]:
        """Return Redis' INFO as text values."""
        command: Command = ("INFO", section) if section else ("INFO",)
        with self._translated():
            pool = self._route([("PING", "x")])[0][0]
            reply = self._checked(self._exchange([(pool, [command])], False)[0])[0]
        return _facts(reply)

    def infos(self, section: str) -> dict[str, dict[str, str]]:
        """Return INFO of each node that holds keys, by its name."""
        if not self._options.enable_cluster or self._options.master_name:
            return {"": self.info(section)}
        with self._translated():
            self._route([("PING", "x")])
            assert self._cluster is not None
            nodes = self._cluster.get_primaries()  # type: ignore[no-untyped-call]
            replies = self._exchange(
                [
                    (
                        self._limited(node.redis_connection.connection_pool),
                        [("INFO", section)],
                    )
                    for node in nodes
                ],
                False,
            )
        return {
            node.name: _facts(self._checked(reply)[0])
            for node, reply in zip(nodes, replies, strict=True)
        }

    def close(self) -> None:
        """Close all connections."""
        if self._cluster is not None:
            with contextlib.suppress(RedisError):
                self._cluster.close()
        if self._pool is not None:
            self._pool.disconnect()
        self._cluster = self._pool = None

    # Routing

    def _route(
        self, commands: Sequence[Command]
    ) -> list[tuple[ConnectionPool, list[int]]]:
        if self._identity is not None and self._identity.renewed():
            self.close()  # what comes next opens them anew
        if not self._options.enable_cluster or self._options.master_name:
            if self._pool is None:
                self._pool = self._make_pool()
            return [(self._pool, list(range(len(commands))))]
        if self._cluster is None:
            self._cluster = self._make_cluster()
        nodes: dict[str, tuple[ConnectionPool, list[int]]] = {}
        for index, command in enumerate(commands):
            slot = key_slot(_bytes(command[1]))
            node = self._cluster.nodes_manager.get_node_from_slot(slot)
            pool = self._limited(node.redis_connection.connection_pool)
            nodes.setdefault(node.name, (pool, []))[1].append(index)
        return list(nodes.values())

    def _exchange(
        self, parts: Sequence[tuple[ConnectionPool, list[Command]]], atomic: bool
    ) -> list[list[Any]]:
        """Send everything to every node before the first answer is read."""
        used: list[tuple[ConnectionPool, Any]] = []
        done = False
        try:
            for pool, commands in parts:
                connection = pool.get_connection()
                used.append((pool, connection))
                if atomic:
                    commands = [("MULTI",), *commands, ("EXEC",)]
                _send(connection, commands)
            replies = []
            for (_, connection), (_, commands) in zip(used, parts, strict=True):
                count = len(commands) + 2 if atomic else len(commands)
                replies.append(_receive(connection, count))
            done = True
        finally:
            for pool, connection in used:
                if not done:
                    connection.disconnect()
                pool.release(connection)
        return [_executed(reply) for reply in replies] if atomic else replies

    def _checked(self, replies: list[Any]) -> list[Any]:
        for reply in replies:
            if isinstance(reply, _WRONG_NODE):
                self._forget_topology()
            if isinstance(reply, _UNAVAILABLE):
                raise SourceError(f"Redis: {reply}") from reply
        return replies

    def _forget_topology(self) -> None:
        if self._cluster is not None:
            with contextlib.suppress(RedisError):
                self._cluster.close()
            self._cluster = None
        if self._options.master_name and self._pool is not None:
            self._pool.disconnect()

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (RedisError, RedisClusterException, OSError) as exc:
            self._forget_topology()
            if self._identity is not None and _refuses_us(exc):
                self._identity.refused()
            text = str(exc) or type(exc).__name__
            raise SourceError(f"Redis: {text}") from exc

    # Connections

    def _settings(self) -> dict[str, Any]:
        options = self._options
        seconds = options.timeout_seconds()
        settings: dict[str, Any] = {
            **self._credentials(),
            "socket_timeout": seconds,
            "socket_connect_timeout": seconds,
            "socket_keepalive": True,
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
        }
        return settings | self._tls_settings()

    def _credentials(self) -> dict[str, Any]:
        if self._identity is not None:
            return {"credential_provider": self._identity}
        options = self._options
        return {
            "username": options.username or None,
            "password": options.password.reveal() or None,
        }

    def _tls_settings(self) -> dict[str, Any]:
        options = self._options
        if not options.tls():
            return {}
        low, _ = options.tls_versions()
        verify = not options.skip_verify()
        settings: dict[str, Any] = {
            "ssl_cert_reqs": "required" if verify else "none",
            "ssl_check_hostname": verify,
            "ssl_ca_certs": options.ssl_ca_file or None,
            "ssl_min_version": _tls_version(low),
        }
        if options.ssl_cert_file and options.ssl_key_file:
            settings["ssl_certfile"] = options.ssl_cert_file
            settings["ssl_keyfile"] = options.ssl_key_file
        return settings

    def _make_pool(self) -> ConnectionPool:
        options = self._options
        settings = self._settings()
        settings["db"] = options.database
        addresses = options.addresses()
        if options.master_name:
            password = options.sentinel_password.reveal() or None
            seconds = options.timeout_seconds()
            sentinels = {
                "password": password,
                "socket_timeout": seconds,
                "socket_connect_timeout": seconds,
                "retry": Retry(NoBackoff(), 0),
                "protocol": 2,
                # The reference's sentinels speak TLS where its servers do.
                "ssl": options.tls(),
                **self._tls_settings(),
            }
            sentinel = Sentinel(  # type: ignore[no-untyped-call]
                addresses, sentinel_kwargs=sentinels
            )
            settings["ssl"] = options.tls()
            managed = SentinelConnectionPool(  # type: ignore[no-untyped-call]
                options.master_name, sentinel, check_connection=False, **settings
            )
            return self._limited(managed)
        host, port = addresses[0]
        if options.tls():
            settings["connection_class"] = SSLConnection
        return self._limited(ConnectionPool(host=host, port=port, **settings))

    def _limited(self, pool: ConnectionPool) -> ConnectionPool:
        """Have the pool's connections keep to the highest TLS version too.

        redis-py has an option for the lowest only. What a cluster's client opened to
        learn its nodes is closed: no command of ours goes that way.
        """
        kind: Any = pool.connection_class
        if not self._options.tls() or issubclass(kind, _Limited):
            return pool
        context = self._tls_context()
        limited = type("LimitedConnection", (_Limited, kind), {"context": context})
        pool.connection_class = limited
        pool.disconnect()
        return pool

    def _tls_context(self) -> ssl.SSLContext:
        options = self._options
        low, high = options.tls_versions()
        context = ssl.create_default_context(cafile=options.ssl_ca_file or None)
        if options.skip_verify():
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if options.ssl_cert_file and options.ssl_key_file:
            context.load_cert_chain(options.ssl_cert_file, options.ssl_key_file)
        with warnings.catch_warnings():
            # Python warns of 1.0 and 1.1; the operator has asked for them.
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = _tls_version(low)
            context.maximum_version = _tls_version(high)
        return context

    def _make_cluster(self) -> RedisCluster:
        options = self._options
        settings = self._settings()
        if options.tls():
            settings["ssl"] = True
        del settings["retry"]
        nodes = [
            ClusterNode(host, port)  # type: ignore[no-untyped-call]
            for host, port in options.addresses()
        ]
        return RedisCluster(
            startup_nodes=nodes,
            require_full_coverage=False,
            retry=Retry(NoBackoff(), 0),
            **settings,
        )


def _facts(reply: Any) -> dict[str, str]:
    """Return the lines of INFO as text values."""
    if isinstance(reply, ResponseError):
        raise SourceError(f"Redis: {reply}") from reply
    lines = bytes(reply).decode(errors="replace").splitlines()
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    return {key: value.strip() for key, value in pairs}


def _send(connection: Any, commands: Sequence[Command]) -> None:
    packed = connection.pack_commands(commands)
    connection.send_packed_command(packed, check_health=False)


def _receive(connection: Any, count: int) -> list[Any]:
    replies: list[Any] = []
    for _ in range(count):
        try:
            replies.append(connection.read_response())
        except ResponseError as exc:
            replies.append(exc)
        except BusyLoadingError as exc:
            replies.append(exc)
    return replies


def _executed(replies: list[Any]) -> list[Any]:
    """Return the replies of the commands between MULTI and EXEC."""
    refused = next((r for r in replies[:-1] if isinstance(r, ResponseError)), None)
    result = replies[-1]
    if isinstance(result, list):
        return result
    why = refused or result
    if not isinstance(why, ResponseError):
        why = ExecAbortError("transaction discarded")
    return [why] * (len(replies) - 2)


def _refuses_us(exc: BaseException | None) -> bool:
    """Say whether Redis has not taken a password; a cluster's client wraps that."""
    while exc is not None:
        if isinstance(exc, AuthenticationError):
            return True
        exc = exc.__cause__
    return False


def _tls_version(name: str) -> ssl.TLSVersion:
    return ssl.TLSVersion[f"TLSv{name.replace('.', '_')}".replace("_0", "")]


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
