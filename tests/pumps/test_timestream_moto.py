"""Timestream as moto imitates it: what stands in the table, read back in process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.moto_api._internal.models import moto_api_backend
from moto.server import ThreadedMotoServer
from moto.timestreamwrite.models import timestreamwrite_backends

from tests.pumps.config import opened
from tests.pumps.test_timestream import batch, numbered, record
from tyk_pump.errors import TransientError

REGION = "us-east-1"
ACCOUNT = "123456789012"


@pytest.fixture
def moto() -> Iterator[str]:
    """Moto's server in this process, with a table."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    client: Any = boto3.client(
        "timestream-write",
        region_name=REGION,
        endpoint_url=url,
        aws_access_key_id="k",
        aws_secret_access_key="s",
    )
    try:
        client.create_database(DatabaseName="tyk")
        client.create_table(DatabaseName="tyk", TableName="analytics")
        yield url
    finally:
        client.close()
        moto_api_backend.reset()
        server.stop()


def options(url: str, **more: Any) -> dict[str, Any]:
    """Return options of a pump that writes there."""
    return {
        "aws_region": REGION,
        "aws_key": "k",
        "aws_secret": "s",
        "aws_endpoint": url,
        "timestream_database_name": "tyk",
        "timestream_table_name": "analytics",
        "dimensions": ["APIName", "Path"],
        "measures": ["ResponseCode", "RequestTime", "RawResponse"],
        **more,
    }


def test_what_stands_in_the_table(moto: str, tmp_path: Path) -> None:
    """Each record, in order, with its dimensions, its measures and its time."""
    pump = opened(tmp_path, "timestream", options(moto))
    assert pump.probe().startswith("tyk.analytics is ACTIVE")
    pump.write(batch(record("first", path="/p", raw_response="r"), *numbered(120)))
    pump.close()
    backend = timestreamwrite_backends[ACCOUNT][REGION]
    kept = backend.databases["tyk"].tables["analytics"].records
    assert len(kept) == 121
    assert kept[0] == {
        "Dimensions": [
            {"Name": "APIName", "Value": "first", "DimensionValueType": "VARCHAR"},
            {"Name": "Path", "Value": "/p", "DimensionValueType": "VARCHAR"},
        ],
        "MeasureValues": [
            {"Name": "ResponseCode", "Type": "BIGINT", "Value": "200"},
            {"Name": "RequestTime", "Type": "BIGINT", "Value": "37"},
            {"Name": "RawResponseSize", "Type": "BIGINT", "Value": "1"},
            {"Name": "RawResponse0", "Type": "VARCHAR", "Value": "r"},
        ],
        "Time": "1741183629000000007",
    }
    found = [one["Dimensions"][0]["Value"] for one in kept[1:]]
    assert found == [f"n{number:03}" for number in range(120)]


def test_a_table_that_is_not_there(moto: str, tmp_path: Path) -> None:
    """Is waited for: someone may make it."""
    missing = options(moto, timestream_table_name="nowhere")
    pump = opened(tmp_path, "timestream", missing)
    with pytest.raises(TransientError, match="ResourceNotFound"):
        pump.probe()
    with pytest.raises(TransientError, match="ResourceNotFound"):
        pump.write(batch(record()))
    pump.close()
