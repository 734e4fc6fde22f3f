"""Made-up records: a month of calls for `--demo`, and traffic that looks real.

They take the place of what a gateway writes; nothing here is read from Redis.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Final

from tyk_pump.record.analytics import (
    AnalyticsRecord,
    City,
    Country,
    Geo,
    Latency,
    Location,
    Network,
)

_METHODS: Final = ("GET", "PUT", "POST", "DELETE", "OPTIONS", "HEAD")
_ROOTS: Final = ("/widget", "/foo", "/beep", "/boop")
_WORDS: Final = (
    "amber",
    "basket",
    "cedar",
    "drum",
    "ember",
    "fable",
    "garnet",
    "harbour",
    "island",
    "jasper",
    "kettle",
    "lantern",
    "meadow",
    "needle",
    "orchard",
    "pebble",
    "quarry",
    "ribbon",
    "saddle",
    "timber",
)
_APIS: Final = (
    ("Foo Bar Baz API", "de6e4d9ddde34d1657a6d93fab835abd"),
    ("Wibble Wobble API", "de6e4d9ddde34d1657a6d92fab935aba"),
    ("Wonky Ponky API", "de6e4d9ddde34d1657a6d91fab836abb"),
)
_CODES: Final = (200,) * 8 + (403, 500)
_COUNTRIES: Final = ("RU", "US", "UK")
_AGENTS: Final = (
    "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:127.0) Gecko/20100101 Firefox/127.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/126.0 Safari",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 14_5) AppleWebKit/605.1.15 Version/17.5",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15",
    "Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 Chrome/126.0 Mobile",
    "Mozilla/5.0 (X11; CrOS x86_64 15699.85.0) AppleWebKit/537.36 Chrome/122.0",
    "Opera/9.80 (Windows NT 6.1; WOW64) Presto/2.12.388 Version/12.18",
)
_KEYS: Final = 50
_EXPIRY: Final = 8760 * 3600


def generate(
    org: str,
    days: int,
    per_hour: int,
    api: str,
    version: str,
    track_path: bool,
    future: bool,
    now: float,
    random: Random,
) -> Iterator[list[AnalyticsRecord]]:
    """Yield one list of records for each hour of the days, oldest first.

    The days are those before today, or those from today on; `per_hour` 0 makes 300
    to 499 records an hour, and an empty `api` one of three APIs for each record.
    """
    # The local date, at 00:00 UTC.
    today = datetime.fromtimestamp(now).replace(
        hour=0, minute=0, second=0, microsecond=0, tzinfo=UTC
    )
    first = today if future else today - timedelta(days=days)
    keys = [_key(org, random) for _ in range(_KEYS)]
    expires = int(now) + _EXPIRY
    for hour in range(days * 24):
        start = first + timedelta(hours=hour)
        count = per_hour or random.randint(300, 499)
        step = 3600 // count
        batch = []
        for index in range(count):
            record = _call(random, org, api)
            record.api_key = random.choice(keys)
            record.api_version = version or "Default"
            record.track_path = track_path
            record.expire_at = (expires, 0)
            _stamp(record, start + timedelta(seconds=index * step))
            batch.append(record)
        yield batch


def _key(org: str, random: Random) -> str:
    return org + uuid.UUID(int=random.getrandbits(128), version=4).hex


def _call(random: Random, org: str, api: str) -> AnalyticsRecord:
    name, api_id = ("Foo Bar", api) if api else random.choice(_APIS)
    words = random.sample(_WORDS, random.randint(1, 2))
    path = "/".join((random.choice(_ROOTS), *words))
    return AnalyticsRecord(
        method=random.choice(_METHODS),
        path=path,
        raw_path=path,
        content_length=random.randint(0, 998),
        user_agent=random.choice(_AGENTS),
        response_code=random.choice(_CODES),
        api_name=name,
        api_id=api_id,
        org_id=org,
        request_time=random.randint(0, 9),
        raw_request="Qk9EWSBEQVRB",
        raw_response="UkVTUE9OU0UgREFUQQ==",
        ip_address="118.93.55.103",
        geo=Geo(country=Country(random.choice(_COUNTRIES))),
        tags=[f"orgid-{org}", f"apiid-{api_id}"],
    )


def _stamp(record: AnalyticsRecord, at: datetime) -> None:
    record.day, record.month = at.day, at.month
    record.year, record.hour = at.year, at.hour
    record.timestamp = int(at.timestamp()), at.microsecond * 1000


_PLACES: Final = (
    ("GB", 2643743, "London", 51.5142, -0.0931, "Europe/London"),
    ("DE", 2950159, "Berlin", 52.5244, 13.4105, "Europe/Berlin"),
    ("US", 5128581, "New York", 40.7143, -74.006, "America/New_York"),
    ("BR", 3448439, "São Paulo", -23.5475, -46.6361, "America/Sao_Paulo"),
    ("JP", 1850147, "Tokyo", 35.6895, 139.6917, "Asia/Tokyo"),
)
_ORG: Final = "5e9d9544a1dcd60001d0ed20"
_SERVICES: Final = (
    ("Orders", "b84fe1a04e5648927971c0557971565c", "/shop/", "/orders/{id}"),
    ("Payments", "4f1c2a7be0d94b6e8f3a5c6d7e8f9011", "/pay/", "/payments/{id}"),
    ("Accounts", "0c7d5ef2b1a84d3c9e6f708192a3b4c5", "/accounts/", "/users/{id}"),
)
_TRAFFIC_METHODS: Final = ("GET",) * 12 + ("POST",) * 5 + ("PUT", "PATCH", "DELETE")
_STATUSES: Final = (
    (200,) * 80 + (201,) * 6 + (204, 304, 400, 401, 403) + (404,) * 4 + (429, 500, 502)
)


def traffic(random: Random) -> AnalyticsRecord:
    """Return a call of now as a busy gateway reports it, about 1.5 KB long."""
    name, api_id, listen, original = random.choice(_SERVICES)
    iso, geoname, city, latitude, longitude, zone = random.choice(_PLACES)
    code = random.choice(_STATUSES)
    method = random.choice(_TRAFFIC_METHODS)
    path = original.replace("{id}", str(random.randint(1, 99_999)))
    key = f"{_ORG}{random.randint(0, 199):032x}"
    agent = random.choice(_AGENTS)
    upstream = min(int(random.lognormvariate(3.5, 0.9)), 30_000)
    gateway = random.randint(0, 4)
    request = (
        f"{method} {listen.rstrip('/')}{path} HTTP/1.1\r\nHost: api.example.com\r\n"
        f"User-Agent: {agent}\r\nAuthorization: Bearer {random.getrandbits(96):x}\r\n"
        "Accept: application/json\r\n\r\n"
    )
    body = (
        f'{{"id":{random.getrandbits(32)},"status":"{"x" * random.randint(20, 180)}"}}'
    )
    response = (
        f"HTTP/1.1 {code} X\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    )
    now = datetime.now(UTC)
    record = AnalyticsRecord(
        method=method,
        host="api.example.com",
        path=path,
        raw_path=path,
        content_length=random.randint(0, 4096) if method != "GET" else 0,
        user_agent=agent,
        response_code=code,
        api_key=key,
        api_version="Non Versioned",
        api_name=name,
        api_id=api_id,
        org_id=_ORG,
        request_time=upstream + gateway,
        raw_request=base64.b64encode(request.encode()).decode(),
        raw_response=base64.b64encode(response.encode()).decode(),
        ip_address=f"198.51.100.{random.randint(1, 254)}",
        geo=Geo(
            Country(iso),
            City(geoname, {"en": city}),
            Location(latitude, longitude, zone),
        ),
        network=Network(
            random.randint(1, 40),
            random.randint(0, 40),
            random.randint(100, 9_000),
            random.randint(100, 90_000),
        ),
        latency=Latency(upstream + gateway, upstream, gateway),
        tags=[f"key-{key}", f"org-{_ORG}", f"api-{api_id}"],
        alias=random.choice(("", "mobile-app", "partner-eu")),
        track_path=random.random() < 0.2,
        original_path=original,
        listen_path=listen,
    )
    _stamp(record, now)
    record.expire_at = (record.timestamp[0] + 7 * 86_400, record.timestamp[1])
    return record
