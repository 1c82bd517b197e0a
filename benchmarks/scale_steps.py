"""Steps of a training on a made-up catalogue, each with the task that its pod runs, for scale.py.

A step is a function of a Bench; its result is stored for the later ones, each of which runs in a process of its own.
"""

from __future__ import annotations

import copyreg
import inspect
import pickle
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
from flytekit.core.context_manager import ExecutionParameters
from flytekit.types.directory import FlyteDirectory
from flytekit.types.file import FlyteFile
from safetensors.torch import save_file

from benchmarks.scale_catalogue import CODES, random_features
from rakuten_tasks.config import LSTMConfig, PhotoConfig, Refit, SampleConfig, TrainingConfig, Weights
from rakuten_tasks.data.splits import TitleSplits
from rakuten_tasks.models.members.plan import extractors_of
from rakuten_tasks.models.networks.vgg16_weights import random_convolutions
from rakuten_tasks.preprocessing.feature_shards import ShardArrays, write_shard
from rakuten_tasks.tasks import extract_features, start_run, train_members
from rakuten_tasks.tasks.assemble_bundle import assemble
from rakuten_tasks.tasks.assign_splits import split as assign_splits
from rakuten_tasks.tasks.evaluate_test_rows import evaluate_test
from rakuten_tasks.tasks.fit_baselines import score_baselines
from rakuten_tasks.tasks.fit_pool_weights import pool_members
from rakuten_tasks.tasks.types import Catalogue, FeatureShard, Run, Shard

PHOTO_WIDTH = 2944  # features of VGG16's blocks
WEIGHTS = "vgg16.safetensors"  # random ones, which the bundle has as pretrained ones

# flytekit's files cannot be pickled: they hold functions
for kind in (FlyteFile, FlyteDirectory):
    copyreg.pickle(kind, lambda file: (type(file), (str(file.path),)))


@dataclass(frozen=True)
class Bench:
    """A made-up catalogue of `rows` labelled and as many unlabelled products, and the results of the steps before."""

    folder: Path
    rows: int
    members: tuple[str, ...]
    sample: dict[str, int]

    def result(self, step: str) -> Any:
        """Return what a step returned."""
        return pickle.loads((self.folder / f"{step}.pickle").read_bytes())

    def store(self, step: str, result: object) -> None:
        """Store what a step returned."""
        (self.folder / f"{step}.pickle").write_bytes(pickle.dumps(result))

    @property
    def config(self) -> TrainingConfig:
        """The default with few rows in the sample and two epochs of the LSTM, without refits."""
        sample = SampleConfig(**self.sample)
        photo = PhotoConfig(weights=Weights.FILE, weights_file=str(self.folder / WEIGHTS))
        lstm = LSTMConfig(epochs=2)
        return TrainingConfig(members=list(self.members), refit=Refit.NONE, lstm=lstm, photo=photo, sample=sample)

    def shards(self, part: str = "labelled") -> list[Shard]:
        """Return the shards of a part."""
        return [Shard(FlyteFile(str(s.text)), FlyteFile(str(s.photos)), s.rows, s.sha256) for s in self.result(part)]

    @property
    def inputs(self) -> dict[str, Any]:
        """Return inputs of tasks by name, as far as there are results."""
        empty = self.folder / "empty.json"
        empty.write_text("{}")
        file = FlyteFile(str(empty))
        values = {
            "run": Run("scale", "scale", "scale"),
            "seed": 0,
            "catalogue": Catalogue("scale", CODES.tolist(), {}, True, file, file, file),
            "shards": self.shards(),
            "key": "",
            "config": self.config,
        }
        steps = {"resolved": "resolve", "splits": "split", "pooled": "pool"}
        steps |= {"baselines": "baseline", "evaluated": "evaluation"}
        values |= {name: self.result(step) for name, step in steps.items() if (self.folder / f"{step}.pickle").exists()}
        names = [name for name in self.members if (self.folder / f"{name}.pickle").exists()]
        extractors = list(dict.fromkeys(e for name in names for e in extractors_of(name, self.config)))
        return values | {
            "members": [self.result(name) for name in names],
            "extractors": [self.result(f"extractor_{e}") for e in extractors],
            "features": [self.result(f"features_{e}") for e in extractors],
        }

    def call(self, task: Any, **values: Any) -> Any:
        """Run a task's function with those of the values and of `inputs` that it takes."""
        function = task.task_function
        values = {**self.inputs, **values}
        return function(**{name: values[name] for name in inspect.signature(function).parameters})


