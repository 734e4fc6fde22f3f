"""Log lines on standard error, as text or JSON; set up once in every process.

The three formats are those that operators' parsers already read: `text`
(key=value, sorted), `json` (one object per line, keys sorted) and `legacy` (text
with `msg` and a short time). Whatever looks like a password inside an address, and
every value given to `hide`, is masked before a line leaves the process.
"""

from __future__ import annotations

import html
import json
import logging
import re
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from tyk_pump.errors import ConfigError

if TYPE_CHECKING:
    from tyk_pump.config.root import RootOptions

FORMATS: Final = ("text", "json", "legacy")
LEVELS: Final = {
    "": logging.INFO,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
}
"""What `log_level` may be, in any case; `warning` never was one of them."""

current_format: str = "text"
"""The format of this process, for pumps that print records the same way."""

DRIVERS: Final = ("google", "kafka", "urllib3", "redis", "waitress")
"""Loggers that speak at warning level or above, whatever `log_level` is."""

_LEVEL_NAMES = {
    logging.DEBUG: "debug",
    logging.INFO: "info",
    logging.WARNING: "warning",
    logging.ERROR: "error",
    logging.CRITICAL: "fatal",
}
_PLAIN = re.compile(r"[A-Za-z0-9._/@^+\-]*\Z")
_USERINFO = re.compile(r"(?<=://)[^\s/@\"']+@")
ONCE: Final[Mapping[str, Any]] = {"once": True}
"""`extra` of lines that tell of options alone: the log has them already when a worker
is started again."""
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", *ONCE}
_RESERVED = ("time", "level", "message", "msg")
_ESCAPES = {
    '"': '\\"',
    "\\": "\\\\",
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
}
_HTML = str.maketrans(
    {
        "<": "\\u003c",
        ">": "\\u003e",
        "&": "\\u0026",
        "\u2028": "\\u2028",
        "\u2029": "\\u2029",
    }
)
_PREFIXES = {
    "coordinator": "main",
    "admin": "server",
    "source": "redis",
    "cli": "main",
}
"""The reference's names for the parts, which filters on `prefix` may rely on."""

SHORTEST: Final = 4
"""Characters of the shortest secret that is masked."""
_SAME_EVERYWHERE: Final = re.compile(r"[A-Za-z0-9_]+")
_hidden: dict[str, re.Pattern[str] | None] = {}
"""The longest first: one may be the beginning of another."""


def parse_level(text: str) -> int:
    """Return the logging level that `log_level` means."""
    try:
        return LEVELS[text.lower()]
    except KeyError:
        known = ", ".join(name for name in LEVELS if name)
        raise ConfigError(f"log_level: {text!r} is none of {known}") from None


def chosen_format(root: RootOptions, environ: Mapping[str, str]) -> str:
    """Return the format that the environment or the configuration names."""
    chosen = environ.get("TYK_LOGFORMAT") or root.log_format
    return chosen if chosen in FORMATS else "text"


def chosen_level(root: RootOptions, environ: Mapping[str, str]) -> str:
    """Return the level that the environment or the configuration names.

    A word that is none of ours is a fault in the file, but means `info` in the
    environment: so the reference does.
    """
    if variable := environ.get("TYK_LOGLEVEL"):
        return variable.lower() if variable.lower() in LEVELS else "info"
    return root.log_level.lower()


def setup(format: str = "text", level: str = "", *, again: bool = False) -> None:
    """Send this process's log lines to standard error in `format`.

    `again`: one like this process has said `ONCE` what there is to say once.
    """
    global current_format
    number = parse_level(level)
    current_format = format if format in FORMATS else "text"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(current_format))
    if again:
        handler.addFilter(lambda record: not hasattr(record, "once"))
    root = logging.getLogger()
    for old in list(root.handlers):
        if isinstance(old.formatter, LineFormatter):
            root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(number)
    # Drivers say at debug level what they send, bodies and credentials included.
    for name in DRIVERS:
        logging.getLogger(name).setLevel(max(number, logging.WARNING))
    # What would only repeat our own lines about a refused or slow connection.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)


def banner(version: str) -> None:
    """Write the version line, which appears whatever the level is."""
    message = f"## Tyk Pump, v{version} ##"
    print(
        format_line(current_format, "info", message, {"prefix": "main"}, time.time()),
        file=sys.stderr,
        flush=True,
    )


def hide(values: Iterable[str]) -> None:
    """Mask these secrets in every later line, each line of one for itself, too."""
    _set_hidden({*_hidden, *_parts(values)})


def show(values: Iterable[str]) -> None:
    """Mask these no longer: they open nothing any more."""
    _set_hidden({*_hidden} - {*_parts(values)})


def _parts(values: Iterable[str]) -> Iterator[str]:
    for value in values:
        lines = [line.strip() for line in value.splitlines()]
        # Not what stands in every PEM file.
        long = [line for line in lines if len(line) >= 8 and line[:5] != "-----"]
        for text in (value, value.strip(), *long):
            # Masking a very short value would garble every line and hide nothing.
            if len(text) >= SHORTEST:
                yield text


