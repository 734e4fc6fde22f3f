"""The bytes that stand in for the gateway's."""

from __future__ import annotations

from tests.golden import loader
from tyk_pump.record import analytics, codec, wire
from tyk_pump.record.analytics import AnalyticsRecord


def test_the_zero_record_is_the_check_vector() -> None:
    """All zeros take 668 bytes with a long map header."""
    packed = wire.pack(AnalyticsRecord())
    assert len(packed) == 668
    assert packed.startswith(bytes.fromhex("de0023a64d6574686f64a0a4486f7374a0"))


def test_records_go_out_as_the_gateway_wrote_them() -> None:
    """What was read from the corpus is written back byte for byte."""
    decode = codec.decoder("msgpack", analytics.ALL)
    for name in ("traffic", "edge"):
        for line in loader.corpus(name).values():
            assert line.msgpack is not None
            assert wire.pack(decode(line.msgpack)) == line.msgpack


def test_protobuf_records_come_back() -> None:
    """Writing and reading protobuf again gives the same record."""
    decode = codec.decoder("protobuf", analytics.ALL)
    for name in ("traffic", "edge", "agg-extra"):
        for line in loader.corpus(name).values():
            if line.protobuf is not None:
                record = decode(line.protobuf)
                assert decode(wire.pack_protobuf(record)) == record
