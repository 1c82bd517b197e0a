"""Why a product got its answer: each branch's share, the words and the parts of the photo that mattered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rakuten_tasks.classifier.branches import Photo, Product, Text
from rakuten_tasks.classifier.fusion import Fusion
from rakuten_tasks.classifier.hashing import WORD
from rakuten_tasks.classifier.photos import prepare_photo, square_on_photo
from rakuten_tasks.classifier.predictor import Predictor, Scores
from rakuten_tasks.classifier.text import clean
from rakuten_tasks.classifier.vgg16 import PhotoBranch

WORDS = 60  # distinct words that are tried, the first ones
LONGEST = 1000  # characters of each field that are explained: every word tried costs one more reading of them
AT_ONCE = 16  # such readings
FINEST = 7  # the heat map is read off the last block whose maps are at least this wide


@dataclass(frozen=True)
class HeatMap:
    """heat: (h, w) from 0 to 1, over the square that the network saw. square: where it lies, see `square_on_photo`."""

    heat: NDArray
    square: tuple[float, float, float, float]


def branch_shares(scores: Scores, fusion: Fusion) -> dict[str, NDArray]:
    """How much of the answer each branch gave: its part of the mix's probability of the predicted class. (N,) each

    The shares of a product sum to 1, or are all 0 where no branch saw it.
    """
    seen = np.stack([scores.seen[name] for name in scores.by_branch])  # (branches, N)
    weights = np.array([[fusion.weights[name]] for name in scores.by_branch]) * seen
    weights = np.where(weights.sum(0) > 0, weights, seen)
    best = scores.probabilities.argmax(1)
    given = weights * np.stack([alone[np.arange(len(best)), best] for alone in scores.by_branch.values()])
    total = given.sum(0)
    shares = np.divide(given, total, out=np.zeros_like(given), where=total > 0)
    return dict(zip(scores.by_branch, shares, strict=True))


def word_weights(predictor: Predictor, product: Product, code: int) -> list[tuple[str, float]]:
    """Words by how much the text branch's log-probability of the code falls without them, largest first.

    Each word is left out wherever it stands; of long texts the beginning is explained. Only words that speak for the
    code, each as it is written first.
    """
    title, description = clean(product.designation)[:LONGEST], clean(product.description)[:LONGEST]
    written = {word.lower(): word for word in reversed(WORD.findall(f"{title} {description}"))}
    tried = list(reversed(written))[:WORDS]
    if not tried or Text.name not in predictor.manifest.branches:
        return []
    without = [Product(_leave_out(title, word), _leave_out(description, word)) for word in tried]
    column = predictor.manifest.codes.index(code)
    # a text whose only word is left out gets the class prior
    texts = [Product(title, description), *without]
    parts = [predictor.score(texts[at : at + AT_ONCE]) for at in range(0, len(texts), AT_ONCE)]
    chances = np.log(np.maximum(np.concatenate([part.by_branch[Text.name][:, column] for part in parts]), 1e-12))
    falls = [(written[word], float(chances[0] - chance)) for word, chance in zip(tried, chances[1:], strict=True)]
    return sorted((pair for pair in falls if pair[1] > 0), key=lambda pair: -pair[1])


def _leave_out(text: str, word: str) -> str:
    return WORD.sub(lambda found: "" if found.group().lower() == word else found.group(), text)


def heat_map(predictor: Predictor, photo: bytes, code: int) -> HeatMap | None:
    """Grad-CAM of the code's logit; None if the bundle has no photo branch. Source: arXiv 1610.02391.

    Raises photos.PhotoError on bytes that are no photo.
    """
    branch = next((branch for branch in predictor.branches if isinstance(branch, Photo)), None)
    if branch is None:
        return None
    side = branch.network.side
    pixels = torch.from_numpy(prepare_photo(photo, side).copy())[None]  # (1, S, S, 3)
    heat = grad_cam(branch.network, pixels, predictor.manifest.codes.index(code))
    return HeatMap(heat, square_on_photo(photo, side))


def grad_cam(network: PhotoBranch, pixels: Tensor, column: int) -> NDArray:
    """(1, S, S, 3) uint8 -> (h, w) from 0 to 1: where the last fine enough maps speak for the class."""
    blocks: Sequence[nn.Module] = [*network.lower.blocks, network.upper.block]
    fine = [i for i in range(len(blocks)) if network.side >> i >= FINEST]
    maps: list[Tensor] = []

    def start_here(_: nn.Module, __: object, output: Tensor) -> Tensor:
        # the gradient ends here, so that the blocks before cost no memory
        maps.append(output.detach().requires_grad_())
        return maps[0]

    handle = blocks[fine[-1]].register_forward_hook(start_here)
    try:
        with torch.enable_grad():
            logit = network(pixels.to(next(network.parameters()).device))[0, column]
            (slope,) = torch.autograd.grad(logit, maps)
    finally:
        handle.remove()
    channels = slope.mean((2, 3), keepdim=True)  # (1, C, 1, 1)
    heat = (channels * maps[0]).sum(1).clamp_min(0)[0].detach().float().cpu()  # (h, w)
    return (heat / heat.max()).numpy() if heat.max() > 0 else heat.numpy()
