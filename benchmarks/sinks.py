"""Back ends that cost next to nothing: they read, forget, and say what all is well.

A sink is a process of its own, so that none of its work is counted as the pump's. It
reads into one buffer and looks at nothing but the size of a body. Where the answer
names every record it looks at more: at lines for Elasticsearch, at entries for AWS.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import zlib
from hashlib import md5
from typing import Final, NamedTuple, Self

import bson

from tyk_pump.transport import gob

BUFFER: Final = 1 << 20
LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
BULK: Final = b"/_bulk"
INDEXED: Final = b'{"create":{"status":201}}'
PUT: Final = b'{"SequenceNumber":"%056d","ShardId":"shardId-000000000000"}' % 1


REPLY, MESSAGE = 1, 2013
GREETING: Final = {
    "ok": 1.0,
    "ismaster": True,
    "isWritablePrimary": True,
    "maxBsonObjectSize": 16 * BUFFER,
    "maxMessageSizeBytes": 48_000_000,
    "maxWriteBatchSize": 100_000,
    "minWireVersion": 0,
    "maxWireVersion": 21,
    "cursor": {"id": 0, "ns": "b.$cmd.listCollections", "firstBatch": [{"name": "c"}]},
}
"""What a MongoDB server says of itself, and anything else that may be asked."""


HELLO: Final = 44
"""Bytes with which a connection to MDCB begins."""
RESPONSE: Final = gob.Struct(
    "wireResponse",
    (("ID", gob.UINT), ("Response", gob.INTERFACE), ("Error", gob.STRING)),
)
DONE: Final = gob.Struct(
    "dispatcherResponse",
    (("Response", gob.INTERFACE), ("Error", gob.STRING)),
    "*gorpc.dispatcherResponse",
)
YES: Final = ("bool", True)


class Answer(NamedTuple):
    """What is said to a request whose line has this text."""

    part: bytes
    status: bytes
    body: bytes = b""


ANSWERS: Final = (
    Answer(b"/services/collector", b"200 OK", b'{"text":"Success","code":0}'),
    Answer(b" /write", b"204 No Content"),
    Answer(b"/api/v2/write", b"204 No Content"),
    Answer(b"/api/v2/orgs", b"200 OK", b'{"orgs":[{"id":"1","name":"o"}]}'),
    Answer(
        b"/api/v2/buckets",
        b"200 OK",
        b'{"buckets":[{"id":"1","name":"b","retentionRules":[]}]}',
    ),
    Answer(b" /ready", b"200 OK", b'{"status":"ready"}'),
    Answer(b"/v1/config", b"200 OK", b'{"sample_rate":100}'),
    Answer(b"/v1/events/batch", b"201 Created", b"{}"),
    Answer(b"/v1/batch", b"200 OK", b'{"success":true}'),
    Answer(b"/message", b"204 No Content"),
    Answer(b"/timestream", b"200 OK", b'{"RecordsIngested":{}}'),
    Answer(b"GET / ", b"200 OK", b'{"version":{"number":"8.13.0"}}'),
    Answer(b"", b"200 OK"),
)


class Sink:
    """A sink as its user sees it: a port, until the end of a `with`."""

    def __init__(self, kind: str) -> None:
        command = [sys.executable, "-m", "benchmarks.sinks", kind]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()


def serve_http(listener: socket.socket) -> None:
    """Answer the requests of each connection in a thread."""
    serve_each(listener, converse)


def serve_aws(listener: socket.socket) -> None:
    """Answer calls of Kinesis and SQS, each connection in a thread."""
    serve_each(listener, converse_aws)


def serve_tcp(listener: socket.socket) -> None:
    """Read whatever comes on each connection."""
    serve_each(listener, discard)


def serve_mongo(listener: socket.socket) -> None:
    """Answer the messages of each connection in a thread."""
    serve_each(listener, converse_mongo)


def serve_udp(receiver: socket.socket) -> None:
    """Read datagrams; what does not fit into the kernel's buffer is lost."""
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * BUFFER)
    discard(receiver)


def serve_each(listener: socket.socket, serve: object) -> None:
    """Give each connection a thread."""
    assert callable(serve)
    listener.listen(64)
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


def discard(receiver: socket.socket) -> None:
    """Read until the other end leaves, and let it see that all is read."""
    buffer = bytearray(BUFFER)
    with receiver:
        while receiver.recv_into(buffer):
            pass


def converse(connection: socket.socket) -> None:
    """Answer one request after the other until the other end leaves."""
    buffer = bytearray(BUFFER)
    with connection, contextlib.suppress(ConnectionError):
        while head := read_head(connection, buffer):
            text, size, have = head
            lines = buffer.count(b"\n", len(text), have)
            left = size - (have - len(text))
            while left > 0:
                got = connection.recv_into(buffer)
                if not got:
                    return
                lines += buffer.count(b"\n", 0, got)
                left -= got
            connection.sendall(answer(text, lines))


def converse_aws(connection: socket.socket) -> None:
    """Answer one call after the other; each record of it has arrived."""
    buffer = bytearray(BUFFER)
    with connection, contextlib.suppress(ConnectionError):
        while head := read_head(connection, buffer):
            text, size, have = head
            body = bytearray(buffer[len(text) : have])
            body.extend(bytes(size - len(body)))
            if not read_into(connection, memoryview(body)[have - len(text) :]):
                return
            connection.sendall(reply(b"200 OK", aws_answer(text, body)))


