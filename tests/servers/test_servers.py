"""Each server of the tests does what the tests rely on."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.servers import front, kafka
from tests.servers.artefacts import Artefact
from tests.servers.elastic import FLAVOURS, Elastic, ElasticServer
from tests.servers.front import Front
from tests.servers.kafka import Kafka, KafkaServer
from tests.servers.prepare import prepare
from tests.servers.process import Process, alive
from tests.servers.shared import Facts, shared
from tests.servers.tls import Authority, authority


def test_authority(tmp_path: Path) -> None:
    """Server and client certificates of one authority verify each other."""
    mine = authority(tmp_path)
    chain, key = mine.server()
    accepting = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    accepting.load_cert_chain(chain, key)
    accepting.load_verify_locations(mine.ca_file)
    accepting.verify_mode = ssl.CERT_REQUIRED
    # A second worker with the same folder has the same authority.
    connecting = ssl.create_default_context(cafile=str(authority(tmp_path).ca_file))
    connecting.load_cert_chain(*Authority(tmp_path).client())
    ours, theirs = socket.socketpair()

    def serve() -> None:
        with accepting.wrap_socket(theirs, server_side=True) as end:
            end.sendall(b"hello")

    thread = threading.Thread(target=serve)
    thread.start()
    with connecting.wrap_socket(ours, server_hostname="127.0.0.1") as end:
        assert end.recv(5) == b"hello"
    thread.join()


def test_prepare(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A build that fails leaves nothing; the next one starts anew, once."""
    monkeypatch.setenv("TYK_PUMP_TEST_CACHE", str(tmp_path))
    builds: list[Path] = []

    def build(folder: Path) -> None:
        builds.append(folder)
        assert not list(folder.iterdir())
        (folder / "file").write_text("half")
        if len(builds) == 1:
            raise OSError("no network")

    artefact = Artefact("toy", "1", ("sh",), build, recipe="text")
    with pytest.raises(OSError, match="no network"):
        prepare(artefact)
    assert not artefact.folder.exists()
    prepare(artefact)
    prepare(artefact)
    assert len(builds) == 2
    assert (artefact.folder / "file").read_text() == "half"


def sleeper(folder: Path, watched: int) -> tuple[Process, int]:
    """Start a server that does nothing; return its guard and its own pid."""
    script = "import os, time; print(os.getpid(), flush=True); time.sleep(1000)"
    log = folder / "log"
    process = Process([sys.executable, "-IS", "-c", script], log, watched=watched)
    process.wait(lambda: log.read_text().endswith("\n"))
    return process, int(log.read_text().split()[-1])


@pytest.mark.parametrize("how", ["stop", "kill", "guard killed", "run killed"])
def test_no_server_outlives_the_run(tmp_path: Path, how: str) -> None:
    """A server ends when told, and with its guard or the watched process."""
    with subprocess.Popen(["sleep", "1000"]) as run:
        process, pid = sleeper(tmp_path, run.pid)
        assert alive(process.pid) and alive(pid)
        if how == "stop":
            process.stop()
        elif how == "kill":
            process.kill()
        elif how == "guard killed":
            os.kill(process.pid, signal.SIGKILL)
        run.kill()
    wait_gone(process.pid)
    wait_gone(pid)


def test_a_server_that_dies_says_why(tmp_path: Path) -> None:
    """What it wrote last is in the message."""
    process = Process(["sh", "-c", "echo port taken; exit 1"], tmp_path / "log")
    with pytest.raises(AssertionError, match="port taken"):
        process.wait(lambda: False)


def test_shared(tmp_path: Path) -> None:
    """The first user starts the server, the last one ends it."""
    starts: list[int] = []

    def start(folder: Path, watched: int) -> Facts:
        (folder / "data").mkdir()  # never one that was used
        process, pid = sleeper(folder, watched)
        starts.append(pid)
        return {"pids": [process.pid], "port": 1}

    with shared("toy", tmp_path, start) as first:
        with shared("toy", tmp_path, start) as second:
            assert first == second
        assert alive(starts[0])
    assert len(starts) == 1
    wait_gone(starts[0])
    with shared("toy", tmp_path, start):
        assert len(starts) == 2


def wait_gone(pid: int) -> None:
    """Wait until a process has ended."""
    until = time.monotonic() + 20
    while alive(pid):
        assert time.monotonic() < until
        time.sleep(0.01)


def listener(broker: Kafka, name: str, authority: Authority) -> dict[str, Any]:
    """Return what kafka-python needs for one of the broker's listeners."""
    secure = {"ssl_cafile": str(authority.ca_file)}
    if name == "plaintext":
        return {"bootstrap_servers": broker.plaintext}
    if name == "ssl":
        chain, key = authority.client()
        return {
            "bootstrap_servers": broker.ssl,
            "security_protocol": "SSL",
            "ssl_certfile": str(chain),
            "ssl_keyfile": str(key),
            **secure,
        }
    user, password = kafka.PLAIN_USER if name == "PLAIN" else kafka.SCRAM_USER
    over_tls = name == "SCRAM-SHA-512"
    return {
        "bootstrap_servers": broker.sasl_ssl if over_tls else broker.sasl_plaintext,
        "security_protocol": "SASL_SSL" if over_tls else "SASL_PLAINTEXT",
        "sasl_mechanism": name,
        "sasl_plain_username": user,
        "sasl_plain_password": password,
        **(secure if over_tls else {}),
    }


