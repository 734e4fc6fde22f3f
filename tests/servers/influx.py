"""InfluxDB 1 and 2 as far as the pumps see them: points by series and time.

Lines are read as the servers read them, so that what is written wrong is refused; a
point of the same series and time takes the place of the one before.
"""

from __future__ import annotations

import base64
from typing import Any

import msgspec

from tests.servers.http import Answer, HttpServer, Request, of
from tests.servers.tls import Authority

FIRST, LAST = -(2**63) + 2, 2**63 - 2
UNITS = {"ns": 1, "n": 1, "us": 1000, "u": 1000, "ms": 10**6, "s": 10**9}


class Unparsed(Exception):
    """A line is not what it should be."""


class Point(msgspec.Struct, frozen=True):
    """One point as it was stored."""

    measurement: str
    tags: dict[str, str]
    fields: dict[str, Any]
    time: int
    line: str

    @property
    def key(self) -> tuple[Any, ...]:
        """Return what no two stored points share."""
        return (self.measurement, *sorted(self.tags.items()), self.time)


def lines_of(body: bytes) -> list[str]:
    """Return the lines of a body; a line feed in a quoted text ends none."""
    found, start, quoted, at = [], 0, False, 0
    text = body.decode("utf-8", "surrogateescape")
    while at < len(text):
        if text[at] == "\\" and at + 1 < len(text):
            at += 2
            continue
        if text[at] == '"':
            quoted = not quoted
        elif text[at] == "\n" and not quoted:
            found.append(text[start:at])
            start = at + 1
        at += 1
    if text[start:]:
        found.append(text[start:])
    return found


def point(line: str, unit: int = 1) -> Point:
    """Return what a line means; Unparsed where it means nothing."""
    head, at = _until(line, 0, " ")
    parts = _split(head)
    tags = {}
    for part in parts[1:]:
        name, found = _until(part, 0, "=")
        value = part[found + 1 :]
        if not name or not value or found >= len(part):
            raise Unparsed("missing tag value")
        if _until(value, 0, "=")[1] != len(value):
            raise Unparsed("invalid tag format")
        tags[_plain(name)] = _plain(value)
    if list(tags) != sorted(tags):
        raise Unparsed("tags out of order")
    fields: dict[str, Any] = {}
    while line[at : at + 1] in (" ", ","):
        if line[at] == " " and fields:
            break
        name, at = _until(line, at + 1, "=")
        fields[_plain(name)], at = _value(line, at + 1)
    if not fields:
        raise Unparsed("missing fields")
    try:
        time = int(line[at + 1 :]) * unit
    except ValueError:
        raise Unparsed("bad timestamp") from None
    if not FIRST <= time <= LAST:
        raise Unparsed(f"time outside range {FIRST} - {LAST}")
    return Point(parts[0], tags, fields, time, line)


def _until(text: str, start: int, end: str) -> tuple[str, int]:
    """Return what stands before a character that no backslash is before."""
    at = start
    while at < len(text) and (text[at] != end or text[at - 1 : at] == "\\"):
        at += 1
    return text[start:at], at


def _split(head: str) -> list[str]:
    parts, at = [], -1
    while at < len(head):
        part, at = _until(head, at + 1, ",")
        parts.append(part)
    return parts


def _plain(text: str) -> str:
    for char in ", =":
        text = text.replace(f"\\{char}", char)
    return text


def _value(line: str, at: int) -> tuple[Any, int]:
    if line[at : at + 1] == '"':
        start = at = at + 1
        while line[at : at + 1] not in ('"', ""):
            at += 2 if line[at] == "\\" and line[at + 1 : at + 2] in ('"', "\\") else 1
        if at >= len(line):
            raise Unparsed("unbalanced quotes")
        text = line[start:at].replace("\\\\", "\0").replace('\\"', '"')
        return text.replace("\0", "\\"), at + 1
    end = at
    while end < len(line) and line[end] not in ", ":
        end += 1
    text = line[at:end]
    if not text:
        raise Unparsed("missing field value")
    if text.endswith("i") and -(2**63) <= int(text[:-1]) < 2**63:
        return int(text[:-1]), end
    raise Unparsed("invalid number")


class Influx:
    """What both have: points, and a verdict on lines."""

    def __init__(
        self, authority: Authority | None = None, *, demand_certificate: bool = False
    ) -> None:
        self.stored: dict[tuple[Any, ...], Point] = {}
        self.requests: list[Request] = []
        """The writes, refused ones too."""
        self.max_bytes = 25_000_000
        self.http = HttpServer(
            self.respond, authority=authority, demand_certificate=demand_certificate
        )

    @property
    def url(self) -> str:
        """Return the address."""
        return self.http.url

    @property
    def points(self) -> list[Point]:
        """Return the points in the order of their arrival."""
        return list(self.stored.values())

    def respond(self, request: Request) -> Answer:
        """Answer as the server does."""
        raise NotImplementedError

    def read(self, request: Request) -> tuple[list[Point], list[str]]:
        """Return the points of a body and what is wrong with its other lines."""
        self.requests.append(request)
        unit = UNITS[request.query["precision"]]
        points, wrong = [], []
        for line in lines_of(request.body):
            try:
                points.append(point(line, unit))
            except Unparsed as exc:
                wrong.append(f"unable to parse '{line}': {exc}")
        return points, wrong

    def store(self, points: list[Point]) -> None:
        """Keep points, each in the place of the one with its series and time."""
        self.stored.update((one.key, one) for one in points)

    def close(self) -> None:
        """Listen no longer."""
        self.http.close()


