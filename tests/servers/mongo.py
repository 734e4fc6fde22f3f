"""MongoDB's protocol: FerretDB, and a server in Java for what FerretDB lacks.

FerretDB has no TTL indexes, no transactions, no keys with dots or dollars, and keeps
all of a capped collection. The other one (`JavaMongo`) is asked by an older driver, in
a process of its own, for it says that it is MongoDB 5 with an old protocol.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pymongo
from bson import json_util
from pymongo.errors import PyMongoError

from tests.servers import free_port, go, java, pypi
from tests.servers.artefacts import found
from tests.servers.process import listening
from tests.servers.server import Server
from tests.servers.tls import Authority

Client = pymongo.MongoClient[dict[str, Any]]


class MongoServer(Server):
    """FerretDB; it can be killed and restarted with its data.

    With an authority it speaks TLS only; with `demand` to those alone that show a
    certificate of the authority. It asks nobody for a password.
    """

    def __init__(
        self, folder: Path, authority: Authority | None = None, *, demand: bool = False
    ) -> None:
        self._artefact = found(go.FERRETDB)
        self.port = free_port()
        self._files: list[str] = []
        self._options: dict[str, Any] = {}
        if authority is not None:
            self._files = [str(path) for path in authority.server()]
            self._options = {"tls": True, "tlsCAFile": str(authority.ca_file)}
        if demand and authority is not None:
            self._files.append(str(authority.ca_file))
            chain, key = authority.client()
            both = folder / "client.pem"
            folder.mkdir(parents=True, exist_ok=True)
            both.write_bytes(chain.read_bytes() + key.read_bytes())
            self._options["tlsCertificateKeyFile"] = str(both)
        super().__init__(folder)

    def url(self, database: str = "tyk_analytics") -> str:
        """Return the address of a database, without TLS."""
        return f"mongodb://127.0.0.1:{self.port}/{database}"

    def command(self) -> list[str]:
        """Return the command line."""
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        address = f"127.0.0.1:{self.port}"
        return [str(self._artefact / "ferretdb"), address, str(data), *self._files]

    def answers(self) -> bool:
        """Tell whether it answers a ping."""
        if not listening(self.port):
            return False
        with self.client() as client:
            try:
                client.admin.command("ping")
            except PyMongoError:
                return False
        return True

    def client(self, **options: Any) -> Client:
        """Return a client; close it."""
        return pymongo.MongoClient(
            "127.0.0.1",
            self.port,
            **{"serverSelectionTimeoutMS": 10_000, **self._options, **options},
        )

    def documents(
        self, collection: str, database: str = "tyk_analytics"
    ) -> list[dict[str, Any]]:
        """Return the documents of a collection."""
        with self.client() as client:
            return list(client[database][collection].find())

    def collections(self, database: str = "tyk_analytics") -> list[str]:
        """Return the names of all collections."""
        with self.client() as client:
            return sorted(client[database].list_collection_names())

    def clear(self) -> None:
        """Drop all databases."""
        with self.client() as client:
            for name in client.list_database_names():
                client.drop_database(name)


class JavaMongo(Server):
    """The server written in Java: in memory, it forgets all when it ends."""

    def __init__(self, folder: Path) -> None:
        self._artefact = found(java.MONGO)
        self._driver = found(pypi.PYMONGO)
        self.port = free_port()
        super().__init__(folder)

    @property
    def environment_of_driver(self) -> dict[str, str]:
        """Return the environment in which Python has the driver that it understands."""
        above = [str(self._driver), os.getcwd(), os.environ.get("PYTHONPATH", "")]
        return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, above))}

    def url(self, database: str = "tyk_analytics") -> str:
        """Return the address of a database."""
        return f"mongodb://127.0.0.1:{self.port}/{database}"

    def command(self) -> list[str]:
        """Return the command line."""
        lib, classes = self._artefact / "lib", self._artefact / "classes"
        flags = ["-Xmx128m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]
        path = f"{classes}:{lib}/*"
        return ["java", *flags, "-cp", path, "Main", str(self.port)]

    def answers(self) -> bool:
        """Tell whether it listens."""
        return listening(self.port)

    def python(self, script: str, *arguments: str) -> str:
        """Run a script with the older driver; return what it prints.

        Its first argument is the address. It may import ours, from this checkout.
        """
        return subprocess.run(
            [sys.executable, "-c", script, self.url(), *arguments],
            check=True,
            env=self.environment_of_driver,
            stdout=subprocess.PIPE,
            text=True,
            timeout=60,
        ).stdout

    def ask(self, database: str, command: dict[str, Any]) -> dict[str, Any]:
        """Run one database command; return the answer."""
        text = json_util.dumps(command)
        answer = self.python(_ASK, database, text)
        answered: dict[str, Any] = json_util.loads(answer)
        return answered

    def clear(self) -> None:
        """Drop all databases."""
        self.python(_CLEAR)


_ASK = """\
import sys, pymongo
from bson import json_util
with pymongo.MongoClient(sys.argv[1]) as client:
    answer = client[sys.argv[2]].command(json_util.loads(sys.argv[3]))
print(json_util.dumps(answer))
"""
_CLEAR = """\
import sys, pymongo
with pymongo.MongoClient(sys.argv[1]) as client:
    for name in client.list_database_names():
        client.drop_database(name)
"""
