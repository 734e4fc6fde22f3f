"""Every row of the failure table, with the command as users run it.

That the coordinator dies or freezes, and that Redis dies with a durable log, stands in
tests/daemon/test_kills.py.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.harness import LIST, Daemon, push, record, wait_for
from tests.faults.plant import Plant, daemon_with, letters, wait_pump
from tests.faults.plugins.faulty_pump import WORDS

pytestmark = pytest.mark.timeout(120)
QUICK = {"retry": {"initial": 0.05, "max": 0.2}}


def names(run: str, count: int) -> list[str]:
    """Return names of records that are unique in a test."""
    return [f"{run}{number:05}" for number in range(count)]


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    """A faulty back end."""
    return Plant(tmp_path / "plant")


# The back end


def test_back_end_away_and_back(
    tmp_path: Path, redis_server: Any, plant: Plant
) -> None:
    """While it is away the pump retries and is not ready; then all arrive once."""
    plant.turn_on("transient")
    pumps = {"f": plant.section(common=QUICK)}
    with daemon_with(tmp_path, redis_server.port, pumps) as daemon:
        daemon.start()
        pushed = names("a", 500)
        push(redis_server.client(), pushed)
        found = wait_pump(daemon, "F", state="retrying", retried=2)
        assert found["last_error"] == "the back end is away"
        wait_for("503", lambda: daemon.get("/ready")[0] == 503)
        assert "the back end is away" in daemon.get("/ready")[1]
        assert plant.arrived() == []
        plant.turn_off("transient")
        plant.wait(pushed, daemon)
        daemon.wait_ready()
        assert plant.arrived() == pushed
        assert daemon.pump("F")["dead"] == 0
        assert daemon.stop() == 0


def test_retries_end_at_max_elapsed(
    tmp_path: Path, redis_server: Any, plant: Plant
) -> None:
    """After `retry.max_elapsed` records become dead letters with the last reason."""
    plant.turn_on("transient")
    retry = {"retry": {"initial": 0.05, "max": 0.2, "max_elapsed": 1}}
    pumps = {"f": plant.section(common=retry)}
    with daemon_with(tmp_path, redis_server.port, pumps) as daemon:
        daemon.start().wait_ready()
        push(redis_server.client(), names("a", 20))
        wait_pump(daemon, "F", dead=20)
        reasons = {letter["reason"] for letter in letters(daemon)}
        assert len(reasons) == 1
        assert reasons.pop().endswith(": the back end is away")
        plant.turn_off("transient")
        push(redis_server.client(), names("b", 10))
        plant.wait(names("b", 10), daemon)
        daemon.wait_ready()
        assert daemon.stop() == 0
    assert redis_server.client().keys("*claim*") == []


def test_a_write_past_its_timeout_is_abandoned(
    tmp_path: Path, redis_server: Any, plant: Plant
) -> None:
    """The worker is replaced, no record is blamed, all arrive when the hang ends."""
    plant.turn_on("hang")
    pumps = {"f": plant.section(common={"timeout": 1, **QUICK})}
    with daemon_with(tmp_path, redis_server.port, pumps) as daemon:
        daemon.start().wait_ready()
        (first,) = daemon.children()
        pushed = names("a", 300)
        push(redis_server.client(), pushed)
        found = wait_pump(daemon, "F", restarts=3)
        assert "timeout" in found["last_error"]
        plant.turn_off("hang")
        plant.wait(pushed, daemon)
        daemon.wait_ready()
        assert daemon.children() != [first]
        assert daemon.pump("F")["dead"] == 0
        assert letters(daemon) == []
        assert daemon.stop() == 0


def test_refused_records_become_dead_letters(
    tmp_path: Path, redis_server: Any, plant: Plant
) -> None:
    """The refused ones are kept with the back end's own words, the rest arrive once."""
    bad = ["a00007", "a00150", "a00299"]
    pumps = {"f": plant.section(reject=bad)}
    with daemon_with(tmp_path, redis_server.port, pumps) as daemon:
        daemon.start().wait_ready()
        pushed = names("a", 300)
        push(redis_server.client(), pushed)
        good = [name for name in pushed if name not in bad]
        plant.wait(good, daemon)
        wait_pump(daemon, "F", dead=3, delivered=297)
        found = [letter["reason"] for letter in letters(daemon)]
        assert found == [f"{WORDS} {name}" for name in bad]
        assert daemon.pump("F")["retried"] == 0
        assert daemon.stop() == 0
    assert redis_server.client().keys("*claim*") == []


