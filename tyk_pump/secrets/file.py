"""Secrets in files below a folder, as Docker, Kubernetes and systemd lay them out."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from tyk_pump.config.options import Options, doc
from tyk_pump.errors import ConfigError, SecretError
from tyk_pump.secrets.protocol import Variable

LARGEST = 1024 * 1024


class FileStoreOptions(Options, frozen=True, kw_only=True):
    """Where the files are. A line end at the end of a file is no part of the text."""

    base_path: Annotated[
        str,
        doc("Folder of the files; no path leads out of it.", example="/run/secrets"),
    ]

    def faults(self) -> Iterator[tuple[str, str]]:
        """A folder has to be named."""
        if not self.base_path:
            yield "base_path", "missing"


class FileStore:
    """Reads files below a folder, and no others."""

    options_type = FileStoreOptions

    def __init__(self, options: FileStoreOptions) -> None:
        self._base = Path(options.base_path)

    def open(self, variable: Variable) -> None:
        """See that the folder is there."""
        if not self._base.is_dir():
            raise ConfigError(f"base_path: {self._base} is no folder")

    def read(self, path: str) -> str:
        """Return the file's text without the line end."""
        parts = path.split("/")
        if "\0" in path or ".." in parts or path.startswith("/"):
            raise SecretError("leads out of base_path")
        try:
            base = self._base.resolve()
            # Links within the folder are how Kubernetes swaps secrets.
            target = (base / path).resolve()
            if not target.is_relative_to(base):
                raise SecretError("leads out of base_path")
            text = _content(target)
        except FileNotFoundError:
            raise SecretError("is not there") from None
        except (OSError, RuntimeError) as exc:
            reason = getattr(exc, "strerror", None) or exc
            raise SecretError(f"cannot be read: {reason}") from exc
        return text.rstrip("\r\n")

    def close(self) -> None:
        """Nothing is open."""


def _content(path: Path) -> str:
    # Nobody writes into a pipe: opening one must not wait.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise SecretError("is no file")
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(LARGEST + 1)
    finally:
        os.close(descriptor)
    if len(content) > LARGEST:
        raise SecretError(f"is larger than {LARGEST} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise SecretError("is no UTF-8 text") from None
