"""MongoDB: options, one client per pump, indexes, inserts, and what its errors mean."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import logging
import operator
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, Literal
from urllib.parse import quote, unquote

import msgspec
import pymongo
from bson.int64 import Int64
from bson.objectid import ObjectId
from bson.raw_bson import RawBSONDocument
from pymongo.errors import (
    ConfigurationError,
    DocumentTooLarge,
    InvalidName,
    OperationFailure,
    PyMongoError,
)

from tyk_pump.config.options import Options, Seconds, Secret, TlsOptions, doc
from tyk_pump.errors import CodecError, ConfigError, RejectedRecords, TransientError
from tyk_pump.log import ONCE
from tyk_pump.pumps.protocol import Batch
from tyk_pump.record import bson
from tyk_pump.record.analytics import AnalyticsRecord
from tyk_pump.transport import tls
from tyk_pump.transport.bulk import Bulk, Encode, Part, Refused, Verdict

log = logging.getLogger(__name__)
# At its most talkative it logs commands, and with them what records say.
logging.getLogger("pymongo").setLevel(logging.WARNING)

Client = pymongo.MongoClient[dict[str, Any]]

MEBI: Final = 1024 * 1024
MAX_MESSAGE: Final = bson.MAX_DOCUMENT
"""Bytes of documents in one insert: what the driver puts into a plain command."""
MAX_COUNT: Final = 100_000
"""Documents that servers take in one command."""
MONGODB, DOCUMENTDB, COSMOSDB = 0, 1, 2
"""Values of `mongo_db_type`."""

SELECTION_MS: Final = 4000
"""Time to find a server, where neither the URL nor `operation_timeout` says less."""
_LINE: Final = 300
_DUPLICATE: Final = frozenset({11000, 11001, 12582})
_RECORDS_FAULT: Final = frozenset({2, 9, 14, 22, 52, 55, 56, 57, 121, 10334, 17280})
"""Codes by which a server refuses a command for what stands in a document."""
_INVALID_NAMESPACE: Final = 73
_PASSING: Final = frozenset(
    # Hosts, network, time limits, locks, shutdown, elections, throttling, full disk,
    # missing rights: for one document of many these say nothing about the document.
    {6, 7, 13, 18, 24, 46, 50, 63, 64, 79, 89, 91, 100, 112, 133, 150, 189, 202, 234}
    | {262, 290, 317, 384, 391, 8000, 9001, 10107, 11600, 11601, 11602, 13388, 13435}
    | {13436, 14031, 16500, 50_001}
)


class MongoOptions(Options, frozen=True, kw_only=True):
    """Where the database is and how to reach it."""

    mongo_url: Annotated[
        Secret,
        doc(
            "Connection string; names the database behind the hosts. A password may "
            "stand in it as it is or percent-encoded.",
            example="mongodb://tyk:secret@mongo.example.com:27017/tyk_analytics",
        ),
    ]
    mongo_use_ssl: Annotated[
        bool,
        doc("Connect over TLS. `tls=true` in the URL, or `mongodb+srv`, does it too."),
    ] = False
    mongo_ssl_insecure_skip_verify: Annotated[
        bool, doc("Do not check the server's certificate.")
    ] = False
    mongo_ssl_allow_invalid_hostnames: Annotated[
        bool, doc("Check who has signed the certificate, not the host's name in it.")
    ] = False
    mongo_ssl_ca_file: Annotated[
        str, doc("PEM file of the authorities to believe instead of the system's.")
    ] = ""
    mongo_ssl_pem_keyfile: Annotated[
        str, doc("PEM file that holds the client certificate and its key.")
    ] = ""
    mongo_db_type: Annotated[
        int,
        doc(
            "0 MongoDB, 1 AWS DocumentDB, 2 Azure Cosmos DB. On MongoDB a collection "
            "that exists gets no indexes, on the others it does; Cosmos DB gets none "
            "that removes old documents.",
            ge=0,
            le=2,
            env="MONGO_DB_TYPE",
            bare="MONGO_DB_TYPE",
        ),
    ] = MONGODB
    omit_index_creation: Annotated[bool, doc("Make no indexes.")] = False
    mongo_session_consistency: Annotated[
        str,
        doc(
            "Which server of a replica set is read from: `strong`, the primary; "
            "`monotonic`, the primary while there is one; `eventual`, the nearest. "
            "`readPreference` in the URL comes first."
        ),
    ] = "strong"
    driver: Annotated[
        str,
        doc(
            "Accepted and without effect: one driver does what both of the reference "
            "are for.",
            choices=("mongo-go", "mgo"),
            env="MONGODRIVERTYPE",
            aliases=("mongo_driver_type",),
        ),
    ] = "mongo-go"
    mongo_direct_connection: Annotated[
        bool,
        doc("Speak to the given host alone, whatever replica set it belongs to."),
    ] = False
    operation_timeout: Annotated[
        Seconds,
        doc(
            "Time for one operation, finding a server included (which has 4 s of it at "
            "most), after which it is tried again. `timeoutMS` and "
            "`serverSelectionTimeoutMS` in the URL come first.",
            gt=0,
        ),
    ] = 10.0

    def faults(self) -> Iterator[tuple[str, str]]:
        """An address that cannot be one."""
        try:
            address(self.mongo_url.reveal())
        except ValueError as exc:
            yield "mongo_url", str(exc)


class InsertOptions(MongoOptions, frozen=True, kw_only=True):
    """How many documents go at once, and how large one may be."""

    max_insert_batch_size_bytes: Annotated[
        int,
        doc(
            "Bytes per insert: raw requests and responses, and 1024 for the rest of "
            "each record. 0 stands for the default.",
            ge=0,
        ),
    ] = 10 * MEBI
    max_document_size_bytes: Annotated[
        int,
        doc(
            "Bytes of a record, counted so, beyond which it is too large. 0 stands "
            "for the default.",
            ge=0,
        ),
    ] = 10 * MEBI


class CollectionOptions(InsertOptions, frozen=True, kw_only=True):
    """Which collection is written to."""

    collection_name: Annotated[
        str, doc("Collection to write to.", min_length=1, example="tyk_analytics")
    ]
    collection_cap_enable: Annotated[
        bool,
        doc(
            "Make the collection a capped one: at its size the oldest go. One that "
            "exists stays as it is."
        ),
    ] = False
    collection_cap_max_size_bytes: Annotated[
        int,
        doc("Bytes of a capped collection. 0 stands for the default.", ge=0),
    ] = 5 * 1024 * MEBI

    def faults(self) -> Iterator[tuple[str, str]]:
        """A name that no collection can have."""
        yield from super().faults()
        if "$" in self.collection_name or "\0" in self.collection_name:
            yield "collection_name", "must not hold $ or NUL"


class Address(msgspec.Struct, frozen=True):
    """A connection string, taken apart."""

    scheme: str
    credentials: str
    """Percent-encoded, as they stand before the @."""
    hosts: str
    database: str
    options: Mapping[str, str]
    """By name in small letters."""

    def url(self) -> str:
        """Return the connection string that the driver understands."""
        user = f"{self.credentials}@" if self.credentials else ""
        options = "&".join(f"{name}={text}" for name, text in self.options.items())
        base = f"{self.scheme}{user}{self.hosts}/{quote(self.database, safe='')}"
        return f"{base}?{options}" if options else base


_RENAMED: Final = {
    "ssl": "tls",
    "sslcertificateauthorityfile": "tlscafile",
    "sslclientcertificatekeyfile": "tlscertificatekeyfile",
    "sslclientcertificatekeypassword": "tlscertificatekeyfilepassword",
    "sslinsecure": "tlsinsecure",
    "heartbeatintervalms": "heartbeatfrequencyms",
    "wtimeout": "wtimeoutms",
}
"""What the reference's driver calls by another name."""


