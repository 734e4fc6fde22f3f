"""Fixtures of the whole suite: real servers, made when the first test asks for them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers.redis import Factory, RedisServer, cluster


@pytest.fixture
def make_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Factory]:
    """Make Redis servers with given flags; all are ended after the test."""
    factory = Factory(tmp_path_factory.mktemp("redis"))
    try:
        yield factory
    finally:
        factory.close()


@pytest.fixture(scope="session")
def _shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    factory = Factory(tmp_path_factory.mktemp("redis"))
    try:
        yield factory()
    finally:
        factory.close()


@pytest.fixture
def redis_server(_shared_redis: RedisServer) -> Iterator[RedisServer]:
    """A single server, empty; the process is shared by the tests of a worker."""
    client = _shared_redis.client()
    client.flushall()
    yield _shared_redis
    client.close()


@pytest.fixture(scope="session")
def redis_cluster(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[list[RedisServer]]:
    """A cluster of three masters."""
    with cluster(tmp_path_factory.mktemp("cluster")) as servers:
        yield servers
