"""Options outside the pumps: storage, purge, log, health; and each pump's frame."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec

from tyk_pump import secrets
from tyk_pump.config.options import Options, Seconds, Secret, doc

TLS_VERSIONS = ("1.0", "1.1", "1.2", "1.3")
_DEFAULT_PREFIX = "analytics-"


class IamAuthOptions(Options, frozen=True, kw_only=True):
    """A cloud identity in the place of the Redis password."""

    enabled: Annotated[
        bool,
        doc("Log in with access tokens; `username` and `password` do not count then."),
    ] = False
    provider: Annotated[str, doc("Whose identity it is; only `gcp` exists.")] = ""
    service_account: Annotated[
        str,
        doc("Service account to impersonate; empty means the ambient identity itself."),
    ] = ""
    token_refresh_before_expiry: Annotated[
        Seconds,
        doc("How long before its end a token is renewed; half its time at most.", ge=0),
    ] = 300.0

    def faults(self) -> Iterator[tuple[str, str]]:
        """A provider that nobody knows, or whose client is not installed."""
        if not self.enabled:
            return
        if self.provider.strip().lower() != "gcp":
            yield "provider", f"{self.provider!r} is not one of gcp"
        elif not _installed("google.auth"):
            yield "provider", "gcp needs google-auth: install tyk-pump[gcp]"


class RedisOptions(Options, frozen=True, kw_only=True):
    """The Redis that the gateway writes its records to."""

    type: Annotated[
        str, doc("Kind of storage; only `redis` exists.", choices=("redis",))
    ] = ""
    host: Annotated[
        str, doc("Host of the single server; used when `port` is set.", example="redis")
    ] = ""
    port: Annotated[
        int, doc("Port of the single server.", ge=0, le=65535, example=6379)
    ] = 0
    hosts: Annotated[
        dict[str, str], doc("Host to port; an older way of writing `addrs`.")
    ] = {}
    addrs: Annotated[
        list[str],
        doc("Addresses as `host:port`; they win over `hosts`, `host` and `port`."),
    ] = []
    master_name: Annotated[
        str, doc("Name of the master; when set, the addresses are sentinels.")
    ] = ""
    sentinel_password: Annotated[Secret, doc("Password of the sentinels.")] = Secret()
    username: Annotated[str, doc("User of the Redis ACL.")] = ""
    password: Annotated[Secret, doc("Password of the user.")] = Secret()
    database: Annotated[int, doc("Number of the database, not in a cluster.", ge=0)] = 0
    timeout: Annotated[
        Seconds, doc("Seconds to wait for a connection or an answer; 0 means 5.", ge=0)
    ] = 0.0
    optimisation_max_idle: Annotated[
        int, doc("Accepted and without effect.", env="MAXIDLE")
    ] = 0
    optimisation_max_active: Annotated[
        int, doc("Accepted and without effect.", env="MAXACTIVE")
    ] = 0
    enable_cluster: Annotated[bool, doc("The addresses belong to a cluster.")] = False
    redis_key_prefix: Annotated[str, doc("An older name of `key_prefix`.")] = ""
    key_prefix: Annotated[
        str, doc("What the names of the lists begin with; empty means `analytics-`.")
    ] = ""
    use_ssl: Annotated[bool, doc("Connect over TLS.")] = False
    redis_use_ssl: Annotated[bool, doc("An older name of `use_ssl`.")] = False
    ssl_insecure_skip_verify: Annotated[
        bool, doc("Do not check the server's certificate.")
    ] = False
    redis_ssl_insecure_skip_verify: Annotated[
        bool, doc("An older name of `ssl_insecure_skip_verify`.")
    ] = False
    ssl_ca_file: Annotated[str, doc("PEM file of the authorities to believe.")] = ""
    ssl_cert_file: Annotated[str, doc("PEM file of the client certificate.")] = ""
    ssl_key_file: Annotated[str, doc("PEM file of the client certificate's key.")] = ""
    ssl_min_version: Annotated[
        str, doc("Lowest TLS version; empty means `1.2`.", choices=TLS_VERSIONS)
    ] = ""
    ssl_max_version: Annotated[
        str, doc("Highest TLS version; empty means `1.3`.", choices=TLS_VERSIONS)
    ] = ""
    iam_auth: Annotated[
        IamAuthOptions, doc("A cloud identity in the place of a password.")
    ] = IamAuthOptions()

    def addresses(self) -> list[tuple[str, int]]:
        """Return the servers to connect to: one, unless cluster or sentinel."""
        default = 26379 if self.master_name else 6379
        found = [split_address(text, default) for text in self.addrs]
        if not found:
            # A list, not the reference's random order: the first is the first.
            found = [
                split_address(f"{_bracketed(host)}:{port}", default)
                for host, port in self.hosts.items()
            ]
        if not found and self.port:
            found = [(self.host or "127.0.0.1", self.port)]
        if not found:
            found = [("127.0.0.1", default)]
        return found if self.master_name or self.enable_cluster else found[:1]

    def prefix(self) -> str:
        """Return what the names of the analytics lists begin with."""
        return self.key_prefix or self.redis_key_prefix or _DEFAULT_PREFIX

    def tls(self) -> bool:
        """Whether connections use TLS."""
        return self.use_ssl or self.redis_use_ssl

    def skip_verify(self) -> bool:
        """Whether the server's certificate is taken unseen."""
        return self.ssl_insecure_skip_verify or self.redis_ssl_insecure_skip_verify

    def tls_versions(self) -> tuple[str, str]:
        """Return the lowest and the highest TLS version."""
        return self.ssl_min_version or "1.2", self.ssl_max_version or "1.3"

    def timeout_seconds(self) -> float:
        """Return how long to wait for a connection or an answer."""
        return float(self.timeout) or 5.0

    def faults(self) -> Iterator[tuple[str, str]]:
        """What no single option shows: addresses, the order of TLS versions."""
        for index, text in enumerate(self.addrs):
            if not _is_address(text):
                yield f"addrs[{index}]", f"{text!r} is no host:port"
        for host, port in self.hosts.items():
            if not _is_address(f"{_bracketed(host)}:{port}"):
                yield f"hosts.{host}", f"{port!r} is no port"
        if self.tls():
            low, high = self.tls_versions()
            if low in TLS_VERSIONS and high in TLS_VERSIONS and low > high:
                yield "ssl_min_version", f"{low} is above ssl_max_version {high}"


