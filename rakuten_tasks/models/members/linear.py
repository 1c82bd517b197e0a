"""Members with a linear classifier on frozen features, fitted in seconds and therefore out of fold."""

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
from tqdm import tqdm

from rakuten_tasks.config import BagConfig, Refit, Strict, TrainingConfig
from rakuten_tasks.models.linear_model import Features, LinearClassifier, Loss, fit_linear
from rakuten_tasks.models.members.link import Link
from rakuten_tasks.models.members.member import FOLDS, FitContext, FitResult, TrainingData
from rakuten_tasks.preprocessing.feature_shards import OFFSETS, ShardArrays
from rakuten_tasks.preprocessing.ngrams import BLOCKS, Tfidf

WEIGHTS = "linear.safetensors"


@dataclass(frozen=True)
class Standardizer:
    """Features to mean 0 and deviation 1 over the fitted rows, then, if unit, each row to length 1. (D,) each"""

    mean: NDArray
    deviation: NDArray
    unit: bool

    @classmethod
    def fit(cls, features: NDArray, unit: bool) -> Self:
        """(N, D) of training rows."""
        mean, deviation = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
        deviation[deviation < 1e-6] = 1.0  # a feature that never changes
        return cls(mean.astype(np.float32), deviation.astype(np.float32), unit)

    def transform(self, features: NDArray) -> NDArray:
        """(N, D) -> (N, D) fp32"""
        scaled = (features.astype(np.float32) - self.mean) / self.deviation
        if self.unit:
            lengths = np.sqrt(np.einsum("nd,nd->n", scaled, scaled, dtype=np.float64))
            scaled /= np.maximum(lengths, 1e-6)[:, None].astype(np.float32)
        return scaled


class LinearMember:
    """A linear classifier on n-grams, on one dense array, or on both side by side.

    array: the dense array's name, "" for none. cost: scikit-learn's C. standardize: the dense array's columns; unit:
    then its rows to length 1.
    """

    name: ClassVar[str]
    modality: ClassVar[str]
    pod: ClassVar[str] = "cpu"
    seeded: ClassVar[bool] = False
    extractors: tuple[str, ...]
    array: ClassVar[str] = ""
    loss: ClassVar[Loss] = Loss.HINGE
    cost: ClassVar[float] = 0.3  # against 1: 0.005 and 0.003 weighted F1 on 11,000 descriptions, the same on captions
    standardize: ClassVar[bool] = False
    unit: ClassVar[bool] = False

    def __init__(
        self, classifier: LinearClassifier, tfidf: Tfidf | None, scaler: Standardizer | None, link: Link | None = None
    ) -> None:
        self.classifier, self.tfidf, self.scaler, self.link = classifier, tfidf, scaler, link

    @classmethod
    def settings(cls, config: TrainingConfig) -> Strict:
        return BagConfig() if "ngrams" not in cls.extractors else config.bag

    @classmethod
    def fit(cls, settings: Strict, data: TrainingData, context: FitContext) -> FitResult:
        """Out of fold, then on everything but the test rows. A row whose class no other fold has is not scored."""
        counts, dense = cls._read(settings, data)
        rows = data.not_test
        logits = np.zeros((len(data.rows), data.classes), dtype=np.float32)
        scored = np.zeros(len(data.rows), dtype=bool)
        for fold in tqdm(range(FOLDS), desc=f"{cls.name}: out of fold", leave=False):
            others, held_out = rows[data.folds[rows] != fold], rows[data.folds[rows] == fold]
            held_out = held_out[np.isin(data.labels[held_out], data.labels[others])]
            if len(held_out):
                member = cls._fit(counts, dense, data, others, context)
                logits[held_out] = member._scores(_take(counts, held_out), _rows(dense, held_out))
                scored[held_out] = True
        places = np.flatnonzero(scored)
        link = Link.fit(logits[places], data.labels[places]) if cls.loss is Loss.HINGE else None
        everything = context.refit is Refit.EVERYTHING
        final = cls._fit(counts, dense, data, data.everything, context, link) if everything else None
        member = cls._fit(counts, dense, data, rows, context, link)
        unseen = link.transform(logits[places]) if link else logits[places]
        return FitResult(member, final, places, unseen, np.zeros(len(places), dtype=bool))

    @classmethod
    def _read(cls, settings: Strict, data: TrainingData) -> tuple[sparse.csr_array | None, NDArray | None]:
        bits = settings.ngram_bits if isinstance(settings, BagConfig) else 0
        counts = read_counts(data.arrays["ngrams"], bits) if "ngrams" in cls.extractors else None
        dense = [arrays for arrays in data.arrays.values() if cls.array in arrays.names]
        return counts, dense[0].column(cls.array) if cls.array else None

    @classmethod
    def _fit(
        cls,
        counts: sparse.csr_array | None,
        dense: NDArray | None,
        data: TrainingData,
        rows: NDArray,
        context: FitContext,
        link: Link | None = None,
    ) -> Self:
        seen, values = _take(counts, rows), _rows(dense, rows)
        tfidf = None if seen is None else Tfidf.fit(seen)
        scaler = Standardizer.fit(values, cls.unit) if values is not None and cls.standardize else None
        features = _features(seen, values, tfidf, scaler)
        classifier = fit_linear(features, data.labels[rows], data.classes, cls.cost, cls.loss, context.device)
        return cls(classifier, tfidf, scaler, link)

    def _scores(self, counts: sparse.csr_array | None, dense: NDArray | None) -> NDArray:
        scores = self.classifier.scores(_features(counts, dense, self.tfidf, self.scaler))
        return self.link.transform(scores) if self.link else scores

    def logits_and_embedding(self, arrays: Mapping[str, NDArray]) -> tuple[NDArray, None]:
        counts = counts_of(arrays, self.tfidf.bits) if self.tfidf else None
        return self._scores(counts, arrays[self.array] if self.array else None), None

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: getattr(self.classifier, name).cpu().contiguous() for name in ("table", "weight", "bias")}
        if self.scaler:
            tensors |= {name: torch.from_numpy(getattr(self.scaler, name)) for name in ("mean", "deviation")}
        if self.link:
            tensors["link"] = torch.tensor((self.link.slope, self.link.offset), dtype=torch.float64)
        save_file(tensors, folder / WEIGHTS)
        if self.tfidf:
            self.tfidf.save(folder)

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> Self:
        held = load_file(folder / WEIGHTS, device=str(device))
        scaler = None
        if "mean" in held:
            scaler = Standardizer(held["mean"].cpu().numpy(), held["deviation"].cpu().numpy(), cls.unit)
        tfidf = Tfidf.load(folder) if "ngrams" in cls.extractors else None
        link = Link(*held["link"].tolist()) if "link" in held else None
        return cls(LinearClassifier(held["table"], held["weight"], held["bias"]), tfidf, scaler, link)


