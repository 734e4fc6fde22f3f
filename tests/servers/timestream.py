"""Timestream's write API, as its pages describe it: who may write, what a point is.

A point is known by its dimensions, its measure's name and its time. The same point
again changes nothing; another one in its place is refused unless its version is higher.
Refused records are named one by one, the others of their call are in.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import msgspec

from tests.servers.aws import KEY, REGION, SECRET, Wrong, check_signature
from tests.servers.http import Answer, HttpServer, Request, of
from tests.servers.tls import Authority

DATABASE, TABLE = "tyk", "analytics"
TAKEN = (
    "A record already exists with the same time, dimensions, measure name, and record "
    "version. A higher record version must be specified in order to update the measure "
    "value. Specified record version: {}, existing record version: {}."
)
LOWER = (
    "The record version {} is lower than the existing version {}. A higher version is "
    "required to update the measure value."
)
OUTSIDE = "The record timestamp is outside the time range of the data ingestion window."
_PREFIX = "com.amazonaws.timestream.v20181101#"
_UNITS = {"NANOSECONDS": 1, "MICROSECONDS": 10**3, "MILLISECONDS": 10**6}


class Point(msgspec.Struct):
    """What is kept of a record."""

    dimensions: dict[str, str]
    time: int
    """In nanoseconds."""
    measures: dict[str, tuple[str, str]]
    """Type and value by name, in the order of their coming."""
    name: str = ""
    version: int = 1

    def values(self) -> dict[str, str]:
        """Return the measures without their types."""
        return {name: value for name, (_, value) in self.measures.items()}


class Timestream:
    """Listens from its making on; `http` is the server beneath."""

    def __init__(
        self,
        *,
        authority: Authority | None = None,
        demand_certificate: bool = False,
        proxy: bool = False,
    ) -> None:
        """A `proxy` is the service itself, by whatever name, in the tunnels to it."""
        self.oldest = 0
        """Records before this nanosecond are outside the table's retention."""
        self.before: Callable[[Request], Answer | None] = lambda request: None
        """Answers in the service's place where it returns an answer."""
        self.refuses: Callable[[Point], str] = lambda point: ""
        """Returns why a record is refused, where it is."""
        self.address = ""
        """What DescribeEndpoints says; empty: this server."""
        self._points: dict[Any, Point] = {}
        self._lock = threading.Lock()
        self.http = HttpServer(
            self._respond,
            authority=authority,
            demand_certificate=demand_certificate,
            plain=proxy,
        )

    def __enter__(self) -> Timestream:
        return self

    def __exit__(self, *exc: object) -> None:
        self.http.close()

    @property
    def url(self) -> str:
        """Return the address without a path."""
        return self.http.url

    @property
    def points(self) -> list[Point]:
        """Return the points that are kept, in the order of their coming."""
        with self._lock:
            return list(self._points.values())

    def calls(self, operation: str = "WriteRecords") -> list[Any]:
        """Return what the calls of an operation have said."""
        return [r.json for r in self.http.requests if _operation(r) == operation]

    def meta(self, **options: Any) -> dict[str, Any]:
        """Return options of a pump that writes here."""
        return {
            "aws_region": REGION,
            "aws_key": KEY,
            "aws_secret": SECRET,
            "aws_endpoint": self.url,
            "timestream_database_name": DATABASE,
            "timestream_table_name": TABLE,
            "dimensions": ["APIName"],
            "measures": ["ResponseCode", "RequestTime"],
            **options,
        }

    def correct(self, point: Point, version: int) -> None:
        """Give a point a higher version, as someone does who corrects it."""
        with self._lock:
            kept = self._points[_key(point)]
            kept.version = version
            kept.measures["Corrected"] = "BIGINT", "1"

    def _respond(self, request: Request) -> Answer:
        answer = self.before(request)
        if answer is not None:
            return answer
        if request.method != "POST" or request.path != "/":
            return error("UnknownOperationException", "no such path", 404)
        if request.headers.get("content-type") != "application/x-amz-json-1.0":
            return error("SerializationException", "not of this protocol")
        try:
            check_signature(request, "timestream", {KEY: SECRET})
        except Wrong as wrong:
            return error(wrong.code, wrong.message, wrong.status)
        answers = {
            "DescribeEndpoints": self._endpoints,
            "DescribeTable": self._table,
            "WriteRecords": self._write,
        }
        answers_to = answers.get(_operation(request))
        if answers_to is None:
            return error("UnknownOperationException", "no such operation", 404)
        return answers_to(request.json)

    def _endpoints(self, said: Any) -> Answer:
        address = self.address or f"127.0.0.1:{self.http.port}"
        one = {"Address": address, "CachePeriodInMinutes": 1440}
        return of({"Endpoints": [one]})

    def _table(self, said: Any) -> Answer:
        if missing := _missing(said):
            return missing
        kept = {"MemoryStoreRetentionPeriodInHours": 6}
        table = {
            "DatabaseName": DATABASE,
            "TableName": TABLE,
            "TableStatus": "ACTIVE",
            "RetentionProperties": kept,
        }
        return of({"Table": table})

    def _write(self, said: Any) -> Answer:
        if missing := _missing(said):
            return missing
        common = said.get("CommonAttributes", {})
        records = [_merged(common, record) for record in said["Records"]]
        if fault := _invalid(records):
            return error("ValidationException", fault)
        rejected = []
        with self._lock:
            for index, record in enumerate(records):
                refusal = self._keep(record)
                if refusal is not None:
                    rejected.append({"RecordIndex": index, **refusal})
        if rejected:
            message = "One or more records have been rejected."
            return error(
                "RejectedRecordsException", message, 419, RejectedRecords=rejected
            )
        count = {"Total": len(records), "MemoryStore": len(records), "MagneticStore": 0}
        return of({"RecordsIngested": count})

    def _keep(self, record: dict[str, Any]) -> dict[str, Any] | None:
        """Keep a record, or return why not."""
        point = Point(
            {one["Name"]: one["Value"] for one in record["Dimensions"]},
            int(record["Time"]) * _UNITS[record["TimeUnit"]],
            {
                one["Name"]: (one["Type"], one["Value"])
                for one in record["MeasureValues"]
            },
            record["MeasureName"],
            record.get("Version", 1),
        )
        if reason := self.refuses(point) or _unfit(record):
            return {"Reason": reason}
        if point.time < self.oldest:
            return {"Reason": OUTSIDE}
        there = self._points.setdefault(_key(point), point)
        if there.measures == point.measures:
            there.version = max(there.version, point.version)
        elif there.version < point.version:
            self._points[_key(point)] = point
        else:
            words = TAKEN if there.version == point.version else LOWER
            reason = words.format(point.version, there.version)
            return {"Reason": reason, "ExistingVersion": there.version}
        return None


