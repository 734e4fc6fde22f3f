"""InfluxDB 1: one point per record, in the measurement `analytics`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Final
from urllib.parse import urlencode

from influxdb import InfluxDBClient
from influxdb.exceptions import InfluxDBClientError

from tyk_pump.config.options import Secret, doc
from tyk_pump.errors import TransientError
from tyk_pump.pumps.protocol import Batch
from tyk_pump.record.gotime import go_text
from tyk_pump.record.line_protocol import NAMES, Dialect
from tyk_pump.transport.http import HttpClient, Reply, basic_header, place
from tyk_pump.transport.influx import (
    GUARANTEE,
    PointOptions,
    Points,
    unknown_names,
)

_DIALECT: Final = Dialect(go_text, {})


class InfluxOptions(PointOptions, frozen=True, kw_only=True):
    """Where InfluxDB is, and what becomes of a record."""

    database_name: Annotated[
        str, doc("Database that is there already.", example="tyk_analytics")
    ] = ""
    username: Annotated[str, doc("User; none: no credentials are sent.")] = ""
    password: Annotated[Secret, doc("The user's password.")] = Secret()
    fields: Annotated[
        list[str],
        doc(
            f"Values of a record that are fields of its point; none: all of them: "
            f"{', '.join(f'`{name}`' for name in NAMES)}.",
            example=["request_time"],
        ),
    ] = []
    retention_policy: Annotated[
        str, doc("Retention policy to write to; none: the database's default.")
    ] = ""
    consistency: Annotated[
        str,
        doc(
            "How many nodes of a cluster must have a point.",
            choices=("any", "one", "quorum", "all"),
        ),
    ] = ""

    def faults(self) -> Iterator[tuple[str, str]]:
        """There is a database, and all names are known."""
        yield from super().faults()
        if not self.database_name:
            yield "database_name", "missing"
        yield from unknown_names("fields", self.fields, NAMES)
        yield from unknown_names("tags", self.tags, NAMES)


class InfluxPump:
    """Write points to InfluxDB 1.x."""

    options_type: ClassVar[type[InfluxOptions]] = InfluxOptions
    fields: tuple[str, ...] = tuple(NAMES.values())
    guarantee: Final = GUARANTEE
    differences: Final = (
        "Points have the time of their record; `point_time` `write` brings back the "
        "pump's clock.",
        "The times are sent as what they are, nanoseconds (`precision=ns`): newer "
        "servers refuse the reference's `us`.",
        "Without `fields` all 14 are stored, not nothing.",
        "An unknown name in `fields` or `tags` is a fault of the configuration.",
        'A tag keeps quotes at its begin and end, as `\\"`. Behind one that ends in a '
        "backslash stands a blank, for line protocol has no other way to write it.",
        "A record before the year 1677 or after 2262 is a dead letter: a point cannot "
        "have its time. So is one beyond the retention policy.",
        "Refused points are told apart from points that are in; a database that is "
        "not there, wrong credentials and failures are waited for.",
    )

    def __init__(self, options: InfluxOptions) -> None:
        self._options = options
        self._points = Points(options, options.fields or list(NAMES), _DIALECT, tick=1)
        self.fields = self._points.fields
        self._address = options.address.rstrip("/")
        query = {
            "consistency": options.consistency,
            "db": options.database_name,
            "precision": "ns",
            "rp": options.retention_policy,
        }
        given = {key: value for key, value in query.items() if value}
        self._url = f"{self._address}/write?{urlencode(given)}"
        self._http: HttpClient | None = None

    def open(self) -> None:
        """Make the client; what is wrong there shows with the first write."""
        options, headers = self._options, {}
        if options.username:
            password = options.password.reveal()
            headers["Authorization"] = basic_header(options.username, password)
        self._http = HttpClient(options, headers, timeout=options.request_timeout)

    def probe(self) -> str:
        """Ask for the version, and with the credentials for the databases."""
        assert self._http is not None
        server, name = place(self._address), self._options.database_name
        client = _Client(self._http, self._address)
        try:
            version = client.ping()
            found = {one["name"] for one in client.get_list_database()}
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            raise TransientError(f"{server}: no InfluxDB 1 answers there") from exc
        except InfluxDBClientError as exc:
            raise TransientError(f"{server}: {exc}") from exc
        finally:
            client.close()
        if name not in found:
            raise TransientError(f"{server}: InfluxDB {version}, no database {name!r}")
        return f"{server}: InfluxDB {version}, database {name!r} is there"

    def write(self, batch: Batch) -> None:
        """Send the points; InfluxDB says which it refuses."""
        # Not by the client's `write`: it takes texts only (and so cannot keep bytes
        # that are no UTF-8), tries again by itself and hides Retry-After.
        assert self._http is not None
        self._points.send(batch, self._http, self._url)

    def close(self) -> None:
        """Close the connections."""
        if self._http is not None:
            self._http.close()


class _Client(InfluxDBClient):  # type: ignore[misc]
    """The vendor's client on our connections: TLS, proxies, limits and errors are ours.

    All that it asks goes through `request`.
    """

    def __init__(self, http: HttpClient, address: str) -> None:
        super().__init__()
        self._ours, self._address = http, address

    def request(
        self,
        url: str,
        method: str = "GET",
        params: dict[str, str] | None = None,
        *_: Any,
        **__: Any,
    ) -> _Answer:
        """Ask, and say in an error what an answer without success has said."""
        whole = f"{self._address}/{url}"
        if params:
            whole = f"{whole}?{urlencode(params)}"
        reply = self._ours.request(method, whole)
        if not 200 <= reply.status < 300:
            raise TransientError(f"{place(whole)}: {reply.reason}")
        return _Answer(reply)


class _Answer:
    """A reply as the client looks at one."""

    _msgpack: ClassVar[None] = None

    def __init__(self, reply: Reply) -> None:
        self.headers, self.json = reply.headers, reply.json
