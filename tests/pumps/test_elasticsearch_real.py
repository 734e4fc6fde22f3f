"""The elasticsearch pump against real servers: Elasticsearch 6, 7, 8, OpenSearch 2."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.servers import front
from tests.servers.elastic import Elastic, ElasticServer
from tests.servers.front import Front
from tests.servers.tls import Authority
from tests.worker.bench import End, StillClock, run
from tyk_pump import channel
from tyk_pump.config.options import Secret
from tyk_pump.errors import RejectedRecords, TransientError
from tyk_pump.pumps.elasticsearch import (
    BulkConfig,
    ElasticsearchOptions,
    ElasticsearchPump,
)
from tyk_pump.pumps.protocol import Batch
from tyk_pump.record import wire
from tyk_pump.record.analytics import AnalyticsRecord

MODERN = ["elasticsearch7", "elasticsearch8", "opensearch"]
ALL = ["elasticsearch6", *MODERN]
NOON = 1_741_176_000  # 2025-03-05, 12:00 UTC
Nodes = Callable[[str], Elastic]
Open = Callable[..., ElasticsearchPump]


@pytest.fixture
def opened() -> Iterator[Open]:
    """Open pumps; they are closed after the test."""
    with contextlib.ExitStack() as stack:

        def give(url: str, **options: Any) -> ElasticsearchPump:
            pump = ElasticsearchPump(
                ElasticsearchOptions(elasticsearch_url=url, **options)
            )
            pump.open()
            stack.callback(pump.close)
            return pump

        yield give


@pytest.fixture
def index() -> str:
    """A name that no other test has."""
    return f"pump-{uuid.uuid4().hex[:12]}"


def record(number: int, **fields: Any) -> AnalyticsRecord:
    """Return a record that is known by its alias."""
    made = AnalyticsRecord(
        alias=f"n{number}", timestamp=(NOON + number, 5_000_000), tags=["a"]
    )
    for key, value in fields.items():
        setattr(made, key, value)
    return made


def batch(*records: AnalyticsRecord) -> Batch:
    """Return a batch of a stream's beginning."""
    return Batch("S", 0, "list", range(len(records)), records, cursor="ES")


def aliases(node: Elastic, index: str) -> list[str]:
    """Return who is there, in order of the numbers."""
    found = [one["_source"]["alias"] for one in node.documents(index)]
    return sorted(found, key=lambda alias: int(alias[1:]))


def numbered(*numbers: int) -> list[str]:
    """Return aliases."""
    return [f"n{number}" for number in numbers]


@pytest.mark.parametrize("flavour", ALL)
def test_arrives_once(
    elastic_server: Nodes, opened: Open, index: str, flavour: str
) -> None:
    """The server is asked what it is; a repeated batch adds nothing."""
    node = elastic_server(flavour)
    pump = opened(node.url, index_name=index, bulk_config=BulkConfig(bulk_actions=7))
    for _ in range(2):
        pump.write(batch(*map(record, range(20))))
    assert aliases(node, index) == numbered(*range(20))
    found = node.documents(index)
    assert {one["_id"] for one in found} == {f"S:{n}" for n in range(20)}
    type_ = "tyk_analytics" if flavour == "elasticsearch6" else "_doc"
    assert {one.get("_type", "_doc") for one in found} == {type_}


@pytest.mark.parametrize("flavour", ALL)
def test_probe(elastic_server: Nodes, opened: Open, flavour: str) -> None:
    """One line says which server it is."""
    said = opened(elastic_server(flavour).url).probe()
    assert "\n" not in said
    name = "OpenSearch 2." if flavour == "opensearch" else "Elasticsearch"
    assert said.startswith(name)


@pytest.mark.parametrize("flavour", ALL)
@pytest.mark.parametrize("single", [False, True])
def test_refused_documents_have_their_positions(
    elastic_server: Nodes, opened: Open, index: str, flavour: str, single: bool
) -> None:
    """The others are in; the reason is the server's."""
    node = elastic_server(flavour)
    typed = flavour == "elasticsearch6"
    fields = {"properties": {"alias": {"type": "date"}}}
    fields["properties"] = {"api_id": {"type": "integer"}}
    mappings = {"tyk_analytics": fields} if typed else fields
    node.call("PUT", f"/{index}", {"mappings": mappings})
    pump = opened(node.url, index_name=index, disable_bulk=single)
    records = [record(n, api_id="x" if n in (1, 4) else "5") for n in range(6)]
    with pytest.raises(RejectedRecords) as caught:
        pump.write(batch(*records))
    assert list(caught.value.rejected) == [1, 4]
    for reason in caught.value.rejected.values():
        assert "api_id" in reason and "parsing_exception" in reason
        assert 'For input string: "x"' in reason
    assert aliases(node, index) == numbered(0, 2, 3, 5)
    # Once more: those that are in are a conflict, which is as good.
    with pytest.raises(RejectedRecords) as caught:
        pump.write(batch(*records))
    assert list(caught.value.rejected) == [1, 4]