def address(url: str) -> Address:
    """Take a connection string apart; ValueError says what is wrong with it."""
    scheme = re.match(r"(?i)mongodb(\+srv)?://", url)
    if not url:
        raise ValueError("missing")
    if scheme is None:
        raise ValueError("does not begin with mongodb:// or mongodb+srv://")
    rest = url[scheme.end() :]
    why = "names no database: it stands behind the hosts and a /"
    # A raw password may hold @, / and ?, and so may an option: the credentials end at
    # the last @ behind which hosts and a database stand.
    ends = [at for at, character in enumerate(rest) if character == "@"]
    for at in [*reversed(ends), -1]:
        body, _, options = rest[at + 1 :].partition("?")
        hosts, _, database = body.partition("/")
        if not hosts or not database:
            continue
        try:
            known = _read(options)
        except ValueError as exc:
            why = str(exc)
            continue
        user = _encoded(rest[: max(at, 0)])
        return Address(scheme[0].lower(), user, hosts, unquote(database), known)
    raise ValueError(why)


def _encoded(user: str) -> str:
    """Return credentials percent-encoded, however they were given."""
    name, colon, password = user.partition(":")
    parts = [quote(unquote(part), safe="") for part in (name, password)]
    return colon.join(parts) if colon else parts[0]


def _read(options: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for item in re.split("[&;]", options):
        name, equals, text = item.partition("=")
        if not item:
            continue
        if not equals or not name:
            raise ValueError("an option behind the ? is not of the form name=value")
        name = _RENAMED.get(name.lower(), name.lower())
        if name == "connect":
            # The driver's own option of this name means something else.
            if text.lower() == "direct":
                found["directconnection"] = "true"
            continue
        found[name] = text
    return found


def _true(text: str | None) -> bool:
    return (text or "").lower() in ("true", "1")


class Mongo:
    """The database of one pump."""

    def __init__(self, options: MongoOptions) -> None:
        self._options = options
        self._address: Address

    def open(self) -> None:
        """Connect, log in and get an answer."""
        try:
            self._address = address(self._options.mongo_url.reveal())
        except ValueError as exc:
            raise ConfigError(f"mongo_url: {exc}") from exc
        self._client = self._connected()
        try:
            with translated():
                # Finds a server, or says soon that there is none: a command would try
                # that again until its own time is over.
                self._client.is_primary  # noqa: B018
                self._client.admin.command("ping")
                self.database = self._client[self._address.database]
        except BaseException:
            self._client.close()
            raise
        place = f"{self._address.hosts}, database {self._address.database}"
        log.info("connected", extra={"reason": place})

    def probe(self) -> str:
        """Say what answers, and whether it lets us in."""
        with translated():
            about = self._client.admin.command("buildInfo")
            self.database.command("ping")
        version = about.get("version", "of an unknown version")
        place = self._address
        return f"MongoDB {version} at {place.hosts}, database {place.database}"

    def close(self) -> None:
        """Close every connection."""
        self._client.close()

    def exists(self, collection: str) -> bool:
        """Say whether there is such a collection."""
        with translated():
            names = self.database.list_collection_names(filter={"name": collection})
        return collection in names

    def command(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """Run a command on the database; return the answer."""
        with translated():
            answer: dict[str, Any] = self.database.command(dict(command))
        return answer

    def insert(self, collection: str, documents: Sequence[bytes]) -> dict[str, Any]:
        """Insert documents, each whether or not others are refused; return the answer.

        Refused: the server, or its driver, does not take these at once.
        """
        if sum(map(len, documents)) > MAX_MESSAGE:
            raise Refused("too large for one message")
        command: dict[str, Any] = {
            "insert": collection,
            "ordered": False,
            "documents": [RawBSONDocument(document) for document in documents],
        }
        concern = self._client.write_concern
        if concern.document and concern.acknowledged:
            command["writeConcern"] = concern.document
        try:
            return self.command(command)
        except TransientError as exc:
            failure = exc.__cause__
            if isinstance(failure, DocumentTooLarge):
                raise Refused(exc.reason) from failure
            if isinstance(failure, OperationFailure):
                _judge(failure, exc)
            raise

    def _connected(self) -> Client:
        given = self._address.options
        timeout = max(1, round(self._options.operation_timeout * 1000))
        chosen: dict[str, Any] = {
            "appname": "tyk-pump",
            "readpreference": self._read_preference(),
            **self._tls(),
        }
        if "timeoutms" not in given:
            chosen["timeoutms"] = timeout
        if "serverselectiontimeoutms" not in given:
            # A server that is away is said soon; the worker tries again.
            chosen["serverselectiontimeoutms"] = min(timeout, SELECTION_MS)
        if self._options.mongo_direct_connection:
            chosen["directconnection"] = True
        made = {key: value for key, value in chosen.items() if key not in given}
        if self._options.mongo_direct_connection:
            made["directconnection"] = True
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                client: Client = pymongo.MongoClient(self._address.url(), **made)
        except (PyMongoError, OSError, ValueError, TypeError) as exc:
            if _is_of_dns(exc):
                raise TransientError(_line(exc)) from exc
            raise ConfigError(f"mongo_url: {_line(exc)}") from exc
        for warning in caught:
            log.warning("mongo_url", extra={**ONCE, "reason": str(warning.message)})
        if not client.write_concern.acknowledged:
            log.warning(
                "w=0 in mongo_url is not followed: writes are confirmed", extra=ONCE
            )
        return client

    def _read_preference(self) -> str:
        asked = self._options.mongo_session_consistency.lower()
        known = {"eventual": "nearest", "monotonic": "primaryPreferred"}
        if asked not in ("", "strong", *known):
            log.warning(
                "mongo_session_consistency %r: taken as strong", asked, extra=ONCE
            )
        return known.get(asked, "primary")

    def _tls(self) -> dict[str, Any]:
        options, given = self._options, self._address.options
        default = options.mongo_use_ssl or self._address.scheme == "mongodb+srv://"
        if not (_true(given["tls"]) if "tls" in given else default):
            if options.mongo_ssl_ca_file or options.mongo_ssl_pem_keyfile:
                log.warning(
                    "mongo_ssl options have no effect without mongo_use_ssl", extra=ONCE
                )
            return {}
        _check_files(options)
        made: dict[str, Any] = {"tls": True}
        if options.mongo_ssl_ca_file:
            made["tlscafile"] = options.mongo_ssl_ca_file
        if options.mongo_ssl_pem_keyfile:
            made["tlscertificatekeyfile"] = options.mongo_ssl_pem_keyfile
        if "tlsinsecure" in given:
            return made
        if options.mongo_ssl_insecure_skip_verify:
            log.warning("the server's certificate is not checked", extra=ONCE)
            made["tlsallowinvalidcertificates"] = True
        elif options.mongo_ssl_allow_invalid_hostnames:
            made["tlsallowinvalidhostnames"] = True
        return made


def _check_files(options: MongoOptions) -> None:
    """Say which option is at fault, as the driver does not."""
    pem = options.mongo_ssl_pem_keyfile
    try:
        tls.context(
            TlsOptions(
                ssl_ca_file=options.mongo_ssl_ca_file,
                ssl_cert_file=pem,
                ssl_key_file=pem,
            )
        )
    except ConfigError as exc:
        _, _, reason = str(exc).partition(": ")
        of_ca = str(exc).startswith("ssl_ca_file")
        name = "mongo_ssl_ca_file" if of_ca else "mongo_ssl_pem_keyfile"
        raise ConfigError(f"{name}: {reason}") from exc


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Turn the driver's exceptions into ours; `__cause__` is the driver's."""
    try:
        yield
    except InvalidName as exc:
        raise ConfigError(f"mongo_url: {_line(exc)}") from exc
    except ConfigurationError as exc:
        if _is_of_dns(exc):
            raise TransientError(_line(exc)) from exc
        raise ConfigError(f"mongo_url: {_line(exc)}") from exc
    except PyMongoError as exc:
        raise TransientError(_line(exc), retry_after=_pause(str(exc))) from exc


def _is_of_dns(exc: Exception) -> bool:
    """Say whether the driver calls that a wrong address which no name server knew."""
    return type(exc.__context__).__module__.startswith("dns.")


def _judge(failure: OperationFailure, exc: TransientError) -> None:
    """Raise what fits better where a command is refused for a document in it."""
    if failure.code == _INVALID_NAMESPACE:
        raise RejectedRecords(exc.reason) from failure
    if failure.code in _RECORDS_FAULT:
        raise Refused(exc.reason) from failure


def _line(exc: Exception | str) -> str:
    """Return the beginning of what a driver says, without its view of all servers."""
    text = " ".join(str(exc).split())
    text = re.split(r", full error: |, Timeout: | \(configured timeouts: ", text)[0]
    return text[:_LINE] or type(exc).__name__


def _pause(text: str) -> float | None:
    """Return the seconds for which a throttling Cosmos DB wants to be left alone."""
    asked = re.search(r"RetryAfterMs=(\d+)", text)
    return int(asked[1]) / 1000 if asked else None


# Indexes and capped collections


class Index(msgspec.Struct, frozen=True):
    """An index to be made."""

    key: dict[str, int]
    name: str
    ttl: bool = False
    """Documents go at the time that stands in the field."""


def single(field: str, *, ttl: bool = False) -> Index:
    """Return the index of one field, under the name that servers give it."""
    return Index({field: 1}, f"{field}_1", ttl)


def log_browser(*fields: str) -> Index:
    """Return the index that the Dashboard's log browser reads by."""
    key = {"timestamp": -1, **dict.fromkeys(fields, 1)}
    return Index({**key, "apikey": 1, "responsecode": 1}, "logBrowserIndex")


RAW_INDEXES: Final = (single("orgid"), single("apiid"), log_browser("orgid", "apiid"))


class Indexes:
    """The indexes of the collections of one kind; each is asked for once."""

    def __init__(
        self, mongo: Mongo, options: MongoOptions, indexes: Sequence[Index]
    ) -> None:
        self._mongo = mongo
        self._type = options.mongo_db_type
        self._indexes = [
            index for index in indexes if not (index.ttl and self._type == COSMOSDB)
        ]
        self._omit = options.omit_index_creation
        self._done: set[str] = set()
        self._begun: set[str] = set()

    def ensure(self, collection: str, *, new: bool = False) -> None:
        """Make the indexes, where they are to be made; a refusal is logged.

        `new`: the collection is one that we have just made.
        """
        if self._omit or collection in self._done:
            return
        try:
            if collection not in self._begun and not new and self._spared(collection):
                self._done.add(collection)
                return
        except TransientError as exc:
            self._note(exc, collection, "the collections")
            self._done.add(collection)
            return
        # From here on the collection may exist because we have begun.
        self._begun.add(collection)
        for index in self._indexes:
            self._make(collection, index)
        self._done.add(collection)

    def _spared(self, collection: str) -> bool:
        return self._type == MONGODB and self._mongo.exists(collection)

    def _make(self, collection: str, index: Index) -> None:
        asked: dict[str, Any] = {
            "key": index.key,
            "background": self._type == MONGODB,
        }
        if index.ttl:
            asked["expireAfterSeconds"] = 0
        asked["name"] = index.name
        try:
            self._mongo.command({"createIndexes": collection, "indexes": [asked]})
        except TransientError as exc:
            if "already exists with a different name" not in exc.reason:
                self._note(exc, collection, f"index {index.name}")

    def _note(self, exc: TransientError, collection: str, what: str) -> None:
        """Log what the server refuses; what the network does is tried again."""
        if not isinstance(exc.__cause__, OperationFailure):
            raise exc
        reason = f"{what} of {collection}: {exc.reason}"
        log.warning("cannot make or see an index", extra={"reason": reason})


def cap(mongo: Mongo, options: CollectionOptions) -> bool:
    """Make the collection a capped one, if it is to be; say whether it was made."""
    name = options.collection_name
    if not options.collection_cap_enable:
        return False
    size = options.collection_cap_max_size_bytes or 5 * 1024 * MEBI
    try:
        if not mongo.exists(name):
            mongo.command({"create": name, "capped": True, "size": Int64(size)})
            return True
        log.warning("collection exists and is not made a capped one: %s", name)
    except TransientError as exc:
        if not isinstance(exc.__cause__, OperationFailure):
            raise
        reason = {"reason": exc.reason}
        log.error("cannot make a capped collection: %s", name, extra=reason)
    return False


# Documents on their way


NOTICE: Final = base64.b64encode(
    b"Document too large, not writing raw request and raw response!"
).decode()
"""Stands in the raw response of a record that was too large."""

Make = Callable[[Any], dict[str, Any] | None]
"""Makes the document of a record, without `_id`; None where none is stored."""
Oversize = Literal["strip", "keep", "refuse"]
"""What becomes of a record that is too large: it goes without its raw request and
response; with them, while MongoDB can hold it; or not at all."""


def identity(kind: str, record_id: str) -> bytes:
    """Return the `_id` of a record in collections of one kind, as twelve bytes.

    Seven are of its stream, five are its position: ids of a stream are in order, which
    an index likes, and no two of them are the same.
    """
    stream, _, position = record_id.rpartition(":")
    return _stream(kind, stream) + int(position).to_bytes(5, "big")


def _stream(kind: str, stream: str) -> bytes:
    return hashlib.blake2b(f"{kind} {stream}".encode(), digest_size=7).digest()


class Inserts:
    """Inserts records: each once in a collection, however often it is sent."""

    def __init__(
        self,
        mongo: Mongo,
        options: InsertOptions,
        *,
        kind: str,
        make: Make,
        oversize: Oversize,
        bodies: Callable[[Any], int] | None = None,
        below: bool = False,
        judge_name: bool = False,
    ) -> None:
        """`kind` sets ids apart from those that other kinds of documents have.

        `bodies`: bytes of what makes a record large, if not its request and response.
        `below`: a batch stays below its limit. `judge_name`: the collection's name
        comes from the records, and a bad one is their fault.
        """
        self._mongo = mongo
        self._kind = kind
        self._make = make
        self._bodies = bodies or _bodies
        self._oversize = oversize
        self._judge_name = judge_name
        self._limit = options.max_document_size_bytes or 10 * MEBI
        flush = min(options.max_insert_batch_size_bytes or 10 * MEBI, 15 * MEBI)
        self._bulk = Bulk(
            max_bytes=2**62,
            flush_bytes=max(1, flush - 1 if below else flush),
            max_count=MAX_COUNT,
            size=operator.itemgetter(0),
        )

    def send(self, batch: Batch, collection: str) -> None:
        """Return when every record is in the collection, else raise a WriteError."""
        self._bulk.send(batch, self._encoder(batch), self._poster(collection))

    def _encoder(self, batch: Batch) -> Encode:
        make, bodies, limit = self._make, self._bodies, self._limit
        kind = self._kind
        prefix = _stream(kind, batch.stream) if batch.ids is None else b""
        positions = batch.positions

        def encode(batch: Batch, index: int) -> tuple[int, bytes] | None:
            record = batch.records[index]
            made = make(record)
            if made is None:
                return None
            if prefix:
                name = prefix + positions[index].to_bytes(5, "big")
            else:
                name = identity(kind, batch.record_id(index))
            size = bodies(record) + 1024
            if size > limit:
                self._too_large(made, f"{size} bytes, the limit is {limit}")
            document = bson.encode(made, name)
            if len(document) <= bson.MAX_DOCUMENT:
                return size, document
            why = f"too large: {len(document)} bytes, MongoDB's limit is {_MOST}"
            if self._oversize == "refuse":
                raise CodecError(why)
            _strip(made)
            document = bson.encode(made, name)
            if len(document) > bson.MAX_DOCUMENT:
                raise CodecError(why)
            return size, document

        return encode

    def _too_large(self, made: dict[str, Any], why: str) -> None:
        if self._oversize == "refuse":
            raise CodecError(f"too large: {why} (max_document_size_bytes)")
        if self._oversize == "strip":
            _strip(made)

    def _poster(self, collection: str) -> Callable[[Part], Verdict]:
        def post(part: Part) -> Verdict:
            documents = [document for _, document in part.items]
            try:
                answer = self._mongo.insert(collection, documents)
            except RejectedRecords as exc:
                if self._judge_name:
                    raise
                raise TransientError(exc.reason) from exc
            return self._verdict(collection, documents, answer)

        return post

    def _verdict(
        self, collection: str, documents: Sequence[bytes], answer: Mapping[str, Any]
    ) -> Verdict:
        verdict = Verdict()
        doubtful: dict[int, str] = {}
        errors = answer.get("writeErrors") or ()
        for error in errors:
            index, text = error["index"], _line(error.get("errmsg", ""))
            if error.get("code") in _DUPLICATE:
                if not _of_id(error):
                    doubtful[index] = text
            elif error.get("code") in _PASSING:
                verdict.pending.append(index)
                verdict.reason = text
                verdict.retry_after = _pause(text)
            else:
                verdict.rejected[index] = text
        if doubtful:
            names = {index: documents[index][_ID] for index in doubtful}
            there = self._present(collection, names.values())
            for index, name in names.items():
                if name not in there:
                    verdict.rejected[index] = doubtful[index]
        concern = answer.get("writeConcernError")
        if concern or answer.get("n", 0) + len(errors) < len(documents):
            # Written perhaps, and not safe: once more, which is no second time.
            counted = f"{answer.get('n', 0)} of {len(documents)} inserts confirmed"
            verdict.reason = _line((concern or {}).get("errmsg", counted))
            rejected = verdict.rejected
            verdict.pending = [i for i in range(len(documents)) if i not in rejected]
        return verdict

    def _present(self, collection: str, names: Iterable[bytes]) -> set[bytes]:
        wanted = [ObjectId(name) for name in names]
        answer = self._mongo.command(
            {
                "find": collection,
                "filter": {"_id": {"$in": wanted}},
                "projection": {"_id": 1},
                "batchSize": len(wanted),
                "singleBatch": True,
            }
        )
        found = answer.get("cursor", {}).get("firstBatch", ())
        return {row["_id"].binary for row in found}


_ID: Final = slice(9, 21)
_MOST: Final = bson.MAX_DOCUMENT


def _bodies(record: AnalyticsRecord) -> int:
    return bson.size(record.raw_request) + bson.size(record.raw_response)


def _strip(made: dict[str, Any]) -> None:
    made["rawrequest"], made["rawresponse"] = "", NOTICE


def _of_id(error: Mapping[str, Any]) -> bool:
    """Say whether a duplicate is one of `_id` for sure: the record has arrived."""
    pattern = error.get("keyPattern")
    if pattern is not None:
        return list(pattern) == ["_id"]
    return re.search(r"index: (\S*\$)?_id_\b", str(error.get("errmsg", ""))) is not None


class Collection:
    """One collection for all records, as three of the pumps have it."""

    def __init__(
        self,
        options: CollectionOptions,
        *,
        kind: str,
        make: Make,
        oversize: Oversize,
        bodies: Callable[[Any], int] | None = None,
        indexes: Sequence[Index] = RAW_INDEXES,
    ) -> None:
        self._options = options
        self._mongo = Mongo(options)
        self._indexes = Indexes(self._mongo, options, indexes)
        self._inserts = Inserts(
            self._mongo,
            options,
            kind=kind,
            make=make,
            oversize=oversize,
            bodies=bodies,
        )

    def open(self) -> None:
        """Connect; make the collection and its indexes, where they are wanted."""
        self._mongo.open()
        try:
            new = cap(self._mongo, self._options)
            self._indexes.ensure(self._options.collection_name, new=new)
        except BaseException:
            self._mongo.close()
            raise

    def probe(self) -> str:
        """Say what answers."""
        return f"{self._mongo.probe()}, collection {self._options.collection_name}"

    def send(self, batch: Batch) -> None:
        """Return when every record is there, else raise a WriteError."""
        if batch.records:
            self._inserts.send(batch, self._options.collection_name)

    def close(self) -> None:
        """Close every connection."""
        self._mongo.close()


GUARANTEE: Final = (
    "Each record once per collection: its `_id` is made of its place in the stream, "
    "and a document that is there already counts as delivered. Once one has been "
    "removed, by a capped collection or an index, its `_id` is forgotten."
)
DIFFERENCES: Final = (
    "`_id` is an ObjectId made of the record's id, the same at each attempt; the time "
    "in it means nothing. Pumps of one type that write to one collection keep a record "
    "there once.",
    "Inserts are unordered: what is refused of a batch stops nothing else. A refused "
    "document becomes a dead letter with the server's words; what the server cannot "
    "take now is sent again, that alone.",
    "Batches go one after the other. None has more than 100,000 documents or 16 MiB.",
    "A document that MongoDB cannot hold, for it has over 16 MiB, becomes a dead "
    "letter, alone, if it is still too large without its raw request and response.",
    "Bytes that are no UTF-8 are stored as U+FFFD, a character per byte, and so is NUL "
    "in a name under `geo.city.names`; before the bytes went out as they were.",
    "An index that cannot be made does not keep the following ones from being made.",
    "A connection that cannot be made is tried again; the process does not end.",
    "The `mongo_ssl_*` options hold for `mongodb+srv` and `tls=true` URLs too, "
    "`directConnection=true` in the URL is followed, and with "
    "`mongo_ssl_insecure_skip_verify` nothing is verified.",
    "`w=0` in the URL is not followed: a write that nobody confirms cannot be trusted.",
    "Passwords with blanks and @ work, as they are or percent-encoded.",
    "The limit of 10 s per operation is `operation_timeout`; the pump's own `timeout` "
    "limits a whole write, whatever it takes.",
)
ONE_COLLECTION: Final = (
    "A collection that is made a capped one gets its indexes on MongoDB too.",
    "A missing `collection_name` is said at the start.",
)
