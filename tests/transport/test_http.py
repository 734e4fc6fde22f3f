"""The HTTP client and back ends that do not keep to the rules."""

from __future__ import annotations

import gzip
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

from tests.servers.http import Answer, HttpServer
from tests.servers.tls import Authority
from tyk_pump.config.options import TlsOptions
from tyk_pump.errors import ConfigError, TransientError
from tyk_pump.transport import http
from tyk_pump.transport.http import HttpClient, checked, fault_of


@pytest.fixture
def server() -> Iterator[HttpServer]:
    """A server without a plan."""
    with HttpServer() as made:
        yield made


@pytest.fixture
def client() -> Iterator[HttpClient]:
    """A client that waits for half a second."""
    made = HttpClient(TlsOptions(), timeout=0.5)
    yield made
    made.close()


# Answers


def test_a_dripping_answer_ends(server: HttpServer, client: HttpClient) -> None:
    """The limit holds for the whole body, however regularly its bytes come."""
    server.respond = lambda request: Answer(200, b"x" * 10_000, drip=0.05)
    with pytest.raises(TransientError, match=r"longer than 0\.5 s"):
        client.get(server.url)


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 1_000_000])
@pytest.mark.parametrize("packed", [False, True])
def test_a_body_of_any_size(
    server: HttpServer, client: HttpClient, size: int, packed: bool
) -> None:
    """It is read in full and the connection serves the next request."""
    body = bytes(number % 251 for number in range(size))
    sent = gzip.compress(body) if packed else body
    kind = {"Content-Encoding": "gzip"} if packed else {}
    server.respond = lambda request: Answer(200, sent, kind)
    assert [client.get(server.url).body for _ in range(3)] == [body] * 3
    assert len({request.client for request in server.requests}) == 1


@pytest.mark.parametrize(
    "rest",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n123",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n123",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\n123",
    ],
)
def test_a_broken_answer(server: HttpServer, client: HttpClient, rest: bytes) -> None:
    """Half an answer is none."""
    server.respond = lambda request: Answer(garbage=rest)
    with pytest.raises(TransientError, match=server.url):
        client.get(server.url)


def test_chunks(server: HttpServer, client: HttpClient) -> None:
    """An answer in chunks is put together."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    server.respond = lambda request: Answer(
        garbage=head + b"5\r\n12345\r\n3\r\n678\r\n0\r\n\r\n"
    )
    assert client.get(server.url).body == b"12345678"


def test_an_answer_without_an_end(
    server: HttpServer, client: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can fill our memory, also with a little that grows on unpacking."""
    monkeypatch.setattr(http, "LARGEST_ANSWER", 100_000)
    packed = gzip.compress(bytes(50_000_000))
    kind = {"Content-Encoding": "gzip"}
    server.respond = lambda request: Answer(200, packed, kind)
    with pytest.raises(TransientError, match="more than 100000 bytes"):
        client.get(server.url)


@pytest.mark.parametrize(
    ("location", "moved"),
    [
        ("https://user:secret@other/x?token=1", ", moved to https://other"),
        ("/login", ", moved to {url}"),
        ("http://[bad", ", moved to what is no address"),
        ("", ""),
    ],
)
def test_a_redirection(
    server: HttpServer, client: HttpClient, location: str, moved: str
) -> None:
    """It is not followed, and said, whatever stands there."""
    server.respond = lambda request: Answer(302, headers={"Location": location})
    with pytest.raises(TransientError) as caught:
        client.post(server.url, b"records")
    assert caught.value.reason.endswith(f"302 Found{moved.format(url=server.url)}")


# Headers and addresses


@pytest.mark.parametrize("value", ["a\nb", "a\r\nX-Other: b", "€", "a\x00b", "\x7f"])
def test_a_header_that_cannot_be_sent(value: str) -> None:
    """It is a fault of the configuration; its value is not shown."""
    with pytest.raises(ConfigError) as caught:
        HttpClient(TlsOptions(), {"X-Token": f"s3cret{value}s3cret"})
    assert "X-Token" in str(caught.value) and "s3cret" not in str(caught.value)


def test_a_header_with_a_line_end(server: HttpServer) -> None:
    """A token from a file often ends in one; it is not part of it."""
    client = HttpClient(TlsOptions(), {"X-Token": " t\u00e4 ken\r\n", "X-None": ""})
    client.get(server.url)
    client.close()
    assert server.requests[0].headers["x-token"] == "t\u00e4 ken"
    assert server.requests[0].headers["x-none"] == ""


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("http://a", ""),
        ("HTTPS://[::1]:80/x?y", ""),
        ("http://user:s3cret@a/", ""),
        ("ftp://user:s3cret@a/", "must begin with http"),
        ("a:9200", "must begin with http"),
        ("", "must begin with http"),
        ("http://user:s3cret@/", "names no host"),
        ("http://user:s3cret@a:x/", "is no address"),
        ("http://user:s3cret@a:99999/", "is no address"),
        ("http://user:s3cret@[a/", "is no address"),
        ("http://user:s3cret@a b/", "is no address"),
        ("http://user:s3cret@.a/", "is no address"),
    ],
)
def test_faults_of_addresses(url: str, fault: str) -> None:
    """What no request could be sent to is found at the start; no password is shown."""
    found = fault_of(url)
    assert (fault in found) if fault else found == ""
    assert "s3cret" not in found
    if fault:
        with pytest.raises(ConfigError, match=r"^url: "):
            checked("url", url)


