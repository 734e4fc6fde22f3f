"""One pump as the command loads it from a configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tyk_pump import pumps
from tyk_pump.config.load import Config, load
from tyk_pump.pumps.protocol import Pump


def loaded(folder: Path, kind: str, meta: dict[str, Any] | None) -> Config:
    """Return the configuration of one pump; its section has no `meta` for None."""
    section = {"type": kind, **({} if meta is None else {"meta": meta})}
    path = folder / "pump.conf"
    path.write_text(json.dumps({"pumps": {"x": section}}))
    return load(str(path), {})


def opened(folder: Path, kind: str, meta: dict[str, Any]) -> Pump:
    """Return an open pump of a configuration without faults."""
    config = loaded(folder, kind, meta)
    assert config.every_fault() == []
    pump = pumps.load(kind)(config.pumps[0].options)
    pump.open()
    return pump
