"""What the sqs pump's options do, and what it makes of answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.pumps.config import loaded
from tests.pumps.config import opened as opened_from
from tests.servers.aws import KEY, REGION, SECRET, Aws, Wrong
from tyk_pump.config.load import load
from tyk_pump.errors import RejectedRecords, TransientError
from tyk_pump.pumps.protocol import Batch, Pump
from tyk_pump.record.analytics import AnalyticsRecord

pytestmark = pytest.mark.usefixtures("no_aws")
STREAM = "01JZZZZZZZZZZZZZZZZZZZZZZZ"
FIFO = "tyk.fifo"
Open = Callable[..., Pump]


@pytest.fixture
def server() -> Iterator[Aws]:
    """SQS with two queues."""
    with Aws() as made:
        made.queues[FIFO] = []
        made.attributes[FIFO] = {"ContentBasedDeduplication": "true"}
        yield made


@pytest.fixture
def opened(server: Aws, tmp_path: Path) -> Iterator[Open]:
    """Open pumps that write to the server, and close them at last."""
    made: list[Pump] = []

    def make(queue: str = "tyk", **meta: Any) -> Pump:
        given = {
            "aws_queue_name": queue,
            "aws_region": REGION,
            "aws_key": KEY,
            "aws_secret": SECRET,
            "aws_endpoint": server.url,
        }
        made.append(opened_from(tmp_path, "sqs", given | meta))
        return made[-1]

    yield make
    for pump in made:
        pump.close()


def batch(*records: AnalyticsRecord, first: int = 0) -> Batch:
    """Return these records as a run."""
    return Batch(STREAM, 0, "list", range(first, first + len(records)), records)


def named(*names: str) -> Batch:
    """Return records with these aliases."""
    return batch(*(AnalyticsRecord(alias=name) for name in names))


def aliases(server: Aws, queue: str = "tyk") -> list[str]:
    """Return what has arrived."""
    return [json.loads(entry["MessageBody"])["alias"] for entry in server.queues[queue]]


def failing(**codes: str) -> Callable[[str], str]:
    """Return what fails messages of these aliases."""
    return lambda text: codes.get(json.loads(text)["alias"], "")


@pytest.mark.parametrize(
    ("limit", "sizes"),
    [
        (None, [10, 10, 3]),
        (0, [10, 10, 3]),
        (-5, [10, 10, 3]),
        (11, [10, 10, 3]),
        (10, [10, 10, 3]),
        (9, [9, 9, 5]),
        (1, [1] * 23),
    ],
)
def test_requests_have_so_many_messages(
    server: Aws,
    opened: Open,
    limit: int | None,
    sizes: list[int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An unset limit never ends in the reference, a negative one crashes it."""
    pump = opened(**({} if limit is None else {"aws_sqs_batch_limit": limit}))
    pump.write(batch(*[AnalyticsRecord() for _ in range(23)]))
    calls = server.calls("SendMessageBatch")
    assert [len(call["Entries"]) for call in calls] == sizes
    assert ("10 counts" in caplog.text) == (limit in (-5, 11))


def test_requests_are_cut_by_bytes(server: Aws, opened: Open) -> None:
    """One large message does not fail its neighbours, nor all later ones."""
    records = [AnalyticsRecord(alias=n, raw_request="x" * 400_000) for n in "abc"]
    records.append(AnalyticsRecord(alias="d", raw_request="x" * 1_100_000))
    records.append(AnalyticsRecord(alias="e"))
    with pytest.raises(RejectedRecords, match="too large: 11009") as caught:
        opened().write(batch(*records))
    assert list(caught.value.rejected) == [3]
    assert aliases(server) == ["a", "b", "c", "e"]
    sizes = [len(call["Entries"]) for call in server.calls("SendMessageBatch")]
    assert sizes == [2, 2]


def test_a_queue_for_smaller_messages(server: Aws, opened: Open) -> None:
    """Its limit is learnt from its refusals; what is beyond it is known alone."""
    server.largest_message = 256 * 1024
    records = [
        AnalyticsRecord(alias=str(n), raw_request="x" * 50_000) for n in "abcdef"
    ]
    records[2].raw_request = "x" * 300_000
    with pytest.raises(RejectedRecords, match="BatchRequestTooLong") as caught:
        opened().write(batch(*records))
    assert list(caught.value.rejected) == [2]
    assert sorted(aliases(server)) == ["a", "b", "d", "e", "f"]


