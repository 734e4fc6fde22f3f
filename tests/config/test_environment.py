"""Variables against the file: names, precedence and what a bad one does."""

from __future__ import annotations

from typing import Any

import pytest

from tests.config.conftest import Read
from tyk_pump.config.load import load
from tyk_pump.config.options import Secret

FILE = {
    "purge_delay": 1,
    "analytics_storage_config": {"host": "f", "port": 1, "key_prefix": "f-"},
    "pumps": {"stdout": {"type": "stdout", "meta": {"log_field_name": "rec"}}},
}
MINE = {"pumps": {"mine": {"type": "splunk", "meta": {"url": "file"}}}}


def test_everything_from_the_environment() -> None:
    """No file is needed."""
    config = load(
        "nowhere.conf",
        {
            "TYK_PMP_ANALYTICSSTORAGECONFIG_HOST": "127.0.0.1",
            "TYK_PMP_ANALYTICSSTORAGECONFIG_PORT": "7000",
            "TYK_PMP_PURGEDELAY": "1",
            "TYK_PMP_DONTPURGEUPTIMEDATA": "true",
            "TYK_PMP_HEALTHCHECKENDPOINTPORT": "8099",
            "TYK_PMP_OMITCONFIGFILE": "true",
            "TYK_PMP_PUMPS_STDOUT_META_LOGFIELDNAME": "fromenv",
        },
    )
    assert not config.every_fault()
    assert not config.warnings
    assert config.root.analytics_storage_config.addresses() == [("127.0.0.1", 7000)]
    assert config.root.health_check_endpoint_port == 8099
    (pump,) = config.pumps
    assert pump.options.log_field_name == "fromenv"


@pytest.mark.parametrize(
    ("value", "read_anyway"), [("true", False), ("TRUE", False), ("1", True)]
)
def test_omit_config_file(read: Read, value: str, read_anyway: bool) -> None:
    """Only the word true, in any case, leaves the file unread."""
    config = read(FILE, TYK_PMP_OMITCONFIGFILE=value)
    assert bool(config.pumps) is read_anyway


def test_omit_config_file_in_the_file(read: Read) -> None:
    """In the file itself the option does nothing."""
    assert read({**FILE, "omit_config_file": True}).pumps


@pytest.mark.parametrize(
    ("name", "text", "attribute", "value"),
    [
        ("PURGEDELAY", "010", "purge_delay", 8.0),
        ("PURGEDELAY", "0.5", "purge_delay", 0.5),
        ("PURGEDELAY", "2m", "purge_delay", 120.0),
        ("PURGECHUNK", "010", "purge_chunk", 8),
        ("PURGECHUNK", "1_000", "purge_chunk", 1000),
        ("MAXRECORDSIZE", "0x10", "max_record_size", 16),
        ("MAXRECORDSIZE", "0b11", "max_record_size", 3),
        ("MAXRECORDSIZE", "0o17", "max_record_size", 15),
        ("MAXRECORDSIZE", "+7", "max_record_size", 7),
        ("HTTPPROFILE", "T", "enable_http_profiler", True),
        ("DECODERAWREQUEST", "1", "raw_request_decoded", True),
        ("OMITDETAILEDRECORDING", "true", "omit_detailed_recording", True),
        ("STATSDPREFIX", "", "statsd_prefix", ""),
        ("LOGLEVEL", "ERROR", "log_level", "error"),
        ("STATEDIR", "/var/x", "state_dir", "/var/x"),
    ],
)
def test_root_variable(
    read: Read, name: str, text: str, attribute: str, value: Any
) -> None:
    """A variable wins over the file, and numbers are read as Go reads them."""
    conf = {**FILE, "statsd_prefix": "file"}
    config = read(conf, **{f"TYK_PMP_{name}": text})
    assert not config.every_fault()
    assert getattr(config.root, attribute) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("PURGEDELAY", "one"),
        ("PURGEDELAY", ""),
        ("PURGEDELAY", "-1"),
        ("PURGEDELAY", "nan"),
        ("PURGECHUNK", " 1"),
        ("PURGECHUNK", "09"),
        ("PURGECHUNK", "99999999999999999999"),
        ("DONTPURGEUPTIMEDATA", "yes"),
        ("DONTPURGEUPTIMEDATA", ""),
        ("LOGLEVEL", "warning"),
        ("ANALYTICSSTORAGECONFIG_PORT", "70000"),
    ],
)
def test_bad_variable_stops_no_other(read: Read, name: str, text: str) -> None:
    """A bad variable is a fault of its own name; variables after it still apply."""
    config = read(FILE, **{f"TYK_PMP_{name}": text, "TYK_PMP_STATSDPREFIX": "later"})
    assert [fault.partition(":")[0] for fault in config.faults] == [f"TYK_PMP_{name}"]
    assert config.root.statsd_prefix == "later"
    assert config.root.purge_delay == 1


