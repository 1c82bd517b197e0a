"""The one Predictor: evaluation, batch prediction and serving all ask it, with the bundle's own settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rakuten_tasks.classifier.branches import Branch, Product, branch_logits, load_branches
from rakuten_tasks.classifier.bundle import Manifest, read_manifest
from rakuten_tasks.classifier.fusion import Fusion, Logits
from rakuten_tasks.classifier.training import choose_device


@dataclass(frozen=True)
class Scores:
    """Answers for N products.

    probabilities: (N, K), calibrated and fused. by_branch: (N, K) for each branch alone, the class prior where it
    saw nothing. seen: (N,) bool for each branch; where all are False the answer is the class prior's.
    """

    codes: NDArray  # (K,)
    probabilities: NDArray
    by_branch: dict[str, NDArray]
    seen: dict[str, NDArray]

    @property
    def predicted(self) -> NDArray:
        """The most probable code. (N,)"""
        return self.codes[self.probabilities.argmax(1)]

    @property
    def confidence(self) -> NDArray:
        """The probability of that code. (N,)"""
        return self.probabilities.max(1)

    def top(self, k: int) -> tuple[NDArray, NDArray]:
        """The k most probable codes and their probabilities, best first. (N, k) each; k is cut to K."""
        order = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :k]
        return self.codes[order], np.take_along_axis(self.probabilities, order, axis=1)


def fuse_logits(logits: Logits, fusion: Fusion, codes: Sequence[int]) -> Scores:
    """Each branch's logits -> fused scores."""
    alone = {
        name: fusion.probabilities({name: scores}, {name: logits.seen[name]})
        for name, scores in logits.by_branch.items()
    }
    return Scores(np.asarray(codes), fusion.probabilities(logits.by_branch, logits.seen), alone, logits.seen)


class Predictor:
    """Products -> scores. The same label for a product alone, in a batch, and after saving and loading."""

    def __init__(self, manifest: Manifest, branches: Sequence[Branch]) -> None:
        self.manifest = manifest
        self.branches = branches

    @classmethod
    def load(cls, bundle: Path, device: torch.device | None = None) -> Self:
        """Raises FileNotFoundError or ValueError where the folder is no bundle that this code reads."""
        manifest = read_manifest(bundle)
        folders = {name: bundle / name for name in manifest.branches}
        return cls(manifest, load_branches(folders, device or choose_device()))

    def score(self, products: Sequence[Product]) -> Scores:
        """(N,) products -> scores. Raises photos.PhotoError on bytes that are no photo."""
        codes = self.manifest.codes
        return fuse_logits(branch_logits(self.branches, products, len(codes)), self.manifest.fusion, codes)

    def observe(self, products: Sequence[Product]) -> tuple[Scores, dict[str, NDArray]]:
        """`score`, and in the same pass each branch's embedding: what its head reads. (N, E), NaN where not seen."""
        with embeddings_of(self.branches) as embeddings:
            scores = self.score(products)
        return scores, embeddings(scores.seen)


@contextmanager
def embeddings_of(branches: Sequence[Branch]) -> Iterator[Callable[[Mapping[str, NDArray]], dict[str, NDArray]]]:
    """Listens to what is scored while the context lasts, and then gives each branch's embeddings, NaN where not seen.

    What it gives takes the (N,) masks of seen products, of all that was scored, in order. -> (N, E) by branch
    """
    with ExitStack() as listening:
        heard = {branch.name: listening.enter_context(inputs_of(branch.head)) for branch in branches}
        yield lambda seen: {branch.name: _placed(heard[branch.name], seen[branch.name], branch) for branch in branches}


def _placed(heard: Sequence[NDArray], seen: NDArray, branch: Branch) -> NDArray:
    embedding = np.full((len(seen), branch.head.in_features), np.nan, dtype=np.float32)
    if heard:
        embedding[seen] = np.concatenate(heard)
    return embedding


@contextmanager
def inputs_of(layer: nn.Module) -> Iterator[list[NDArray]]:
    """What the layer is given while the context lasts, a batch an item."""
    heard: list[NDArray] = []
    handle = layer.register_forward_pre_hook(lambda _, inputs: heard.append(inputs[0].float().cpu().numpy()))
    try:
        yield heard
    finally:
        handle.remove()
