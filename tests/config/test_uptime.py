"""`uptime_pump_config`: one object, the options of Mongo or those of SQL."""

from __future__ import annotations

from typing import Any

import pytest

from tests.config.conftest import Read
from tyk_pump.config.load import Config
from tyk_pump.config.options import Secret
from tyk_pump.config.root import PumpConfig

FILE: dict[str, Any] = {"pumps": {"dummy": {}}}
URL = "mongodb://127.0.0.1/tyk_analytics"
DSN = "host=localhost dbname=tyk"
PREFIX = "TYK_PMP_UPTIMEPUMPCONFIG_"


def uptime(config: Config) -> PumpConfig:
    """Return the uptime pump."""
    (found,) = (pump for pump in config.pumps if pump.name == "uptime")
    assert config.faults == []
    return found


def with_file(read: Read, section: Any, **environ: str) -> Config:
    """Read a file with this section."""
    return read({**FILE, "uptime_pump_config": section}, **environ)


@pytest.mark.parametrize("kind", ["", "mongo", None])
def test_mongo_unless_sql_is_said(read: Read, kind: str | None) -> None:
    """Without `uptime_type`, too."""
    config = with_file(read, {"uptime_type": kind, "Mongo_URL": URL})
    found = uptime(config)
    assert (found.type, found.fault) == ("uptime-mongo", "")
    assert found.options.mongo_url == Secret(URL)
    assert found.options.collection == "tyk_uptime_analytics"
    assert config.warnings == []
    assert config.uptime_left == ""


def test_sql(read: Read) -> None:
    """`type` is the kind of database, as with the sql pump."""
    section = {"uptime_type": "sql", "type": "postgres", "connection_string": DSN}
    config = with_file(read, {**section, "table_sharding": True})
    found = uptime(config)
    assert (found.type, found.fault) == ("uptime-sql", "")
    assert found.options.connection_string.reveal() == DSN
    assert found.options.table_sharding
    assert config.warnings == []


def test_another_type_is_mongo_with_a_warning(read: Read) -> None:
    """As in the reference, which said nothing."""
    config = with_file(read, {"uptime_type": "SQL", "mongo_url": URL})
    assert uptime(config).type == "uptime-mongo"
    (warning,) = config.warnings
    assert warning == "uptime_pump_config.uptime_type: 'SQL' is taken as mongo"


def test_the_pump_has_none_of_what_others_have(read: Read) -> None:
    """No filters, no time-out of its own, one worker."""
    found = uptime(with_file(read, {"mongo_url": URL}))
    plain = PumpConfig(name="uptime", type="uptime-mongo")
    plain.options, plain.meta = found.options, found.meta
    assert found == plain


def test_off(read: Read) -> None:
    """Nothing of the section counts then, however wrong; and nobody is warned."""
    config = read(
        {**FILE, "uptime_pump_config": {"x": 1}, "dont_purge_uptime_data": True},
        **{f"{PREFIX}MONGOURL": "nonsense"},
    )
    assert [pump.name for pump in config.pumps] == ["DUMMY"]
    assert config.warnings == config.faults == []
    assert config.uptime_left == ""


def test_no_word_of_it(read: Read) -> None:
    """Reports stay in Redis, and the start says so."""
    section: dict[str, str] | None
    for section in (None, {}):
        config = with_file(read, section)
        assert [pump.name for pump in config.pumps] == ["DUMMY"]
        assert config.warnings == config.faults == []
        assert "uptime_pump_config" in config.uptime_left


@pytest.mark.parametrize(
    ("section", "fault"),
    [
        ({"collection_name": "c"}, "uptime_pump_config.mongo_url: missing"),
        ({"mongo_url": "x"}, "uptime_pump_config.mongo_url: does not begin with"),
        ({"uptime_type": "sql"}, "uptime_pump_config.type: missing"),
        ({"uptime_type": 3, "mongo_url": URL}, "uptime_pump_config.uptime_type: "),
        (
            {"mongo_url": URL, "mongo_db_type": "0"},
            "uptime_pump_config.mongo_db_type: ",
        ),
        (["x"], "uptime_pump_config: expected an object, got array"),
    ],
)
def test_a_fault_is_the_uptime_pump_s_alone(
    read: Read, section: Any, fault: str
) -> None:
    """It does not start; the others do."""
    config = with_file(read, section)
    found = uptime(config)
    assert found.fault.startswith(fault)
    assert found.options is None
    assert config.pumps[0].fault == ""


