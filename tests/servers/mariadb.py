"""MariaDB of Debian: its data outlives a kill, not the power of the machine."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path
from typing import Any

import pymysql

from tests.servers import absent, free_port, program
from tests.servers.account import command_as, give, give_copy
from tests.servers.database import PASSWORD, USER, Database, Databases
from tests.servers.process import listening
from tests.servers.server import Server
from tests.servers.shared import Facts
from tests.servers.tls import Authority

_ACCOUNT = "mysql"


class MariaDatabase(Database):
    """One database of MariaDB."""

    dialect = "mysql"

    @property
    def dsn(self) -> str:
        """Return the connection string in the reference's form, without TLS."""
        place = f"tcp({self.host}:{self.port})/{self.name}"
        return f"{USER}:{PASSWORD}@{place}?charset=utf8mb4&parseTime=True&loc=UTC"

    @property
    def url(self) -> str:
        """Return SQLAlchemy's address, without TLS."""
        place = f"{self.host}:{self.port}/{self.name}"
        return f"mysql+pymysql://{USER}:{PASSWORD}@{place}?charset=utf8mb4"

    def connect(self) -> pymysql.Connection[Any]:
        """Return a connection of the driver, in autocommit."""
        options: dict[str, Any] = {
            "host": self.host,
            "port": self.port,
            "user": USER,
            "password": PASSWORD,
            "database": self.name,
            "charset": "utf8mb4",
            "connect_timeout": 10,
            "autocommit": True,
            **self._tls,
        }
        return pymysql.connect(**options)

    def tables(self) -> list[str]:
        """Return the names of all tables."""
        return sorted(name for (name,) in self.query("SHOW TABLES"))

    def refuse(self, table: str, code: str) -> None:
        """Let each insert into a table fail with this number of an error."""
        self.query(
            f"CREATE OR REPLACE TRIGGER refuse BEFORE INSERT ON `{table}` FOR EACH ROW "
            f"SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = {code}, "
            "MESSAGE_TEXT = 'refused'"
        )

    def accept(self, table: str) -> None:
        """Let inserts into a table pass again."""
        self.query("DROP TRIGGER refuse")

    def close(self) -> None:
        """Drop it; who holds one of its tables is cut off."""
        system = MariaDatabase(self.port, "mysql", self._tls)
        for (pid,) in system.query(
            "SELECT id FROM information_schema.processlist WHERE db = %s", self.name
        ):
            # An error says that it has left by now.
            with contextlib.suppress(pymysql.OperationalError):
                system.query(f"KILL CONNECTION {pid}")
        system.query(f"DROP DATABASE IF EXISTS {self.name}")


class MariaServer(Server):
    """A server of one's own, which can be killed and restarted with its data.

    With an authority it takes connections with and without TLS; with `demand` only
    those that show a certificate of the authority. `settings` are the server's own.
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
        self._program = program("mariadbd", "/usr/sbin/mariadbd") or absent("mariadbd")
        self.port = free_port()
        self.data = folder / "data"
        self._settings = {
            "bind-address": "127.0.0.1",
            # Short, wherever the folder is: it stands in there.
            "socket": "socket",
            "pid-file": "pid",
            "default-time-zone": "+00:00",
            "skip-name-resolve": "on",
            # What is committed has left the process: that survives a kill.
            "innodb-flush-log-at-trx-commit": "2",
            "innodb-buffer-pool-size": "32M",
            "innodb-log-file-size": "32M",
            **(settings or {}),
        }
        tls: dict[str, str] = {}
        folder.mkdir(parents=True, exist_ok=True)
        if authority is not None:
            chain, key = authority.server()
            files = {"ssl-cert": chain, "ssl-key": key, "ssl-ca": authority.ca_file}
            for name, path in files.items():
                mine = give_copy(path, folder / f"{name}.pem", _ACCOUNT)
                self._settings[name] = str(mine)
            tls = {"ssl_ca": str(authority.ca_file)}
        if demand and authority is not None:
            chain, key = authority.client()
            tls |= {"ssl_cert": str(chain), "ssl_key": str(key)}
        self._initialise("X509" if demand else "NONE")
        self._databases = Databases(MariaDatabase, self.port, tls)
        self.database = self._databases.database
        self.system = self._databases.system
        super().__init__(folder, watched=watched)

    def _initialise(self, require: str) -> None:
        """Make the files of an empty server, and the statements that it starts with."""
        self._users = self.data.with_name("users.sql")
        # Each on one line: so the server reads them.
        self._users.write_text(
            f"CREATE OR REPLACE USER '{USER}'@'%' IDENTIFIED BY '{PASSWORD}' "
            f"REQUIRE {require};\n"
            f"GRANT ALL ON *.* TO '{USER}'@'%' WITH GRANT OPTION;\n"
            # Else its first use after the installation fails: a DROP DATABASE.
            "REPAIR TABLE mysql.proc;\n"
        )
        give(self._users, _ACCOUNT)
        # Of its own: at its start a server removes the temporary tables of others.
        self._settings["tmpdir"] = str(self.data.with_name("tmp"))
        if self.data.exists():
            return
        self.data.with_name("tmp").mkdir()
        give(self.data.with_name("tmp"), _ACCOUNT)
        self.data.mkdir()
        give(self.data, _ACCOUNT)
        install = program("mariadb-install-db") or absent("mariadb-install-db")
        subprocess.run(
            [
                *command_as(_ACCOUNT),
                install,
                "--no-defaults",
                f"--datadir={self.data}",
                f"--tmpdir={self._settings['tmpdir']}",
                f"--innodb-log-file-size={self._settings['innodb-log-file-size']}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
            ],
            check=True,
            capture_output=True,
            cwd="/",
        )

    def command(self) -> list[str]:
        """Return the command line."""
        return [
            *command_as(_ACCOUNT),
            self._program,
            "--no-defaults",
            f"--datadir={self.data}",
            f"--port={self.port}",
            f"--init-file={self._users}",
            *(f"--{name}={value}" for name, value in self._settings.items()),
        ]

    def answers(self) -> bool:
        """Tell whether it takes statements."""
        return listening(self.port) and self.system().query("SELECT 1") == [(1,)]

    def clear(self) -> None:
        """Drop all databases that were given."""
        self._databases.clear()


def start(folder: Path, watched: int, authority: Authority) -> Facts:
    """Start a server for all workers."""
    server = MariaServer(folder, authority, watched=watched)
    assert server.process is not None
    return {"pids": [server.process.pid], "port": server.port}
