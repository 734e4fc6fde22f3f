"""What the logzio pump's options do, and what it makes of answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.servers.http import Answer, HttpServer
from tests.servers.logzio import TOKEN, Listener
from tests.servers.tls import Authority
from tyk_pump.config.options import Secret
from tyk_pump.errors import RejectedRecords, TransientError
from tyk_pump.pumps.logzio import LINE_BYTES, LogzioOptions, LogzioPump
from tyk_pump.pumps.protocol import Batch
from tyk_pump.record.analytics import AnalyticsRecord

TIME = (1_741_183_629, 0)


def opened(server: HttpServer, **options: Any) -> LogzioPump:
    """Return an open pump that writes to a listener."""
    given = {"token": Secret(TOKEN), "url": server.url, **options}
    pump = LogzioPump(LogzioOptions(**given))
    pump.open()
    return pump


def batch(*records: AnalyticsRecord) -> Batch:
    """Return a batch of these."""
    for record in records:
        record.timestamp = TIME
    return Batch("S", 0, "analytics", range(len(records)), list(records))


def names(server: Listener) -> Sequence[object]:
    """Return the names of what has arrived."""
    return [document["api_name"] for document in server.documents]


def test_type_and_compression_are_options() -> None:
    """The log type goes into the query, the body may be gzipped."""
    with Listener() as server:
        pump = opened(server, log_type="tyk pump", gzip=True)
        pump.write(batch(AnalyticsRecord(api_name="a")))
        pump.close()
        (request,) = server.requests
        assert request.query == {"token": TOKEN, "type": "tyk pump"}
        assert request.headers["content-encoding"] == "gzip"
        assert names(server) == ["a"]


def test_a_token_with_odd_characters() -> None:
    """It arrives as it is."""
    with Listener() as server:
        server.token = "a&b=c/d é"
        pump = opened(server, token=Secret(server.token))
        pump.write(batch(AnalyticsRecord(api_name="a")))
        pump.close()
        assert names(server) == ["a"]


def test_a_wrong_token_holds_the_records() -> None:
    """They wait for the right one, and the token is not in the reason."""
    with Listener() as server:
        pump = opened(server, token=Secret("wr0ng"))
        with pytest.raises(TransientError, match="401 Unauthorized") as caught:
            pump.write(batch(AnalyticsRecord(), AnalyticsRecord()))
        assert caught.value.pending == [0, 1]
        assert "wr0ng" not in str(caught.value)
        with pytest.raises(TransientError, match="401"):
            pump.probe()
        pump.close()


def test_refused_lines_are_found() -> None:
    """The listener only counts them; halving finds which they are."""
    with Listener() as server:
        pump = opened(server)
        records = [AnalyticsRecord(api_name=f"{n}") for n in range(9)]
        records[2].path = records[7].path = "/unfit"
        with pytest.raises(RejectedRecords) as caught:
            pump.write(batch(*records))
        pump.close()
        assert sorted(caught.value.rejected) == [2, 7]
        assert "malformedLines" in caught.value.rejected[2]
        assert set(names(server)) == set("013456" + "8")


def test_a_line_beyond_the_limit_is_refused_before_it_is_sent() -> None:
    """With its size in the reason; the others arrive."""
    with Listener() as server:
        pump = opened(server)
        long = AnalyticsRecord(raw_response="x" * LINE_BYTES)
        with pytest.raises(RejectedRecords, match="too large: 500") as caught:
            pump.write(batch(AnalyticsRecord(api_name="a"), long))
        pump.close()
        assert list(caught.value.rejected) == [1]
        assert names(server) == ["a"]


def test_a_way_that_takes_less_is_learnt() -> None:
    """Something before the listener answers 413: smaller bodies go, and stay small."""
    with Listener() as server:

        def narrow(request: Any) -> Answer:
            return Answer(413) if len(request.raw) > 3000 else server.listen(request)

        server.respond = narrow
        pump = opened(server)
        records = [AnalyticsRecord(api_name=f"{n}") for n in range(40)]
        pump.write(batch(*records))
        refused = len([r for r in server.requests if len(r.raw) > 3000])
        pump.write(batch(*records))
        pump.close()
        assert names(server) == [f"{n}" for n in range(40)] * 2
        assert len([r for r in server.requests if len(r.raw) > 3000]) == refused


def test_throttling_says_how_long() -> None:
    """Retry-After reaches the worker."""
    busy = Answer(429, b"slow down", {"Retry-After": "7"})
    with HttpServer(lambda request: busy) as server:
        pump = opened(server)
        with pytest.raises(TransientError, match="429") as caught:
            pump.write(batch(AnalyticsRecord()))
        pump.close()
        assert caught.value.retry_after == 7


def test_probe_sends_no_line(authority: Authority) -> None:
    """It says in one line what it found."""
    with Listener(authority) as server:
        pump = opened(server, ssl_ca_file=str(authority.ca_file))
        assert pump.probe() == f"{server.url} takes the token (200 OK)"
        pump.close()
        assert server.documents == []


def test_faults_name_the_option() -> None:
    """A missing token and an address that is none."""
    options = LogzioOptions(url="listener.logz.io:8071")
    assert [key for key, _ in options.faults()] == ["token", "url"]
