"""The state folder: whose it is, and who we are in Redis.

One process at a time holds the folder, by a lock on the file `lock`. The folder
remembers the name under which the last holder owned streams in Redis, and its
incarnation: so that the next start takes its streams back without waiting for the
old lease to end.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import secrets
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tyk_pump.errors import ConfigError, StateError

log = logging.getLogger(__name__)

FILE_NAME: Final = "state.sqlite"
SOCKET_NAME: Final = "control.sock"
_LOCK_NAME: Final = "lock"
_INSTANCE_NAME: Final = "instance.json"
_MEMORY_TYPES = frozenset({"tmpfs", "ramfs", "devtmpfs"})
_LAYER_TYPES = frozenset({"overlay", "aufs"})
_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}\Z")


def candidates(
    state_dir: str, conf_path: str, environ: Mapping[str, str]
) -> list[Path]:
    """Return where the folder may be, the most wanted place first.

    A configured folder (or the one that systemd made) is the only candidate. Without
    one it stands beside the configuration under its name, so that two files in one
    folder do not share it; where that cannot be written, below the temporary files.
    """
    if state_dir:
        return [Path(state_dir).absolute()]
    if systemd := environ.get("STATE_DIRECTORY", ""):
        return [Path(systemd.split(":")[0]).absolute()]
    conf = Path(conf_path or "pump.conf").absolute()
    beside = conf.with_suffix(".state")
    label = re.sub(r"[^A-Za-z0-9]+", "-", str(beside)).strip("-")[-80:]
    spare = Path(tempfile.gettempdir()) / f"tyk-pump-{os.getuid()}" / label
    return [beside, spare]


def locate(state_dir: str, conf_path: str, environ: Mapping[str, str]) -> Path:
    """Return the folder that a process with this configuration holds or would hold."""
    places = candidates(state_dir, conf_path, environ)
    for place in places:
        if (place / _LOCK_NAME).exists() or _can_write(place):
            return place
    return places[0]


def lasts(path: Path) -> str:
    """Return why the folder may not outlive this machine or container, or "" ."""
    place = path
    while not place.exists() and place != place.parent:
        place = place.parent
    kind = _file_system(place.resolve())
    if kind in _MEMORY_TYPES:
        return f"{path} is kept in memory ({kind}) and is lost at a restart"
    if kind in _LAYER_TYPES:
        return f"{path} is a container's own layer ({kind}) and is lost with it"
    if path.resolve().is_relative_to(Path(tempfile.gettempdir()).resolve()):
        return f"{path} is below the temporary files, which a clean-up may remove"
    return ""


class StateFolder:
    """A state folder that this process holds until `close`."""

    def __init__(
        self, path: Path, name: str, incarnation: str, previous: str, lock: int
    ) -> None:
        self.path = path
        self.name = name
        self.incarnation = incarnation
        self.previous = previous
        self._lock = lock
        self._recorded = False

    @classmethod
    def open(cls, path: Path | str, name_hint: str = "") -> StateFolder:
        """Take hold of the folder, made if it is absent, under a new incarnation.

        `name_hint` is the configured instance name; without one the folder keeps a
        name of its own, made from the host's at the first start.
        """
        path = Path(path)
        if name_hint and not _NAME.match(name_hint):
            raise ConfigError(
                f"instance_name: {name_hint!r} may hold letters, digits and . _ - only"
            )
        try:
            # Dead letters hold request bodies: nobody else may look.
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            _refuse_foreign(path)
            lock = os.open(path / _LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as exc:
            raise StateError(f"state folder {path}: {exc.strerror}") from exc
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            os.close(lock)
            holder = _read(path).get("pid", "unknown")
            raise StateError(
                f"state folder {path}: in use by another process (pid {holder})"
            ) from exc
        return cls._held(path, name_hint, lock)

    @classmethod
    def _held(cls, path: Path, name_hint: str, lock: int) -> StateFolder:
        last = _read(path)
        last_name = str(last.get("name", ""))
        name = name_hint or last_name or _made_up_name()
        previous = str(last.get("incarnation", "")) if name == last_name else ""
        held = cls(path, name, secrets.token_hex(8), previous, lock)
        held.record()
        return held

    @property
    def file(self) -> Path:
        """The SQLite file."""
        return self.path / FILE_NAME

    @property
    def socket(self) -> Path:
        """The socket that commands talk to."""
        return self.path / SOCKET_NAME

    def renew(self) -> None:
        """Become a new incarnation: the lease of the present one is lost."""
        self.previous, self.incarnation = self.incarnation, secrets.token_hex(8)
        self._recorded = False
        self.record()

    def record(self) -> None:
        """Write down who we are, unless that stands there."""
        if self._recorded:
            return
        try:
            _write(
                self.path,
                name=self.name,
                incarnation=self.incarnation,
                pid=os.getpid(),
            )
        except OSError as exc:
            # A full disk must not keep records in Redis from being claimed. All that
            # is lost is taking our streams back without waiting, at the next start.
            log.warning(
                "instance not recorded in the state folder",
                extra={"reason": exc.strerror, "path": str(self.path)},
            )
        else:
            self._recorded = True

    def close(self) -> None:
        """Let go of the folder."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def holder(path: Path | str) -> int:
    """Return the process id of who holds the folder, 0 when nobody does."""
    path = Path(path)
    try:
        lock = os.open(path / _LOCK_NAME, os.O_RDWR)
    except OSError:
        return 0
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return int(_read(path).get("pid", 0))
    finally:
        os.close(lock)
    return 0


def last_name(path: Path | str) -> str:
    """Return the name under which the last holder owned streams, "" for none."""
    return str(_read(Path(path)).get("name", ""))


def _refuse_foreign(path: Path) -> None:
    """Below the temporary files anybody can have made our folder before us."""
    shared = Path(tempfile.gettempdir()).resolve()
    place = path.resolve()
    while place.is_relative_to(shared) and place != shared:
        if place.stat().st_uid != os.getuid():
            raise StateError(f"state folder {path}: {place} belongs to another user")
        place = place.parent


def _made_up_name() -> str:
    host = re.sub(r"[^A-Za-z0-9._-]+", "-", socket.gethostname()) or "tyk-pump"
    return f"{host[:100]}-{secrets.token_hex(3)}"


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads((path / _INSTANCE_NAME).read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _write(path: Path, **values: object) -> None:
    target = path / _INSTANCE_NAME
    draft = target.with_suffix(".new")
    try:
        with draft.open("w") as file:
            json.dump(values, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, target)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise


def _can_write(place: Path) -> bool:
    while not place.exists() and place != place.parent:
        place = place.parent
    return place.is_dir() and os.access(place, os.W_OK | os.X_OK)


def _file_system(place: Path) -> str:
    """Return the type of the file system that holds a path, "" where unknown."""
    best, kind = "", ""
    try:
        lines = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        _, mount, type_name, *_ = line.split(" ")
        mount = mount.replace("\\040", " ")
        if place.is_relative_to(mount) and len(mount) >= len(best):
            best, kind = mount, type_name
    return kind
