"""Fixtures of the light servers: one of each per worker, empty for every test.

A test that wants one with TLS, with users or with a death of its own makes it itself,
in a `with` statement: each is there within a tenth of a second. SQL servers are not so
light: all workers share them, and `make_*` gives one of one's own.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.servers import mariadb, postgres
from tests.servers.consul import Consul
from tests.servers.database import Databases
from tests.servers.elasticmq import ElasticMq
from tests.servers.gelf import GelfReader
from tests.servers.hec import HecCollector
from tests.servers.influxd import InfluxServer
from tests.servers.kinesalite import Kinesalite
from tests.servers.mariadb import MariaDatabase, MariaServer
from tests.servers.mongo import JavaMongo, MongoServer
from tests.servers.moto import Moto
from tests.servers.postgres import PostgresDatabase, PostgresServer
from tests.servers.rsyslog import Rsyslog
from tests.servers.server import Server
from tests.servers.shared import shared
from tests.servers.statsd import Statsd
from tests.servers.syslogng import SyslogNg
from tests.servers.telegraf import Telegraf
from tests.servers.tls import Authority
from tests.servers.vault import Vault

S = TypeVar("S", bound=Server)


@pytest.fixture(scope="session")
def _shared_consul(
    tmp_path_factory: pytest.TempPathFactory, authority: Authority
) -> Iterator[Consul]:
    with Consul(tmp_path_factory.mktemp("consul"), authority) as server:
        yield server


@pytest.fixture
def consul(_shared_consul: Consul) -> Consul:
    """A Consul agent with an ACL, with and without TLS."""
    _shared_consul.renew()
    return _shared_consul


@pytest.fixture(scope="session")
def _shared_vault(
    tmp_path_factory: pytest.TempPathFactory, authority: Authority
) -> Iterator[Vault]:
    with Vault(tmp_path_factory.mktemp("vault"), authority) as server:
        yield server


@pytest.fixture
def vault(_shared_vault: Vault) -> Vault:
    """OpenBao over TLS, unsealed."""
    _shared_vault.renew()
    return _shared_vault


@pytest.fixture
def no_aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither variables nor files of AWS, nor a machine that has a role."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "aws-keys"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture(scope="session")
def _shared_elasticmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ElasticMq]:
    with ElasticMq(tmp_path_factory.mktemp("elasticmq")) as server:
        yield server


@pytest.fixture
def elasticmq(_shared_elasticmq: ElasticMq) -> ElasticMq:
    """Queues that keep to the limits of SQS."""
    _shared_elasticmq.renew()
    return _shared_elasticmq


@pytest.fixture(scope="session")
def _shared_kinesalite(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Kinesalite]:
    with Kinesalite(tmp_path_factory.mktemp("kinesalite")) as server:
        yield server


@pytest.fixture
def kinesalite(_shared_kinesalite: Kinesalite) -> Kinesalite:
    """Streams with the limits of Kinesis."""
    _shared_kinesalite.renew()
    return _shared_kinesalite


@pytest.fixture(scope="session")
def _shared_moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moto]:
    with Moto(tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture
def moto(_shared_moto: Moto) -> Moto:
    """AWS's services in memory."""
    _shared_moto.renew()
    return _shared_moto


@pytest.fixture(scope="session")
def _shared_gelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GelfReader]:
    with GelfReader(tmp_path_factory.mktemp("gelf")) as server:
        yield server


@pytest.fixture
def gelf_reader(_shared_gelf: GelfReader) -> GelfReader:
    """Graylog's reader on UDP."""
    _shared_gelf.renew()
    return _shared_gelf


@pytest.fixture(scope="session")
def _shared_hec(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HecCollector]:
    with HecCollector(tmp_path_factory.mktemp("hec")) as server:
        yield server


@pytest.fixture
def hec_collector(_shared_hec: HecCollector) -> HecCollector:
    """A Splunk event collector."""
    _shared_hec.renew()
    return _shared_hec


@pytest.fixture(scope="session")
def _shared_influxd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InfluxServer]:
    with InfluxServer(tmp_path_factory.mktemp("influxd")) as server:
        yield server


@pytest.fixture
def influx_server(_shared_influxd: InfluxServer) -> InfluxServer:
    """InfluxDB 1, without users."""
    _shared_influxd.renew()
    return _shared_influxd


@pytest.fixture(scope="session")
def _shared_rsyslog(
    tmp_path_factory: pytest.TempPathFactory, authority: Authority
) -> Iterator[Rsyslog]:
    with Rsyslog(tmp_path_factory.mktemp("rsyslog"), authority) as server:
        yield server


