"""Connections to MDCB: what they send first, how they end, whom they believe."""

from __future__ import annotations

import socket
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers.mdcb import Answer, Call, Mdcb, Requests, Stream
from tests.servers.proxy import Proxy
from tests.servers.tls import Authority
from tests.transport.capture import payload, streams
from tyk_pump.config.options import TlsOptions
from tyk_pump.errors import TransientError
from tyk_pump.transport.gorpc import (
    AnswerLost,
    CallError,
    Client,
    Connection,
    Unanswered,
    Unreachable,
    address,
)

PATIENCE = 20.0
IDENTITY = "2a090347-abd7-4d94-893a-79c7409ac3ee"


@pytest.fixture
def mdcb() -> Iterator[Mdcb]:
    """An MDCB without TLS."""
    with Mdcb() as server:
        yield server
        assert server.failures == []


@pytest.fixture
def made() -> Iterator[Callable[..., Client]]:
    """Make clients that are closed after the test."""
    clients: list[Client] = []

    def make(port: int, options: TlsOptions | None = None, **about: Any) -> Client:
        about = {"size": 3, "timeout": PATIENCE, **about}
        clients.append(Client(("127.0.0.1", port), options, **about))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def connection(port: int) -> Connection:
    """Return a connection without TLS."""
    there = ("127.0.0.1", port)
    return Connection(there, None, name="", identity=IDENTITY, timeout=PATIENCE)


# The bytes


def test_the_first_session_of_the_reference() -> None:
    """Exchange A: we send its bytes to the last one, and read its server's."""
    up = streams(upwards=True)["A1"]
    down = streams(upwards=False)["A1"]
    listener = socket.create_server(("127.0.0.1", 0))
    taken = bytearray()

    def serve() -> None:
        end, _ = listener.accept()
        with end, end.makefile("rb") as reader:
            taken.extend(reader.read(44))
            requests = Requests(_Kept(Stream(reader, True), taken))
            for piece in down:
                assert requests.next() is not None
                end.sendall(piece.sent)
            reader.read()

    thread = threading.Thread(target=serve)
    thread.start()
    one = connection(listener.getsockname()[1])
    argument = payload("PurgeAnalyticsData")
    assert one.call("Ping", None, PATIENCE) is True
    assert one.call("Login", "key", PATIENCE) is True
    assert one.call("Login", "key", PATIENCE) is True
    assert one.call("PurgeAnalyticsData", argument, PATIENCE) is None
    one.close()
    thread.join()
    listener.close()
    hello = b"proto2\x24" + IDENTITY.encode() + b"\x01"
    assert bytes(taken[:44]) == hello
    known = b"".join(piece.frames for piece in up[:3])
    assert bytes(taken[44 : 44 + len(known)]) == known
    # Of the purge the listing has the beginning and the argument.
    rest = bytes(taken[44 + len(known) :])
    assert len(rest) == 1398 and rest.startswith(up[3].frames[:30])
    assert argument.encode() in rest


class _Kept:
    """A stream whose bytes are kept."""

    def __init__(self, stream: Any, taken: bytearray) -> None:
        self._stream = stream
        self._taken = taken

    def take(self, size: int) -> bytes | None:
        data: bytes | None = self._stream.take(size)
        self._taken += data or b""
        return data


@pytest.mark.parametrize("first_id", [64, 65, 200])
def test_many_calls(first_id: int) -> None:
    """Numbers of more than a byte, and types as the server counts them."""
    with Mdcb(first_id=first_id) as server:
        one = connection(server.port)
        for _ in range(300):
            assert one.call("Ping", None, PATIENCE) is True
        assert one.call("Login", "key", PATIENCE) is True
        assert one.call("Login", "bad", PATIENCE) is False
        one.close()
    assert [call.number for call in server.calls] == list(range(1, 303))
    assert server.failures == []


def test_answers_in_any_order(mdcb: Mdcb) -> None:
    """Exchange C: the first call is answered last, and still waited for."""
    done = threading.Event()
    mdcb.script({"Ping": [Answer(True, until=done)]})
    one = connection(mdcb.port)
    with pytest.raises(Unanswered, match=r"Ping: no answer within 0\.05 s") as caught:
        one.call("Ping", None, 0.05)
    assert one.call("Login", "key", PATIENCE) is True
    assert one.call("Login", "bad", PATIENCE) is False
    done.set()
    assert caught.value.call is not None
    assert one.wait(caught.value.call, PATIENCE) is True
    one.close()


def test_an_answer_that_nobody_waits_for(mdcb: Mdcb) -> None:
    """The reference closes the connection; we pass over it."""
    one = connection(mdcb.port)
    # The first answer defines the types.
    assert one.call("Ping", None, PATIENCE) is True
    mdcb.respond = lambda call: Answer(garbage=_answer(99) + _answer(call.number))
    assert one.call("Ping", None, PATIENCE) is True
    one.close()


