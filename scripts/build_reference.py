"""Write what is made from the options: docs/reference, the schema, the example file.

With --check nothing is written: the command fails and names the stale files.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Run from a checkout, also where the package is not installed.
sys.path.insert(0, str(ROOT))

from tyk_pump.config import describe  # noqa: E402


def files() -> dict[Path, str]:
    """Return every generated file, by its place in the checkout, with its text."""
    found = {
        Path("docs/reference") / name: text for name, text in describe.pages().items()
    }
    schema = json.dumps(describe.schema(), indent=2) + "\n"
    found[Path("conf/pump.schema.json")] = schema
    found[Path("conf/pump.example.conf")] = describe.example()
    return found


def stale(root: Path = ROOT) -> list[Path]:
    """Return the files that are not what the options say, superfluous ones too."""
    wanted = files()
    found = [
        path
        for path, text in wanted.items()
        if not (root / path).exists()
        or (root / path).read_text(encoding="utf-8") != text
    ]
    pumps = (root / "docs/reference/pumps").glob("*.md")
    return found + [
        path for page in pumps if (path := page.relative_to(root)) not in wanted
    ]


def main() -> int:
    """Write the files, or with --check only name the stale ones."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing")
    arguments = parser.parse_args()
    wanted = files()
    wrong = stale()
    for path in wrong:
        print(f"stale: {path}" if arguments.check else f"written: {path}")
        if arguments.check:
            continue
        target = ROOT / path
        if path not in wanted:
            target.unlink()
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(wanted[path], encoding="utf-8")
    return 1 if arguments.check and wrong else 0


if __name__ == "__main__":
    sys.exit(main())