def _set_hidden(values: set[str]) -> None:
    global _hidden
    _hidden = {
        value: _pattern(value) for value in sorted(values, key=len, reverse=True)
    }


def _pattern(value: str) -> re.Pattern[str] | None:
    """Return what finds a secret in addresses, in quotes and in HTML; None where it
    looks the same everywhere."""
    if _SAME_EVERYWHERE.fullmatch(value):
        return None
    return re.compile("".join(map(_forms, value)))


def _forms(char: str) -> str:
    if _SAME_EVERYWHERE.match(char):
        return char
    code = quote(char, safe="", errors="replace")
    forms = {char, code, code.lower(), f"\\{char}", html.escape(char)}
    forms |= {repr(char)[1:-1], json.dumps(char)[1:-1]}
    if char == " ":
        forms.add("+")
    return f"(?:{'|'.join(map(re.escape, sorted(forms, key=len, reverse=True)))})"


def hide_secrets(options: Any) -> None:
    """Mask all that is a Secret in these options, lists and mappings included."""
    if hasattr(options, "reveal"):
        hide([options.reveal()])
    elif isinstance(options, Mapping):
        for value in options.values():
            hide_secrets(value)
    elif isinstance(options, (list, tuple)):
        for value in options:
            hide_secrets(value)
    else:
        for name in getattr(options, "__struct_fields__", ()):
            hide_secrets(getattr(options, name))


def masked(text: str) -> str:
    """Return the text without hidden values and without passwords in addresses."""
    for value, pattern in _hidden.items():
        if pattern is not None:
            text = pattern.sub("***", text)
        elif value in text:
            text = text.replace(value, "***")
    if "://" in text:
        text = _USERINFO.sub("***@", text)
    return text


def format_line(
    format: str,
    level: str,
    message: str,
    fields: Mapping[str, Any],
    time: float,
) -> str:
    """Return one log line, without its line end."""
    if format == "json":
        return _json_line(level, message, fields, time)
    if format == "legacy":
        stamp, key = _short_time(time), "msg"
    else:
        stamp, key = rfc3339(time), "message"
    parts = [f"time={_quoted(stamp)} level={level}"]
    if message:
        parts.append(f"{key}={_quoted(message)}")
    for name, value in sorted(_renamed(fields).items()):
        parts.append(f"{name}={_quoted(_text(value))}")
    return " ".join(parts)


def rfc3339(seconds: float) -> str:
    """Return a time of the local zone with seconds, as `2026-11-23T13:42:00+05:45`."""
    local = time.localtime(seconds)
    base = time.strftime("%Y-%m-%dT%H:%M:%S", local)
    minutes = local.tm_gmtoff // 60
    if local.tm_gmtoff == 0:
        return base + "Z"
    sign = "-" if minutes < 0 else "+"
    return f"{base}{sign}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"


class LineFormatter(logging.Formatter):
    """Turn a logging record and its extra fields into one line."""

    def __init__(self, format: str) -> None:
        super().__init__()
        self._line_format = format

    def format(self, record: logging.LogRecord) -> str:
        """Return the line for a record."""
        fields = {
            name: masked(value) if isinstance(value, str) else value
            for name, value in vars(record).items()
            if name not in _STANDARD and value is not None
        }
        fields.setdefault("prefix", _prefix(record.name))
        if record.exc_info:
            trace = "".join(traceback.format_exception(*record.exc_info))
            fields["trace"] = masked(trace.rstrip())
        level = _LEVEL_NAMES.get(record.levelno, record.levelname.lower())
        message = masked(record.getMessage())
        return format_line(self._line_format, level, message, fields, record.created)


def _prefix(logger: str) -> str:
    package, _, rest = logger.partition(".")
    if package != "tyk_pump":
        return logger
    first, _, last = rest.partition(".")
    if first == "pumps" and last:
        return f"{last}-pump"
    return _PREFIXES.get(first, first or "main")


def _json_line(level: str, message: str, fields: Mapping[str, Any], time: float) -> str:
    entry = {name: _json_value(value) for name, value in _renamed(fields).items()}
    entry.update(level=level, message=_clean(message), time=rfc3339(time))
    text = json.dumps(
        entry, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str
    )
    return text.translate(_HTML)


def _renamed(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        f"fields.{name}" if name in _RESERVED else name: value
        for name, value in fields.items()
    }


def _json_value(value: Any) -> Any:
    if isinstance(value, str):
        return _clean(value)
    if isinstance(value, float) and value - value != 0:  # NaN and infinities
        return str(value)
    return value


def _clean(text: str) -> str:
    # Bytes that are no UTF-8 came in as lone surrogates; no JSON can carry them.
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def _text(value: Any) -> str:
    if value is True:
        return "true"
    if value is False:
        return "false"
    return value if isinstance(value, str) else str(value)


def _quoted(text: str) -> str:
    if _PLAIN.match(text):
        return text
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(char: str) -> str:
    if " " <= char <= "~":
        return _ESCAPES.get(char, char)
    if char in _ESCAPES:
        return _ESCAPES[char]
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if char.isprintable():
        return char
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _short_time(seconds: float) -> str:
    return time.strftime("%b %d %H:%M:%S", time.localtime(seconds))
