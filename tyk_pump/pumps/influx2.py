"""InfluxDB 2: one point per record, in the measurement `analytics`."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Annotated, Any, ClassVar, Final
from urllib.parse import urlencode

from influxdb_client import (
    BucketRetentionRules,
    BucketsService,
    OrganizationsService,
    PostBucketRequest,
    ReadyService,
)
from influxdb_client._sync.api_client import ApiClient
from influxdb_client.configuration import Configuration

from tyk_pump.config.options import Options, Secret, doc
from tyk_pump.errors import TransientError
from tyk_pump.pumps.protocol import Batch
from tyk_pump.record.gotime import rfc3339_any_year
from tyk_pump.record.line_protocol import LATENCIES, NAMES, Dialect
from tyk_pump.transport.http import HttpClient, Reply, place
from tyk_pump.transport.influx import (
    GUARANTEE,
    PointOptions,
    Points,
    unknown_names,
)

log = logging.getLogger(__name__)

_KNOWN: Final[Mapping[str, str]] = {**NAMES, **LATENCIES}
_DIALECT: Final = Dialect(
    rfc3339_any_year, {"\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}
)


class RetentionRule(Options, frozen=True, kw_only=True):
    """When points of a new bucket are deleted."""

    every_seconds: Annotated[
        int, doc("Age of a point in seconds; 0: it stays for ever.", ge=0)
    ] = 0
    shard_group_duration_seconds: Annotated[
        int, doc("Time that a group of shards covers, in seconds; 0: by itself.", ge=0)
    ] = 0
    type: Annotated[str, doc("`expire`; InfluxDB has no other.")] = "expire"


class NewBucket(Options, frozen=True, kw_only=True):
    """How a bucket is made."""

    description: Annotated[str, doc("Its description.")] = ""
    retention_rules: Annotated[
        list[RetentionRule], doc("When its points are deleted; none: never.")
    ] = []


class Influx2Options(PointOptions, frozen=True, kw_only=True):
    """Where InfluxDB is, and what becomes of a record."""

    token: Annotated[Secret, doc("API token; none: no credentials are sent.")] = (
        Secret()
    )
    organization: Annotated[
        str,
        doc(
            "Organisation of the bucket, by name.",
            env="ORGNAME",
            env_aliases=("ORGANIZATION",),
            example="acme",
        ),
    ] = ""
    bucket: Annotated[
        str,
        doc(
            "Bucket to write to, by name.",
            env="BUCKETNAME",
            env_aliases=("BUCKET",),
            example="tyk",
        ),
    ] = ""
    fields: Annotated[
        list[str],
        doc(
            f"Values of a record that are fields of its point; none: all of them: "
            f"{', '.join(f'`{name}`' for name in _KNOWN)}.",
            example=["request_time"],
        ),
    ] = []
    flush: Annotated[
        bool, doc("Accepted and without effect: each write waits for its answer.")
    ] = False
    create_missing_bucket: Annotated[
        bool, doc("Make the bucket at the start where it is missing.")
    ] = False
    new_bucket_config: Annotated[NewBucket, doc("How it is made.")] = NewBucket()

    def faults(self) -> Iterator[tuple[str, str]]:
        """Organisation and bucket are named, and all names are known."""
        yield from super().faults()
        for key in ("organization", "bucket"):
            if not getattr(self, key):
                yield key, "missing"
        yield from unknown_names("fields", self.fields, _KNOWN)
        yield from unknown_names("tags", self.tags, _KNOWN)


class Influx2Pump:
    """Write points to InfluxDB 2.x."""

    options_type: ClassVar[type[Influx2Options]] = Influx2Options
    fields: tuple[str, ...] = (*NAMES.values(), "latency")
    guarantee: Final = GUARANTEE
    differences: Final = (
        "Points have the time of their record, in nanoseconds: microseconds leave no "
        "room to tell points apart. `point_time` `write` brings back the pump's clock "
        "and its microseconds.",
        "Without `fields` all 16 are stored, not nothing.",
        "An unknown name in `fields` or `tags` is a fault of the configuration.",
        'A tag keeps quotes at its begin and end, as `\\"`. Behind one that ends in a '
        "backslash stands a blank, for line protocol has no other way to write it.",
        "A record before the year 1677 or after 2262 is a dead letter: a point cannot "
        "have its time. So is one beyond the bucket's retention.",
        "The bucket is looked up in its organisation only, and the start is tried "
        "again for as long as it takes.",
        "A retention rule without a type is sent as `expire`; the word `expires` of "
        "old examples means the same.",
        "The variables of the reference's README, `..._META_ORGANIZATION` and "
        "`..._META_BUCKET`, work beside `..._ORGNAME` and `..._BUCKETNAME`.",
        "A write is confirmed before it counts: nothing waits in a queue for later "
        "traffic or is lost at the stop.",
    )

    def __init__(self, options: Influx2Options) -> None:
        self._options = options
        self._points = Points(
            options, options.fields or list(_KNOWN), _DIALECT, tick=1000
        )
        self.fields = self._points.fields
        self._address = options.address.rstrip("/")
        query = {
            "bucket": options.bucket,
            "org": options.organization,
            "precision": "us" if self._points.by_clock else "ns",
        }
        self._url = f"{self._address}/api/v2/write?{urlencode(query)}"
        self._http: HttpClient | None = None

    def open(self) -> None:
        """See that InfluxDB is ready and has organisation and bucket."""
        options, headers = self._options, {}
        if options.token:
            headers["Authorization"] = f"Token {options.token.reveal()}"
        self._http = HttpClient(options, headers, timeout=options.request_timeout)
        try:
            self._set_up(self._http)
        except BaseException:
            self.close()
            raise

    def probe(self) -> str:
        """Ask for readiness, organisation and bucket with the token."""
        assert self._http is not None
        setup = _SetUp(self._http, self._address)
        setup.ready()
        organization, bucket = self._options.organization, self._options.bucket
        setup.find_bucket(setup.organization(organization), bucket)
        return f"{setup.place}: ready, bucket {bucket!r} of {organization!r} is there"

    def write(self, batch: Batch) -> None:
        """Send the points; InfluxDB says which it refuses."""
        # Not by the client's write API: it keeps queues and retries of its own, or
        # else hides Retry-After behind an exception and wants its own threads.
        assert self._http is not None
        self._points.send(batch, self._http, self._url)

    def close(self) -> None:
        """Close the connections."""
        if self._http is not None:
            self._http.close()

    def _set_up(self, http: HttpClient) -> None:
        options, setup = self._options, _SetUp(http, self._address)
        not_made = ""
        setup.ready()
        organization = setup.organization(options.organization)
        if options.create_missing_bucket:
            try:
                setup.create_bucket(
                    organization, options.bucket, options.new_bucket_config
                )
            except TransientError as exc:
                # It is there already, as a rule: then the look-up finds it.
                log.debug("bucket not made", extra={"reason": exc.reason})
                not_made = f", and it cannot be made: {exc.reason}"
            else:
                return
        setup.find_bucket(organization, options.bucket, not_made)


class _SetUp:
    """What is asked before the first write."""

    def __init__(self, http: HttpClient, address: str) -> None:
        self._api = _Api(http, address)
        self.place = place(address)

    def ready(self) -> None:
        """Raise TransientError while InfluxDB starts."""
        status = self._ask(lambda: ReadyService(self._api).get_ready().status)
        if status != "ready":
            raise TransientError(f"{self.place}: not ready, it says {status!r}")

    def organization(self, name: str) -> str:
        """Return the id of an organisation."""
        service = OrganizationsService(self._api)
        found = self._ask(lambda: [one.id for one in service.get_orgs(org=name).orgs])
        if not found:
            raise TransientError(f"{self.place}: no organisation {name!r}")
        return str(found[0])

    def create_bucket(self, organization: str, name: str, how: NewBucket) -> None:
        """Make a bucket; TransientError where InfluxDB does not."""
        rules = [
            BucketRetentionRules(
                # The reference's README has a word that InfluxDB does not know.
                type="expire" if rule.type in ("", "expires") else rule.type,
                every_seconds=rule.every_seconds,
                shard_group_duration_seconds=rule.shard_group_duration_seconds,
            )
            for rule in how.retention_rules
        ]
        request = PostBucketRequest(
            org_id=organization,
            name=name,
            rp="",
            description=how.description,
            retention_rules=rules,
        )
        service = BucketsService(self._api)
        self._ask(lambda: service.post_buckets(post_bucket_request=request))

    def find_bucket(self, organization: str, name: str, why: str = "") -> None:
        """Raise TransientError, with the reason, where there is no such bucket."""
        service = BucketsService(self._api)
        found = self._ask(
            lambda: service.get_buckets(org_id=organization, name=name).buckets
        )
        if not found:
            raise TransientError(f"{self.place}: no bucket {name!r}{why}")

    def _ask(self, question: Any) -> Any:
        try:
            return question()
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            # The client's models say so in many ways.
            raise TransientError(f"{self.place}: no InfluxDB 2 answers there") from exc


class _Api(ApiClient):  # type: ignore[misc]
    """The vendor's client on our connections: TLS, proxies, limits and errors are ours.

    All that its services ask goes through `request`.
    """

    def __init__(self, http: HttpClient, address: str) -> None:
        configuration = Configuration()
        configuration.host = address
        super().__init__(configuration)
        self._ours = http

    def request(
        self,
        method: str,
        url: str,
        query_params: Sequence[tuple[str, str]] | None = None,
        headers: Any = None,
        post_params: Any = None,
        body: Any = None,
        **_: Any,
    ) -> _Answer:
        """Ask, and say in an error what an answer without success has said."""
        if query_params:
            url = f"{url}?{urlencode(query_params)}"
        sent, kinds = None, {"Accept": "application/json"}
        if body is not None:
            sent = json.dumps(body).encode()
            kinds["Content-Type"] = "application/json"
        reply = self._ours.request(method, url, sent, headers=kinds)
        if not HTTPStatus.OK <= reply.status < HTTPStatus.MULTIPLE_CHOICES:
            raise TransientError(f"{place(url)}: {reply.reason}")
        return _Answer(reply)


class _Answer:
    """A reply as the client looks at one."""

    def __init__(self, reply: Reply) -> None:
        self.status, self._headers = reply.status, reply.headers
        self.data = reply.body.decode("utf-8", "replace")

    def getheaders(self) -> Mapping[str, str]:
        """Return the headers."""
        return self._headers
