"""Servers that refuse to run as root run as the user whom their package made."""

from __future__ import annotations

import os
import pwd
import shutil
from pathlib import Path

from tests.servers import absent


def command_as(user: str) -> list[str]:
    """Return what stands before a command: it runs as this user if we are root.

    The folders of a test are closed to all but root. So the command keeps the right to
    pass them, and the death signal of its guard, which a change of user takes away.
    """
    if os.geteuid() != 0:
        return []
    _account(user)
    return [
        "setpriv",
        f"--reuid={user}",
        f"--regid={user}",
        "--clear-groups",
        "--inh-caps=+dac_override",
        "--ambient-caps=+dac_override",
        "--pdeathsig=KILL",
        "--",
    ]


def give(path: Path, user: str) -> None:
    """Make this user the owner if we are root; nobody else may read it."""
    path.chmod(0o700 if path.is_dir() else 0o600)
    if os.geteuid() == 0:
        account = _account(user)
        os.chown(path, account.pw_uid, account.pw_gid)


def give_copy(source: Path, target: Path, user: str) -> Path:
    """Copy a file, and make this user the owner of the copy."""
    shutil.copyfile(source, target)
    give(target, user)
    return target


def _account(user: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(user)
    except KeyError:
        absent(f"the user {user}", "does not exist")
