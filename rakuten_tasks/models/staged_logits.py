"""Members' logits of products, stage by stage: for the predictor, and from features that were extracted before."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from rakuten_tasks.models.members import Member
from rakuten_tasks.models.members.linear import LinearMember
from rakuten_tasks.models.pool import Logits, Pool

# One batch size wherever products are scored, so that the same kernels compute a product's scores everywhere.
BATCH = 64
# By modality the features on which drift is measured: a pretrained network's, which no label has changed. Without one
# they are the input of a trained network's head.
EMBEDDINGS = {"text": "vectors", "photo": "photo"}
Embeddings = dict[str, NDArray]  # by modality: (N, E) fp32, NaN where they were not computed
Extract = Callable[[Sequence[str], NDArray], Mapping[str, NDArray]]


class StagedLogits:
    """Members' logits and embeddings of N products, computed stage by stage: text first, then a few photos at a time.

    logits, embeddings: of the products whose rows `run` has yielded; others are incomplete.
    """

    def __init__(
        self,
        members: Mapping[str, Member],
        masks: Mapping[str, NDArray],
        extract: Extract,
        pool: Pool,
        complete: Collection[str] | None,
    ) -> None:
        """masks: (N,) bool by extractor, whether it has features of the product. extract: gives the features of some
        rows by some extractors, see Extractor.extract. It is called once for all members of a stage, for the products
        that no earlier stage has settled. complete: members that score all products instead; None for the cascade.
        """
        self._members, self._extract, self._pool, self._complete = members, extract, pool, complete
        self._total = len(next(iter(masks.values())))
        self._has = {member.modality: masks[member.extractors[0]] for member in members.values()}
        self._sources = embedding_sources(members)
        by_member = {name: np.zeros((self._total, len(pool.prior)), dtype=np.float32) for name in members}
        self.logits = Logits(by_member, {name: np.zeros(self._total, dtype=bool) for name in members})
        self.embeddings: Embeddings = {}

    def finish(self) -> Self:
        """Compute everything."""
        for _ in self.run():
            pass
        return self

    def run(self, photos_at_once: int = BATCH) -> Iterator[NDArray]:
        """Yield the products that need no photo, when the text of all is scored; then the others, as they are scored.

        Row numbers; each product once.
        """
        settled = np.zeros(self._total, dtype=bool)
        stages = dict(self._pool.stages)
        photo_members = stages.pop("photo", [])
        for stage, names in stages.items():
            self._score(names, np.flatnonzero(self._has["text"] & ~settled))
            if self._complete is None:
                settled |= self._pool.select_early_exits(stage, self.logits, self._has)
        waiting = self._has.get("photo", np.zeros_like(settled)) & ~settled
        yield np.flatnonzero(~waiting)
        for batch in _batches(np.flatnonzero(waiting), photos_at_once):
            self._score(photo_members, batch)
            yield batch

    def _score(self, names: Sequence[str], rows: NDArray) -> None:
        """Score products by those of the members of a stage that are wanted."""
        chosen = {name: self._members[name] for name in names if self._complete is None or name in self._complete}
        if not chosen:
            return
        modality = self._pool.modality[names[0]]
        for batch in _batches(rows, BATCH):
            source = self._sources.get(modality, "")
            embedding = _score_batch(chosen, batch, self._extract, source, self.logits.by_member)
            if embedding is not None:
                if modality not in self.embeddings:
                    self.embeddings[modality] = np.full((self._total, embedding.shape[1]), np.nan, dtype=np.float32)
                self.embeddings[modality][batch] = embedding
        for name in chosen:
            self.logits.available[name][rows] = True


def _batches(rows: NDArray, size: int) -> Iterator[NDArray]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


def _score_batch(
    members: Mapping[str, Member],
    batch: NDArray,
    extract: Extract,
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
