"""The kafka pump against a real broker: what arrives, and what is said when not."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from kafka.partitioner import murmur2
from kafka.record.default_records import DefaultRecordBatchBuilder

from tests.servers.kafka import (
    PLAIN_USER,
    SCRAM_USER,
    Kafka,
    KafkaServer,
    ProxiedKafka,
    topic_name,
)
from tests.servers.tls import Authority
from tests.worker.bench import StillClock, config, run
from tyk_pump import channel
from tyk_pump.config.options import Secret, dec_hook
from tyk_pump.errors import RejectedRecords, TransientError
from tyk_pump.pumps.kafka import KafkaOptions, KafkaPump
from tyk_pump.pumps.protocol import Batch
from tyk_pump.record import wire
from tyk_pump.record.analytics import AnalyticsRecord
from tyk_pump.transport import kafka_producer
from tyk_pump.transport.kafka import Link, address

STREAM = "01JZZZZZZZZZZZZZZZZZZZZZZZ"
TIME = (1_741_183_629, 0)


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    """A name of this test's own."""
    return topic_name(f"pump-{request.node.name}")


def options(**given: Any) -> KafkaOptions:
    """Return options as the loader makes them."""
    return msgspec.convert(given, KafkaOptions, dec_hook=dec_hook)


@contextlib.contextmanager
def opened(broker: str, topic: str, **given: Any) -> Iterator[KafkaPump]:
    """Yield a pump that is open."""
    pump = KafkaPump(options(broker=[broker], topic=topic, **given))
    pump.open()
    try:
        yield pump
    finally:
        pump.close()


def batch(*records: AnalyticsRecord, first: int = 0) -> Batch:
    """Return records as a batch."""
    return Batch(STREAM, 0, "a", range(first, first + len(records)), list(records))


def record(alias: str, **fields: Any) -> AnalyticsRecord:
    """Return a record with a name."""
    made = AnalyticsRecord(alias=alias, timestamp=TIME)
    for key, value in fields.items():
        setattr(made, key, value)
    return made


def aliases(kafka: Kafka, topic: str) -> list[str]:
    """Return the names of what a topic has."""
    return [json.loads(m.value)["alias"] for m in kafka.all_messages(topic)]


def numbered(count: int) -> list[str]:
    """Return names."""
    return [f"n{number:04}" for number in range(count)]


def frame(names: list[str]) -> bytes:
    """Return a frame of records of about half a kilobyte."""
    raws = [wire.pack(record(name, raw_request="R" * 300)) for name in names]
    return channel.encode_frame(STREAM, "analytics", "msgpack", 0, None, raws)


class AtFirstPause(StillClock):
    """Does something once, when the worker first waits after a failure."""

    def __init__(self, action: Callable[[], object]) -> None:
        super().__init__()
        self._action: Callable[[], object] | None = action

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        if self._action is not None:
            self._action()
        self._action = None


