"""Members with a linear classifier on frozen features. They are fitted in seconds, and so out of fold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from scipy import sparse

from rakuten_tasks.config import BagConfig, Refit, TrainingConfig
from rakuten_tasks.config_base import Strict
from rakuten_tasks.console.progress import Progress
from rakuten_tasks.data.splits import FOLDS
from rakuten_tasks.models.linear_model import Features, LinearClassifier, Loss, fit_linear
from rakuten_tasks.models.members.member import FitContext, FitResult, TrainingData
from rakuten_tasks.models.members.platt_scaling import PlattScaling
from rakuten_tasks.preprocessing.feature_shards import OFFSETS, ShardArrays
from rakuten_tasks.preprocessing.ngrams import BLOCKS, Tfidf

WEIGHTS = "linear.safetensors"


@dataclass(frozen=True)
class Standardizer:
    """Scales features to mean 0 and deviation 1 over the fitted rows, then, if unit, each row to length 1. (D,) each"""

    mean: NDArray
    deviation: NDArray
    unit: bool

    @classmethod
    def fit(cls, features: NDArray, unit: bool) -> Self:
        """(N, D) of training rows."""
        mean, deviation = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
        deviation[deviation < 1e-6] = 1.0  # a constant feature
        return cls(mean.astype(np.float32), deviation.astype(np.float32), unit)

    def transform(self, features: NDArray) -> NDArray:
        """(N, D) -> (N, D) fp32"""
        scaled = (features.astype(np.float32) - self.mean) / self.deviation
        if self.unit:
            lengths = np.sqrt(np.einsum("nd,nd->n", scaled, scaled, dtype=np.float64))
            scaled /= np.maximum(lengths, 1e-6)[:, None].astype(np.float32)
        return scaled


class LinearMember:
    """A linear classifier on n-grams, on one dense array, or on both concatenated.

    array: the dense array's name, "" for none. cost: scikit-learn's C. standardize: the dense array's columns; unit:
    then its rows to length 1. Features here are counted n-grams and the dense array before `_transform`.
    """

    name: ClassVar[str]
    modality: ClassVar[str]
    cheap: ClassVar[bool] = False
    pod: ClassVar[str] = "cpu"
    seeded: ClassVar[bool] = False
    extractors: tuple[str, ...]
    array: ClassVar[str] = ""
    loss: ClassVar[Loss] = Loss.HINGE
    cost: ClassVar[float] = 0.3  # against 1: 0.005 and 0.003 weighted F1 on 11,000 descriptions, the same on captions
    standardize: ClassVar[bool] = False
    unit: ClassVar[bool] = False

    def __init__(
        self,
        classifier: LinearClassifier,
        tfidf: Tfidf | None,
        scaler: Standardizer | None,
        platt: PlattScaling | None = None,
    ) -> None:
        self.classifier, self.tfidf, self.scaler, self.platt = classifier, tfidf, scaler, platt

    @classmethod
    def settings(cls, config: TrainingConfig) -> Strict:
        return BagConfig() if "ngrams" not in cls.extractors else config.bag

    @classmethod
    def fit(cls, settings: Strict, data: TrainingData, context: FitContext) -> FitResult:
        """Fit out of fold, then on everything but the test rows. A row whose class no other fold has is not scored."""
        features, rows = cls._read(settings, data), data.not_test
        logits = np.zeros((len(data.rows), data.classes), dtype=np.float32)
        scored = np.zeros(len(data.rows), dtype=bool)
        for fold in Progress(range(FOLDS), f"{cls.name} out of fold", unit=" folds", leave=False):
            fitted_on, held_out = rows[data.folds[rows] != fold], rows[data.folds[rows] == fold]
            held_out = held_out[np.isin(data.labels[held_out], data.labels[fitted_on])]
            if len(held_out):
                member = cls._fit(features, data, fitted_on, context)
                logits[held_out] = member._logits(features.take(held_out))
                scored[held_out] = True
        places = np.flatnonzero(scored)
        platt = PlattScaling.fit(logits[places], data.labels[places]) if cls.loss is Loss.HINGE else None
        everything = context.refit is Refit.EVERYTHING
        final = cls._fit(features, data, data.everything, context, platt) if everything else None
        member = cls._fit(features, data, rows, context, platt)
        out_of_fold = platt.transform(logits[places]) if platt else logits[places]
        return FitResult(member, final, places, out_of_fold, np.zeros(len(places), dtype=bool))

    @classmethod
    def _read(cls, settings: Strict, data: TrainingData) -> Features:
        counts, dense = None, None
        if "ngrams" in cls.extractors:
            assert isinstance(settings, BagConfig)
            counts = read_counts(data.arrays["ngrams"], settings.ngram_bits)
        if cls.array:
            dense = next(arrays for arrays in data.arrays.values() if cls.array in arrays.names).column(cls.array)
        return Features(counts, dense)

    @classmethod
    def _fit(
        cls,
        features: Features,
        data: TrainingData,
        rows: NDArray,
        context: FitContext,
        platt: PlattScaling | None = None,
    ) -> Self:
        raw = features.take(rows)
        tfidf = None if raw.sparse is None else Tfidf.fit(raw.sparse)
        scaler = Standardizer.fit(raw.dense, cls.unit) if raw.dense is not None and cls.standardize else None
        transformed = _transform(raw, tfidf, scaler)
        del raw  # a copy of all rows
        classifier = fit_linear(transformed, data.labels[rows], data.classes, cls.cost, cls.loss, context.device)
        return cls(classifier, tfidf, scaler, platt)

    def _logits(self, features: Features) -> NDArray:
        scores = self.classifier.scores(_transform(features, self.tfidf, self.scaler))
        return self.platt.transform(scores) if self.platt else scores

    def logits_and_embedding(self, arrays: Mapping[str, NDArray]) -> tuple[NDArray, None]:
        counts = build_counts(arrays, self.tfidf.bits) if self.tfidf else None
        return self._logits(Features(counts, arrays[self.array] if self.array else None)), None

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: getattr(self.classifier, name).cpu().contiguous() for name in ("table", "weight", "bias")}
        if self.scaler:
            tensors |= {name: torch.from_numpy(getattr(self.scaler, name)) for name in ("mean", "deviation")}
        if self.platt:
            tensors["platt"] = torch.tensor((self.platt.slope, self.platt.offset), dtype=torch.float64)
        save_file(tensors, folder / WEIGHTS)
        if self.tfidf:
            self.tfidf.save(folder)

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> Self:
        tensors = load_file(folder / WEIGHTS, device=str(device))
        scaler = None
        if "mean" in tensors:
            scaler = Standardizer(tensors["mean"].cpu().numpy(), tensors["deviation"].cpu().numpy(), cls.unit)
        tfidf = Tfidf.load(folder) if "ngrams" in cls.extractors else None
        platt = PlattScaling(*tensors["platt"].tolist()) if "platt" in tensors else None
        return cls(LinearClassifier(tensors["table"], tensors["weight"], tensors["bias"]), tfidf, scaler, platt)


class Bag(LinearMember):
    """Words and characters, as tf-idf of hashed n-grams."""

    name = "bag"
    modality = "text"
    cheap = True
    extractors: tuple[str, ...] = ("ngrams",)


class Encoder(LinearMember):
    """A pretrained encoder's vectors of the title, and of title and description together."""

    name = "encoder"
    modality = "text"
    extractors: tuple[str, ...] = ("vectors",)
    array = "vectors"
    loss = Loss.SOFTMAX
    cost = 0.003
    standardize = True