def test_names_with_underscores_are_warned_of(read: Read) -> None:
    """A name as in the file does nothing, and the right one is named."""
    config = read(FILE, TYK_PMP_PURGE_DELAY="3", TYK_PMP_LOG_LEVEL="debug")
    assert config.root.purge_delay == 1
    assert config.warnings == [
        "TYK_PMP_LOG_LEVEL: unknown variable, nearest is TYK_PMP_LOGLEVEL",
        "TYK_PMP_PURGE_DELAY: unknown variable, nearest is TYK_PMP_PURGEDELAY",
    ]


def test_storage_forms(read: Read) -> None:
    """Of the three name forms the last wins, each over the file."""
    config = read(
        FILE,
        TYK_PMP_ANALYTICSSTORAGECONFIG_PORT="2",
        TYK_PMP_REDIS_PORT="3",
        TYK_PMP_TEMPORAL_STORAGE_PORT="4",
        TYK_PMP_REDIS_HOST="second",
        TYK_PMP_ANALYTICSSTORAGECONFIG_HOST="first",
        TYK_PMP_ANALYTICSSTORAGECONFIG_USERNAME="u",
    )
    storage = config.root.analytics_storage_config
    assert storage.addresses() == [("second", 4)]
    assert storage.username == "u"
    assert storage.prefix() == "f-"


def test_storage_addresses(read: Read) -> None:
    """Hosts and addresses are comma lists; addresses win; one is used alone."""
    hosts = read(FILE, TYK_PMP_REDIS_HOSTS="a:7000,b,c:7001")
    storage = hosts.root.analytics_storage_config
    assert storage.hosts == {"a": "7000", "c": "7001"}
    assert storage.addresses() == [("a", 7000)]
    addrs = read(
        FILE, TYK_PMP_REDIS_ADDRS="x:1,[::1]:2", TYK_PMP_REDIS_ENABLECLUSTER="true"
    )
    assert addrs.root.analytics_storage_config.addresses() == [("x", 1), ("::1", 2)]


@pytest.mark.parametrize(
    ("storage", "addresses"),
    [
        ({}, [("127.0.0.1", 6379)]),
        ({"host": "x"}, [("127.0.0.1", 6379)]),
        ({"port": 7}, [("127.0.0.1", 7)]),
        ({"master_name": "m"}, [("127.0.0.1", 26379)]),
        ({"master_name": "m", "addrs": ["a:1", "b"]}, [("a", 1), ("b", 26379)]),
        ({"hosts": None, "host": "h", "port": 9}, [("h", 9)]),
    ],
)
def test_addresses(
    read: Read, storage: dict[str, Any], addresses: list[tuple[str, int]]
) -> None:
    """Without an address it is the local server; sentinels have their own port."""
    config = read({**FILE, "analytics_storage_config": storage})
    assert config.root.analytics_storage_config.addresses() == addresses


def test_prefixes_and_times(read: Read) -> None:
    """The prefix has an older name and a default; the time-out is five seconds."""
    config = read({**FILE, "analytics_storage_config": {"redis_key_prefix": "old-"}})
    storage = config.root.analytics_storage_config
    assert storage.prefix() == "old-"
    assert storage.timeout_seconds() == 5
    assert not storage.tls()
    config = read(
        FILE, TYK_PMP_REDIS_KEYPREFIX="env-", TYK_PMP_REDIS_REDISUSESSL="true"
    )
    assert config.root.analytics_storage_config.prefix() == "env-"
    assert config.root.analytics_storage_config.tls()


def test_password_is_not_a_reference_in_the_later_forms(read: Read) -> None:
    """References are refused where they would be looked up, else taken as texts."""
    config = read(FILE, TYK_PMP_REDIS_PASSWORD="kv://a/b")
    assert config.root.analytics_storage_config.password.reveal() == "kv://a/b"
    config = read(FILE, TYK_PMP_ANALYTICSSTORAGECONFIG_PASSWORD="kv://a/b")
    assert config.faults[0].startswith("TYK_PMP_ANALYTICSSTORAGECONFIG_PASSWORD: ")


