"""Retention of var/: deletes old outputs, cached features and checkpoints of local runs.

python -m rakuten_tasks.runtime.housekeeping run -- COMMAND    sweep, then run it with a folder of its own as TMPDIR
python -m rakuten_tasks.runtime.housekeeping clean             delete all of it

The registry (var/mlflow), reports and predictions are never touched. A run that goes on is left alone, and so is what
it may be reading: only what was last used before the oldest run that goes on began is deleted.
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
from dataclasses import dataclass
from pathlib import Path

import click

from rakuten_tasks.paths import cache_folder, checkpoints_folder, runs_folder

LOCK = "going-on.lock"
STARTED = "%Y%m%d-%H%M%S"  # how a run's folder begins; UTC
TRASH_PREFIX = ".deleted-"


@dataclass(frozen=True)
class Retention:
    """days: what was not used for so long goes. gigabytes: the rest is cut to this, longest unused first."""

    days: float = 30
    gigabytes: float = 10

    def __post_init__(self) -> None:
        if not (self.days >= 0 and self.gigabytes >= 0):
            raise ValueError(f"{self}: KEEP_DAYS and KEEP_GB must be 0 or more")


@dataclass(frozen=True)
class Folder:
    """What may be deleted. used: when it last was, in seconds since 1970; size: bytes."""

    path: Path
    used: float
    size: int


def new_run() -> tuple[Path, int]:
    """A folder for one run's outputs, and the lock (a file descriptor) that keeps sweeps away while it is open."""
    folder = runs_folder() / f"{time.strftime(STARTED, time.gmtime())}-{uuid.uuid4().hex[:6]}"
    folder.mkdir(parents=True)
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return folder, lock


def sweep(retention: Retention) -> list[Path]:
    """Delete what the retention does not keep. -> what was deleted"""
    oldest_kept = time.time() - retention.days * 86400
    folders = sorted(_deletable(), key=lambda folder: folder.used)
    too_much = sum(folder.size for folder in folders) - retention.gigabytes * 1e9
    gone = []
    for folder in folders:
        if folder.used < oldest_kept or too_much > 0:
            too_much -= folder.size
            _delete(folder.path)
            gone.append(folder.path)
    return gone


def clean() -> list[Path]:
    """Delete all outputs, checkpoints and cached results, but for what runs that go on may need."""
    gone = sweep(Retention(days=0, gigabytes=0))
    _inside(cache_folder().parent)  # what an earlier deletion of the cache left
    if not _going_on():
        _delete(cache_folder())
    return gone


def _deletable() -> list[Folder]:
    going_on = _going_on()
    began = min((_started(folder) for folder in going_on), default=float("inf"))
    paths = [path for path in _inside(runs_folder()) + _inside(checkpoints_folder()) if path not in going_on]
    return [folder for path in paths if (folder := _look(path)) and folder.used < began]


def _look(path: Path) -> Folder | None:
    try:
        return Folder(path, path.stat().st_mtime, sum(inside.lstat().st_size for inside in path.rglob("*")))
    except FileNotFoundError:  # another run's sweep is deleting it
        return None


def _inside(parent: Path) -> list[Path]:
    """Its folders, without those whose deletion was cut short, which is finished."""
    paths = [path for path in parent.iterdir() if path.is_dir()] if parent.is_dir() else []
    for cut_short in (path for path in paths if path.name.startswith(TRASH_PREFIX)):
        shutil.rmtree(cut_short, ignore_errors=True)
    return [path for path in paths if not path.name.startswith(TRASH_PREFIX)]


def reset_corrupt_cache() -> bool:
    """Forget which results are there if the file that knows is no database any more. -> whether it was so"""
    database = cache_folder() / "cache.db"
    if not database.is_file():
        return False
    try:
        with closing(sqlite3.connect(database)) as connection:
            whole = connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",)
    except sqlite3.OperationalError:  # another run has it locked: then it is one
        return False
    except sqlite3.DatabaseError:
        whole = False
    if not whole:
        _delete(cache_folder())
    return not whole


def _going_on() -> set[Path]:
    return {folder for folder in _inside(runs_folder()) if _locked(folder / LOCK)}


def _locked(path: Path) -> bool:
    try:
        with path.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def _started(run: Path) -> float:
    return calendar.timegm(time.strptime(run.name[:15], STARTED))


def _delete(folder: Path) -> None:
    """Renamed first, in one step: a reader finds all of it or nothing, also where the deletion is cut short."""
    doomed = folder.with_name(f"{TRASH_PREFIX}{uuid.uuid4().hex[:6]}-{folder.name}")
    try:
        folder.rename(doomed)
    except FileNotFoundError:  # another run's sweep was quicker
        return
    shutil.rmtree(doomed, ignore_errors=True)


@click.group()
def housekeeping() -> None:
    """Outputs, cached features and checkpoints of local runs."""


@housekeeping.command("run", context_settings={"ignore_unknown_options": True})
@click.option("--days", type=click.FloatRange(min=0), default=30, help="what was not used for so many days goes")
@click.option("--gigabytes", type=click.FloatRange(min=0), default=10, help="longest unused first, down to this")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run_command(days: float, gigabytes: float, command: tuple[str, ...]) -> None:
    """Sweep, then become COMMAND, with a folder of its own as TMPDIR, where Flyte keeps the outputs of local tasks."""
    try:
        retention = Retention(days, gigabytes)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if gone := sweep(retention):
        click.echo(
            f"deleted {len(gone)} old folders of outputs and checkpoints (KEEP_DAYS={days:g}, KEEP_GB={gigabytes:g})"
        )
    if reset_corrupt_cache():
        click.echo(f"{cache_folder()} was damaged and is deleted: what it knew is computed again")
    folder, lock = new_run()
    os.set_inheritable(lock, True)  # the lock lives as long as the command does
    os.environ["TMPDIR"] = str(folder)
    os.execvp(command[0], command)


@housekeeping.command("clean")
def clean_command() -> None:
    """Delete all of it."""
    click.echo(f"deleted {len(clean())} folders of outputs and checkpoints; models, reports and predictions stay")


if __name__ == "__main__":
    housekeeping()
