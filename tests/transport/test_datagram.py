"""Datagrams and streams: connections that come and go."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.tls import Authority
from tyk_pump.config.options import TlsOptions
from tyk_pump.errors import RejectedRecords, TransientError
from tyk_pump.transport.datagram import Datagrams, Stream, TooLong, UnixDatagrams
from tyk_pump.transport.packets import Packets, split


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Something that listens."""
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.settimeout(10)
        yield made


def test_a_datagram_that_is_too_long() -> None:
    """It is refused before anything is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(10)
        sender = Datagrams("127.0.0.1", receiver.getsockname()[1])
        with pytest.raises(TooLong):
            sender.send(b"x" * 70_000)
        sender.send(b"short")
        assert receiver.recv(100) == b"short"
        sender.close()


def test_a_name_that_nobody_knows() -> None:
    """The reason names it."""
    for sender in (Datagrams("no.such.invalid", 1), Stream("no.such.invalid", 1)):
        with pytest.raises(TransientError, match=r"no\.such\.invalid:1"):
            sender.send(b"x")


def test_a_stream_connects_again(listener: socket.socket) -> None:
    """After the receiver has left, one attempt fails and the next one arrives."""
    sender = Stream("127.0.0.1", listener.getsockname()[1])
    sender.open()
    first, _ = listener.accept()
    first.close()
    with pytest.raises(TransientError):
        for _ in range(3):
            sender.send(b"lost")
    sender.open()
    second, _ = listener.accept()
    with second:
        sender.send(b"found")
        assert second.recv(100) == b"found"
    sender.close()


def test_nobody_listens(listener: socket.socket) -> None:
    """Refused, in a line with the address."""
    port = listener.getsockname()[1]
    listener.close()
    with pytest.raises(TransientError, match=f"127.0.0.1:{port}: Connection refused"):
        Stream("127.0.0.1", port).send(b"x")


@pytest.mark.parametrize(
    ("name", "fault"), [("localhost", ""), ("elsewhere.example", "verify failed")]
)
def test_the_name_in_the_certificate(
    authority: Authority, listener: socket.socket, name: str, fault: str
) -> None:
    """It is the one that is asked for, or nothing is sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.server())
    got: list[bytes] = []
    sent = threading.Event()

    def serve() -> None:
        connection, _ = listener.accept()
        try:
            with context.wrap_socket(connection, server_side=True) as wrapped:
                got.append(wrapped.recv(100))
                sent.wait(10)
        except (OSError, ssl.SSLError):
            connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    options = TlsOptions(ssl_ca_file=str(authority.ca_file), ssl_server_name=name)
    sender = Stream("127.0.0.1", listener.getsockname()[1], options)
    if fault:
        with pytest.raises(TransientError, match=fault):
            sender.send(b"hello")
    else:
        sender.send(b"hello")
    sent.set()
    thread.join(10)
    sender.close()
    assert got == ([] if fault else [b"hello"])


# Unix sockets


def test_a_unix_socket_takes_a_datagram_or_does_not(tmp_path: Path) -> None:
    """Nobody there, nobody who reads, one that is too long: each has its word."""
    path = tmp_path / "s.sock"
    sender = UnixDatagrams(str(path), 0.01)
    with pytest.raises(TransientError, match=f"{path}: No such file"):
        sender.send(b"x")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(path))
        with pytest.raises(TooLong):
            sender.send(b"x" * 4_000_000)
        sent = 0
        with pytest.raises(TransientError, match=f"{path}: the receiver's queue is"):
            while True:
                sender.send(b"%d" % sent)
                sent += 1
        sender.check()
        receiver.setblocking(False)
        assert [receiver.recv(9) for _ in range(sent)] == [
            b"%d" % number for number in range(sent)
        ]
        sender.send(b"more")
        assert receiver.recv(9) == b"more"
    with pytest.raises(TransientError, match=f"{path}: Connection refused"):
        sender.send(b"x")
    sender.close()


def test_a_path_that_is_too_long_for_a_socket(tmp_path: Path) -> None:
    """The kernel has room for some hundred bytes."""
    with pytest.raises(TransientError, match="too long"):
        UnixDatagrams(str(tmp_path / ("x" * 120)), 1.0).open()


def test_what_the_path_takes() -> None:
    """The kernel knows it for each address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        sender = Datagrams("127.0.0.1", receiver.getsockname()[1])
        assert sender.mtu() >= 1280
        sender.close()


@pytest.mark.parametrize(
    ("lines", "size", "datagrams"),
    [
        (b"", 5, [b""]),
        (b"a\nb\nc", 5, [b"a\nb\nc"]),
        (b"a\nb\nc", 4, [b"a\nb", b"c"]),
        (b"a\nb\nc", 3, [b"a\nb", b"c"]),
        (b"a\nb\nc", 1, [b"a", b"b", b"c"]),
        (b"aaaa\nb\nccccc", 3, [b"aaaa", b"b", b"ccccc"]),
        (b"aaaa", 1, [b"aaaa"]),
    ],
)
def test_lines_in_datagrams(lines: bytes, size: int, datagrams: list[bytes]) -> None:
    """As few as the order allows; what is too long alone goes alone."""
    assert [*split(lines, size)] == datagrams


def test_a_size_that_the_socket_does_not_take(tmp_path: Path) -> None:
    """Then each item goes alone, in order, and one that cannot is named."""
    path = tmp_path / "s.sock"
    items = [b"a\n", b"b" * 500 + b"\n", b"c\n", b"d\n"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(path))
        packets = Packets(f"unix://{path}", size=510, longest=1000)
        packets.send([b"x\n"])
        assert receiver.recv(9) == b"x"
        with pytest.MonkeyPatch.context() as patch:

            def send(self: UnixDatagrams, data: bytes) -> None:
                if len(data) > 100:
                    raise TooLong("no")
                Datagrams.send(self, data)

            patch.setattr(UnixDatagrams, "send", send)
            with pytest.raises(RejectedRecords) as caught:
                packets.send(items)
        assert caught.value.rejected == {1: "no"}
        assert [receiver.recv(9) for _ in range(3)] == [b"a", b"c", b"d"]
        packets.close()
