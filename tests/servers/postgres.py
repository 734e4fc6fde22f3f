"""PostgreSQL of Debian: its data outlives a kill, not the power of the machine."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import psycopg

from tests.servers import absent, free_port
from tests.servers.account import command_as, give, give_copy
from tests.servers.database import PASSWORD, USER, Database, Databases
from tests.servers.process import end, listening
from tests.servers.server import Server
from tests.servers.shared import Facts
from tests.servers.tls import Authority

_ACCOUNT = "postgres"


class PostgresDatabase(Database):
    """One database of PostgreSQL."""

    dialect = "postgres"

    @property
    def dsn(self) -> str:
        """Return the connection string in the reference's form, without TLS."""
        return (
            f"host={self.host} port={self.port} user={USER} password={PASSWORD} "
            f"dbname={self.name} sslmode=disable"
        )

    @property
    def url(self) -> str:
        """Return SQLAlchemy's address, without TLS."""
        place = f"{self.host}:{self.port}/{self.name}"
        return f"postgresql+psycopg://{USER}:{PASSWORD}@{place}"

    def connect(self) -> psycopg.Connection[Any]:
        """Return a connection of the driver, in autocommit."""
        options: dict[str, Any] = {
            "host": self.host,
            "port": self.port,
            "user": USER,
            "password": PASSWORD,
            "dbname": self.name,
            "connect_timeout": 10,
            "autocommit": True,
            **self._tls,
        }
        return psycopg.connect(**options)

    def tables(self) -> list[str]:
        """Return the names of all tables."""
        text = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
        return [name for (name,) in self.query(text)]

    def refuse(self, table: str, code: str) -> None:
        """Let each insert into a table fail with this SQLSTATE, also one by COPY."""
        self.query(
            "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = '{code}'; END$$"
        )
        self.query(
            f'CREATE OR REPLACE TRIGGER refuse BEFORE INSERT ON "{table}" '
            "FOR EACH ROW EXECUTE FUNCTION refuse()"
        )

    def accept(self, table: str) -> None:
        """Let inserts into a table pass again."""
        self.query(f'DROP TRIGGER refuse ON "{table}"')

    def close(self) -> None:
        """Drop it, whoever is connected."""
        system = PostgresDatabase(self.port, "postgres", self._tls)
        system.query(f"DROP DATABASE IF EXISTS {self.name} WITH (FORCE)")


class PostgresServer(Server):
    """A server of one's own, which can be killed and restarted with its data.

    With an authority it takes connections with and without TLS; with `demand` only
    those that show a certificate of the authority. `settings` are the server's own
    ("log_statement": "all"; the log is the file `log`).
    """

    def __init__(
        self,
        folder: Path,
        authority: Authority | None = None,
        *,
        demand: bool = False,
        settings: dict[str, str] | None = None,
        watched: int | None = None,
    ) -> None:
        self._programs = programs() or absent("postgresql")
        self.port = free_port()
        self.data = folder / "data"
        self._settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            # Else it stays behind in /dev/shm.
            "dynamic_shared_memory_type": "mmap",
            # What is committed has left the process: that survives a kill.
            "fsync": "off",
            "full_page_writes": "off",
            "shared_buffers": "32MB",
            "timezone": "UTC",
            **(settings or {}),
        }
        tls: dict[str, str] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self._initialise()
        if authority is not None:
            chain, key = authority.server()
            files = {
                "ssl_cert_file": chain,
                "ssl_key_file": key,
                "ssl_ca_file": authority.ca_file,
            }
            for name, path in files.items():
                mine = give_copy(path, folder / f"{name}.pem", _ACCOUNT)
                self._settings[name] = str(mine)
            self._settings["ssl"] = "on"
            tls = {"sslmode": "verify-full", "sslrootcert": str(authority.ca_file)}
        if demand and authority is not None:
            chain, key = authority.client()
            # The driver refuses a key that others may read.
            mine = folder / "client.key"
            mine.write_bytes(key.read_bytes())
            mine.chmod(0o600)
            tls |= {"sslcert": str(chain), "sslkey": str(mine)}
            rule = "hostssl all all all scram-sha-256 clientcert=verify-ca\n"
            (self.data / "pg_hba.conf").write_text(rule)
        self._databases = Databases(PostgresDatabase, self.port, tls)
        self.database = self._databases.database
        self.system = self._databases.system
        super().__init__(folder, watched=watched)

    def _initialise(self) -> None:
        if self.data.exists():
            return
        secret = self.data.with_name("password")
        secret.write_text(PASSWORD)
        give(secret, _ACCOUNT)
        self.data.mkdir()
        give(self.data, _ACCOUNT)
        options = (
            f"--pgdata={self.data} --username={USER} --pwfile={secret} "
            "--auth=scram-sha-256 --encoding=UTF8 --no-locale --no-sync"
        )
        program = str(self._programs / "initdb")
        subprocess.run(
            [*command_as(_ACCOUNT), program, *options.split()],
            check=True,
            capture_output=True,
            cwd="/",
        )

    def command(self) -> list[str]:
        """Return the command line."""
        program = str(self._programs / "postgres")
        words = [f"--{name}={value}" for name, value in self._settings.items()]
        where = ["-D", str(self.data), "-p", str(self.port)]
        return [*command_as(_ACCOUNT), program, *where, *words]

    def answers(self) -> bool:
        """Tell whether it takes statements."""
        if not listening(self.port):
            return False
        try:
            return self.system().query("SELECT 1") == [(1,)]
        except psycopg.OperationalError:
            # It is starting up.
            return False

    def kill(self) -> None:
        """kill -9 to all of its processes; what was committed stays."""
        if self.process is None:
            return
        orphans: list[int] = []
        for server in _children(self.process.pid):
            # From here on it starts no more; each has left the group of the first.
            os.kill(server, signal.SIGSTOP)
            orphans += _children(server)
        super().kill()
        for orphan in orphans:
            end(orphan, signal.SIGKILL)

    def stop(self) -> None:
        """End it for good: it cuts its clients off and gives its memory back."""
        if self.process is not None:
            for server in _children(self.process.pid):
                os.kill(server, signal.SIGINT)
            self.process.stop()
            self.process = None

    def clear(self) -> None:
        """Drop all databases that were given."""
        self._databases.clear()


def start(folder: Path, watched: int, authority: Authority) -> Facts:
    """Start a server for all workers."""
    server = PostgresServer(folder, authority, watched=watched)
    assert server.process is not None
    return {"pids": [server.process.pid], "port": server.port}


def programs() -> Path | None:
    """Return the folder of the newest version that is installed."""
    found = Path("/usr/lib/postgresql").glob("*/bin/postgres")
    newest = max(found, key=lambda path: int(path.parts[-3]), default=None)
    return newest.parent if newest else None


def _children(pid: int) -> list[int]:
    with contextlib.suppress(FileNotFoundError):
        return [
            int(child)
            for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]
    return []
