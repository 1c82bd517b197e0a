"""The Predictor, which evaluation, batch prediction and serving use, with the bundle's settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from rakuten_tasks.preprocessing.product import Product
from rakuten_tasks.training.loop import choose_device

# One batch size wherever products are scored, so that the same kernels compute a product's scores everywhere.
BATCH = 64
# By modality the features on which drift is measured: a pretrained network's, which no label has changed. Without one
# they are the input of a trained network's head.
EMBEDDINGS = {"text": "vectors", "photo": "photo"}


@dataclass(frozen=True)
class Scores:
    """Predictions for N products.

    probabilities: (N, K), calibrated and pooled. by_member: (N, K) for each member alone, the class prior where it is
    not available. available: (N,) bool for each member; where all are False the prediction is the class prior.
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
        """List which of text and photo the product has."""
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

    def score(self, products: Sequence[Product]) -> Scores:
        """Score (N,) products. Raises PhotoError on bytes that are no photo."""
        return self.score_with_embeddings(products)[0]

    def score_with_embeddings(self, products: Sequence[Product]) -> tuple[Scores, dict[str, NDArray]]:
        """Return also the embeddings, by modality: (N, E) fp32, NaN where not available."""
        logits, embeddings = self.logits(products)
        return pool_logits(logits, self.pool, self.codes), embeddings

    def logits(self, products: Sequence[Product]) -> tuple[Logits, dict[str, NDArray]]:
        """Compute (N,) products -> (N, K) for each member, and the embeddings."""
        masks = {
            name: np.array([extractor.available(product) for product in products], dtype=bool)
            for name, extractor in self.extractors.items()
        }

        def extract(names: Sequence[str], rows: NDArray) -> dict[str, NDArray]:
            batch = [products[row] for row in rows]
            return {key: value for name in names for key, value in self.extractors[name].extract(batch).items()}

        return member_logits(self.members, masks, extract, len(self.codes))


def member_logits(
    members: Mapping[str, Member],
    masks: Mapping[str, NDArray],
    extract: Callable[[Sequence[str], NDArray], Mapping[str, NDArray]],
    classes: int,
) -> tuple[Logits, dict[str, NDArray]]:
    """Compute members' logits of N products, and the embeddings by modality, NaN where not available.

    masks: (N,) bool by extractor, whether it has features of the product; extract: gives the features of some rows by
    some extractors, see Extractor.extract. It is called once for all members of a modality.
    """
    total = len(next(iter(masks.values())))
    by_member = {name: np.zeros((total, classes), dtype=np.float32) for name in members}
    available = {name: masks[member.extractors[0]] for name, member in members.items()}
    embeddings: dict[str, NDArray] = {}
    for modality in dict.fromkeys(member.modality for member in members.values()):
        of_modality = {name: member for name, member in members.items() if member.modality == modality}
        extractors = list(dict.fromkeys(name for member in of_modality.values() for name in member.extractors))
        rows = np.flatnonzero(masks[extractors[0]])
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            features = extract(extractors, batch)
            embedding = features.get(EMBEDDINGS[modality])
            for name, member in of_modality.items():
                by_member[name][batch], head_input = member.logits_and_embedding(features)
                embedding = head_input if embedding is None else embedding
            if embedding is not None:
                if modality not in embeddings:
                    embeddings[modality] = np.full((total, embedding.shape[1]), np.nan, dtype=np.float32)
                embeddings[modality][batch] = embedding
    return Logits(by_member, available), embeddings
