"""The syslog servers take lines on every transport, and say what they understood."""

from __future__ import annotations

import contextlib
import socket
import ssl
from pathlib import Path

import pytest

from tests.servers.rsyslog import Message, Rsyslog
from tests.servers.syslogng import SyslogNg
from tests.servers.tls import Authority

HEAD = '<134>1 2026-01-02T03:04:05.678Z box app 42 ID7 [x@1 k="v\\"q"] '
OLD = "<27>Jan  2 03:04:05 box app[42]: "


def send(port: int, datagram: str) -> None:
    """Send one datagram."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        end.sendto(datagram.encode(), ("127.0.0.1", port))


def stream(port: int, data: bytes, context: ssl.SSLContext | None = None) -> None:
    """Send bytes by TCP, or by TLS, and leave in good order."""
    with socket.create_connection(("127.0.0.1", port)) as plain:
        if context is None:
            plain.sendall(data)
            return
        with context.wrap_socket(plain, server_hostname="127.0.0.1") as end:
            end.sendall(data)
            # Left with session tickets unread, the connection would be reset, and the
            # server might lose what it has not yet read.
            end.unwrap().close()


def lines(*messages: str) -> bytes:
    """Return messages with an end of line behind each."""
    return b"".join(message.encode() + b"\n" for message in messages)


def counted(*messages: str) -> bytes:
    """Return messages with their count of octets in front."""
    blobs = [message.encode() for message in messages]
    return b"".join(b"%d %s" % (len(blob), blob) for blob in blobs)


def trusting(authority: Authority) -> ssl.SSLContext:
    """Return a context that trusts the servers of this authority."""
    return ssl.create_default_context(cafile=str(authority.ca_file))


def by_text(messages: list[Message]) -> dict[str, Message]:
    """Return messages by their text; there is no order among transports."""
    return {message.text: message for message in messages}


def understood(transport: str, text: str, found: dict[str, Message]) -> None:
    """Check that a new-style message was understood in all its parts."""
    message = found[text]
    assert message.transport == transport
    assert message.pri == 134
    assert message.time.startswith("2026-01-02T03:04:05.678")
    assert (message.host, message.app, message.pid) == ("box", "app", "42")
    assert (message.msgid, message.structured) == ("ID7", '[x@1 k="v\\"q"]')
    assert message.raw == HEAD + text


def test_rsyslog(rsyslog: Rsyslog, authority: Authority) -> None:
    """It takes UDP, and both framings by TCP and TLS."""
    context = trusting(authority)
    send(rsyslog.udp, HEAD + "ü udp\nmore")
    stream(rsyslog.tcp, lines(HEAD + "a line", HEAD + "next line"))
    stream(rsyslog.tcp, counted(HEAD + "counted\nü", HEAD + "next counted"))
    stream(rsyslog.tls, lines(HEAD + "tls line"), context)
    stream(rsyslog.tls, counted(HEAD + "tls counted\nü", HEAD + "last"), context)
    found = by_text(rsyslog.messages(8))
    assert len(found) == 8
    understood("udp", "ü udp\nmore", found)
    for text in ("a line", "next line", "counted\nü", "next counted"):
        understood("tcp", text, found)
    for text in ("tls line", "tls counted\nü", "last"):
        understood("tls", text, found)


def test_syslog_ng(syslog_ng: SyslogNg, authority: Authority) -> None:
    """It takes UDP, a port for each framing by TCP, and counts by TLS."""
    send(syslog_ng.udp, HEAD + "ü udp")
    stream(syslog_ng.tcp, lines(HEAD + "a line", HEAD + "next line"))
    stream(syslog_ng.octets, counted(HEAD + "counted\nü", HEAD + "next counted"))
    stream(
        syslog_ng.tls,
        counted(HEAD + "tls counted\nü", HEAD + "last"),
        trusting(authority),
    )
    found = by_text(syslog_ng.messages(7))
    assert len(found) == 7
    understood("udp", "ü udp", found)
    for text in ("a line", "next line"):
        understood("tcp", text, found)
    for text in ("counted\nü", "next counted"):
        understood("octets", text, found)
    for text in ("tls counted\nü", "last"):
        understood("tls", text, found)


def test_old_lines(rsyslog: Rsyslog, syslog_ng: SyslogNg) -> None:
    """Both understand the old style, too."""
    for server in (rsyslog, syslog_ng):
        send(server.udp, OLD + "text")
        [message] = server.messages(1)
        assert message.pri == 27
        assert (message.host, message.app, message.pid) == ("box", "app", "42")
        assert (message.msgid, message.structured) == ("", "")
        assert message.text.strip() == "text"
        assert message.raw == OLD + "text"


@pytest.mark.parametrize("kind", [Rsyslog, SyslogNg])
def test_long_lines(tmp_path: Path, kind: type[Rsyslog] | type[SyslogNg]) -> None:
    """A line of 200 kilobytes is not cut."""
    text = "x" * 200_000
    with kind(tmp_path) as server:
        port = server.octets if isinstance(server, SyslogNg) else server.tcp
        stream(port, counted(HEAD + text))
        assert server.messages(1)[0].text == text


@pytest.mark.parametrize("kind", [Rsyslog, SyslogNg])
def test_certificate_demanded(
    tmp_path: Path, kind: type[Rsyslog] | type[SyslogNg], authority: Authority
) -> None:
    """Only a client with a certificate of the authority gets through."""
    nameless, named = trusting(authority), trusting(authority)
    named.load_cert_chain(*authority.client())
    with kind(tmp_path, authority, demand=True) as server:
        # The client may notice only when all has been sent.
        with contextlib.suppress(OSError):
            stream(server.tls, counted(HEAD + "nameless"), nameless)
        stream(server.tls, counted(HEAD + "named"), named)
        assert list(by_text(server.messages(1))) == ["named"]


@pytest.mark.parametrize("kind", [Rsyslog, SyslogNg])
def test_restart(tmp_path: Path, kind: type[Rsyslog] | type[SyslogNg]) -> None:
    """After its death it is found where it was, and keeps what it had."""
    with kind(tmp_path) as server:
        send(server.udp, HEAD + "one")
        server.messages(1)
        server.kill()
        server.restart()
        send(server.udp, HEAD + "two")
        assert [message.text for message in server.messages(2)] == ["one", "two"]
