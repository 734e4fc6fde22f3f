"""The csv pump writes what the reference wrote, its defects put right."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.golden import loader, repair
from tests.golden.conftest import Runner
from tests.golden.loader import Case
from tests.golden.run import Output

CASES = loader.cases("csv")
NOT_RUN: dict[str, str] = {}
"""Case -> why it is left out."""


def _written(output: Output, section: dict[str, object]) -> Path | None:
    folder = str(section["meta"]["csv_dir"]).format(path=output.folder)  # type: ignore[index]
    files = list(Path(folder).glob("*.csv"))
    assert len(files) <= 1
    return files[0] if files else None


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_csv_case(case: Case, run_case: Runner) -> None:
    """Each file is byte for byte as captured: signs, coordinates and header right."""
    if case.name in NOT_RUN:
        pytest.skip(NOT_RUN[case.name])
    output = run_case(case)
    expected = case.expected("csv")
    for section in case.pumps.values():
        meta = section["meta"]["csv_dir"].removeprefix("{path}").strip("/")
        name = meta.replace("/", ".")
        if case.name == "env-dir":
            section, name = {"meta": {"csv_dir": "{path}/from-env"}}, "from-env"
        data = expected[name]
        before = "".join(case.about.get("before", {}).values()).encode()
        wires = repair.selected(case, section)
        path = _written(output, section)
        if not wires:
            # A file with nothing but the header is not needed.
            assert path is None or path.read_bytes() == data
            continue
        assert path is not None
        if before:
            # The reference joins its first row to the last one of the file.
            rows = data.removeprefix(before)
            right = repair.csv_file(case, rows, wires, header=False)
            assert path.read_bytes() == before + b"\n" + right
        elif "before" in case.about:
            # The reference writes no header into an empty file.
            right = repair.csv_file(case, data, wires, header=False)
            head, _, rest = path.read_bytes().partition(b"\n")
            assert head.startswith(b"Method,Host,")
            assert rest == right
        else:
            right = repair.csv_file(case, data, wires, header=True)
            assert path.read_bytes() == right


def test_the_folder_of_the_file_option_is_not_made(run_case: Runner) -> None:
    """Where the environment names the folder, the file's folder stays absent."""
    case = next(case for case in CASES if case.name == "env-dir")
    output = run_case(case)
    assert not (output.folder / "from-file").exists()
