"""CSV: one row per record, in a file per hour; each record once per folder."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Final

from tyk_pump.config.options import Options, doc
from tyk_pump.errors import CodecError, TransientError
from tyk_pump.log import ONCE
from tyk_pump.pumps.protocol import Batch
from tyk_pump.record.analytics import ALL, AnalyticsRecord
from tyk_pump.record.gotext import MONTHS, float_text
from tyk_pump.record.gotime import go_text
from tyk_pump.record.json import go_float
from tyk_pump.transport.folder import OnceFolder

log = logging.getLogger(__name__)

COLUMNS: Final = (
    "Method,Host,Path,RawPath,ContentLength,UserAgent,Day,Month,Year,Hour,ResponseCode,"
    "APIKey,TimeStamp,APIVersion,APIName,APIID,OrgID,OauthID,RequestTime,RawRequest,"
    "RawResponse,IPAddress,GeoData.Country.ISOCode,GeoData.City.GeoNameID,"
    "GeoData.City.Names,GeoData.Location.Latitude,GeoData.Location.Longitude,"
    "GeoData.Location.TimeZone,NetworkStats.OpenConnections,"
    "NetworkStats.ClosedConnection,NetworkStats.BytesIn,NetworkStats.BytesOut,"
    "Latency.Total,Latency.Upstream,Latency.Gateway,Tags,Alias,TrackPath,ExpireAt,"
    "ApiSchema,OriginalPath,ListenPath"
)
HEADER: Final = f"{COLUMNS}\n".encode()
_COMMAS: Final = COLUMNS.count(",")
_SPACES: Final = frozenset(
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008"
    "\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
)
_FORMULA: Final = frozenset("=+-@\t\r")


class CsvOptions(Options, frozen=True, kw_only=True):
    """Where the files are and how safely they are written."""

    csv_dir: Annotated[
        str,
        doc("Folder of the files; made when absent.", example="/var/lib/tyk-pump/csv"),
    ] = ""
    fsync: Annotated[
        bool,
        doc("Bring each batch to the disk before it is settled, against power cuts."),
    ] = True
    escape_formulas: Annotated[
        bool,
        doc("Put ' before texts that a spreadsheet would take for a formula."),
    ] = False


class CsvPump:
    """Append rows to the file of the hour."""

    options_type: ClassVar[type[CsvOptions]] = CsvOptions
    fields: Final = tuple(
        name
        for name in ALL
        if name not in ("graphql_stats", "mcp_stats", "collection_name")
    )
    guarantee: Final = (
        "Each record once per folder, across crashes, restarts and several instances "
        "that write into it. `_tyk_pump/` in the folder holds the lock and the journal "
        "that this rests on: leave it there, and keep the folder on a file system with "
        "locks. At least once beside a writer that does not take the lock. A replay of "
        "dead letters is not held against the rows of an earlier one. Without `fsync` "
        "a power cut may cost rows."
    )
    differences: Final = (
        "Whole numbers keep their sign.",
        "Coordinates are numbers as JSON shows them: `40.7128`, `-74.006`.",
        "An empty file gets the header too.",
        "Rows go on a line of their own where the file's last line has no end.",
        "Beside a file with other columns, as another version writes it, a new one "
        "is begun: `2025-March-5-14-2.csv`.",
        "A batch that cannot be written is tried again and not dropped.",
    )

    def __init__(self, options: CsvOptions) -> None:
        self._options = options
        self._path = Path(options.csv_dir or ".")
        self._folder = OnceFolder(self._path, fsync=options.fsync)
        self._row = formula_safe_row if options.escape_formulas else row

    def open(self) -> None:
        """Make the folder, and mend what a crash has left in it."""
        if not self._options.csv_dir:
            log.warning(
                "csv_dir is not set, files go to the current folder", extra=ONCE
            )
        self._reached()

    def probe(self) -> str:
        """Make the folder and take its lock."""
        self._reached()
        return f"{self._path.resolve()} can be written"

    def write(self, batch: Batch) -> None:
        """Append the rows that the folder does not hold yet."""
        rows = [self._row(record) for record in batch.records]
        if not rows:
            return
        key = f"{batch.stream} {batch.watermark}"
        positions = batch.positions
        try:
            with self._folder.locked():
                fresh = batch.fresh(self._folder.marks(f"{batch.stream} "))
                new = [rows[index] for index in fresh]
                if new:
                    self._append(new, key, positions[-1] + 1)
        except OSError as exc:
            raise TransientError(_reason(exc)) from exc

    def close(self) -> None:
        """Let go of the folder."""
        self._folder.close()

    def _reached(self) -> None:
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            with self._folder.locked():
                pass
        except OSError as exc:
            raise TransientError(_reason(exc)) from exc

    def _append(self, rows: Sequence[str], key: str, position: int) -> None:
        data = ("\n".join(rows) + "\n").encode("utf-8", "surrogateescape")
        name, fd = self._file(file_name(time.localtime()))
        try:
            lead = _lead(fd)
            self._folder.append(fd, name, lead + data, key, position)
        finally:
            os.close(fd)

    def _file(self, name: str) -> tuple[str, int]:
        """Open the hour's file, or a second one beside rows of other columns."""
        base, number = name, 1
        while True:
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            fd = os.open(self._path / name, flags, 0o666)
            if not _has_other_columns(os.pread(fd, len(HEADER), 0)):
                return name, fd
            os.close(fd)
            number += 1
            name = f"{base.removesuffix('.csv')}-{number}.csv"


def file_name(now: time.struct_time) -> str:
    """Return the name of an hour's file, by the pump's own clock and zone."""
    month = MONTHS[now.tm_mon - 1]
    return f"{now.tm_year}-{month}-{now.tm_mday}-{now.tm_hour}.csv"