@pytest.fixture
def forged(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Error codes that stand in the next answers to produce requests."""
    codes: list[int] = []
    answer = Link.answer

    def other(link: Link) -> Any:
        found = answer(link)
        if codes and found.name == "ProduceResponse":
            found.responses[0].partition_responses[0].error_code = codes.pop(0)
        if codes and found.name == "InitProducerIdResponse" and codes[0] < 0:
            found.error_code = -codes.pop(0)
        return found

    monkeypatch.setattr(Link, "answer", other)
    return codes


# Who we are


def _logins(authority: Authority) -> dict[str, tuple[str, dict[str, Any]]]:
    trust = {"use_ssl": True, "ssl_ca_file": str(authority.ca_file)}
    cert, key = authority.client()
    shown = {"ssl_cert_file": str(cert), "ssl_key_file": str(key)}
    plain = dict(zip(("sasl_username", "sasl_password"), PLAIN_USER, strict=True))
    scram = dict(zip(("sasl_username", "sasl_password"), SCRAM_USER, strict=True))
    return {
        "plain": ("sasl_plaintext", {"sasl_mechanism": "plain", **plain}),
        "scram": ("sasl_plaintext", {"sasl_mechanism": "scram", **scram}),
        "scram-and-algorithm": (
            "sasl_plaintext",
            {"sasl_mechanism": "scram", "sasl_algorithm": "sha-512", **scram},
        ),
        "client-certificate": ("ssl", {**trust, **shown}),
        "tls-and-plain": ("sasl_ssl", {"sasl_mechanism": "plain", **trust, **plain}),
        "tls-and-scram-512": (
            "sasl_ssl",
            {"sasl_mechanism": "scram-sha-512", **trust, **scram},
        ),
        "tls-unverified": (
            "sasl_ssl",
            {
                "sasl_mechanism": "scram-sha-256",
                "use_ssl": True,
                "ssl_insecure_skip_verify": True,
                **scram,
            },
        ),
    }


LOGINS = [
    "plain",
    "scram",
    "scram-and-algorithm",
    "client-certificate",
    "tls-and-plain",
    "tls-and-scram-512",
    "tls-unverified",
]


@pytest.mark.parametrize("how", LOGINS)
def test_every_way_in(
    how: str, kafka_server: Kafka, authority: Authority, topic: str
) -> None:
    """Each mechanism, with and without TLS; the probe goes the same way."""
    listener, given = _logins(authority)[how]
    kafka_server.create_topic(topic)
    with opened(getattr(kafka_server, listener), topic, **given) as pump:
        assert pump.probe() == f"1 broker, topic {topic!r} has 1 partition"
        pump.write(batch(record("a"), record("b")))
    assert aliases(kafka_server, topic) == ["a", "b"]


WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "plain-password": (
        "plain",
        {"sasl_password": "n0t-this-one"},
        "the broker refuses the credentials: Authentication failed",
    ),
    "scram-password": (
        "scram",
        {"sasl_password": "n0t-this-one"},
        "the broker refuses the credentials",
    ),
    "mechanism": (
        "client-certificate",
        {"sasl_mechanism": "plain", "sasl_username": "u", "sasl_password": "p4ss"},
        "PLAIN: ILLEGAL_SASL_STATE",
    ),
    "authority": (
        "tls-and-plain",
        {"ssl_ca_file": ""},
        "TLS: certificate refused: ",
    ),
    "server-name": (
        "tls-and-plain",
        {"ssl_server_name": "kafka.example.com"},
        "TLS: certificate refused: Hostname mismatch",
    ),
    "no-tls": ("tls-and-plain", {"use_ssl": False}, "the broker speaks TLS here"),
    "no-certificate": (
        "client-certificate",
        {"ssl_cert_file": "", "ssl_key_file": ""},
        "",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_way_in(
    what: str,
    kafka_server: Kafka,
    authority: Authority,
    topic: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The reason is told at once, by the probe too, and no secret in it."""
    how, changes, reason = WRONG[what]
    listener, given = _logins(authority)[how]
    given = {"timeout": 5.0, **given, **changes}
    broker = getattr(kafka_server, listener)
    with opened(broker, topic, **given) as pump:
        for call in (pump.probe, lambda: pump.write(batch(record("a")))):
            with pytest.raises(TransientError) as told:
                call()
            assert told.value.reason.startswith(broker)
            assert reason in told.value.reason
            assert told.value.pending in (None, [0])
            assert given.get("sasl_password", "n0ne") not in told.value.reason
    if secret := given.get("sasl_password"):
        assert secret not in caplog.text
    assert aliases(kafka_server, topic) == []


def test_two_pumps_keep_their_trust(
    kafka_server: Kafka, authority: Authority, topic: str
) -> None:
    """One that believes everybody does not make the other one do so."""
    kafka_server.create_topic(topic)
    _, lax = _logins(authority)["tls-unverified"]
    _, strict = _logins(authority)["tls-and-plain"]
    broker = kafka_server.sasl_ssl
    with (
        opened(broker, topic, **lax) as one,
        opened(broker, topic, **{**strict, "ssl_ca_file": ""}) as other,
    ):
        one.write(batch(record("a")))
        with pytest.raises(TransientError, match="certificate refused"):
            other.write(batch(record("b")))
        one.write(batch(record("c")))
    assert aliases(kafka_server, topic) == ["a", "c"]


def test_what_the_options_say_is_wrong() -> None:
    """Each fault names its key."""
    given = options(broker=["kafka:99999", "http://a:9092"], topic="a b")
    assert list(given.faults()) == [
        ("broker", "'kafka:99999' has no valid port"),
        ("broker", "'http://a:9092' is not host:port"),
        ("topic", "'a b' is no name of a topic"),
    ]
    given = options(broker=["k"], topic="t", sasl_mechanism="plain")
    assert list(given.faults()) == [("sasl_username", "missing beside sasl_mechanism")]
    given = options(broker=["k"], topic="t", ssl_cert_file="x")
    assert list(given.faults()) == [("ssl_key_file", "missing beside ssl_cert_file")]
    assert repr(Secret("p4ssword")) not in repr(given)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("kafka:1", ("kafka", 1)),
        (" kafka ", ("kafka", 9092)),
        ("[::1]:19092", ("::1", 19092)),
        ("[::1]", ("::1", 9092)),
        ("::1", ("::1", 9092)),
    ],
)
def test_addresses(text: str, place: tuple[str, int]) -> None:
    """With and without a port, old and new."""
    assert address(text) == place


