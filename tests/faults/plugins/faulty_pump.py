"""A pump that misbehaves as a test asks, by its options or by files in its folder.

Files that steer it, looked for at each write or open:

    hang        write sleeps for ever
    hold-gil    write sleeps for ever inside C and lets no other thread run
    transient   write raises TransientError
    half        write keeps the first half of the batch, the rest may pass later
    blab        write raises TransientError with the token in its text
    refuse-all  write refuses every record
    shut        open raises TransientError
    broken      open raises ConfigError

Each record that arrives becomes a line "name id" in `arrived`, a batch in one append;
each call of write a line "name name ..." in `calls`.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar

from tyk_pump.config.options import Options, Secret, doc
from tyk_pump.errors import ConfigError, RejectedRecords, TransientError
from tyk_pump.pumps.protocol import Batch
from tyk_pump.record import codec

log = logging.getLogger(__name__)

WORDS = "mapper_parsing_exception: no such field"
"""What this back end says when it refuses a record."""


class FaultyOptions(Options, frozen=True, kw_only=True):
    """Which records upset the back end; the rest is steered by files."""

    folder: Annotated[str, doc("Where the files are.")]
    segfault_on: Annotated[str, doc("Alias of a record that kills by signal.")] = ""
    exit_on: Annotated[str, doc("Alias of a record that ends the process.")] = ""
    stuck_on: Annotated[str, doc("Alias of a record that is never decoded.")] = ""
    reject: Annotated[list[str], doc("Aliases that are refused.")] = []
    pause: Annotated[float, doc("Seconds that each write takes.")] = 0.0
    token: Annotated[Secret, doc("Never to be seen.")] = Secret()


class FaultyPump:
    """Write names of records to a file, unless it is told to misbehave."""

    options_type: ClassVar[type[FaultyOptions]] = FaultyOptions
    fields: ClassVar[Any] = ("alias",)

    def __init__(self, options: FaultyOptions) -> None:
        self._options = options
        self._folder = Path(options.folder)

    def open(self) -> None:
        """Fail when told so; prepare a decoder that gets stuck."""
        if self._told("shut"):
            raise TransientError("the door is shut")
        if self._told("broken"):
            raise ConfigError("the lock is broken")
        if self._options.stuck_on:
            _get_stuck(self._options.stuck_on)
        log.info("opened", extra={"reason": repr(self._options)})

    def probe(self) -> str:
        """There is nothing to reach."""
        return "a folder"

    def write(self, batch: Batch) -> None:
        """Write the names, or do what the files and options ask for."""
        names = [record.alias for record in batch.records]
        self._append("calls", " ".join(names) + "\n")
        time.sleep(self._options.pause)
        self._misbehave(names)
        refused = {
            index: f"{WORDS} {name}"
            for index, name in enumerate(names)
            if name in self._options.reject
        }
        kept = [index for index in range(len(names)) if index not in refused]
        later: list[int] = []
        if self._told("half"):
            half = len(kept) // 2
            kept, later = kept[:half], kept[half:]
        lines = [f"{names[index]} {batch.record_id(index)}\n" for index in kept]
        self._append("arrived", "".join(lines))
        if later:
            raise TransientError("half is enough", pending=later, rejected=refused)
        if refused:
            raise RejectedRecords("some are refused", rejected=refused)

    def close(self) -> None:
        """Leave a line, so that a test sees it."""
        self._append("closed", "closed\n")

    def _misbehave(self, names: list[str]) -> None:
        if self._told("hang"):
            time.sleep(3600)
        if self._told("hold-gil"):
            ctypes.PyDLL(None).sleep(3600)  # a PyDLL call keeps the lock
        if self._told("transient"):
            raise TransientError("the back end is away")
        if self._told("blab"):
            token = self._options.token.reveal()
            raise TransientError(f"the back end says no to {token}")
        if self._told("refuse-all"):
            raise RejectedRecords(WORDS)
        if self._options.segfault_on in names:
            os.kill(os.getpid(), signal.SIGSEGV)
        if self._options.exit_on in names:
            os._exit(7)

    def _told(self, name: str) -> bool:
        return (self._folder / name).exists()

    def _append(self, name: str, text: str) -> None:
        if not text:
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        file = os.open(self._folder / name, flags, 0o644)
        try:
            os.write(file, text.encode())
        finally:
            os.close(file)


def _get_stuck(alias: str) -> None:
    """Have the worker's decoder never return from one record."""
    real: Callable[..., Any] = codec.decoder

    def decoder(*arguments: Any) -> Callable[[bytes], Any]:
        decode = real(*arguments)

        def decode_or_not(raw: bytes) -> Any:
            record = decode(raw)
            while record.alias == alias:
                time.sleep(0.1)
            return record

        return decode_or_not

    codec.decoder = decoder  # type: ignore[assignment]
