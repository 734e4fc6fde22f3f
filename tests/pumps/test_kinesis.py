"""What the kinesis pump's options do, and what it makes of answers."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.pumps.config import loaded
from tests.pumps.config import opened as opened_from
from tests.servers.aws import KEY, REGION, SECRET, Aws, Wrong
from tyk_pump.errors import ConfigError, RejectedRecords, TransientError
from tyk_pump.pumps.protocol import Batch, Pump
from tyk_pump.record.analytics import AnalyticsRecord

pytestmark = pytest.mark.usefixtures("no_aws")
STREAM = "01JZZZZZZZZZZZZZZZZZZZZZZZ"
ARN = "arn:aws:kms:eu-west-1:123456789012:key/"
ALIAS = "arn:aws:kms:eu-west-1:123456789012:alias/"
Open = Callable[..., Pump]


@pytest.fixture
def server() -> Iterator[Aws]:
    """Kinesis and KMS."""
    with Aws() as made:
        yield made


@pytest.fixture
def opened(
    server: Aws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Open]:
    """Open pumps that write to the server's stream, and close them at last."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", server.url)
    made: list[Pump] = []

    def make(**meta: Any) -> Pump:
        given = {
            "stream_name": "tyk",
            "region": REGION,
            "aws_key": KEY,
            "aws_secret": SECRET,
            "aws_endpoint": server.url,
        }
        made.append(opened_from(tmp_path, "kinesis", given | meta))
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


def aliases(server: Aws) -> list[str]:
    """Return what has arrived."""
    return [json.loads(record.data)["alias"] for record in server.streams["tyk"]]


def failing(**codes: str) -> Callable[[str], str]:
    """Return what fails records of these aliases."""
    return lambda text: codes.get(json.loads(text)["alias"], "")


def test_partition_keys_are_the_records_ids(server: Aws, opened: Open) -> None:
    """The same each time, so that consumers can drop repeats."""
    pump = opened()
    for _ in range(2):
        pump.write(batch(AnalyticsRecord(), AnalyticsRecord(), first=7))
    keys = [record.key for record in server.streams["tyk"]]
    assert keys == [f"{STREAM}:7", f"{STREAM}:8"] * 2


@pytest.mark.parametrize(
    ("option", "sizes"),
    [(None, [100] * 6), (0, [100] * 6), (250, [250, 250, 100]), (1000, [500, 100])],
)
def test_requests_have_so_many_records(
    server: Aws,
    opened: Open,
    option: int | None,
    sizes: list[int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The reference asks for 1000, is refused and loses them."""
    pump = opened(**({} if option is None else {"batch_size": option}))
    pump.write(batch(*[AnalyticsRecord() for _ in range(600)]))
    assert [len(call["Records"]) for call in server.calls("PutRecords")] == sizes
    assert ("500 counts" in caplog.text) == (option == 1000)


def test_requests_are_cut_by_bytes(server: Aws, opened: Open) -> None:
    """No request is beyond 5 MiB; the reference's are refused, and all is lost."""
    pump = opened(batch_size=500)
    body = "x" * 900_000
    pump.write(batch(*[AnalyticsRecord(raw_request=body) for _ in range(12)]))
    sizes = [len(call["Records"]) for call in server.calls("PutRecords")]
    assert sizes == [5, 5, 2] and len(server.streams["tyk"]) == 12


def test_a_record_too_large_for_the_stream_is_found(server: Aws, opened: Open) -> None:
    """The service refuses the whole request; the others arrive, each once."""
    pump = opened()
    records = [AnalyticsRecord(alias=str(number)) for number in range(20)]
    records[13].raw_request = "x" * 1_100_000
    with pytest.raises(RejectedRecords, match="exceeds the limit") as caught:
        pump.write(batch(*records))
    assert list(caught.value.rejected) == [13]
    assert sorted(aliases(server), key=int) == [str(n) for n in range(20) if n != 13]


def test_failed_records_are_known(server: Aws, opened: Open) -> None:
    """Throttled ones are pending, refused ones dead; the rest has arrived."""
    server.fails = failing(
        b="ProvisionedThroughputExceededException",
        d="InvalidArgumentException",
        e="InternalFailure",
    )
    pump = opened(batch_size=2)
    with pytest.raises(TransientError, match=r"127\.0\.0\.1.*PutRecords: ") as caught:
        pump.write(named("a", "b", "c", "d", "e", "f"))
    assert caught.value.pending == [1, 4]
    reason = "InvalidArgumentException: InvalidArgumentException it is"
    assert caught.value.rejected == {3: reason}
    assert aliases(server) == ["a", "c", "f"]


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"Records": []},
        {"Records": [None]},
        {"Records": [{}]},
        {"Records": [{"SequenceNumber": ""}]},
    ],
)
def test_an_answer_without_a_sequence_number(
    server: Aws, opened: Open, monkeypatch: pytest.MonkeyPatch, answer: Any
) -> None:
    """Says nothing of the record, which is held."""
    monkeypatch.setattr(server, "_PutRecords", lambda asked: answer)
    with pytest.raises(TransientError, match="PutRecords") as caught:
        opened().write(named("a"))
    assert caught.value.pending == [0]


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("AccessDeniedException", 400),
        ("ExpiredTokenException", 400),
        ("LimitExceededException", 400),
        ("KMSAccessDeniedException", 400),
        ("KMSDisabledException", 400),
        ("ProvisionedThroughputExceededException", 400),
        ("ResourceNotFoundException", 400),
        ("ThrottlingException", 400),
        ("InternalFailure", 500),
        ("ServiceUnavailable", 503),
    ],
)
def test_what_is_not_the_records_fault_holds_them(
    server: Aws, opened: Open, code: str, status: int
) -> None:
    """And the reason says what the service said."""
    told = Wrong(code, "as it says", status)
    server.before = lambda operation, asked: told
    with pytest.raises(TransientError, match=f"PutRecords: {code}: as it says"):
        opened().write(named("a", "b"))
    server.before = lambda operation, asked: None
    assert aliases(server) == []


