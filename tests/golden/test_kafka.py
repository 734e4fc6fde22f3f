"""The kafka pump writes what the reference wrote, its defects put right."""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.golden import loader
from tests.golden.deliver import Delivered, deliver
from tests.golden.loader import Case
from tests.golden.repair import UNKNOWN_ZONES, shown
from tests.golden.run import configuration
from tests.servers.kafka import Kafka, topic_name
from tests.servers.proxy import Proxy
from tests.worker.bench import StillClock
from tyk_pump import pumps
from tyk_pump.config.load import Config
from tyk_pump.errors import ConfigError
from tyk_pump.transport.kafka import Link

CASES = loader.cases("kafka")
FAULTS = {
    "fail-broker-wrong-kind": "pumps.kafka.meta.broker: expected array, got str",
    "fail-no-broker": "pumps.kafka.meta.broker: ",
    "fail-no-topic": "pumps.kafka.meta.topic: missing",
    "fail-sasl-unknown": "pumps.kafka.meta.sasl_mechanism: 'gssapi' is not one of",
    "fail-timeout-kind-bool": "pumps.kafka.meta.timeout: ",
    "fail-timeout-text-bad": "pumps.kafka.meta.timeout: ",
}
"""What is wrong in the configuration: the reference ends, crashes at the first write,
or goes on without a log-in or a time-out."""
AWAY = {
    "fail-broker-unreachable": "127.0.0.1:1: Connection refused",
    "fail-sasl-plain-without-tls": "PLAIN: ILLEGAL_SASL_STATE",
    "fail-ssl-against-plain-broker": "TLS: ",
}
"""Why nothing can be delivered: the reference loses the records at once, ours wait."""
COMING = {
    "fail-refused-for-12s": "closed the connection",
    "fail-topic-missing": "does not exist, or not yet",
}
"""Why the first attempts fail: the reference loses those records, ours arrive."""
TOLD: dict[str, dict[str, Any]] = {
    "decoded": {
        "names": [
            "plain",
            "raw-not-base64",
            "raw-binary",
            "raw-empty",
            "raw-latin1",
            "raw-chunked-json",
        ]
    },
    "partitions-3-two-purges": {
        "batches": [[f"traffic-{number}" for number in range(7)]] * 2
    },
    "env-meta": {
        "env": {
            "TYK_PMP_PUMPS_KAFKA_META_METADATA": "a:1,b:two",
            "TYK_PMP_PUMPS_KAFKA_META_CLIENTID": "from-env",
            "TYK_PMP_PUMPS_KAFKA_META_TIMEOUT": "5",
            "TYK_PMP_PUMPS_KAFKA_META_COMPRESSED": "false",
        }
    },
}
"""What only the notes or the captured messages tell: order, purges, environment."""
TOO_LARGE = {"batch-bytes-too-large": {"large-raw"}}
FRACTIONS = {"timeout-number-fraction": 1900, "timeout-half": 375}
"""Patience in ms where the reference drops the fraction of a number."""
RUN = [c for c in CASES if c.name not in {*FAULTS, *AWAY, *COMING, "fail-ssl-bad-ca"}]


@pytest.fixture(autouse=True)
def _quiet() -> None:
    logging.getLogger("kafka").setLevel(logging.WARNING)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Every request that goes out, with the name of the client."""
    found: list[Any] = []
    send = Link.send

    def noted(link: Link, request: Any) -> None:
        send(link, request)
        found.append(request)

    monkeypatch.setattr(Link, "send", noted)
    yield found


def _live(kafka: Kafka, case: Case) -> dict[str, str]:
    host, port = kafka.plaintext.split(":")
    return {"host": host, "port": port, "topic": topic_name(f"golden-{case.name}")}


def _loaded(case: Case, kafka: Kafka, folder: Path) -> Config:
    (folder / "out").mkdir()
    return configuration(case, folder / "out", _live(kafka, case))


def _values(case: Case) -> list[bytes]:
    """Return the captured messages in the order in which the records were pushed."""
    rows = loader.json_lines(case.expected("jsonl")[""])
    assert all(row["key"] is None and row["headers"] == [] for row in rows)
    return [row["value"].encode() for row in rows]


def _right(case: Case, delivered: Delivered) -> list[bytes]:
    """Return the messages that should be there."""
    values = _values(case)
    if case.name in TOO_LARGE:
        # Those behind the one that is too large are lost there: another case has them.
        edge = next(c for c in CASES if c.name == "edge")
        known = dict(
            zip((w.name for *_, w in edge.pushed()), _values(edge), strict=True)
        )
        lost = delivered.names[len(values) :]
        values += [known[name] for name in lost if name not in TOO_LARGE[case.name]]
    if case.name == "edge-protobuf":
        for at, name in enumerate(delivered.names):
            if name in UNKNOWN_ZONES:
                old, new = b"0001-01-01T00:00:00Z", shown()[name]["timestamp"].encode()
                assert values[at].count(old) == 1
                values[at] = values[at].replace(old, new)
    return values


@pytest.mark.parametrize("case", RUN, ids=lambda case: case.name)
def test_kafka_case(
    case: Case,
    kafka_server: Kafka,
    asked: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each message is byte for byte as captured; the requests mean the same."""
    live = _live(kafka_server, case)
    kafka_server.create_topic(live["topic"], case.about["partitions"])
    about = {**case.about, **TOLD.get(case.name, {})}
    case = msgspec.structs.replace(case, about=about)
    found = deliver(case, live, tmp_path, monkeypatch)
    messages = kafka_server.all_messages(live["topic"])
    right = _right(case, found)
    values = [message.value for message in messages]
    if case.about["partitions"] == 1:
        assert values == right
    else:
        # Which partition is free; in each the order is the records' own.
        assert sorted(values) == sorted(right)
    assert set(found.refused) == TOO_LARGE.get(case.name, set())
    assert found.delivered == len(messages)
    for message in messages:
        assert message.key is None
        ((name, identity),) = message.headers
        assert name == "_tyk_pump_id" and identity.startswith(b"01JZ")
    _compare_requests(case, asked)