@contextmanager
def as_in_pod(folder: Path) -> Iterator[None]:
    """Make tasks write to this folder, and replace their MLflow runs by objects that ignore everything. No printing."""
    fake = mock.MagicMock()
    with (
        mock.patch.multiple("rakuten_tasks.registry.runs", child_run=fake, log_to_parent=fake),
        mock.patch.object(ExecutionParameters, "working_directory", str(folder)),
        redirect_stdout(StringIO()),
    ):
        yield


def resolve(bench: Bench) -> object:
    if "photo" in bench.members:
        save_file(random_convolutions(batch_norm=False).state_dict(), bench.folder / WEIGHTS)
    return start_run.resolve(bench.config)


def split(bench: Bench) -> object:
    previous = bench.folder / "previous.parquet"
    TitleSplits.empty().save(previous)
    settings = bench.config
    return bench.call(
        assign_splits, previous_splits=FlyteFile(str(previous)), config=settings.split, sample=settings.sample
    )


def vocabulary(bench: Bench) -> object:
    result = bench.call(extract_features.fit_extractor, name="tokens")
    bench.store("extractor_tokens", result)
    return result


def ngrams(bench: Bench) -> None:
    _extract_all(bench, "ngrams")


def tokens(bench: Bench) -> None:
    _extract_all(bench, "tokens")


def vectors(bench: Bench) -> FeatureShard:
    _prepare(bench, "vectors")
    return _extract(bench, "vectors", 0)


def made_up_vectors(bench: Bench) -> None:
    """Make up vectors of all rows, as wide as those of one shard."""
    width = ShardArrays([Path(bench.result("vectors").file.path)]).column("vectors").shape[1]
    _make_up(bench, "vectors", "vectors", width)


def _extract_all(bench: Bench, name: str) -> None:
    """Extract features as the map task does, one shard after the other."""
    if name != "tokens":
        _prepare(bench, name)
    positions = range(len(bench.shards()))
    bench.store(f"features_{name}", [_extract(bench, name, position) for position in positions])


def _prepare(bench: Bench, name: str) -> None:
    settings = bench.result("resolve").config
    bench.store(f"extractor_{name}", bench.call(extract_features.prepare_extractor, name=name, config=settings))


def _extract(bench: Bench, name: str, position: int) -> FeatureShard:
    extractor = bench.result(f"extractor_{name}")
    return bench.call(
        extract_features.extract_features, shard=bench.shards()[position], position=position, extractor=extractor
    )


def one_shard(bench: Bench) -> None:
    """Extract the tokens of one shard once more."""
    _extract(bench, "tokens", 0)


def photo_features(bench: Bench) -> None:
    _prepare(bench, "photo_features")
    _make_up(bench, "photo_features", "photo", PHOTO_WIDTH)


def _make_up(bench: Bench, extractor: str, array: str, width: int) -> None:
    """Make up features of all rows that the training uses, in as many files as there are shards."""
    assignments = pd.read_parquet(bench.result("split").assignments.path)
    positions = np.array_split(np.arange(len(assignments)), min(len(bench.shards()), -(-len(assignments) // 100)))
    made = []
    for number, part in enumerate(assignments.iloc[rows] for rows in positions):
        path = bench.folder / f"{extractor}-{number:05d}.safetensors"
        labels = np.searchsorted(CODES, part["prdtypecode"].to_numpy(np.int64))
        write_shard(path, random_features(part["row"].to_numpy(np.int64), labels, array, width))
        made.append(FeatureShard.of(path))
    bench.store(f"features_{extractor}", made)


def bag(bench: Bench) -> object:
    return _fit(bench, "bag")


def lstm(bench: Bench) -> object:
    return _fit(bench, "lstm")


def encoder(bench: Bench) -> object:
    return _fit(bench, "encoder")


def photo(bench: Bench) -> object:
    return _fit(bench, "photo")


def _fit(bench: Bench, name: str) -> object:
    names = extractors_of(name, bench.config)
    extractors, features = ([bench.result(f"{kind}_{e}") for e in names] for kind in ("extractor", "features"))
    return bench.call(train_members.fit_member, name=name, extractors=extractors, features=features)


def pool(bench: Bench) -> object:
    return bench.call(pool_members, config=bench.config.pool)


def baseline(bench: Bench) -> object:
    return bench.call(score_baselines)


def evaluation(bench: Bench) -> object:
    return bench.call(evaluate_test)


def bundle(bench: Bench) -> object:
    return bench.call(assemble)
