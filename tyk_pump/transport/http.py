"""One HTTP client for all pumps that speak HTTP: connections, time limits, verdicts.

What is not the records' fault (no connection, no answer, wrong credentials, a missing
resource, throttling, a failing server) is raised as TransientError; every other answer
is returned, and the pump decides what it means.
"""

from __future__ import annotations

import base64
import email.utils
import functools
import logging
import re
import time
import zlib
from collections.abc import Collection, Mapping
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

import msgspec
import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.cookies import RequestsCookieJar, extract_cookies_to_jar

from tyk_pump import __version__
from tyk_pump.config.options import TlsOptions
from tyk_pump.errors import ConfigError, TransientError
from tyk_pump.log import hide
from tyk_pump.transport import tls

# It logs every request line, and a query may hold a token.
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)

OPERATORS_FAULT: Final = frozenset({401, 402, 403, 404, 405, 407, 410, 421, 451})
"""Statuses that somebody has to mend outside the records."""
PASSING: Final = frozenset({408, 425, 429})
CONNECT_SECONDS: Final = 10.0
LARGEST_ANSWER: Final = 64 * 1024 * 1024
USUAL_ADDRESSES: Final = 64
_EXCERPT: Final = 300
_SENDABLE: Final = re.compile(r"[\t -~\xa0-\xff]*")
_USERINFO: Final = re.compile(r"(?<=//)[^/?#]*@")


class Unreachable(TransientError):
    """No answer came: no connection, silence, or an answer that broke off."""


class Reply(msgspec.Struct, frozen=True):
    """An answer of the back end."""

    status: int
    headers: Mapping[str, str]
    """Names are compared without case."""
    body: bytes
    place: str = ""
    """Who has answered: scheme, host and port."""

    @property
    def reason(self) -> str:
        """Return the status and the beginning of what the back end says, in a line."""
        told = excerpt(self.body[:2000].decode("utf-8", "replace"))
        return f"{_status_text(self.status)}: {told}" if told else self.title

    @property
    def title(self) -> str:
        """Return the status as a number and in words."""
        return _status_text(self.status)

    @property
    def retry_after(self) -> float | None:
        """Return the seconds that the back end asks to be left alone."""
        return _retry_after(self.headers.get("Retry-After", ""))

    def json(self) -> Any:
        """Return what the body means; TransientError where it is no JSON."""
        try:
            return msgspec.json.decode(self.body)
        except (msgspec.DecodeError, RecursionError) as exc:
            told = self.body[:100].decode("utf-8", "replace")
            reason = f"the answer is no JSON ({self.title}): {told!r}"
            raise self.failure(reason) from exc

    def failure(self, reason: str = "") -> TransientError:
        """Return the error for an answer that is not the records' fault."""
        told = f"{self.place}: {reason or self.reason}"
        return TransientError(told, retry_after=self.retry_after)


