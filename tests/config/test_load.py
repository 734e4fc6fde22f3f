"""What a file becomes, and what is said of a wrong one."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from tests.config.conftest import Read
from tests.config.fake import Bulk, FakeOptions, Target
from tyk_pump import pumps
from tyk_pump.config.load import load
from tyk_pump.config.options import Secret
from tyk_pump.config.root import RootOptions

DUMMY = {"dummy": {"type": "dummy", "meta": {}}}


def test_plain_file(read: Read) -> None:
    """A file without faults gives its values, and defaults for the rest."""
    config = read({"purge_delay": 1.5, "PURGE_Chunk": 7.0, "PUMPS": DUMMY})
    assert not config.faults
    assert not config.warnings
    assert config.root == RootOptions(purge_delay=1.5, purge_chunk=7)
    assert [(pump.name, pump.type) for pump in config.pumps] == [("DUMMY", "dummy")]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "the file is empty"),
        ('{"pumps": {', "is no JSON: "),
        ('{"purge_delay": 1,}', "is no JSON: "),
        ("// hello\n{}", "is no JSON: Expecting value at line 1 column 1"),
        ("\ufeff{}", "begins with a byte order mark"),
        ("[]", "expected an object, got array"),
        ('{"max_record_size": NaN}', "is no JSON: NaN is no JSON number"),
        ("[" * 100_000, "is no JSON: "),
    ],
)
def test_unreadable_text(read: Read, text: str, fault: str) -> None:
    """A file that is no JSON object is one fault, and no pumps is another."""
    config = read(text)
    assert fault in config.faults[0]
    assert config.path in config.faults[0]
    assert config.faults[1:] == ["No pumps configured"]
    assert config.root == RootOptions()


def test_missing_file(tmp_path: Path) -> None:
    """A missing file and the missing pumps are both said."""
    path = str(tmp_path / "nowhere.conf")
    assert load(path, {}).faults == [
        f"{path}: cannot be read: No such file or directory",
        "No pumps configured",
    ]


@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [
        ("purge_delay", "ten", "purge_delay: expected seconds, or a text with units"),
        ("purge_delay", -1, "purge_delay: expected float >= 0"),
        ("purge_chunk", -3, "purge_chunk: expected int >= -1"),
        ("purge_chunk", 1.5, "purge_chunk: expected int, got float"),
        ("storage_expiration_time", -5, "storage_expiration_time: expected int >= 0"),
        ("max_record_size", -4, "max_record_size: expected int >= 0"),
        ("log_level", "warning", "log_level: 'warning' is not one of debug, info"),
        ("analytics_storage_type", "mongo", "analytics_storage_type: 'mongo' is not"),
        (
            "analytics_storage_config",
            {"type": "tempo"},
            "analytics_storage_config.type: 'tempo' is not one of redis",
        ),
        (
            "analytics_storage_config",
            {"hosts": {"a": 1}},
            "analytics_storage_config.hosts: expected str, got int",
        ),
        (
            "analytics_storage_config",
            {"addrs": ["a:1", 2]},
            "analytics_storage_config.addrs[1]: expected str, got int",
        ),
        (
            "analytics_storage_config",
            {"addrs": ["a:1", "b:x"]},
            "analytics_storage_config.addrs[1]: 'b:x' is no host:port",
        ),
        (
            "analytics_storage_config",
            {"use_ssl": True, "ssl_min_version": "1.3", "ssl_max_version": "1.2"},
            "analytics_storage_config.ssl_min_version: 1.3 is above",
        ),
        (
            "analytics_storage_config",
            {"iam_auth": {"enabled": True}},
            "analytics_storage_config.iam_auth.provider: '' is not one of gcp",
        ),
        (
            "analytics_storage_config",
            {"password": 12345},
            "analytics_storage_config.password: expected str, got int",
        ),
        (
            "analytics_storage_config",
            {"password": "kv://vault/redis"},
            "analytics_storage_config.password: store 'vault' is not declared",
        ),
        ("analytics_storage_config", [], "analytics_storage_config: expected an"),
        ("lease_time", 1, "lease_time: expected float >= 2"),
        ("journal", {"type": "tape"}, "journal.type: 'tape' is not one of redis, disk"),
    ],
)
def test_wrong_root_value(read: Read, key: str, value: Any, fault: str) -> None:
    """A wrong value is named with its place, and the other values still apply."""
    config = read({key: value, "statsd_prefix": "rest", "pumps": DUMMY})
    assert len(config.faults) == 1
    assert config.faults[0].startswith(fault)
    assert config.root.statsd_prefix == "rest"
    assert [pump.name for pump in config.pumps] == ["DUMMY"]


def test_all_faults_at_once(read: Read) -> None:
    """Every fault is reported, not only the first."""
    config = read(
        {"purge_delay": "x", "purge_chunk": -3, "pumps": DUMMY}, TYK_PMP_LOGLEVEL="x"
    )
    places = [fault.partition(":")[0] for fault in config.faults]
    assert places == ["purge_delay", "purge_chunk", "TYK_PMP_LOGLEVEL"]


def test_fault_never_shows_a_secret(read: Read) -> None:
    """A secret of the wrong type, or a good one, is not in any text."""
    meta = {"url": "x", "token": "opensesame", "size": "opensesame?"}
    config = read({"pumps": {"splunk": {"meta": meta}}})
    shown = f"{config!r} {config.every_fault()}"
    assert "opensesame" not in shown
    assert str(Secret("opensesame")) == "***"


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("purge_delay", 0, 10.0),
        ("purge_delay", None, 10.0),
        ("purge_delay", "1m30.5s", 90.5),
        ("purge_chunk", -1, 0),
        ("health_check_endpoint_port", 0, 8083),
        ("log_level", "WARN", "warn"),
    ],
)
def test_values_that_mean_another(
    read: Read, key: str, value: Any, expected: Any
) -> None:
    """Zero, null and other spellings give what they stand for."""
    config = read({key: value, "pumps": DUMMY})
    assert not config.faults
    assert getattr(config.root, key) == expected


def test_unknown_keys_are_warnings(read: Read) -> None:
    """An unknown key is named with the nearest known one."""
    pump = {"type": "dummy", "colour": 1, "ignore_fields": ["api_kee"], "time_out": 1}
    config = read({"pumps": {"d": pump}, "purgedelay": 1, "frobnicate": 1})
    assert not config.every_fault()
    assert config.warnings == [
        "purgedelay: unknown option, nearest is purge_delay",
        "frobnicate: unknown option",
        "pumps.d.colour: unknown option",
        "pumps.d.time_out: unknown option, nearest is timeout",
        "pumps.d.ignore_fields: records have no field 'api_kee', nearest is api_key",
    ]


def test_key_written_twice(read: Read) -> None:
    """The last of two counts, also in another case, and is warned of."""
    config = read(
        '{"pumps": {"dummy": {"type": "dummy"}, "DUMMY": {"type": "stdout"}},'
        ' "purge_delay": 1, "PURGE_DELAY": 2}'
    )
    assert config.root.purge_delay == 2
    assert [pump.type for pump in config.pumps] == ["stdout"]
    assert config.warnings == [
        "PURGE_DELAY: written twice, the last one counts",
        "pumps.DUMMY: written twice, the last one counts",
    ]


def test_deprecated_global_decoding(read: Read) -> None:
    """The global decode options are warned of."""
    config = read({"raw_request_decoded": True, "pumps": DUMMY})
    assert config.warnings == [
        "raw_request_decoded: deprecated and without effect; set it on each pump"
    ]


def test_types_and_names(read: Read) -> None:
    """Types are read in any case, and a pump without one is named as its type."""
    config = read({"pumps": {"a": {"type": "DUMMY"}, "Stdout": {}, "dummy": None}})
    assert [(pump.name, pump.type) for pump in config.pumps] == [
        ("A", "dummy"),
        ("STDOUT", "stdout"),
        ("DUMMY", "dummy"),
    ]


def test_unknown_type_is_skipped(read: Read) -> None:
    """A pump of an unknown type is left out and said; alone it leaves no pumps."""
    config = read({"pumps": {"x": {"type": "dumy"}, **DUMMY}})
    assert config.skipped == ["pumps.x: unknown pump type 'dumy', nearest is dummy"]
    assert [pump.name for pump in config.pumps] == ["DUMMY"]
    assert not config.faults
    assert read({"pumps": {"x": {"type": "nosuch"}}}).faults == ["No pumps configured"]


@pytest.mark.parametrize("conf", [{}, {"pumps": {}}, {"pumps": None}])
def test_no_pumps(read: Read, conf: dict[str, Any]) -> None:
    """A configuration without pumps is a fault."""
    assert read(conf).faults == ["No pumps configured"]


def test_pump_options(read: Read) -> None:
    """Every kind of option is read, keys in any case, older spellings too."""
    meta = {
        "Address": "https://x",
        "token": "opensesame",
        "size": 5.0,
        "rate": 2,
        "fast": True,
        "wait": "250ms",
        "tags": ["a", "b"],
        "codes": [200, 404.0],
        "labels": {"k": "v"},
        "bulk": {"workers": 4},
        "targets": [{"url": "y"}],
        "named": {"n": {"WORKERS": 2}},
        "mode": "QUICK",
        "ssl_ca_file": None,
    }
    config = read({"pumps": {"splunk": {"meta": meta}}})
    (pump,) = config.pumps
    assert not pump.fault
    assert not config.warnings
    assert pump.options == FakeOptions(
        url="https://x",
        token=Secret("opensesame"),
        size=5,
        rate=2.0,
        fast=True,
        wait=0.25,
        tags=["a", "b"],
        codes=[200, 404],
        labels={"k": "v"},
        bulk=Bulk(workers=4),
        targets=[Target(url="y")],
        named={"n": Bulk(workers=2)},
        mode="quick",
    )
    assert pump.options.token.reveal() == "opensesame"


@pytest.mark.parametrize(
    ("meta", "fault"),
    [
        ({}, "pumps.splunk.meta.url: missing"),
        ({"url": 1}, "pumps.splunk.meta.url: expected str, got int"),
        ({"url": "u", "size": "1"}, "pumps.splunk.meta.size: expected int, got str"),
        ({"url": "u", "fast": 1}, "pumps.splunk.meta.fast: expected bool, got int"),
        ({"url": "u", "size": 0}, "pumps.splunk.meta.size: expected int >= 1"),
        ({"url": "u", "size": 100}, "pumps.splunk.meta.size: too much unless fast"),
        ({"url": "u", "codes": [1, "2"]}, "pumps.splunk.meta.codes[1]: expected int"),
        ({"url": "u", "bulk": {"workers": 0}}, "pumps.splunk.meta.bulk.workers: exp"),
        ({"url": "u", "bulk": 3}, "pumps.splunk.meta.bulk: expected an object"),
        ({"url": "u", "targets": [{}]}, "pumps.splunk.meta.targets[0].url: missing"),
        ({"url": "u", "targets": {}}, "pumps.splunk.meta.targets: expected list"),
        ({"url": "u", "named": {"n": 1}}, "pumps.splunk.meta.named.n: expected an"),
        ({"url": "$kv{a:b}"}, "pumps.splunk.meta.url: store 'a' is not dec"),
        ({"url": "u", "tags": ["kv://a/b"]}, "pumps.splunk.meta.tags[0]: store 'a'"),
        ({"url": "u", "ssl_cert_file": "c"}, "pumps.splunk.meta.ssl_key_file: missing"),
    ],
)
def test_wrong_pump_option(read: Read, meta: dict[str, Any], fault: str) -> None:
    """A pump with a wrong option is kept, with a fault that says where."""
    config = read({"pumps": {"splunk": {"meta": meta}, **DUMMY}})
    pump = config.pumps[0]
    assert pump.fault.startswith(fault)
    assert pump.options is None
    assert not config.faults
    assert not config.pumps[1].fault


def test_wrong_frame(read: Read) -> None:
    """What is wrong beside `meta` is the pump's fault too, every one of them."""
    body = {"type": "dummy", "timeout": "x", "workers": 0, "meta": []}
    (pump,) = read({"pumps": {"d": body}}).pumps
    places = [line.partition(":")[0] for line in pump.fault.splitlines()]
    assert places == ["pumps.d.timeout", "pumps.d.workers", "pumps.d.meta"]
    (pump,) = read({"pumps": {"dummy": 7}}).pumps
    assert pump.fault == "pumps.dummy: expected an object, got int"


