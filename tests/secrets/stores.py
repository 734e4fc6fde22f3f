"""Stores made of options, as a declaration makes them, and what they say."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tyk_pump import secrets
from tyk_pump.config.environment import Variables
from tyk_pump.config.load import _Loader
from tyk_pump.errors import SecretError
from tyk_pump.secrets.protocol import Store


@contextlib.contextmanager
def opened(
    kind: str, environ: dict[str, str] | None = None, /, **config: Any
) -> Iterator[Store]:
    """Yield an open store of this type; its options are without fault."""
    made = secrets.load(kind)
    variables = Variables(environ or {})
    faults: list[str] = []
    loader = _Loader(variables)
    options = loader.store_options(made.options_type, config, "config", faults.append)
    assert faults == []
    store = made(options)
    store.open(variables.get)
    try:
        yield store
    finally:
        store.close()


def faults_of(
    kind: str, environ: dict[str, str] | None = None, /, **config: Any
) -> list[str]:
    """Return what is wrong with a store's options."""
    found: list[str] = []
    loader = _Loader(Variables(environ or {}))
    loader.store_options(secrets.load(kind).options_type, config, "c", found.append)
    return found


def refused(read: Callable[[str], str], path: str, *, passing: bool = False) -> str:
    """Return why there is no text at this path."""
    with pytest.raises(SecretError) as caught:
        read(path)
    assert caught.value.passing is passing, str(caught.value)
    return str(caught.value)