@pytest.fixture
def rsyslog(_shared_rsyslog: Rsyslog) -> Rsyslog:
    """The rsyslog server, on UDP, TCP and TLS."""
    _shared_rsyslog.renew()
    return _shared_rsyslog


@pytest.fixture(scope="session")
def _shared_syslog_ng(
    tmp_path_factory: pytest.TempPathFactory, authority: Authority
) -> Iterator[SyslogNg]:
    with SyslogNg(tmp_path_factory.mktemp("syslog-ng"), authority) as server:
        yield server


@pytest.fixture
def syslog_ng(_shared_syslog_ng: SyslogNg) -> SyslogNg:
    """The syslog-ng server, on UDP, TCP and TLS."""
    _shared_syslog_ng.renew()
    return _shared_syslog_ng


@pytest.fixture(scope="session")
def _shared_telegraf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Telegraf]:
    with Telegraf(tmp_path_factory.mktemp("telegraf")) as server:
        yield server


@pytest.fixture
def telegraf(_shared_telegraf: Telegraf) -> Telegraf:
    """Telegraf with its listeners: InfluxDB 1 and 2, StatsD, syslog."""
    _shared_telegraf.renew()
    return _shared_telegraf


@pytest.fixture(scope="session")
def _shared_statsd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Statsd]:
    with Statsd(tmp_path_factory.mktemp("statsd")) as server:
        yield server


@pytest.fixture
def statsd(_shared_statsd: Statsd) -> Statsd:
    """StatsD, the server."""
    _shared_statsd.renew()
    return _shared_statsd


@pytest.fixture(scope="session")
def _shared_mongo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MongoServer]:
    with MongoServer(tmp_path_factory.mktemp("mongo")) as server:
        yield server


@pytest.fixture
def mongo_server(_shared_mongo: MongoServer) -> MongoServer:
    """FerretDB, which speaks MongoDB's protocol; it may be killed."""
    _shared_mongo.renew()
    return _shared_mongo


@pytest.fixture(scope="session")
def _shared_java_mongo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JavaMongo]:
    with JavaMongo(tmp_path_factory.mktemp("java-mongo")) as server:
        yield server


@pytest.fixture
def java_mongo(_shared_java_mongo: JavaMongo) -> JavaMongo:
    """A server with TTL indexes, for the older driver in a process of its own."""
    _shared_java_mongo.renew()
    return _shared_java_mongo


@pytest.fixture(scope="session")
def _shared_postgres(run_folder: Path, authority: Authority) -> Iterator[int]:
    start = partial(postgres.start, authority=authority)
    with shared("postgres", run_folder, start) as facts:
        yield facts["port"]


@pytest.fixture
def postgres_server(_shared_postgres: int) -> Iterator[Databases]:
    """PostgreSQL: `database()` gives a new database, dropped after the test."""
    databases = Databases(PostgresDatabase, _shared_postgres)
    yield databases
    databases.clear()


@pytest.fixture(scope="session")
def _shared_maria(run_folder: Path, authority: Authority) -> Iterator[int]:
    start = partial(mariadb.start, authority=authority)
    with shared("mariadb", run_folder, start) as facts:
        yield facts["port"]


@pytest.fixture
def maria_server(_shared_maria: int) -> Iterator[Databases]:
    """MariaDB: `database()` gives a new database, dropped after the test."""
    databases = Databases(MariaDatabase, _shared_maria)
    yield databases
    databases.clear()


@contextlib.contextmanager
def _factory(folder: Path, kind: type[S]) -> Iterator[Callable[..., S]]:
    numbers = itertools.count()
    with contextlib.ExitStack() as stack:

        def make(*arguments: Any, **options: Any) -> S:
            place = folder / f"{kind.__name__}{next(numbers)}"
            server = kind(place, *arguments, **options)
            stack.callback(server.stop)
            return server

        yield make


@pytest.fixture
def make_mongo(tmp_path: Path) -> Iterator[Callable[..., MongoServer]]:
    """Make servers of one's own; all are ended after the test."""
    with _factory(tmp_path, MongoServer) as make:
        yield make


@pytest.fixture
def make_postgres(tmp_path: Path) -> Iterator[Callable[..., PostgresServer]]:
    """Make servers of one's own, to kill; all are ended after the test."""
    with _factory(tmp_path, PostgresServer) as make:
        yield make


@pytest.fixture
def make_maria(tmp_path: Path) -> Iterator[Callable[..., MariaServer]]:
    """Make servers of one's own, to kill; all are ended after the test."""
    with _factory(tmp_path, MariaServer) as make:
        yield make