def test_some_refused_and_some_later(
    tmp_path: Path, redis_server: Any, plant: Plant
) -> None:
    """Both at once: only what may pass later is sent again, and all is settled."""
    plant.turn_on("half")
    pumps = {"f": plant.section(common=QUICK, reject=["a00003", "a00090"])}
    with daemon_with(tmp_path, redis_server.port, pumps) as daemon:
        daemon.start()
        pushed = names("a", 100)
        push(redis_server.client(), pushed)
        wait_for("a first part", lambda: len(plant.calls()) > 3)
        plant.turn_off("half")
        good = [name for name in pushed if name not in ("a00003", "a00090")]
        plant.wait(good, daemon)
        wait_pump(daemon, "F", dead=2, delivered=98)
        assert len(letters(daemon)) == 2
        assert daemon.stop() == 0


def test_bytes_that_are_no_record(
    tmp_path: Path, redis_server: Any, plant: Plant
) -> None:
    """Dead letters at the first decoding; no worker dies, the others arrive."""
    junk = [b"", b"junk", b"\xc1", b"\x93\x01", b"\xff" * 3000, b'{"api_id": "x"}']
    pushed = names("a", 50)
    with daemon_with(tmp_path, redis_server.port, {"f": plant.section()}) as daemon:
        daemon.start().wait_ready()
        client = redis_server.client()
        for number, name in enumerate(pushed):
            client.rpush(LIST, record(name), *junk[number : number + 1])
        plant.wait(pushed, daemon)
        found = wait_pump(daemon, "F", dead=len(junk))
        assert found["restarts"] == 0 and found["retried"] == 0
        reasons = [letter["reason"] for letter in letters(daemon)]
        assert len(reasons) == len(junk)
        assert all(reason.startswith("not a record: ") for reason in reasons)
        raws = [
            daemon.command("dead-letters", "show", "--raw", str(letter["id"])).stdout
            for letter in letters(daemon)[:2]
        ]
        assert raws == ["", "junk"]
        assert daemon.stop() == 0


def test_a_back_end_that_refuses_everything_pauses_the_pump(
    tmp_path: Path, redis_server: Any, plant: Plant
) -> None:
    """It pauses before the dead letters fill, says so, and goes on when mended."""
    plant.turn_on("refuse-all")
    pumps = {"f": plant.section(common=QUICK)}
    with daemon_with(tmp_path, redis_server.port, pumps, window_records=20) as daemon:
        daemon.start()
        pushed = names("a", 600)
        push(redis_server.client(), pushed)
        found = wait_pump(daemon, "F", state="paused", retried=3)
        assert found["dead"] <= 80
        wait_for("503", lambda: daemon.get("/ready")[0] == 503)
        assert WORDS in daemon.get("/ready")[1]
        assert "refuses every record" in daemon.tail()
        plant.turn_off("refuse-all")
        lost = len(letters(daemon))
        assert lost == found["dead"]
        plant.wait(pushed[lost:], daemon)
        daemon.wait_ready()
        assert daemon.stop() == 0


# Workers