class Influx1(Influx):
    """InfluxDB 1: database `tyk`, user `pump` with password `pw` where asked for."""

    version = "1.8.10"
    users = {"pump": "pw"}
    databases = ("_internal", "tyk")
    demands_user = False

    def respond(self, request: Request) -> Answer:
        """Answer as the server does."""
        about = {"X-Influxdb-Version": self.version}
        if request.path == "/ping":
            return Answer(204, headers=about)
        if self.demands_user and not self._is_known(request):
            return of({"error": "authorization failed"}, 401, headers=about)
        if request.path == "/query":
            values = [[name] for name in self.databases]
            series = {"name": "databases", "columns": ["name"], "values": values}
            return of({"results": [{"statement_id": 0, "series": [series]}]})
        if request.path != "/write" or request.method != "POST":
            return of({"error": "not found"}, 404)
        return self._write(request)

    def _is_known(self, request: Request) -> bool:
        kind, _, text = request.headers.get("authorization", "").partition(" ")
        user, _, password = base64.b64decode(text).decode().partition(":")
        return kind == "Basic" and self.users.get(user) == password

    def _write(self, request: Request) -> Answer:
        database = request.query.get("db", "")
        if database not in self.databases:
            return of({"error": f'database not found: "{database}"'}, 404)
        if len(request.raw) > self.max_bytes:
            return of({"error": "Request Entity Too Large"}, 413)
        points, wrong = self.read(request)
        self.store(points)
        if not wrong:
            return Answer(204)
        said = "\n".join(wrong)
        if points:
            said = f"partial write: {said} dropped=0"
        return of({"error": said}, 400)


class Influx2(Influx):
    """InfluxDB 2: organisation `acme` with bucket `tyk`, and a token if it has one.

    A line that cannot be read keeps the whole body out.
    """

    token = ""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.buckets = {("0badc0ffee000001", "tyk")}
        self.created: list[dict[str, Any]] = []
        super().__init__(*args, **options)

    def respond(self, request: Request) -> Answer:
        """Answer as the server does."""
        if request.path == "/ready":
            started = "2026-01-01T00:00:00Z"
            return of({"status": "ready", "started": started, "up": "1h"})
        said = request.headers.get("authorization")
        if self.token and said != f"Token {self.token}":
            return _error("unauthorized", "unauthorized access", 401)
        if request.path == "/api/v2/orgs":
            return self._organizations(request)
        if request.path == "/api/v2/buckets" and request.method == "GET":
            return self._buckets(request)
        if request.path == "/api/v2/buckets":
            return self._create(request)
        if request.path == "/api/v2/write" and request.method == "POST":
            return self._write(request)
        return _error("not found", "path not found", 404)

    def _organizations(self, request: Request) -> Answer:
        if request.query.get("org") != "acme":
            return _error("not found", "organization name not found", 404)
        return of({"orgs": [{"id": "0badc0ffee000001", "name": "acme"}]})

    def _buckets(self, request: Request) -> Answer:
        wanted = (request.query.get("orgID"), request.query.get("name"))
        found = [one for one in sorted(self.buckets) if one == wanted]
        shown = [
            {"id": "b1", "orgID": org, "name": name, "retentionRules": []}
            for org, name in found
        ]
        return of({"buckets": shown})

    def _create(self, request: Request) -> Answer:
        asked = request.json
        key = (asked["orgID"], asked["name"])
        if key in self.buckets:
            return _error("conflict", f"bucket with name {key[1]} already exists", 422)
        self.buckets.add(key)
        self.created.append(asked)
        return of({"id": "b2", **asked}, 201)

    def _write(self, request: Request) -> Answer:
        query = request.query
        if query.get("org") != "acme":
            return _error("not found", "organization name not found", 404)
        if ("0badc0ffee000001", query.get("bucket")) not in self.buckets:
            return _error("not found", "bucket not found", 404)
        if len(request.raw) > self.max_bytes:
            return _error("request too large", "cannot read data", 413)
        points, wrong = self.read(request)
        if wrong:
            return _error("invalid", "\n".join(wrong), 400)
        self.store(points)
        return Answer(204)


def _error(code: str, message: str, status: int) -> Answer:
    return of({"code": code, "message": message}, status)
