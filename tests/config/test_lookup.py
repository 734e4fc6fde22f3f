"""Options whose texts stand in stores of secrets."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest

from tests.config.conftest import Read
from tyk_pump import log, secrets
from tyk_pump.config.load import load
from tyk_pump.config.options import Secret, doc
from tyk_pump.errors import SecretError
from tyk_pump.secrets.protocol import RemoteOptions, Variable

DATA = {"pw": "hunter2!", "json": '{"user": "joe", "n": [1, "two"]}', "kv": "kv://i/pw"}
INLINE = {"stores": {"i": {"type": "inline", "config": {"data": DATA}}}}
DUMMY = {"dummy": {"type": "dummy", "meta": {}}}


class DistantOptions(RemoteOptions, frozen=True, kw_only=True):
    """Of a store that is made up."""

    token: Annotated[Secret, doc("Who.")]


class Distant:
    """A store over a network that there is not."""

    options_type = DistantOptions
    log: list[str] = []
    answers: dict[str, Any] = {}

    def __init__(self, options: DistantOptions) -> None:
        self._options = options

    def open(self, variable: Variable) -> None:
        """Note who asks."""
        self.log.append(f"open {self._options.token.reveal()}")

    def read(self, path: str) -> str:
        """Answer, or not."""
        self.log.append(f"read {path}")
        answer = self.answers.get(path, SecretError("is not there"))
        if isinstance(answer, threading.Event):
            answer.wait()
            return "too late"
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    def close(self) -> None:
        """Note that."""
        self.log.append("close")


@pytest.fixture(autouse=True)
def hidden(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test hides its secrets from another's messages."""
    monkeypatch.setattr(log, "_hidden", {})
    yield


@pytest.fixture
def distant(monkeypatch: pytest.MonkeyPatch) -> type[Distant]:
    """Have the made-up store in Consul's place."""
    monkeypatch.setattr(Distant, "log", [])
    monkeypatch.setattr(Distant, "answers", {"a": "alpha", "b": "beta"})
    place = "tests.config.test_lookup:Distant"
    monkeypatch.setitem(secrets.REGISTRY, "hashicorp_consul", place)
    return Distant


def consul(**config: Any) -> dict[str, Any]:
    """Return the declaration of a store over the network."""
    return {"type": "hashicorp_consul", "config": {"token": "tok", **config}}


def splunk(kv: Any = INLINE, **meta: Any) -> dict[str, Any]:
    """Return a configuration with one pump and these options."""
    return {"kv": kv, "pumps": {"splunk": {"meta": {"url": "u", **meta}}}}


def test_every_kind_of_text(read: Read) -> None:
    """Texts, secrets, lists, objects, options in options: all may refer to a store."""
    config = read(
        splunk(
            url="https://u:$kv{i:pw}@$kv{i:json#user}.example",
            token="kv://i/pw",
            tags=["a", "kv://i/json#/n/1"],
            labels={"l": "$kv{i:json#n/0}"},
            targets=[{"url": "kv://i/pw"}],
            mode="slow",
        )
    )
    assert config.every_fault() == []
    assert config.warnings == []
    options = config.pumps[0].options
    assert options.url == "https://u:hunter2!@joe.example"
    assert options.token == Secret("hunter2!")
    assert options.tags == ["a", "two"]
    assert options.labels == {"l": "1"}
    assert options.targets[0].url == "hunter2!"
    assert [secret.reveal() for secret in config.pumps[0].secrets] == [
        *("hunter2!", "joe", "two", "1")
    ]


def test_the_frame_and_the_root(read: Read) -> None:
    """Also outside `meta`, and outside the pumps; and what a type is."""
    config = read(
        {
            "kv": {
                "stores": {
                    "i": {
                        "type": "inline",
                        "config": {"data": {"t": "dummy", "f": "api_key", "h": "n1"}},
                    }
                }
            },
            "instance_name": "kv://i/h",
            "analytics_storage_config": {"password": "kv://i/f"},
            "pumps": {"x": {"type": "kv://i/t", "ignore_fields": ["kv://i/f"]}},
        }
    )
    assert config.every_fault() == []
    assert config.root.instance_name == "n1"
    assert config.root.analytics_storage_config.password == Secret("api_key")
    assert config.pumps[0].type == "dummy"
    assert config.pumps[0].ignore_fields == ["api_key"]


