"""Stores without a network: variables, the configuration itself, files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tyk_pump.config.options import Secret
from tyk_pump.errors import ConfigError, SecretError
from tyk_pump.secrets.env import EnvStore, EnvStoreOptions
from tyk_pump.secrets.file import LARGEST, FileStore, FileStoreOptions
from tyk_pump.secrets.inline import InlineStore, InlineStoreOptions

VARIABLES = {"APP_KEY": "upper", "APP_key": "lower", "key": "bare"}


@pytest.mark.parametrize(
    ("options", "path", "found"),
    [
        (EnvStoreOptions(prefix="APP_"), "key", "lower"),
        (EnvStoreOptions(prefix="APP_", uppercase=True), "key", "upper"),
        (EnvStoreOptions(allow_no_prefix=True), "key", "bare"),
        (EnvStoreOptions(prefix="APP_"), "other", ""),
    ],
)
def test_variables(options: EnvStoreOptions, path: str, found: str) -> None:
    """The prefix stands before the path; what is not set is an empty text."""
    assert list(options.faults()) == []
    store = EnvStore(options)
    store.open(VARIABLES.get)
    assert store.read(path) == found
    store.close()


def test_variables_need_a_prefix() -> None:
    """Without one every variable could be read; that has to be said."""
    ((key, _),) = EnvStoreOptions().faults()
    assert key == "prefix"


def test_inline() -> None:
    """The key is exact, and its text stays out of what is shown."""
    options = InlineStoreOptions(data={"a/b": Secret("hunter2")})
    store = InlineStore(options)
    store.open(VARIABLES.get)
    assert store.read("a/b") == "hunter2"
    assert "hunter2" not in repr(options)
    for path in ("A/b", "", "a"):
        with pytest.raises(SecretError, match="is not in its data"):
            store.read(path)
    store.close()


@pytest.fixture
def files(tmp_path: Path) -> FileStore:
    """Return a store with a file, and one outside of it."""
    (tmp_path / "outside").write_text("hunter2")
    base = tmp_path / "base"
    (base / "sub").mkdir(parents=True)
    (base / "plain").write_bytes(b" one\ntwo \r\n\n")
    (base / "sub" / "inner").write_text("inner")
    # As Kubernetes does it: the name leads over a link to a folder of that day.
    (base / "..2026").mkdir()
    (base / "..2026" / "linked").write_text("today")
    (base / "..data").symlink_to("..2026")
    (base / "linked").symlink_to("..data/linked")
    (base / "astray").symlink_to("../outside")
    (base / "loop").symlink_to("loop")
    (base / "binary").write_bytes(b"\xff\xfe")
    (base / "large").write_bytes(b"x" * (LARGEST + 1))
    os.mkfifo(base / "pipe")
    store = FileStore(FileStoreOptions(base_path=str(base)))
    store.open(VARIABLES.get)
    return store


@pytest.mark.parametrize(
    ("path", "found"),
    [("plain", " one\ntwo "), ("sub/inner", "inner"), ("linked", "today")],
)
def test_files(files: FileStore, path: str, found: str) -> None:
    """The line ends at the end are no part of the text; links within are followed."""
    assert files.read(path) == found
    files.close()


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("none", "is not there"),
        ("../outside", "leads out"),
        ("sub/../plain", "leads out"),
        ("astray", "leads out"),
        ("a\0b", "leads out"),
        ("sub", "is no file"),
        ("pipe", "is no file"),
        ("loop", "cannot be read"),
        ("binary", "no UTF-8"),
        ("large", "larger"),
    ],
)
def test_files_that_are_none(files: FileStore, path: str, reason: str) -> None:
    """Nothing outside the folder is read, and nothing that is no text."""
    with pytest.raises(SecretError, match=reason):
        files.read(path)


def test_absolute_paths(files: FileStore, tmp_path: Path) -> None:
    """A path from the root leads out, wherever it leads."""
    with pytest.raises(SecretError, match="leads out"):
        files.read(str(tmp_path / "base" / "plain"))


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    """It is said at once; so is a missing one."""
    store = FileStore(FileStoreOptions(base_path=str(tmp_path / "none")))
    with pytest.raises(ConfigError, match=r"base_path: .* is no folder"):
        store.open(VARIABLES.get)
    ((key, _),) = FileStoreOptions(base_path="").faults()
    assert key == "base_path"