@pytest.mark.parametrize("way", ["segfault_on", "exit_on"])
def test_a_poison_record_is_found_among_thousands(
    tmp_path: Path, redis_server: Any, plant: Plant, way: str
) -> None:
    """It alone becomes a dead letter, after few deaths; the others arrive once."""
    poison = "a01234"
    other = Plant(tmp_path / "other")
    options: dict[str, Any] = {way: poison}
    pumps = {"f": plant.section(**options), "g": other.section()}
    with daemon_with(tmp_path, redis_server.port, pumps) as daemon:
        daemon.start().wait_ready()
        pushed = names("a", 3000)
        push(redis_server.client(), pushed)
        other.wait(pushed, daemon)
        good = [name for name in pushed if name != poison]
        plant.wait(good, daemon)
        found = wait_pump(daemon, "F", dead=1)
        assert found["dead"] == 1
        assert found["restarts"] <= 16
        (letter,) = letters(daemon)
        assert letter["pump"] == "F"
        assert "died" in letter["reason"]
        shown = daemon.command("dead-letters", "show", "--json", str(letter["id"]))
        assert json.loads(shown.stdout)["record"]["alias"] == poison
        daemon.wait_ready()
        assert daemon.stop() == 0
    assert redis_server.client().keys("*claim*") == []


def test_a_record_on_which_decoding_gets_stuck(
    tmp_path: Path, redis_server: Any, plant: Plant
) -> None:
    """The worker is replaced after `stuck_timeout`; the record alone is dead."""
    pumps = {"f": plant.section(stuck_on="a00005")}
    with daemon_with(
        tmp_path, redis_server.port, pumps, window_records=10, stuck_timeout=1
    ) as daemon:
        daemon.start().wait_ready()
        pushed = names("a", 30)
        push(redis_server.client(), pushed)
        plant.wait([name for name in pushed if name != "a00005"], daemon)
        found = wait_pump(daemon, "F", dead=1)
        assert found["restarts"] <= 8
        (letter,) = letters(daemon)
        assert "stuck" in letter["reason"]
        assert daemon.stop() == 0


def test_a_worker_without_sign_of_life_is_replaced(
    tmp_path: Path, redis_server: Any, plant: Plant
) -> None:
    """A driver that lets no other thread run in `write`: no record is blamed."""
    plant.turn_on("hold-gil")
    pumps = {"f": plant.section(common=QUICK)}
    with daemon_with(tmp_path, redis_server.port, pumps, beat_timeout=2) as daemon:
        daemon.start().wait_ready()
        pushed = names("a", 50)
        push(redis_server.client(), pushed)
        found = wait_pump(daemon, "F", restarts=1)
        assert "no sign of life" in found["last_error"]
        assert "faulty_pump.py" in daemon.log.read_text()  # the stack of the silent one
        plant.turn_off("hold-gil")
        plant.wait(pushed, daemon)
        assert daemon.pump("F")["dead"] == 0
        assert daemon.stop() == 0


def test_a_slow_pump_delays_no_other(
    tmp_path: Path, redis_server: Any, plant: Plant
) -> None:
    """The fast one has everything while the slow one has hardly begun."""
    slow = Plant(tmp_path / "slow")
    pumps = {"slow": slow.section(pause=1.0), "fast": plant.section()}
    with daemon_with(
        tmp_path, redis_server.port, pumps, window_records=100, shutdown_timeout=3
    ) as daemon:
        daemon.start().wait_ready()
        pushed = names("a", 5000)
        push(redis_server.client(), pushed)
        plant.wait(pushed, daemon)
        assert len(slow.arrived()) < 2500
        late = names("b", 10)
        push(redis_server.client(), late)
        plant.wait(pushed + late, daemon)
        assert len(slow.arrived()) < 2500
        assert daemon.stop() == 0


# Starting and stopping


def test_sigterm_with_a_hung_back_end(
    tmp_path: Path, redis_server: Any, plant: Plant
) -> None:
    """It ends within shutdown_timeout; the rest is given back and arrives later."""
    plant.turn_on("hang")
    with daemon_with(
        tmp_path, redis_server.port, {"f": plant.section()}, shutdown_timeout=3
    ) as daemon:
        daemon.start().wait_ready()
        pushed = names("a", 200)
        push(redis_server.client(), pushed)
        wait_for("a write", plant.calls)
        late = names("b", 50)
        push(redis_server.client(), late)
        began = time.monotonic()
        assert daemon.stop(signal.SIGTERM) == 0
        assert time.monotonic() - began < 3 + 3
        client = redis_server.client()
        assert client.keys("*claim*") != []
        assert client.llen(LIST) == 0
        assert client.keys("*lease*") == []
        plant.turn_off("hang")
        daemon.start()
        plant.wait(pushed + late, daemon)
        assert daemon.stop() == 0
    assert redis_server.client().keys("*claim*") == []


