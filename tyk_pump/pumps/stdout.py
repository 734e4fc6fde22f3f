"""Stdout: one line per record on standard output, as JSON or as a log line."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import logging
import os
import re
import select
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, ClassVar, Final

import msgspec

from tyk_pump import log as app_log
from tyk_pump.config.options import Options, doc
from tyk_pump.errors import CodecError, RejectedRecords, TransientError
from tyk_pump.log import ONCE
from tyk_pump.pumps.protocol import Batch
from tyk_pump.record import analytics, gotext
from tyk_pump.record import json as record_json
from tyk_pump.record.analytics import AnalyticsRecord

log = logging.getLogger(__name__)

STDOUT: Final = 1
PREFIX: Final = "stdout-pump"
_HTML: Final = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})
_LINE: Final = str.maketrans({"\n": " ", "\r": None, "\t": None})
_SPACE: Final = re.compile(rb'("(?:[^"\\]|\\.)*")|[ \t\r\n]+')


class StdoutOptions(Options, frozen=True, kw_only=True):
    """How a record is shown."""

    format: Annotated[
        str,
        doc("`json`, exactly so, for JSON lines; anything else means `text`."),
    ] = "text"
    log_field_name: Annotated[str, doc("Key that holds the record.")] = (
        "tyk-analytics-record"
    )
    use_legacy_payload_format: Annotated[
        bool,
        doc("JSON only: leave the raw request and response with their line ends."),
    ] = False


class StdoutPump:
    """Print records, whatever the level of the log."""

    options_type: ClassVar[type[StdoutOptions]] = StdoutOptions
    fields: Final = analytics.ALL
    guarantee: Final = (
        "At least once: lines of the batch that was in hand when the process was "
        "killed may be printed again. A record is one line, and lines of several "
        "stdout pumps are not mixed; what a killed process left of a line stands in a "
        "line of its own, or an empty line is there in its place. A reader that does "
        "not keep up holds this pump back, and no other."
    )
    differences: Final = (
        "Text goes to standard output as JSON does, apart from the log on standard "
        "error, and whatever the level of the log.",
        "A record that JSON cannot express (a year outside 0 to 9999, a coordinate "
        "that is no number) becomes a dead letter with its reason; it does not vanish.",
        "A closed pipe is a fault that is shown and tried again.",
        "A `format` that is unknown, `JSON` among them, means text as ever, with a "
        "warning.",
    )

    def __init__(self, options: StdoutOptions) -> None:
        self._options = options
        self._field = options.log_field_name or "tyk-analytics-record"
        self._turn = _Turn()

    def keep_in(self, folder: Path) -> None:
        """Take turns with all stdout pumps of this instance: there is one output."""
        self._turn = _Turn(folder.with_name("stdout.turn"))

    def open(self) -> None:
        """Say so when the format is not one of ours."""
        if self._options.format not in ("json", "text", ""):
            log.warning(
                "unknown format, records are printed as text",
                extra={**ONCE, "reason": repr(self._options.format)},
            )
        self._turn.open()

    def probe(self) -> str:
        """See that standard output is open."""
        try:
            os.fstat(STDOUT)
        except OSError as exc:
            raise TransientError(f"standard output: {exc.strerror}") from exc
        return "standard output is open"

    def write(self, batch: Batch) -> None:
        """Print all records that can be shown."""
        show = self._form()
        lines: list[bytes] = []
        printed: list[int] = []
        rejected: dict[int, str] = {}
        for index, record in enumerate(batch.records):
            try:
                lines.append(show(record))
                printed.append(index)
            except CodecError as exc:
                rejected[index] = str(exc)
        whole, fault = self._print(lines)
        if fault:
            reason = f"standard output: {fault}"
            raise TransientError(reason, pending=printed[whole:], rejected=rejected)
        if rejected:
            reason = "records that JSON cannot express"
            raise RejectedRecords(reason, rejected=rejected)

    def close(self) -> None:
        """Standard output stays open: it is not ours."""
        self._turn.close()

    def _form(self) -> Callable[[AnalyticsRecord], bytes]:
        """Return what makes a line of a record written now."""
        if self._options.format == "json":
            stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            around = envelope(self._field, {"msg": ""}, stamp)
            return _json_form(around, clean=not self._options.use_legacy_payload_format)
        if app_log.current_format == "json":
            stamp = app_log.rfc3339(time.time())
            others = {"message": "", "prefix": PREFIX}
            return _json_form(envelope(self._field, others, stamp), clean=False)
        return _text_form(app_log.current_format, self._field, time.time())

    def _print(self, lines: list[bytes]) -> tuple[int, str]:
        """Print lines; return how many are out in full, and what went wrong."""
        if not lines:
            return 0, ""
        with self._turn.ours() as torn:
            # Where the last one ended within a line, that is ended first.
            written, fault = _write_out(b"\n" * torn + b"".join(lines))
            written -= torn
            if written < 0:
                return 0, fault
            ends = itertools.accumulate(map(len, lines))
            whole = sum(1 for end in ends if end <= written)
            if written == sum(map(len, lines[:whole])):
                self._turn.ended()
        return whole, fault


class _Turn:
    """Whose turn it is to print, and whether the last one ended within a line.

    Both stand in a file, where there is one: of a process that was killed between two
    bytes nothing else tells. Unlike standard output it has locks, too.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._file: int | None = None
        self._torn = False

    def open(self) -> None:
        """See how things stand."""
        if self._path is not None:
            self.close()
            with contextlib.suppress(OSError):  # then as if there were no file
                self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        with self._alone():
            if _ends_within_a_line():
                self._mark(True)

    @contextmanager
    def ours(self) -> Iterator[bool]:
        """Wait for our turn; say whether a line has to be ended first.

        Until `ended` is called we count as being within one.
        """
        with self._alone():
            torn = self._marked() and _ends_within_a_line() is not False
            self._mark(True)
            yield torn

    def ended(self) -> None:
        """The last line is whole."""
        self._mark(False)

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other stdout pumps, each in its process, from writing into our lines."""
        file = STDOUT if self._file is None else self._file
        try:
            fcntl.lockf(file, fcntl.LOCK_EX)
        except OSError:
            yield  # this kind of output has no locks
            return
        try:
            yield
        finally:
            fcntl.lockf(file, fcntl.LOCK_UN)

    def _marked(self) -> bool:
        if self._file is None:
            return self._torn
        return os.pread(self._file, 1, 0) == b"1"

    def _mark(self, torn: bool) -> None:
        self._torn = torn
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.pwrite(self._file, b"1" if torn else b"0", 0)


def _json_form(
    around: tuple[bytes, bytes], *, clean: bool
) -> Callable[[AnalyticsRecord], bytes]:
    head, tail = around

    def show(record: AnalyticsRecord) -> bytes:
        if clean:
            # The record is the worker's own, and a second cleaning changes nothing.
            record.raw_request = cleaned_payload(record.raw_request)
            record.raw_response = cleaned_payload(record.raw_response)
        return head + record_json.encode(record) + tail

    return show


def _text_form(
    log_format: str, field: str, now: float
) -> Callable[[AnalyticsRecord], bytes]:
    def line(text: str) -> str:
        fields = {"prefix": PREFIX, field: text}
        return app_log.format_line(log_format, "info", "", fields, now) + "\n"

    hole = '"\\x00"'
    head, _, tail = line("\0").partition(hole)

    def show(record: AnalyticsRecord) -> bytes:
        text = gotext.encode(record)
        if text.isprintable():
            # Nearly always: then two characters need an escape and the quotes are sure.
            escaped = text.replace("\\", "\\\\").replace('"', '\\"')
            return f'{head}"{escaped}"{tail}'.encode()
        return line(text).encode("utf-8", "replace")

    return show


def envelope(field: str, others: dict[str, str], stamp: str) -> tuple[bytes, bytes]:
    """Return what stands before and behind the record in a JSON line."""
    entries = {"level": "info", "time": stamp, **others}
    if field in entries and field != "prefix":
        field = f"fields.{field}"
    parts = {name: _json_text(text) for name, text in entries.items()} | {field: "\0"}
    ordered = sorted(parts.items(), key=lambda part: part[0].encode())
    line = ",".join(f"{_json_text(name)}:{text}" for name, text in ordered)
    head, _, tail = f"{{{line}}}\n".partition("\0")
    return head.encode(), tail.encode()


def _json_text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).translate(_HTML)


def cleaned_payload(text: str) -> str:
    """Return a decoded request or response on one line, its JSON body compact."""
    head, blank, body = text.partition("\r\n\r\n")
    if blank:
        compact = compact_json(body.encode("utf-8", "surrogateescape"))
        if compact is not None:
            shown = compact.decode("utf-8", "surrogateescape")
            return f"{_one_line(head)} {shown}"
    return _one_line(text)


def _one_line(text: str) -> str:
    if "\n" in text or "\r" in text or "\t" in text:
        return text.translate(_LINE)
    return text


def compact_json(body: bytes) -> bytes | None:
    """Return JSON without the spaces between its parts, None where it is none."""
    try:
        return msgspec.json.format(body, indent=-1)
    except (msgspec.DecodeError, RecursionError):
        pass  # half a surrogate pair is refused there, and allowed here
    if b"\\u" not in body:
        return None
    try:
        json.loads(body.decode("utf-8", "replace"), parse_constant=_no_json)
    except (ValueError, RecursionError):
        return None
    return _SPACE.sub(rb"\1", body)


def _no_json(constant: str) -> None:
    raise ValueError(constant)


def _write_out(data: bytes) -> tuple[int, str]:
    """Write to standard output; return how many bytes went, and what stopped us."""
    view, written = memoryview(data), 0
    while written < len(data):
        try:
            written += os.write(STDOUT, view[written:])
        except BlockingIOError:
            select.select([], [STDOUT], [])
        except OSError as exc:
            return written, exc.strerror or str(exc)
    return written, ""


def _ends_within_a_line() -> bool | None:
    """Say whether half a line is the end of what stands there; None: who knows?"""
    try:
        size = os.fstat(STDOUT).st_size
        if not stat.S_ISREG(os.fstat(STDOUT).st_mode):
            return None
        if not size:
            return False
        with open(f"/proc/self/fd/{STDOUT}", "rb") as file:
            file.seek(size - 1)
            return file.read(1) != b"\n"
    except OSError:
        return None
