"""A pump with an option of every kind, for the tests of the loader."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from tyk_pump.config.options import Options, Seconds, Secret, TlsOptions, doc


class Bulk(Options, frozen=True, kw_only=True):
    """Options inside options."""

    workers: Annotated[int, doc("How many.", gt=0)] = 1


class Target(Options, frozen=True, kw_only=True):
    """Options in a list."""

    url: Annotated[str, doc("Where.")]


class FakeOptions(TlsOptions, frozen=True, kw_only=True):
    """One option of every kind."""

    url: Annotated[str, doc("Where.", aliases=("address",))]
    token: Annotated[Secret, doc("Who.")] = Secret()
    size: Annotated[int, doc("How much.", ge=1)] = 10
    rate: Annotated[float, doc("How often.")] = 1.0
    fast: Annotated[bool, doc("Whether.", env="QUICK")] = False
    wait: Annotated[Seconds, doc("How long.")] = 3.0
    tags: Annotated[list[str], doc("Which.")] = []
    codes: Annotated[list[int], doc("Which codes.")] = []
    labels: Annotated[dict[str, str], doc("What else.")] = {}
    bulk: Annotated[Bulk, doc("In bulk.")] = Bulk()
    targets: Annotated[list[Target], doc("Several.")] = []
    named: Annotated[dict[str, Bulk], doc("Several by name.")] = {}
    mode: Annotated[str, doc("How.", choices=("slow", "quick"))] = "slow"

    def faults(self) -> Iterator[tuple[str, str]]:
        """Say what no single option shows, and what TLS finds."""
        yield from super().faults()
        if self.size > 99 and not self.fast:
            yield "size", "too much unless fast"


class FakePump:
    """Never opened."""

    options_type = FakeOptions
    fields = ()
    guarantee = "Nothing arrives."
    differences = ()