# What a message is


def test_a_record_batch_is_what_others_make() -> None:
    """Byte for byte as kafka-python's own builder writes it."""
    identity = kafka_producer.Identity(77, 3)
    values = [b"a", b"", b"c" * 100, b"d" * 9000, b"e" * 3_000_000]
    for key in (None, b"key"):
        builder = DefaultRecordBatchBuilder(2, 0, False, 77, 3, 41, 2**30)
        made_header = kafka_producer.header_of("name")
        items = []
        for number, value in enumerate([*values[:4] * 40, values[4]]):
            builder.append(number, 5000, key, value, [("name", b"id")])
            body = kafka_producer.body_of(key, value, made_header("id"))
            items.append(kafka_producer.Item(key, body))
        none = kafka_producer.COMPRESSIONS["none"]
        made = kafka_producer.record_batch(items, 5000, none, identity, 41)
        assert made == bytes(builder.build())
        assert len(made) <= 61 + sum(map(kafka_producer.size_of, items))


@pytest.mark.parametrize("compression", kafka_producer.COMPRESSIONS)
def test_compression(
    compression: str, kafka_server: Kafka, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each kind is read back as it was, and made the request smaller."""
    sizes: list[int] = []
    send = Link.send

    def noted(link: Link, request: Any) -> None:
        if request.name == "ProduceRequest":
            sizes.append(len(request.topic_data[0].partition_data[0].records))
        send(link, request)

    monkeypatch.setattr(Link, "send", noted)
    kafka_server.create_topic(topic)
    names = numbered(200)
    with opened(kafka_server.plaintext, topic, compression=compression) as pump:
        pump.write(batch(*map(record, names)))
    assert aliases(kafka_server, topic) == names
    assert (sizes[0] < 30_000) is (compression != "none")


def test_key_order_and_place(kafka_server: Kafka, topic: str) -> None:
    """Records of one API stay in order, where every client of Kafka puts that key."""
    kafka_server.create_topic(topic, 3)
    apis = ["orders", "users", "caf\udce9", "billing", ""]
    records = [record(f"n{n:03}", api_id=apis[n % 5]) for n in range(100)]
    with opened(kafka_server.plaintext, topic, key_field="api_id") as pump:
        pump.write(batch(*records))
    messages = kafka_server.all_messages(topic)
    assert len(messages) == 100
    for api in apis:
        key = api.encode("utf-8", "surrogateescape") or None
        some = [m for m in messages if m.key == key]
        names = [json.loads(m.value)["alias"] for m in some]
        assert names == sorted(names) and len(names) == 20
        (partition,) = {m.partition for m in some}
        if key:
            place = murmur2(key) & 0x7FFFFFFF
            assert partition == place % 3


def test_without_a_key_partitions_fill_evenly(kafka_server: Kafka, topic: str) -> None:
    """Whole batches, each where the fewest bytes went so far."""
    kafka_server.create_topic(topic, 3)
    with opened(kafka_server.plaintext, topic) as pump:
        for number in range(9):
            pump.write(batch(*map(record, numbered(10)), first=number * 10))
    found = [message.partition for message in kafka_server.all_messages(topic)]
    assert [found.count(number) for number in range(3)] == [30, 30, 30]


def test_the_record_id_header(kafka_server: Kafka, topic: str) -> None:
    """By another name, or none."""
    kafka_server.create_topic(topic)
    for name in ("id", ""):
        given = {"record_id_header": name, "meta_data": {"tags": "x", "zone": "é"}}
        with opened(kafka_server.plaintext, topic, **given) as pump:
            assert "tags" not in pump.fields
            pump.write(batch(record("a"), first=7))
    with_, without = kafka_server.all_messages(topic)
    assert with_.headers == [("id", f"{STREAM}:7".encode())]
    assert without.headers == []
    assert json.loads(with_.value)["zone"] == "é"


# What is refused


@pytest.mark.parametrize("limit", ["client", "topic"])
def test_one_is_too_large(limit: str, kafka_server: Kafka, topic: str) -> None:
    """Only that one is refused, whoever minds."""
    settings = {"max_message_bytes": 3000} if limit == "topic" else {}
    kafka_server.create_topic(topic, **settings)
    given = {"batch_bytes": 3000} if limit == "client" else {}
    records = [record(name) for name in numbered(30)]
    records[11] = record("large", raw_request="R" * 5000)
    with opened(kafka_server.plaintext, topic, **given) as pump:
        with pytest.raises(RejectedRecords) as told:
            pump.write(batch(*records))
        pump.write(batch(record("after"), first=30))
    assert list(told.value.rejected) == [11]
    assert "too large" in told.value.rejected[11]
    names = [name for at, name in enumerate(numbered(30)) if at != 11]
    assert aliases(kafka_server, topic) == [*names, "after"]


def test_what_the_topic_does_not_allow(kafka_server: Kafka, topic: str) -> None:
    """A compacted topic wants keys: the broker's own words, record by record."""
    kafka_server.create_topic(topic, cleanup_policy="compact")
    with (
        opened(kafka_server.plaintext, topic, key_field="api_id") as pump,
        pytest.raises(RejectedRecords) as told,
    ):
        pump.write(batch(record("a", api_id="x"), record("b"), record("c", api_id="y")))
    assert list(told.value.rejected) == [1]
    assert "without key" in told.value.rejected[1]
    assert aliases(kafka_server, topic) == ["a", "c"]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (6, "NOT_LEADER"),
        (7, "REQUEST_TIMED_OUT"),
        (19, "NOT_ENOUGH_REPLICAS"),
        (20, "NOT_ENOUGH_REPLICAS_AFTER_APPEND"),
        (29, "TOPIC_AUTHORIZATION_FAILED"),
        (45, "OUT_OF_ORDER_SEQUENCE"),
        (56, "KAFKA_STORAGE_ERROR"),
        (9999, "9999"),
    ],
)
def test_what_may_pass_later(
    code: int, reason: str, kafka_server: Kafka, topic: str, forged: list[int]
) -> None:
    """All are pending with the broker's reason, and arrive with the next attempt."""
    kafka_server.create_topic(topic)
    forged += [0, code]
    with opened(kafka_server.plaintext, topic, batch_bytes=1000) as pump:
        all_ = batch(record("a", path="/" * 300), record("b", path="/" * 300))
        with pytest.raises(TransientError) as told:
            pump.write(all_)
        assert told.value.pending == [1] and reason in told.value.reason
        pump.write(all_.part([1]))
    # The broker had taken them in truth: in doubt, or not, or under a new identity.
    found = aliases(kafka_server, topic)
    assert found == (["a", "b", "b"] if code == 45 else ["a", "b"])


