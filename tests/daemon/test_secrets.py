"""Secrets out of a real Vault and out of files, in a running instance: where they get
to, where they never stand, and what becomes of pumps whose store is silent."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

from tests.daemon.harness import Daemon, count_lines, push, wait_for
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


def csv(folder: Path) -> dict[str, Any]:
    """Return a pump without secrets."""
    return {"type": "csv", "meta": {"csv_dir": str(folder)}}


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
        pumps = {"csv": csv(tmp_path / "csv"), "splunk": splunk(server.url)}
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
        pumps = {"csv": csv(tmp_path / "csv"), "splunk": splunk(server.url)}
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