def test_a_pump_that_cannot_open_yet_is_tried_again(
    tmp_path: Path, redis_server: Any, plant: Plant
) -> None:
    """A transient fault at the opening: not ready, then all arrive."""
    plant.turn_on("shut")
    with daemon_with(tmp_path, redis_server.port, {"f": plant.section()}) as daemon:
        daemon.start()
        pushed = names("a", 20)
        push(redis_server.client(), pushed)
        wait_for("the reason", lambda: "the door is shut" in daemon.get("/ready")[1])
        plant.turn_off("shut")
        plant.wait(pushed, daemon)
        daemon.wait_ready()
        assert daemon.stop() == 0


def waits_and_others_run(
    daemon: Daemon, server: Any, good: Plant, bad: str, reason: str
) -> None:
    """Push; the good pump gets all, the bad one's claims wait, and it says why."""
    daemon.start()
    pushed = names("a", 100)
    push(server.client(), pushed)
    good.wait(pushed, daemon)
    found = wait_pump(daemon, bad, state="failed", pending=100)
    assert reason in found["last_error"]
    assert found["restarts"] == 0
    assert reason in daemon.get("/ready")[1]
    assert daemon.stop() == 0
    assert server.client().keys("*claim*") != []


def test_a_pump_that_can_never_open(
    tmp_path: Path, redis_server: Any, plant: Plant
) -> None:
    """A lasting fault at the opening: it is not started again, its claims wait."""
    broken = Plant(tmp_path / "broken")
    broken.turn_on("broken")
    pumps = {"good": plant.section(), "bad": broken.section()}
    with daemon_with(tmp_path, redis_server.port, pumps) as daemon:
        waits_and_others_run(daemon, redis_server, plant, "BAD", "the lock is broken")
        broken.turn_off("broken")
        daemon.start()
        broken.wait(names("a", 100), daemon)
        assert daemon.stop() == 0


@pytest.mark.parametrize(
    ("section", "reason"),
    [
        ({"type": "undriven", "meta": {}}, "driver_that_nobody_has"),
        ({"type": "faulty", "meta": {"folder": 5}}, "pumps.bad.meta.folder"),
    ],
)
def test_a_missing_driver_or_a_wrong_option(
    tmp_path: Path, redis_server: Any, plant: Plant, section: Any, reason: str
) -> None:
    """That pump says so, its claims wait, the others run; `check` says it before."""
    pumps = {"good": plant.section(), "bad": section}
    with daemon_with(tmp_path, redis_server.port, pumps) as daemon:
        checked = daemon.command("check")
        assert checked.returncode == 1
        assert reason in checked.stdout
        waits_and_others_run(daemon, redis_server, plant, "BAD", reason)


# The disk


def test_a_full_disk_holds_back_only_what_is_not_stored(
    tmp_path: Path, redis_server: Any, plant: Plant
) -> None:
    """Claiming goes on, nothing is trimmed that is not stored, it resumes by itself."""
    other = Plant(tmp_path / "other")
    pushed = names("a", 300)
    pumps = {"f": plant.section(reject=pushed[100:110]), "g": other.section()}
    client = redis_server.client()
    with daemon_with(tmp_path, redis_server.port, pumps, window_records=50) as daemon:
        daemon.start().wait_ready()
        # To SQLite a limit on the size of files is a full disk.
        limits = resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (4096, limits[1]))
        push(client, pushed)
        other.wait(pushed, daemon)
        wait_for("the reason", lambda: "cannot be stored" in daemon.get("/ready")[1])
        late = names("b", 100)
        push(client, late)
        other.wait(pushed + late, daemon)
        assert client.llen(LIST) == 0
        assert daemon.pump("F")["pending"] >= 300
        kept = sum(int(client.llen(key)) for key in client.keys("*:claim:*"))
        assert kept >= 300
        resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, limits)
        plant.wait(pushed[:100] + pushed[110:] + late, daemon)
        wait_pump(daemon, "F", dead=10)
        daemon.wait_ready()
        assert len(letters(daemon)) == 10
        assert daemon.stop() == 0
    assert client.keys("*claim*") == []