def test_records_sent_before_are_delivered(
    kafka_server: Kafka, topic: str, forged: list[int]
) -> None:
    """DUPLICATE_SEQUENCE_NUMBER means that they are there."""
    kafka_server.create_topic(topic)
    forged += [46]
    with opened(kafka_server.plaintext, topic) as pump:
        pump.write(batch(record("a")))


def test_brokers_without_idempotent_producers(
    kafka_server: Kafka,
    topic: str,
    forged: list[int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Refused by the rights of our user: written to all the same, with a warning."""
    kafka_server.create_topic(topic)
    forged += [-31]
    with opened(kafka_server.plaintext, topic) as pump:
        pump.write(batch(record("a")))
        pump.write(batch(record("b"), first=1))
    assert aliases(kafka_server, topic) == ["a", "b"]
    assert caplog.text.count("no idempotent producer") == 1


# What fails on the way


def test_a_missing_topic(make_kafka: Callable[..., KafkaServer], topic: str) -> None:
    """Named while it is missing; the records arrive when somebody has made it."""
    server = make_kafka(auto_create=False)
    with opened(server.plaintext, topic) as pump:
        assert pump.probe() == (
            f"1 broker, topic {topic!r} is not there, unless the brokers make it"
        )
        with pytest.raises(TransientError) as told:
            pump.write(batch(record("a")))
        assert told.value.reason == f"topic {topic!r} does not exist, or not yet"
        assert told.value.pending == [0]
        server.create_topic(topic)
        pump.write(batch(record("a")))
    assert aliases(server, topic) == ["a"]


@pytest.mark.parametrize("after", [0, 3])
def test_a_broker_is_killed_in_the_middle(
    after: int,
    make_kafka: Callable[..., KafkaServer],
    topic: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is lost, and what it had already is not there twice."""
    server = make_kafka()
    server.create_topic(topic)
    names = numbered(200)
    send, sent = Link.send, 0

    def deadly(link: Link, request: Any) -> None:
        nonlocal sent
        send(link, request)
        if request.name == "ProduceRequest":
            sent += 1
            if sent == after + 1:
                server.kill()

    monkeypatch.setattr(Link, "send", deadly)
    with opened(server.plaintext, topic, batch_bytes=20_000) as pump:
        clock = AtFirstPause(server.restart)
        end = run(pump, [frame(names)], settings=config(), clock=clock)
    assert [done.delivered for done in end.outcomes] == [200]
    assert aliases(server, topic) == names


@pytest.mark.parametrize("idempotent", [True, False])
def test_an_answer_is_lost(
    idempotent: bool, proxied_kafka: ProxiedKafka, topic: str
) -> None:
    """What is sent again is kept once; twice where the option says so."""
    proxied_kafka.create_topic(topic)
    proxy = proxied_kafka.proxy
    records = [record(name) for name in numbered(10)]
    with opened(proxied_kafka.plaintext, topic, idempotent=idempotent) as pump:
        pump.write(batch(record("first")))
        proxy.lose_answer()
        try:
            with pytest.raises(TransientError) as told:
                pump.write(batch(*records, first=1))
        finally:
            proxy.heal()
        assert told.value.pending == list(range(10))
        pump.write(batch(*records, record("next"), first=1))
        pump.write(batch(record("last"), first=12))
    times = 1 if idempotent else 2
    found = aliases(proxied_kafka, topic)
    assert found == ["first", *(numbered(10) * times), "next", "last"]


def test_what_is_in_doubt_does_not_come_again(
    proxied_kafka: ProxiedKafka, topic: str
) -> None:
    """Other records follow under a new identity, and all arrive."""
    proxied_kafka.create_topic(topic)
    with opened(proxied_kafka.plaintext, topic) as pump:
        pump.write(batch(record("a")))
        proxied_kafka.proxy.lose_answer()
        try:
            with pytest.raises(TransientError):
                pump.write(batch(record("b"), record("c"), first=1))
        finally:
            proxied_kafka.proxy.heal()
        pump.write(batch(record("d"), first=3))
    assert aliases(proxied_kafka, topic) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("key_field", ["", "alias"])
def test_a_hung_broker(
    key_field: str, make_kafka: Callable[..., KafkaServer], topic: str
) -> None:
    """The write ends within its time; when the broker goes on, all is there once."""
    server = make_kafka()
    server.create_topic(topic, 3)
    given = {"timeout": 0.5, "key_field": key_field, "batch_bytes": 20_000}
    assert server.process is not None
    (java,) = _children(server.process.pid)
    with opened(server.plaintext, topic, **given) as pump:
        run(pump, [frame(["first"])], settings=config())
        os.kill(java, signal.SIGSTOP)
        clock = AtFirstPause(lambda: os.kill(java, signal.SIGCONT))
        names = numbered(100)
        end = run(pump, [frame(names)], settings=config(), clock=clock)
    assert "no answer in time" in repr(end.answers)
    assert [done.delivered for done in end.outcomes] == [100]
    assert sorted(aliases(server, topic)) == ["first", *names]


def _children(pid: int) -> list[int]:
    found = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, check=True
    )
    return [int(text) for text in found.stdout.split()]


def test_a_broker_that_is_none(topic: str, kafka_server: Kafka) -> None:
    """Another service on the port is told as such."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            one, _ = listener.accept()
            with one:
                one.recv(1000)
                one.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        broker = f"127.0.0.1:{listener.getsockname()[1]}"
        with (
            opened(broker, topic) as pump,
            pytest.raises(TransientError, match="no Kafka broker"),
        ):
            pump.write(batch(record("a")))
        thread.join()


def test_a_connection_that_was_idle_is_made_anew(
    proxied_kafka: ProxiedKafka, topic: str
) -> None:
    """One that ended meanwhile is noticed before anything is sent on it."""
    proxied_kafka.create_topic(topic)
    with opened(proxied_kafka.plaintext, topic) as pump:
        pump.write(batch(record("a")))
        proxied_kafka.proxy.cut()
        proxied_kafka.proxy.heal()
        pump.write(batch(record("b"), first=1))
    assert aliases(proxied_kafka, topic) == ["a", "b"]
