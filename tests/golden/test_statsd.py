"""The statsd pump sends the metrics that the reference sent, in fewer datagrams."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.golden import loader, repair
from tests.golden.deliver import deliver
from tests.golden.loader import Case
from tests.servers.receiver import UdpReceiver, keeping_up
from tyk_pump.transport.packets import UDP_SIZE

CASES = loader.cases("statsd")
NOT_RUN: dict[str, str] = {}
"""Case -> why it is left out."""
ODD = {
    "unicode-line-separators": "JSON escapes",
    "html-chars": "JSON escapes, and the backslashes of dropped quotes",
    "control-chars": "JSON escapes",
    "invalid-utf8": "JSON escapes",
    "csv-specials": "the backslashes of dropped quotes",
    "influx-specials": "doubled backslashes",
    "statsd-specials": "characters of the protocol",
    "ipv6": "characters of the protocol",
    "percent-in-fields": "percent signs are taken for format verbs",
}
"""Record -> what is wrong with some lines of it in the capture."""


@pytest.fixture
def receiver() -> Iterator[UdpReceiver]:
    """Takes what is sent."""
    with UdpReceiver() as made:
        yield made


def plain(text: str) -> str:
    """Return a value as it stands in a name: lower case, no quotes, no spaces, and
    nothing that the protocol knows."""
    text = text.lower().replace('"', "").replace(" ", "")
    return re.sub(r"[\x00-\x1f\x7f:|@#]", "_", text)


def line(case: Case, name: str, field: str) -> str:
    """Return the right line of an odd record, from what is known of its values."""
    shown: dict[str, Any] = repair.shown()[name]
    meta = case.about["pump"]["meta"]
    texts = []
    for tag in meta["tags"]:
        if tag == "path":
            path = shown["path"].rstrip("/")
            method = "" if meta.get("separated_method") else shown["method"]
            texts.append(plain(method + path))
        elif tag == "time_stamp":
            moment = re.sub(r"\.\d+", "", shown["timestamp"]).replace("T", " ")
            texts.append(plain(moment.replace(":", "-").replace("Z", "+0000utc")))
        else:
            texts.append(plain(str(shown[tag])))
    latency = shown["latency"]
    values = {"request_time": shown["request_time"]}
    values |= {f"latency_{part}": latency[part] for part in latency}
    if case.codec == "protobuf":
        # That form does not carry it.
        values["latency_gateway"] = "0"
    return f"{field}.{'.'.join(texts)}:{values[field]}|ms"


def expected(case: Case) -> list[str]:
    """Return the right lines."""
    found = [row.get("data") for row in loader.json_lines(case.expected("jsonl")[""])]
    names = [wire.name for _, _, wire in case.pushed()]
    if case.name == "odd-values":
        return [_odd_value(name, text) for name, text in zip(names, found, strict=True)]
    if not found:
        return []
    each = len(found) // len(names)
    owners = [name for name in names for _ in range(each)]
    fields = case.about["pump"]["meta"]["fields"] * len(names)
    for at, owner in enumerate(owners):
        if owner in ODD and case.about["corpus"] == "edge":
            found[at] = line(case, owner, fields[at])
        elif owner in repair.UNKNOWN_ZONES and case.codec == "protobuf":
            # The zone's name is unknown, the instant is not.
            found[at] = line(case, owner, fields[at])
    return found


def _odd_value(name: str, text: str) -> str:
    """Return the right line of a record whose API has an odd name."""
    values = [
        *("50%", "a%sb", "%d%d", "100%%", "%host", "a_b", "a_b", "a,b", "a_b"),
        *("a_0.1", "tab_here", "nl_here", "cr_here", "quote", "back\\slash", "<&>"),
        *("\u2028", "äö", "a.b", "space", "nul_", "emoji😀", ""),
    ]
    value = values[int(name.rpartition("-")[2])]
    made = f"request_time.{value}.5e9d9544a1dcd60001d0ed20:6|ms"
    if not re.search(r"[%\\]|:.*:|[|@#].*\|ms", text):
        assert made == text
    return made


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_statsd_case(
    case: Case,
    receiver: UdpReceiver,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each line is byte for byte the reference's, in its order."""
    if case.name in NOT_RUN:
        pytest.skip(NOT_RUN[case.name])
    live = {"host": "127.0.0.1", "port": str(receiver.port)}
    with keeping_up(receiver):
        done = deliver(case, live, tmp_path, monkeypatch)
    assert done.refused == {} and done.settled == len(case.pushed())
    assert [
        line for data in receiver.datagrams for line in data.decode().split("\n")
    ] == expected(case)
    for data in receiver.datagrams:
        assert len(data) <= UDP_SIZE or b"\n" not in data


def test_odd_records_are_odd() -> None:
    """Each of them is wrong in the capture; all others are compared as they are."""
    case = next(case for case in CASES if case.name == "edge-all-tags")
    captured = [row["data"] for row in loader.json_lines(case.expected("jsonl")[""])]
    names = [wire.name for _, _, wire in case.pushed()]
    wrong = {
        name
        for name, was, right in zip(names, captured, expected(case), strict=True)
        if was != right
    }
    assert wrong == {*ODD}
