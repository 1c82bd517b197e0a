from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from serving import runtime_folder
from serving.runtime_folder import FolderTakenError, create_run_folder, lock_folder

HOLD = (
    "import sys; from pathlib import Path; from serving.runtime_folder import lock_folder;"
    "lock_folder(Path(sys.argv[1]), 'http://h:1'); print(flush=True); sys.stdin.read()"
)


def test_a_folder_has_one_server_until_that_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runtime_folder, "TIMEOUT", 0.5)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        other.stdout.readline()
        with pytest.raises(FolderTakenError) as refused:
            lock_folder(tmp_path, "http://h:2")
        other.kill()
    assert str(refused.value) == (
        f"{tmp_path} belongs to a running server (http://h:1, process {other.pid}): stop it, or start this one with "
        "another RAKUTEN_VAR (MLFLOW_TRACKING_URI can name the same store)"
    )
    lock = lock_folder(tmp_path, "http://h:2")
    assert (tmp_path / "server.lock").read_text() == f"http://h:2, process {os.getpid()}"
    os.close(lock)


def test_what_dead_servers_left_is_removed_and_nothing_else(tmp_path: Path):
    for name in ("run-dead", "bundles"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "status.json").write_text("{}")
    fresh = create_run_folder(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["bundles", fresh.name])
    assert list(fresh.iterdir()) == []