class HttpClient:
    """Connections of one pump, with credentials, TLS and proxies of its own."""

    def __init__(
        self,
        options: TlsOptions,
        headers: Mapping[str, str] | None = None,
        *,
        timeout: float = 60.0,
        connections: int = 10,
        proxies: bool = True,
    ) -> None:
        """`timeout` limits the wait for an answer and then its reading, in seconds.

        Proxies are those of the environment.
        """
        self._timeout = timeout
        self._proxied = proxies
        self._proxies: dict[str, Any] = {}
        self._usual: dict[tuple[str, str], requests.PreparedRequest] = {}
        self._headers = requests.utils.default_headers()
        self._headers["User-Agent"] = f"tyk-pump/{__version__}"
        for name, value in (headers or {}).items():
            self._headers[name] = _sendable(name, value)
        self._cookies = RequestsCookieJar()
        # Without a session: it would do all of this anew for each request, and ask
        # the environment for credentials.
        self._adapter = _Adapter(options, connections)

    def get(self, url: str, **how: Any) -> Reply:
        """Ask for something; the keywords are those of `request`."""
        return self.request("GET", url, **how)

    def post(self, url: str, body: bytes, **how: Any) -> Reply:
        """Send something; the keywords are those of `request`."""
        return self.request("POST", url, body, **how)

    def request(
        self,
        method: str,
        url: str,
        body: bytes | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        gzip: bool = False,
        accept: Collection[int] = (),
        timeout: float | None = None,
    ) -> Reply:
        """Return the answer; TransientError where it is not the records' fault.

        `accept` names statuses that the caller wants to see whatever they mean.
        """
        limit = timeout or self._timeout
        sent = dict(headers or {})
        if gzip and body is not None:
            body = gzipped(body)
            sent["Content-Encoding"] = "gzip"
        try:
            asked = self._prepared(method, url, body, sent)
            answer = self._adapter.send(
                asked,
                timeout=(min(CONNECT_SECONDS, limit), limit),
                proxies=self._proxies_for(url),
                stream=True,
            )
            with answer:
                if "Set-Cookie" in answer.headers:
                    extract_cookies_to_jar(  # type: ignore[no-untyped-call]
                        self._cookies, asked, answer.raw
                    )
                body_read = _read(answer, limit)
                status, names = answer.status_code, answer.headers
                reply = Reply(status, names, body_read, place(url))
        except (
            requests.RequestException,
            urllib3.exceptions.HTTPError,
            OSError,
        ) as exc:
            raise Unreachable(f"{place(url)}: {cause(exc)}") from exc
        if reply.status not in accept:
            _raise_for(reply, url)
        return reply

    def close(self) -> None:
        """Close every connection."""
        self._adapter.close()

    def _prepared(
        self, method: str, url: str, body: bytes | None, headers: Mapping[str, str]
    ) -> requests.PreparedRequest:
        """Return a request; what is the same for all of an address is made once."""
        made = self._usual.get((method, url))
        if made is None:
            made = requests.PreparedRequest()
            made.prepare(method, url, dict(self._headers))
            if len(self._usual) >= USUAL_ADDRESSES:
                self._usual.clear()
            self._usual[method, url] = made
        made = made.copy()
        for header in headers.items():
            requests.utils.check_header_validity(header)
        made.headers.update(headers)
        if self._cookies:
            made.prepare_cookies(self._cookies)
        if body is not None:
            made.body = body
            made.headers["Content-Length"] = str(len(body))
        return made

    def _proxies_for(self, url: str) -> Any:
        if not self._proxied:
            return {}
        origin = place(url)
        if origin not in self._proxies:
            self._proxies[origin] = requests.utils.get_environ_proxies(url, None)
        return self._proxies[origin]


def driver_session(
    url: str, options: TlsOptions, *, retries: int = 0, ca_folder: str = ""
) -> requests.Session:
    """Return a session for a driver that brings requests of its own to this address.

    It has our TLS and proxies. A refused connection and a failing server are tried
    again so often.
    """
    session = requests.Session()
    session.trust_env = False
    session.headers["User-Agent"] = f"tyk-pump/{__version__}"
    session.proxies = requests.utils.get_environ_proxies(url, None)
    again = urllib3.Retry(
        retries,
        backoff_factor=0.1,
        status_forcelist=(429, 500, 502, 503, 504),
        raise_on_status=False,
        redirect=None,
    )
    adapter = _Adapter(options, 2, max_retries=again)
    if ca_folder:
        adapter.context.load_verify_locations(capath=ca_folder)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


class _Adapter(HTTPAdapter):
    """Makes connections with our SSL context and nothing of the process's own."""

    def __init__(self, options: TlsOptions, connections: int, **how: Any) -> None:
        self.context = tls.context(options)
        self._tls: dict[str, Any] = {"ssl_context": self.context}
        if options.ssl_server_name:
            self._tls["server_hostname"] = options.ssl_server_name
        super().__init__(pool_connections=connections, pool_maxsize=connections, **how)

    def build_connection_pool_key_attributes(
        self, request: Any, verify: Any, cert: Any = None
    ) -> tuple[Any, Any]:
        """The context alone says whom to believe; no bundle is added to it."""
        host, _ = super().build_connection_pool_key_attributes(request, True, None)
        return host, self._tls if host["scheme"] == "https" else {}

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Nothing to add to the context."""
        if conn.scheme == "https":
            conn.ConnectionCls = _quiet(conn.ConnectionCls)


@functools.cache
def _quiet(kind: type[Any]) -> type[Any]:
    """Return this kind of connection without the warning, with every request anew, of
    a certificate that is not checked: that is what the operator has chosen.

    The kind stays, so that a connection through a proxy still is one.
    """
    if issubclass(kind, _Quiet):
        return kind
    return type(kind.__name__, (_Quiet, kind), {})


class _Quiet:
    """Takes a connection for one with a checked certificate."""

    def connect(self) -> None:
        """Connect; whether the certificate is checked is the context's affair."""
        super().connect()  # type: ignore[misc]
        self.is_verified = True


def basic_header(name: str, password: str) -> str:
    """Return the Authorization header of basic authentication."""
    return f"Basic {encoded_pair(name, password)}"


