"""Why a product got its answer: each member's share, the words and the parts of the photo that mattered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from rakuten_tasks.models.backbones.frozen import LARGEST, FrozenBackbone
from rakuten_tasks.models.backbones.frozen_vgg16 import VGG16Backbone
from rakuten_tasks.models.extractors import PhotoExtractor
from rakuten_tasks.models.members import Member
from rakuten_tasks.models.members.linear import LinearMember
from rakuten_tasks.models.members.vgg16 import VGG16
from rakuten_tasks.models.networks.vgg16_blocks import FrozenBlocks, TrainableBlock
from rakuten_tasks.models.networks.vgg16_network import TrainableTop, VGG16Network
from rakuten_tasks.models.pool import Logits, Pool
from rakuten_tasks.models.predictor import Predictor
from rakuten_tasks.preprocessing.hashing import WORD
from rakuten_tasks.preprocessing.photos import prepare_photo, square_on_photo
from rakuten_tasks.preprocessing.product import Product
from rakuten_tasks.preprocessing.text import clean

WORDS = 60  # distinct words that are tried, the first ones
LONGEST = 1000  # characters of each field that are explained: every word tried costs one more reading of them
AT_ONCE = 16  # such readings
FINEST = 7  # the heat map is read off the last maps that are at least this wide


@dataclass(frozen=True)
class HeatMap:
    """heat: (h, w) from 0 to 1, over the square that the network saw. square: where it lies, see `square_on_photo`."""

    heat: NDArray
    square: tuple[float, float, float, float]


def member_shares(logits: Logits, pool: Pool, probabilities: NDArray) -> dict[str, NDArray]:
    """How much each member spoke for the predicted class, of all that spoke for it. (N,) each

    A member's part of the pool's log-odds: its weight times its logit of that class above the mean of the others'.
    probabilities: (N, K), the pool's. The shares of a product sum to 1, or are all 0 where no member was available.
    """
    best = probabilities.argmax(1)
    spoken = {name: np.zeros(len(best)) for name in logits.by_member}
    for modalities, weights in pool.weights.items():
        rows = np.flatnonzero(pool.rows_with(logits, modalities.split("+")))
        for name, weight in weights.items():
            scores = logits.by_member[name][rows].astype(np.float64)  # (n, K), zeros where not available
            own = scores[np.arange(len(rows)), best[rows]]
            others = (scores.sum(1) - own) / max(1, scores.shape[1] - 1)
            spoken[name][rows] = weight * np.maximum(own - others, 0)
    total = np.sum(list(spoken.values()), axis=0)
    return {name: np.divide(part, total, out=np.zeros_like(part), where=total > 0) for name, part in spoken.items()}


def word_importance(predictor: Predictor, product: Product, code: int) -> list[tuple[str, float]]:
    """Words by how much the pool's log-probability of the code falls without them, in nats, largest first.

    Each word is left out wherever it stands; of long texts the beginning is explained. Only words that speak for the
    code, each as it is written first. Raises photos.PhotoError on bytes that are no photo.
    """
    title, description = clean(product.designation)[:LONGEST], clean(product.description)[:LONGEST]
    written = {word.lower(): word for word in reversed(WORD.findall(f"{title} {description}"))}
    tried = list(reversed(written))[:WORDS]
    if not tried or "text" not in predictor.pool.modality.values():
        return []
    texts = [Product(title, description)]
    texts += [Product(_leave_out(title, word), _leave_out(description, word)) for word in tried]
    logits = _with_photo(predictor, texts, product.photo)
    chances = predictor.pool.probabilities(logits)[:, list(predictor.codes).index(code)]
    logs = np.log(np.maximum(chances, 1e-12))
    falls = [(written[word], float(logs[0] - log)) for word, log in zip(tried, logs[1:], strict=True)]
    return sorted((pair for pair in falls if pair[1] > 0), key=lambda pair: -pair[1])


def _leave_out(text: str, word: str) -> str:
    return WORD.sub(lambda found: "" if found.group().lower() == word else found.group(), text)


def _with_photo(predictor: Predictor, texts: Sequence[Product], photo: bytes | None) -> Logits:
    """What members say of N texts, each beside the photo, which is looked at once."""
    seen, _ = predictor.logits([Product(photo=photo)])
    parts = [predictor.logits(texts[at : at + AT_ONCE])[0] for at in range(0, len(texts), AT_ONCE)]

    def joined(name: str, field: str) -> NDArray:
        if predictor.pool.modality[name] == "photo":
            return np.repeat(getattr(seen, field)[name], len(texts), axis=0)
        return np.concatenate([getattr(part, field)[name] for part in parts])

    names = list(predictor.members)
    return Logits(*({name: joined(name, field) for name in names} for field in ("by_member", "available")))


def heat_map(predictor: Predictor, photo: bytes, code: int) -> HeatMap | None:
    """Grad-CAM of the code's logit, by the photo member of the largest weight. Source: arXiv 1610.02391.

    None if no member looks at photos, or if its network has no maps that are fine enough.
    Raises photos.PhotoError on bytes that are no photo.
    """
    name = _heaviest_photo_member(predictor.pool)
    seer = _seer(predictor, predictor.members[name]) if name else None
    if seer is None:
        return None
    pixels = torch.from_numpy(prepare_photo(photo, seer.image_size).copy())[None]  # (1, S, S, 3)
    heat = grad_cam(seer, pixels, list(predictor.codes).index(code))
    return HeatMap(heat, square_on_photo(photo, seer.image_size))


def _heaviest_photo_member(pool: Pool) -> str | None:
    weights = pool.weights.get("text+photo") or pool.weights.get("photo", {})
    photographic = {name: weight for name, weight in weights.items() if pool.modality[name] == "photo"}
    return max(photographic, key=photographic.__getitem__, default=None)


@dataclass(frozen=True)
class GradCAMTarget:
    """A photo member as Grad-CAM needs it.

    logits: (1, S, S, 3) uint8 -> (1, K), with a gradient. image_size: S, in pixels. network: reads the pixels. maps:
    the part of it whose last output is explained.
    """

    logits: Callable[[Tensor], Tensor]
    image_size: int
    network: nn.Module
    maps: nn.Module


def _seer(predictor: Predictor, member: Member) -> GradCAMTarget | None:
    if isinstance(member, VGG16) and isinstance(member.network, VGG16Network):
        whole = member.network
        return GradCAMTarget(whole, whole.image_size, whole, _last_block(whole.lower, whole.upper, whole.image_size))
    extractor = predictor.extractors[member.extractors[0]]
    backbone = extractor.backbone if isinstance(extractor, PhotoExtractor) else None
    if not isinstance(backbone, FrozenBackbone):
        return None
    network: nn.Module = backbone.network
    if isinstance(member, LinearMember):
        maps = _maps_of(backbone)
        return (
            GradCAMTarget(lambda pixels: _linear_logits(member, network(pixels)), backbone.image_size, network, maps)
            if maps
            else None
        )
    if isinstance(member, VGG16) and isinstance(member.network, TrainableTop) and isinstance(backbone, VGG16Backbone):
        upper, lower = member.network, backbone.network.lower
        maps = _last_block(lower, upper, backbone.image_size)
        return GradCAMTarget(lambda pixels: upper(*lower(pixels)), backbone.image_size, lower, maps)
    return None


def _maps_of(backbone: FrozenBackbone) -> nn.Module | None:
    if isinstance(backbone, VGG16Backbone):
        return _last_block(backbone.network.lower, backbone.network.upper, backbone.image_size)
    return _last_maps(backbone)


def _last_block(lower: FrozenBlocks, upper: TrainableBlock, image_size: int) -> nn.Module:
    """Of VGG16's five, each of which halves the image_size that the one before had."""
    blocks = [*lower.blocks, upper.block]
    return [block for i, block in enumerate(blocks) if image_size >> i >= FINEST][-1]