# Redis


def test_redis_out_of_memory(
    tmp_path: Path, make_redis: Callable[..., Any], plant: Plant
) -> None:
    """A list is claimed, delivered and trimmed while Redis takes no more data."""
    server = make_redis()
    client = server.client()
    with daemon_with(
        tmp_path, server.port, {"f": plant.section()}, window_records=50, lease_time=20
    ) as daemon:
        daemon.start().wait_ready()
        os.kill(daemon.pid, signal.SIGSTOP)
        pushed = names("a", 500)
        push(client, pushed)
        client.config_set("maxmemory", "1")
        os.kill(daemon.pid, signal.SIGCONT)
        plant.wait(pushed, daemon)
        wait_for("the trim", lambda: not client.keys("*:claim:*"))
        assert client.llen(LIST) == 0
        client.config_set("maxmemory", "0")
        late = names("b", 50)
        push(client, late)
        plant.wait(pushed + late, daemon)
        daemon.wait_ready()
        assert daemon.status()["lost_records"] == 0
        assert daemon.stop() == 0
    assert client.keys("*claim*") == []


def test_redis_out_of_memory_at_the_start(
    tmp_path: Path, make_redis: Callable[..., Any], plant: Plant
) -> None:
    """Without a lease even: what the lists hold is claimed before it expires."""
    server = make_redis()
    client = server.client()
    pushed = names("a", 100)
    push(client, pushed)
    client.config_set("maxmemory", "1")
    with daemon_with(tmp_path, server.port, {"f": plant.section()}) as daemon:
        daemon.start()
        plant.wait(pushed, daemon)
        client.config_set("maxmemory", "0")
        late = names("b", 50)
        push(client, late)
        plant.wait(pushed + late, daemon)
        daemon.wait_ready()
        assert daemon.stop() == 0
    assert client.keys("*claim*") == []


def test_redis_read_only_for_a_while(
    tmp_path: Path, make_redis: Callable[..., Any], plant: Plant
) -> None:
    """READONLY, as after a failover: it backs off, is not ready, and goes on."""
    server = make_redis(replica_read_only="yes")
    gone = make_redis()
    gone.kill()
    client = server.client()
    with daemon_with(
        tmp_path, server.port, {"f": plant.section()}, window_records=50
    ) as daemon:
        daemon.start().wait_ready()
        pushed = names("a", 1000)
        push(client, pushed)
        client.replicaof("127.0.0.1", gone.port)
        wait_for("503", lambda: "Redis" in daemon.get("/ready")[1])
        client.replicaof("NO", "ONE")
        late = names("b", 50)
        push(client, late)
        plant.wait(pushed + late, daemon)
        daemon.wait_ready()
        assert daemon.stop() == 0
    assert client.keys("*claim*") == []


def test_redis_comes_back_without_the_last_claims(
    tmp_path: Path, make_redis: Callable[..., Any], plant: Plant
) -> None:
    """What Redis has lost is counted; nothing crashes and nobody waits for it."""
    server = make_redis()
    plant.turn_on("transient")
    pumps = {"f": plant.section(common=QUICK)}
    with daemon_with(
        tmp_path, server.port, pumps, window_records=10, lease_time=30
    ) as daemon:
        daemon.start()
        kept = names("a", 200)
        push(server.client(), kept)
        wait_pump(daemon, "F", pending=200, retried=1)
        server.client().save()
        push(server.client(), names("b", 100))
        wait_pump(daemon, "F", pending=300)
        server.kill()
        server.restart()
        plant.turn_off("transient")
        late = names("c", 50)
        push(server.client(), late)
        plant.wait(kept + late, daemon)
        wait_for("the count", lambda: daemon.status()["lost_records"] == 100)
        daemon.wait_ready()
        assert daemon.stop() == 0
    assert server.client().keys("*claim*") == []