# TLS and proxies


def test_an_unchecked_certificate_is_no_warning(authority: Authority) -> None:
    """The operator has chosen so; warnings are errors here."""
    careless = TlsOptions(ssl_insecure_skip_verify=True)
    with HttpServer(authority=authority) as server:
        client = HttpClient(careless)
        assert client.get(server.url).status == 200
        client.close()
        # Other clients of this process are still warned.
        with (
            urllib3.PoolManager(cert_reqs="CERT_NONE") as other,
            pytest.warns(urllib3.exceptions.InsecureRequestWarning),
        ):
            other.request("GET", server.url)


def test_a_proxy_is_kept_to_with_tls(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tunnel that is asked for once serves all requests."""
    for name in ("no_proxy", "NO_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    with HttpServer() as proxy:
        proxy.authority = authority
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        client = HttpClient(TlsOptions(ssl_ca_file=str(authority.ca_file)))
        for _ in range(3):
            assert client.get("https://back.example/x").status == 200
        client.close()
        assert proxy.tunnels == ["back.example:443"]
        assert {one.authority for one in proxy.requests} == {"back.example:443"}


def test_a_connection_keeps_its_kind() -> None:
    """One that goes by a proxy of its own making does so with TLS, too."""

    class Roundabout(urllib3.connection.HTTPSConnection):
        pass

    quiet: Any = http._quiet(Roundabout)
    assert issubclass(quiet, Roundabout)
    assert http._quiet(Roundabout) is quiet and http._quiet(quiet) is quiet  # type: ignore[arg-type]


def test_a_connection_that_was_left(client: HttpClient) -> None:
    """One that the server has closed meanwhile is not used again."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed = threading.Event()

        def serve() -> None:
            for _ in range(2):
                connection, _ = listener.accept()
                connection.recv(65536)
                connection.sendall(answer)
                connection.close()
                closed.set()

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        assert client.get(url).status == 200
        assert closed.wait(10)
        assert client.get(url).status == 200
        thread.join(10)


# What the environment says, and what it does not


@pytest.fixture
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.usefixtures("_no_proxies")
def test_proxies_and_those_who_need_none(
    server: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each client looks once; one that is not to have proxies has none."""
    with HttpServer(lambda request: Answer(203)) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        clients = [HttpClient(TlsOptions()), HttpClient(TlsOptions(), proxies=False)]
        assert [client.get(server.url).status for client in clients] == [203, 200]
        assert proxy.requests[0].target == f"{server.url}/"
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        clients.append(HttpClient(TlsOptions()))
        assert clients[-1].get(server.url).status == 200
        for client in clients:
            client.close()


@pytest.mark.usefixtures("_no_proxies")
def test_a_proxy_that_is_away(
    server: HttpServer, client: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason names the proxy's part, and no password of it."""
    with HttpServer() as gone:
        port = gone.port
    monkeypatch.setenv("http_proxy", f"http://me:s3cret@127.0.0.1:{port}")
    with pytest.raises(TransientError, match="the proxy does not serve us") as failed:
        client.get(server.url)
    assert "s3cret" not in failed.value.reason


def test_no_netrc(
    server: HttpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands there does not replace a token."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password x\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    client = HttpClient(TlsOptions(), {"Authorization": "Splunk t"})
    client.get(server.url)
    client.close()
    assert server.requests[0].headers["authorization"] == "Splunk t"


def test_cookies_are_brought_back(server: HttpServer, client: HttpClient) -> None:
    """A balancer keeps us with one server by them."""
    with server.answering(lambda request: Answer(headers={"Set-Cookie": "at=3"})):
        client.get(server.url)
    client.get(server.url)
    assert server.requests[1].headers["cookie"] == "at=3"


def test_gzip_of_requests(server: HttpServer, client: HttpClient) -> None:
    """Only where there is a body."""
    client.post(server.url, b"a" * 1000, gzip=True)
    client.request("GET", server.url, gzip=True)
    first, second = server.requests
    assert len(first.raw) < 100 and first.body == b"a" * 1000
    assert "content-encoding" not in second.headers


def test_an_answer_without_measure(
    server: HttpServer, client: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not fill the memory."""
    monkeypatch.setattr(http, "LARGEST_ANSWER", 100_000)
    with (
        server.answering(lambda request: Answer(body=b"x" * 300_000)),
        pytest.raises(TransientError, match="more than 100000 bytes"),
    ):
        client.get(server.url)
