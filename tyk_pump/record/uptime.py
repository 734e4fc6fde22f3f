"""The uptime record: one check of an upstream by the gateway's host checker.

It travels in a Redis list of its own, as msgpack always, and is read as tolerantly as
an analytics record.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import field

from tyk_pump.record import codec, tolerant
from tyk_pump.record.analytics import ZERO_TIME, Int, Time


class UptimeRecord(msgspec.Struct, gc=False):
    """One check, in wire order; every default is the zero value."""

    url: str = field(default="", name="URL")
    request_time: Int = field(default=0, name="RequestTime")
    """Milliseconds."""
    response_code: Int = field(default=0, name="ResponseCode")
    """521 where no connection was made."""
    tcp_error: bool = field(default=False, name="TCPError")
    server_error: bool = field(default=False, name="ServerError")
    day: Int = field(default=0, name="Day")
    month: Int = field(default=0, name="Month")
    year: Int = field(default=0, name="Year")
    hour: Int = field(default=0, name="Hour")
    minute: Int = field(default=0, name="Minute")
    timestamp: Time = field(default=ZERO_TIME, name="TimeStamp")
    expire_at: Time = field(default=ZERO_TIME, name="ExpireAt")
    api_id: str = field(default="", name="APIID")
    org_id: str = field(default="", name="OrgID")

    @property
    def zone(self) -> str:
        """Return the zone of its times: always the local one."""
        return ""


WIRE_NAMES: Final[dict[str, str]] = {
    f.name: f.encode_name for f in msgspec.structs.fields(UptimeRecord)
}
"""Attribute name -> key on the msgpack wire."""

_read: Final = codec.msgpack_reader(
    UptimeRecord, tolerant.Shape(UptimeRecord), has_time=True
)


def decode(payload: bytes) -> UptimeRecord:
    """Return the record of an item of the list; CodecError: it is none."""
    return _read(payload)
