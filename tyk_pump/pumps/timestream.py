"""Timestream: one multi-measure record per record, of chosen values."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final

import msgspec

from tyk_pump.config.options import doc
from tyk_pump.errors import TransientError
from tyk_pump.log import ONCE
from tyk_pump.pumps.protocol import Batch
from tyk_pump.record.timestream import (
    DIMENSIONS,
    LONGEST_DIMENSION,
    LONGEST_MEASURE,
    MEASURES,
    RATE_LIMITS,
    RAW_RESPONSE_SIZE,
    SPELLINGS,
    Points,
    later,
)
from tyk_pump.transport.aws import Access, AwsOptions, RefusedCall, Service
from tyk_pump.transport.bulk import Bulk, Part, Verdict
from tyk_pump.transport.http import excerpt

log = logging.getLogger(__name__)

MOST_RECORDS: Final = 100
MOST_BYTES: Final = 16_000_000
ATTEMPTS: Final = 20
"""So many times a record looks for a nanosecond that is free."""
_SLOTS: Final = 999_983
"""Nanoseconds, less than a millisecond, in which it looks."""
_TAKEN: Final = "already exists with the same time"
_RESERVED: Final = ("ts_", "measure_value")
_COLUMNS: Final = frozenset({"time", "measure_name", "ts_non_existent_col"})


class TimestreamOptions(AwsOptions, frozen=True, kw_only=True):
    """Which table, and what of a record it has."""

    timestream_table_name: Annotated[
        str,
        doc(
            "Table to write to.",
            env="TABLENAME",
            env_aliases=("TIMESTREAMTABLENAME",),
            example="tyk-analytics",
        ),
    ] = ""
    timestream_database_name: Annotated[
        str,
        doc(
            "Database that has it.",
            env="DATABASENAME",
            env_aliases=("TIMESTREAMDATABASENAME",),
            example="tyk",
        ),
    ] = ""
    dimensions: Annotated[
        list[str],
        doc(
            "What tells series apart, any of: "
            f"{', '.join(f'`{name}`' for name in DIMENSIONS)}.",
            example=["Method", "Path", "APIName"],
        ),
    ] = []
    measures: Annotated[
        list[str],
        doc(
            "What is kept of a record, any of: "
            f"{', '.join(f'`{name}`' for name in MEASURES)}.",
            example=["ResponseCode", "RequestTime", "Latency.Total"],
        ),
    ] = []
    write_rate_limit: Annotated[
        bool,
        doc(
            "Read the `RateLimit` measures from the response's headers; without it "
            "they are left out."
        ),
    ] = False
    read_geo_from_request: Annotated[
        bool,
        doc(
            "Where a record has no country or city, take what CloudFront has put into "
            "the request's headers."
        ),
    ] = False
    write_zero_values: Annotated[
        bool, doc("Write numbers that are 0, too; without it they are left out.")
    ] = False
    field_name_mappings: Annotated[
        dict[str, str],
        doc(
            "Other names for dimensions and measures; `RawResponseSize`, the number "
            "of a response's chunks, is one of them.",
            env="NAMEMAPPINGS",
            env_aliases=("FIELDNAMEMAPPINGS", "FIELDNAMEMAPPINGS_*"),
            example={"Path": "path", "APIKey": "api_key"},
        ),
    ] = {}
    record_id_name: Annotated[
        str,
        doc(
            "Name of a text measure with the record's id; none: no such measure. It "
            "tells calls apart that are alike in all that is written, time included.",
            example="_tyk_pump_id",
        ),
    ] = ""

    def faults(self) -> Iterator[tuple[str, str]]:
        """There is a table and something to write, and no column has two meanings."""
        yield from super().faults()
        for key in (
            "timestream_table_name",
            "timestream_database_name",
            "dimensions",
            "measures",
        ):
            if not getattr(self, key):
                yield key, "missing"
        columns = Columns(self)
        for key, left in (
            ("dimensions", columns.dimensions),
            ("measures", columns.measures),
        ):
            if getattr(self, key) and not left:
                yield key, "no name that is known"
        yield from columns.faults()


class Columns:
    """What of the configured names the service knows, and what is left out why."""

    def __init__(self, options: TimestreamOptions) -> None:
        self.warnings: list[str] = []
        self.dimensions = self._known("dimensions", options.dimensions, DIMENSIONS)
        measures = self._known("measures", options.measures, MEASURES)
        if not options.write_rate_limit:
            for name in measures:
                if name in RATE_LIMITS:
                    self.warnings.append(f"{name} is left out without write_rate_limit")
            measures = [name for name in measures if name not in RATE_LIMITS]
        self.measures = measures
        self.names: dict[str, str] = {}
        for name, other in options.field_name_mappings.items():
            meant = SPELLINGS.get(name.lower())
            if meant is None or not other:
                self.warnings.append(
                    f"field_name_mappings: nothing to do with {name!r}"
                )
            else:
                self.names[meant] = other
        self._record_id_name = options.record_id_name

    def faults(self) -> Iterator[tuple[str, str]]:
        """Yield (key, what is wrong) for names that the service cannot have."""
        owners: dict[str, str] = {}
        for key, name, shown in self._shown():
            size = len(shown.encode("utf-8", "replace"))
            most = LONGEST_DIMENSION if name in DIMENSIONS else LONGEST_MEASURE
            if size > most:
                yield key, f"{shown!r} has {size} bytes, the limit is {most}"
            if shown in _COLUMNS or shown.startswith(_RESERVED):
                yield key, f"{shown!r} is a name of Timestream's own"
            if (owner := owners.setdefault(shown, name)) != name:
                yield key, f"{shown!r} stands for {owner} and for {name}"

    def _shown(self) -> Iterator[tuple[str, str, str]]:
        """Yield (key, name, name in the table) for each column."""
        names = [*self.dimensions, *self.measures]
        if "RawResponse" in names:
            names.append(RAW_RESPONSE_SIZE)
        for name in names:
            yield "field_name_mappings", name, self.names.get(name, name)
        if self._record_id_name:
            yield "record_id_name", "the record's id", self._record_id_name

    def _known(
        self, key: str, names: Sequence[str], known: Mapping[str, Any]
    ) -> list[str]:
        found: list[str] = []
        for name in names:
            meant = SPELLINGS.get(name.strip().lower(), "")
            if meant not in known:
                self.warnings.append(f"{key}: {name!r} is unknown")
            elif meant in found:
                self.warnings.append(f"{key}: {name!r} is there twice")
            else:
                found.append(meant)
        return found


class TimestreamPump:
    """Write records to a table of Timestream for LiveAnalytics."""

    options_type: ClassVar[type[TimestreamOptions]] = TimestreamOptions
    fields: tuple[str, ...] = tuple(
        dict.fromkeys(
            source.partition(".")[0]
            for source in (
                "timestamp",
                "raw_request",
                *DIMENSIONS.values(),
                *(measure.source for measure in MEASURES.values()),
            )
        )
    )
    guarantee: Final = (
        "Each record once: Timestream knows a point by its dimensions and its time, in "
        "nanoseconds, and takes the same point again without having it twice. Of two "
        "calls with equal dimensions in the same nanosecond that differ in a measure, "
        "Timestream refuses the second: it is written some nanoseconds later, less "
        "than a millisecond, and finds its own place again when it is repeated. Calls "
        "that are alike in every dimension, every measure and the nanosecond are one "
        "point, unless `record_id_name` tells them apart. A point that has by now a "
        "higher version, from someone who corrected it, counts as delivered. While "
        "frames are on their way, another choice of measures may write some of them "
        "twice."
    )
    differences: Final = (
        "Every refused record is named with Timestream's reason, one outside the "
        "table's retention too, and is a dead letter; the others of its call are in "
        "and are not sent again.",
        "A call that fails ends no write: what is left is sent again until it is in.",
        "A text of more than 2048 bytes goes into chunks: `RawRequest`, `RawRequest1`, "
        "`RawRequest2`. A dimension ends after 2048 bytes, its name included. A record "
        "has 256 measures at most; what of a body has no room is left out, and the "
        "log says so.",
        "No chunk ends within a character.",
        "Rate limits and places are read from bodies in base64 and from decoded ones.",
        "A record without any of its measures is left out, and the log says how many "
        "were.",
        "`Latency.Gateway` is a measure.",
        "Unknown names in `dimensions`, `measures` and `field_name_mappings` are "
        "reported at the start; capital letters do not matter. A name that is listed "
        "twice counts once; two columns with one name are a fault of the "
        "configuration.",
        "Coordinates that are no numbers are left out.",
        "A record before the year 1677 or after 2262 is a dead letter: a point cannot "
        "have its time.",
        "What all records of a call share (the measure's name and type, the unit of "
        "time) stands in it once.",
        "The variables of the reference's README, `..._TIMESTREAMTABLENAME`, "
        "`..._TIMESTREAMDATABASENAME` and `..._FIELDNAMEMAPPINGS_<name>`, work beside "
        "`..._TABLENAME`, `..._DATABASENAME` and `..._NAMEMAPPINGS`.",
    )

    def __init__(self, options: TimestreamOptions) -> None:
        self._options = options
        self._columns = Columns(options)
        self._points = Points(
            self._columns.dimensions,
            self._columns.measures,
            names=self._columns.names,
            zeros=options.write_zero_values,
            geo_headers=options.read_geo_from_request,
            id_name=options.record_id_name,
        )
        self.fields = self._points.fields
        self._head = _head(options)
        self._bulk = Bulk(
            max_bytes=MOST_BYTES, max_count=MOST_RECORDS, overhead=len(self._head) + 2
        )
        self._cut = False
        self._service: Service | None = None

    def open(self) -> None:
        """Find out where the service is; say which names nobody knows."""
        for warning in self._columns.warnings:
            log.warning(
                "a name of the table is left out", extra={**ONCE, "reason": warning}
            )
        options = self._options
        access = Access(options)
        self._service = access.service("timestream-write", options.aws_endpoint)

    def probe(self) -> str:
        """Ask for the table, with the credentials."""
        assert self._service is not None
        options = self._options
        table = {
            "DatabaseName": options.timestream_database_name,
            "TableName": options.timestream_table_name,
        }
        found = self._service.call("DescribeTable", table).get("Table") or {}
        kept = found.get("RetentionProperties") or {}
        return (
            f"{options.timestream_database_name}.{options.timestream_table_name} is "
            f"{found.get('TableStatus', 'there')}, new records may be "
            f"{kept.get('MemoryStoreRetentionPeriodInHours', '?')} hours old"
        )

    def write(self, batch: Batch) -> None:
        """Send the records; Timestream says which it refuses."""
        points, skipped = self._points, 0
        with_id = bool(self._options.record_id_name)

        def encode(_: Batch, index: int) -> bytes | None:
            nonlocal skipped
            record_id = batch.record_id(index) if with_id else ""
            item = points.encode(batch.records[index], record_id)
            skipped += item is None
            return item

        def post(part: Part) -> Verdict | None:
            return self._post(batch, part)

        try:
            self._bulk.send(batch, encode, post)
        finally:
            if skipped:
                log.info(
                    "records without any measure are left out",
                    extra={"records": skipped},
                )
            if points.cut and not self._cut:
                self._cut = True
                log.warning(
                    "texts are longer than Timestream's limits, their ends are left out"
                )

    def close(self) -> None:
        """Close the connections."""
        if self._service is not None:
            self._service.close()

    def _post(self, batch: Batch, part: Part) -> Verdict | None:
        """Send a part; what finds its nanosecond taken looks for another one."""
        rejected: dict[int, str] = {}
        items = dict(enumerate(part.items))
        for attempt in range(ATTEMPTS):
            offsets = list(items)
            try:
                refused = self._refused(list(items.values()))
            except TransientError as exc:
                raise TransientError(
                    exc.reason,
                    pending=offsets,
                    rejected=rejected,
                    retry_after=exc.retry_after,
                ) from exc
            taken: dict[int, bytes] = {}
            for number, (reason, version) in refused.items():
                offset = offsets[number]
                if version > 1:
                    continue  # our point, which someone has corrected since
                rejected[offset] = reason
                if _TAKEN in reason:
                    record_id = batch.record_id(part.indexes[offset])
                    taken[offset] = later(
                        part.items[offset], _shift(record_id, attempt)
                    )
            if not taken or attempt == ATTEMPTS - 1:
                break
            for offset in taken:
                del rejected[offset]
            items = taken
        return Verdict(rejected) if rejected else None

    def _refused(self, items: list[bytes]) -> dict[int, tuple[str, int]]:
        """Send records; return the refused: reason, and version of what is there."""
        assert self._service is not None
        body = b"%b%b]}" % (self._head, b",".join(items))
        try:
            answer = self._service.call("WriteRecords", body)
        except RefusedCall as exc:
            found = _rejections(exc.answer, len(items))
            if not found:
                raise
            return found
        if "RecordsIngested" not in answer:
            # A page to log in, say: the answer of something else on the way.
            raise self._service.failure("the answer counts nothing")
        return {}


def _head(options: TimestreamOptions) -> bytes:
    """Return what stands before the records of a call."""
    content = {
        "DatabaseName": options.timestream_database_name,
        "TableName": options.timestream_table_name,
        "CommonAttributes": {
            "MeasureName": "request_metrics",
            "MeasureValueType": "MULTI",
            "TimeUnit": "NANOSECONDS",
        },
        "Records": [],
    }
    return msgspec.json.encode(content).removesuffix(b"]}")


def _rejections(answer: Mapping[str, Any], count: int) -> dict[int, tuple[str, int]]:
    found: dict[int, tuple[str, int]] = {}
    listed = answer.get("RejectedRecords")
    for one in listed if isinstance(listed, list) else ():
        if not isinstance(one, dict):
            continue
        number, version = one.get("RecordIndex"), one.get("ExistingVersion")
        if isinstance(number, int) and 0 <= number < count:
            reason = excerpt(str(one.get("Reason") or "rejected"))
            found[number] = reason, version if isinstance(version, int) else 0
    return found


def _shift(record_id: str, attempt: int) -> int:
    """Return by how much later a record is written; each attempt anew the same."""
    return 1 + (zlib.crc32(record_id.encode()) + attempt) % _SLOTS
