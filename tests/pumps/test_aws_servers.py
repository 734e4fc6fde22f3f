"""Kinesis and SQS as other programs imitate them: moto, ElasticMQ, kinesalite."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.pumps.config import opened as opened_from
from tests.servers import elasticmq as queues
from tests.servers.elasticmq import ElasticMq
from tests.servers.kinesalite import Kinesalite
from tests.servers.moto import ACCOUNT, REGION, Moto
from tyk_pump.errors import RejectedRecords, TransientError
from tyk_pump.pumps.protocol import Batch, Pump
from tyk_pump.record.analytics import AnalyticsRecord

pytestmark = pytest.mark.usefixtures("no_aws")
STREAM = "01JZZZZZZZZZZZZZZZZZZZZZZZ"
KEYS = {"aws_key": "test", "aws_secret": "test"}
Open = Callable[..., Pump]
CONTENT_IDS = {"FifoQueue": "true", "ContentBasedDeduplication": "true"}
OWN_IDS = {"FifoQueue": "true", "ContentBasedDeduplication": "false"}


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Open pumps, and close them at last."""
    made: list[Pump] = []

    def make(kind: str, **meta: Any) -> Pump:
        made.append(opened_from(tmp_path, kind, KEYS | meta))
        return made[-1]

    yield make
    for pump in made:
        pump.close()


@pytest.fixture
def kinesis(moto: Moto) -> Iterator[Any]:
    """AWS's client of moto's streams; one is called tyk."""
    client = moto.client("kinesis")
    client.create_stream(StreamName="tyk", ShardCount=3)
    yield client
    client.close()


@pytest.fixture
def sqs(elasticmq: ElasticMq) -> Iterator[Any]:
    """AWS's client of ElasticMQ's queues."""
    client = elasticmq.client()
    yield client
    client.close()


def batch(*records: AnalyticsRecord) -> Batch:
    """Return these records as a run."""
    return Batch(STREAM, 0, "list", range(len(records)), records)


def numbered(count: int, **fields: Any) -> list[AnalyticsRecord]:
    """Return records that are known by their alias."""
    return [AnalyticsRecord(alias=f"n{number:04}", **fields) for number in range(count)]


def records(client: Any, stream: str = "tyk") -> list[Any]:
    """Return what stands in all shards of a stream."""
    found: list[Any] = []
    about = client.describe_stream(StreamName=stream)["StreamDescription"]
    for shard in about["Shards"]:
        at = client.get_shard_iterator(
            StreamName=stream,
            ShardId=shard["ShardId"],
            ShardIteratorType="TRIM_HORIZON",
        )["ShardIterator"]
        while part := client.get_records(ShardIterator=at, Limit=10_000):
            found += part["Records"]
            if not part["Records"] or not part.get("NextShardIterator"):
                break
            at = part["NextShardIterator"]
    return found


def messages(client: Any, url: str) -> list[str]:
    """Take all messages off a queue; return their aliases."""
    found: list[Any] = []
    while got := client.receive_message(QueueUrl=url, MaxNumberOfMessages=10):
        if not got.get("Messages"):
            return found
        for message in got["Messages"]:
            found.append(json.loads(message["Body"])["alias"])
            handle = message["ReceiptHandle"]
            client.delete_message(QueueUrl=url, ReceiptHandle=handle)
    return found


def at_moto(moto: Moto, **meta: Any) -> dict[str, Any]:
    """Return where moto's stream is."""
    return {
        "stream_name": "tyk",
        "region": REGION,
        "aws_endpoint": moto.url,
        "batch_size": 500,
        **meta,
    }


def test_records_in_moto(moto: Moto, kinesis: Any, opened: Open) -> None:
    """All are there, spread over the shards, each with its id."""
    opened("kinesis", **at_moto(moto)).write(batch(*numbered(1200)))
    found = {record["PartitionKey"]: record["Data"] for record in records(kinesis)}
    assert len(found) == 1200
    for position in range(1200):
        data = json.loads(found[f"{STREAM}:{position}"])
        assert data["alias"] == f"n{position:04}" and len(data) == 20