def test_redis_comes_back_with_a_list_under_its_old_name(
    tmp_path: Path, make_redis: Callable[..., Any], plant: Plant
) -> None:
    """A dump from before the claim: the list is claimed again under the same ids."""
    server = make_redis()
    pushed = names("a", 200)
    plant.turn_on("transient")
    pumps = {"f": plant.section(common=QUICK)}
    with daemon_with(
        tmp_path, server.port, pumps, window_records=10, lease_time=30
    ) as daemon:
        daemon.start()
        push(server.client(), ["first"])
        wait_pump(daemon, "F", pending=1, retried=1)
        os.kill(daemon.pid, signal.SIGSTOP)
        push(server.client(), pushed)
        server.client().save()
        os.kill(daemon.pid, signal.SIGCONT)
        wait_pump(daemon, "F", pending=201)
        server.kill()
        server.restart()
        plant.turn_off("transient")
        plant.wait(["first", *pushed], daemon)
        daemon.wait_ready()
        assert plant.arrived() == ["first", *pushed]
        assert len({i.partition(":")[0] for i in plant.ids().values()}) == 1
        assert daemon.status()["lost_records"] == 0
        assert daemon.stop() == 0
    assert server.client().keys("*claim*") == []


def test_redis_comes_back_with_the_list_and_without_the_lease(
    tmp_path: Path, make_redis: Callable[..., Any], plant: Plant
) -> None:
    """A dump from before our start: we begin anew; none is lost, some may repeat."""
    server = make_redis()
    pushed = names("a", 200)
    push(server.client(), pushed)
    server.client().save()
    plant.turn_on("transient")
    pumps = {"f": plant.section(common=QUICK)}
    with daemon_with(tmp_path, server.port, pumps, window_records=10) as daemon:
        daemon.start()
        wait_pump(daemon, "F", pending=200, retried=1)
        server.kill()
        server.restart()
        plant.turn_off("transient")
        wait_for("all records", lambda: set(plant.arrived()) == set(pushed))
        daemon.wait_ready()
        assert daemon.stop() == 0
    assert server.client().keys("*claim*") == []


def test_check_warns_of_a_redis_that_evicts(
    tmp_path: Path, make_redis: Callable[..., Any], plant: Plant
) -> None:
    """`check` names the policy and fails."""
    server = make_redis(maxmemory_policy="allkeys-lru")
    with daemon_with(tmp_path, server.port, {"f": plant.section()}) as daemon:
        done = daemon.command("check")
        assert done.returncode == 1
        assert "allkeys-lru" in done.stdout


def test_a_redis_that_evicts_is_not_ready(
    tmp_path: Path, make_redis: Callable[..., Any], plant: Plant
) -> None:
    """A warning at the start, and not ready: claims could be evicted."""
    server = make_redis(maxmemory_policy="allkeys-lru")
    with daemon_with(tmp_path, server.port, {"f": plant.section()}) as daemon:
        daemon.start()
        push(server.client(), ["a"])
        plant.wait(["a"], daemon)
        wait_pump(daemon, "F", state="running")
        assert "allkeys-lru" in " ".join(daemon.status()["reasons"])
        assert "allkeys-lru" in daemon.log.read_text()


# What is shown


