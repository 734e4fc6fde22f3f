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

ARTEFACTS: tuple[Artefact, ...] = (KAFKA,)