def test_a_large_record_in_moto(moto: Moto, kinesis: Any, opened: Open) -> None:
    """It refuses the whole request; the others arrive."""
    given = numbered(50)
    given[20].raw_request = "x" * 1_200_000
    with pytest.raises(RejectedRecords) as caught:
        opened("kinesis", **at_moto(moto)).write(batch(*given))
    assert list(caught.value.rejected) == [20] and len(records(kinesis)) == 49


def test_a_stream_that_comes_later(moto: Moto, opened: Open) -> None:
    """Until then the records are held."""
    pump = opened("kinesis", **at_moto(moto))
    with pytest.raises(TransientError, match="ResourceNotFoundException"):
        pump.write(batch(*numbered(3)))
    client = moto.client("kinesis")
    client.create_stream(StreamName="tyk", ShardCount=1)
    pump.write(batch(*numbered(3)))
    assert len(records(client)) == 3
    assert pump.probe() == "stream tyk in eu-west-1 is ACTIVE"
    client.close()


def test_records_in_kinesalite(kinesalite: Kinesalite, opened: Open) -> None:
    """Of a request that it refuses for one record the others arrive."""
    client = kinesalite.client()
    client.create_stream(StreamName="tyk", ShardCount=2)
    client.get_waiter("stream_exists").wait(
        StreamName="tyk", WaiterConfig={"Delay": 0.05}
    )
    given = numbered(700)
    given[333].raw_request = "x" * 1_100_000
    pump = opened(
        "kinesis",
        stream_name="tyk",
        region=REGION,
        aws_endpoint=kinesalite.url,
        batch_size=500,
    )
    with pytest.raises(RejectedRecords, match="less than or equal to") as caught:
        pump.write(batch(*given))
    assert list(caught.value.rejected) == [333]
    found = [json.loads(record["Data"])["alias"] for record in records(client)]
    assert sorted(found) == [f"n{n:04}" for n in range(700) if n != 333]
    client.close()


def test_encryption_at_moto(
    moto: Moto, kinesis: Any, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alias and ARN of one key are the same."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", moto.url)
    kms = moto.client("kms")
    key = kms.create_key()["KeyMetadata"]
    kms.create_alias(AliasName="alias/tyk", TargetKeyId=key["KeyId"])
    kms.close()
    opened("kinesis", **at_moto(moto, kms_key_id="alias/tyk"))
    about = kinesis.describe_stream(StreamName="tyk")["StreamDescription"]
    assert (about["EncryptionType"], about["KeyId"]) == ("KMS", "alias/tyk")
    for name in ("alias/tyk", key["KeyId"], key["Arn"]):
        opened("kinesis", **at_moto(moto, kms_key_id=name)).write(batch(*numbered(1)))
    assert len(records(kinesis)) == 3


