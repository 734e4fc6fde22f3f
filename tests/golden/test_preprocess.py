"""What of a record a pump is given: filters, cuts, blanks, decoding, wire forms."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.golden import lines, loader, repair
from tests.golden.conftest import Runner
from tests.golden.loader import Case
from tyk_pump.errors import CodecError
from tyk_pump.record import analytics, codec

CASES = loader.cases("preprocess")
FORMS = "wire-msgpack-rejected"
BODIES = re.compile(rb'("raw_(?:request|response)":)"(?:[^"\\]|\\.)*"')
OMITTED = ("omit-root", "omit-root-and-pump-false", "everything")
"""The reference does not heed omit_detailed_recording of the root; we do."""
WRITTEN_NOW = ("graphql-error-paths",)
"""Records that the reference dropped without a word and that we print."""
TAKEN_NOW = {
    "time-ext4": "written by newer encoders",
    "time-ext8": "written by newer encoders",
    "time-ext12": "written by newer encoders",
    "time-string": "written by newer encoders",
    "time-nil": "read as the zero time",
    "ext-under-unknown-key": "the rest of the record is sound",
}
"""Forms that the reference refuses and we take, with the reason."""


@pytest.mark.parametrize(
    "case", [c for c in CASES if c.name != FORMS], ids=lambda c: c.name
)
def test_preprocess_case(case: Case, run_case: Runner) -> None:
    """What comes out is byte for byte as captured, defects put right."""
    output = run_case(case)
    sections = dict(case.pumps)
    if case.name == "pumps-from-env-only":
        for name in ("p-std", "p-mine"):
            sections[name] = {"type": "stdout", "meta": {"log_field_name": name}}
    sections.pop("bad", None)
    for key, section in sections.items():
        section = {**section, "filters": _filters(case, section)}
        wires = repair.selected(case, section)
        if section.get("type", key).lower() == "csv":
            data = case.expected("csv")[""]
            right = repair.csv_file(case, data, wires, header=True)
            (path,) = output.folder.glob("*.csv")
            assert path.read_bytes() == right
            continue
        field = lines.field_name(section)
        several = len(sections) > 1 and len(case.expected("jsonl")) > 1
        data = case.expected("jsonl")[field if several else ""]
        found = lines.printed(output, field if several else "")
        if case.name == "wire-msgpack":
            new = [one for one in wires if one.name in WRITTEN_NOW]
            place = [wire.name for wire in wires].index(new[0].name)
            assert b'"Path":' in found[place] or b'"path":' in found[place]
            del found[place]
            wires = [wire for wire in wires if wire not in new]
        expected = lines.expected(case, data, wires, output)
        if case.name in OMITTED:
            expected = [_without_bodies(line) for line in expected]
        assert found == expected
    assert output.refused == {}


def test_the_wire_forms_that_are_refused() -> None:
    """Bytes are refused where the reference refuses them, or for a reason taken."""
    case = next(case for case in CASES if case.name == FORMS)
    verdicts = loader.json_lines(case.files["expected.jsonl"])
    wires = {wire.name: wire for _, _, wire in case.pushed()}
    decode = codec.decoder("msgpack", analytics.ALL)
    differ = set()
    for verdict in verdicts:
        try:
            decode(wires[verdict["name"]].msgpack or b"")
            accepted = True
        except CodecError:
            accepted = False
        if accepted != verdict["accepted"]:
            differ.add(verdict["name"])
    assert differ == set(TAKEN_NOW)


def test_an_unknown_name_to_ignore_is_said_once(run_case: Runner) -> None:
    """The reference logs an error for each record, we say it at the start."""
    case = next(case for case in CASES if case.name == "ignore-unknown")
    output = run_case(case)
    said = [text for text in output.messages if text.startswith("ignore_fields")]
    assert len(said) == 1


def _filters(case: Case, section: dict[str, Any]) -> dict[str, list[object]]:
    """Return the filters that a case sets by environment; items are not trimmed."""
    names = {
        "ORGSIDS": "org_ids",
        "APIIDS": "api_ids",
        "SKIPPEDAPIIDS": "skip_api_ids",
        "SKIPPEDORGSIDS": "skip_org_ids",
    }
    codes = {
        "RESPONSECODES": "response_codes",
        "SKIPPEDRESPONSECODES": "skip_response_codes",
    }
    found: dict[str, list[object]] = {}
    for variable, text in case.env.items():
        head, _, last = variable.rpartition("_FILTERS_")
        if not head.startswith("TYK_PMP_PUMPS_"):
            continue
        if last in names:
            found[names[last]] = list(text.split(","))
        else:
            found[codes[last]] = [int(item, 0) for item in text.split(",")]

    return {**section.get("filters", {}), **found}


def _without_bodies(line: bytes) -> bytes:
    return BODIES.sub(rb'\1""', line)
