"""The servers that come as Java archives out of Maven repositories."""

from __future__ import annotations

import subprocess
from pathlib import Path
from xml.sax.saxutils import escape

from tests.servers.artefacts import Artefact

_POM = """\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>tests</groupId>
  <artifactId>{name}</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
{dependencies}
  </dependencies>
</project>
"""
_DEPENDENCY = """\
    <dependency>
      <groupId>{0}</groupId><artifactId>{1}</artifactId><version>{2}</version>
    </dependency>"""


def fetch(folder: Path, *coordinates: str) -> Path:
    """Fetch archives ("group:artefact:version") and all they need into lib."""
    dependencies = "\n".join(
        _DEPENDENCY.format(*map(escape, coordinate.split(":")))
        for coordinate in coordinates
    )
    pom = folder / "pom.xml"
    pom.write_text(_POM.format(name="servers", dependencies=dependencies))
    # The version of the plugin is named: else Maven asks what the newest is.
    subprocess.run(
        [
            "mvn",
            "-B",
            "-q",
            "-f",
            str(pom),
            "org.apache.maven.plugins:maven-dependency-plugin:2.8:copy-dependencies",
            "-DincludeScope=runtime",
            f"-DoutputDirectory={folder / 'lib'}",
        ],
        check=True,
        # It resets the colours of a terminal even when it has nothing to say.
        stdout=subprocess.PIPE,
    )
    return folder / "lib"


def _kafka(folder: Path) -> None:
    fetch(
        folder,
        f"org.apache.kafka:kafka_2.13:{KAFKA.version}",
        # Without it the broker logs nothing.
        "org.slf4j:slf4j-simple:1.7.36",
    )


KAFKA = Artefact("kafka", "3.9.1", ("mvn", "java"), _kafka)

_NODE = """\
import java.nio.file.*;
import java.util.*;
import org.elasticsearch.common.settings.Settings;
import org.elasticsearch.node.*;

public class Main {
  static class Single extends Node {
    Single(Settings settings) {
      super(InternalSettingsPreparer.prepareEnvironment(settings, ENVIRONMENT),
            List.of(org.elasticsearch.transport.PLUGIN.class), false);
    }
    REGISTER
  }

  public static void main(String[] args) throws Exception {
    Path home = Paths.get(args[0]);
    Files.createDirectories(home.resolve("config"));
    Node node = new Single(Settings.builder()
        .put("path.home", home.toString())
        .put("cluster.name", "tests").put("node.name", "node")
        .put("network.host", "127.0.0.1")
        .put("http.port", args[1]).put("TRANSPORT.port", args[2])
        .put("http.type", "netty4").put("transport.type", "netty4")
        .put("discovery.type", "single-node")
        .put("node.store.allow_mmap", false)
        .put("cluster.routing.allocation.disk.threshold_enabled", false)
        .build());
    Runtime.getRuntime().addShutdownHook(new Thread(() -> {
      try { node.close(); } catch (Exception ignored) { }
    }));
    node.start();
    Thread.currentThread().join();
  }
}
"""
_SINCE_7 = {
    "ENVIRONMENT": 'Map.of(), null, () -> "node"',
    "REGISTER": "",
    "TRANSPORT": "transport",
    "PLUGIN": "Netty4Plugin",
}
_BEFORE_7 = {
    "ENVIRONMENT": "null",
    "REGISTER": "protected void registerDerivedNodeNameWithLogger(String name) { }",
    "TRANSPORT": "transport.tcp",
    "PLUGIN": "Netty4Plugin",
}


def _search(
    name: str, version: str, group: str, log4j: str | None, words: dict[str, str]
) -> Artefact:
    """Return a search server: its archives, and a Main that starts one node."""
    source = _NODE.replace("org.elasticsearch", group)
    for word, replacement in words.items():
        source = source.replace(word, replacement)
    coordinates = [
        f"{group}:{group.rpartition('.')[2]}:{version}",
        f"{group}.plugin:transport-netty4-client:{version}",
    ]
    if log4j:
        logs = "org.apache.logging.log4j"
        coordinates += [f"{logs}:log4j-api:{log4j}", f"{logs}:log4j-core:{log4j}"]

    def build(folder: Path) -> None:
        _compile(folder, source, "-cp", str(fetch(folder, *coordinates) / "*"))

    recipe = "\n".join((*coordinates, source))
    return Artefact(name, version, ("mvn", "java", "javac"), build, recipe)


