"""Building blocks of options: what a pump's options and the root options are made of.

An option's name, type, default, limits and one sentence stand in one place, the
annotation of a field; the loader, the reference pages, the schema and the example
file all read them there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import msgspec

from tyk_pump.log import masked


def doc(
    text: str,
    *,
    gt: float | None = None,
    ge: float | None = None,
    le: float | None = None,
    min_length: int | None = None,
    example: Any = None,
    env: str | None = None,
    env_aliases: Sequence[str] = (),
    aliases: Sequence[str] = (),
    choices: Sequence[str] = (),
    numeral: bool = False,
    variable: str | None = None,
    bare: str | None = None,
    literal: bool = False,
) -> msgspec.Meta:
    """Describe an option.

    `env` is the last part of its environment name where that is not the key in capitals
    without underscores, `env_aliases` are other spellings of it; one that ends in `*`
    is a variable for each entry of a map. `aliases` are older spellings of the key.
    `choices` are the accepted texts, compared without case; the empty text stands for
    the default. A `numeral` is a whole number that the file may also hold as a text.
    `variable` names what is asked in the environment where no other place says more
    than an empty text: a variable of the back end's own programs. `bare` is a variable
    for all pumps with this option; one of the pump wins over it. The texts of a
    `literal` never refer to a store of secrets.
    """
    extra: dict[str, Any] = {"doc": True}
    if env is not None:
        extra["env"] = env
    if env_aliases:
        extra["env_aliases"] = tuple(env_aliases)
    if aliases:
        extra["aliases"] = tuple(aliases)
    if choices:
        extra["choices"] = tuple(choices)
    if example is not None:
        extra["example"] = example
    if numeral:
        extra["numeral"] = True
    if variable is not None:
        extra["variable"] = variable
    if bare is not None:
        extra["bare"] = bare
    if literal:
        extra["literal"] = True
    limits: dict[str, Any] = {"gt": gt, "ge": ge, "le": le, "min_length": min_length}
    given = {name: limit for name, limit in limits.items() if limit is not None}
    meta: msgspec.Meta = msgspec.Meta(description=text, extra=extra, **given)
    return meta


Seconds = Annotated[float, msgspec.Meta(extra={"seconds": True})]
"""A duration: a number of seconds, or a text with units such as "1m30s"."""


class Secret:
    """A text that is never shown by accident, in a log line or a traceback."""

    __slots__ = ("_text",)

    def __init__(self, text: str = "") -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text itself; to be called where it is sent, nowhere else."""
        return self._text

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        return "***" if self._text else "''"

    __str__ = __repr__

    def __reduce__(self) -> tuple[type[Secret], tuple[str]]:
        return Secret, (self._text,)


def dec_hook(kind: type, value: Any) -> Any:
    """Make a Secret where msgspec meets one."""
    if kind is Secret:
        if isinstance(value, str):
            return Secret(value)
        if isinstance(value, Secret):
            return value
        # The value stays out of the message: it may be the secret.
        raise TypeError(f"Expected `str`, got `{type(value).__name__}`")
    raise NotImplementedError(kind)


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all options."""

    def __repr__(self) -> str:
        # Any text may come from a store of secrets.
        return masked(super().__repr__())

    def faults(self) -> Iterator[tuple[str, str]]:
        """Yield (key, what is wrong) for what no single value shows."""
        return iter(())


class TlsOptions(Options, frozen=True, kw_only=True):
    """How a pump proves who it is, and whom it believes, over TLS."""

    ssl_insecure_skip_verify: Annotated[
        bool, doc("Do not check the server's certificate.")
    ] = False
    ssl_ca_file: Annotated[
        str, doc("PEM file of the authorities to believe instead of the system's.")
    ] = ""
    ssl_cert_file: Annotated[
        str, doc("PEM file of the client certificate; needs `ssl_key_file`.")
    ] = ""
    ssl_key_file: Annotated[str, doc("PEM file of the client certificate's key.")] = ""
    ssl_server_name: Annotated[
        str, doc("Name to expect in the server's certificate.")
    ] = ""

    def faults(self) -> Iterator[tuple[str, str]]:
        """A certificate and its key come together."""
        if self.ssl_cert_file and not self.ssl_key_file:
            yield "ssl_key_file", "missing beside ssl_cert_file"
        if self.ssl_key_file and not self.ssl_cert_file:
            yield "ssl_cert_file", "missing beside ssl_key_file"


class HttpOptions(TlsOptions, frozen=True, kw_only=True):
    """How a pump that speaks HTTP waits for answers."""

    request_timeout: Annotated[
        Seconds,
        doc("Time without an answer after which a request is sent again.", gt=0),
    ] = 60.0


class SocketOptions(TlsOptions, frozen=True, kw_only=True):
    """How a pump sends messages to a receiver that does not answer."""

    transport: Annotated[
        str,
        doc(
            "How messages travel; the `ssl_` options are for `tls`.",
            choices=("udp", "tcp", "tls"),
        ),
    ] = "udp"
    confirm: Annotated[
        str,
        doc(
            "What ends a write over TCP and TLS. `read`: the receiver has read all of "
            "it and left, as one does at the end of a connection; each batch has its "
            "own. `received`: the receiver's machine has it; one connection lasts, and "
            "what is unread when the receiver ends is lost.",
            choices=("read", "received"),
        ),
    ] = "read"
    send_timeout: Annotated[
        Seconds,
        doc("Time without progress over TCP and TLS before a new attempt.", gt=0),
    ] = 60.0