def aws_answer(head: bytes, body: bytearray) -> bytes:
    """Return what a call is answered with."""
    if b".PutRecords\r\n" in head:
        records = b",".join([PUT] * body.count(b'"PartitionKey":'))
        return b'{"FailedRecordCount":0,"Records":[%b]}' % records
    if b".GetQueueUrl\r\n" in head:
        return b'{"QueueUrl":"http://127.0.0.1/1/q"}'
    done = [
        {
            "Id": entry["Id"],
            "MessageId": entry["Id"],
            "MD5OfMessageBody": md5(entry["MessageBody"].encode()).hexdigest(),
        }
        for entry in json.loads(body)["Entries"]
    ]
    return json.dumps({"Successful": done}).encode()


def converse_mongo(connection: socket.socket) -> None:
    """Answer one message after the other, an insert with how many documents it had."""
    buffer = bytearray(4 * BUFFER)
    with connection, contextlib.suppress(ConnectionError):
        while read_into(connection, memoryview(buffer)[:16]):
            size, number, _, kind = struct.unpack_from("<iiii", buffer)
            if size > len(buffer):
                buffer.extend(bytes(size - len(buffer)))
            if not read_into(connection, memoryview(buffer)[16:size]):
                return
            said = {**GREETING, "n": documents(buffer, size) if kind == MESSAGE else 0}
            data = b"\0\0\0\0\0" + bson.encode(said)
            if kind != MESSAGE:
                data = struct.pack("<iqii", 8, 0, 0, 1) + data[5:]
            head = (16 + len(data), 0, number, MESSAGE if kind == MESSAGE else REPLY)
            connection.sendall(struct.pack("<iiii", *head) + data)


def serve_mdcb(listener: socket.socket) -> None:
    """Answer the calls of each connection in a thread."""
    serve_each(listener, converse_mdcb)


def converse_mdcb(connection: socket.socket) -> None:
    """Say yes to one call after the other until the other end leaves."""
    inflate, deflate = zlib.decompressobj(-15), zlib.compressobj(1, wbits=-15)
    calls, encoder = gob.Decoder(), gob.Encoder()
    with connection, contextlib.suppress(ConnectionError):
        if not read_into(connection, memoryview(bytearray(HELLO))):
            return
        while data := connection.recv(BUFFER):
            for call in calls.feed(inflate.decompress(data)):
                said = {"ID": call["ID"], "Response": (DONE, {"Response": YES})}
                data = deflate.compress(encoder.encode(RESPONSE, said))
                connection.sendall(data + deflate.flush(zlib.Z_SYNC_FLUSH))


def read_into(connection: socket.socket, room: memoryview) -> bool:
    """Fill the room; say whether the other end has sent so much."""
    have = 0
    while have < len(room):
        got = connection.recv_into(room[have:])
        if not got:
            return False
        have += got
    return True


def documents(message: bytearray, size: int) -> int:
    """Return how many documents the lists of a message have."""
    at, count = 20, 0
    while at < size:
        (length,) = struct.unpack_from("<i", message, at + 1)
        end = at + 1 + length
        if message[at] == 1:
            inner = message.index(0, at + 5) + 1
            while inner < end:
                inner += struct.unpack_from("<i", message, inner)[0]
                count += 1
        at = end
    return count


def read_head(
    connection: socket.socket, buffer: bytearray
) -> tuple[bytes, int, int] | None:
    """Return a request's head, the size of its body, and how many bytes are read."""
    have = 0
    while got := connection.recv_into(memoryview(buffer)[have:]):
        have += got
        end = buffer.find(b"\r\n\r\n", 0, have)
        if end >= 0:
            text = bytes(buffer[: end + 4])
            found = LENGTH.search(text)
            return text, int(found[1]) if found else 0, have
    return None


def answer(head: bytes, lines: int) -> bytes:
    """Return what a request of so many lines is answered with."""
    line = head[: head.index(b"\r\n")]
    if BULK in line:
        items = b",".join([INDEXED] * (lines // 2))
        return reply(b"200 OK", b'{"errors":false,"items":[%b]}' % items)
    said = next(one for one in ANSWERS if one.part in line)
    return reply(said.status, b"" if line.startswith(b"HEAD") else said.body)


def reply(status: bytes, body: bytes) -> bytes:
    """Return a whole answer."""
    kind = b"Content-Type: application/json\r\n" if body else b""
    size = b"" if status.startswith(b"204") else b"Content-Length: %d\r\n" % len(body)
    return b"HTTP/1.1 %b\r\n%b%b\r\n%b" % (status, kind, size, body)


KINDS: Final = {
    "aws": (socket.SOCK_STREAM, serve_aws),
    "http": (socket.SOCK_STREAM, serve_http),
    "mdcb": (socket.SOCK_STREAM, serve_mdcb),
    "mongo": (socket.SOCK_STREAM, serve_mongo),
    "tcp": (socket.SOCK_STREAM, serve_tcp),
    "udp": (socket.SOCK_DGRAM, serve_udp),
}


def main() -> None:
    """Serve on a free port, which is printed, until standard input ends."""
    kind, serve = KINDS[sys.argv[1]]
    with socket.socket(socket.AF_INET, kind) as own:
        own.bind(("127.0.0.1", 0))
        print(own.getsockname()[1], flush=True)
        threading.Thread(target=serve, args=(own,), daemon=True).start()
        sys.stdin.read()
        os._exit(0)  # threads may stand in a system call


if __name__ == "__main__":
    main()