@pytest.mark.parametrize(
    ("variable", "in_file", "level"),
    [("debug", "warning", "debug"), ("WARN", "", "warn"), ("loud", "error", "info")],
)
def test_log_level_variable(
    read: Read, variable: str, in_file: str, level: str
) -> None:
    """TYK_LOGLEVEL wins unseen what the file and the other variable say."""
    config = read(
        {**FILE, "log_level": in_file}, TYK_LOGLEVEL=variable, TYK_PMP_LOGLEVEL="x"
    )
    assert config.root.log_level == level
    assert not config.every_fault()
    assert not config.warnings


def test_other_variables(read: Read) -> None:
    """The format, the demo and our own metrics have variables of their own."""
    config = read(
        {**FILE, "log_format": "text"},
        TYK_LOGFORMAT="json",
        TYK_PMP_BUILDDEMODATA="org",
        TYK_INSTRUMENTATION="1",
        TYK_PMP_STATSDCONNECTIONSTRING="localhost:8125",
    )
    assert config.root.log_format == "json"
    assert config.demo_org == "org"
    assert config.instrumentation
    assert not config.warnings


# Pumps


def names(config: Any) -> list[tuple[str, str]]:
    """Return the names and types of a configuration's pumps."""
    return [(pump.name, pump.type) for pump in config.pumps]


def test_variable_over_meta(read: Read) -> None:
    """A pump's variable wins over its meta; the rest of meta stays."""
    config = read(FILE, TYK_PMP_PUMPS_STDOUT_META_LOGFIELDNAME="env")
    assert config.pumps[0].options.log_field_name == "env"
    assert config.pumps[0].meta["log_field_name"] == "env"


def test_every_kind_of_meta_variable(read: Read) -> None:
    """Every kind of option can be set by a variable, lists untrimmed."""
    prefix = "TYK_PMP_PUMPS_MINE_META"
    values = {
        "TOKEN": "kept",
        "SIZE": "0x20",
        "RATE": "0.5",
        "QUICK": "true",
        "WAIT": "2",
        "TAGS": "a, b",
        "CODES": "200,404",
        "LABELS": "k:v,l:w",
        "BULK_WORKERS": "3",
        "SSLCAFILE": "/ca",
    }
    config = read(MINE, **{f"{prefix}_{key}": text for key, text in values.items()})
    options = config.pumps[0].options
    assert not config.every_fault()
    assert options.url == "file"
    assert options.token.reveal() == "kept"
    assert (options.size, options.rate, options.fast) == (32, 0.5, True)
    assert (options.wait, options.tags, options.codes) == (2.0, ["a", " b"], [200, 404])
    assert options.labels == {"k": "v", "l": "w"}
    assert (options.bulk.workers, options.ssl_ca_file) == (3, "/ca")


@pytest.mark.parametrize(
    ("suffix", "text"),
    [("META_SIZE", "x"), ("META_LABELS", "a"), ("META_TARGETS", "x"), ("TIMEOUT", "")],
)
def test_bad_pump_variable(read: Read, suffix: str, text: str) -> None:
    """A bad variable of a pump is that pump's fault alone."""
    name = f"TYK_PMP_PUMPS_MINE_{suffix}"
    config = read(MINE, **{name: text})
    assert config.pumps[0].fault.startswith(f"{name}: ")
    assert not config.faults


def test_common_variables(read: Read) -> None:
    """The options of every pump have variables, some with names of their own."""
    values = {
        "OMITDETAILEDRECORDING": "true",
        "IGNOREFIELDS": "api_key,geo",
        "DECODERAWREQUEST": "1",
        "TIMEOUT": "7",
        "FILTERS_ORGSIDS": "a,b",
        "FILTERS_RESPONSECODES": "200",
        "FILTERS_SKIPPEDAPIIDS": "",
        "RETRY_MAXELAPSED": "60",
        "WORKERS": "2",
    }
    prefix = "TYK_PMP_PUMPS_STDOUT"
    config = read(FILE, **{f"{prefix}_{key}": text for key, text in values.items()})
    pump = config.pumps[0]
    assert not config.every_fault()
    assert not config.warnings
    assert pump.omit_detailed_recording and pump.raw_request_decoded
    assert (pump.timeout, pump.workers, pump.retry.max_elapsed) == (7, 2, 60)
    assert pump.ignore_fields == ["api_key", "geo"]
    assert pump.filters.org_ids == ["a", "b"]
    assert pump.filters.response_codes == [200]
    assert pump.filters.skip_api_ids == []


def test_own_name_with_type(read: Read) -> None:
    """A pump of an own name is made when its type is given."""
    config = read(
        FILE,
        TYK_PMP_PUMPS_MINE_TYPE="Stdout",
        TYK_PMP_PUMPS_MINE_META_LOGFIELDNAME="mine",
    )
    assert names(config) == [("STDOUT", "stdout"), ("MINE", "stdout")]
    assert config.pumps[1].options.log_field_name == "mine"