def split_address(text: str, default_port: int) -> tuple[str, int]:
    """Split `host:port`, `host` or `[v6]:port`."""
    host, colon, port = text.strip().rpartition(":")
    if not colon or (":" in host and not host.startswith("[")) or port.endswith("]"):
        host, port = text.strip(), ""
    host = host.removeprefix("[").removesuffix("]") or "127.0.0.1"
    return host, int(port) if port else default_port


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # nor what it is a part of
        return False


def _is_address(text: str) -> bool:
    try:
        _, port = split_address(text, 6379)
    except ValueError:
        return False
    return bool(text.strip()) and 0 < port <= 65535


class JournalOptions(Options, frozen=True, kw_only=True):
    """Who keeps claimed records until every pump has settled them."""

    type: Annotated[
        str,
        doc(
            "Where records wait for the pump furthest behind. `redis`: in the claims, "
            "and beyond `max_bytes` in the state file; `disk`: in the state file.",
            choices=("redis", "disk"),
        ),
    ] = "redis"
    max_bytes: Annotated[
        int,
        doc(
            "Bytes that may wait there. 0 means, in Redis, a quarter of its "
            "`maxmemory`, or 1 GiB where it has none; on the disk, no limit.",
            ge=0,
        ),
    ] = 0
    retention: Annotated[
        Seconds,
        doc("How long `disk` keeps what is settled, for `tyk-pump replay`.", ge=0),
    ] = 86_400.0
    retention_bytes: Annotated[
        int,
        doc(
            "Bytes on the disk beyond which settled records go before their time.", ge=0
        ),
    ] = 1 << 30


class RetryOptions(Options, frozen=True, kw_only=True):
    """How a pump waits for its back end to come back."""

    initial: Annotated[Seconds, doc("Pause before the second attempt.", gt=0)] = 0.1
    max: Annotated[Seconds, doc("Longest pause between attempts.", gt=0)] = 5.0
    multiplier: Annotated[
        float, doc("How much longer each pause is than the one before.", ge=1)
    ] = 2.0
    max_elapsed: Annotated[
        Seconds,
        doc("After this long records become dead letters; 0 means never.", ge=0),
    ] = 0.0