def test_a_role_of_moto(
    moto: Moto, kinesis: Any, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """STS as botocore asks it."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", moto.url)
    role = f"arn:aws:iam::{ACCOUNT}:role/tyk"
    pump = opened("kinesis", **at_moto(moto, aws_role_arn=role))
    pump.write(batch(*numbered(2)))
    assert len(records(kinesis)) == 2


def test_messages_in_moto(moto: Moto, opened: Open) -> None:
    """Without a batch limit, too, which never ends in the reference."""
    client = moto.client("sqs")
    url = client.create_queue(QueueName="tyk")["QueueUrl"]
    pump = opened("sqs", aws_queue_name="tyk", aws_region=REGION, aws_endpoint=moto.url)
    pump.write(batch(*numbered(25)))
    assert messages(client, url) == [f"n{number:04}" for number in range(25)]
    client.close()


def at_queue(server: ElasticMq, name: str, **meta: Any) -> dict[str, Any]:
    """Return where a queue is."""
    return {
        "aws_queue_name": name,
        "aws_region": queues.REGION,
        "aws_endpoint": server.url,
        **meta,
    }


def test_messages_in_elasticmq(elasticmq: ElasticMq, sqs: Any, opened: Open) -> None:
    """All are there, over several requests side by side."""
    url = sqs.create_queue(QueueName="tyk")["QueueUrl"]
    pump = opened("sqs", **at_queue(elasticmq, "tyk", workers=3))
    assert pump.probe() == "queue tyk in elasticmq is there"
    pump.write(batch(*numbered(105)))
    assert sorted(messages(sqs, url)) == [f"n{number:04}" for number in range(105)]


def test_large_messages_in_elasticmq(
    elasticmq: ElasticMq, sqs: Any, opened: Open
) -> None:
    """It takes 256 KiB, for a request and for a message."""
    url = sqs.create_queue(QueueName="tyk")["QueueUrl"]
    given = numbered(20, raw_request="x" * 60_000)
    given[7].raw_request = "x" * 300_000
    with pytest.raises(RejectedRecords, match="MessageTooLong") as caught:
        opened("sqs", **at_queue(elasticmq, "tyk")).write(batch(*given))
    assert list(caught.value.rejected) == [7]
    wanted = [f"n{number:04}" for number in range(20) if number != 7]
    assert sorted(messages(sqs, url)) == wanted


def test_odd_characters_in_elasticmq(
    elasticmq: ElasticMq, sqs: Any, opened: Open
) -> None:
    """It refuses what XML cannot hold."""
    url = sqs.create_queue(QueueName="tyk")["QueueUrl"]
    text = "\x00\x0b\x1f\x7f\ufffe\uffff\U0001fffe"
    opened("sqs", **at_queue(elasticmq, "tyk")).write(
        batch(AnalyticsRecord(alias=text))
    )
    assert messages(sqs, url) == [text]


def test_order_and_repeats_in_elasticmq(
    elasticmq: ElasticMq, sqs: Any, opened: Open
) -> None:
    """A FIFO queue keeps one group in order, and drops what is sent again."""
    url = sqs.create_queue(QueueName="tyk.fifo", Attributes=OWN_IDS)["QueueUrl"]
    options = at_queue(elasticmq, "tyk.fifo", aws_message_group_id="g")
    for asked in (False, True):
        enabled = {"aws_message_id_deduplication_enabled": asked}
        opened("sqs", **options, **enabled).write(batch(*numbered(35)))
    assert messages(sqs, url) == [f"n{number:04}" for number in range(35)]


def test_groups_in_elasticmq(elasticmq: ElasticMq, sqs: Any, opened: Open) -> None:
    """Without a group the reference's messages are refused, and lost."""
    url = sqs.create_queue(QueueName="tyk.fifo", Attributes=CONTENT_IDS)["QueueUrl"]
    pump = opened("sqs", **at_queue(elasticmq, "tyk.fifo", workers=2))
    pump.write(batch(*numbered(30)))
    assert sorted(messages(sqs, url)) == [f"n{number:04}" for number in range(30)]


def test_elasticmq_that_is_killed(elasticmq: ElasticMq, sqs: Any, opened: Open) -> None:
    """Its queues are gone then; the pump goes on with a new one."""
    sqs.create_queue(QueueName="tyk")
    pump = opened("sqs", **at_queue(elasticmq, "tyk"))
    pump.write(batch(*numbered(3)))
    elasticmq.kill()
    with pytest.raises(TransientError, match="Connection refused"):
        pump.write(batch(*numbered(3)))
    elasticmq.restart()
    with pytest.raises(TransientError, match="QueueDoesNotExist"):
        pump.write(batch(*numbered(3)))
    url = sqs.create_queue(QueueName="tyk")["QueueUrl"]
    pump.write(batch(*numbered(3)))
    assert sorted(messages(sqs, url)) == ["n0000", "n0001", "n0002"]