def test_what_is_given_is_not_looked_into(read: Read) -> None:
    """A secret that looks like a reference is a secret."""
    config = read(splunk(token="kv://i/kv"))
    assert config.pumps[0].options.token == Secret("kv://i/pw")


def test_variables_refer_too(read: Read) -> None:
    """After commas are split; what a variable replaces is never looked up."""
    config = read(
        splunk(token="kv://none/x", tags=["kv://none/y"]),
        TYK_PMP_PUMPS_SPLUNK_META_TOKEN="kv://i/pw",
        TYK_PMP_PUMPS_SPLUNK_META_TAGS="a,$kv{i:json#user}",
    )
    assert config.every_fault() == []
    assert config.pumps[0].options.token == Secret("hunter2!")
    assert config.pumps[0].options.tags == ["a", "joe"]
    bad = read(splunk(), TYK_PMP_PUMPS_SPLUNK_META_TOKEN="kv://i/none")
    assert bad.pumps[0].fault == (
        "TYK_PMP_PUMPS_SPLUNK_META_TOKEN: store 'i': 'none' is not in its data"
    )


def test_stores_of_the_environment(read: Read) -> None:
    """Each takes the place of the file's; a blank text says nothing."""
    both = {
        "stores": {
            "i": {"type": "inline", "config": {"data": {"pw": "file's"}}},
            "j": {"type": "inline", "config": {"data": {"pw": "kept"}}},
        }
    }
    text = '{"i": {"type": "inline", "config": {"data": {"x": "env\'s"}}}}'
    written = splunk(both, token="kv://i/x", url="kv://j/pw")
    config = read(written, TYK_PMP_KV_STORES=text)
    assert config.every_fault() == []
    assert config.pumps[0].options.token == Secret("env's")
    assert config.pumps[0].options.url == "kept"
    assert (
        "'x' is not in its data" in read(written, TYK_PMP_KV_STORES=" ").pumps[0].fault
    )


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{", "TYK_PMP_KV_STORES: is no JSON"),
        ("[]", "TYK_PMP_KV_STORES: expected an object"),
        ('{"v": 1}', "TYK_PMP_KV_STORES.v: expected an object"),
        ('{"v": {}}', "TYK_PMP_KV_STORES.v.type: missing"),
        ('{"v": {"type": "etcd"}}', "TYK_PMP_KV_STORES.v.type: 'etcd' is not one of"),
    ],
)
def test_bad_declarations(read: Read, text: str, fault: str) -> None:
    """Each is told with its place."""
    config = read(splunk(), TYK_PMP_KV_STORES=text)
    assert config.faults[0].startswith(fault)


@pytest.mark.parametrize(
    ("meta", "fault"),
    [
        ({"token": "kv://none/x"}, "meta.token: store 'none' is not declared"),
        ({"token": "kv://i/x"}, "meta.token: store 'i': 'x' is not in its data"),
        ({"token": "kv://i/pw#x"}, "meta.token: store 'i': 'pw#x' is no JSON"),
        ({"token": "kv://i/json#x"}, "meta.token: store 'i': 'json#x' has no 'x'"),
        ({"token": "kv://i"}, "meta.token: a reference is malformed"),
        ({"tags": ["a", "$kv{i:pw"]}, "meta.tags[1]: a reference begins with"),
        ({"labels": {"l": "kv://i/x"}}, "meta.labels.l: store 'i'"),
        ({"size": "kv://i/pw"}, "meta.size: only a text can refer"),
        ({"fast": "kv://i/pw"}, "meta.fast: only a text can refer"),
        ({"mode": "kv://i/pw"}, "meta.mode: *** is not one of slow, quick"),
        ({"wait": "kv://i/pw"}, "meta.wait: only a text can refer"),
    ],
)
def test_references_that_lead_nowhere(
    read: Read, meta: dict[str, Any], fault: str
) -> None:
    """Each is a fault of its pump, with the place and the store, without the secret."""
    config = read({**splunk(**meta), "pumps": {**splunk(**meta)["pumps"], **DUMMY}})
    assert config.faults == []
    assert config.pumps[0].fault.startswith(f"pumps.splunk.{fault}")
    assert config.pumps[0].options is None
    assert not config.pumps[0].passing
    assert not config.pumps[1].fault
    assert "hunter2" not in repr([config.every_fault(), config.warnings])