class Bag(LinearMember):
    """Words and characters, as tf-idf of hashed n-grams."""

    name = "bag"
    modality = "text"
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
    """N-grams and vectors side by side, weighed against each other by one classifier."""

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
    """Counted n-grams of all rows of some shards. (N, BLOCKS * 2**bits)"""
    names = ("ngrams", "counts", "ngrams" + OFFSETS)
    parts = [counts_of(shard, bits) for shard in arrays.shards(names)]
    return sparse.csr_array(sparse.vstack(parts, format="csr"))


def counts_of(arrays: Mapping[str, NDArray], bits: int) -> sparse.csr_array:
    """What ngrams.count_ngrams gave, from its arrays. (N, BLOCKS * 2**bits)"""
    ends = arrays["ngrams" + OFFSETS]
    return sparse.csr_array((arrays["counts"], arrays["ngrams"], ends), shape=(len(ends) - 1, BLOCKS << bits))


def _take(counts: sparse.csr_array | None, rows: NDArray) -> sparse.csr_array | None:
    return None if counts is None else sparse.csr_array(counts[rows])


def _rows(dense: NDArray | None, rows: NDArray) -> NDArray | None:
    return None if dense is None else dense[rows]


def _features(
    counts: sparse.csr_array | None, dense: NDArray | None, tfidf: Tfidf | None, scaler: Standardizer | None
) -> Features:
    return Features(
        None if counts is None or tfidf is None else tfidf.transform(counts),
        None if dense is None else (scaler.transform(dense) if scaler else dense.astype(np.float32)),
    )


def tfidf_of(members: Mapping[str, object]) -> Tfidf | None:
    """What knows the words of training rows; None where no member has n-grams."""
    return next((m.tfidf for m in members.values() if isinstance(m, LinearMember) and m.tfidf), None)