def test_variables(read: Read) -> None:
    """They win over the file, and need none."""
    config = with_file(
        read,
        {"mongo_url": "mongodb://file/db", "collection_name": "c"},
        **{
            f"{PREFIX}MONGOURL": URL,
            f"{PREFIX}USECOLLECTIONNAME": "true",
            f"{PREFIX}MONGO_DB_TYPE": "1",
        },
    )
    options = uptime(config).options
    assert (options.mongo_url.reveal(), options.collection) == (URL, "c")
    assert options.mongo_db_type == 1
    config = read(
        FILE,
        **{
            f"{PREFIX}UPTIMETYPE": "sql",
            f"{PREFIX}TYPE": "postgres",
            f"{PREFIX}CONNECTIONSTRING": DSN,
            f"{PREFIX}TABLESHARDING": "1",
            f"{PREFIX}POSTGRES_PREFERSIMPLEPROTOCOL": "true",
        },
    )
    assert config.warnings == []
    found = uptime(config)
    assert (found.type, found.fault) == ("uptime-sql", "")
    assert found.options.table_sharding
    assert found.options.postgres.prefer_simple_protocol


def test_a_bad_variable_is_named(read: Read) -> None:
    """By its own name."""
    config = with_file(read, {"mongo_url": URL}, **{f"{PREFIX}MONGOUSESSL": "maybe"})
    assert uptime(config).fault.startswith(f"{PREFIX}MONGOUSESSL: ")


def test_variables_of_old_versions(read: Read) -> None:
    """Where nothing else names the server; the collection is the usual one then."""
    old = {"PMP_MONGO_MONGOURL": URL, "PMP_MONGO_COLLECTIONNAME": "calls"}
    config = read(FILE, **old)
    options = uptime(config).options
    assert options.mongo_url == Secret(URL)
    assert options.collection_name == "tyk_uptime_analytics"
    assert config.warnings == [
        f"PMP_MONGO_{name}: deprecated, write {PREFIX}{name}"
        for name in ("MONGOURL", "COLLECTIONNAME")
    ]
    newer = "mongodb://newer/db"
    config = with_file(read, {"mongo_url": newer, "collection_name": "c"}, **old)
    options = uptime(config).options
    assert options.mongo_url == Secret(newer)
    assert options.collection_name == "c"


def test_options_of_the_other_kind_do_nothing(read: Read) -> None:
    """They are known, so nobody takes them for a slip; what nobody knows is one."""
    config = with_file(
        read,
        {"mongo_url": URL, "batch_size": 5, "type": "", "colection_name": "x"},
        **{f"{PREFIX}CONNECTIONSTRING": DSN, f"{PREFIX}NONSENSE": "1"},
    )
    nothing = "without effect on uptime-mongo, see uptime_type"
    assert config.warnings == [
        f"uptime_pump_config.batch_size: {nothing}",
        "uptime_pump_config.colection_name: unknown option, nearest is collection_name",
        f"{PREFIX}CONNECTIONSTRING: {nothing}",
        f"{PREFIX}NONSENSE: unknown variable, nearest is {PREFIX}MONGOUSESSL",
    ]
    assert uptime(config).fault == ""


def test_no_pump_of_the_file_is_the_uptime_pump(read: Read) -> None:
    """Names in `pumps` are in capitals, and its types are none of theirs."""
    pumps = {"uptime": {"type": "dummy"}, "x": {"type": "uptime-mongo"}}
    config = read({"pumps": pumps, "uptime_pump_config": {"mongo_url": URL}})
    assert [pump.name for pump in config.pumps] == ["UPTIME", "uptime"]
    assert [pump.type for pump in config.pumps] == ["dummy", "uptime-mongo"]
    assert len(config.skipped) == 1


def test_the_url_is_shown_nowhere(read: Read) -> None:
    """It may hold a password, and workers are given all options."""
    url = "mongodb://user:secret@127.0.0.1/db"
    config = with_file(read, {"mongo_url": url})
    assert "secret" not in repr(config)
    assert config.root.uptime_pump_config == {}
