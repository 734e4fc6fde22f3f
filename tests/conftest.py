"""Fixtures of the whole suite: real servers, made when the first test asks for them."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.servers import elastic, kafka, tls
from tests.servers.elastic import Elastic, ElasticServer
from tests.servers.front import Front
from tests.servers.kafka import Kafka, KafkaServer, ProxiedKafka
from tests.servers.redis import Factory, RedisServer, cluster
from tests.servers.shared import shared
from tyk_pump import log

pytest_plugins = ["tests.servers.fixtures"]


@pytest.fixture(autouse=True)
def _logging() -> Iterator[None]:
    """Leave the process's log lines as they were: a command sets them up in-process."""
    root = logging.getLogger()
    levels = {name: logging.getLogger(name).level for name in ("", *log.DRIVERS)}
    yield
    for handler in list(root.handlers):
        if isinstance(handler.formatter, log.LineFormatter):
            root.removeHandler(handler)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    log.current_format = "text"


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


@pytest.fixture(scope="session")
def kafka_server(run_folder: Path, authority: tls.Authority) -> Iterator[Kafka]:
    """The broker that all tests share: name topics after your test."""
    start = partial(kafka.start, authority=authority)
    with shared("kafka", run_folder, start) as facts:
        yield Kafka(facts["ports"])


@pytest.fixture
def make_kafka(
    tmp_path: Path, authority: tls.Authority
) -> Iterator[Callable[..., KafkaServer]]:
    """Make brokers of one's own, to kill; all are ended after the test."""
    numbers = itertools.count()
    with contextlib.ExitStack() as stack:

        def make(**options: Any) -> KafkaServer:
            folder = tmp_path / f"kafka{next(numbers)}"
            server = KafkaServer(folder, authority, **options)
            stack.callback(server.kill)
            return server

        yield make


@pytest.fixture(scope="session")
def proxied_kafka(
    tmp_path_factory: pytest.TempPathFactory, authority: tls.Authority
) -> Iterator[ProxiedKafka]:
    """A broker of this worker behind a proxy, for faults; leave it healed."""
    folder = tmp_path_factory.mktemp("proxied-kafka")
    with contextlib.closing(ProxiedKafka(folder, authority)) as server:
        yield server


@pytest.fixture(scope="session")
def elastic_server(run_folder: Path) -> Iterator[Callable[[str], Elastic]]:
    """Give the node of a flavour that all tests share: name indices after your test."""
    nodes: dict[str, Elastic] = {}
    with contextlib.ExitStack() as stack:

        def give(flavour: str = "elasticsearch7") -> Elastic:
            if flavour not in nodes:
                start = partial(elastic.start, flavour=flavour)
                facts = stack.enter_context(shared(flavour, run_folder, start))
                nodes[flavour] = Elastic(flavour, facts["port"])
            return nodes[flavour]

        yield give


@pytest.fixture
def make_elastic(tmp_path: Path) -> Iterator[Callable[..., ElasticServer]]:
    """Make nodes of one's own, to kill; all are ended after the test."""
    numbers = itertools.count()
    with contextlib.ExitStack() as stack:

        def make(flavour: str = "elasticsearch7") -> ElasticServer:
            server = ElasticServer(tmp_path / f"elastic{next(numbers)}", flavour)
            stack.callback(server.kill)
            return server

        yield make


@pytest.fixture
def make_front(
    tmp_path: Path, authority: tls.Authority
) -> Iterator[Callable[..., Front]]:
    """Put nginx in front of a port: TLS, headers it knows, client certificates."""
    numbers = itertools.count()
    with contextlib.ExitStack() as stack:

        def make(upstream: int, *known: str, **options: Any) -> Front:
            folder = tmp_path / f"front{next(numbers)}"
            front = Front(folder, upstream, authority, known, **options)
            stack.callback(front.stop)
            return front

        yield make