def test_failed_messages_are_known(server: Aws, opened: Open) -> None:
    """In an answer with status 200; the reference does not look at them."""
    server.fails = failing(
        b="InternalError",
        d="InvalidMessageContents",
        e="AWS.SimpleQueueService.InvalidMessageContents",
        f="KMS.AccessDeniedException",
    )
    with pytest.raises(TransientError, match="InternalError: InternalErr") as caught:
        opened(aws_sqs_batch_limit=4).write(named("a", "b", "c", "d", "e", "f", "g"))
    assert caught.value.pending == [1, 5]
    assert list(caught.value.rejected) == [3, 4]
    assert aliases(server) == ["a", "c", "g"]


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"Successful": [], "Failed": []},
        {"Successful": [{"Id": "x"}]},
        {"Successful": [{}]},
        {"Successful": [7]},
        {"Successful": 7},
    ],
)
def test_an_answer_that_names_nothing(
    server: Aws, opened: Open, monkeypatch: pytest.MonkeyPatch, answer: Any
) -> None:
    """Says nothing of the message, which is held."""
    monkeypatch.setattr(server, "_SendMessageBatch", lambda asked: answer)
    with pytest.raises(TransientError, match=r"127.*SendMessageBatch") as caught:
        opened().write(named("a"))
    assert caught.value.pending == [0]


