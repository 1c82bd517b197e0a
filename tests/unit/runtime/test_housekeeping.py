from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rakuten_tasks.runtime.housekeeping import clean, new_run, reset_corrupt_cache, sweep

HOUR = 3600.0


@pytest.fixture
def var(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAKUTEN_VAR", str(tmp_path))
    return tmp_path


def folder(path: Path, size: int, hours_ago: float) -> Path:
    path.mkdir(parents=True)
    (path / "output").write_bytes(bytes(size))
    then = time.time() - hours_ago * HOUR
    os.utime(path, (then, then))
    return path


def test_folders_unused_for_so_many_days_are_deleted_and_the_others_stay(var):
    old = folder(var / "flyte/runs/20260101-000000-aaaaaa", 10, hours_ago=50)
    forgotten = folder(var / "checkpoints/lstm-1", 10, hours_ago=49)
    recent = folder(var / "flyte/runs/20260102-000000-bbbbbb", 10, hours_ago=1)
    assert set(sweep(days=2, gigabytes=1)) == {old, forgotten}
    assert recent.exists()
    assert not old.exists()


def test_above_the_size_limit_the_longest_unused_folders_are_deleted_first(var):
    sizes = [folder(var / f"flyte/runs/20260101-00000{i}-aaaaaa", 400_000, hours_ago=10 - i) for i in range(4)]
    assert sweep(days=30, gigabytes=0.001) == sizes[:2]
    assert sizes[2].exists()
    assert sizes[3].exists()


def test_an_active_run_and_what_was_used_since_it_began_are_never_deleted(var):
    before = folder(var / "flyte/runs/20260101-000000-aaaaaa", 10, hours_ago=5)
    run, lock = new_run()
    os.utime(run, (0, 0))
    since = folder(var / "checkpoints/lstm-1", 10, hours_ago=-1)
    assert sweep(days=0, gigabytes=0) == [before]
    assert run.exists()
    assert since.exists()
    os.close(lock)
    assert run in sweep(days=0, gigabytes=0)


def test_clean_takes_outputs_checkpoints_and_the_cache_and_leaves_models_and_reports(var):
    for name in ("flyte/runs/20260101-000000-aaaaaa", "flyte/cache", "checkpoints/a-1", "mlflow/artifacts", "reports"):
        folder(var / name, 10, hours_ago=1)
    assert len(clean()) == 2
    left = {str(path.relative_to(var)) for path in var.rglob("output")}
    assert left == {"mlflow/artifacts/output", "reports/output"}


def test_clean_keeps_the_cache_of_an_active_run(var):
    folder(var / "flyte/cache", 10, hours_ago=1)
    _, lock = new_run()
    assert clean() == []
    assert (var / "flyte/cache/output").exists()
    os.close(lock)


def test_an_interrupted_deletion_is_finished(var):
    trash = folder(var / "flyte/runs/.deleted-20260101-000000-aaaaaa", 10, hours_ago=0)
    assert sweep() == []
    assert not trash.exists()


def test_a_command_runs_with_a_folder_of_its_own_that_is_locked_as_long_as_it_lives(var):
    script = (
        "import os, pathlib, subprocess, sys; from rakuten_tasks.runtime.housekeeping import sweep;"
        "print(os.environ['TMPDIR'], sweep(0, 0), pathlib.Path(os.environ['TMPDIR']).exists(), sys.argv)"
    )
    command = [
        sys.executable,
        "-m",
        "rakuten_tasks.runtime.housekeeping",
        "run",
        "--days",
        "1",
        "--gigabytes",
        "1",
        "--",
    ]
    done = subprocess.run([*command, sys.executable, "-c", script, "--seed", "3"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    tmpdir, *rest = done.stdout.split(maxsplit=1)
    assert Path(tmpdir).parent == var / "flyte/runs"
    assert rest == ["[] True ['-c', '--seed', '3']\n"]
    assert sweep(days=0, gigabytes=0) == [Path(tmpdir)]


def test_a_damaged_cache_is_deleted_and_an_intact_or_missing_one_is_not(var):
    assert not reset_corrupt_cache()
    database = folder(var / "flyte/cache", 10, hours_ago=0) / "cache.db"
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE Cache (key)")
    connection.close()
    assert not reset_corrupt_cache()
    assert database.exists()
    for harm in (os.urandom(4000), database.read_bytes()[:4096] + os.urandom(8192)):
        database.parent.mkdir(exist_ok=True)
        database.write_bytes(harm)
        assert reset_corrupt_cache()
        assert not (var / "flyte/cache").exists()
