"""The Predictor, which evaluation, batch prediction and serving use, with the bundle's settings."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from rakuten_tasks.models.bundle import EXTRACTORS_FOLDER, MEMBERS_FOLDER, Manifest, read_manifest
from rakuten_tasks.models.extractors import EXTRACTORS, Extractor
from rakuten_tasks.models.members import MEMBERS, Member
from rakuten_tasks.models.pool import MODALITIES, Logits, Pool
from rakuten_tasks.models.staged_logits import Embeddings, StagedLogits
from rakuten_tasks.preprocessing.product import Product
from rakuten_tasks.training.hardware import choose_device

ReadPhoto = Callable[[int], bytes]


@dataclass(frozen=True)
class Scores:
    """Predictions for N products.

    probabilities: (N, K), calibrated and pooled. by_member: (N, K) for each member alone, the class prior where it is
    not available. available: (N,) bool for each member, whether it took part in the prediction: it had its input, and
    no earlier stage had settled the product; where all are False the prediction is the class prior.
    """

    codes: NDArray  # (K,)
    probabilities: NDArray
    by_member: dict[str, NDArray]
    available: dict[str, NDArray]
    modality: dict[str, str]

    @property
    def predicted(self) -> NDArray:
        """The most probable code. (N,)"""
        return self.codes[self.probabilities.argmax(1)]

    @property
    def confidence(self) -> NDArray:
        """The probability of that code. (N,)"""
        return self.probabilities.max(1)

    def top(self, k: int) -> tuple[NDArray, NDArray]:
        """Return the k most probable codes and their probabilities, best first. (N, k) each; at most K."""
        order = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :k]
        return self.codes[order], np.take_along_axis(self.probabilities, order, axis=1)

    def modalities(self, row: int) -> list[str]:
        """List which of text and photo were used: those that the product has, without a photo that was skipped."""
        available = {self.modality[name] for name, mask in self.available.items() if mask[row]}
        return [modality for modality in MODALITIES if modality in available]


def pool_logits(logits: Logits, pool: Pool, codes: Sequence[int]) -> Scores:
    """Combine members' logits into scores."""
    alone = {name: pool.alone(logits, name) for name in logits.by_member}
    return Scores(np.asarray(codes), pool.probabilities(logits), alone, logits.available, pool.modality)


class Predictor:
    """Extractors, members and their pool: the same scores for a product alone, in a batch, and after loading."""

    manifest: Manifest  # only of one that was loaded from a bundle

    def __init__(
        self, codes: Sequence[int], pool: Pool, extractors: Mapping[str, Extractor], members: Mapping[str, Member]
    ) -> None:
        self.codes, self.pool, self.extractors, self.members = codes, pool, extractors, members

    @classmethod
    def load(cls, bundle: Path, device: torch.device | None = None) -> Self:
        """Load a bundle. Raises FileNotFoundError or ValueError if the folder is no bundle that this code reads."""
        manifest, device = read_manifest(bundle), device or choose_device()
        folders = {name: bundle / MEMBERS_FOLDER / name for name in manifest.members}
        predictor = cls.assemble(
            manifest.codes, manifest.pool, manifest.members, bundle / EXTRACTORS_FOLDER, folders, device
        )
        predictor.manifest = manifest
        return predictor

    @classmethod
    def assemble(
        cls,
        codes: Sequence[int],
        pool: Pool,
        members: Mapping[str, Sequence[str]],
        extractors: Path,
        folders: Mapping[str, Path],
        device: torch.device,
    ) -> Self:
        """Load the parts from their folders.

        members: the extractors that each reads; extractors: the folder of the extractors' folders; folders: of members.
        """
        names = dict.fromkeys(name for extractor_names in members.values() for name in extractor_names)
        loaded = {name: EXTRACTORS[name].load(extractors / name, device) for name in names}
        fitted: dict[str, Member] = {}
        for name, extractor_names in members.items():
            fitted[name] = MEMBERS[name].load(folders[name], device)
            fitted[name].extractors = tuple(extractor_names)
        return cls(codes, pool, loaded, fitted)

    def score(self, products: Sequence[Product], read_photo: ReadPhoto | None = None) -> Scores:
        """Score (N,) products. Raises PhotoError on bytes that are no photo. read_photo: see `staged_logits`."""
        staged = self.staged_logits(products, read_photo=read_photo).finish()
        return pool_logits(staged.logits, self.pool, self.codes)

    def score_with_embeddings(self, products: Sequence[Product]) -> tuple[Scores, Embeddings]:
        """Return also the embeddings."""
        logits, embeddings = self.logits(products)
        return pool_logits(logits, self.pool, self.codes), embeddings

    def logits(self, products: Sequence[Product], members: Collection[str] | None = None) -> tuple[Logits, Embeddings]:
        """Compute (N,) products -> (N, K) for each member, and the embeddings. members: see `staged_logits`."""
        staged = self.staged_logits(products, members).finish()
        return staged.logits, staged.embeddings

    def staged_logits(
        self,
        products: Sequence[Product],
        members: Collection[str] | None = None,
        read_photo: ReadPhoto | None = None,
    ) -> StagedLogits:
        """Prepare the logits of (N,) products; nothing is computed yet.

        members: those that score every product; None for a cascade, in which a product is scored until it is settled.
        read_photo: reads the photo of a row, only if it is needed; then a product's `photo` only has to be None or not.
        """
        masks = {
            name: np.array([extractor.available(product) for product in products], dtype=bool)
            for name, extractor in self.extractors.items()
        }

        def extract(names: Sequence[str], rows: NDArray) -> dict[str, NDArray]:
            batch = [products[row] for row in rows]
            if read_photo and self.extractors[names[0]].modality == "photo":
                batch = [Product(photo=read_photo(row)) for row in rows]
            return {key: value for name in names for key, value in self.extractors[name].extract(batch).items()}

        return StagedLogits(self.members, masks, extract, self.pool, members)
