"""The contract with flytekit's cache of local runs: the private names that the adapter uses do what it needs."""

from __future__ import annotations

import inspect
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from flytekit import Cache, task
from flytekit.core import local_cache as flytekit_cache
from flytekit.types.directory import FlyteDirectory
from flytekit.types.file import FlyteFile

from rakuten_tasks.runtime import local_cache
from rakuten_tasks.storage.paths import cache_folder, runs_folder

calls: list[str] = []


@dataclass(frozen=True)
class Part:
    file: FlyteFile


@dataclass(frozen=True)
class Outputs:
    parts: list[Part]
    folder: FlyteDirectory


@task(cache=Cache(version="1"))
def write_files(run: str) -> tuple[Outputs, list[FlyteFile]]:
    calls.append(run)
    (Path(run) / "folder").mkdir(parents=True, exist_ok=True)
    files = [Path(run) / name for name in ("a é.txt", "folder/b.txt", "c.txt")]
    for file in files:
        file.write_text("content")
    outputs = Outputs([Part(FlyteFile(str(files[0])))], FlyteDirectory(str(files[1].parent)))
    return outputs, [FlyteFile(str(files[2]))]


@pytest.fixture
def run(local_runs: Path, tmp_path: Path) -> Iterator[Path]:
    local_cache.use(tmp_path / "cache")
    calls.clear()
    run = runs_folder() / f"20260101-000000-{tmp_path.name}"
    write_files(run=str(run))
    yield run
    shutil.rmtree(run, ignore_errors=True)
    local_cache.use(cache_folder())


def test_the_cache_lies_in_the_folder_and_an_unchanged_result_marks_its_run_as_used(run, tmp_path):
    assert (tmp_path / "cache" / "cache.db").is_file()
    os.utime(run, (0, 0))
    outputs, _ = write_files(run=str(run))
    assert Path(outputs.parts[0].file.path).read_text() == "content"
    assert calls == [str(run)]
    assert run.stat().st_mtime > 0


def delete(file: Path) -> None:
    file.unlink()


def edit(file: Path) -> None:
    file.write_text("changed")


@pytest.mark.parametrize("harm", [delete, edit])
@pytest.mark.parametrize("name", ["a é.txt", "folder/b.txt", "c.txt"])
def test_a_result_whose_file_was_deleted_or_changed_is_computed_again(run, name, harm):
    harm(run / name)
    write_files(run=str(run))
    assert calls == [str(run)] * 2
    assert (run / name).read_text() == "content"


def test_flytekit_calls_get_and_set_as_the_adapter_expects():
    parameters = ["task_name", "cache_version", "input_literal_map"]
    assert list(inspect.signature(local_cache._get).parameters)[:3] == parameters
    assert list(inspect.signature(local_cache._set).parameters)[:3] == parameters
    assert hasattr(flytekit_cache, "CACHE_LOCATION")
    assert isinstance(flytekit_cache.LocalTaskCache._initialized, bool)
