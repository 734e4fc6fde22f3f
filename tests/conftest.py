"""Fixtures of the whole suite: real servers, made when the first test asks for them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import tls
from tests.servers.redis import Factory, RedisServer, cluster


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this test run, the same one in all its workers."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def authority(run_folder: Path) -> tls.Authority:
    """The authority behind every certificate of this test run."""
    return tls.authority(run_folder / "authority")


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