@pytest.mark.parametrize("flavour", ALL)
@pytest.mark.parametrize("single", [False, True])
def test_rolling_by_the_records_day(
    elastic_server: Nodes, opened: Open, index: str, flavour: str, single: bool
) -> None:
    """An index per day; MCP records in theirs."""
    node = elastic_server(flavour)
    pump = opened(
        node.url,
        index_name=index,
        mcp_index_name=f"{index}-mcp",
        rolling_index=True,
        disable_bulk=single,
    )
    records = [record(n, timestamp=(NOON + n * 86_400, 0)) for n in range(3)]
    records[1].mcp_stats.is_mcp = True
    pump.write(batch(*records))
    assert [name for name in node.indices() if name.startswith(index)] == [
        f"{index}-2025.03.05",
        f"{index}-2025.03.07",
        f"{index}-mcp-2025.03.06",
    ]


@pytest.mark.parametrize("flavour", ALL)
def test_template(
    elastic_server: Nodes, opened: Open, index: str, flavour: str
) -> None:
    """It shapes the index; one that is there already is left alone."""
    node = elastic_server(flavour)
    options = {"index_name": index, "index_template": True, "rolling_index": True}
    settings = {"number_of_shards": 2}
    pump = opened(node.url, index_template_settings=settings, **options)
    opened(node.url, index_template_settings={"number_of_shards": 3}, **options)
    pump.write(batch(record(0)))
    (made,) = node.call("GET", f"/{index}-2025.03.05").values()
    assert made["settings"]["index"]["number_of_shards"] == "2"
    mappings = made["mappings"].get("tyk_analytics", made["mappings"])
    kinds = {key: value["type"] for key, value in mappings["properties"].items()}
    assert kinds["@timestamp"] == "date" and kinds["response_code"] == "long"
    assert kinds["api_id"] == kinds["tags"] == "keyword"
    assert kinds["raw_request"] == "text"


@pytest.mark.parametrize("flavour", MODERN)
def test_generated_ids(
    elastic_server: Nodes, opened: Open, index: str, flavour: str
) -> None:
    """The same content is one document, wherever it stands in the stream."""
    node = elastic_server(flavour)
    pump = opened(node.url, index_name=index, generate_id=True)
    pump.write(batch(record(0), record(1), record(0)))
    pump.write(batch(record(1), record(2)))
    assert aliases(node, index) == numbered(0, 1, 2)
    assert len(node.documents(index)) == 3


@pytest.mark.parametrize("flavour", ["elasticsearch7", "elasticsearch6", "opensearch"])
def test_sniffing(
    elastic_server: Nodes, opened: Open, index: str, flavour: str
) -> None:
    """The nodes that the cluster names are the ones that are used."""
    node = elastic_server(flavour)
    pump = opened(f"http://localhost:{node.port}", index_name=index, use_sniffing=True)
    assert pump._cluster.urls == [f"http://127.0.0.1:{node.port}"]
    pump.write(batch(record(0)))
    assert aliases(node, index) == numbered(0)


@pytest.mark.parametrize("flavour", ["elasticsearch8", "opensearch"])
@pytest.mark.parametrize("single", [False, True])
def test_wrong_version_is_nobody_elses_fault(
    elastic_server: Nodes, opened: Open, index: str, flavour: str, single: bool
) -> None:
    """No record is refused because the operator named another server's version."""
    pump = opened(
        elastic_server(flavour).url, index_name=index, version="5", disable_bulk=single
    )
    with pytest.raises(TransientError) as caught:
        pump.write(batch(record(0), record(1)))
    assert caught.value.rejected == {} and caught.value.pending == [0, 1]
    assert single or "see `version`" in caught.value.reason


def test_missing_type_is_nobody_elses_fault(
    elastic_server: Nodes, opened: Open, index: str
) -> None:
    """Elasticsearch 6 wants a type, which version 7 does not send."""
    node = elastic_server("elasticsearch6")
    with pytest.raises(TransientError, match="see `version`"):
        opened(node.url, index_name=index, version="7").write(batch(record(0)))


@pytest.mark.parametrize("flavour", MODERN)
@pytest.mark.parametrize("single", [False, True])
def test_operators_faults_keep_the_records(
    elastic_server: Nodes, opened: Open, index: str, flavour: str, single: bool
) -> None:
    """A closed or read-only index, a bad name, an alias without a write index."""
    node = elastic_server(flavour)

    def reason(name: str) -> str:
        pump = opened(node.url, index_name=name, disable_bulk=single)
        with pytest.raises(TransientError) as caught:
            pump.write(batch(record(0), record(1)))
        assert caught.value.rejected == {} and caught.value.pending == [0, 1]
        return caught.value.reason

    for name in (f"{index}-1", f"{index}-2"):
        node.call("PUT", f"/{name}", {"aliases": {f"{index}-alias": {}}})
    assert "write index" in reason(f"{index}-alias")
    node.call("POST", f"/{index}-1/_close")
    assert "closed" in reason(f"{index}-1")
    node.call("PUT", f"/{index}-2/_settings", {"index.blocks.write": True})
    assert "block" in reason(f"{index}-2")
    assert "invalid_index_name" in reason(f"{index}-UPPER")