def _answer(number: int) -> bytes:
    """Return an answer behind the definitions."""
    name = b"*gorpc.dispatcherResponse"
    value = b"\x01\x04bool\x02\x02\x00\x01\x00"
    body = b"\xff\x80\x01" + bytes([number]) + b"\x01\x19" + name
    body += b"\xff\x82" + bytes([len(value)]) + value + b"\x00"
    return bytes([len(body)]) + body


# What fails


@pytest.mark.parametrize(
    ("said", "kind", "words"),
    [
        (Answer(error="boom error"), CallError, "Login: boom error$"),
        (Answer(panic="oops"), CallError, "server error: Panic occured: oops$"),
        (Answer(cut=True), AnswerLost, "closed|reset"),
        (Answer(half=True), AnswerLost, "closed|reset"),
        (Answer(garbage=b"\x05hello"), AnswerLost, "not a gob stream"),
        (Answer(garbage=b"\xf8" + b"\xff" * 8), AnswerLost, "too large"),
        (Answer(garbage=b"\x02\x0c\x01"), AnswerLost, "not a gob stream"),
    ],
)
def test_answers_that_are_none(
    mdcb: Mdcb, said: Answer, kind: type[TransientError], words: str
) -> None:
    """Each kind of failure says what may have become of the call."""
    mdcb.script({"Login": [said]})
    one = connection(mdcb.port)
    assert one.call("Ping", None, PATIENCE) is True
    with pytest.raises(kind, match=words) as caught:
        one.call("Login", "s3cret", PATIENCE)
    assert "s3cret" not in str(caught.value) and "\n" not in str(caught.value)
    one.close()


def test_bytes_that_do_not_inflate(mdcb: Mdcb) -> None:
    """A server that speaks something else."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        end, _ = listener.accept()
        with end:
            end.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
            end.recv(65536)

    thread = threading.Thread(target=serve)
    thread.start()
    one = connection(listener.getsockname()[1])
    with pytest.raises(AnswerLost, match="Ping: "):
        one.call("Ping", None, PATIENCE)
    thread.join()
    listener.close()


def test_the_server_ends_its_stream() -> None:
    """An end in the middle of DEFLATE is an end of the connection."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        end, _ = listener.accept()
        with end:
            end.recv(65536)
            end.sendall(zlib.compress(b"", wbits=-15))
            end.recv(65536)

    thread = threading.Thread(target=serve)
    thread.start()
    one = connection(listener.getsockname()[1])
    with pytest.raises(AnswerLost, match="has ended the stream"):
        one.call("Ping", None, PATIENCE)
    thread.join()
    listener.close()


def test_a_bomb(mdcb: Mdcb) -> None:
    """An answer that is inflated to more than any answer has is refused in time."""
    bomb = b"\xfc\x7f\xff\xff\xff" + bytes(1 << 20)
    mdcb.script({"Login": [Answer(garbage=bomb)]})
    one = connection(mdcb.port)
    one.call("Ping", None, PATIENCE)
    with pytest.raises(AnswerLost, match="a message of 2147483647 bytes is too large"):
        one.call("Login", "key", PATIENCE)


# The client


