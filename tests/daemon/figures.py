"""What the fault laboratory has measured: a line per figure, for `scripts/figures.py`.

`make torture` names the file in `TYK_PUMP_FIGURES`; without it nothing is written.
"""

from __future__ import annotations

import json
import os
from typing import Any

LONG = "TYK_PUMP_FIGURES" in os.environ
"""Whether this is a long run, whose figures somebody will look at."""


def figure(
    name: str,
    value: float,
    *,
    at_most: float | None = None,
    at_least: float | None = None,
    unit: str = "",
    how: str = "sum",
) -> None:
    """Note a figure, with the bound that it has to keep.

    Those of one name become one line of the table: the `sum` of figures and bounds, or
    the `max` or `min` figure.
    """
    path = os.environ.get("TYK_PUMP_FIGURES")
    if not path:
        return
    line: dict[str, Any] = {"name": name, "value": value, "unit": unit, "how": how}
    line |= {"at_most": at_most, "at_least": at_least}
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
