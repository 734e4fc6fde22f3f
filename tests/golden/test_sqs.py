"""The sqs pump sends the messages that the reference sent, and those it lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.golden import loader, repair
from tests.golden.deliver import deliver
from tests.golden.loader import Case
from tests.servers.aws import Aws, Wrong
from tests.servers.http import Answer, Request, of
from tyk_pump import ulid

CASES = loader.cases("sqs")
KEYS = {"AKIDSTATIC": "dummy", "AKIDEXAMPLE": "secret"}
ATTEMPTS = 3


def _captured(case: Case) -> list[Any]:
    rows = loader.json_lines(case.expected("jsonl")[""])
    return [
        json.loads(row["body"])
        for row in rows
        if row["headers"]["X-Amz-Target"].endswith("SendMessageBatch")
    ]


def _entries(calls: list[Any]) -> list[Any]:
    return [entry for call in calls for entry in call["Entries"]]


def _misbehave(case: Case, server: Aws) -> None:
    """Answer as the back end of the capture did."""
    if case.name == "no-queue":
        server.queues.clear()
    elif case.name == "partial-failure":
        codes = ["", "InternalError", "InternalError"]
        server.fails = lambda text: codes.pop(0) if codes else ""
    elif case.name == "server-error":
        answers = [None, None, Wrong("ServiceUnavailable", "")]
        server.before = lambda operation, asked: answers.pop(0) if answers else None
    elif case.name == "bad-md5":
        server.http.respond = _wrong_digests(server.http.respond)


def _wrong_digests(usual: Callable[[Request], Answer]) -> Callable[[Request], Answer]:
    def respond(request: Request) -> Answer:
        answer = json.loads(usual(request).body)
        for one in answer.get("Successful", ()):
            one["MD5OfMessageBody"] = "0" * 32
        return of(answer)

    return respond


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_sqs_case(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bodies are byte for byte as captured, in the same requests."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with Aws(secrets=KEYS) as server:
        (name,) = {pump["meta"]["aws_queue_name"] for pump in case.pumps.values()}
        server.queues = {name: []}
        server.attributes = {name: {"ContentBasedDeduplication": "true"}}
        server.token = case.pumps["sqs"]["meta"].get("aws_token")
        _misbehave(case, server)
        done = deliver(
            case, {"url": server.url}, tmp_path, monkeypatch, attempts=ATTEMPTS
        )
        captured, ours = _captured(case), server.calls("SendMessageBatch")
        for request in server.http.requests:
            _check_request(request, case)
        if case.name in ("all-filtered", "no-queue"):
            # The queue is looked up when there is something for it.
            assert not ours and not captured
            return
        if case.name == "bad-md5":
            # An error of the write in both; ours tries again.
            assert done.delivered == 0 and len(ours) == ATTEMPTS
            assert "checksum" in str(done.end.answers)
            assert _plain(ours[0]) == _plain(captured[0])
            return
        if case.codec == "protobuf":
            for entry, (*_, wire) in zip(
                _entries(captured), case.pushed(), strict=True
            ):
                body = repair.json_line(case, entry["MessageBody"].encode(), wire)
                entry["MessageBody"] = body.decode()
        wanted = [entry["MessageBody"] for entry in _entries(captured)]
        if case.name == "batch-limit-unset":
            # An empty request, and all is lost, in the reference.
            assert captured[0]["Entries"] == [] and len(ours[0]["Entries"]) == 2
        elif case.name == "server-error":
            # Its third request is never made.
            assert [len(call["Entries"]) for call in captured] == [2, 2]
            assert [len(call["Entries"]) for call in ours] == [2, 2, 2, 2]
            assert len(server.queues[name]) == len(done.names) == 6
        else:
            assert [_plain(c) for c in ours[: len(captured)]] == [
                _plain(c) for c in captured
            ]
        bodies = [entry["MessageBody"] for entry in server.queues[name]]
        if case.name not in ("batch-limit-unset", "server-error"):
            assert sorted(bodies) == sorted(wanted) and done.refused == {}
        assert done.delivered == len(bodies)
        for call in ours:
            for entry in call["Entries"]:
                assert len(entry["Id"]) == 26 and ulid.ulid_time(entry["Id"]) > 0
                assert entry.get("MessageDeduplicationId", entry["Id"]) == entry["Id"]


def _plain(call: Any) -> Any:
    """Return a request without what differs from run to run."""
    hidden = {"Id": "", "MessageDeduplicationId": ""}
    return [
        {key: hidden.get(key, value) for key, value in entry.items()}
        for entry in call["Entries"]
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
        token = theirs.get("X-Amz-Security-Token")
        assert request.headers.get("x-amz-security-token") == token
        ours, captured = (
            h.partition("/")
            for h in (request.headers["authorization"], theirs["Authorization"])
        )
        assert ours[0] == captured[0]
        scope = captured[2].partition("/")[2].partition(",")[0]
        assert scope in ours[2]
        queue = json.loads(row["body"])
        assert request.json.keys() == queue.keys()
        if "QueueName" in queue:
            assert request.json == queue
