"""A Kafka broker with a listener of each kind: plain, SASL, TLS, both."""

from __future__ import annotations

import contextlib
import itertools
import re
import subprocess
from pathlib import Path
from typing import Any

from tests.servers import free_port
from tests.servers.artefacts import found
from tests.servers.java import KAFKA
from tests.servers.process import Process, listening
from tests.servers.proxy import Proxy
from tests.servers.shared import Facts
from tests.servers.tls import Authority

PLAIN_USER = ("alice", "alicepw")
"""For the mechanism PLAIN."""
SCRAM_USER = ("bob", "bobpw")
"""For SCRAM-SHA-256 and SCRAM-SHA-512."""

_CLUSTER = "MkU3OEVBNTcwNTJENDM2Qg"
_JAVA = ("java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
_LISTENERS = ("PLAINTEXT", "SASL_PLAINTEXT", "SSL", "SASL_SSL")
_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=CONTROLLER://127.0.0.1:{controller},{listeners}
advertised.listeners={listeners}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
ssl.keystore.type=PEM
ssl.keystore.location={keystore}
ssl.truststore.type=PEM
ssl.truststore.location={ca}
listener.name.ssl.ssl.client.auth=required
log.dirs={data}
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
num.network.threads=1
num.io.threads=2
log.cleaner.enable=false
# A broker that was killed may come back when its session is over.
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=3000
"""
_LOGIN = (
    "listener.name.{listener}.{mechanism}.sasl.jaas.config="
    "org.apache.kafka.common.security.{module} required "
    'username="admin" password="adminpw"{users};'
)


class Kafka:
    """A running broker, as clients see it; the attributes are "127.0.0.1:port"."""

    def __init__(self, ports: dict[str, int]) -> None:
        self.ports = ports
        self.plaintext = f"127.0.0.1:{ports['PLAINTEXT']}"
        self.sasl_plaintext = f"127.0.0.1:{ports['SASL_PLAINTEXT']}"
        self.ssl = f"127.0.0.1:{ports['SSL']}"
        """Asks for a client certificate."""
        self.sasl_ssl = f"127.0.0.1:{ports['SASL_SSL']}"

    def create_topic(self, name: str, partitions: int = 1, **config: object) -> None:
        """Make a topic; max_message_bytes=1000 stands for max.message.bytes."""
        from kafka.admin import KafkaAdminClient, NewTopic

        settings = {key.replace("_", "."): str(value) for key, value in config.items()}
        topic = NewTopic(name, partitions, 1, topic_configs=settings)
        admin = KafkaAdminClient(bootstrap_servers=self.plaintext)
        with contextlib.closing(admin):
            admin.create_topics([topic], wait_for_metadata=True)
        # The leaders take records a moment after they are named: asked for the ends
        # of their partitions, kafka-python waits for them.
        self.all_messages(name)

    def all_messages(self, topic: str) -> list[Any]:
        """Return what a topic has now, partition by partition."""
        from kafka import KafkaConsumer, TopicPartition

        consumer = KafkaConsumer(
            bootstrap_servers=self.plaintext, allow_auto_create_topics=False
        )
        with contextlib.closing(consumer):
            numbers = sorted(consumer.partitions_for_topic(topic) or ())
            if not numbers:
                return []
            partitions = [TopicPartition(topic, number) for number in numbers]
            consumer.assign(partitions)
            ends = consumer.end_offsets(partitions)
            consumer.seek_to_beginning(*partitions)
            found: dict[Any, list[Any]] = {one: [] for one in partitions}
            while any(consumer.position(one) < ends[one] for one in partitions):
                for one, some in consumer.poll(timeout_ms=1000).items():
                    found[one] += some
        return [message for one in partitions for message in found[one]]

    def messages(self, topic: str, count: int, seconds: float = 20.0) -> list[Any]:
        """Return the first messages of a topic; fewer when no more come in time."""
        from kafka import KafkaConsumer

        consumer = KafkaConsumer(
            topic,
            bootstrap_servers=self.plaintext,
            auto_offset_reset="earliest",
            consumer_timeout_ms=int(seconds * 1000),
        )
        with contextlib.closing(consumer):
            return list(itertools.islice(consumer, count))


class KafkaServer(Kafka):
    """A broker of one's own; it can be killed and restarted with its data.

    `settings` are added to its properties: message_max_bytes=1000 stands for
    message.max.bytes.
    """

    def __init__(
        self,
        folder: Path,
        authority: Authority,
        *,
        auto_create: bool = True,
        watched: int | None = None,
        **settings: object,
    ) -> None:
        super().__init__({name: free_port() for name in _LISTENERS})
        self.folder = folder
        self.process: Process | None = None
        self._watched = watched
        self._libraries = str(found(KAFKA) / "lib" / "*")
        self._properties = folder / "server.properties"
        folder.mkdir(parents=True, exist_ok=True)
        settings["auto_create_topics_enable"] = str(auto_create).lower()
        self._configure(authority, settings)
        self.start()

    def _configure(self, authority: Authority, settings: dict[str, object]) -> None:
        chain, key = authority.server()
        keystore = self.folder / "keystore.pem"
        keystore.write_bytes(key.read_bytes() + chain.read_bytes())
        listeners = [f"{name}://127.0.0.1:{p}" for name, p in self.ports.items()]
        lines = [
            _PROPERTIES.format(
                controller=free_port(),
                listeners=",".join(listeners),
                keystore=keystore,
                ca=authority.ca_file,
                data=self.folder / "data",
            ),
            "listener.security.protocol.map=CONTROLLER:PLAINTEXT,"
            + ",".join(f"{name}:{name}" for name in _LISTENERS),
        ]
        users = 'user_admin="adminpw" user_{}="{}"'.format(*PLAIN_USER)
        for listener in ("sasl_plaintext", "sasl_ssl"):
            for mechanism, module, known in (
                ("plain", "plain.PlainLoginModule", f" {users}"),
                ("scram-sha-256", "scram.ScramLoginModule", ""),
                ("scram-sha-512", "scram.ScramLoginModule", ""),
            ):
                lines.append(
                    _LOGIN.format(
                        listener=listener,
                        mechanism=mechanism,
                        module=module,
                        users=known,
                    )
                )
        lines += [f"{k.replace('_', '.')}={value}" for k, value in settings.items()]
        self._properties.write_text("\n".join(lines) + "\n")
        password = "[name={},password={}]".format(*SCRAM_USER)
        subprocess.run(
            [
                *_JAVA,
                "-Xmx128m",
                "-cp",
                self._libraries,
                "kafka.tools.StorageTool",
                "format",
                "--cluster-id",
                _CLUSTER,
                "--config",
                self._properties,
                "--add-scram",
                f"SCRAM-SHA-256={password}",
                "--add-scram",
                f"SCRAM-SHA-512={password}",
            ],
            check=True,
            capture_output=True,
        )

    def start(self) -> None:
        """Start it (again) on the same ports, with the data that it kept."""
        self.process = Process(
            [
                *_JAVA,
                "-Xms64m",
                "-Xmx512m",
                "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
                "-cp",
                self._libraries,
                "kafka.Kafka",
                self._properties,
            ],
            self.folder / "kafka.log",
            watched=self._watched,
            cwd=self.folder,
        )
        for port in self.ports.values():
            self.process.wait(lambda port=port: listening(port))  # type: ignore[misc]
        self.process.wait(self._gives_identities)

    def _gives_identities(self) -> bool:
        """Idempotent producers are served a moment after all others."""
        from kafka.protocol.producer import InitProducerIdRequest

        from tyk_pump.errors import TransientError
        from tyk_pump.transport.kafka import Access, Link

        access = Access(client_id="tests", timeout=5)
        request = InitProducerIdRequest(transactional_id=None)
        request.transaction_timeout_ms = 60_000
        with contextlib.suppress(TransientError):
            link = Link("127.0.0.1", self.ports["PLAINTEXT"], access)
            with contextlib.closing(link):
                return bool(link.ask(request).error_code == 0)
        return False

    def kill(self) -> None:
        """kill -9; its data stays."""
        if self.process is not None:
            self.process.kill()
            self.process = None

    def stop(self) -> None:
        """End it; its data stays."""
        if self.process is not None:
            self.process.stop()
            self.process = None

    def restart(self) -> None:
        """End it, unless it is, and start it again."""
        self.stop()
        self.start()


class ProxiedKafka(KafkaServer):
    """A broker whose plain listener is only to be reached through a proxy."""

    def __init__(self, folder: Path, authority: Authority, **options: Any) -> None:
        self.proxy = Proxy("127.0.0.1", 0)
        super().__init__(
            folder,
            authority,
            advertised_listeners=f"PLAINTEXT://{self.proxy.place}",
            **options,
        )
        self.proxy.target = ("127.0.0.1", self.ports["PLAINTEXT"])
        self.plaintext = self.proxy.place

    def close(self) -> None:
        """End both."""
        self.kill()
        self.proxy.close()


def start(folder: Path, watched: int, authority: Authority) -> Facts:
    """Start a broker for all workers."""
    server = KafkaServer(folder, authority, watched=watched)
    assert server.process is not None
    return {"pids": [server.process.pid], "ports": server.ports}


def topic_name(text: str) -> str:
    """Return a valid name of a topic for a test's name."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", text)
