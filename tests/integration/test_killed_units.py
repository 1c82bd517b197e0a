"""Units of work that are killed with SIGKILL and run again, or run in two processes, give the same bytes."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import pkgutil
import re
import shutil
import signal
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from flytekit.types.directory import FlyteDirectory
from flytekit.types.file import FlyteFile

from rakuten_tasks.config import IngestConfig, PublicationConfig
from rakuten_tasks.data.read_catalogue import ingest
from rakuten_tasks.data.versions.commit import SourceInfo, publish
from rakuten_tasks.models.bundle import EXTRACTORS_FOLDER
from rakuten_tasks.tasks.extract_features import extract_features
from rakuten_tasks.tasks.predict_products import Champion, predict_shard
from rakuten_tasks.tasks.types import Shard, Splits, StoredExtractor
from tests.support.bundles import write_bundle
from tests.support.catalogues import TINY, write_catalogue
from tests.support.task_names import task_function

CONFIG = PublicationConfig(ingest=IngestConfig(rows_per_shard=70), split=TINY.split)  # two row groups of photos
EXTRACTORS = ("ngrams", "tokens", "maps")
DRAFT = re.compile(r"^index-|\.part$|\.json\.")
WRITE_GROUP = "pyarrow.parquet.ParquetWriter.write_table"


def start(function: Callable, *arguments: Any, kill: tuple[str, int] = ("", 0)) -> BaseProcess:
    """Start a process that kills itself at this call of a function: its name, and 1 for the first call."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=_run, args=(function, arguments, *kill))
    process.start()
    return process


def _run(function: Callable, arguments: Sequence[Any], target: str, call: int) -> None:
    if target:
        module, _, name = target.rpartition(".")
        owner, calls = pkgutil.resolve_name(module), itertools.count(1)
        original = getattr(owner, name)

        def killed_at(*args: Any, **options: Any) -> Any:
            if next(calls) == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **options)

        setattr(owner, name, killed_at)
    function(*arguments)


def finish(*processes: BaseProcess) -> list[int | None]:
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def files(folder: Path) -> dict[str, bytes]:
    """Without the time of publication, and without the drafts that a killed process may leave."""
    paths = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {
        name: re.sub(rb'"published": "[^"]*"', b"", path.read_bytes())
        for name, path in paths.items()
        if not DRAFT.search(name)
    }


def ingest_to(folder: Path, out: Path) -> None:
    ingest(str(folder / "catalogue"), out / "read", CONFIG.ingest)


def publish_to(folder: Path, out: Path) -> None:
    """Publish half of the products, then all of them; versions that exist are not published again."""
    for name in ("half", "catalogue"):
        work = out.with_name(f"{out.name}-{name}")
        shutil.rmtree(work, ignore_errors=True)
        read = ingest(str(folder / name), work / "read", CONFIG.ingest)
        publish(read, SourceInfo(name, None), str(out), CONFIG, True, work / "staged")


def stored_shard(folder: Path, position: int) -> Shard:
    text, photos = (folder / f"read/labelled-{position:05d}.{kind}.parquet" for kind in ("text", "photos"))
    return Shard(FlyteFile(str(text)), FlyteFile(str(photos)), 70, str(position))


def extract_to(folder: Path, out: Path, positions: Sequence[int] = (0, 1)) -> None:
    empty = FlyteFile(str(folder / "assignments.parquet"))
    splits = Splits(empty, empty, {}, empty, "")
    out.mkdir(exist_ok=True)
    for position, name in itertools.product(positions, EXTRACTORS):
        extractor = StoredExtractor(name, FlyteDirectory(str(folder / "bundle" / EXTRACTORS_FOLDER / name)), "", [])
        shard = stored_shard(folder, position)
        features = task_function(extract_features)(shard, "", position, splits, extractor)
        shutil.copy(features.file.path, out / f"{name}-{position}")


def predict_to(folder: Path, out: Path, positions: Sequence[int] = (0, 1)) -> None:
    champion = Champion(FlyteDirectory(str(folder / "bundle")), "model", 1, [], "")
    out.mkdir(exist_ok=True)
    for position in positions:
        predictions = task_function(predict_shard)(stored_shard(folder, position), champion)
        shutil.copy(predictions.path, out / str(position))


UNITS = {"ingest": ingest_to, "publish": publish_to, "extract": extract_to, "predict": predict_to}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What every unit reads, and in `alone` what it writes if it is not disturbed."""
    folder = tmp_path_factory.mktemp("units")
    write_catalogue(folder / "half", labelled=70)
    write_catalogue(folder / "catalogue", labelled=140)
    ingest_to(folder, folder)
    rows = range(0, 140, 2)  # of a shard, half of the rows are used
    pd.DataFrame({"row": rows, "shard": [row // 70 for row in rows]}).to_parquet(folder / "assignments.parquet")
    write_bundle(folder / "bundle", members=("bag", "lstm", "photo", "vgg16"))
    assert finish(*(start(unit, folder, folder / f"alone-{name}") for name, unit in UNITS.items())) == [0] * len(UNITS)
    return folder


@pytest.mark.parametrize(
    ("name", "target", "call"),
    [
        ("ingest", WRITE_GROUP, 1),
        ("ingest", WRITE_GROUP, 2),  # inside a shard
        ("ingest", WRITE_GROUP, 5),  # in the second shard
        ("ingest", "rakuten_tasks.data.ingested.IngestResult.write_summary", 1),
        ("publish", "os.fsync", 2),  # a copy that is not complete
        ("publish", "os.link", 1),  # between the shards and the manifest
        ("publish", "os.link", 2),
        ("extract", "rakuten_tasks.tasks.extract_features.products_of", 4),  # between two row groups of photos
        ("extract", "rakuten_tasks.tasks.extract_features.write_shard", 3),
        ("extract", "rakuten_tasks.tasks.extract_features.FeatureShard.of", 5),  # between two shards
        ("predict", WRITE_GROUP, 1),
        ("predict", "rakuten_tasks.models.predictor.Predictor.score", 2),
    ],
)
def test_a_killed_unit_that_is_run_again_gives_the_same_bytes(
    name: str, target: str, call: int, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert finish(start(UNITS[name], folder, out, kill=(target, call))) == [-signal.SIGKILL]
    assert finish(start(UNITS[name], folder, out)) == [0]
    assert files(out) == files(folder / f"alone-{name}")
    assert len(files(out)) > 1


@pytest.mark.parametrize("name", ["extract", "predict"])
def test_two_processes_give_the_bytes_of_one(name: str, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert finish(*(start(UNITS[name], folder, out, [position]) for position in (1, 0))) == [0, 0]
    assert files(out) == files(folder / f"alone-{name}")
