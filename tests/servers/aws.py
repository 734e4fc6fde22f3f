"""Kinesis, SQS and KMS as AWS's pages describe them: signatures, limits, answers.

Every signature is computed again from what has come. One server is all services: the
name of the operation says which.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from tests.servers.http import Answer, HttpServer, Request, of
from tests.servers.tls import Authority

REGION: Final = "eu-west-1"
KEY: Final = "AKIDSTATIC"
SECRET: Final = "s3cret/access+key"
STREAM: Final = "tyk"
QUEUE: Final = "tyk"
ACCOUNT: Final = "123456789012"
_CREDENTIAL: Final = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/([^/]+)/aws4_request, "
    r"SignedHeaders=([a-z0-9;-]+), Signature=([0-9a-f]{64})"
)
_JSON: Final = {"kinesis": "1.1", "kms": "1.1", "sqs": "1.0"}
_TARGETS: Final = {
    "Kinesis_20131202": "kinesis",
    "AmazonSQS": "sqs",
    "TrentService": "kms",
}
# What XML cannot hold.
_NO_XML: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


class Wrong(Exception):
    """An error answer: its code, what it says, its status."""

    def __init__(self, code: str, message: str = "", status: int = 400) -> None:
        super().__init__(code)
        self.code, self.message, self.status = code, message, status


class Record(msgspec.Struct, frozen=True):
    """What stands in a stream."""

    data: bytes
    key: str


class Aws:
    """Listens from its making on; `http` is the server beneath."""

    def __init__(
        self,
        authority: Authority | None = None,
        *,
        demand_certificate: bool = False,
        plain: bool = False,
        secrets: dict[str, str] | None = None,
    ) -> None:
        self.secrets = secrets or {KEY: SECRET}
        """Key id -> secret of those who may ask."""
        self.token: str | None = None
        """The session token that is asked for."""
        self.streams: dict[str, list[Record]] = {STREAM: []}
        self.encryption: dict[str, str] = {}
        """Stream -> key."""
        self.keys: dict[str, str] = {}
        """What a key is called -> its ARN."""
        self.queues: dict[str, list[dict[str, Any]]] = {QUEUE: []}
        self.attributes: dict[str, dict[str, str]] = {}
        self.most_bytes = 5 * 1024 * 1024
        """Of a PutRecords call."""
        self.largest_record = 1024 * 1024
        self.largest_message = 1024 * 1024
        self.fails: Callable[[str], str] = lambda text: ""
        """Gives the code with which a record or message fails, by its text."""
        self.before: Callable[[str, Any], Wrong | None] = lambda operation, asked: None
        """Gives the error with which a call fails."""
        self.operations: list[str] = []
        self.authority = authority
        self._lock = threading.Lock()
        self.http = HttpServer(
            self._respond,
            authority=authority,
            demand_certificate=demand_certificate,
            plain=plain,
        )
        self.close = self.http.close

    def __enter__(self) -> Aws:
        return self

    def __exit__(self, *exc: object) -> None:
        self.http.close()

    @property
    def url(self) -> str:
        """Return the address without a path."""
        return self.http.url

    def calls(self, operation: str) -> list[Any]:
        """Return what was asked with an operation, refused calls included."""
        return [
            request.json
            for request in self.http.requests
            if request.headers["x-amz-target"].endswith(f".{operation}")
        ]

    def _respond(self, request: Request) -> Answer:
        try:
            with self._lock:
                return of(self._serve(request))
        except Wrong as wrong:
            told = {
                "__type": f"com.amazonaws.service#{wrong.code}",
                "message": wrong.message,
            }
            return of(told, wrong.status)

    def _serve(self, request: Request) -> Any:
        prefix, _, operation = request.headers.get("x-amz-target", "").partition(".")
        service = _TARGETS.get(prefix, "")
        content_type = f"application/x-amz-json-{_JSON.get(service)}"
        if (
            (request.method, request.target) != ("POST", "/")
            or request.headers.get("content-type") != content_type
            or not hasattr(self, f"_{operation}")
        ):
            raise Wrong("UnknownOperationException")
        check_signature(request, service, self.secrets, self.token)
        self.operations.append(operation)
        asked = request.json
        if wrong := self.before(operation, asked):
            raise wrong
        return getattr(self, f"_{operation}")(asked)

    # Kinesis

    def _stream(self, asked: Any) -> list[Record]:
        name = asked["StreamName"]
        if name not in self.streams:
            reason = f"Stream {name} under account {ACCOUNT} not found."
            raise Wrong("ResourceNotFoundException", reason)
        return self.streams[name]

    def _PutRecords(self, asked: Any) -> Any:
        stream = self._stream(asked)
        wanted = asked["Records"]
        if not 1 <= len(wanted) <= 500:
            raise Wrong("ValidationException", "1 validation error detected")
        records = [
            Record(base64.b64decode(one["Data"], validate=True), one["PartitionKey"])
            for one in wanted
        ]
        sizes = [len(one.data) + len(one.key.encode()) for one in records]
        if max(sizes) > self.largest_record or sum(sizes) > self.most_bytes:
            reason = "Records size exceeds the limit"
            raise Wrong("InvalidArgumentException", reason)
        results: list[dict[str, str]] = []
        for record in records:
            if code := self.fails(record.data.decode()):
                results.append({"ErrorCode": code, "ErrorMessage": f"{code} it is"})
                continue
            stream.append(record)
            number = f"{len(stream):056}"
            results.append({"SequenceNumber": number, "ShardId": "shardId-0"})
        failed = sum("ErrorCode" in result for result in results)
        return {"FailedRecordCount": failed, "Records": results}

    def _DescribeStream(self, asked: Any) -> Any:
        self._stream(asked)
        name = asked["StreamName"]
        about = {"StreamName": name, "StreamStatus": "ACTIVE", "EncryptionType": "NONE"}
        if key := self.encryption.get(name):
            about |= {"EncryptionType": "KMS", "KeyId": key}
        return {"StreamDescription": about}

    def _StartStreamEncryption(self, asked: Any) -> Any:
        self._stream(asked)
        assert asked["EncryptionType"] == "KMS"
        self.encryption[asked["StreamName"]] = asked["KeyId"]
        return {}

    # KMS

    def _DescribeKey(self, asked: Any) -> Any:
        if arn := self.keys.get(asked["KeyId"]):
            return {"KeyMetadata": {"Arn": arn}}
        raise Wrong("NotFoundException", f"{asked['KeyId']} is not found.")

    # SQS

    def _queue(self, name: str) -> list[dict[str, Any]]:
        if name not in self.queues:
            reason = "The specified queue does not exist."
            raise Wrong("QueueDoesNotExist", reason)
        return self.queues[name]

    def _GetQueueUrl(self, asked: Any) -> Any:
        self._queue(asked["QueueName"])
        return {"QueueUrl": f"{self.url}/{ACCOUNT}/{asked['QueueName']}"}

    def _GetQueueAttributes(self, asked: Any) -> Any:
        name = asked["QueueUrl"].rpartition("/")[2]
        self._queue(name)
        known = self.attributes.get(name, {})
        return {
            "Attributes": {
                k: v for k, v in known.items() if k in asked["AttributeNames"]
            }
        }

    def _SendMessageBatch(self, asked: Any) -> Any:
        name = asked["QueueUrl"].rpartition("/")[2]
        queue = self._queue(name)
        entries = asked["Entries"]
        if not entries:
            raise Wrong("EmptyBatchRequest", "no entry")
        if len(entries) > 10:
            raise Wrong("TooManyEntriesInBatchRequest", "10 at most")
        if len({entry["Id"] for entry in entries}) < len(entries):
            raise Wrong("BatchEntryIdsNotDistinct", "an id twice")
        sizes = [len(entry["MessageBody"].encode()) for entry in entries]
        if sum(sizes) > self.largest_message:
            raise Wrong("BatchRequestTooLong", f"{self.largest_message} bytes at most")
        done: dict[str, list[Any]] = {"Successful": [], "Failed": []}
        seen = {one.get("MessageDeduplicationId") for one in queue}
        for entry in entries:
            assert re.fullmatch(r"[A-Za-z0-9_-]{1,80}", entry["Id"])
            if code := self._refuses(name, entry):
                failed = {"Id": entry["Id"], "Code": code, "Message": f"{code} it is"}
                done["Failed"].append({**failed, "SenderFault": True})
                continue
            dedup = entry.get("MessageDeduplicationId")
            if dedup is None or dedup not in seen:
                queue.append(entry)
                seen.add(dedup)
            digest = hashlib.md5(entry["MessageBody"].encode()).hexdigest()
            done["Successful"].append(
                {"Id": entry["Id"], "MessageId": "m", "MD5OfMessageBody": digest}
            )
        return done

    def _refuses(self, name: str, entry: dict[str, Any]) -> str:
        """Return the code with which a message fails."""
        if _NO_XML.search(entry["MessageBody"]):
            return "InvalidMessageContents"
        fifo = name.endswith(".fifo")
        by_content = self.attributes.get(name, {}).get("ContentBasedDeduplication")
        if fifo and "MessageGroupId" not in entry:
            return "MissingParameter"
        if fifo and by_content == "false" and "MessageDeduplicationId" not in entry:
            return "InvalidParameterValue"
        if fifo and "DelaySeconds" in entry:
            return "InvalidParameterValue"
        if not fifo and "MessageDeduplicationId" in entry:
            return "InvalidParameterValue"
        return self.fails(entry["MessageBody"])


def check_signature(
    request: Request, service: str, secrets: Mapping[str, str], token: str | None = None
) -> None:
    """Raise Wrong for whoever does not sign as one who may ask, by key id."""
    given = request.headers.get("authorization", "")
    if (found := _CREDENTIAL.fullmatch(given)) is None:
        raise Wrong("MissingAuthenticationTokenException", "Missing", 403)
    key, day, region, scope, names, signature = found.groups()
    given_token = request.headers.get("x-amz-security-token")
    if key not in secrets or given_token != token:
        reason = "The security token included in the request is invalid."
        raise Wrong("UnrecognizedClientException", reason)
    asserted = {"host", "x-amz-date", "x-amz-target"} | (
        {"x-amz-security-token"} if given_token else set()
    )
    canonical = "\n".join(
        (
            request.method,
            request.target,
            "",
            *(f"{n}:{request.headers[n].strip()}" for n in names.split(";")),
            "",
            names,
            hashlib.sha256(request.raw).hexdigest(),
        )
    )
    text = "\n".join(
        (
            "AWS4-HMAC-SHA256",
            request.headers["x-amz-date"],
            f"{day}/{region}/{scope}/aws4_request",
            hashlib.sha256(canonical.encode()).hexdigest(),
        )
    )
    digest = f"AWS4{secrets[key]}".encode()
    for part in (day, region, scope, "aws4_request", text):
        digest = hmac.digest(digest, part.encode(), "sha256")
    if (
        digest.hex() != signature
        or (region, scope) != (REGION, service)
        or not asserted <= set(names.split(";"))
    ):
        reason = (
            "The request signature we calculated does not match the signature you "
            f"provided. The Canonical String should have been '{canonical}'"
        )
        raise Wrong("InvalidSignatureException", reason, 403)