def error(name: str, message: str, status: int = 400, **more: Any) -> Answer:
    """Return an error as the service words one."""
    said = {"__type": f"{_PREFIX}{name}", "message": message, **more}
    return of(said, status)


def _operation(request: Request) -> str:
    service, _, operation = request.headers.get("x-amz-target", "").partition(".")
    return operation if service == "Timestream_20181101" else ""


def _missing(said: Any) -> Answer | None:
    if (said["DatabaseName"], said["TableName"]) == (DATABASE, TABLE):
        return None
    what = f"The table {said['TableName']} does not exist."
    return error("ResourceNotFoundException", what, 404)


def _merged(common: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
    shared = [*common.get("Dimensions", []), *record.get("Dimensions", [])]
    return {**common, **record, "Dimensions": shared}


def _invalid(records: list[dict[str, Any]]) -> str:
    """Return why a call is refused as a whole, where it is."""
    if not 1 <= len(records) <= 100:
        return "Value at 'records' failed to satisfy constraint: length"
    for record in records:
        if record.get("MeasureValueType") != "MULTI" or not record["MeasureName"]:
            return "no name or type of the measure"
        for one in (*record["Dimensions"], *record["MeasureValues"]):
            if not one["Name"] or not isinstance(one["Value"], str):
                return "a name or a value is missing"
        for one in record["MeasureValues"]:
            if not 1 <= len(one["Value"]) <= 2048:
                return "Value at 'measureValues' failed to satisfy constraint: length"
    return ""


def _unfit(record: dict[str, Any]) -> str:
    """Return why a record is refused by the service's limits, where it is."""
    dimensions, measures = record["Dimensions"], record["MeasureValues"]
    names = [one["Name"] for one in (*dimensions, *measures)]
    if not measures:
        return "The record has no measures."
    if len(set(names)) < len(names):
        return "Names of dimensions and measures are not unique."
    if len(dimensions) > 128 or len(measures) > 256:
        return "Too many dimensions or measures."
    for one in dimensions:
        if len(one["Name"].encode()) > 60:
            return "The name of a dimension is too long."
        if len((one["Name"] + one["Value"]).encode()) > 2048:
            return "The dimension name and value pair is too long."
    for one in measures:
        if len(one["Name"].encode()) > 256 or len(one["Value"].encode()) > 2048:
            return "A measure is too long."
    return ""


def _key(point: Point) -> Any:
    return frozenset(point.dimensions.items()), point.name, point.time
