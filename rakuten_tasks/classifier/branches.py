"""The branches of the classifier, each from raw products to logits. A new branch is one more class in BRANCHES."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rakuten_tasks.classifier.fusion import Logits
from rakuten_tasks.classifier.lstm import TextBranch, text_logits
from rakuten_tasks.classifier.ngrams import Vocabulary
from rakuten_tasks.classifier.photos import prepare_photos
from rakuten_tasks.classifier.text import clean
from rakuten_tasks.classifier.vgg16 import PhotoBranch, photo_logits

# One batch size wherever products are scored, so that a product meets the same kernels everywhere.
BATCH = 64


@dataclass(frozen=True)
class Product:
    """A product as it comes: text as written, the photo file's bytes or None."""

    designation: str = ""
    description: str = ""
    photo: bytes | None = None


class Branch(Protocol):
    """Scores those products that have what it needs."""

    name: ClassVar[str]

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> Self: ...

    def sees(self, product: Product) -> bool:
        """Whether the product has anything that this branch can look at."""
        ...

    def logits(self, products: Sequence[Product]) -> NDArray:
        """(N,) products, all of them seen -> (N, K) fp32."""
        ...

    @property
    def head(self) -> nn.Linear:
        """The layer whose input is the embedding."""
        ...


class Text:
    """Title and description, by the LSTM and the bag of n-grams."""

    name: ClassVar[str] = "text"

    def __init__(self, vocabulary: Vocabulary, network: TextBranch) -> None:
        self.vocabulary = vocabulary
        self.network = network

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> Self:
        return cls(Vocabulary.load(folder), TextBranch.load(folder, device))

    def sees(self, product: Product) -> bool:
        return bool(clean(product.designation) or clean(product.description))

    def logits(self, products: Sequence[Product]) -> NDArray:
        encoded = self.vocabulary.encode([p.designation for p in products], [p.description for p in products])
        return text_logits(self.network, encoded)

    @property
    def head(self) -> nn.Linear:
        return self.network.lstm.head


class Photo:
    """The photo, by VGG16. Raises photos.PhotoError on bytes that are no photo."""

    name: ClassVar[str] = "photo"

    def __init__(self, network: PhotoBranch) -> None:
        self.network = network

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> Self:
        return cls(PhotoBranch.load(folder, device))

    def sees(self, product: Product) -> bool:
        return product.photo is not None

    def logits(self, products: Sequence[Product]) -> NDArray:
        pixels = prepare_photos([p.photo for p in products if p.photo is not None], self.network.side)
        return photo_logits(self.network, pixels)

    @property
    def head(self) -> nn.Linear:
        return self.network.upper.head.linear


BRANCHES: dict[str, type[Branch]] = {branch.name: branch for branch in (Text, Photo)}


def load_branches(folders: Mapping[str, Path], device: torch.device) -> list[Branch]:
    """Branches by name, as in the bundle."""
    return [BRANCHES[name].load(folder, device) for name, folder in folders.items()]


def branch_logits(branches: Sequence[Branch], products: Sequence[Product], classes: int) -> Logits:
    """(N,) products -> (N, K) for each branch."""
    by_branch, seen = {}, {}
    for branch in branches:
        mask = np.array([branch.sees(product) for product in products], dtype=bool)
        scores = np.zeros((len(products), classes), dtype=np.float32)
        rows = np.flatnonzero(mask)
        for start in range(0, len(rows), BATCH):
            at = rows[start : start + BATCH]
            scores[at] = branch.logits([products[i] for i in at])
        by_branch[branch.name], seen[branch.name] = scores, mask
    return Logits(by_branch, seen)
