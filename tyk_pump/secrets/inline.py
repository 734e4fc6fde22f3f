"""Secrets in the configuration itself: one place for what several options need."""

from __future__ import annotations

from typing import Annotated

from tyk_pump.config.options import Options, Secret, doc
from tyk_pump.errors import SecretError
from tyk_pump.secrets.protocol import Variable


class InlineStoreOptions(Options, frozen=True, kw_only=True):
    """The secrets."""

    data: Annotated[
        dict[str, Secret],
        doc("Path to text; these texts are taken as they are.", literal=True),
    ] = {}


class InlineStore:
    """Reads what stands in its options."""

    options_type = InlineStoreOptions

    def __init__(self, options: InlineStoreOptions) -> None:
        self._data = options.data

    def open(self, variable: Variable) -> None:
        """Nothing to do."""

    def read(self, path: str) -> str:
        """Return the text of exactly this key."""
        if path not in self._data:
            raise SecretError("is not in its data")
        return self._data[path].reveal()

    def close(self) -> None:
        """Nothing is open."""
