"""Connection strings of SQL databases, in the forms that the reference takes.

PostgreSQL: keyword/value or URL, as its own programs read them; a key that they do
not know is a setting of the session. MySQL: `user:password@protocol(address)/db?key=`.
Nothing of a connection string is ever shown in a reason: it holds the password.
"""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit
from zoneinfo import ZoneInfo

import msgspec
from psycopg import conninfo, errors, pq

_PAIR: Final = re.compile(
    r"\s*(\w+)\s*=\s*('(?:[^'\\]|\\.)*'|(?:[^\s'\\]|\\.)*)(?=\s|$)"
)
_ESCAPE: Final = re.compile(r"\\(.)")
_UNITS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_DURATION: Final = re.compile(r"(\d+(?:\.\d*)?)(h|ms|m|us|ns|s)")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_OF_THE_REFERENCE: Final = _words("""
    default_query_exec_mode statement_cache_capacity statement_cache_mode
    description_cache_capacity prefer_simple_protocol min_read_buffer_size
""")
"""Settings of the reference's driver: nothing here depends on them."""

_OF_GO: Final = _words("""
    allowAllFiles allowCleartextPasswords allowFallbackToPlaintext
    allowNativePasswords allowOldPasswords charset checkConnLiveness
    clientFoundRows collation columnsWithAlias compress connectionAttributes
    interpolateParams loc maxAllowedPacket multiStatements parseTime
    readTimeout rejectReadOnly serverPubKey strict timeTruncate timeout tls
    writeTimeout
""")
"""Settings of the reference's driver; others are variables of the session."""


class DsnError(ValueError):
    """The connection string has not the form; says what is wrong, but not with it."""


class MySql(msgspec.Struct, frozen=True):
    """Where a MySQL server is, and how to speak with it."""

    host: str = "127.0.0.1"
    port: int = 3306
    socket: str = ""
    user: str = ""
    password: str = ""
    database: str = ""
    loc: str = "UTC"
    """The zone in which times are written; "" is the local one."""
    tls: str = "false"
    timeout: float | None = None
    read_timeout: float | None = None
    write_timeout: float | None = None
    variables: tuple[tuple[str, str], ...] = ()
    """Settings of the session, their values as they stand in a SET statement."""

    def __repr__(self) -> str:
        return f"MySql({self.host}:{self.port})"


def postgres(text: str) -> dict[str, str]:
    """Return a connection string as keywords of libpq; faults raise DsnError."""
    text = text.strip()
    if text.startswith(("postgres://", "postgresql://")):
        found = _postgres_url(text)
    else:
        found = _keywords(text)
    known: dict[str, str] = {}
    settings = []
    # What this libpq knows of a connection; it may be older or newer than others.
    keywords = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    for key, value in found.items():
        name = {"database": "dbname", "username": "user"}.get(key, key)
        if name in keywords:
            known[name] = value
        elif name in _OF_THE_REFERENCE or name.startswith("pool_"):
            continue
        else:
            name = "TimeZone" if name == "time_zone" else name
            quoted = re.sub(r"([\\\s])", r"\\\1", value)
            settings.append(f"-c {name}={quoted}")
    if settings:
        before = [known["options"]] if known.get("options") else []
        known["options"] = " ".join([*before, *settings])
    return known


def _keywords(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    at = 0
    while at < len(text):
        match = _PAIR.match(text, at)
        if match is None:
            break
        key, value = match.groups()
        if value.startswith("'"):
            value = value[1:-1]
        found[key] = _ESCAPE.sub(r"\1", value)
        at = match.end()
    if text[at:].strip():
        raise DsnError(f"not key=value pairs from character {at + 1} on")
    return found


def _postgres_url(text: str) -> dict[str, str]:
    # libpq splits hosts and decodes; only the keys that it does not know are ours.
    try:
        parts = urlsplit(text)
        pairs = parse_qsl(parts.query, keep_blank_values=True)
        base: dict[str, Any] = conninfo.conninfo_to_dict(
            urlunsplit(parts._replace(query="", fragment=""))
        )
    except (ValueError, errors.Error):
        raise DsnError("not a URL of a PostgreSQL database") from None
    found = {key: str(value) for key, value in base.items() if value is not None}
    found.update({"sslmode" if key == "ssl" else key: value for key, value in pairs})
    return found


def mysql(text: str) -> MySql:
    """Return a connection string of the reference's MySQL driver in its parts."""
    head, slash, tail = text.strip().rpartition("/")
    if not slash:
        raise DsnError("the slash before the database's name is missing")
    credentials, _, place = head.rpartition("@")
    user, _, password = credentials.partition(":")
    name, _, query = tail.partition("?")
    host, port, socket = _mysql_place(place)
    known: dict[str, str] = {}
    variables = []
    for pair in query.split("&") if query else ():
        key, _, value = pair.partition("=")
        if key in _OF_GO:
            known[key] = unquote(value.replace("+", " "))
        elif key:
            if not re.fullmatch(r"@{0,2}[\w.]+", key):
                raise DsnError("a parameter's name is no name")
            variables.append((key, unquote(value.replace("+", " "))))
    return MySql(
        host=host,
        port=port,
        socket=socket,
        user=user,
        password=password,
        database=unquote(name),
        loc=_loc(known.get("loc", "UTC")),
        tls=_tls(known.get("tls", "false")),
        timeout=_seconds(known.get("timeout", "")),
        read_timeout=_seconds(known.get("readTimeout", "")),
        write_timeout=_seconds(known.get("writeTimeout", "")),
        variables=tuple(variables),
    )


def _mysql_place(place: str) -> tuple[str, int, str]:
    """Return host, port and socket of `tcp(host:port)`, `unix(/path)` or `/path`."""
    match = re.fullmatch(r"(\w*)(?:\((.*)\))?", place)
    if match is None:
        raise DsnError("the address is not protocol(address), as in tcp(host:3306)")
    protocol, address = match[1] or "tcp", match[2] or ""
    if protocol == "unix":
        return "", 0, address or "/tmp/mysql.sock"
    if not protocol.startswith("tcp"):
        raise DsnError("the protocol of the address is neither tcp nor unix")
    match = re.fullmatch(r"(?:\[(.*)\]|([^:\]]*))(?::(\d+))?", address)
    if match is None:
        raise DsnError("the address is not host:port")
    return match[1] or match[2] or "127.0.0.1", int(match[3] or 3306), ""


def _loc(name: str) -> str:
    if name in {"", "UTC"}:
        return "UTC"
    if name == "Local":
        return ""
    try:
        ZoneInfo(name)
    except (KeyError, OSError, ValueError):
        raise DsnError("nobody knows the time zone of loc") from None
    return name


def _tls(value: str) -> str:
    value = value.lower()
    if value in {"true", "1"}:
        return "true"
    if value in {"", "false", "0"}:
        return "false"
    if value in {"skip-verify", "preferred"}:
        return value
    raise DsnError("tls is none of true, false, skip-verify and preferred")


def _seconds(text: str) -> float | None:
    if not text or text == "0":
        return None
    found = _DURATION.findall(text)
    if "".join(number + unit for number, unit in found) != text:
        raise DsnError("a timeout is no duration such as 30s")
    return sum(float(number) * _UNITS[unit] for number, unit in found) or None