def test_a_wrong_checksum_holds_the_message(
    server: Aws, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That one alone."""
    usual = server._SendMessageBatch

    def spoilt(asked: Any) -> Any:
        answer = usual(asked)
        answer["Successful"][1]["MD5OfMessageBody"] = "0" * 32
        return answer

    monkeypatch.setattr(server, "_SendMessageBatch", spoilt)
    with pytest.raises(TransientError, match="another checksum") as caught:
        opened().write(named("a", "b", "c"))
    assert caught.value.pending == [1]


def test_every_character_of_a_record_can_be_sent(server: Aws, opened: Open) -> None:
    """SQS refuses what XML cannot hold; JSON can say it in another way."""
    text = "".join(map(chr, range(0x20))) + "\x7f\ufffe\uffff\ufffd\U0001fffe<&>"
    opened().write(named(text))
    assert aliases(server) == [text]


def test_the_first_error_ends_nothing_for_good(server: Aws, opened: Open) -> None:
    """What was not sent is pending; the reference drops it."""
    answers = [None, None, Wrong("ServiceUnavailable", "later", 503)]
    server.before = lambda operation, asked: answers.pop(0) if answers else None
    pump = opened(aws_sqs_batch_limit=2)
    with pytest.raises(TransientError, match="ServiceUnavailable: later") as caught:
        pump.write(named("a", "b", "c", "d", "e", "f"))
    assert caught.value.pending == [2, 3, 4, 5]


def test_requests_side_by_side(server: Aws, opened: Open) -> None:
    """As many as there are workers; positions stay exact."""
    server.fails = failing(n7="InternalError", n33="InvalidMessageContents")
    with pytest.raises(TransientError) as caught:
        opened(workers=4).write(named(*(f"n{number}" for number in range(100))))
    assert caught.value.pending == [7] and list(caught.value.rejected) == [33]
    assert len(server.queues["tyk"]) == 98


class TestFifo:
    """Queues whose name ends with `.fifo`."""

    def test_a_group_keeps_the_order(self, server: Aws, opened: Open) -> None:
        """Whatever number of workers there is."""
        names = [f"n{number:02}" for number in range(50)]
        opened(FIFO, aws_message_group_id="g", workers=8).write(named(*names))
        assert aliases(server, FIFO) == names
        assert {e["MessageGroupId"] for e in server.queues[FIFO]} == {"g"}
        assert not any("MessageDeduplicationId" in e for e in server.queues[FIFO])

    def test_without_a_group_each_message_has_its_own(
        self, server: Aws, opened: Open
    ) -> None:
        """Made from the record's id; the reference's requests are refused."""
        opened(FIFO).write(named("a", "b"))
        opened(FIFO).write(named("a", "b"))
        groups = [entry["MessageGroupId"] for entry in server.queues[FIFO]]
        assert groups[0] != groups[1] and groups[:2] == groups[2:]

    def test_a_repeat_is_dropped(self, server: Aws, opened: Open) -> None:
        """Its id is the same, after a restart too."""
        options = {
            "aws_message_group_id": "g",
            "aws_message_id_deduplication_enabled": True,
        }
        opened(FIFO, **options).write(named("a", "b"))
        opened(FIFO, **options).write(named("a", "b"))
        assert aliases(server, FIFO) == ["a", "b"]
        assert "GetQueueAttributes" not in server.operations

    def test_a_queue_that_needs_ids_gets_them(self, server: Aws, opened: Open) -> None:
        """Else every message would be refused."""
        server.attributes[FIFO] = {"ContentBasedDeduplication": "false"}
        pump = opened(FIFO, aws_message_group_id="g")
        pump.write(named("a"))
        pump.write(named("a"))
        assert aliases(server, FIFO) == ["a"]

    def test_the_permission_to_look_is_no_necessary_one(
        self, server: Aws, opened: Open
    ) -> None:
        """The reference has none of it."""
        server.before = lambda operation, asked: (
            Wrong("AccessDeniedException")
            if operation == "GetQueueAttributes"
            else None
        )
        opened(FIFO, aws_message_group_id="g").write(named("a"))
        assert aliases(server, FIFO) == ["a"]


def test_a_delay(server: Aws, opened: Open) -> None:
    """Stands in each entry."""
    opened(aws_delay_seconds=30).write(named("a"))
    assert server.queues["tyk"][0]["DelaySeconds"] == 30


def test_a_group_of_a_usual_queue(server: Aws, opened: Open) -> None:
    """Is sent, as the reference does."""
    opened(aws_message_group_id="g").write(named("a"))
    assert server.queues["tyk"][0]["MessageGroupId"] == "g"


def test_ids_are_made_from_the_records(server: Aws, opened: Open) -> None:
    """26 characters with the time of the stream, the same each time."""
    pump = opened()
    pump.write(batch(AnalyticsRecord(), AnalyticsRecord(), first=7))
    pump.write(batch(AnalyticsRecord(), AnalyticsRecord(), first=7))
    ids = [entry["Id"] for entry in server.queues["tyk"]]
    assert ids[:2] == ids[2:] and ids[0] != ids[1]
    assert all(len(name) == 26 and name.startswith(STREAM[:10]) for name in ids)


def test_a_missing_queue_is_looked_for_again(server: Aws, opened: Open) -> None:
    """The reference is without this pump until its next start."""
    del server.queues["tyk"]
    pump = opened()
    with pytest.raises(TransientError, match="GetQueueUrl: QueueDoesNotExist: "):
        pump.write(named("a"))
    server.queues["tyk"] = []
    pump.write(named("a"))
    del server.queues["tyk"]
    with pytest.raises(TransientError, match="SendMessageBatch: QueueDoesNotExist"):
        pump.write(named("b"))


@pytest.mark.parametrize("answer", [{}, {"QueueUrl": 7}])
def test_a_queue_without_an_address(
    server: Aws, opened: Open, monkeypatch: pytest.MonkeyPatch, answer: Any
) -> None:
    """Holds the records."""
    monkeypatch.setattr(server, "_GetQueueUrl", lambda asked: answer)
    with pytest.raises(TransientError, match="GetQueueUrl names no address"):
        opened().write(named("a"))


def test_a_name_that_the_service_refuses(server: Aws, opened: Open) -> None:
    """Is no record's fault."""
    server.before = lambda operation, asked: Wrong("InvalidParameterValue", "the name")
    with pytest.raises(
        TransientError, match="InvalidParameterValue: the name"
    ) as caught:
        opened().write(named("a"))
    assert caught.value.rejected == {}


def test_probe_looks_the_queue_up(server: Aws, opened: Open) -> None:
    """With the credentials."""
    assert opened().probe() == "queue tyk in eu-west-1 is there"
    with pytest.raises(TransientError, match="UnrecognizedClient"):
        opened(aws_key="AKIDOTHER").probe()


@pytest.mark.parametrize(
    ("meta", "fault"),
    [
        ({}, "aws_queue_name: missing"),
        ({"aws_queue_name": "a.b"}, "aws_queue_name: 'a.b' is no name of a queue"),
        (
            {"aws_queue_name": FIFO, "aws_delay_seconds": 3},
            "aws_delay_seconds: a FIFO queue has no delay",
        ),
        (
            {"aws_queue_name": "a", "aws_message_id_deduplication_enabled": True},
            "aws_message_id_deduplication_enabled: only a FIFO queue",
        ),
        ({"aws_queue_name": "a", "aws_delay_seconds": 901}, "aws_delay_seconds: "),
    ],
)
def test_faults_name_the_option(
    tmp_path: Path, meta: dict[str, Any], fault: str
) -> None:
    """What the service would refuse for every message."""
    faults = loaded(tmp_path, "sqs", meta).every_fault()
    assert any(f"meta.{fault}" in text for text in faults)


@pytest.mark.parametrize("name", ["QUEUENAME", "AWSQUEUENAME"])
def test_the_queue_by_its_variable(tmp_path: Path, name: str) -> None:
    """As the reference reads it, and as its README says."""
    path = tmp_path / "pump.conf"
    path.write_text(json.dumps({"pumps": {"sqs": {"type": "sqs", "meta": {}}}}))
    config = load(str(path), {f"TYK_PMP_PUMPS_SQS_META_{name}": "q"})
    assert config.every_fault() == []
    assert config.pumps[0].options.aws_queue_name == "q"