def test_own_name_without_type(read: Read) -> None:
    """Without a type the variables are left aside, with a warning."""
    config = read(FILE, TYK_PMP_PUMPS_MINE_META_LOGFIELDNAME="mine")
    assert names(config) == [("STDOUT", "stdout")]
    assert config.warnings == [
        "TYK_PMP_PUMPS_MINE_...: ignored, TYK_PMP_PUMPS_MINE_TYPE is not set"
    ]


def test_known_type_as_name_wins(read: Read) -> None:
    """A name that is a type is that type, whatever else says, with a warning."""
    config = read({"pumps": {}}, TYK_PMP_PUMPS_DUMMY_TYPE="stdout")
    assert names(config) == [("DUMMY", "dummy")]
    assert "'stdout' is ignored" in config.warnings[0]


def test_variables_of_the_type(read: Read) -> None:
    """The type's own names reach a pump of another name, and make a second pump."""
    config = read(MINE, TYK_PMP_PUMPS_SPLUNK_META_URL="type")
    assert names(config) == [("MINE", "splunk"), ("SPLUNK", "splunk")]
    assert [pump.options.url for pump in config.pumps] == ["type", "type"]


def test_own_variables_shut_out_the_type_s(read: Read) -> None:
    """Once a pump has variables of its own the type's do not reach it."""
    config = read(
        MINE, TYK_PMP_PUMPS_SPLUNK_META_URL="type", TYK_PMP_PUMPS_MINE_TIMEOUT="1"
    )
    assert config.pumps[0].options.url == "file"


def test_meta_env_prefix(read: Read) -> None:
    """The file may say what a pump's variables start with."""
    meta = {"url": "file", "meta_env_prefix": "MY_PREFIX"}
    conf = {"pumps": {"mine": {"type": "splunk", "meta": meta}}}
    config = read(conf, MY_PREFIX_URL="byprefix")
    assert config.pumps[0].options.url == "byprefix"
    assert not config.warnings
    both = read(conf, MY_PREFIX_URL="a", TYK_PMP_PUMPS_MINE_META_URL="b")
    assert both.pumps[0].options.url == "b"


def test_small_letters(read: Read) -> None:
    """A name in small letters is read too; in capitals it wins."""
    config = read({}, TYK_PMP_PUMPS_stdout_META_LOGFIELDNAME="small")
    assert config.pumps[0].options.log_field_name == "small"
    config = read(
        {},
        TYK_PMP_PUMPS_STDOUT_META_LOGFIELDNAME="LARGE",
        TYK_PMP_PUMPS_stdout_META_LOGFIELDNAME="small",
    )
    assert config.pumps[0].options.log_field_name == "LARGE"


def test_names_with_underscores(read: Read) -> None:
    """Of the names that fit the longest is meant, not the first word."""
    conf = {"pumps": {"my_own": {"type": "splunk", "meta": {"url": "f"}}}}
    config = read(
        conf,
        TYK_PMP_PUMPS_MY_OWN_META_URL="e",
        TYK_PMP_PUMPS_SQL_AGGREGATE_META_BATCHSIZE="1",
        TYK_PMP_PUMPS_DUMMY_X_TYPE="dummy",
        TYK_PMP_PUMPS_DUMMY_X_TIMEOUT="3",
        TYK_PMP_PUMPS_GRAPH_SQL_META_Y="1",
        TYK_PMP_PUMPS_MONGOAGGREGATE_META_Z="1",
    )
    assert names(config) == [
        ("MY_OWN", "splunk"),
        ("DUMMY_X", "dummy"),
        ("SQL_AGGREGATE", "sql_aggregate"),
    ]
    assert config.pumps[0].options.url == "e"
    assert config.pumps[1].timeout == 3
    assert not config.warnings


def test_value_with_an_underscore_is_no_name(read: Read) -> None:
    """What stands behind the equals sign names no pump."""
    config = read(FILE, TYK_PMP_PUMPS_STDOUT_META_LOGFIELDNAME="a_PUMPS_b_TYPE")
    assert names(config) == [("STDOUT", "stdout")]
    assert not config.warnings


def test_variables_that_replace_nothing(read: Read) -> None:
    """The map of pumps, and a whole meta, cannot be set; that is said."""
    config = read(FILE, TYK_PMP_PUMPS="stdout:1", TYK_PMP_PUMPS_STDOUT_META="a:b")
    assert config.pumps[0].options.log_field_name == "rec"
    assert config.warnings == [
        "TYK_PMP_PUMPS: ignored; set variables of single pumps",
        "TYK_PMP_PUMPS_STDOUT_META: ignored; set single options",
    ]


