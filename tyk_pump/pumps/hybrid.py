"""Tyk MDCB: records, or what is counted of them, by remote procedure call."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated, Any, ClassVar, Final

import msgspec

from tyk_pump.aggregate.dimensions import Family
from tyk_pump.config.options import Seconds, Secret, TlsOptions, doc
from tyk_pump.errors import CodecError, RejectedRecords, TransientError, WriteError
from tyk_pump.log import ONCE
from tyk_pump.pumps.protocol import Batch
from tyk_pump.record import analytics, json
from tyk_pump.record.analytics import AnalyticsRecord
from tyk_pump.transport import gorpc
from tyk_pump.transport.bulk import Bulk, Encode, Part, Refused, Verdict
from tyk_pump.transport.gorpc import Call, CallError, Client, Unanswered, Unreachable
from tyk_pump.transport.mdcb_aggregates import Group, Sorter, odd_times

log = logging.getLogger(__name__)

RECORDS: Final = "PurgeAnalyticsData"
AGGREGATES: Final[dict[Family, str]] = {
    "api": "PurgeAnalyticsDataAggregated",
    "mcp": "PurgeAnalyticsDataMCPAggregated",
}
NOTHING: Final = b"{}"
CALL_SECONDS: Final = 10.0
POOL: Final = 5
WAITS: Final = 5
"""How often we wait for a late answer, a time-out each, before we send again."""
_LARGEST: Final = 1 << 30
"""More bytes than any record has: one that is larger than a part goes alone."""


class HybridOptions(TlsOptions, frozen=True, kw_only=True):
    """Where MDCB is, who we are there, and what it gets."""

    connection_string: Annotated[
        str, doc("`host:port` of MDCB or its load balancer.", example="localhost:9090")
    ] = ""
    api_key: Annotated[
        Secret, doc("API key of the Dashboard user that MDCB lets in.")
    ] = Secret()
    rpc_key: Annotated[
        str, doc("Accepted; the organisation's id is not asked for by MDCB.")
    ] = ""
    group_id: Annotated[str, doc("Accepted; only gateways belong to a group.")] = ""
    call_timeout: Annotated[
        Seconds,
        doc(
            "Time to connect, and to wait for the answer to a call. In seconds, "
            "whatever the reference's page says; 0 stands for the default.",
            ge=0,
        ),
    ] = CALL_SECONDS
    ping_timeout: Annotated[
        Seconds, doc("Accepted; `call_timeout` is for every call.", ge=0)
    ] = 60.0
    rpc_pool_size: Annotated[
        int,
        doc(
            "Calls side by side, each on a connection of its own that is opened when "
            "it is needed. 0 stands for the default, less for 1."
        ),
    ] = POOL
    use_ssl: Annotated[
        bool, doc("Connect over TLS; the `ssl_` options are for that.")
    ] = False
    aggregated: Annotated[
        bool, doc("Send what is counted of the records, not the records.")
    ] = False
    track_all_paths: Annotated[
        bool, doc("Count the paths of all records, not only of those that ask for it.")
    ] = False
    ignore_tag_prefix_list: Annotated[
        list[str], doc("Tags that begin with one of these are not counted.")
    ] = []
    store_analytics_per_minute: Annotated[
        bool, doc("Count by the minute instead of the hour.")
    ] = False
    enable_mcp_aggregation: Annotated[
        bool,
        doc(
            "Count MCP calls, too. MDCB must know the function "
            "`PurgeAnalyticsDataMCPAggregated`; else they become dead letters."
        ),
    ] = False
    batch_size: Annotated[int, doc("Records in a call at most.", gt=0)] = 5000
    batch_bytes: Annotated[
        int,
        doc("Bytes of JSON in a call at most; a larger record goes alone.", gt=0),
    ] = 4 * 1024 * 1024

    def faults(self) -> Iterator[tuple[str, str]]:
        """The address is needed."""
        yield from super().faults()
        if not self.connection_string:
            yield "connection_string", "missing"
        else:
            try:
                gorpc.address(self.connection_string)
            except ValueError as exc:
                yield "connection_string", str(exc)

    @property
    def pool(self) -> int:
        """Return how many calls there are side by side."""
        return max(1, self.rpc_pool_size or POOL)

    @property
    def patience(self) -> float:
        """Return the seconds that a call may take."""
        return self.call_timeout or CALL_SECONDS


class _Late(msgspec.Struct, eq=False):
    """A call whose answer has not come in time, and the ids of its records."""

    call: Call
    ids: Sequence[str]
    waits: int = 0


class _Outcome:
    """What became of each record of a batch."""

    def __init__(self, count: int) -> None:
        self._open = set(range(count))
        self._waiting: set[int] = set()
        self._rejected: dict[int, str] = {}
        self._reason = ""

    def to_send(self) -> list[int]:
        """Return those that are not settled, and of no call that is waited for."""
        return sorted(self._open - self._waiting)

    def arrived(self, indexes: Iterable[int]) -> None:
        """These are settled."""
        self._open.difference_update(indexes)

    def waits(self, indexes: Iterable[int], reason: str) -> None:
        """The answer for these may come yet."""
        self._waiting.update(indexes)
        self.failed(reason)

    def failed(self, reason: str) -> None:
        """Say why some stay open; the first reason counts."""
        self._reason = self._reason or reason

    def note(self, indexes: Sequence[int], exc: WriteError) -> None:
        """Of these, some have not arrived."""
        stay = range(len(indexes)) if exc.pending is None else exc.pending
        self._rejected |= {indexes[at]: why for at, why in exc.rejected.items()}
        self.arrived(set(indexes) - {indexes[at] for at in stay})

    def raise_if_incomplete(self) -> None:
        """Raise the error that names what has not arrived."""
        if self._open:
            raise TransientError(
                self._reason, pending=sorted(self._open), rejected=self._rejected
            )
        if self._rejected:
            reason = next(iter(self._rejected.values()))
            raise RejectedRecords(reason, rejected=self._rejected)


class HybridPump:
    """Send records, or aggregates, to MDCB."""

    options_type: ClassVar[type[HybridOptions]] = HybridOptions
    fields: tuple[str, ...] = analytics.ALL
    guarantee: Final = (
        "At least once, for records and aggregates alike: MDCB knows no identifiers, "
        "so what it gets twice it counts twice. Which records each call had is kept "
        "while the worker lives: what MDCB has accepted is not sent again, whatever "
        "becomes of the other calls of a batch. A late answer is waited for, five more "
        "times `call_timeout`, before the call is repeated. A call is repeated after "
        "an error that MDCB names, after that wait, when the connection ends before "
        "the answer, and for a batch in hand when the worker dies: in the last three "
        "MDCB may have the records already."
    )
    differences: Final = (
        "What fails is sent again until MDCB has it; the reference loses the batch.",
        "MDCB may be away at the start and refuse the key for a while: the pump waits. "
        "A refused key is called just that, not a failed connection.",
        "One client: connections are opened when they are needed, at most "
        "`rpc_pool_size` beside those whose answer is late, closed before others take "
        "their place, and asked whether the other end is still there. The reference "
        "leaves whole pools behind, and what waits in them is sent long after it has "
        "been given up.",
        "A large batch goes in several calls (`batch_size`, `batch_bytes`).",
        "Each record is counted in its own hour or minute, in a call for each; the "
        "reference takes that of the organisation's first record.",
        "MCP aggregates are made by organisation and API, with `track_all_paths` and "
        "`ignore_tag_prefix_list`.",
        "Network numbers without a hit, then an error of the same API, are counted; "
        "the reference dies of it. `error_map` is never null.",
        "A counter's `last_time` is that of its latest record, `expireAt` the latest "
        "of all; errors make no minimum beside other answers.",
        "Records that no aggregate counts (GraphQL, MCP unless asked for, without an "
        "organisation) are counted as filtered, and the log says so.",
        "`ssl_ca_file`, client certificates and `ssl_server_name` work beside "
        "`ssl_insecure_skip_verify`; without `use_ssl` a warning says that the API key "
        "can be read on the way.",
        "`meta_env_prefix`, and the environment of a pump of another name, work.",
    )

    def __init__(self, options: HybridOptions) -> None:
        self._options = options
        self._sorter: Sorter | None = None
        if options.aggregated:
            self._sorter = Sorter(
                window=1 if options.store_analytics_per_minute else 60,
                track_all_paths=options.track_all_paths,
                ignored_tag_prefixes=options.ignore_tag_prefix_list,
                mcp=options.enable_mcp_aggregation,
            )
            self.fields = self._sorter.fields

    def open(self) -> None:
        """Connect and log in."""
        options = self._options
        if options.api_key and not options.use_ssl:
            said = "use_ssl is off: the API key can be read on its way to MDCB"
            log.warning(said, extra=ONCE)
        self._client = Client(
            gorpc.address(options.connection_string),
            options if options.use_ssl else None,
            size=options.pool,
            timeout=options.patience,
        )
        self._bulk = Bulk(
            max_bytes=_LARGEST,
            flush_bytes=options.batch_bytes,
            max_count=options.batch_size,
            workers=options.pool,
            overhead=2,
            # What a record adds to counters is known when it is counted.
            size=_nothing if options.aggregated else len,
        )
        self._late: list[_Late] = []
        self._left_out: set[str] = set()
        self._is_known = False
        try:
            self._connect()
        except BaseException:
            self.close()
            raise

    def probe(self) -> str:
        """Call MDCB and log in."""
        self._connect()
        return f"{self._options.connection_string} answers and takes the API key"

    def write(self, batch: Batch) -> None:
        """Return when MDCB has accepted every record, else raise a WriteError."""
        if not len(batch):
            return
        outcome = _Outcome(len(batch))
        self._ask_again(batch, outcome)
        if outcome.to_send():
            try:
                self._log_in()
                self._send(batch, outcome)
            except TransientError as exc:
                outcome.failed(exc.reason)
        outcome.raise_if_incomplete()

    def close(self) -> None:
        """Close every connection."""
        for late in self._late:
            self._client.drop(late.call)
        self._bulk.close()
        self._client.close()

    # Who we are

    def _connect(self) -> None:
        """Begin as a new client: say hello and log in."""
        self._is_known = False
        self._client.renew()
        # Only that there is an answer matters, whatever it is.
        self._call("Ping")
        self._check(self._call("Login", self._options.api_key.reveal()))
        self._is_known = True

    def _log_in(self) -> None:
        """Log in, as before every write: a licence may have expired meanwhile."""
        if not self._is_known:
            self._connect()
            return
        try:
            accepted = self._call("Login", self._options.api_key.reveal())
        except (Unanswered, Unreachable):
            # Whoever waits longer holds up the stop; the worker tries again.
            self._is_known = False
            raise
        except TransientError as exc:
            log.info("login failed, connecting anew", extra={"reason": exc.reason})
            self._connect()
            return
        self._check(accepted)

    def _call(self, function: str, argument: str | bytes | None = None) -> Any:
        try:
            return self._client.call(function, argument)
        except Unanswered as exc:
            if exc.call is not None:
                self._client.drop(exc.call)
            raise

    def _check(self, accepted: Any) -> None:
        if accepted is True:
            return
        place = self._options.connection_string
        if accepted is False:
            raise TransientError(f"{place}: RPC login incorrect: the key is refused")
        raise TransientError(f"{place}: Login was answered with no yes and no no")

    # What we send

    def _send(self, batch: Batch, outcome: _Outcome) -> None:
        """Send what is open, call by call; the first failure ends it."""
        if self._sorter is None:
            part = outcome.to_send()
            self._deliver(batch, part, outcome, _record, self._post_records)
            return
        for group in self._sorted(self._sorter, batch, outcome):
            post = functools.partial(self._post_counts, self._sorter, group.family)
            self._deliver(batch, group.indexes, outcome, _itself, post)

    def _deliver(
        self,
        batch: Batch,
        indexes: Sequence[int],
        outcome: _Outcome,
        encode: Encode,
        post: Callable[[Batch, Part], Verdict | None],
    ) -> None:
        """Send these records of a batch in calls of the size that is asked for."""
        part = batch if len(indexes) == len(batch) else batch.part(indexes)
        try:
            self._bulk.send(part, encode, functools.partial(post, part))
        except TransientError as exc:
            outcome.note(indexes, exc)
            raise
        except RejectedRecords as exc:
            outcome.note(indexes, exc)
        else:
            outcome.arrived(indexes)

    def _sorted(
        self, sorter: Sorter, batch: Batch, outcome: _Outcome
    ) -> Sequence[Group]:
        groups, left_out = sorter.sort(batch.records, outcome.to_send())
        if not any(group.family == "api" for group in groups):
            # As ever: MDCB hears of us with each batch, whatever there is to say.
            self._call(AGGREGATES["api"], NOTHING)
        for reason, indexes in left_out.items():
            outcome.arrived(indexes)
            batch.left_out += len(indexes)
            self._say(reason, len(indexes))
        return groups

    def _say(self, reason: str, records: int) -> None:
        level = logging.DEBUG if reason in self._left_out else logging.WARNING
        self._left_out.add(reason)
        extra = {"records": records, "reason": reason}
        log.log(level, "records that no aggregate counts", extra=extra)

    def _post_records(self, batch: Batch, part: Part) -> None:
        self._purge(batch, part, RECORDS, b"[" + b",".join(part.items) + b"]")

    def _post_counts(
        self, sorter: Sorter, family: Family, batch: Batch, part: Part
    ) -> Verdict | None:
        try:
            counts = sorter.payload(part.items, family)
        except CodecError as exc:
            odd = odd_times(part.items)
            if not odd:
                raise RejectedRecords(str(exc)) from exc
            again = [offset for offset in range(len(part)) if offset not in odd]
            return Verdict(rejected=odd, again=again)
        if len(counts) > self._options.batch_bytes and len(part) > 1:
            raise Refused("too large")
        try:
            self._purge(batch, part, AGGREGATES[family], counts)
        except CallError as exc:
            if family == "mcp" and exc.missing:
                # It will not be there tomorrow, and the other records cannot wait.
                raise RejectedRecords(exc.reason) from exc
            raise
        return None

    def _purge(self, batch: Batch, part: Part, function: str, argument: bytes) -> None:
        """Make a call; what records it had is remembered if no answer comes."""
        try:
            self._client.call(function, argument)
        except Unanswered as exc:
            if exc.call is not None:
                ids = [batch.record_id(index) for index in part.indexes]
                self._late.append(_Late(exc.call, ids))
            raise

    def _ask_again(self, batch: Batch, outcome: _Outcome) -> None:
        """Look for answers that were late: what they accept is not sent again."""
        if not self._late:
            return
        known = {batch.record_id(index): index for index in range(len(batch))}
        until = time.monotonic() + self._options.patience
        for late in list(self._late):
            indexes = [known[one] for one in late.ids if one in known]
            if not indexes:  # given up meanwhile
                self._forget(late)
                continue
            try:
                self._client.wait(late.call, until - time.monotonic())
            except Unanswered as exc:
                late.waits += 1
                if late.waits < WAITS:
                    outcome.waits(indexes, exc.reason)
                else:
                    log.warning("no answer, sent again", extra={"reason": exc.reason})
                    self._forget(late)
            except CallError:
                self._late.remove(late)  # not done, and said so: sent again
            except TransientError:
                self._forget(late)  # lost: sent again
            else:
                self._late.remove(late)
                outcome.arrived(indexes)

    def _forget(self, late: _Late) -> None:
        self._late.remove(late)
        self._client.drop(late.call)


def _record(batch: Batch, index: int) -> bytes:
    return json.encode(batch.records[index])


def _itself(batch: Batch, index: int) -> AnalyticsRecord:
    return batch.records[index]


def _nothing(_: AnalyticsRecord) -> int:
    return 0