def encoded_pair(name: str, secret: str) -> str:
    """Return `name:secret` in base64; a log that quotes it hides it like the secret."""
    encoded = base64.b64encode(f"{name}:{secret}".encode()).decode()
    if name or secret:
        hide([encoded])
    return encoded


def place(url: str) -> str:
    """Return scheme, host and port: what of an address may stand in a message."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def fault_of(url: str) -> str:
    """Return what is wrong with an http or https address, or nothing.

    A password in it is not shown.
    """
    shown = repr(_USERINFO.sub("***@", url))
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as exc:
        return f"{shown} is no address: {exc}"
    if parts.scheme.lower() not in ("http", "https"):
        return f"{shown} must begin with http:// or https://"
    if not parts.hostname:
        return f"{shown} names no host"
    try:
        requests.PreparedRequest().prepare_url(url, None)
    except ValueError:
        return f"{shown} is no address: {parts.hostname!r} cannot be a host"
    return ""


def checked(option: str, url: str) -> str:
    """Return the address, or raise ConfigError with the option's name."""
    if fault := fault_of(url):
        raise ConfigError(f"{option}: {fault}")
    return url


def _sendable(name: str, value: str) -> str:
    """Return the value without what stands around it, a line's end say."""
    value = value.strip(" \t\r\n")
    if not _SENDABLE.fullmatch(value):
        # It may be a secret and stays out of the message.
        reason = "has a line end or another character that no header may have"
        raise ConfigError(f"the header {name} {reason}")
    return value


def gzipped(body: bytes, level: int = 1) -> bytes:
    """Return the body compressed; the first level has most of the gain."""
    made = zlib.compressobj(level, zlib.DEFLATED, 31)
    return made.compress(body) + made.flush()


def _read(answer: requests.Response, limit: float) -> bytes:
    """Return the body; a server that drips it is not waited for without end."""
    until = time.monotonic() + limit
    parts, size = [], 0
    # What has come so far: a read of a number of bytes would wait for all of them.
    while part := answer.raw.read1(65536, decode_content=True):
        parts.append(part)
        size += len(part)
        if size > LARGEST_ANSWER:
            raise OSError(f"the answer has more than {LARGEST_ANSWER} bytes")
        if time.monotonic() > until:
            raise OSError(f"the answer took longer than {limit:g} s")
    return b"".join(parts)


def _raise_for(reply: Reply, url: str) -> None:
    status = reply.status
    if 300 <= status < 400 and status != HTTPStatus.NOT_MODIFIED:
        moved = _moved(url, reply.headers.get("Location", ""))
        raise reply.failure(f"{reply.title}{moved}")
    if status in OPERATORS_FAULT or status in PASSING or status >= 500:
        raise reply.failure()


def excerpt(text: str) -> str:
    """Return the beginning of what somebody else says, in a line."""
    shown = "".join(char if char.isprintable() else " " for char in text[:2000])
    return " ".join(shown.split())[:_EXCERPT]


def _moved(url: str, location: str) -> str:
    try:
        return f", moved to {place(urljoin(url, location))}" if location else ""
    except ValueError:
        return ", moved to what is no address"


def _status_text(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _retry_after(text: str) -> float | None:
    if re.fullmatch(r"\d{1,9}", text.strip()):
        return float(text)
    if not text:
        return None
    try:
        when = email.utils.parsedate_to_datetime(text)
        return max(0.0, when.timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def cause(exc: BaseException) -> str:
    """Return the innermost reason: the outer ones repeat the address, query and all."""
    if isinstance(exc, requests.exceptions.ProxyError):
        return f"the proxy does not serve us: {_innermost(exc)}"
    return _innermost(exc)


def _innermost(exc: BaseException) -> str:
    chain: list[BaseException] = []
    at: BaseException | None = exc
    while at is not None and at not in chain:
        chain.append(at)
        inner = getattr(at, "reason", None) or next(
            (arg for arg in at.args if isinstance(arg, BaseException)), None
        )
        at = inner if isinstance(inner, BaseException) else at.__cause__
    for one in reversed(chain):
        if isinstance(one, OSError) and one.strerror:
            return one.strerror
        if isinstance(one, urllib3.exceptions.TimeoutError | requests.Timeout):
            return "no answer in time"
    text = str(chain[-1])
    # urllib3 begins with the connection's repr.
    text = re.sub(r"^<[^>]*>: |^\S*Pool\([^)]*\): ", "", text)
    return excerpt(text) or type(exc).__name__