def produce(topic: str, value: bytes, **options: Any) -> None:
    """Send a message and wait until the broker has it."""
    from kafka import KafkaProducer

    producer = KafkaProducer(**options)
    try:
        producer.send(topic, value).get(timeout=30)
    finally:
        producer.close()


@pytest.mark.parametrize(
    ("name", "compression"),
    [
        ("plaintext", None),
        ("plaintext", "gzip"),
        ("plaintext", "lz4"),
        ("plaintext", "snappy"),
        ("plaintext", "zstd"),
        ("PLAIN", None),
        ("SCRAM-SHA-256", None),
        ("SCRAM-SHA-512", None),
        ("ssl", None),
    ],
)
def test_kafka(
    kafka_server: Kafka, authority: Authority, name: str, compression: str | None
) -> None:
    """What is produced over each listener can be consumed."""
    topic = kafka.topic_name(f"smoke-{name}-{compression}")
    options = listener(kafka_server, name, authority)
    produce(topic, b"hello", compression_type=compression, **options)
    assert [m.value for m in kafka_server.messages(topic, 1)] == [b"hello"]


def test_kafka_killed(make_kafka: Callable[..., KafkaServer]) -> None:
    """A broker that was killed comes back with its topics and messages."""
    broker = make_kafka(auto_create=False)
    broker.create_topic("kept", 3, max_message_bytes=2000)
    produce("kept", b"1", bootstrap_servers=broker.plaintext)
    broker.kill()
    broker.start()
    produce("kept", b"2", bootstrap_servers=broker.plaintext)
    assert sorted(m.value for m in broker.messages("kept", 2)) == [b"1", b"2"]


def bulk(url: str, index: str, kind: str | None, **options: Any) -> Any:
    """Index one document and return the answer."""
    action = {"_index": index} | ({"_type": kind} if kind else {})
    lines = [{"index": action}, {"path": "/a"}]
    return requests.post(
        f"{url}/_bulk",
        data="".join(json.dumps(line) + "\n" for line in lines),
        headers={"Content-Type": "application/x-ndjson", **options.pop("headers", {})},
        timeout=30,
        **options,
    )


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_search_servers(elastic_server: Callable[[str], Elastic], flavour: str) -> None:
    """A bulk request stores documents; since version 7 a type of one's own is an error.

    (Version 7 takes one type per index still, whatever its name.)
    """
    node = elastic_server(flavour)
    own, other = ("analytics", None) if flavour == "elasticsearch6" else (None, "other")
    assert bulk(node.url, "smoke", own).json()["errors"] is False
    (hit,) = node.documents("smoke")
    assert hit["_source"] == {"path": "/a"}
    assert hit.get("_type", "_doc") == (own or "_doc")
    if other:
        typed = bulk(node.url, "smoke", other)
        assert typed.status_code == 400 or typed.json()["errors"] is True
    assert "smoke" in node.indices()


def test_elastic_killed(make_elastic: Callable[..., ElasticServer]) -> None:
    """A node that was killed comes back with its documents."""
    node = make_elastic()
    bulk(node.url, "kept", None)
    node.kill()
    with pytest.raises(requests.ConnectionError):
        bulk(node.url, "kept", None)
    node.start()
    assert len(node.documents("kept")) == 1


def test_front(
    elastic_server: Callable[[str], Elastic],
    make_front: Callable[..., Front],
    authority: Authority,
) -> None:
    """Who brings no known header is told 401, over TLS."""
    node = elastic_server("elasticsearch7")
    known = [front.basic("user", "pw"), front.api_key("id", "key")]
    url = make_front(node.port, *known).url
    ca = str(authority.ca_file)
    assert bulk(url, "smoke-front", None, verify=ca).status_code == 401
    for header in known:
        headers = {"Authorization": header}
        answer = bulk(url, "smoke-front", None, verify=ca, headers=headers)
        assert answer.json()["errors"] is False
    with pytest.raises(requests.exceptions.SSLError):
        bulk(url, "smoke-front", None)


def test_front_with_client_certificates(
    elastic_server: Callable[[str], Elastic],
    make_front: Callable[..., Front],
    authority: Authority,
) -> None:
    """Who brings no certificate of the authority is told 400."""
    node = elastic_server("elasticsearch7")
    url = make_front(node.port, client_certificate=True).url
    ca = str(authority.ca_file)
    assert bulk(url, "smoke-front", None, verify=ca).status_code == 400
    pair = tuple(map(str, authority.client()))
    answer = bulk(url, "smoke-front", None, verify=ca, cert=pair)
    assert answer.json()["errors"] is False
