"""The state folder: one holder, a name that stays, an incarnation that does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tyk_pump.errors import ConfigError, StateError
from tyk_pump.state import folder
from tyk_pump.state.folder import StateFolder, candidates, holder, lasts, locate


def test_the_next_start_knows_the_last_incarnation(tmp_path: Path) -> None:
    """A restart keeps the made-up name and remembers who it was."""
    first = StateFolder.open(tmp_path / "state")
    first.close()
    second = StateFolder.open(tmp_path / "state")
    second.close()
    assert first.name == second.name
    assert first.previous == ""
    assert second.previous == first.incarnation != second.incarnation


def test_a_second_process_is_refused_and_told_who_holds_it(tmp_path: Path) -> None:
    """Two processes never share a folder."""
    held = StateFolder.open(tmp_path)
    code = (
        "import sys; from tyk_pump.state.folder import StateFolder, holder;"
        "print(holder(sys.argv[1])); StateFolder.open(sys.argv[1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True
    )
    held.close()
    pid = json.loads((tmp_path / "instance.json").read_text())["pid"]
    assert done.stdout.strip() == str(pid)
    assert f"in use by another process (pid {pid})" in done.stderr


def test_nobody_holds_a_folder_that_was_let_go(tmp_path: Path) -> None:
    """A process that ended, however, leaves no lock behind."""
    assert holder(tmp_path / "absent") == 0
    StateFolder.open(tmp_path).close()
    assert holder(tmp_path) == 0


def test_a_configured_name_wins_and_a_changed_one_takes_nothing_back(
    tmp_path: Path,
) -> None:
    """Streams of the old name are not ours to take without waiting."""
    StateFolder.open(tmp_path, "one").close()
    other = StateFolder.open(tmp_path, "two")
    other.close()
    assert (other.name, other.previous) == ("two", "")


def test_a_new_incarnation_after_a_lost_lease(tmp_path: Path) -> None:
    """`renew` forgets nothing: the old incarnation is the previous one."""
    held = StateFolder.open(tmp_path)
    before = held.incarnation
    held.renew()
    held.close()
    again = StateFolder.open(tmp_path)
    again.close()
    assert held.previous == before
    assert again.previous == held.incarnation


def test_a_name_that_redis_keys_cannot_hold_is_refused(tmp_path: Path) -> None:
    """A `#` parts name and incarnation, so no name may have one."""
    with pytest.raises(ConfigError, match="instance_name"):
        StateFolder.open(tmp_path, "a#b")


def test_a_place_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """A file in the way is the operator's to move."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="file"):
        StateFolder.open(tmp_path / "file" / "state")


def test_garbage_in_the_instance_file_is_no_obstacle(tmp_path: Path) -> None:
    """A torn file of an old crash costs the name, not the start."""
    (tmp_path / "instance.json").write_text('{"name": ')
    held = StateFolder.open(tmp_path)
    held.close()
    assert held.name and held.previous == ""


def test_a_full_disk_does_not_keep_us_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Claiming matters more than remembering who we were."""

    def full(*arguments: object, **values: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder, "_write", full)
    held = StateFolder.open(tmp_path)
    held.close()
    assert held.incarnation


def test_where_the_folder_is(tmp_path: Path) -> None:
    """Configured, else systemd's, else beside the configuration under its name."""
    conf = str(tmp_path / "pump.conf")
    systemd = {"STATE_DIRECTORY": "/var/lib/tyk-pump:/var/lib/other"}
    assert candidates("/srv/state", conf, systemd) == [Path("/srv/state")]
    assert candidates("", conf, systemd) == [Path("/var/lib/tyk-pump")]
    assert candidates("", conf, {})[0] == tmp_path / "pump.state"
    assert locate("", conf, {}) == tmp_path / "pump.state"


def test_a_read_only_place_moves_the_folder(tmp_path: Path) -> None:
    """Where nothing can be made beside the configuration, temporary files serve."""
    (tmp_path / "pump.conf").write_text("{}")
    # A file in the way stands for a read-only folder, which root could write.
    conf = str(tmp_path / "pump.conf" / "pump.conf")
    found = locate("", conf, {})
    assert not found.is_relative_to(tmp_path / "pump.conf")
    assert f"tyk-pump-{os.getuid()}" in str(found)


def test_a_temporary_place_does_not_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`check` says so before dead letters are lost."""
    monkeypatch.setattr(folder, "_file_system", lambda place: "ext4")
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    assert lasts(tmp_path / "state") == ""
    assert "clean-up" in lasts(tmp_path / "tmp" / "state")
    monkeypatch.setattr(folder, "_file_system", lambda place: "tmpfs")
    assert "in memory" in lasts(tmp_path / "state")
    monkeypatch.setattr(folder, "_file_system", lambda place: "overlay")
    assert "container" in lasts(tmp_path / "state")


def test_a_folder_that_another_user_made_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below the temporary files anybody could have made it before us."""
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    other = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: other)
    with pytest.raises(StateError, match="belongs to another user"):
        StateFolder.open(tmp_path / "spare" / "state")