def _compile(folder: Path, source: str, *flags: str) -> None:
    file = folder / "Main.java"
    file.write_text(source)
    classes = str(folder / "classes")
    subprocess.run(["javac", "-nowarn", *flags, "-d", classes, str(file)], check=True)


ELASTICSEARCH_6 = _search(
    "elasticsearch6", "6.8.23", "org.elasticsearch", "2.11.1", _BEFORE_7
)
ELASTICSEARCH_7 = _search(
    "elasticsearch7", "7.17.28", "org.elasticsearch", None, _SINCE_7
)
OPENSEARCH = _search("opensearch", "2.19.1", "org.opensearch", "2.21.0", _SINCE_7)

_NODE_8 = """\
import java.nio.file.*;
import java.util.*;
import org.elasticsearch.common.logging.LogConfigurator;
import org.elasticsearch.common.settings.Settings;
import org.elasticsearch.node.*;

public class Main {
  public static void main(String[] args) throws Exception {
    LogConfigurator.configureESLogging();
    Path home = Paths.get(args[0]);
    Path config = Files.createDirectories(home.resolve("config"));
    Settings settings = Settings.builder()
        .put("path.home", home.toString())
        .put("cluster.name", "tests").put("node.name", "node")
        .put("network.host", "127.0.0.1")
        .put("http.port", args[1]).put("transport.port", args[2])
        .put("http.type", "netty4").put("transport.type", "netty4")
        .put("discovery.type", "single-node")
        .put("node.store.allow_mmap", false)
        .put("cluster.routing.allocation.disk.threshold_enabled", false)
        .build();
    Node node = new Node(InternalSettingsPreparer.prepareEnvironment(
        settings, Map.of(), config, () -> "node"));
    Runtime.getRuntime().addShutdownHook(new Thread(() -> {
      try { node.close(); } catch (Exception ignored) { }
    }));
    node.start();
    Thread.currentThread().join();
  }
}
"""
_DESCRIPTOR_8 = """\
name=transport-netty4
description=transport
version={version}
elasticsearch.version={version}
java.version=17
classname=org.elasticsearch.transport.netty4.Netty4Plugin
extended.plugins=
has.native.controller=false
"""


def _elasticsearch_8(folder: Path) -> None:
    version = ELASTICSEARCH_8.version
    lib = fetch(
        folder,
        f"org.elasticsearch:elasticsearch:{version}",
        f"org.elasticsearch.plugin:transport-netty4:{version}",
    )
    _compile(folder, _NODE_8, "-cp", str(lib / "*"))
    # A plugin's archives stand apart, for it has a module layer of its own.
    plugin = folder / "modules" / "transport-netty4"
    plugin.mkdir(parents=True)
    for archive in (*lib.glob("netty-*"), *lib.glob("transport-netty4-*")):
        archive.rename(plugin / archive.name)
    descriptor = plugin / "plugin-descriptor.properties"
    descriptor.write_text(_DESCRIPTOR_8.format(version=version))


ELASTICSEARCH_8 = Artefact(
    "elasticsearch8",
    "8.15.5",
    ("mvn", "java", "javac"),
    _elasticsearch_8,
    _NODE_8 + _DESCRIPTOR_8,
)

_MONGO = """\
import de.bwaldvogel.mongo.MongoServer;
import de.bwaldvogel.mongo.ServerVersion;
import de.bwaldvogel.mongo.backend.memory.MemoryBackend;

public class Main {
  public static void main(String[] args) {
    new MongoServer(new MemoryBackend().version(ServerVersion.MONGO_5_0))
        .bind("127.0.0.1", Integer.parseInt(args[0]));
  }
}
"""


def _mongo(folder: Path) -> None:
    lib = fetch(
        folder,
        f"de.bwaldvogel:mongo-java-server:{MONGO.version}",
        "org.slf4j:slf4j-nop:1.7.36",
    )
    _compile(folder, _MONGO, "-cp", str(lib / "*"))


MONGO = Artefact("mongo-java", "1.47.0", ("mvn", "java", "javac"), _mongo, _MONGO)


def _elasticmq(folder: Path) -> None:
    fetch(folder, f"org.elasticmq:elasticmq-server_2.13:{ELASTICMQ.version}")


ELASTICMQ = Artefact("elasticmq", "1.6.12", ("mvn", "java"), _elasticmq)

ARTEFACTS: tuple[Artefact, ...] = (
    ELASTICMQ,
    KAFKA,
    MONGO,
    ELASTICSEARCH_6,
    ELASTICSEARCH_7,
    ELASTICSEARCH_8,
    OPENSEARCH,
)