@pytest.mark.parametrize("flavour", ["elasticsearch8"])
def test_elastics_own_media_types(
    elastic_server: Nodes, opened: Open, index: str, flavour: str
) -> None:
    """They are asked for by `compatible_with`; a version it has not is said."""
    node = elastic_server(flavour)
    opened(node.url, index_name=index, compatible_with=8).write(batch(record(0)))
    assert aliases(node, index) == numbered(0)
    with pytest.raises(TransientError, match="media_type"):
        opened(node.url, index_name=index, version="9", compatible_with=3).write(
            batch(record(0))
        )


def test_credentials_through_tls(
    elastic_server: Nodes,
    make_front: Callable[..., Front],
    authority: Authority,
    opened: Open,
    index: str,
) -> None:
    """Basic, API key and encoded key; wrong ones are said and lose nothing."""
    node = elastic_server("elasticsearch7")
    known = [front.basic("user", "p:w"), front.api_key("id", "key")]
    url = make_front(node.port, *known).url
    tls = {"use_ssl": True, "ssl_ca_file": str(authority.ca_file)}
    ways: list[dict[str, Any]] = [
        {"auth_basic_username": "user", "auth_basic_password": Secret("p:w")},
        {"auth_api_key_id": "id", "auth_api_key": Secret("key")},
        {"auth_api_key_encoded": Secret(known[1].removeprefix("ApiKey "))},
    ]
    for number, way in enumerate(ways):
        pump = opened(url, index_name=index, **tls, **way)
        one = batch(record(number))
        one.positions = [number]
        pump.write(one)
    inside = url.replace("https://", "https://user:p%3Aw@")
    assert opened(inside, index_name=index, **tls).probe()
    assert aliases(node, index) == numbered(0, 1, 2)
    wrong = {"auth_api_key_id": "id", "auth_api_key": Secret("another")}
    with pytest.raises(TransientError, match="401") as caught:
        opened(url, index_name=index, version="7", **tls, **wrong).write(
            batch(record(0))
        )
    assert "another" not in caught.value.reason
    with pytest.raises(TransientError, match="401"):
        opened(url, index_name=index, **tls, **wrong)


def test_client_certificate(
    elastic_server: Nodes,
    make_front: Callable[..., Front],
    authority: Authority,
    opened: Open,
    index: str,
) -> None:
    """Shown when configured; the pump beside it has none of it."""
    node = elastic_server("elasticsearch7")
    url = make_front(node.port, client_certificate=True).url
    cert, key = authority.client()
    tls = {"use_ssl": True, "ssl_ca_file": str(authority.ca_file), "version": "7"}
    own = {"ssl_cert_file": str(cert), "ssl_key_file": str(key)}
    pump = opened(url, index_name=index, **tls, **own)
    other = opened(url, index_name=index, **tls)
    pump.write(batch(record(0)))
    with pytest.raises((TransientError, RejectedRecords)):
        other.write(batch(record(1)))
    assert aliases(node, index) == numbered(0)


class KillsOnce(StillClock):
    """Starts the server again when the worker first waits."""

    def __init__(self, revive: Callable[[], None]) -> None:
        super().__init__()
        self._revive: Callable[[], None] | None = revive

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        if self._revive is not None:
            revive, self._revive = self._revive, None
            revive()


def test_killed_in_the_middle_of_a_batch(
    make_elastic: Callable[..., ElasticServer], opened: Open, index: str
) -> None:
    """The server dies between two requests: nothing is lost and nothing twice."""
    node = make_elastic("elasticsearch7")
    pump = opened(node.url, index_name=index, bulk_config=BulkConfig(bulk_actions=50))
    post, requests = pump._cluster.post_bulk, 0

    def dying(part: Any) -> None:
        nonlocal requests
        requests += 1
        post(part)
        if requests == 4:
            # It has taken the part, and its answer is lost.
            node.kill()
            raise TransientError("connection reset")

    pump._cluster.post_bulk = dying  # type: ignore[method-assign]
    raws = [wire.pack(record(number)) for number in range(400)]
    frames = [channel.encode_frame("S", "analytics", "msgpack", 0, None, raws)]
    end = run(pump, frames, clock=KillsOnce(node.start), end=End(frames))
    assert [done.delivered for done in end.outcomes] == [400]
    assert aliases(node, index) == numbered(*range(400))


def test_data_stream(elastic_server: Nodes, opened: Open, index: str) -> None:
    """Made by the template; a repeated batch adds nothing to it."""
    node = elastic_server("opensearch")
    pump = opened(node.url, index_name=index, data_stream=True, index_template=True)
    for _ in range(2):
        pump.write(batch(*map(record, range(5))))
    assert aliases(node, index) == numbered(*range(5))
    (stream,) = node.call("GET", f"/_data_stream/{index}")["data_streams"]
    assert stream["name"] == index