def test_driver_missing(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pump whose driver is not installed is kept, with a fault that says so."""
    monkeypatch.setitem(pumps.REGISTRY, "sqs", "tests.config.no_such_driver:Pump")
    (pump,) = read({"pumps": {"sqs": {}}}).pumps
    assert pump.fault.startswith("pumps.sqs: ")
    assert "no_such_driver" in pump.fault


def test_survives_the_way_to_a_worker(read: Read) -> None:
    """A configuration is the same after pickling, secrets included."""
    config = read({"pumps": {"splunk": {"meta": {"url": "u", "token": "s"}}}})
    again = pickle.loads(pickle.dumps(config))
    assert again == config
    assert again.pumps[0].options.token.reveal() == "s"
    assert again.pumps[0].options.token != Secret("t")


def test_key_written_three_times(read: Read) -> None:
    """The last of three spellings counts."""
    config = read('{"purge_delay": 1, "Purge_Delay": 2, "purge_delay": 3}')
    assert config.root.purge_delay == 3


def test_tokens_in_the_clear_are_warned_of() -> None:
    """As the reference does: some reach their Redis through a tunnel."""
    variables = {
        "TYK_PMP_REDIS_IAMAUTH_ENABLED": "true",
        "TYK_PMP_REDIS_IAMAUTH_PROVIDER": "gcp",
    }
    (warning,) = load(None, variables).warnings
    assert warning.startswith("analytics_storage_config.iam_auth: tokens travel in ")
    assert load(None, {**variables, "TYK_PMP_REDIS_USESSL": "true"}).warnings == []