class Filters(Options, frozen=True, kw_only=True):
    """Which records a pump gets; a skip list wins over an allow list."""

    org_ids: Annotated[list[str], doc("Only these organisations.", env="ORGSIDS")] = []
    api_ids: Annotated[list[str], doc("Only these APIs.", env="APIIDS")] = []
    response_codes: Annotated[
        list[int], doc("Only these response codes.", env="RESPONSECODES")
    ] = []
    skip_org_ids: Annotated[
        list[str], doc("Not these organisations.", env="SKIPPEDORGSIDS")
    ] = []
    skip_api_ids: Annotated[list[str], doc("Not these APIs.", env="SKIPPEDAPIIDS")] = []
    skip_response_codes: Annotated[
        list[int], doc("Not these response codes.", env="SKIPPEDRESPONSECODES")
    ] = []


class PumpFrame(Options, frozen=True, kw_only=True):
    """What every pump understands, whatever its type."""

    type: Annotated[
        str, doc("Type of the pump; empty means the pump's name.", example="csv")
    ] = ""
    name: Annotated[str, doc("Accepted and without effect.")] = ""
    filters: Annotated[Filters, doc("Which records the pump gets.")] = Filters()
    timeout: Annotated[
        Seconds,
        doc("Seconds after which a write is given up and tried again.", ge=0),
    ] = 0.0
    omit_detailed_recording: Annotated[
        bool, doc("Empty the raw request and response.")
    ] = False
    max_record_size: Annotated[
        int,
        doc("Cut the raw request and response to this many bytes each; 0: no.", ge=0),
    ] = 0
    ignore_fields: Annotated[
        list[str], doc("Fields, by their JSON names, that are emptied.")
    ] = []
    raw_request_decoded: Annotated[
        bool, doc("Decode the raw request from base64.", env="DECODERAWREQUEST")
    ] = False
    raw_response_decoded: Annotated[
        bool, doc("Decode the raw response from base64.", env="DECODERAWRESPONSE")
    ] = False
    retry: Annotated[RetryOptions, doc("How the pump waits for its back end.")] = (
        RetryOptions()
    )
    workers: Annotated[
        int, doc("Processes of this pump; each takes its share of the records.", ge=1)
    ] = 1
    meta: Annotated[
        dict[str, Any], doc("Options of the pump's own type.", literal=True)
    ] = {}


class StoreOptions(Options, frozen=True, kw_only=True):
    """One store of secrets."""

    type: Annotated[str, doc("What it is.", choices=tuple(secrets.REGISTRY))]
    required: Annotated[
        bool, doc("Do not start when it cannot be used, even if nothing refers to it.")
    ] = False
    config: Annotated[
        dict[str, Any],
        doc("Where it is and who asks, by its type.", literal=True),
    ] = {}


class KvOptions(Options, frozen=True, kw_only=True):
    """Stores of secrets."""

    stores: Annotated[
        dict[str, StoreOptions],
        doc(
            "The stores, each under its name.",
            example={
                "local": {
                    "type": "file",
                    "required": False,
                    "config": {"base_path": "/run/secrets"},
                }
            },
        ),
    ] = {}


class PumpConfig(msgspec.Struct, kw_only=True):
    """One configured pump, as its worker receives it."""

    name: str
    type: str
    filters: Filters = Filters()
    timeout: float = 0.0
    omit_detailed_recording: bool = False
    max_record_size: int = 0
    ignore_fields: list[str] = []
    raw_request_decoded: bool = False
    raw_response_decoded: bool = False
    retry: RetryOptions = RetryOptions()
    workers: int = 1
    meta: dict[str, Any] = {}
    """The type's options as written, after the environment, keys normalised."""
    options: Any = None
    """The type's own options, or None where there is a fault."""
    fault: str = ""
    """Why this pump cannot start; empty when it can."""
    passing: bool = False
    """Whether that may change by itself: a store of secrets does not answer."""
    secrets: tuple[Secret, ...] = ()
    """What stores have given for these options, to be hidden in every line."""

    def __repr__(self) -> str:
        # Without `meta`: it holds secrets as the operator wrote them.
        return f"PumpConfig(name={self.name!r}, type={self.type!r})"


