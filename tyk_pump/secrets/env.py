"""Secrets in environment variables: a path is what follows the prefix."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from tyk_pump.config.options import Options, doc
from tyk_pump.secrets.protocol import Variable


class EnvStoreOptions(Options, frozen=True, kw_only=True):
    """Which variables hold secrets. One that is not set is an empty text."""

    prefix: Annotated[
        str, doc("What the names begin with; not to be empty.", example="TYK_SECRET_")
    ] = ""
    uppercase: Annotated[
        bool, doc("Put the path in capitals before it follows the prefix.")
    ] = False
    allow_no_prefix: Annotated[
        bool, doc("Allow an empty prefix: every variable can be read then.")
    ] = False

    def faults(self) -> Iterator[tuple[str, str]]:
        """Without a prefix all variables would be open."""
        if not self.prefix and not self.allow_no_prefix:
            yield "prefix", "missing (allow_no_prefix allows that)"


class EnvStore:
    """Reads variables of this process."""

    options_type = EnvStoreOptions

    def __init__(self, options: EnvStoreOptions) -> None:
        self._options = options
        self._variable: Variable = lambda name: None

    def open(self, variable: Variable) -> None:
        """Take the environment of this reading."""
        self._variable = variable

    def read(self, path: str) -> str:
        """Return a variable's text; an empty one where it is not set."""
        key = path.upper() if self._options.uppercase else path
        return self._variable(self._options.prefix + key) or ""

    def close(self) -> None:
        """Nothing is open."""