def test_the_root_refers_to_nothing(read: Read) -> None:
    """Outside the pumps that keeps the whole program from starting."""
    config = read({"kv": INLINE, "log_format": "kv://i/none", "pumps": DUMMY})
    assert config.faults == ["log_format: store 'i': 'none' is not in its data"]
    assert not config.passing


def test_several_faults_at_once(read: Read) -> None:
    """One look shows them all."""
    config = read(splunk(token="kv://i/a", url="$kv{i:b}$kv{i:pw}"))
    assert [line.split(":")[0] for line in config.pumps[0].fault.splitlines()] == [
        *("pumps.splunk.meta.url", "pumps.splunk.meta.token")
    ]


@pytest.mark.parametrize(
    ("key", "value"),
    [("mode", "hunter2!"), ("mode", "ab"), ("address", 'h"un\\ter2')],
)
def test_a_secret_of_the_wrong_form(read: Read, key: str, value: str) -> None:
    """A fault that would quote the value does not, whatever it consists of."""
    kv = {"stores": {"i": {"type": "inline", "config": {"data": {"v": value}}}}}
    config = read(
        splunk(kv, **{key: "kv://i/v"})
        | {
            "analytics_storage_config": {"addrs": ["kv://i/v"]},
        }
    )
    said = [*config.every_fault(), *config.warnings]
    assert all(repr(value)[1:-1] not in line for line in said if "addrs" not in line)


def test_an_empty_secret(read: Read) -> None:
    """It is taken, and warned of: a variable may have been forgotten."""
    kv = {"stores": {"e": {"type": "env", "config": {"prefix": "TYK_PMP_SECRET_"}}}}
    config = read(splunk(kv, token="kv://e/A"))
    assert config.pumps[0].options.token == Secret("")
    assert config.warnings == [
        "pumps.splunk.meta.token: the store has an empty text for it"
    ]
    good = read(splunk(kv, token="kv://e/A"), TYK_PMP_SECRET_A="hunter2!")
    assert good.pumps[0].options.token == Secret("hunter2!")
    assert good.warnings == []


def test_nothing_is_shown(read: Read) -> None:
    """Neither by repr, nor in what is kept as written; workers know what to hide."""
    config = read(splunk(url="https://x/$kv{i:pw}", labels={"l": "kv://i/pw"}))
    assert "hunter2" not in repr(config)
    pump = pickle.loads(pickle.dumps(config.pumps[0]))
    assert pump == config.pumps[0]
    assert pump.meta["url"] == "https://x/$kv{i:pw}"
    assert "hunter2" not in str(pump.meta)
    assert log.masked("at https://x/hunter2!") == "at https://x/***"


def test_a_changed_secret_is_a_changed_pump(tmp_path: Path, read: Read) -> None:
    """That is how reload knows which pumps it has to replace."""
    kv = {"stores": {"f": {"type": "file", "config": {"base_path": str(tmp_path)}}}}
    (tmp_path / "pw").write_text("first\n")
    written = splunk(kv, token="kv://f/pw")
    written["pumps"] |= DUMMY
    first = read(written)
    assert [read(written).pumps == first.pumps] == [True]
    (tmp_path / "pw").write_text("second\n")
    second = read(written)
    assert second.pumps[0] != first.pumps[0]
    assert second.pumps[1] == first.pumps[1]


# Stores over the network


def test_a_store_is_opened_when_it_is_needed(
    read: Read, distant: type[Distant]
) -> None:
    """Once, and each path is read once; then it is closed."""
    kv = {"stores": {"c": consul(), "unused": consul(token="no")}}
    config = read(splunk(kv, token="kv://c/a", url="$kv{c:a}$kv{c:b}"))
    assert config.every_fault() == []
    assert config.pumps[0].options.url == "alphabeta"
    assert distant.log == ["open tok", "read a", "read b", "close"]
    assert [(use.name, use.texts) for use in config.stores] == [("c", 3), ("unused", 0)]