class RootOptions(Options, frozen=True, kw_only=True):
    """Everything outside the pumps."""

    purge_delay: Annotated[
        Seconds, doc("Seconds from one look at Redis to the next; 0 means 10.", ge=0)
    ] = 10.0
    purge_chunk: Annotated[
        int,
        doc("Most records that a pump is given at once; 0 means no such limit.", ge=-1),
    ] = 0
    storage_expiration_time: Annotated[
        int, doc("Accepted and without effect: we never let a list expire.", ge=0)
    ] = 0
    analytics_storage_type: Annotated[
        str, doc("Kind of storage; only `redis` exists.", choices=("redis",))
    ] = ""
    analytics_storage_config: Annotated[
        RedisOptions, doc("The Redis that the gateway writes to.")
    ] = RedisOptions()
    uptime_pump_config: Annotated[
        dict[str, Any],
        doc(
            "Where uptime reports go, see below. Without it they stay in Redis.",
            literal=True,
        ),
    ] = {}
    dont_purge_uptime_data: Annotated[
        bool, doc("Leave uptime reports in Redis, for whoever else takes them.")
    ] = False
    statsd_connection_string: Annotated[
        str,
        doc(
            "`host:port` of a StatsD server, over UDP, for the pump's own metrics; "
            "sent when the variable `TYK_INSTRUMENTATION` is `1`.",
            example="localhost:8125",
        ),
    ] = ""
    statsd_prefix: Annotated[
        str, doc("What the names of these metrics begin with.", example="tyk")
    ] = ""
    log_level: Annotated[
        str,
        doc(
            "Least important lines to log; empty means `info`.",
            choices=("debug", "info", "warn", "error"),
        ),
    ] = ""
    log_format: Annotated[
        str, doc("`text`, `json` or `legacy`; anything else means `text`.")
    ] = ""
    health_check_endpoint_name: Annotated[
        str,
        doc(
            "Path that answers while the process lives; empty means `health` "
            "and `hello`."
        ),
    ] = ""
    health_check_endpoint_port: Annotated[
        int, doc("Port of the HTTP server; 0 means 8083.", ge=0, le=65535)
    ] = 8083
    enable_http_profiler: Annotated[
        bool, doc("Show what every thread is doing over HTTP.", env="HTTPPROFILE")
    ] = False
    max_record_size: Annotated[
        int,
        doc("As the pumps' option, for pumps that have none of their own.", ge=0),
    ] = 0
    omit_detailed_recording: Annotated[
        bool, doc("As the pumps' option, for all pumps.")
    ] = False
    omit_config_file: Annotated[
        bool,
        doc("Only `TYK_PMP_OMITCONFIGFILE=true` has an effect: no file is read."),
    ] = False
    raw_request_decoded: Annotated[
        bool,
        doc("Without effect; write it beside each pump.", env="DECODERAWREQUEST"),
    ] = False
    raw_response_decoded: Annotated[
        bool,
        doc("Without effect; write it beside each pump.", env="DECODERAWRESPONSE"),
    ] = False
    kv: Annotated[KvOptions, doc("Stores of secrets, which any text may refer to.")] = (
        KvOptions()
    )
    state_dir: Annotated[
        str, doc("Folder of our own state; empty means the place for such things.")
    ] = ""
    instance_name: Annotated[
        str, doc("Name of this instance in Redis; empty means one made up and kept.")
    ] = ""
    shutdown_timeout: Annotated[
        Seconds, doc("Seconds to finish what is in hand after SIGTERM.", ge=0)
    ] = 10.0
    lease_time: Annotated[
        Seconds,
        doc("Seconds after which a silent instance's records are taken over.", ge=2),
    ] = 30.0
    removed_pump_grace: Annotated[
        Seconds,
        doc("Seconds that records wait for a pump that is no longer named.", ge=0),
    ] = 3600.0
    window_bytes: Annotated[
        int, doc("About how many bytes of records a pump is given at once.", gt=0)
    ] = 1_048_576
    window_records: Annotated[
        int, doc("Most records that a pump is given at once.", gt=0)
    ] = 1000
    queue_bytes: Annotated[
        int, doc("Bytes that may wait in front of each worker.", gt=0)
    ] = 4_194_304
    beat_timeout: Annotated[
        Seconds, doc("Seconds of silence after which a worker is replaced.", gt=0)
    ] = 30.0
    stuck_timeout: Annotated[
        Seconds,
        doc("Seconds of decoding one window after which a worker is replaced.", gt=0),
    ] = 60.0
    journal: Annotated[
        JournalOptions, doc("Who keeps records until they are settled.")
    ] = JournalOptions()

    def __post_init__(self) -> None:
        if self.purge_delay == 0:
            msgspec.structs.force_setattr(self, "purge_delay", 10.0)
        if self.purge_chunk < 0:
            msgspec.structs.force_setattr(self, "purge_chunk", 0)
        if self.health_check_endpoint_port == 0:
            msgspec.structs.force_setattr(self, "health_check_endpoint_port", 8083)

    @property
    def health_name(self) -> str:
        """The path of the health answer, without the first slash."""
        return self.health_check_endpoint_name or "health"
