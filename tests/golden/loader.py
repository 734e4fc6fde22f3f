"""Reads the archives of this folder: corpora, cases and their expected output.

An archive stays in memory: the cases are small and nothing is unpacked to disk.
"""

from __future__ import annotations

import base64
import functools
import gzip
import json
import lzma
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

HERE = Path(__file__).resolve().parent
Codec = Literal["msgpack", "protobuf"]
BASE = "analytics-tyk-system-analytics"
LISTS = [
    f"{BASE}{shard}{codec}"
    for shard in ["", *(f"_{number}" for number in range(10))]
    for codec in ("", "_protobuf")
]
"""The keys that a purge reads, in its order."""


@functools.lru_cache(maxsize=8)
def archive(name: str) -> Mapping[str, bytes]:
    """Return the files of `<name>.tar.xz` by path below `<name>/`, never gzipped."""
    files: dict[str, bytes] = {}
    with lzma.open(HERE / f"{name}.tar.xz") as data, tarfile.open(fileobj=data) as tar:
        for entry in tar:
            stream = tar.extractfile(entry)
            if stream is None:
                continue
            path, content = entry.name.removeprefix(f"{name}/"), stream.read()
            if path.endswith(".gz"):
                path, content = path.removesuffix(".gz"), gzip.decompress(content)
            files[path] = content
    return files


def json_lines(data: bytes) -> list[Any]:
    """Return the values of a .jsonl file."""
    return [json.loads(line) for line in data.split(b"\n") if line]


class Wire(msgspec.Struct, frozen=True):
    """One line of a corpus: a record as it stands in the Redis list."""

    name: str
    msgpack: bytes | None
    protobuf: bytes | None

    def bytes_in(self, codec: Codec) -> bytes | None:
        """Return the bytes in one codec, None where the record has no such form."""
        return self.msgpack if codec == "msgpack" else self.protobuf


def _wires(data: bytes) -> dict[str, Wire]:
    wires = {}
    for line in json_lines(data):
        forms = (line.get("msgpack"), line.get("protobuf"))
        forms_raw = [None if f is None else base64.b64decode(f) for f in forms]
        wires[line["name"]] = Wire(line["name"], forms_raw[0], forms_raw[1])
    return wires


@functools.lru_cache(maxsize=8)
def corpus(name: str) -> Mapping[str, Wire]:
    """Return a shared corpus by record name: edge, traffic, uptime, agg-extra..."""
    return _wires(archive("corpus")[f"{name}.jsonl"])


class Case(msgspec.Struct, frozen=True):
    """One folder of an archive."""

    pump: str
    name: str
    about: dict[str, Any]
    """The content of case.json."""
    files: dict[str, bytes]

    @property
    def codec(self) -> Codec:
        """Return the form in which the records were pushed."""
        return "protobuf" if self.about.get("codec") == "protobuf" else "msgpack"

    @property
    def settings(self) -> dict[str, Any]:
        """Return the root settings."""
        return dict(self.about.get("settings") or {})

    @property
    def env(self) -> dict[str, str]:
        """Return the environment of the capture; no TZ means UTC."""
        zone = self.about.get("timezone", "UTC")
        return {"TZ": zone, **self.about.get("env", {})}

    @property
    def pumps(self) -> dict[str, dict[str, Any]]:
        """Return the pump sections; a single one is called by its type, or P where
        variables of the environment call it so."""
        if "pump" in self.about:
            section = self.about["pump"]
            called_p = any(name.startswith("TYK_PMP_PUMPS_P_") for name in self.env)
            return {"P" if called_p else section["type"]: section}
        if self.uptime:
            return {"dummy": {"type": "dummy"}}
        return dict(self.about["pumps"])

    @property
    def uptime(self) -> dict[str, Any]:
        """Return the section of the uptime pump, in the cases that are about it."""
        return dict(self.about.get("uptime_pump_config", {}))

    def pushed(self) -> list[tuple[str, Codec, Wire]]:
        """Return the records in the order of the reference's purge: key, codec, wire.

        One purge reads the base list and `_0` to `_9`, each followed by its protobuf
        list; keys of other names are never read and left out here.
        """
        known = self._known()
        if "lists" in self.about:
            found = [
                (entry["key"], entry["codec"], known[name])
                for entry in self.about["lists"]
                for name in entry["names"]
            ]
            return sorted(
                (one for one in found if one[0] in LISTS),
                key=lambda one: LISTS.index(one[0]),
            )
        if "purges" in self.about:
            return [one for purge in self.purges() for one in purge]
        if "batches" in self.about:
            names: Sequence[str] = [n for batch in self.about["batches"] for n in batch]
        else:
            names = self.about.get("names", list(known)) * self.about.get("repeat", 1)
        return self._under_usual_key(names)

    def purges(self) -> list[list[tuple[str, Codec, Wire]]]:
        """Return the records purge by purge; one purge where the case names none."""
        if "purges" not in self.about:
            return [self.pushed()]
        return [self._under_usual_key(names) for names in self.about["purges"]]

    def stray(self) -> dict[str, list[bytes]]:
        """Return what is pushed to keys that no purge reads."""
        known = self._known()
        return {
            entry["key"]: [self._raw(known[name]) for name in entry["names"]]
            for entry in self.about.get("lists", ())
            if entry["key"] not in LISTS
        }

    def expected(self, suffix: str) -> dict[str, bytes]:
        """Return expected.<name>.<suffix> by name, "" for expected.<suffix>."""
        pattern = re.compile(rf"expected\.(?:(.*)\.)?{re.escape(suffix)}")
        found = ((pattern.fullmatch(path), data) for path, data in self.files.items())
        return {match[1] or "": data for match, data in found if match}

    def _under_usual_key(self, names: Sequence[str]) -> list[tuple[str, Codec, Wire]]:
        known, excluded = self._known(), set(self.about.get("exclude", ()))
        key = BASE if self.codec == "msgpack" else f"{BASE}_protobuf"
        return [
            (key, self.codec, known[name])
            for name in names
            if name not in excluded and known[name].bytes_in(self.codec) is not None
        ]

    def _known(self) -> Mapping[str, Wire]:
        name = self.about["corpus"]
        if name is None:
            return {}
        if name == "own":
            path = self.about.get("records", "corpus.jsonl").removesuffix(".gz")
            return _wires(self.files[path])
        return corpus(name)

    def _raw(self, wire: Wire) -> bytes:
        raw = wire.bytes_in(self.codec)
        if raw is None:
            raise ValueError(f"{wire.name} has no {self.codec} form")
        return raw


def cases(pump: str) -> list[Case]:
    """Return every case of a pump, by name."""
    folders: dict[str, dict[str, bytes]] = {}
    for path, data in archive(pump).items():
        folder, _, name = path.partition("/")
        if name:
            folders.setdefault(folder, {})[name] = data
    return [
        Case(pump, folder, json.loads(files["case.json"]), files)
        for folder, files in sorted(folders.items())
    ]


def fill(value: Any, live: Mapping[str, str]) -> Any:
    """Return a section of the configuration with `{path}` and the like put in."""
    if isinstance(value, str):
        for name, text in live.items():
            value = value.replace(f"{{{name}}}", text)
        return value
    if isinstance(value, dict):
        return {key: fill(item, live) for key, item in value.items()}
    if isinstance(value, list):
        return [fill(item, live) for item in value]
    return value


def names(found: Sequence[Case]) -> Iterator[str]:
    """Return the ids of a parametrized test."""
    return (case.name for case in found)
