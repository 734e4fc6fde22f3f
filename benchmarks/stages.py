"""Each stage by itself: decode, select, encode, aggregate, write, and the frame."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from benchmarks.yardstick import Measured, compare
from tyk_pump import channel, pumps
from tyk_pump.aggregate.aggregator import Aggregator
from tyk_pump.config.root import Filters, PumpConfig, RootOptions
from tyk_pump.pumps.protocol import Batch
from tyk_pump.record import analytics, json
from tyk_pump.record.codec import decoder
from tyk_pump.worker import select

STREAM = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
LIST = "analytics-tyk-system-analytics"
FEW = (
    *("method", "path", "response_code", "api_key", "timestamp"),
    *("api_name", "api_id", "org_id", "request_time"),
)
"""Nine fields, as a pump of counters reads them."""
ROUNDS_IN_BATCH = 10
"""How often the records are in the batch that is aggregated: about a window of them."""


def measure(raws: Sequence[bytes], rounds: int) -> Iterator[Measured]:
    """Yield one measurement per stage."""
    for name, action in stages(raws):
        yield compare(name, action, raws, rounds=rounds)
    batch = list(raws) * ROUNDS_IN_BATCH
    for name, action in aggregating(batch):
        yield compare(name, action, batch, rounds=rounds, times=1)


def stages(raws: Sequence[bytes]) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield the name of each stage and what does it once for all records."""
    few, every = decoder("msgpack", FEW), decoder("msgpack", analytics.ALL)
    yield "decode, nine fields", lambda: [few(raw) for raw in raws]
    yield "decode, all fields", lambda: [every(raw) for raw in raws]

    records = [every(raw) for raw in raws]
    yield "select, six filters", selecting(records)
    yield "encode JSON", lambda: [json.encode(record) for record in records]

    frame = channel.encode_frame(STREAM, LIST, "msgpack", 0, None, raws)
    yield (
        "frame, encode",
        lambda: channel.encode_frame(STREAM, LIST, "msgpack", 0, None, raws),
    )
    yield "frame, decode", lambda: channel.decode_frame(frame)
    yield from writing(records)


def aggregating(raws: Sequence[bytes]) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield how a batch is counted: of many hours, and of one where none are alike."""
    subject = Aggregator("api")
    decode = decoder("msgpack", subject.fields)
    yield "decode for aggregates", lambda: [decode(raw) for raw in raws]
    usual = [decode(raw) for raw in raws]
    yield "aggregate, 50 hours", lambda: subject.aggregate(usual)
    unlike = [decode(raw) for raw in raws]
    for number, record in enumerate(unlike):
        record.timestamp = usual[0].timestamp
        record.api_key = f"{record.api_key}{number}"
    yield "aggregate, new keys", lambda: subject.aggregate(unlike)


def selecting(records: Sequence[Any]) -> Callable[[], object]:
    """Return a pass of all records through filters that let them all through."""
    filters = Filters(
        org_ids=sorted({record.org_id for record in records}),
        api_ids=sorted({record.api_id for record in records}),
        response_codes=sorted({record.response_code for record in records}),
        skip_org_ids=["none"],
        skip_api_ids=["none"],
        skip_response_codes=[-7],
    )
    config = PumpConfig(name="BENCH", type="dummy", filters=filters)
    wanted = select.compile(config, RootOptions(), analytics.ALL).select
    # None means that nothing is to be selected, which filters rule out.
    assert wanted is not None
    return lambda: [wanted(record) for record in records]


def writing(records: Sequence[Any]) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield the writes of the pumps that need no server."""
    with tempfile.TemporaryDirectory() as folder:
        csv = open_pump("csv", {"csv_dir": folder, "fsync": False})
        first = 0

        def write_csv() -> None:
            # Positions must move on: the folder remembers which rows it has.
            nonlocal first
            csv.write(batch(records, first))
            first += len(records)

        yield "write CSV, without fsync", write_csv
        csv.close()


def batch(records: Sequence[Any], first: int) -> Batch:
    """Return the records as a worker hands them to a pump."""
    return Batch(
        stream=STREAM,
        lane=0,
        list=LIST,
        positions=range(first, first + len(records)),
        records=records,
    )


def open_pump(name: str, options: dict[str, Any]) -> Any:
    """Return an open pump, its options as an operator would give them."""
    kind: Any = pumps.load(name)
    pump = kind(msgspec.convert(options, kind.options_type))
    pump.open()
    return pump
