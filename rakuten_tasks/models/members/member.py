"""The interface of a member, and the data that it is fitted on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from rakuten_tasks.config import Refit, Strict, TrainingConfig
from rakuten_tasks.data.splits import BLENDING, TEST, TRAIN, VALIDATION
from rakuten_tasks.preprocessing.feature_shards import ShardArrays
from rakuten_tasks.training.checkpoint import INTERVAL, CheckpointStore
from rakuten_tasks.training.state import EpochMetrics

FOLDS = 4  # of the titles that are not test: a member fitted out of fold is trained on three quarters each time


class Member(Protocol):
    """One source of evidence: features -> logits.

    name: its section in reports. modality: text or photo. extractors: whose arrays it reads, see extractors.py. pod:
    where it is fitted, "cpu", "gpu" or "elastic" (several GPUs). seeded: whether its fit depends on the seed.
    """

    name: ClassVar[str]
    modality: ClassVar[str]
    pod: ClassVar[str]
    seeded: ClassVar[bool]
    extractors: tuple[str, ...]

    @classmethod
    def settings(cls, config: TrainingConfig) -> Strict:
        """All of the configuration that its fit depends on: the rest may change without fitting it again."""
        ...

    @classmethod
    def fit(cls, settings: Strict, data: TrainingData, context: FitContext) -> FitResult: ...

    def logits_and_embedding(self, arrays: Mapping[str, NDArray]) -> tuple[NDArray, NDArray | None]:
        """Features of N products, as its extractors give them -> (N, K) fp32 logits, (N, E) embedding or None.

        A product gets the same answer alone and among others.
        """
        ...

    def save(self, folder: Path) -> None: ...

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> Self: ...


@dataclass(frozen=True)
class TrainingData:
    """Features of labelled rows, with labels, splits and folds; row i of each is the same product.

    labels: (N,) class indices; splits: (N,) positions in splits.SPLITS; folds: (N,) 0 to FOLDS - 1, by title.
    folders: where the extractors were saved, by name.
    """

    arrays: Mapping[str, ShardArrays]
    rows: NDArray
    labels: NDArray
    splits: NDArray
    folds: NDArray
    classes: int
    folders: Mapping[str, Path]

    @classmethod
    def load(
        cls, shards: Mapping[str, Sequence[Path]], assignments: pd.DataFrame, classes: int, folders: Mapping[str, Path]
    ) -> Self:
        """shards: by extractor. assignments: row, label, split, fold of every labelled row."""
        arrays = {name: ShardArrays(paths) for name, paths in shards.items()}
        rows = next(iter(arrays.values())).column("row")
        for name, others in arrays.items():
            if not np.array_equal(rows, others.column("row")):
                raise ValueError(f"features of {name} are of other rows than those of {next(iter(arrays))}")
        found = assignments.set_index("row").loc[rows]
        labels, splits, folds = (found[name].to_numpy(np.int64) for name in ("label", "split", "fold"))
        return cls(arrays, rows, labels, splits, folds, classes, folders)

    def on(self, *splits: int) -> NDArray:
        """Places of the rows on these splits, ascending."""
        return np.flatnonzero(np.isin(self.splits, splits))

    @property
    def not_test(self) -> NDArray:
        """Places of the rows that members are fitted on."""
        return self.on(TRAIN, VALIDATION, BLENDING)

    @property
    def everything(self) -> NDArray:
        """Places of all rows."""
        return self.on(TRAIN, VALIDATION, BLENDING, TEST)


@dataclass(frozen=True)
class FitContext:
    """Where a fit runs and what it tells. refit: what a member is fitted on once more."""

    seed: int
    device: torch.device
    refit: Refit = Refit.EXCEPT_TEST
    on_epoch: Callable[[EpochMetrics], None] = lambda epoch: None
    store: CheckpointStore | None = None
    interval: float = INTERVAL


@dataclass(frozen=True)
class FitResult:
    """A fitted member and what it said of rows before it had seen them.

    member: fitted on everything but the test rows. final: on every row, if that was asked for. rows: (M,) places in
    the data that it scored without having been trained on them; logits: (M, K) fp32; stopping: (M,) bool, whether the
    row told when to stop, so that no pool is fitted on it. epochs: of a network, in the order trained. facts: what else
    is worth knowing, for its page.
    """

    member: Member
    final: Member | None
    rows: NDArray
    logits: NDArray
    stopping: NDArray
    epochs: list[EpochMetrics] = field(default_factory=list)
    facts: dict[str, object] = field(default_factory=dict)