def test_unknown_pump_variable(read: Read) -> None:
    """A mistyped option of a pump is named with the nearest known one."""
    config = read(MINE, TYK_PMP_PUMPS_MINE_META_TOKENN="x")
    assert config.warnings == [
        "TYK_PMP_PUMPS_MINE_META_TOKENN: unknown variable, nearest is "
        "TYK_PMP_PUMPS_MINE_META_TOKEN"
    ]


def test_old_names_without_a_pump_are_said(read: Read) -> None:
    """The oldest names of Mongo's options are not forgotten in silence."""
    config = read(
        {**FILE, "dont_purge_uptime_data": True},
        PMP_MONGO_MONGOURL="mongodb://user:secretpw@x/y",
    )
    assert config.warnings == ["PMP_MONGO_...: ignored, there is no mongo pump"]


MONGO = {
    "dont_purge_uptime_data": True,
    "pumps": {
        "mongo": {
            "type": "mongo",
            "meta": {"mongo_url": "mongodb://f/d", "driver": "mgo"},
        },
        "s": {"type": "mongo-pump-selective", "meta": {"mongo_url": "mongodb://f/d"}},
    },
}


def test_old_names_win(read: Read) -> None:
    """They stand over the file and the new names, with a warning each."""
    config = read(
        MONGO,
        TYK_PMP_PUMPS_MONGO_META_MONGOURL="mongodb://new/d",
        TYK_PMP_PUMPS_MONGO_META_MONGOUSESSL="true",
        PMP_MONGO_MONGOURL="mongodb://old/d",
        PMP_MONGO_COLLECTIONNAME="c",
        PMP_MONGOSEL_MONGODRIVERTYPE="mgo",
    )
    assert config.every_fault() == []
    mongo, selective = (pump.options for pump in config.pumps)
    assert mongo.mongo_url == Secret("mongodb://old/d")
    assert mongo.collection_name == "c"
    assert mongo.mongo_use_ssl
    assert selective.mongo_url == Secret("mongodb://f/d")
    assert selective.driver == "mgo"
    assert config.warnings == [
        "PMP_MONGO_MONGOURL: deprecated, write TYK_PMP_PUMPS_MONGO_META_MONGOURL",
        "PMP_MONGO_COLLECTIONNAME: deprecated, write "
        "TYK_PMP_PUMPS_MONGO_META_COLLECTIONNAME",
        "PMP_MONGOSEL_MONGODRIVERTYPE: deprecated, write "
        "TYK_PMP_PUMPS_MONGOSELECTIVE_META_MONGODRIVERTYPE",
    ]


def test_old_names_take_no_references(read: Read) -> None:
    """A reference to a store of secrets in one of them is a fault."""
    config = read(MONGO, PMP_MONGOSEL_MONGOURL="kv://vault/x")
    (fault,) = config.every_fault()[1:]
    assert fault.startswith("PMP_MONGOSEL_MONGOURL: this old variable takes no ref")


@pytest.mark.parametrize(
    ("variables", "types"),
    [
        ({"MONGO_DB_TYPE": "2"}, (2, 2)),
        ({"MONGO_DB_TYPE": "2", "TYK_PMP_PUMPS_MONGO_META_MONGO_DB_TYPE": "1"}, (1, 2)),
        ({"MONGO_DB_TYPE": "1", "PMP_MONGO_COLLECTIONNAME": "c"}, (1, 1)),
    ],
)
def test_a_bare_variable(
    read: Read, variables: dict[str, str], types: tuple[int, int]
) -> None:
    """One variable sets an option of all pumps, unless they have their own."""
    config = read(
        MONGO, **{"TYK_PMP_PUMPS_MONGO_META_COLLECTIONNAME": "c", **variables}
    )
    assert config.every_fault() == []
    found = tuple(pump.options.mongo_db_type for pump in config.pumps)
    assert found == types


def test_bodies_that_stay_as_sent(read: Read) -> None:
    """Stores whose readers decode the bodies get them encoded."""
    meta = {"mongo_url": "mongodb://f/d"}
    section = {"type": "mongo-pump-selective", "raw_request_decoded": True}
    config = read({"pumps": {"s": {**section, "meta": meta}}})
    assert not config.pumps[0].raw_request_decoded
    assert config.warnings == [
        "pumps.s.raw_request_decoded: without effect on mongo-pump-selective"
    ]
