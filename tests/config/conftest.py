"""Configurations made of a dict and variables."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tyk_pump import pumps
from tyk_pump.config.load import Config, load

Read = Callable[..., Config]


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Read:
    """Return a function that loads a text or an object, with variables."""
    monkeypatch.setitem(pumps.REGISTRY, "splunk", "tests.config.fake:FakePump")

    def read(conf: Any, **environ: str) -> Config:
        path = tmp_path / "pump.conf"
        text = conf if isinstance(conf, str) else json.dumps(conf)
        path.write_text(text, encoding="utf-8")
        return load(str(path), environ)

    return read
