"""An imitation of MongoDB on the wire: it records each command, and fails on demand.

Alone it keeps what is inserted and says yes to the rest. With `upstream`, the port of a
real server, that one does what is asked and this one only listens, so that a fault can
be put in front of a store that counts.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import os
import socket
import socketserver
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import bson
from bson import json_util
from bson.codec_options import CodecOptions, DatetimeConversion

from tests.servers import free_port, mongoupdate
from tests.servers.tls import Authority

Document = dict[str, Any]

# A date that Python has no word for, or a string that is none, ends no connection.
_CODEC: CodecOptions[Document] = CodecOptions(
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
    unicode_decode_error_handler="surrogateescape",
)
_REPLY, _QUERY, _MESSAGE = 1, 2004, 2013
_CHECKSUM, _MORE_TO_COME = 1, 2
_GREETINGS = ("hello", "ismaster", "isMaster")
_OPEN_TO_ALL = (*_GREETINGS, "saslStart", "saslContinue")
_UNRECORDED = (*_OPEN_TO_ALL, "ping", "endSessions")
_OF_THE_SESSION = ("lsid", "txnNumber", "maxTimeMS", "$clusterTime", "$readPreference")
_ROUNDS = 4096


@dataclass(frozen=True)
class Command:
    """What a client asked for, its lists of documents in the body."""

    name: str
    database: str
    body: Document

    @property
    def collection(self) -> str:
        """Return the collection that it is about."""
        return str(self.body[self.name])

    @property
    def plain(self) -> Document:
        """Return it as golden cases have it: canonical, without the session."""
        body = {k: v for k, v in self.body.items() if k not in _OF_THE_SESSION}
        options = json_util.CANONICAL_JSON_OPTIONS
        text = json_util.dumps(body, json_options=options)
        return {"command": self.name, "db": self.database, "body": json.loads(text)}


@dataclass(frozen=True)
class Answer:
    """How a command is answered instead."""

    reply: Document | None = None
    """None: as it would have been."""
    cut: bool = False
    """The connection ends, and nothing has been done."""
    lost: bool = False
    """It is done, and the connection ends instead of an answer."""
    delay: float = 0.0
    """Seconds before it is done."""


Judge = Callable[[Command], Answer | None]
"""Says how a command is answered; None: as usual."""


def failed(code: int, name: str, *labels: str, message: str = "failed") -> Answer:
    """Return the answer to a command that fails as a whole."""
    reply = {"ok": 0.0, "code": code, "codeName": name, "errmsg": message}
    return Answer({**reply, **({"errorLabels": list(labels)} if labels else {})})


def refused(done: int, *errors: tuple[int, int, str]) -> Answer:
    """Return the answer to a write of which items (position, code, text) failed."""
    items = [
        {"index": index, "code": code, "errmsg": text} for index, code, text in errors
    ]
    return Answer({"ok": 1.0, "n": done, "writeErrors": items})


NOT_PRIMARY = failed(10107, "NotWritablePrimary", "RetryableWriteError")
STEPPED_DOWN = failed(11602, "InterruptedDueToReplStateChange", "RetryableWriteError")
SHUTTING_DOWN = failed(91, "ShutdownInProgress", "RetryableWriteError")
WRITE_CONFLICT = failed(112, "WriteConflict", "TransientTransactionError")
TOO_LARGE = failed(10334, "BSONObjectTooLarge")
NO_PERMISSION = failed(13, "Unauthorized")
NO_SPACE = failed(14031, "OutOfDiskSpace")


class MongoWire:
    """One server that listens; `commands` has what was asked, in order.

    With a user, every command needs a log-in; with `replica_set` it is the primary of
    one, and drivers repeat their writes by themselves; with an authority it speaks TLS.
    """

    def __init__(
        self,
        judge: Judge = lambda command: None,
        *,
        upstream: int | None = None,
        user: tuple[str, str] | None = None,
        replica_set: str = "",
        authority: Authority | None = None,
        demand_certificate: bool = False,
    ) -> None:
        self.judge = judge
        self.upstream = upstream
        self.user = user
        self.replica_set = replica_set
        self.wire_version = 21
        self.commands: list[Command] = []
        self.greetings: list[Document] = []
        """What clients said of themselves: driver, application."""
        self.databases: dict[str, dict[str, list[Document]]] = {}
        self.indexes: dict[tuple[str, str], list[Document]] = {}
        self.options: dict[tuple[str, str], Document] = {}
        """What collections were created with."""
        self.port = free_port()
        self.closing = threading.Event()
        self.context: ssl.SSLContext | None = None
        if authority is not None:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(*authority.server())
            if demand_certificate:
                self.context.verify_mode = ssl.CERT_REQUIRED
                self.context.load_verify_locations(authority.ca_file)
        self._answers: dict[tuple[bytes, int], bytes] = {}
        self._lock = threading.RLock()
        self._sockets: set[socket.socket] = set()
        self._server: _Listener | None = None
        self.restart()

    def url(self, database: str = "tyk_analytics") -> str:
        """Return the address of a database, without user and TLS."""
        return f"mongodb://127.0.0.1:{self.port}/{database}"

    def restart(self) -> None:
        """Listen (again) on the same port, with all that was kept."""
        self.close()
        self.closing.clear()
        self._server = _Listener(self)
        threading.Thread(target=self._server.serve_forever, args=(0.02,)).start()

    def close(self) -> None:
        """Listen no longer, and end the connections that there are."""
        if self._server is None:
            return
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._server = None
        with self._lock:
            for one in self._sockets:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def judging(self, judge: Judge) -> Iterator[None]:
        """Answer in another way for a while."""
        before, self.judge = self.judge, judge
        try:
            yield
        finally:
            self.judge = before

    def named(self, *names: str) -> list[Command]:
        """Return the commands of these names."""
        return [command for command in self.commands if command.name in names]

    def documents(
        self, collection: str, database: str = "tyk_analytics"
    ) -> list[Document]:
        """Return what was inserted (here, not in the upstream)."""
        return self.databases.get(database, {}).get(collection, [])

    def hold(self, connection: socket.socket) -> None:
        """Note a connection, so that `close` can end it."""
        with self._lock:
            self._sockets.add(connection)

    def drop(self, connection: socket.socket) -> None:
        """Forget a connection."""
        with self._lock:
            self._sockets.discard(connection)

    def keep(self, command: Command) -> None:
        """Note a command."""
        with self._lock:
            if command.name in _GREETINGS:
                self.greetings.append(command.body)
            elif command.name not in _UNRECORDED:
                self.commands.append(command)

    def once(self, command: Command, do: Callable[[], bytes]) -> bytes:
        """Do what a command asks, unless it is one that the driver repeats."""
        if "txnNumber" not in command.body:
            return do()
        key = bytes(command.body["lsid"]["id"]), int(command.body["txnNumber"])
        if key not in self._answers:
            self._answers[key] = do()
        return self._answers[key]

    def hello(self) -> Document:
        """Return what it says of itself."""
        reply: Document = {
            "helloOk": True,
            "ismaster": True,
            "isWritablePrimary": True,
            "maxBsonObjectSize": 16 * 1024 * 1024,
            "maxMessageSizeBytes": 48_000_000,
            "maxWriteBatchSize": 100_000,
            "logicalSessionTimeoutMinutes": 30,
            "minWireVersion": 0,
            "maxWireVersion": self.wire_version,
            "readOnly": False,
            "ok": 1.0,
        }
        if self.user:
            reply["saslSupportedMechs"] = ["SCRAM-SHA-256"]
        if self.replica_set:
            me = f"127.0.0.1:{self.port}"
            reply |= {"setName": self.replica_set, "hosts": [me], "me": me}
            reply |= {"primary": me, "setVersion": 1, "secondary": False}
        return reply

    def answer(self, command: Command) -> Document:
        """Do what a command asks, and return what the server says."""
        does = {
            "insert": self._insert,
            "create": self._create,
            "createIndexes": self._create_indexes,
            "listIndexes": self._list_indexes,
            "listCollections": self._list_collections,
            "find": self._find,
            "update": self._update,
            "findAndModify": self._find_and_modify,
            "drop": self._drop,
        }.get(command.name)
        with self._lock:
            return {"ok": 1.0, **(does(command) if does else {})}

    def _collections(self, command: Command) -> dict[str, list[Document]]:
        return self.databases.setdefault(command.database, {})

    def _insert(self, command: Command) -> Document:
        kept = self._collections(command).setdefault(command.collection, [])
        known = {_key(document.get("_id")) for document in kept}
        errors: list[Document] = []
        done = 0
        for index, document in enumerate(command.body["documents"]):
            key = _key(document.get("_id"))
            if key in known:
                space = f"{command.database}.{command.collection}"
                text = f"E11000 duplicate key error collection: {space} index: _id_"
                error = {"index": index, "code": 11000, "errmsg": text}
                errors.append({**error, "keyPattern": {"_id": 1}})
                if command.body.get("ordered", True):
                    break
                continue
            known.add(key)
            kept.append(document)
            done += 1
        return {"n": done, **({"writeErrors": errors} if errors else {})}

    def _update(self, command: Command) -> Document:
        count, errors, upserted = 0, [], []
        for index, one in enumerate(command.body["updates"]):
            try:
                found, made = self._changed(command, one["q"], one["u"], one)
            except mongoupdate.UpdateRefusedError as exc:
                error = {"index": index, "code": exc.code, "errmsg": str(exc)}
                errors.append(error)
                continue
            count += found is not None
            if made:
                upserted.append({"index": index, "_id": (found or {})["_id"]})
        reply: Document = {"n": count, "nModified": count - len(upserted)}
        if upserted:
            reply["upserted"] = upserted
        return {**reply, "writeErrors": errors} if errors else reply

    def _find_and_modify(self, command: Command) -> Document:
        body = command.body
        assert body.get("new"), "what stood there before is not kept"
        try:
            found, _ = self._changed(command, body["query"], body["update"], body)
        except mongoupdate.UpdateRefusedError as exc:
            return {"ok": 0.0, "code": exc.code, "errmsg": str(exc)}
        return {"value": found}

    def _changed(
        self, command: Command, query: Document, update: Document, options: Document
    ) -> tuple[Document | None, bool]:
        """Change a document; return it, and whether it is a new one."""
        kept = self._collections(command).setdefault(command.collection, [])
        for document in kept:
            if mongoupdate.matches(query, document):
                mongoupdate.apply(document, update)
                return document, False
        if not options.get("upsert"):
            return None, False
        kept.append(mongoupdate.inserted(query, update))
        return kept[-1], True

    def _create(self, command: Command) -> Document:
        collections = self._collections(command)
        if command.collection in collections:
            text = f"Collection {command.database}.{command.collection} already exists."
            return {"ok": 0.0, "code": 48, "codeName": "NamespaceExists"} | {
                "errmsg": text
            }
        collections[command.collection] = []
        options = {
            name: value
            for name, value in command.body.items()
            if name in ("capped", "size", "max")
        }
        self.options[command.database, command.collection] = options
        return {}

    def _create_indexes(self, command: Command) -> Document:
        self._collections(command).setdefault(command.collection, [])
        place = command.database, command.collection
        self.indexes.setdefault(place, []).extend(command.body["indexes"])
        return {}

    def _list_indexes(self, command: Command) -> Document:
        own = {"v": 2, "key": {"_id": 1}, "name": "_id_"}
        place = command.database, command.collection
        return _cursor(command, [own, *self.indexes.get(place, [])])

    def _list_collections(self, command: Command) -> Document:
        wanted = command.body.get("filter", {}).get("name")
        found = [
            {
                "name": name,
                "type": "collection",
                "options": self.options.get((command.database, name), {}),
            }
            for name in self._collections(command)
            if wanted is None or name == wanted
        ]
        return _cursor(command, found, "$cmd.listCollections")

    def _find(self, command: Command) -> Document:
        kept = self._collections(command).get(command.collection, [])
        wanted = command.body.get("filter", {})
        found = [document for document in kept if mongoupdate.matches(wanted, document)]
        return _cursor(command, found[: command.body.get("limit") or None])

    def _drop(self, command: Command) -> Document:
        self._collections(command).pop(command.collection, None)
        return {}


def _cursor(
    command: Command, found: Sequence[Document], collection: str | None = None
) -> Document:
    space = f"{command.database}.{collection or command.collection}"
    return {"cursor": {"id": bson.Int64(0), "ns": space, "firstBatch": list(found)}}


def _key(value: object) -> bytes:
    return bson.encode({"": value})


class _Login:
    """SCRAM-SHA-256 as the server of a user speaks it."""

    def __init__(self, user: tuple[str, str] | None) -> None:
        self._user = user
        self.done = user is None
        self._said = ""

    def start(self, payload: bytes) -> Document:
        name, password = self._user or ("", "")
        first = payload.decode().split(",", 2)[2]
        nonce = first.split(",r=")[1] + base64.b64encode(os.urandom(9)).decode()
        salt = b"salt of the tests"
        self._right = first.startswith(f"n={_escaped(name)},")
        self._salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, _ROUNDS)
        answer = f"r={nonce},s={base64.b64encode(salt).decode()},i={_ROUNDS}"
        self._said = f"{first},{answer}"
        return self._reply(answer, done=False)

    def finish(self, payload: bytes) -> Document:
        without, _, proof = payload.decode().rpartition(",p=")
        said = f"{self._said},{without}".encode()
        client = _hmac(self._salted, b"Client Key")
        signed = _hmac(hashlib.sha256(client).digest(), said)
        expected = bytes(a ^ b for a, b in zip(client, signed, strict=True))
        if not self._right or base64.b64decode(proof) != expected:
            reply = failed(18, "AuthenticationFailed", message="Authentication failed.")
            return reply.reply or {}
        self.done = True
        signature = _hmac(_hmac(self._salted, b"Server Key"), said)
        return self._reply(f"v={base64.b64encode(signature).decode()}", done=True)

    @staticmethod
    def _reply(text: str, *, done: bool) -> Document:
        reply: Document = {"conversationId": 1, "done": done, "ok": 1.0}
        return {**reply, "payload": text.encode()}


def _escaped(name: str) -> str:
    return name.replace("=", "=3D").replace(",", "=2C")


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")


class _Listener(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, owner: MongoWire) -> None:
        self.owner = owner
        super().__init__(("127.0.0.1", owner.port), _Handler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Shake hands in the connection's own thread."""
        if self.owner.context is not None:
            request.settimeout(10)
            try:
                request = self.owner.context.wrap_socket(request, server_side=True)
            except (OSError, ssl.SSLError):
                return
            request.settimeout(None)
        self.owner.hold(request)
        try:
            super().finish_request(request, client_address)
        except OSError:
            pass  # the client has gone, or `close` has ended the connection
        finally:
            self.owner.drop(request)
            request.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Let the test show what is wrong, not standard error."""


class _Handler(socketserver.BaseRequestHandler):
    _upstream: socket.socket | None = None

    def handle(self) -> None:
        assert isinstance(self.server, _Listener)
        owner = self.server.owner
        login = _Login(owner.user)
        with contextlib.ExitStack() as self._opened:
            while frame := _frame(self.request):
                if not self._serve(owner, login, frame):
                    return

    def _serve(self, owner: MongoWire, login: _Login, frame: bytes) -> bool:
        """Answer one message; say whether the connection goes on."""
        command, quiet = _parse(frame)
        owner.keep(command)
        answer = owner.judge(command) or Answer()
        if answer.delay:
            owner.closing.wait(answer.delay)
        if answer.cut:
            return False
        own = answer.reply or self._own(owner, login, command)

        def do() -> bytes:
            if owner.upstream is not None:
                return self._forward(owner.upstream, frame, quiet)
            return _framed(frame, owner.answer(command))

        reply = owner.once(command, do) if own is None else _framed(frame, own)
        if answer.lost or not (quiet or reply):
            return False
        if not quiet:
            self.request.sendall(reply[:8] + frame[4:8] + reply[12:])
        return True

    def _own(
        self, owner: MongoWire, login: _Login, command: Command
    ) -> Document | None:
        """Return the answer that never comes from elsewhere."""
        if command.name in _GREETINGS:
            return owner.hello()
        if command.name == "saslStart":
            return login.start(command.body["payload"])
        if command.name == "saslContinue":
            return login.finish(command.body["payload"])
        if not login.done:
            text = f"Command {command.name} requires authentication"
            return failed(13, "Unauthorized", message=text).reply
        return None

    def _forward(self, port: int, frame: bytes, quiet: bool) -> bytes:
        if self._upstream is None:
            made = socket.create_connection(("127.0.0.1", port), 60)
            self._upstream = self._opened.enter_context(made)
        self._upstream.sendall(frame)
        return b"" if quiet else _frame(self._upstream)


def _frame(connection: socket.socket) -> bytes:
    """Read a whole message; nothing is the end."""
    head = _read(connection, 4)
    if len(head) < 4:
        return b""
    return head + _read(connection, int.from_bytes(head, "little") - 4)


def _read(connection: socket.socket, size: int) -> bytes:
    parts = []
    while size:
        part = connection.recv(min(size, 1 << 20))
        if not part:
            return b""
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _parse(frame: bytes) -> tuple[Command, bool]:
    """Return the command of a message, and whether no answer is wanted."""
    (kind,) = struct.unpack_from("<i", frame, 12)
    if kind == _QUERY:
        end = frame.index(b"\0", 20)
        database = frame[20:end].decode().partition(".")[0]
        body = bson.decode(frame[end + 9 :], _CODEC)
        return Command(next(iter(body)), database, body), False
    assert kind == _MESSAGE, f"unknown kind of message: {kind}"
    (flags,) = struct.unpack_from("<I", frame, 16)
    at, end = 20, len(frame) - (4 if flags & _CHECKSUM else 0)
    body, lists = {}, {}
    while at < end:
        (size,) = struct.unpack_from("<i", frame, at + 1)
        data = frame[at + 1 : at + 1 + size]
        if frame[at]:
            name, _, documents = data[4:].partition(b"\0")
            lists[name.decode()] = bson.decode_all(documents, _CODEC)
        else:
            body = bson.decode(data, _CODEC)
        at += 1 + size
    database = body.pop("$db")
    command = Command(next(iter(body)), database, {**body, **lists})
    return command, bool(flags & _MORE_TO_COME)


def _framed(question: bytes, reply: Document) -> bytes:
    """Return the message that answers another one."""
    (number, _, kind) = struct.unpack_from("<iii", question, 4)
    if kind == _QUERY:
        data = struct.pack("<iqii", 8, 0, 0, 1) + bson.encode(reply)
        kind = _REPLY
    else:
        data = struct.pack("<IB", 0, 0) + bson.encode(reply)
    stamp = time.monotonic_ns() & 0x7FFFFFFF
    return struct.pack("<iiii", 16 + len(data), stamp, number, kind) + data
