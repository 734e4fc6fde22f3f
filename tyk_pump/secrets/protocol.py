"""What a store of secrets has to offer, and what the remote ones share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Protocol

from tyk_pump.config.options import Options, Seconds, doc

Variable = Callable[[str], str | None]
"""Returns an environment variable, if it is set."""


class Store(Protocol):
    """Reads texts by their path."""

    options_type: ClassVar[type[Options]]

    def __init__(self, options: Any) -> None:
        """Keep the options; nothing can fail here."""

    def open(self, variable: Variable) -> None:
        """Import the driver and make ready; ConfigError says what keeps it."""

    def read(self, path: str) -> str:
        """Return the text; SecretError says why there is none."""

    def close(self) -> None:
        """Give back what `open` took."""


Limit = Annotated[
    Seconds, doc("Most that one read may take, log-in included.", gt=0, le=600)
]
"""The `timeout` that every store has which is asked over the network."""


class RemoteOptions(Options, frozen=True, kw_only=True):
    """What the stores have that are asked over the network."""

    timeout: Limit = 5.0


class TrimmedOptions(RemoteOptions, frozen=True, kw_only=True):
    """Those of the clouds' stores, too."""

    trim_trailing_newline: Annotated[
        bool, doc("Leave out the line end that many tools append.")
    ] = False


def trimmed(text: str, wanted: bool) -> str:
    """Return the text without its line end, if that is wanted."""
    return text.rstrip("\r\n") if wanted else text


def versioned(path: str) -> tuple[str, str]:
    """Split `name`, `name/version` or `name/versions/version`."""
    name, _, version = path.partition("/")
    return name, version.removeprefix("versions/")
