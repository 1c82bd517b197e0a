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
from rakuten_tasks.models.members.linear import LinearMember
from rakuten_tasks.models.pool import MODALITIES, Logits, Pool
from rakuten_tasks.preprocessing.product import Product
from rakuten_tasks.training.loop import choose_device

# One batch size wherever products are scored, so that the same kernels compute a product's scores everywhere.
BATCH = 64
# By modality the features on which drift is measured: a pretrained network's, which no label has changed. Without one
# they are the input of a trained network's head.
EMBEDDINGS = {"text": "vectors", "photo": "photo"}
Embeddings = dict[str, NDArray]  # by modality: (N, E) fp32, NaN where they were not computed


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

    def score(self, products: Sequence[Product]) -> Scores:
        """Score (N,) products. Raises PhotoError on bytes that are no photo."""
        return self.score_with_embeddings(products)[0]

    def score_with_embeddings(self, products: Sequence[Product]) -> tuple[Scores, Embeddings]:
        """Return also the embeddings."""
        logits, embeddings = self.logits(products)
        return pool_logits(logits, self.pool, self.codes), embeddings

    def logits(self, products: Sequence[Product], members: Collection[str] | None = None) -> tuple[Logits, Embeddings]:
        """Compute (N,) products -> (N, K) for each member, and the embeddings.

        members: those that score every product; None for a cascade, in which a product is scored until it is settled.
        """
        masks = {
            name: np.array([extractor.available(product) for product in products], dtype=bool)
            for name, extractor in self.extractors.items()
        }

        def extract(names: Sequence[str], rows: NDArray) -> dict[str, NDArray]:
            batch = [products[row] for row in rows]
            return {key: value for name in names for key, value in self.extractors[name].extract(batch).items()}

        return member_logits(self.members, masks, extract, self.pool, members)


def member_logits(
    members: Mapping[str, Member],
    masks: Mapping[str, NDArray],
    extract: Callable[[Sequence[str], NDArray], Mapping[str, NDArray]],
    pool: Pool,
    complete: Collection[str] | None,
) -> tuple[Logits, Embeddings]:
    """Compute members' logits of N products, stage by stage, and the embeddings.

    masks: (N,) bool by extractor, whether it has features of the product; extract: gives the features of some rows by
    some extractors, see Extractor.extract. It is called once for all members of a stage, for the products that no
    earlier stage has settled. complete: members that score all products instead; None for the cascade.
    """
    total = len(next(iter(masks.values())))
    by_member = {name: np.zeros((total, len(pool.prior)), dtype=np.float32) for name in members}
    available = {name: np.zeros(total, dtype=bool) for name in members}
    has = {member.modality: masks[member.extractors[0]] for member in members.values()}
    embeddings: Embeddings = {}
    sources = embedding_sources(members)
    done = np.zeros(total, dtype=bool)
    for stage, names in pool.stages.items():
        modality = pool.modality[names[0]]
        chosen = {name: members[name] for name in names if complete is None or name in complete}
        scored = has[modality] & ~done
        rows = np.flatnonzero(scored)
        for start in range(0, len(rows) if chosen else 0, BATCH):
            batch = rows[start : start + BATCH]
            embedding = _score_batch(chosen, batch, extract, sources.get(modality, ""), by_member)
            if embedding is not None:
                if modality not in embeddings:
                    embeddings[modality] = np.full((total, embedding.shape[1]), np.nan, dtype=np.float32)
                embeddings[modality][batch] = embedding
        available |= dict.fromkeys(chosen, scored)
        if complete is None:
            done |= pool.settled(stage, Logits(by_member, available), has)
    return Logits(by_member, available), embeddings


def _score_batch(
    members: Mapping[str, Member],
    batch: NDArray,
    extract: Callable[[Sequence[str], NDArray], Mapping[str, NDArray]],
    source: str,
    by_member: Mapping[str, NDArray],
) -> NDArray | None:
    """Write the members' logits of the rows of a batch to by_member; return the embedding if its source is there."""
    features = extract(list(dict.fromkeys(name for member in members.values() for name in member.extractors)), batch)
    embedding = None
    for name, member in members.items():
        by_member[name][batch], head_input = member.logits_and_embedding(features)
        if name == source:
            embedding = features.get(EMBEDDINGS[member.modality], head_input)
    return embedding


def embedding_sources(members: Mapping[str, Member]) -> dict[str, str]:
    """Choose by modality the member whose input, or else whose head's input, is the embedding."""

    def rank(name: str) -> int:
        member = members[name]
        if not isinstance(member, LinearMember):
            return 1
        return 0 if member.array else 2  # a pretrained network's features; n-grams, which are no embedding

    sources: dict[str, str] = {}
    for name in sorted(members, key=rank):
        sources.setdefault(members[name].modality, name)
    return sources


def apply_cascade(
    pool: Pool, members: Mapping[str, Member], logits: Logits, embeddings: Embeddings
) -> tuple[Logits, Embeddings]:
    """Keep what `Predictor.logits` computes in stages. logits, embeddings: of members that scored all products."""
    served, nan, sources = pool.cascade(logits), np.float32(np.nan), embedding_sources(members)
    masks = {kind: served.available[sources[kind]][:, None] for kind in embeddings}
    return served, {kind: np.where(masks[kind], values, nan) for kind, values in embeddings.items()}
