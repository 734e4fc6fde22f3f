"""Secrets out of a real Vault and out of files, in a running instance: where they get
to, where they never stand, and what becomes of pumps whose store is silent."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
from pathlib import Path
from typing import Any, Final

from tests.daemon.harness import (
    LIST,
    Daemon,
    count_lines,
    csv_pump,
    push,
    record,
    wait_for,
)
from tests.servers import free_port
from tests.servers.http import Answer, HttpServer, Request
from tests.servers.vault import Vault

OLD, NEW, BASIC = "0ld-t0k3n-h1dd3n", "n3w-t0k3n-h1dd3n", 'us3r\'s "p/w" h1dd3n'


class Collector:
    """A Splunk that tells everybody what token it was shown."""

    def __init__(self) -> None:
        self.accepted = OLD
        self.seen: set[str] = set()

    def respond(self, request: Request) -> Answer:
        """Accept one token; repeat any other."""
        token = request.headers.get("authorization", "")
        self.seen.add(token)
        if token == f"Splunk {self.accepted}":
            return Answer(200, b'{"text":"Success","code":0}')
        return Answer(403, f"nobody knows {token} at {request.target}".encode())


def stores(vault: Vault, folder: Path) -> dict[str, Any]:
    """Declare the Vault, and the files that its own token stands in."""
    (folder / "secrets").mkdir()
    (folder / "secrets" / "vault").write_text(vault.token + "\n")
    (folder / "secrets" / "basic").write_text(BASIC)
    return {
        "stores": {
            "files": {
                "type": "file",
                "config": {"base_path": str(folder / "secrets")},
            },
            "vault": {
                "type": "hashicorp_vault",
                "config": {
                    "address": vault.url,
                    "token": "kv://files/vault",
                    "ssl_ca_file": str(vault.authority.ca_file),
                    "max_retries": 0,
                },
            },
        }
    }


def splunk(url: str) -> dict[str, Any]:
    """Return a pump whose token stands in the Vault."""
    return {
        "type": "splunk",
        "meta": {
            "collector_url": f"{url}/x?by=$kv{{files:basic}}",
            "collector_token": "kv://vault/secret/splunk#token",
        },
    }


def everything_said(daemon: Daemon) -> str:
    """Return all that anybody can see of the instance."""
    said = [daemon.log.read_text(), daemon.out.read_text()]
    said += [daemon.get(path)[1] for path in ("/", "/ready", "/metrics", "/health")]
    for words in (
        *(["status"], ["status", "--json"], ["check"], ["check", "--json"]),
        *(["check", "--offline"], ["dead-letters", "list", "--json"]),
    ):
        done = daemon.command(*words)
        said += [done.stdout, done.stderr]
    for pid in (daemon.pid, *daemon.children()):
        for part in ("cmdline", "environ", "comm"):
            said.append(Path(f"/proc/{pid}/{part}").read_bytes().decode())
    said.append(subprocess.run(["ps", "axww"], capture_output=True, text=True).stdout)
    for path in (daemon.folder / "state").rglob("*"):
        if path.is_file():
            said.append(path.read_bytes().decode(errors="replace"))
    return "\n".join(said)


def assert_hidden(text: str, *more: str) -> None:
    """No secret stands in a text, in whatever form."""
    for secret in (OLD, NEW, "h1dd3n", *more):
        at = text.find(secret)
        assert at < 0, text[max(0, at - 200) : at + 100]


def test_a_changed_secret_replaces_its_pump_alone(
    tmp_path: Path, redis_server: Any, vault: Vault
) -> None:
    """Reload fetches it; it is shown nowhere, not even where a back end repeats it."""
    vault.put("secret/splunk", {"token": OLD})
    collector = Collector()
    with HttpServer(collector.respond) as server:
        pumps = {"csv": csv_pump(tmp_path / "csv"), "splunk": splunk(server.url)}
        with Daemon(
            tmp_path,
            redis_server.port,
            pumps,
            kv=stores(vault, tmp_path),
            state_dir=str(tmp_path / "state"),
            log_level="debug",
        ) as daemon:
            daemon.start().wait_ready()
            push(redis_server.client(), ["a"])
            wait_for("the first", lambda: daemon.pump("SPLUNK")["delivered"] == 1)
            kept, changed = daemon.pump("CSV")["pids"], daemon.pump("SPLUNK")["pids"]
            collector.accepted = NEW
            push(redis_server.client(), ["b"])
            wait_for("trouble", lambda: daemon.pump("SPLUNK")["state"] == "retrying")
            assert "nobody knows" in daemon.pump("SPLUNK")["last_error"]
            assert_hidden(everything_said(daemon), vault.token)
            checked = daemon.command("check").stdout
            assert "hashicorp_vault: 1 reference looked up" in checked
            vault.put("secret/splunk", {"token": NEW})
            done = daemon.command("reload")
            assert (done.returncode, done.stdout) == (0, "changed: SPLUNK\n")
            wait_for("the second", lambda: daemon.pump("SPLUNK")["delivered"] == 1)
            assert daemon.pump("CSV")["pids"] == kept
            assert daemon.pump("SPLUNK")["pids"] != changed
            assert collector.seen == {f"Splunk {OLD}", f"Splunk {NEW}"}
            assert daemon.command("reload").stdout == "changed: no pump\n"
            assert_hidden(everything_said(daemon), vault.token)
            assert daemon.stop() == 0


def test_a_sealed_vault_holds_up_nobody_else(
    tmp_path: Path, redis_server: Any, vault: Vault
) -> None:
    """Its pump waits and comes by itself; one that runs keeps what it has."""
    vault.put("secret/splunk", {"token": OLD})
    vault.seal()
    collector = Collector()
    with HttpServer(collector.respond) as server:
        pumps = {"csv": csv_pump(tmp_path / "csv"), "splunk": splunk(server.url)}
        with Daemon(
            tmp_path, redis_server.port, pumps, kv=stores(vault, tmp_path)
        ) as daemon:
            daemon.start()
            push(redis_server.client(), ["a", "b"])
            wait_for("the rows", lambda: count_lines(tmp_path / "csv") == 3)
            waiting = daemon.pump("SPLUNK")
            assert waiting["state"] == "failed"
            assert "Vault is sealed" in waiting["last_error"]
            assert "sealed" in daemon.get("/ready")[1]
            vault.unseal()
            daemon.wait_ready()
            wait_for("both", lambda: daemon.pump("SPLUNK")["delivered"] == 2)
            running = daemon.pump("SPLUNK")["pids"]
            vault.seal()
            done = daemon.command("reload", "--json")
            told = json.loads(done.stdout)
            assert (told["faults"], told["changed"]) == ([], [])
            assert "the pump keeps what it has" in told["warnings"][0]
            daemon.process.send_signal(signal.SIGHUP)  # type: ignore[union-attr]
            push(redis_server.client(), ["c"])
            wait_for("the third", lambda: daemon.pump("SPLUNK")["delivered"] == 3)
            assert daemon.pump("SPLUNK")["pids"] == running
            assert daemon.stop() == 0


def test_the_root_waits_for_its_store(tmp_path: Path, redis_server: Any) -> None:
    """Without Redis's password there is no start; the exit code tells whether another
    one may find it."""
    vault = {"type": "hashicorp_vault", "config": {"token": "t"}}
    vault["config"] |= {"address": "http://127.0.0.1:1", "max_retries": 0}  # type: ignore[operator]
    storage = {"port": redis_server.port, "password": "kv://v/secret/redis#pw"}
    with Daemon(
        tmp_path,
        redis_server.port,
        {"dummy": {"type": "dummy"}},
        kv={"stores": {"v": vault}},
        analytics_storage_config=storage,
    ) as daemon:
        assert daemon.start().process is not None
        assert daemon.process.wait(60) == 1  # type: ignore[union-attr]
        assert "analytics_storage_config.password: store 'v'" in daemon.tail()
        daemon.write(kv={"stores": {}})
        daemon.start()
        assert daemon.process.wait(60) == 2  # type: ignore[union-attr]
        assert "store 'v' is not declared in kv.stores" in daemon.tail()


NOW: Final = 1_790_000_000
PLAIN: Final = "pl41n-h1dd3n"
ODD: Final = "0dd\"'\\<&>%+ é:@/?#h1dd3n"


def every_pump(url: str, gone: str) -> dict[str, Any]:
    """Return pumps whose texts hold secrets, and whose back ends are ill."""
    plain, odd = "$kv{files:plain}", "kv://files/odd"
    host, _, port = gone.partition(":")
    aws = {
        "aws_region": "eu-west-1",
        "aws_endpoint": f"{url}/{plain}",
        "aws_key": "AKIA",
        "aws_secret": odd,
        "aws_token": odd,
    }
    names = {"timestream_database_name": "d", "timestream_table_name": "t"}
    fields = {"fields": ["response_code"], "tags": ["path"]}
    found: dict[str, dict[str, Any]] = {
        "mongo": {
            "mongo_url": f"mongodb://user:{plain}@{gone}/db?serverSelectionTimeoutMS=9",
            "collection_name": "c",
        },
        "sql": {
            "type": "postgres",
            "connection_string": f"host={host} port={port} user=u password={plain}",
        },
        "sql_aggregate": {
            "type": "mysql",
            "connection_string": f"u:{plain}@tcp({gone})/db",
        },
        "elasticsearch": {
            "elasticsearch_url": url,
            "auth_basic_username": "u",
            "auth_basic_password": odd,
        },
        "influx": {
            "address": url,
            "database_name": "d",
            "username": "u",
            "password": odd,
            **fields,
        },
        "influx2": {
            "address": f"{url}/?x={plain}",
            "organization": "o",
            "bucket": "b",
            "token": plain,
            **fields,
        },
        "kafka": {
            "broker": [gone],
            "topic": "t",
            "sasl_mechanism": "plain",
            "sasl_username": "u",
            "sasl_password": odd,
        },
        "hybrid": {"connection_string": gone, "api_key": odd},
        "kinesis": {**aws, "stream_name": plain},
        "sqs": {**aws, "aws_queue_name": plain},
        "timestream": {
            **aws,
            **names,
            "dimensions": ["Path"],
            "measures": ["ResponseCode"],
        },
        "logzio": {"url": url, "token": plain},
        "moesif": {
            "application_id": plain,
            "enable_bulk": True,
            "bulk_config": {"api_endpoint": url},
        },
        "segment": {"segment_url": f"{url}/{plain}", "segment_write_key": odd},
        "splunk": {"collector_url": f"{url}/{plain}", "collector_token": plain},
        "resurfaceio": {
            "capture_url": f"{url}/message/{plain}",
            "rules": "include debug",
        },
        "statsd": {"address": f"unix:///nowhere/{plain}/s", "fields": ["request_time"]},
        "dogstatsd": {"address": f"unix:///nowhere/{plain}/d"},
        "csv": {"csv_dir": f"/proc/nowhere/{plain}"},
        "syslog": {"network_addr": gone, "transport": "tcp", "tag": plain},
        "graylog": {"host": f"{plain}.invalid", "port": 9, "tags": ["path"]},
    }
    return {name: {"type": name, "meta": meta} for name, meta in found.items()}


def test_no_pump_shows_a_secret_however_it_fails(
    tmp_path: Path, redis_server: Any
) -> None:
    """Closed ports, refusals that repeat all they were sent, folders that are not."""

    def repeat(request: Request) -> Answer:
        said = f"{request.target} {dict(request.headers)}".encode() + request.body
        return Answer(403, b"refused: " + said)

    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "plain").write_text(PLAIN)
    (tmp_path / "secrets" / "odd").write_text(ODD)
    files = {"type": "file", "config": {"base_path": str(tmp_path / "secrets")}}
    with HttpServer(repeat) as server:
        pumps = every_pump(server.url, f"127.0.0.1:{free_port()}")
        with Daemon(
            tmp_path,
            redis_server.port,
            pumps,
            kv={"stores": {"files": files}},
            state_dir=str(tmp_path / "state"),
            log_level="debug",
            shutdown_timeout=1,
        ) as daemon:
            daemon.start()
            wait_for("its start", lambda: daemon.get("/hello")[0] == 200)
            raw = "R0VUIC8gSFRUUC8xLjENCg0K"
            client = redis_server.client()
            whole = {"raw_request": raw, "raw_response": raw, "timestamp": (NOW, 0)}
            client.rpush(LIST, record("a", **whole))

            troubles: dict[str, str] = {}

            def troubled() -> bool:
                for pump in daemon.status()["pumps"]:
                    if pump["last_error"]:
                        troubles[pump["type"]] = pump["last_error"]
                return set(troubles) == set(pumps)

            wait_for("trouble of all", troubled, seconds=180)
            said = everything_said(daemon)
            assert daemon.stop() == 0
    pairs = [f"{name}:{ODD}".encode() for name in ("", "u")] + [f"{ODD}:".encode()]
    encoded = [base64.b64encode(pair).decode() for pair in pairs]
    said += "\n".join(troubles.values())
    assert_hidden(said + daemon.log.read_text(), *encoded)