def test_stores_refer_to_stores_at_hand(read: Read, distant: type[Distant]) -> None:
    """What opens a store may stand in another, of this machine."""
    kv = {"stores": {**INLINE["stores"], "c": consul(token="kv://i/pw")}}
    config = read(splunk(kv, token="kv://c/a"))
    assert config.every_fault() == []
    assert distant.log[0] == "open hunter2!"


@pytest.mark.parametrize(
    ("stores", "fault"),
    [
        (
            {"c": consul(token="kv://d/a"), "d": consul()},
            "a store may refer only to those of type env, file, inline",
        ),
        (
            {"c": {"type": "file", "config": {"base_path": "kv://c/x"}}},
            "refers to itself",
        ),
        ({"c": consul(token="kv://i/x")}, "store 'i' is not declared"),
        ({"c": consul(tokn="x")}, "config.tokn: unknown option, nearest is token"),
        ({"c": consul(timeout=0)}, "config.timeout: expected float > 0"),
        ({"c": {"type": "hashicorp_consul"}}, "config.token: missing"),
        ({"c": {"type": "file"}}, "config.base_path: missing"),
        (
            {"c": {"type": "file", "config": {"base_path": "/none/here"}}},
            "config.base_path: /none/here is no folder",
        ),
        ({"c": {"type": "env"}}, "config.prefix: missing"),
    ],
)
def test_stores_that_cannot_be_used(
    read: Read, distant: type[Distant], stores: dict[str, Any], fault: str
) -> None:
    """Whoever refers to one hears why; a required one keeps all from starting."""
    config = read(splunk({"stores": stores}, token="kv://c/a"))
    assert config.faults == []
    assert config.pumps[0].fault.startswith("pumps.splunk.meta.token: store 'c': 'a' ")
    assert fault in config.pumps[0].fault
    required = {**stores, "c": {**stores["c"], "required": True}}
    config = read({"kv": {"stores": required}, "pumps": DUMMY})
    assert config.faults[0].startswith("kv.stores.c: cannot be used: ")
    assert fault in config.faults[0]


def test_a_store_that_is_silent(read: Read, distant: type[Distant]) -> None:
    """It is waited for once; its faults may pass, those of others do not."""
    silent = threading.Event()
    distant.answers["s"] = silent
    kv = {"stores": {"c": consul(timeout=0.1), "d": consul()}}
    config = read(splunk(kv, url="kv://c/s", token="kv://c/a", tags=["kv://c/b"]))
    silent.set()
    pump = config.pumps[0]
    assert pump.passing
    assert pump.fault.count("no answer in 0.1 s") == 3
    assert [line for line in distant.log if line.startswith("read")] == ["read s"]
    mixed = read(splunk(kv, token="kv://c/a", url="kv://c/none"))
    assert not mixed.pumps[0].passing
    distant.answers["e"] = SecretError("is sealed", passing=True)
    root = read({"kv": kv, "log_format": "kv://d/e", "pumps": DUMMY})
    assert root.passing
    assert root.faults == ["log_format: store 'd': 'e' is sealed"]


def test_a_driver_that_fails_in_words_of_its_own(
    read: Read, distant: type[Distant]
) -> None:
    """Nobody has looked through these words, so nobody hears them."""
    distant.answers["x"] = RuntimeError("hunter2!")
    config = read(splunk({"stores": {"c": consul()}}, token="kv://c/x"))
    assert config.pumps[0].fault.endswith("'x' cannot be read: RuntimeError")


def test_not_every_reading_asks(tmp_path: Path, distant: type[Distant]) -> None:
    """What only wants to know one option asks for that one; offline asks nobody."""
    path = tmp_path / "pump.conf"
    path.write_text(
        '{"kv": {"stores": {"c": {"type": "hashicorp_consul", "required": true, '
        '"config": {"token": "t"}}}}, "state_dir": "kv://c/a", '
        '"log_format": "kv://c/b", "pumps": {"dummy": {"type": "dummy"}}}'
    )
    one = load(str(path), {}, only=("state_dir",))
    assert one.root.state_dir == "alpha"
    assert one.root.log_format == "kv://c/b"
    assert distant.log == ["open t", "read a", "close"]
    distant.log.clear()
    offline = load(str(path), {}, remote=False)
    assert offline.every_fault() == []
    assert [(use.texts, use.left) for use in offline.stores] == [(0, 2)]
    assert distant.log == []
