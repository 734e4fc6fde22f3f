"""The kinesis pump puts the records that the reference put, and those it lost."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.golden import loader, repair
from tests.golden.deliver import STREAM, deliver
from tests.golden.loader import Case
from tests.golden.run import configuration
from tests.servers.aws import Aws, Wrong
from tests.servers.http import Request
from tests.servers.tls import Authority
from tyk_pump.errors import ConfigError

CASES = loader.cases("kinesis")
KEY, SECRET = "AKIDEXAMPLE", "secret"
ARN = "arn:aws:kms:eu-west-1:123456789012:key/"


@pytest.fixture
def kinesis(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    """The real address, as a proxy of the environment leads to it."""
    with Aws(authority, plain=True, secrets={KEY: SECRET}) as server:
        monkeypatch.setenv("https_proxy", server.url)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(authority.ca_file))
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        yield server


def _captured(case: Case, operation: str = "PutRecords") -> list[Any]:
    rows = loader.json_lines(case.expected("jsonl")[""])
    return [
        json.loads(row["body"])
        for row in rows
        if row["headers"]["X-Amz-Target"].endswith(operation)
    ]


def _data(calls: list[Any]) -> list[bytes]:
    return [
        base64.b64decode(record["Data"]) for call in calls for record in call["Records"]
    ]


def _misbehave(case: Case, server: Aws) -> None:
    """Answer as the back end of the capture did."""
    if case.name == "server-error":
        answers = [Wrong("InternalFailure", "", 500)] * 3
        server.before = lambda operation, asked: answers.pop() if answers else None
    elif case.name == "partial-failure":
        codes = ["", "ProvisionedThroughputExceededException", "", "InternalFailure"]
        server.fails = lambda text: codes.pop(0) if codes else ""
    elif case.name == "kms-same":
        server.encryption["tyk"] = "alias/tyk"
    elif case.name == "kms-other":
        server.encryption["tyk"] = f"{ARN}2"
        server.keys = {"alias/tyk": f"{ARN}1", f"{ARN}2": f"{ARN}2"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_kinesis_case(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kinesis: Aws
) -> None:
    """Data is byte for byte as captured, in the same requests."""
    if case.name == "no-stream-name":
        # Without a name the reference is refused by the service, and loses all.
        (tmp_path / "out").mkdir()
        config = configuration(case, tmp_path / "out")
        assert any("meta.stream_name: missing" in f for f in config.every_fault())
        return
    _misbehave(case, kinesis)
    if case.name == "kms-other":
        with pytest.raises(ConfigError, match="another one"):
            deliver(case, {}, tmp_path, monkeypatch)
        assert kinesis.operations == ["DescribeStream", "DescribeKey", "DescribeKey"]
        return
    done = deliver(case, {}, tmp_path, monkeypatch)
    captured, ours = _captured(case), kinesis.calls("PutRecords")
    for request in kinesis.http.requests:
        _check_request(request, case)
    # What JSON cannot express is sent empty by the reference.
    wanted = [data for data in _data(captured) if data]
    if case.codec == "protobuf":
        wires = [wire for *_, wire in case.pushed()]
        pairs = zip(wanted, wires, strict=True)
        wanted = [repair.json_line(case, data, wire) for data, wire in pairs]
    assert len(done.refused) == len(_data(captured)) - len(wanted)
    if case.name == "server-error":
        # The reference gives up after three attempts and loses the first three.
        assert _sizes(captured) == [3, 3, 3, 2]
        wanted = _data(captured[2:])
    else:
        assert _sizes(ours)[: len(captured)] == _sizes(captured, empty=False)
    arrived = [record.data for record in kinesis.streams["tyk"]]
    keys = [record.key for record in kinesis.streams["tyk"]]
    if case.name == "partial-failure":
        # The reference loses the two that the answer says have failed.
        assert sorted(arrived) == sorted(wanted) and _sizes(ours) == [5, 2]
    else:
        assert arrived == wanted
        names = [n for n in done.names if n not in done.refused]
        if case.name != "all-filtered":
            assert len(arrived) == len(names)
    assert len(set(keys)) == len(keys)
    assert all(key.startswith(f"{STREAM}:") for key in keys)
    for operation in ("DescribeStream", "StartStreamEncryption"):
        told = [{**call} for call in kinesis.calls(operation)]
        for call in told:
            call.pop("Limit", None)
        assert told == _captured(case, operation)


def _sizes(calls: list[Any], *, empty: bool = True) -> list[int]:
    """Return how many records each request has."""
    return [
        sum(1 for record in call["Records"] if empty or record["Data"])
        for call in calls
    ]


def _check_request(request: Request, case: Case) -> None:
    """All that the service looks at is as in the capture."""
    operation = request.headers["x-amz-target"]
    for row in loader.json_lines(case.expected("jsonl")[""]):
        theirs = row["headers"]
        if theirs["X-Amz-Target"] != operation:
            continue
        assert (request.method, request.target) == (row["method"], row["path"])
        assert request.headers["content-type"] == theirs["Content-Type"]
        scope = theirs["Authorization"].partition("/<date>/")[2].partition(",")[0]
        assert scope in request.headers["authorization"]
        assert f"Credential={KEY}/" in theirs["Authorization"]
        assert request.authority == "kinesis.eu-west-1.amazonaws.com:443"
        if operation.endswith("PutRecords"):
            ours, captured = request.json, json.loads(row["body"])
            assert ours.keys() == captured.keys()
            assert ours["StreamName"] == captured["StreamName"]
            assert ours["Records"][0].keys() == captured["Records"][0].keys()
