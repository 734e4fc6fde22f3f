"""Connections to Kafka brokers: metadata, credentials, one request and its answer.

kafka-python knows the wire here: schemas, versions, SASL. Its KafkaProducer is not
used, for it sends from a thread that goes on after we have given up, shows a wrong
password as a time-out, and takes 26 microseconds of CPU per record. Whatever goes wrong
below is raised as TransientError with the broker's address.
"""

from __future__ import annotations

import io
import random
import select
import socket
import ssl
import struct
import time
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
from kafka.errors import KafkaError, for_code
from kafka.net.sasl import get_sasl_mechanism
from kafka.protocol.api_message import ApiMessage
from kafka.protocol.broker_version_data import BrokerVersionData
from kafka.protocol.metadata import ApiVersionsRequest, MetadataRequest
from kafka.protocol.sasl import SaslAuthenticateRequest, SaslHandshakeRequest

from tyk_pump import __version__
from tyk_pump.config.options import Secret
from tyk_pump.errors import TransientError

DEFAULT_PORT: Final = 9092
CONNECT_SECONDS: Final = 10.0
IDLE_SECONDS: Final = 180.0
"""A connection that was silent for longer is made anew: a firewall may have dropped it
without a word."""
METADATA_SECONDS: Final = 300.0
TLS_ALERT: Final = b"\x15\x03"
LARGEST_ANSWER: Final = 64 * 1024 * 1024
UNKNOWN_TOPIC: Final = 3
UNSUPPORTED_VERSION: Final = 35
_GARBAGE: Final = (KafkaError, ValueError, LookupError, TypeError, struct.error)
"""What kafka-python raises on bytes that are no answer."""


class UnknownTopic(TransientError):
    """A broker has never heard of the topic."""


class Access(msgspec.Struct, frozen=True):
    """How a broker is spoken to."""

    client_id: str
    timeout: float
    """Seconds that each request and its answer may take."""
    tls: ssl.SSLContext | None = None
    server_name: str = ""
    mechanism: str = ""
    """SASL mechanism by its standard name; "" for none."""
    username: str = ""
    password: Secret = msgspec.field(default_factory=Secret)


class Topic(msgspec.Struct, frozen=True):
    """The partitions of a topic."""

    count: int
    """How many there are, those without a leader among them."""
    leaders: dict[int, int]
    """Partition -> broker that takes its records now."""


def address(text: str) -> tuple[str, int]:
    """Return host and port of `host:port`; ValueError says what is wrong."""
    host, colon, port = text.strip().rpartition(":")
    if not colon or (host.count(":") and not host.endswith("]")) or port.endswith("]"):
        host, port = text.strip(), str(DEFAULT_PORT)
    host = host.removeprefix("[").removesuffix("]")
    if not host or "/" in host:
        raise ValueError(f"{text!r} is not host:port")
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"{text!r} has no valid port")
    return host, int(port)


def reason_of(code: int) -> str:
    """Return what an error code of a broker means."""
    kind = for_code(code)
    name = getattr(kind, "message", "") or f"error {code}"
    words = getattr(kind, "description", "") or ""
    return f"{name}: {words}".removesuffix(": ").rstrip(".")