def test_no_secret_is_shown(
    tmp_path: Path, make_redis: Callable[..., Any], plant: Plant
) -> None:
    """Not even when a driver's error quotes it: in no log, page, metric or letter."""
    password, token = "hunter2-of-redis", "t0ken-of-the-back-end"
    server = make_redis(requirepass=password)
    client = server.client(password=password)
    plant.turn_on("blab")
    common = {"retry": {"initial": 0.05, "max": 0.2, "max_elapsed": 0.5}}
    storage = {"host": "127.0.0.1", "port": server.port, "password": password}
    with daemon_with(
        tmp_path,
        server.port,
        {"f": plant.section(common=common, token=token)},
        analytics_storage_config=storage,
        log_level="debug",
    ) as daemon:
        daemon.start()
        push(client, names("a", 5))
        wait_pump(daemon, "F", dead=5)
        shown = [daemon.get(path)[1] for path in ("/", "/ready", "/metrics")]
        for words in (["status"], ["status", "--json"], ["check"], ["check", "--json"]):
            done = daemon.command(*words)
            shown += [done.stdout, done.stderr]
        shown.append(daemon.command("dead-letters", "list").stdout)
        assert daemon.stop() == 0
        shown += [daemon.log.read_text(), daemon.out.read_text()]
    text = "\n".join(shown)
    assert "the back end says no" in text
    assert token not in text
    assert password not in text


# Dead letters


def test_dead_letters_are_shown_replayed_and_dropped(
    tmp_path: Path, redis_server: Any, plant: Plant
) -> None:
    """Through the running process: a replay arrives under the original record ids."""
    bad = ["a00003", "a00004", "a00005"]
    with daemon_with(
        tmp_path, redis_server.port, {"f": plant.section(reject=bad)}
    ) as daemon:
        daemon.start().wait_ready()
        pushed = names("a", 20)
        push(redis_server.client(), pushed)
        wait_pump(daemon, "F", dead=3)
        found = letters(daemon, "--pump", "f")
        assert [letter["record_id"] for letter in found] == [
            f"{found[0]['record_id'].partition(':')[0]}:{n}" for n in (3, 4, 5)
        ]
        number = str(found[0]["id"])
        shown = daemon.command("dead-letters", "show", "--json", number)
        assert json.loads(shown.stdout)["record"]["alias"] == "a00003"

        # Still refused: it stays a dead letter, once.
        assert daemon.command("dead-letters", "replay", number).returncode == 0
        wait_for("the refusal", lambda: plant.calls()[-1] == ["a00003"])
        wait_for("its end", lambda: not any(x["replaying"] for x in letters(daemon)))
        assert len(letters(daemon)) == 3

        # Mended: the configuration changes, and two of the three are replayed.
        daemon.write(pumps={"f": plant.section(reject=bad[2:])})
        assert daemon.command("reload").returncode == 0
        two = [str(letter["id"]) for letter in letters(daemon)][:2]
        assert daemon.command("dead-letters", "replay", *two).returncode == 0
        wait_for("the replay", lambda: set(bad[:2]) <= set(plant.arrived()))
        ids = plant.ids()
        assert [ids[n] for n in bad[:2]] == [x["record_id"] for x in found[:2]]
        wait_for("their end", lambda: len(letters(daemon)) == 1)

        dropped = daemon.command("dead-letters", "drop", "--all", "--yes")
        assert dropped.returncode == 0, dropped.stderr
        assert letters(daemon) == []
        plant.assert_once([name for name in pushed if name != "a00005"])
        assert daemon.stop() == 0


def test_a_replay_that_kills_the_worker_is_not_repeated(
    tmp_path: Path, redis_server: Any, plant: Plant
) -> None:
    """The letter stays, the worker comes back, fresh records arrive."""
    section = plant.section(segfault_on="a00001")
    with daemon_with(tmp_path, redis_server.port, {"f": section}) as daemon:
        daemon.start().wait_ready()
        push(redis_server.client(), names("a", 3))
        wait_pump(daemon, "F", dead=1)
        wait_pump(daemon, "F", state="running")
        deaths = daemon.pump("F")["restarts"]
        assert daemon.command("dead-letters", "replay", "--all").returncode == 0
        wait_pump(daemon, "F", restarts=deaths + 1)
        wait_pump(daemon, "F", state="running")
        push(redis_server.client(), names("b", 10))
        plant.wait(["a00000", "a00002", *names("b", 10)], daemon)
        assert daemon.pump("F")["restarts"] == deaths + 1
        assert len(letters(daemon)) == 1
        assert daemon.stop() == 0