def test_one_id_for_all_connections(mdcb: Mdcb, made: Callable[..., Client]) -> None:
    """Connections are opened when calls need them, at most so many, and kept."""
    client = made(mdcb.port)
    meeting = threading.Barrier(3)

    def respond(call: Call) -> Answer | None:
        if call.name == "Ping":
            meeting.wait(PATIENCE)  # all three are under way
        return None

    mdcb.respond = respond
    threads = [threading.Thread(target=client.call, args=("Ping",)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for _ in range(5):
        client.call("Login", "key")
    assert mdcb.dialled == 3
    assert len({peer.identity for peer in mdcb.peers}) == 1
    assert all(peer.compressed and len(peer.identity) == 36 for peer in mdcb.peers)


def test_no_more_connections_than_the_pool_has(
    mdcb: Mdcb, made: Callable[..., Client]
) -> None:
    """Who calls beyond that waits for one of them."""
    client = made(mdcb.port, size=2)
    threads = [threading.Thread(target=client.call, args=("Ping",)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(mdcb.calls) == 20 and mdcb.dialled <= 2


def test_a_connection_that_was_cut_is_not_used(
    mdcb: Mdcb, made: Callable[..., Client]
) -> None:
    """Nothing is sent on it; the next one has the same id."""
    client = made(mdcb.port)
    client.call("Ping")
    mdcb.cut()
    mdcb.wait_until_idle()
    client.call("Ping")
    assert mdcb.dialled == 2
    assert len({peer.identity for peer in mdcb.peers}) == 1


def test_a_new_client(mdcb: Mdcb, made: Callable[..., Client]) -> None:
    """Another id, and the connections of the old one are closed first."""
    client = made(mdcb.port)
    client.call("Ping")
    client.renew()
    mdcb.wait_until_idle()
    client.call("Ping")
    assert len({peer.identity for peer in mdcb.peers}) == 2
    assert mdcb.open == 1


def test_what_was_given_up_is_never_sent(
    mdcb: Mdcb, made: Callable[..., Client]
) -> None:
    """Nothing waits in a queue for the server to return."""
    client = made(mdcb.port)
    mdcb.leave()
    for _ in range(5):
        with pytest.raises(Unreachable, match="refused"):
            client.call("Login", "key")
    mdcb.restart()
    client.call("Ping")
    assert mdcb.names() == ["Ping"]


def test_every_attempt_dials_once(mdcb: Mdcb, made: Callable[..., Client]) -> None:
    """A server that hangs up at once is not called in a loop."""
    mdcb.hangs_up = True
    client = made(mdcb.port)
    for _ in range(7):
        with pytest.raises(TransientError):
            client.call("Ping")
    assert mdcb.dialled == 7


def test_a_server_that_takes_and_says_nothing(
    mdcb: Mdcb, made: Callable[..., Client]
) -> None:
    """The call ends in time, and its connection is dropped by who does not wait."""
    with Proxy("127.0.0.1", mdcb.port) as proxy:
        proxy.swallow()
        client = made(proxy.port, timeout=0.1)
        with pytest.raises(Unanswered, match=r"no answer within 0\.1 s") as caught:
            client.call("Ping")
        assert caught.value.call is not None
        client.drop(caught.value.call)


def test_a_late_answer_gives_the_connection_back(
    mdcb: Mdcb, made: Callable[..., Client]
) -> None:
    """It is as good as any then."""
    done = threading.Event()
    mdcb.script({"Login": [Answer(True, until=done)]})
    client = made(mdcb.port, timeout=0.05)
    with pytest.raises(Unanswered) as caught:
        client.call("Login", "key")
    done.set()
    assert caught.value.call is not None
    assert client.wait(caught.value.call, PATIENCE) is True
    client.call("Ping")
    assert mdcb.dialled == 1


# TLS


def test_tls(authority: Authority, made: Callable[..., Client]) -> None:
    """The preamble and all else is inside; the certificate is checked."""
    with Mdcb(authority) as server:
        ours = TlsOptions(ssl_ca_file=str(authority.ca_file))
        assert made(server.port, ours).call("Ping") is True
        with pytest.raises(Unreachable, match="certificate verify failed"):
            made(server.port, TlsOptions()).call("Ping")
        loose = TlsOptions(ssl_insecure_skip_verify=True)
        assert made(server.port, loose).call("Ping") is True
        assert server.peers[0].compressed
        # Clients in one process do not change each other.
        with pytest.raises(Unreachable, match="certificate verify failed"):
            made(server.port, TlsOptions()).call("Ping")


def test_the_name_of_the_server(
    authority: Authority, made: Callable[..., Client]
) -> None:
    """It is asked for, and must stand in the certificate."""
    with Mdcb(authority) as server:
        file = str(authority.ca_file)
        right = TlsOptions(ssl_ca_file=file, ssl_server_name="mdcb.test")
        assert made(server.port, right).call("Ping") is True
        wrong = TlsOptions(ssl_ca_file=file, ssl_server_name="other.test")
        with pytest.raises(Unreachable, match="certificate verify failed"):
            made(server.port, wrong).call("Ping")
        assert server.server_names == ["mdcb.test", "other.test"]


def test_a_client_certificate(
    authority: Authority, made: Callable[..., Client]
) -> None:
    """It is shown where the server demands one."""
    cert, key = authority.client("pump")
    file = str(authority.ca_file)
    with Mdcb(authority, demand_certificate=True) as server:
        options = TlsOptions(
            ssl_ca_file=file, ssl_cert_file=str(cert), ssl_key_file=str(key)
        )
        assert made(server.port, options).call("Ping") is True
        assert "pump" in str(server.peers[0].certificate["subject"])
        with pytest.raises(TransientError):
            made(server.port, TlsOptions(ssl_ca_file=file)).call("Ping")


def test_plain_text_to_a_server_with_tls(
    authority: Authority, made: Callable[..., Client]
) -> None:
    """It hangs up; no call has arrived."""
    with Mdcb(authority) as server:
        with pytest.raises(TransientError):
            made(server.port).call("Ping")
        assert server.calls == []


def test_a_missing_file(made: Callable[..., Client], tmp_path: Path) -> None:
    """The option is named before anything is sent."""
    absent = str(tmp_path / "absent.pem")
    with pytest.raises(Exception, match="ssl_ca_file"):
        made(1, TlsOptions(ssl_ca_file=absent))


# Addresses


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("localhost:9090", ("localhost", 9090)),
        (" mdcb.example.com:443 ", ("mdcb.example.com", 443)),
        ("[::1]:9090", ("::1", 9090)),
        (":9090", ("localhost", 9090)),
    ],
)
def test_addresses(text: str, found: tuple[str, int]) -> None:
    """A host and a port."""
    assert address(text) == found


@pytest.mark.parametrize(
    "text", ["localhost", "http://h:1", "h:0", "h:70000", "h:port", "::1:9090", "a b:1"]
)
def test_no_addresses(text: str) -> None:
    """What is wrong is said."""
    with pytest.raises(ValueError, match=r"not host:port|there is no port"):
        address(text)