class Link:
    """One connection to a broker; usable when made, closed by any failure."""

    def __init__(self, host: str, port: int, access: Access) -> None:
        self.place = f"{host}:{port}"
        self._access = access
        self._correlation = 0
        self._waiting: list[Any] = []
        self._until = float("inf")
        self._used = time.monotonic()
        self._versions = BrokerVersionData(api_versions={18: (0, 3)})
        self._socket = self._connect(host, port)
        try:
            self._ask_versions()
            if access.mechanism:
                self._authenticate()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of it; what was sent and not answered stays in doubt."""
        self._socket.close()

    @property
    def fresh(self) -> bool:
        """Whether it can be expected to work still."""
        now = time.monotonic()
        if now - self._used > IDLE_SECONDS or now > self._until:
            return False
        try:
            # Nothing is awaited: what can be read now is the end.
            return not select.select([self._socket], [], [], 0)[0]
        except (OSError, ValueError):
            return False

    def version(self, request: Any) -> int:
        """Return the newest version of a request both sides know; -1 for none."""
        try:
            return int(self._versions.api_version(request))
        except KafkaError:
            return -1

    def ask(self, request: ApiMessage) -> Any:
        """Send a request and return its answer."""
        self.send(request)
        return self.answer()

    def send(self, request: ApiMessage) -> None:
        """Send a request whose answer is read later."""
        version = self.version(request)
        if version < 0:
            raise self._failed(f"the broker is too old for {request.name}")
        request.API_VERSION = version
        self._correlation += 1
        request.with_header(self._correlation, self._access.client_id)
        data = memoryview(request.encode(framed=True, header=True))
        until = time.monotonic() + self._access.timeout
        try:
            while data:
                self._limit(until)
                data = data[self._socket.send(data) :]
        except OSError as exc:
            raise self._failed(_words(exc)) from exc
        self._waiting.append(request.header)
        self._used = time.monotonic()

    def answer(self) -> Any:
        """Return the answer to the oldest request that has none yet."""
        header = self._waiting.pop(0)
        until = time.monotonic() + self._access.timeout
        try:
            head = self._read(4, until)
            if head[:2] == TLS_ALERT:
                raise self._failed("the broker speaks TLS here, and use_ssl is off")
            (size,) = struct.unpack(">i", head)
            if not 4 <= size <= LARGEST_ANSWER:
                raise self._failed("what answers there is no Kafka broker")
            data = io.BytesIO(self._read(size, until))
        except OSError as exc:
            raise self._failed(_words(exc)) from exc
        self._used = time.monotonic()
        kind = header.get_response_class()
        try:
            if kind.parse_header(data).correlation_id != header.correlation_id:
                raise ValueError("the answer is to another question")
            return kind.decode(data)
        except _GARBAGE as exc:
            raise self._failed(f"an answer that is no Kafka: {exc}") from exc

    def _connect(self, host: str, port: int) -> socket.socket:
        limit = min(CONNECT_SECONDS, self._access.timeout)
        try:
            made = socket.create_connection((host, port), limit)
        except OSError as exc:
            raise TransientError(f"{self.place}: {_words(exc)}") from exc
        try:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._access.tls is not None:
                name = self._access.server_name or host
                return self._access.tls.wrap_socket(made, server_hostname=name)
        except (OSError, ValueError) as exc:
            made.close()
            raise TransientError(f"{self.place}: TLS: {_words(exc)}") from exc
        return made

    def _ask_versions(self) -> None:
        ours = {
            "client_software_name": "tyk-pump",
            "client_software_version": __version__,
        }
        found = self.ask(ApiVersionsRequest(**ours))
        if found.error_code == UNSUPPORTED_VERSION:
            self._versions = BrokerVersionData(api_versions={18: (0, 0)})
            found = self.ask(ApiVersionsRequest())
        if found.error_code:
            raise self._failed(reason_of(found.error_code))
        known = {
            one.api_key: (one.min_version, one.max_version) for one in found.api_keys
        }
        self._versions = BrokerVersionData(api_versions=known)

    def _authenticate(self) -> None:
        access = self._access
        began = time.monotonic()
        found = self.ask(
            SaslHandshakeRequest(mechanism=access.mechanism, max_version=1)
        )
        if found.error_code:
            known = ", ".join(found.mechanisms) or "none"
            words = reason_of(found.error_code)
            raise self._failed(f"{access.mechanism}: {words} (it knows: {known})")
        dialogue = get_sasl_mechanism(access.mechanism)(
            sasl_mechanism=access.mechanism,
            sasl_plain_username=access.username,
            sasl_plain_password=access.password.reveal(),
        )
        lifetime = 0
        while not dialogue.is_done():
            reply = self.ask(SaslAuthenticateRequest(dialogue.auth_bytes()))
            if reply.error_code:
                words = reply.error_message or reason_of(reply.error_code)
                raise self._failed(f"the broker refuses the credentials: {words}")
            try:
                dialogue.receive(reply.auth_bytes)
            except _GARBAGE as exc:
                raise self._failed(f"{access.mechanism}: {exc}") from exc
            lifetime = reply.session_lifetime_ms or 0
        if not dialogue.is_authenticated():
            raise self._failed("the broker does not confirm the credentials")
        if lifetime > 0:
            self._until = began + 0.85 * lifetime / 1000

    def _read(self, size: int, until: float) -> bytes:
        parts = []
        while size:
            self._limit(until)
            part = self._socket.recv(size)
            if not part:
                raise ConnectionResetError("the broker has closed the connection")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _limit(self, until: float) -> None:
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)

    def _failed(self, why: str) -> TransientError:
        self.close()
        return TransientError(f"{self.place}: {why}")


class Cluster:
    """The brokers behind a list of addresses, and where a topic's partitions are."""

    def __init__(self, brokers: Sequence[str], access: Access) -> None:
        self._access = access
        self._entrances = [address(broker) for broker in brokers]
        self._brokers: dict[int, tuple[str, int]] = {}
        self._links: dict[tuple[str, int], Link] = {}
        self._topic: Topic | None = None
        self._asked = 0.0

    def close(self) -> None:
        """Close every connection."""
        for link in self._links.values():
            link.close()
        self._links.clear()

    def describe(self, name: str) -> str:
        """Say in a line what is there; a topic is not made by asking for it."""
        try:
            topic = self._look_up(name, create=False)
        except UnknownTopic:
            found = f"topic {name!r} is not there, unless the brokers make it"
        else:
            found = f"topic {name!r} has {_number(topic.count, 'partition')}"
        return f"{_number(len(self._brokers), 'broker')}, {found}"

    def topic(self, name: str) -> Topic:
        """Return the topic's partitions as they were a while ago."""
        known = self._topic
        if known is None or time.monotonic() - self._asked > METADATA_SECONDS:
            known = self._topic = self._look_up(name, create=True)
            self._asked = time.monotonic()
        return known

    def forget(self) -> None:
        """Ask anew where the partitions are: what was known is wrong."""
        self._topic = None

    def leader(self, partition: int) -> Link:
        """Return a connection to the broker that takes a partition's records."""
        assert self._topic is not None
        return self._link(self._brokers[self._topic.leaders[partition]])

    def any(self) -> Link:
        """Return a connection to some broker, one that is there already if any."""
        open_ = [place for place, link in self._links.items() if link.fresh]
        known = [*self._brokers.values(), *self._entrances]
        random.shuffle(known)
        reasons: dict[str, None] = {}
        for place in dict.fromkeys([*open_, *known]):
            try:
                return self._link(place)
            except TransientError as exc:
                reasons[exc.reason] = None
        raise TransientError("; ".join(list(reasons)[:3]))

    def _link(self, place: tuple[str, int]) -> Link:
        link = self._links.get(place)
        if link is not None:
            if link.fresh:
                return link
            link.close()
        link = self._links[place] = Link(*place, self._access)
        return link

    def _look_up(self, name: str, *, create: bool) -> Topic:
        link = self.any()
        wanted = MetadataRequest.MetadataRequestTopic(name=name)
        request = MetadataRequest(topics=[wanted], allow_auto_topic_creation=create)
        if link.version(request) < 4:
            request = MetadataRequest(topics=[wanted])
        found = link.ask(request)
        self._brokers = {one.node_id: (one.host, one.port) for one in found.brokers}
        return self._partitions(name, found.topics)

    def _partitions(self, name: str, topics: Iterable[Any]) -> Topic:
        for topic in topics:
            if topic.error_code == UNKNOWN_TOPIC:
                raise UnknownTopic(f"topic {name!r} does not exist, or not yet")
            if topic.error_code:
                raise TransientError(f"topic {name!r}: {reason_of(topic.error_code)}")
            leaders = {
                one.partition_index: one.leader_id
                for one in topic.partitions
                if one.leader_id in self._brokers
            }
            if not leaders:
                raise TransientError(f"topic {name!r}: no partition has a leader now")
            return Topic(len(topic.partitions), dict(sorted(leaders.items())))
        raise TransientError(f"topic {name!r}: the broker does not answer for it")


def _number(count: int, of: str) -> str:
    return f"{count} {of}" if count == 1 else f"{count} {of}s"


def _words(exc: Exception) -> str:
    if isinstance(exc, TimeoutError):
        return "no answer in time"
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"certificate refused: {exc.verify_message}"
    if isinstance(exc, ssl.SSLError):
        return str(exc.reason or exc)
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror
    return str(exc) or type(exc).__name__