def _compare_requests(case: Case, asked: list[Any]) -> None:
    rows = loader.json_lines(case.files["expected.requests.jsonl"])
    theirs = [row for row in rows if row["api"] == "Produce"]
    ours = [request for request in asked if request.name == "ProduceRequest"]
    assert bool(ours) == bool(theirs)
    clients = {row["client_id"] for row in rows}
    if not any("segmentio" in client for client in clients):
        assert {request.header.client_id for request in ours} == clients
    for request in ours:
        assert request.acks == -1 and request.transactional_id is None
        patience = theirs[0]["timeout_ms"]
        if case.name in FRACTIONS:
            patience = FRACTIONS[case.name]
        assert request.timeout_ms == pytest.approx(patience, abs=60)
        for part in request.topic_data[0].partition_data:
            (attributes,) = struct.unpack_from(">h", part.records, 21)
            assert attributes == theirs[0]["partitions"][0]["batch"]["attributes"]
            limit = case.pumps["kafka"]["meta"].get("batch_bytes", 0)
            assert len(part.records) <= (limit if limit > 0 else 1_048_576)
            if attributes == 2:
                assert part.records[61:71].hex() == "82534e41505059000000"


@pytest.mark.parametrize("name", FAULTS)
def test_kafka_faults(name: str, kafka_server: Kafka, tmp_path: Path) -> None:
    """A wrong configuration is named with its option; nothing is written without it."""
    case = next(c for c in CASES if c.name == name)
    found = " ".join(_loaded(case, kafka_server, tmp_path).every_fault())
    assert FAULTS[name] in found


def test_kafka_bad_ca(kafka_server: Kafka, tmp_path: Path) -> None:
    """A file of authorities that is not there stops the pump with its name."""
    case = next(c for c in CASES if c.name == "fail-ssl-bad-ca")
    (section,) = _loaded(case, kafka_server, tmp_path).pumps
    with pytest.raises(ConfigError, match=r"ssl_ca_file: /nonexistent\.pem"):
        pumps.load("kafka")(section.options).open()


@pytest.mark.parametrize("name", AWAY)
def test_kafka_away(
    name: str, kafka_server: Kafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is taken for delivered, nothing is given up, and the reason is told."""
    case = next(c for c in CASES if c.name == name)
    found = deliver(case, _live(kafka_server, case), tmp_path, monkeypatch, attempts=3)
    assert found.end.outcomes == []
    assert AWAY[name] in repr(found.end.answers[-1])


@pytest.mark.parametrize("name", COMING)
def test_kafka_coming(
    name: str, kafka_server: Kafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written while the broker or its topic was not there yet arrives."""
    case = next(c for c in CASES if c.name == name)
    live = _live(kafka_server, case)
    with Proxy("127.0.0.1", int(live["port"])) as proxy:
        if name == "fail-refused-for-12s":
            kafka_server.create_topic(live["topic"])
            live["port"] = str(proxy.port)
            proxy.cut()
        found = deliver(
            case, live, tmp_path, monkeypatch, clock=_Healing(proxy), attempts=10_000
        )
    traffic = next(c for c in CASES if c.name == "traffic")
    values = [one.value for one in kafka_server.all_messages(live["topic"])]
    assert values == _values(traffic)[:3]
    assert found.delivered == 3
    reasons = {getattr(answer, "reason", "") for answer in found.end.answers}
    assert reasons - {""}


class _Healing(StillClock):
    """Heals the proxy after 12 seconds."""

    def __init__(self, proxy: Proxy) -> None:
        super().__init__()
        self._proxy = proxy

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        if self.time > 1012:
            self._proxy.heal()


def test_every_case_runs() -> None:
    """No case is left out."""
    listed = {case.name for case in RUN} | set(FAULTS) | set(AWAY) | set(COMING)
    assert {case.name for case in CASES} - listed == {"fail-ssl-bad-ca"}
    assert len(CASES) == 41
