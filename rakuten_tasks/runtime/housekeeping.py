"""Retention of var/: deletes old outputs, cached features and checkpoints of local runs.

python -m rakuten_tasks.runtime.housekeeping run -- COMMAND    sweep, then run it with a new folder as TMPDIR
python -m rakuten_tasks.runtime.housekeeping clean             delete everything

The registry (var/mlflow), reports and predictions are never deleted, nor is an active run or anything used since the
oldest active run began, which it may be reading.
"""

from __future__ import annotations

import calendar
import fcntl
import os
import shutil
import sqlite3
import time
import uuid
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import click

from rakuten_tasks.console.options import Number
from rakuten_tasks.console.terminal import prepare_streams
from rakuten_tasks.registry.model_names import require_model_name
from rakuten_tasks.storage.addresses import require_address
from rakuten_tasks.storage.paths import cache_folder, checkpoints_folder, runs_folder

LOCK = "run.lock"
STARTED = "%Y%m%d-%H%M%S"  # prefix of a run's folder; UTC
TRASH_PREFIX = ".deleted-"


class Folder(NamedTuple):
    """A folder that may be deleted."""

    used: float  # time of the last use, seconds since 1970
    size: int  # bytes
    path: Path


def new_run() -> tuple[Path, int]:
    """Create a folder for one run's outputs. -> folder, and a file descriptor whose lock protects it while open"""
    folder = runs_folder() / f"{time.strftime(STARTED, time.gmtime())}-{uuid.uuid4().hex[:6]}"
    folder.mkdir(parents=True)
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return folder, lock


def sweep(days: float = 30, gigabytes: float = 10) -> list[Path]:
    """Delete folders unused for so many days, then those unused longest down to the size. -> deleted folders"""
    folders = sorted(_list_inactive())
    excess = sum(folder.size for folder in folders) - gigabytes * 1e9
    deleted = []
    for folder in folders:
        if folder.used < time.time() - days * 86400 or excess > 0:
            excess -= folder.size
            _delete(folder.path)
            deleted.append(folder.path)
    return deleted


def clean() -> list[Path]:
    """Delete all outputs, checkpoints and cached results that no active run may need. -> deleted folders"""
    deleted = sweep(days=0, gigabytes=0)
    _list_folders(cache_folder().parent)  # finishes an interrupted deletion of the cache
    if not _active_runs():
        _delete(cache_folder())
    return deleted


def reset_corrupt_cache() -> bool:
    """Delete the cache of task results if its database is damaged. -> whether it was"""
    database = cache_folder() / "cache.db"
    if not database.is_file():
        return False
    try:
        with closing(sqlite3.connect(database)) as connection:
            intact = connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",)
    except sqlite3.OperationalError:  # another run has locked it
        return False
    except sqlite3.DatabaseError:
        intact = False
    if not intact:
        _delete(cache_folder())
    return not intact


def _list_inactive() -> list[Folder]:
    active = _active_runs()
    oldest = min((_start_time(run) for run in active), default=float("inf"))
    folders = []
    for path in _list_folders(runs_folder()) + _list_folders(checkpoints_folder()):
        try:
            size = sum(file.lstat().st_size for file in path.rglob("*"))
            folders.append(Folder(path.stat().st_mtime, size, path))
        except FileNotFoundError:  # another run's sweep is deleting it
            continue
    return [folder for folder in folders if folder.used < oldest and folder.path not in active]


def _list_folders(parent: Path) -> list[Path]:
    """List its folders, and finish interrupted deletions."""
    paths = [path for path in parent.iterdir() if path.is_dir()] if parent.is_dir() else []
    for trash in (path for path in paths if path.name.startswith(TRASH_PREFIX)):
        shutil.rmtree(trash, ignore_errors=True)
    return [path for path in paths if not path.name.startswith(TRASH_PREFIX)]


def _active_runs() -> set[Path]:
    return {folder for folder in _list_folders(runs_folder()) if _is_locked(folder / LOCK)}


def _is_locked(path: Path) -> bool:
    try:
        with path.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def _start_time(run: Path) -> float:
    return calendar.timegm(time.strptime(run.name[:15], STARTED))


def _delete(folder: Path) -> None:
    """Rename, then delete: a reader sees the complete folder or none, even if the deletion is interrupted."""
    trash = folder.with_name(f"{TRASH_PREFIX}{uuid.uuid4().hex[:6]}-{folder.name}")
    try:
        folder.rename(trash)
    except FileNotFoundError:  # another run's sweep was faster
        return
    shutil.rmtree(trash, ignore_errors=True)


def _require_names() -> None:
    """Raise ClickException, before Flyte starts, for names in make's variables that no task can use."""
    try:
        for variable in ("SOURCE", "DESTINATION"):
            if os.environ.get(variable):
                require_address(os.environ[variable])
        if model := os.environ.get("MODEL"):
            require_model_name(model)
    except ValueError as error:
        raise click.ClickException(str(error)) from error


@click.group()
def housekeeping() -> None:
    """Outputs, cached features and checkpoints of local runs."""


@housekeeping.command("run", context_settings={"ignore_unknown_options": True})
@click.option("--days", type=Number("KEEP_DAYS", 0, 36_500), default=30, help="delete what was unused for so many days")
@click.option(
    "--gigabytes",
    type=Number("KEEP_GB", 0, 1_000_000),
    default=10,
    help="delete what was unused longest, down to this size",
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run_command(days: float, gigabytes: float, command: tuple[str, ...]) -> None:
    """Sweep, then become COMMAND, with a new folder as TMPDIR, where Flyte stores the outputs of local tasks."""
    _require_names()
    if deleted := sweep(days, gigabytes):
        limits = f"(KEEP_DAYS={days:g}, KEEP_GB={gigabytes:g})"
        click.echo(f"deleted {len(deleted)} old folders of outputs and checkpoints {limits}")
    if reset_corrupt_cache():
        click.echo(f"deleted {cache_folder()}, which was damaged: its results are computed again")
    folder, lock = new_run()
    os.set_inheritable(lock, True)  # the lock lives as long as the command does
    os.environ["TMPDIR"] = str(folder)
    os.execvp(command[0], command)


@housekeeping.command("clean")
def clean_command() -> None:
    """Delete all of it."""
    click.echo(f"deleted {len(clean())} folders of outputs and checkpoints; models, reports and predictions stay")


if __name__ == "__main__":
    prepare_streams()
    housekeeping()
