"""The interface of a member, its training data and its results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from rakuten_tasks.config import Refit, TrainingConfig
from rakuten_tasks.config_base import Strict
from rakuten_tasks.data.splits import BLENDING, TEST, TRAIN, VALIDATION
from rakuten_tasks.preprocessing.feature_shards import ShardArrays
from rakuten_tasks.training.checkpoint import INTERVAL, CheckpointStore
from rakuten_tasks.training.state import EpochMetrics


class Member(Protocol):
    """One model of the pool: features -> logits.

    name: also in reports. modality: text or photo. cheap: whether it reads words without a text encoder, so that its
    answer is tried first, see cascade.py. extractors: names of those whose arrays it reads, see extractors.py.
    pod: where it is fitted, "cpu", "gpu" or "elastic" (several GPUs). seeded: whether its fit depends on the seed.
    """

    name: ClassVar[str]
    modality: ClassVar[str]
    cheap: ClassVar[bool]
    pod: ClassVar[str]
    seeded: ClassVar[bool]
    extractors: tuple[str, ...]

    @classmethod
    def settings(cls, config: TrainingConfig) -> Strict:
        """Return the part of the configuration that its fit depends on; while it is unchanged, the fit is cached."""
        ...

    @classmethod
    def fit(cls, settings: Strict, data: TrainingData, context: FitContext) -> FitResult: ...

    def logits_and_embedding(self, arrays: Mapping[str, NDArray]) -> tuple[NDArray, NDArray | None]:
        """Arrays of N products from its extractors -> (N, K) fp32 logits, (N, E) embedding or None.

        A product gets the same bits alone and in a batch.
        """
        ...

    def save(self, folder: Path) -> None: ...

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> Self: ...


@dataclass(frozen=True)
class TrainingData:
    """Features of labelled rows, with labels, splits and folds; row i of each is the same product.

    labels: (N,) class indices; splits: (N,) positions in splits.SPLITS; folds: (N,) 0 to FOLDS - 1, by title.
    folders: of the saved extractors, by name.
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
        """Read the labelled rows of feature shards, whose arrays stay on disk.

        shards: by extractor. assignments: row, label, split, fold of every labelled row. Raises ValueError if the
        extractors' rows differ.
        """
        arrays = {name: ShardArrays(paths) for name, paths in shards.items()}
        rows = next(iter(arrays.values())).column("row")
        for name, others in arrays.items():
            if not np.array_equal(rows, others.column("row")):
                raise ValueError(f"features of {name} are of other rows than those of {next(iter(arrays))}")
        matching = assignments.set_index("row").loc[rows]
        labels, splits, folds = (matching[name].to_numpy(np.int64) for name in ("label", "split", "fold"))
        return cls(arrays, rows, labels, splits, folds, classes, folders)

    def on(self, *splits: int) -> NDArray:
        """Return the positions of the rows on these splits, ascending."""
        return np.flatnonzero(np.isin(self.splits, splits))

    @property
    def not_test(self) -> NDArray:
        """Positions of the rows outside the test split, on which members are fitted."""
        return self.on(TRAIN, VALIDATION, BLENDING)

    @property
    def everything(self) -> NDArray:
        """Positions of all rows."""
        return self.on(TRAIN, VALIDATION, BLENDING, TEST)


@dataclass(frozen=True)
class FitContext:
    """Seed, device, callback and checkpoints of a fit. refit: on which rows a member is fitted again."""

    seed: int
    device: torch.device
    refit: Refit = Refit.EXCEPT_TEST
    on_epoch: Callable[[EpochMetrics], None] = lambda epoch: None
    store: CheckpointStore | None = None
    interval: float = INTERVAL


@dataclass(frozen=True)
class FitResult:
    """A fitted member and its logits of rows that it had not been trained on.

    member: fitted on everything but the test rows. final: fitted on every row, if Refit.EVERYTHING. rows: (M,)
    positions in the data of the scored rows; logits: (M, K) fp32; stopping: (M,) bool, whether the row was used for
    early stopping, so that no pool may be fitted on it. epochs: of a network, in the order of training. details:
    further values for its page, by name.
    """

    member: Member
    final: Member | None
    rows: NDArray
    logits: NDArray
    stopping: NDArray
    epochs: list[EpochMetrics] = field(default_factory=list)
    details: dict[str, object] = field(default_factory=dict)