class BagEncoder(LinearMember):
    """N-grams and vectors concatenated, for one classifier."""

    name = "bag_encoder"
    modality = "text"
    extractors: tuple[str, ...] = ("ngrams", "vectors")
    array = "vectors"


class Photo(LinearMember):
    """A pretrained backbone's features. On rows of unit length the hinge has 20 points on a logistic regression."""

    name = "photo"
    modality = "photo"
    extractors: tuple[str, ...] = ("photo_features",)
    array = "photo"
    cost = 3.0
    standardize = True
    unit = True


def read_counts(arrays: ShardArrays, bits: int) -> sparse.csr_array:
    """Return the counted n-grams of all rows of the shards. (N, BLOCKS * 2**bits)"""
    parts = [build_counts(shard, bits) for shard in arrays.shards(("ngrams", "counts", "ngrams" + OFFSETS))]
    return sparse.csr_array(sparse.vstack(parts, format="csr"))


def build_counts(arrays: Mapping[str, NDArray], bits: int) -> sparse.csr_array:
    """Return the matrix that ngrams.count_ngrams made, from its arrays. (N, BLOCKS * 2**bits)"""
    ends = arrays["ngrams" + OFFSETS]
    return sparse.csr_array((arrays["counts"], arrays["ngrams"], ends), shape=(len(ends) - 1, BLOCKS << bits))


def _transform(features: Features, tfidf: Tfidf | None, scaler: Standardizer | None) -> Features:
    """(N, BLOCKS * 2**bits) counts, (N, E) dense -> (N, 2**bits) tf-idf, (N, E) fp32, scaled if there is a scaler"""
    counts, dense = features.sparse, features.dense
    if dense is not None:
        dense = scaler.transform(dense) if scaler else dense.astype(np.float32)
    return Features(tfidf.transform(counts) if tfidf else None, dense)


def tfidf_of(members: Mapping[str, object]) -> Tfidf | None:
    """Return the tf-idf weights, which tell the words of training rows; None if no member reads n-grams."""
    return next((m.tfidf for m in members.values() if isinstance(m, LinearMember) and m.tfidf), None)
