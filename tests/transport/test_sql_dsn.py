"""Connection strings in the forms that the reference takes."""

from __future__ import annotations

from typing import Any

import pytest

from tyk_pump.transport import sql_dsn
from tyk_pump.transport.sql_dsn import DsnError, MySql


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("host=h port=5 dbname=d", {"host": "h", "port": "5", "dbname": "d"}),
        (
            r"password='a b\'c\\' user = u",
            {"password": "a b'c\\", "user": "u"},
        ),
        (r"password=a\ b", {"password": "a b"}),
        ("user=u password=", {"user": "u", "password": ""}),
        ("database=d", {"dbname": "d"}),
        (
            "host=h TimeZone=Asia/Kolkata",
            {"host": "h", "options": "-c TimeZone=Asia/Kolkata"},
        ),
        ("time_zone=UTC", {"options": "-c TimeZone=UTC"}),
        (
            "options='-c a=b' search_path='x, y'",
            {"options": r"-c a=b -c search_path=x,\ y"},
        ),
        ("statement_cache_capacity=0 pool_max_conns=4 host=h", {"host": "h"}),
        (
            "postgres://u:p%40w@h/d?sslmode=disable&TimeZone=UTC",
            {
                "user": "u",
                "password": "p@w",
                "host": "h",
                "dbname": "d",
                "sslmode": "disable",
                "options": "-c TimeZone=UTC",
            },
        ),
        (
            "postgresql://h1:1,h2:2/d?target_session_attrs=read-write",
            {
                "host": "h1,h2",
                "port": "1,2",
                "dbname": "d",
                "target_session_attrs": "read-write",
            },
        ),
    ],
)
def test_postgres(text: str, expected: dict[str, str]) -> None:
    """Keys of libpq stay, others are settings of the session."""
    assert sql_dsn.postgres(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/", {}),
        ("/d", {"database": "d"}),
        ("u@/d%2Fe", {"user": "u", "database": "d/e"}),
        (
            "u:p:w@x/y@tcp(h:33)/d",
            {
                "user": "u",
                "password": "p:w@x/y",
                "host": "h",
                "port": 33,
                "database": "d",
            },
        ),
        ("tcp(h)/d", {"host": "h", "database": "d"}),
        ("tcp([fe80::1]:33)/", {"host": "fe80::1", "port": 33}),
        (
            "unix(/run/s.sock)/d",
            {"host": "", "port": 0, "socket": "/run/s.sock", "database": "d"},
        ),
        ("/?parseTime=True&charset=utf8mb4,utf8&loc=Local", {"loc": ""}),
        ("/?loc=America%2FNew_York", {"loc": "America/New_York"}),
        (
            "/?tls=skip-verify&timeout=1m30s&readTimeout=500ms",
            {"tls": "skip-verify", "timeout": 90.0, "read_timeout": 0.5},
        ),
        ("/?time_zone=%27%2B00%3A00%27", {"variables": (("time_zone", "'+00:00'"),)}),
    ],
)
def test_mysql(text: str, expected: dict[str, Any]) -> None:
    """As the reference's driver reads them."""
    assert sql_dsn.mysql(text) == MySql(**expected)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("s3cret", "slash"),
        ("u:s3cret@tcp[h]/d", "address"),
        ("u:s3cret@tcp(h:x)/d", "host:port"),
        ("u:s3cret@udp(h)/d", "protocol"),
        ("u:s3cret@/d?loc=s3cret", "zone"),
        ("u:s3cret@/d?tls=s3cret", "tls"),
        ("u:s3cret@/d?timeout=s3cret", "duration"),
        ("u:s3cret@/d?a;b=s3cret", "name"),
    ],
)
def test_faults_of_mysql(text: str, reason: str) -> None:
    """Each says what is wrong, and shows nothing of the string."""
    with pytest.raises(DsnError, match=reason) as found:
        sql_dsn.mysql(text)
    assert "s3cret" not in str(found.value)


@pytest.mark.parametrize(
    "text",
    ["s3cret", "host=h password='s3cret", "host=h s3cret", "postgres://u:s3cret@[h/d"],
)
def test_faults_of_postgres(text: str) -> None:
    """Nothing of the string is shown."""
    with pytest.raises(DsnError) as found:
        sql_dsn.postgres(text)
    assert "s3cret" not in str(found.value)


def test_the_password_is_not_in_a_representation() -> None:
    """Neither is anything else that a log need not have."""
    assert "s3cret" not in repr(sql_dsn.mysql("u:s3cret@tcp(h)/d"))