def _has_other_columns(head: bytes) -> bool:
    # Another version of the pump wrote it. Any other file is the operator's affair:
    # rows go behind what he has put there, as ever.
    return head.startswith(b"Method,Host,Path,") and head != HEADER


def _lead(fd: int) -> bytes:
    """Return what must stand before the first new row."""
    size = os.fstat(fd).st_size
    if size == 0:
        return HEADER
    return b"" if os.pread(fd, 1, size - 1) == b"\n" else b"\n"


def _reason(exc: OSError) -> str:
    return f"{exc.filename or 'csv file'}: {exc.strerror or exc}"


def row(r: AnalyticsRecord) -> str:
    """Return a record as a row without its line end."""
    # Of all texts only the user agent has commas as a rule, and the two bodies are
    # most of the bytes: these three are looked at one by one. All other cells are
    # joined as they are and looked at together, cell by cell only where one needs
    # quotes.
    geo, net, latency, zone = r.geo, r.network, r.latency, r.zone
    city, place, month = geo.city, geo.location, r.month
    first = f"{r.method},{r.host},{r.path},{r.raw_path},{r.content_length}"
    middle = (
        f"{r.day},{MONTHS[month - 1] if 1 <= month <= 12 else _month(month)},{r.year},"
        f"{r.hour},{r.response_code},{r.api_key},{go_text(r.timestamp, zone)},"
        f"{r.api_version},{r.api_name},{r.api_id},{r.org_id},{r.oauth_id},"
        f"{r.request_time}"
    )
    last = (
        f"{r.ip_address},"
        f"{geo.country.iso_code},{city.geoname_id},"
        f"{_names(city.names) if city.names else ''},"
        f"{_coordinate(place.latitude)},{_coordinate(place.longitude)},"
        f"{place.time_zone},{net.open_connections},{net.closed_connection},"
        f"{net.bytes_in},{net.bytes_out},{latency.total},{latency.upstream},"
        f"{latency.gateway},{';'.join(r.tags) if r.tags else ''},{r.alias},"
        f"{'true' if r.track_path else 'false'},{go_text(r.expire_at, zone)},"
        f"{r.api_schema},{r.original_path},{r.listen_path}"
    )
    if _is_plain(f"{first},{middle},{last}", _COMMAS - 3):
        return (
            f"{first},{_quoted(r.user_agent)},{middle},"
            f"{_quoted(r.raw_request)},{_quoted(r.raw_response)},{last}"
        )
    return _cells(r, _quoted)


def formula_safe_row(record: AnalyticsRecord) -> str:
    """Return a row in which no text of a client begins like a formula."""
    return _cells(record, lambda text: _quoted(_disarmed(text)))


def _disarmed(text: str) -> str:
    return f"'{text}" if text and text[0] in _FORMULA else text


def _is_plain(cells: str, commas: int) -> bool:
    """Say whether no cell of joined ones needs quotes; never wrong with yes."""
    return (
        cells.isascii()
        and cells.count(",") == commas
        and '"' not in cells
        and ", " not in cells
        and "\n" not in cells
        and "\r" not in cells
        and "\t" not in cells
        and "\v" not in cells
        and "\f" not in cells
        and "\\" not in cells
        and cells[0] != " "
    )


def _quoted(text: str) -> str:
    if not text:
        return text
    if '"' in text:
        doubled = text.replace('"', '""')
        return f'"{doubled}"'
    if (
        "," in text
        or "\n" in text
        or "\r" in text
        or text[0] in _SPACES
        or text == "\\."
    ):
        return f'"{text}"'
    return text


def _cells(r: AnalyticsRecord, q: Callable[[str], str]) -> str:
    geo, net, latency, zone = r.geo, r.network, r.latency, r.zone
    city, place = geo.city, geo.location
    return (
        f"{q(r.method)},{q(r.host)},{q(r.path)},{q(r.raw_path)},{r.content_length},"
        f"{q(r.user_agent)},{r.day},{_month(r.month)},{r.year},{r.hour},"
        f"{r.response_code},{q(r.api_key)},{go_text(r.timestamp, zone)},"
        f"{q(r.api_version)},{q(r.api_name)},{q(r.api_id)},{q(r.org_id)},"
        f"{q(r.oauth_id)},{r.request_time},{q(r.raw_request)},{q(r.raw_response)},"
        f"{q(r.ip_address)},{q(geo.country.iso_code)},{city.geoname_id},"
        f"{q(_names(city.names)) if city.names else ''},"
        f"{_coordinate(place.latitude)},{_coordinate(place.longitude)},"
        f"{q(place.time_zone)},{net.open_connections},{net.closed_connection},"
        f"{net.bytes_in},{net.bytes_out},{latency.total},{latency.upstream},"
        f"{latency.gateway},{q(';'.join(r.tags)) if r.tags else ''},{q(r.alias)},"
        f"{'true' if r.track_path else 'false'},{go_text(r.expire_at, zone)},"
        f"{q(r.api_schema)},{q(r.original_path)},{q(r.listen_path)}"
    )


def _month(month: int) -> str:
    return MONTHS[month - 1] if 1 <= month <= 12 else f"%!Month({month})"


def _names(names: dict[str, str]) -> str:
    return ";".join([f"{key}:{names[key]}" for key in sorted(names)])


def _coordinate(number: float) -> str:
    """Return a coordinate as the JSON form shows it."""
    if 1e-4 <= number < 1e15 or -1e15 < number <= -1e-4:
        return repr(number).removesuffix(".0")
    try:
        return go_float(number)
    except CodecError:
        return float_text(number)  # NaN and infinities, which JSON does not have