def _last_maps(backbone: FrozenBackbone) -> nn.Module | None:
    """What gives the last square maps of a convolutional network; None of one that convolves pixels once, as ViT."""
    given: list[tuple[nn.Module, torch.Size]] = []

    def note(module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            given.append((module, output.shape))

    handles = [module.register_forward_hook(note) for module in backbone.network.modules()]
    try:
        with torch.no_grad():
            device = next(backbone.network.parameters()).device
            backbone.network(
                torch.zeros(1, backbone.image_size, backbone.image_size, 3, dtype=torch.uint8, device=device)
            )
    finally:
        for handle in handles:
            handle.remove()
    convolved = [shape[2:] for module, shape in given if isinstance(module, nn.Conv2d) and min(shape[2:]) >= FINEST]
    # attention's weights have four dimensions too, but the size of the last convolution's maps only by chance
    return [module for module, shape in given if shape[2:] == convolved[-1]][-1] if len(convolved) > 1 else None


def _linear_logits(member: LinearMember, features: Tensor) -> Tensor:
    """As Backbone.features and LinearMember.evidence, with a gradient. (1, D) -> (1, K)"""
    features = features.float().clamp(-LARGEST, LARGEST)
    if member.scaler:
        mean, deviation = (torch.from_numpy(a).to(features) for a in (member.scaler.mean, member.scaler.deviation))
        features = (features - mean) / deviation
        if member.scaler.unit:
            features = functional.normalize(features, eps=1e-6)
    return features @ member.classifier.weight + member.classifier.bias


def grad_cam(seer: GradCAMTarget, pixels: Tensor, column: int) -> NDArray:
    """(1, S, S, 3) uint8 -> (h, w) from 0 to 1: where the maps speak for the class."""
    maps: list[Tensor] = []

    def start_here(_: nn.Module, __: object, output: Tensor) -> Tensor:
        # the gradient ends here, so that what comes before costs no memory; a copy goes on, as it may be changed
        maps.append(output.detach().requires_grad_())
        return maps[-1].clone()

    handle = seer.maps.register_forward_hook(start_here)
    try:
        with torch.enable_grad():
            logit = seer.logits(pixels.to(next(seer.network.parameters()).device))[0, column]
            (slope,) = torch.autograd.grad(logit, maps[-1:])
    finally:
        handle.remove()
    channels = slope.mean((2, 3), keepdim=True)  # (1, C, 1, 1)
    heat = (channels * maps[-1]).sum(1).clamp_min(0)[0].detach().float().cpu()  # (h, w)
    return (heat / heat.max()).numpy() if heat.max() > 0 else heat.numpy()
