"""Fixtures of the light servers: one of each per worker, empty for every test.

A test that wants one with TLS, with users or with a death of its own makes it itself,
in a `with` statement: each is there within a tenth of a second.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers.gelf import GelfReader
from tests.servers.hec import HecCollector
from tests.servers.influxd import InfluxServer
from tests.servers.rsyslog import Rsyslog
from tests.servers.syslogng import SyslogNg
from tests.servers.telegraf import Telegraf
from tests.servers.tls import Authority


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
