"""Messages to a receiver that refuses, resets, stalls, leaves, or is not believed."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.pumps.config import opened
from tests.servers import free_port
from tests.servers.receiver import TcpReceiver, UdpReceiver
from tests.servers.tls import Authority, authority
from tyk_pump.errors import ConfigError, TransientError
from tyk_pump.pumps.protocol import Batch, Pump
from tyk_pump.record.analytics import AnalyticsRecord

CONFIRM = ["read", "received"]


@pytest.fixture
def tcp() -> Iterator[TcpReceiver]:
    """Takes connections."""
    with TcpReceiver() as receiver:
        yield receiver


@pytest.fixture
def tls(authority: Authority) -> Iterator[TcpReceiver]:
    """Takes connections over TLS."""
    with TcpReceiver(authority) as receiver:
        yield receiver


def batch(count: int, *, size: int = 10, first: int = 0) -> Batch:
    """Return records that are known by their alias."""
    records = [
        AnalyticsRecord(alias=f"n{number}", raw_request="R" * size)
        for number in range(first, first + count)
    ]
    return Batch("S", 0, "list", range(first, first + count), records)


def names(receiver: TcpReceiver) -> list[str]:
    """Return the aliases of all whole messages."""
    lines = (line.decode() for line in receiver.messages())
    return [line.partition("alias:")[2].partition(" ")[0] for line in lines]


def numbered(count: int) -> list[str]:
    """Return the aliases of the first records."""
    return [f"n{number}" for number in range(count)]


def pump_to(folder: Path, port: int, transport: str = "tcp", **meta: Any) -> Pump:
    """Return an open syslog pump; the graylog pump sends the same way."""
    options = {"network_addr": f"127.0.0.1:{port}", "transport": transport, **meta}
    return opened(folder, "syslog", options)


# UDP


def test_refused_datagrams_are_sent_again(tmp_path: Path) -> None:
    """A daemon that is away has its machine say so; nothing of the batch counts."""
    with UdpReceiver() as receiver:
        pump = pump_to(tmp_path, receiver.port, "udp")
        pump.write(batch(3))
        receiver.take(3)
        receiver.close()
        for count in (1, 5):
            with pytest.raises(TransientError, match="Connection refused") as caught:
                pump.write(batch(count, first=3))
            assert caught.value.pending == list(range(count))
        receiver.restart()
        pump.write(batch(5, first=3))
        pump.close()
        assert len(receiver.take(8)) == 8


def test_a_moved_receiver_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name is resolved anew every minute: a datagram does not tell of a move."""
    now = [1000.0]
    monkeypatch.setattr("tyk_pump.transport.datagram.time.monotonic", lambda: now[0])
    asked: list[Any] = []
    resolve = socket.getaddrinfo

    def looked_up(*arguments: Any, **options: Any) -> Any:
        asked.append(arguments[0])
        return resolve(*arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", looked_up)
    with UdpReceiver() as receiver:
        pump = pump_to(tmp_path, receiver.port, "udp")
        for seconds in (0, 30, 31):
            now[0] += seconds
            pump.write(batch(1))
        pump.close()
    assert asked == ["127.0.0.1"] * 2


# TCP


@pytest.mark.parametrize("confirm", CONFIRM)
def test_a_daemon_that_is_away_is_waited_for(confirm: str, tmp_path: Path) -> None:
    """Opening the pump needs no daemon; the reference ends its process."""
    port = free_port()
    pump = pump_to(tmp_path, port, confirm=confirm)
    with pytest.raises(TransientError, match="Connection refused") as caught:
        pump.write(batch(3))
    assert caught.value.pending == [0, 1, 2] and caught.value.rejected == {}
    with TcpReceiver() as receiver:
        receiver.close()
        receiver.port = port
        receiver.restart()
        pump.write(batch(3))
        receiver.take(3)
        pump.close()
    assert names(receiver) == numbered(3)


def test_a_name_that_does_not_exist_is_trouble(tmp_path: Path) -> None:
    """It may exist later."""
    meta = {"network_addr": "name.invalid:514", "transport": "tcp"}
    pump = opened(tmp_path, "syslog", meta)
    with pytest.raises(TransientError, match=r"name\.invalid:514: "):
        pump.write(batch(1))
    pump.close()


def test_each_batch_has_a_connection_when_it_must_be_read(
    tcp: TcpReceiver, tmp_path: Path
) -> None:
    """Its end is the receiver's word that it has read everything."""
    pump = pump_to(tmp_path, tcp.port)
    for first in (0, 3):
        pump.write(batch(3, first=first))
        # Nothing is on its way any more when the write returns.
        assert len(names(tcp)) == first + 3
    pump.close()
    assert len(tcp.streams) == 2


def test_one_connection_lasts_when_the_kernels_word_is_enough(
    tcp: TcpReceiver, tmp_path: Path
) -> None:
    """As in the reference."""
    pump = pump_to(tmp_path, tcp.port, confirm="received")
    for first in (0, 3):
        pump.write(batch(3, first=first))
    tcp.take(6)
    pump.close()
    assert names(tcp) == numbered(6) and len(tcp.streams) == 1


@pytest.mark.parametrize("confirm", CONFIRM)
@pytest.mark.parametrize("secure", [False, True])
def test_a_reset_in_the_middle_is_trouble(
    confirm: str, secure: bool, tmp_path: Path, authority: Authority
) -> None:
    """How much has arrived nobody knows: all of the batch is sent again."""
    with TcpReceiver(authority if secure else None) as receiver:
        meta = {"confirm": confirm, "ssl_ca_file": str(authority.ca_file)}
        pump = pump_to(tmp_path, receiver.port, "tls" if secure else "tcp", **meta)
        with receiver.resetting(after=4000):
            for _ in range(2):
                with pytest.raises(TransientError) as caught:
                    pump.write(batch(100, size=50_000))
                assert caught.value.pending == list(range(100))
        before = len(names(receiver))
        pump.write(batch(100, size=50_000))
        receiver.take(before + 100)
        pump.close()
    assert list(dict.fromkeys(names(receiver))) == numbered(100)
    assert names(receiver)[-100:] == numbered(100)


@pytest.mark.parametrize("secure", [False, True])
def test_a_receiver_that_does_not_read_is_trouble(
    secure: bool, tmp_path: Path, authority: Authority
) -> None:
    """Few bytes fit its kernel's buffer: there they are not yet read."""
    with TcpReceiver(authority if secure else None) as receiver:
        transport = "tls" if secure else "tcp"
        meta = {"ssl_ca_file": str(authority.ca_file)}
        receiver.stalled.set()
        pump = pump_to(tmp_path, receiver.port, transport, **meta, send_timeout=0.5)
        # On a busy machine not even the handshake may be over in time.
        with pytest.raises(TransientError, match=r"not read everything|timed out"):
            pump.write(batch(1))
        pump.close()
        receiver.stalled.clear()
        pump = pump_to(tmp_path, receiver.port, transport, **meta)
        pump.write(batch(1))
        pump.close()
    assert names(receiver)[-1:] == ["n0"]


@pytest.mark.parametrize("confirm", CONFIRM)
def test_a_receiver_that_stalls_in_a_large_batch_is_trouble(
    confirm: str, tcp: TcpReceiver, tmp_path: Path
) -> None:
    """No buffer on the way takes it all."""
    pump = pump_to(tmp_path, tcp.port, confirm=confirm, send_timeout=0.2)
    tcp.stalled.set()
    with pytest.raises(TransientError, match=r"timed out|not confirmed|not read"):
        pump.write(batch(20, size=1 << 20))
    pump.close()


def test_a_receiver_that_leaves_with_unread_bytes_has_not_got_them(
    tcp: TcpReceiver, tmp_path: Path
) -> None:
    """Its kernel had them, and drops them with a reset."""
    pump = pump_to(tmp_path, tcp.port, send_timeout=30)
    tcp.stalled.set()
    tcp.connected = tcp.leave
    with pytest.raises(TransientError, match=r"reset by peer|Broken pipe"):
        pump.write(batch(3))
    pump.close()
    assert names(tcp) == []


def test_a_receiver_that_has_left_is_noticed(tcp: TcpReceiver, tmp_path: Path) -> None:
    """A lasting connection has ended between two batches: a new one is made."""
    pump = pump_to(tmp_path, tcp.port, confirm="received")
    pump.write(batch(1))
    tcp.take(1)
    tcp.close()
    with pytest.raises(TransientError):
        pump.write(batch(1, first=1))
    tcp.restart()
    pump.write(batch(1, first=1))
    tcp.take(2)
    pump.close()
    assert names(tcp) == numbered(2)


# TLS


@pytest.mark.parametrize("confirm", CONFIRM)
def test_two_pumps_believe_each_their_own_authority(
    confirm: str, tls: TcpReceiver, tmp_path: Path, authority_of_others: Authority
) -> None:
    """In one process, side by side; the one without trust sends nothing."""
    ours = {"ssl_ca_file": str(_ca(tls)), "confirm": confirm}
    theirs = {"ssl_ca_file": str(authority_of_others.ca_file), "confirm": confirm}
    believing = pump_to(tmp_path, tls.port, "tls", **ours)
    doubting = pump_to(tmp_path, tls.port, "tls", **theirs)
    careless = pump_to(tmp_path, tls.port, "tls", ssl_insecure_skip_verify=True)
    for _ in range(2):
        with pytest.raises(TransientError, match="certificate verify failed"):
            doubting.write(batch(2, first=5))
    believing.write(batch(1))
    careless.write(batch(1, first=1))
    believing.write(batch(1, first=2))
    tls.take(3)
    for pump in (believing, doubting, careless):
        pump.close()
    assert sorted(names(tls)) == numbered(3)


@pytest.fixture
def authority_of_others(tmp_path: Path) -> Authority:
    """An authority that nobody here believes."""
    folder = tmp_path / "others"
    folder.mkdir()
    return authority(folder)


def _ca(receiver: TcpReceiver) -> Path:
    assert receiver.authority is not None
    return receiver.authority.ca_file


def test_the_server_name_is_what_is_expected(tls: TcpReceiver, tmp_path: Path) -> None:
    """It is asked for and compared in place of the address."""
    meta = {"ssl_ca_file": str(_ca(tls))}
    pump = pump_to(tmp_path, tls.port, "tls", **meta, ssl_server_name="logs.test")
    pump.write(batch(1))
    pump.close()
    assert tls.names == ["logs.test"]
    pump = pump_to(tmp_path, tls.port, "tls", **meta, ssl_server_name="other.test")
    with pytest.raises(TransientError, match="Hostname mismatch"):
        pump.write(batch(1))
    pump.close()


@pytest.mark.parametrize("confirm", CONFIRM)
def test_a_client_certificate_is_shown(
    confirm: str, tmp_path: Path, authority: Authority
) -> None:
    """The receiver knows who writes."""
    cert, key = authority.client("gateway-1")
    meta = {"ssl_cert_file": str(cert), "ssl_key_file": str(key), "confirm": confirm}
    with TcpReceiver(authority, demand_certificate=True) as receiver:
        meta |= {"ssl_ca_file": str(authority.ca_file)}
        pump = pump_to(tmp_path, receiver.port, "tls", **meta)
        pump.write(batch(3))
        receiver.take(3)
        pump.close()
    assert names(receiver) == numbered(3)
    assert (("commonName", "gateway-1"),) in receiver.peers[-1]["subject"]


def test_without_a_client_certificate_nothing_counts(
    tmp_path: Path, authority: Authority
) -> None:
    """In TLS 1.3 a receiver refuses us only after we have begun to send."""
    with TcpReceiver(authority, demand_certificate=True) as receiver:
        meta = {"ssl_ca_file": str(authority.ca_file)}
        pump = pump_to(tmp_path, receiver.port, "tls", **meta)
        with pytest.raises(TransientError):
            pump.write(batch(3))
        pump.close()
    assert names(receiver) == []


def test_a_receiver_without_a_farewell_has_read_all_the_same(
    tls: TcpReceiver, tmp_path: Path
) -> None:
    """Many leave TLS by closing the connection."""
    tls.rude = True
    pump = pump_to(tmp_path, tls.port, "tls", ssl_ca_file=str(_ca(tls)))
    for first in (0, 3):
        pump.write(batch(3, first=first))
    pump.close()
    assert names(tls) == numbered(6)


def test_plain_text_to_a_tls_receiver_is_trouble(
    tls: TcpReceiver, tcp: TcpReceiver, tmp_path: Path
) -> None:
    """And the other way round; nothing counts as delivered."""
    plain = pump_to(tmp_path, tls.port, "tcp")
    with pytest.raises(TransientError):
        plain.write(batch(3))
    plain.close()
    secure = pump_to(tmp_path, tcp.port, "tls", send_timeout=0.5)
    with pytest.raises(TransientError):
        secure.write(batch(3))
    secure.close()


@pytest.mark.parametrize("option", ["ssl_ca_file", "ssl_cert_file"])
def test_a_bad_file_is_named(option: str, tmp_path: Path) -> None:
    """The operator must act: no attempt makes it better."""
    meta = {"ssl_cert_file": "/nowhere", "ssl_key_file": "/nowhere"}
    if option == "ssl_ca_file":
        meta = {"ssl_ca_file": "/nowhere"}
    with pytest.raises(ConfigError, match=f"{option}: /nowhere: No such file"):
        pump_to(tmp_path, 514, "tls", **meta)


def test_the_files_are_not_looked_at_without_tls(tmp_path: Path) -> None:
    """An old configuration may name any."""
    with UdpReceiver() as receiver:
        pump = pump_to(tmp_path, receiver.port, "udp", ssl_ca_file="/nowhere")
        pump.write(batch(1))
        pump.close()
        receiver.take(1)


def test_tls_1_2_will_do(tls: TcpReceiver, tmp_path: Path) -> None:
    """Its farewell differs from that of TLS 1.3."""
    assert tls.context is not None
    tls.context.minimum_version = ssl.TLSVersion.TLSv1_2
    tls.context.maximum_version = ssl.TLSVersion.TLSv1_2
    pump = pump_to(tmp_path, tls.port, "tls", ssl_ca_file=str(_ca(tls)))
    pump.write(batch(3))
    pump.close()
    assert names(tls) == numbered(3)
