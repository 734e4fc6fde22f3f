"""Texts kept in stores of secrets: declared, made ready when needed, read once.

The loader asks for each text that refers to a store. What is read is hidden from
every log line of this process; workers are told with their options what to hide.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Container, Iterator
from typing import Any

import msgspec

from tyk_pump import log, secrets
from tyk_pump.config.options import Options
from tyk_pump.errors import ConfigError, SecretError
from tyk_pump.secrets.protocol import Store, Variable
from tyk_pump.secrets.reference import Reference, parts, pick

Report = Callable[[str], None]
Build = Callable[[type[Options], Any, str, Report], Options | None]


class StoreUse(msgspec.Struct):
    """What became of one declared store."""

    name: str
    type: str
    texts: int = 0
    """Options that got a text."""
    left: int = 0
    """References that were not looked up, since that was not wanted."""


class Declared(msgspec.Struct):
    """One store as the operator declared it."""

    name: str
    type: str
    required: bool
    config: dict[str, Any]
    place: str


class Stores:
    """The stores of one reading of the configuration."""

    def __init__(
        self,
        declared: dict[str, Declared],
        build: Build,
        variable: Variable,
        *,
        remote: bool = True,
        only: Container[str] | None = None,
    ) -> None:
        """Without `remote` stores over the network are left alone; `only` names the
        options that are looked up at all."""
        self.given: list[str] = []
        """Every text that an option got, in order."""
        self.passing = False
        """Whether the last failure may be otherwise later."""
        self.uses = {d.name: StoreUse(d.name, d.type) for d in declared.values()}
        self._declared = declared
        self._build = build
        self._variable = variable
        self._remote = remote
        self._only = only
        self._made: dict[str, Store | SecretError] = {}
        self._limits: dict[str, float] = {}
        self._texts: dict[tuple[str, str], str | SecretError] = {}
        self._making: list[str] = []

    def wanted(self, place: str) -> bool:
        """Whether references at this place are looked up."""
        return self._only is None or place in self._only or bool(self._making)

    def resolve(self, text: str) -> str | None:
        """Return the text with all that it refers to; None where that is not wanted."""
        found: list[str] = []
        for part in list(parts(text)):
            if isinstance(part, str):
                found.append(part)
            elif (read := self._lookup(part)) is None:
                return None
            else:
                found.append(read)
        return "".join(found)

    def prove(self, report: Report) -> None:
        """Make every required store ready; report what keeps one from that."""
        for one in self._declared.values():
            if one.required and (self._remote or one.type in secrets.LOCAL):
                made = self._ready(one.name)
                if isinstance(made, SecretError):
                    report(f"{one.place}: {made}")

    def close(self) -> None:
        """Give back what was opened."""
        for made in self._made.values():
            if not isinstance(made, SecretError):
                with contextlib.suppress(Exception):  # it has given all it had to give
                    made.close()

    def _lookup(self, reference: Reference) -> str | None:
        name = reference.store
        declared = self._declared.get(name)
        if declared is None:
            raise SecretError(f"store {name!r} is not declared in kv.stores")
        local = declared.type in secrets.LOCAL
        if self._making and not local:
            raise SecretError(
                f"store {name!r} is a {declared.type}: a store may refer only to those "
                f"of type {', '.join(sorted(secrets.LOCAL))}"
            )
        if not local and not self._remote:
            self.uses[name].left += 1
            return None
        try:
            text = pick(self._text(name, reference.path), reference.pointer)
        except SecretError as exc:
            what = reference.path
            if reference.pointer:
                what = f"{what}#{reference.pointer}"
            reason = f"store {name!r}: {what!r} {exc}"
            raise SecretError(reason, passing=exc.passing) from exc
        log.hide([text])
        self.given.append(text)
        self.uses[name].texts += 1
        return text

    def _text(self, name: str, path: str) -> str:
        key = name, path
        if key not in self._texts:
            self._texts[key] = self._read(name, path)
        found = self._texts[key]
        if isinstance(found, SecretError):
            raise found
        return found

    def _read(self, name: str, path: str) -> str | SecretError:
        made = self._ready(name)
        if isinstance(made, SecretError):
            return made
        try:
            return _within(self._limits[name], lambda: made.read(path))
        except SecretError as exc:
            if exc.passing:
                # The next ones would only wait as long.
                self._made[name] = exc
                with contextlib.suppress(Exception):
                    made.close()
            return exc

    def _ready(self, name: str) -> Store | SecretError:
        if name not in self._made:
            if name in self._making:
                return SecretError("refers to itself")
            self._making.append(name)
            try:
                self._made[name] = self._make(self._declared[name])
            finally:
                self._making.pop()
        return self._made[name]

    def _make(self, one: Declared) -> Store | SecretError:
        faults: list[str] = []
        kind = secrets.load(one.type)
        options = self._build(kind.options_type, one.config, "config", faults.append)
        if faults or options is None:
            return SecretError("cannot be used: " + "; ".join(faults))
        log.hide_secrets(options)
        made = kind(options)
        self._limits[one.name] = getattr(options, "timeout", 0.0)
        try:
            made.open(self._variable)
        except ConfigError as exc:
            return SecretError(f"cannot be used: config.{exc}")
        except ImportError as exc:
            wanted = f"needs {exc.name or exc}: pip install 'tyk-pump[secrets]'"
            return SecretError(f"cannot be used: {one.type} {wanted}")
        return made


def _within(seconds: float, read: Callable[[], str]) -> str:
    """Return what is read, within its time: a driver may have no limit for the whole.

    What comes too late comes to nobody.
    """
    if not seconds:
        return read()
    results: queue.SimpleQueue[str | BaseException] = queue.SimpleQueue()

    def run() -> None:
        try:
            results.put(read())
        except BaseException as exc:
            results.put(exc)

    threading.Thread(target=run, name="secret", daemon=True).start()
    try:
        found = results.get(timeout=seconds)
    except queue.Empty:
        raise SecretError(f"no answer in {seconds:g} s", passing=True) from None
    if isinstance(found, str):
        return found
    if isinstance(found, SecretError):
        raise found
    # A driver's own fault, with words that nobody has looked through.
    raise SecretError(f"cannot be read: {type(found).__name__}") from found


def texts_in(value: Any, where: str) -> Iterator[tuple[str, str]]:
    """Yield (place, text) of every text in a value."""
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from texts_in(item, f"{where}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from texts_in(item, f"{where}[{index}]")