def test_a_missing_stream_holds_the_records(server: Aws, opened: Open) -> None:
    """Until it is there."""
    del server.streams["tyk"]
    pump = opened()
    with pytest.raises(TransientError, match="Stream tyk under account"):
        pump.write(named("a"))
    server.streams["tyk"] = []
    pump.write(named("a"))
    assert aliases(server) == ["a"]


def test_probe_looks_at_the_stream(server: Aws, opened: Open) -> None:
    """With the credentials; without the permission it says so."""
    pump = opened()
    assert pump.probe() == "stream tyk in eu-west-1 is ACTIVE"
    server.before = lambda operation, asked: Wrong("AccessDeniedException", "no")
    assert "credentials are known, but" in pump.probe()
    server.before = lambda operation, asked: None
    del server.streams["tyk"]
    with pytest.raises(TransientError, match="not found"):
        pump.probe()


@pytest.mark.parametrize(
    ("meta", "fault"),
    [
        ({}, "stream_name: missing"),
        ({"stream_name": "a b"}, "stream_name: 'a b' is no name of a stream"),
        ({"stream_name": "a", "batch_size": -1}, "batch_size: "),
        ({"stream_name": "a", "aws_endpoint": "x"}, "aws_endpoint: 'x' must begin"),
    ],
)
def test_faults_name_the_option(
    tmp_path: Path, meta: dict[str, Any], fault: str
) -> None:
    """A negative size crashes the reference at the first write."""
    faults = loaded(tmp_path, "kinesis", meta).every_fault()
    assert any(f"meta.{fault}" in text for text in faults)


class TestEncryption:
    """`kms_key_id`."""

    def test_begins_at_the_start(self, server: Aws, opened: Open) -> None:
        """Where there is none."""
        opened(kms_key_id="alias/tyk").write(named("a"))
        assert server.encryption == {"tyk": "alias/tyk"}
        assert server.operations == [
            "DescribeStream",
            "StartStreamEncryption",
            "PutRecords",
        ]

    def test_is_left_alone_where_it_is_the_same(
        self, server: Aws, opened: Open
    ) -> None:
        """By its text."""
        server.encryption["tyk"] = "alias/tyk"
        opened(kms_key_id="alias/tyk")
        assert server.operations == ["DescribeStream"]

    @pytest.mark.parametrize("wanted", ["alias/tyk", "1", f"{ALIAS}tyk", f"{ARN}1"])
    @pytest.mark.parametrize("found", ["alias/tyk", f"{ARN}1"])
    def test_knows_all_names_of_a_key(
        self, server: Aws, opened: Open, wanted: str, found: str
    ) -> None:
        """The reference takes an alias and its ARN for different keys."""
        names = ("alias/tyk", "1", f"{ALIAS}tyk", f"{ARN}1")
        server.keys = dict.fromkeys(names, f"{ARN}1")
        server.encryption["tyk"] = found
        opened(kms_key_id=wanted)
        assert server.encryption["tyk"] == found
        assert "StartStreamEncryption" not in server.operations

    def test_with_another_key_is_a_fault(self, server: Aws, opened: Open) -> None:
        """The pump does not write."""
        server.keys = {"alias/tyk": f"{ARN}1", f"{ARN}2": f"{ARN}2"}
        server.encryption["tyk"] = f"{ARN}2"
        with pytest.raises(
            ConfigError, match=r"^kms_key_id: .*key/2, which is another"
        ):
            opened(kms_key_id="alias/tyk")

    def test_that_cannot_be_compared_is_a_fault(
        self, server: Aws, opened: Open
    ) -> None:
        """It says what the stream has, and what is missing."""
        server.encryption["tyk"] = f"{ARN}2"
        server.before = lambda operation, asked: (
            Wrong("AccessDeniedException", "not allowed: kms:DescribeKey")
            if operation == "DescribeKey"
            else None
        )
        with pytest.raises(ConfigError, match=r"key/2, and KMS .*kms:DescribeKey"):
            opened(kms_key_id="alias/tyk")

    def test_that_another_instance_begins(
        self, server: Aws, opened: Open, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Counts."""
        caplog.set_level(logging.INFO)
        server.before = lambda operation, asked: (
            Wrong("ResourceInUseException", "being updated")
            if operation == "StartStreamEncryption"
            else None
        )
        opened(kms_key_id="alias/tyk").write(named("a"))
        assert "just being changed" in caplog.text and aliases(server) == ["a"]

    @pytest.mark.parametrize(
        ("operation", "code", "kind"),
        [
            ("DescribeStream", "AccessDeniedException", TransientError),
            ("DescribeStream", "ResourceNotFoundException", TransientError),
            ("StartStreamEncryption", "KMSNotFoundException", TransientError),
            ("StartStreamEncryption", "InvalidArgumentException", ConfigError),
        ],
    )
    def test_that_is_refused(
        self,
        server: Aws,
        opened: Open,
        operation: str,
        code: str,
        kind: type[Exception],
    ) -> None:
        """Is tried again where somebody can mend it, else it is a fault."""
        server.before = lambda asked, content: (
            Wrong(code, "why") if asked == operation else None
        )
        with pytest.raises(kind, match=f"{operation}: {code}: why"):
            opened(kms_key_id="alias/tyk")
