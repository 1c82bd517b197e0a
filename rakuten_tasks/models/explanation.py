"""Explanation of a prediction: each member's share, the important words and the important parts of the photo."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
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
from rakuten_tasks.models.networks.vgg16_network import TrainableTop, VGG16Network
from rakuten_tasks.models.pool import Logits, Pool
from rakuten_tasks.models.predictor import Predictor
from rakuten_tasks.preprocessing.hashing import WORD
from rakuten_tasks.preprocessing.photos import prepare_photo, square_on_photo
from rakuten_tasks.preprocessing.product import Product
from rakuten_tasks.preprocessing.text import clean

MAX_WORDS = 60  # the first distinct words, each of which costs one more prediction
MAX_CHARACTERS = 1000  # of each field
BATCH = 16  # predictions without a word
MIN_MAP_SIZE = 7  # the heat map is computed from the last feature maps of at least this height and width


@dataclass(frozen=True)
class HeatMap:
    """A Grad-CAM. heat: (h, w) from 0 to 1, over the prepared photo. square: its place, see `square_on_photo`."""

    heat: NDArray
    square: tuple[float, float, float, float]


def member_shares(logits: Logits, pool: Pool, probabilities: NDArray) -> dict[str, NDArray]:
    """Compute each member's share in the predicted class. (N,) each

    A member contributes to the pool's log-odds its weight times its logit of that class above the mean of the others';
    negative contributions count as 0. probabilities: (N, K), the pool's. The shares of a product sum to 1, or are all 0
    where no member was available.
    """
    best = probabilities.argmax(1)
    contributions = {name: np.zeros(len(best)) for name in logits.by_member}
    for key, rows in pool.rows_by_weights(logits).items():
        for name, weight in pool.weights[key].items():
            scores = logits.by_member[name][rows].astype(np.float64)  # (n, K), zeros where not available
            own = scores[np.arange(len(rows)), best[rows]]
            others = (scores.sum(1) - own) / max(1, scores.shape[1] - 1)
            contributions[name][rows] = weight * np.maximum(own - others, 0)
    total = np.sum(list(contributions.values()), axis=0)
    return {
        name: np.divide(part, total, out=np.zeros_like(part), where=total > 0) for name, part in contributions.items()
    }


def word_importance(
    predictor: Predictor, product: Product, code: int, members: Collection[str] | None = None
) -> list[tuple[str, float]]:
    """Rank words by how much the pool's log-probability of the code falls without them, in nats.

    members: those that predicted the product; None for all. All occurrences of a word are left out; of long texts the
    beginning is explained. Only words that raise the probability, each as in its first occurrence. Raises PhotoError on
    bytes that are no photo.
    """
    title, description = clean(product.designation)[:MAX_CHARACTERS], clean(product.description)[:MAX_CHARACTERS]
    spellings = {word.lower(): word for word in reversed(WORD.findall(f"{title} {description}"))}
    words = list(reversed(spellings))[:MAX_WORDS]
    if not words or "text" not in predictor.pool.modality.values():
        return []
    texts = [Product(title, description)]
    texts += [Product(_leave_out(title, word), _leave_out(description, word)) for word in words]
    logits = _logits_with_photo(predictor, texts, product.photo, predictor.members if members is None else members)
    probabilities = predictor.pool.probabilities(logits)[:, list(predictor.codes).index(code)]
    logs = np.log(np.maximum(probabilities, 1e-12))
    falls = [(spellings[word], float(logs[0] - log)) for word, log in zip(words, logs[1:], strict=True)]
    return sorted((pair for pair in falls if pair[1] > 0), key=lambda pair: -pair[1])


def _leave_out(text: str, word: str) -> str:
    return WORD.sub(lambda match: "" if match.group().lower() == word else match.group(), text)


def _logits_with_photo(
    predictor: Predictor, texts: Sequence[Product], photo: bytes | None, members: Collection[str]
) -> Logits:
    """Score N texts by these members, each with the same photo, which is scored once."""
    of_photo, _ = predictor.logits([Product(photo=photo)], members)
    parts = [predictor.logits(texts[start : start + BATCH], members)[0] for start in range(0, len(texts), BATCH)]

    def join(name: str, field: str) -> NDArray:
        if predictor.pool.modality[name] == "photo":
            return np.repeat(getattr(of_photo, field)[name], len(texts), axis=0)
        return np.concatenate([getattr(part, field)[name] for part in parts])

    return Logits(*({name: join(name, field) for name in predictor.members} for field in ("by_member", "available")))


def heat_map(predictor: Predictor, photo: bytes, code: int) -> HeatMap | None:
    """Compute Grad-CAM of the code's logit, by the photo member of the largest weight. Source: arXiv 1610.02391.

    None if there is no photo member, or if its network has no feature maps of at least MIN_MAP_SIZE.
    Raises PhotoError on bytes that are no photo.
    """
    name = _heaviest_photo_member(predictor.pool)
    target = _grad_cam_target(predictor, predictor.members[name]) if name else None
    if target is None:
        return None
    pixels = torch.from_numpy(prepare_photo(photo, target.image_size).copy())[None]  # (1, S, S, 3)
    heat = grad_cam(target, pixels, list(predictor.codes).index(code))
    return HeatMap(heat, square_on_photo(photo, target.image_size))


def _heaviest_photo_member(pool: Pool) -> str | None:
    weights = pool.weights.get("text+photo") or pool.weights.get("photo", {})
    of_photo = {name: weight for name, weight in weights.items() if pool.modality[name] == "photo"}
    return max(of_photo, key=of_photo.__getitem__, default=None)


@dataclass(frozen=True)
class GradCAMTarget:
    """A photo member as Grad-CAM needs it.

    logits: (1, S, S, 3) uint8 -> (1, K), with a gradient. image_size: S, in pixels. network: the one that reads the
    pixels. layer: the part of it whose last output is explained.
    """

    logits: Callable[[Tensor], Tensor]
    image_size: int
    network: nn.Module
    layer: nn.Module


def _grad_cam_target(predictor: Predictor, member: Member) -> GradCAMTarget | None:
    if isinstance(member, VGG16) and isinstance(member.network, VGG16Network):
        vgg16 = member.network
        layer = _vgg16_layer([*vgg16.lower.blocks, vgg16.upper.block], vgg16.image_size)
        return GradCAMTarget(vgg16, vgg16.image_size, vgg16, layer)
    extractor = predictor.extractors[member.extractors[0]]
    if not isinstance(extractor, PhotoExtractor):
        return None
    backbone = extractor.backbone
    if isinstance(member, VGG16) and isinstance(member.network, TrainableTop) and isinstance(backbone, VGG16Backbone):
        upper, lower = member.network, backbone.network.lower
        layer = _vgg16_layer([*lower.blocks, upper.block], backbone.image_size)
        return GradCAMTarget(lambda pixels: upper(*lower(pixels)), backbone.image_size, lower, layer)
    if isinstance(backbone, VGG16Backbone):
        blocks = [*backbone.network.lower.blocks, backbone.network.upper.block]
        last: nn.Module | None = _vgg16_layer(blocks, backbone.image_size)
    else:
        last = _last_convolutional_layer(backbone)
    if last is None or not isinstance(member, LinearMember):
        return None
    network: nn.Module = backbone.network
    return GradCAMTarget(lambda pixels: _linear_logits(member, network(pixels)), backbone.image_size, network, last)


def _vgg16_layer(blocks: Sequence[nn.Module], image_size: int) -> nn.Module:
    """Return the last of VGG16's five blocks, each of which halves the image size, with large enough maps."""
    return [block for i, block in enumerate(blocks) if image_size >> i >= MIN_MAP_SIZE][-1]


def _last_convolutional_layer(backbone: FrozenBackbone) -> nn.Module | None:
    """Find the last layer with large enough maps; None of a network that convolves pixels once, as ViT."""
    outputs: list[tuple[nn.Module, torch.Size]] = []

    def append_shape(module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            outputs.append((module, output.shape))

    handles = [module.register_forward_hook(append_shape) for module in backbone.network.modules()]
    try:
        with torch.no_grad():
            size, device = backbone.image_size, next(backbone.network.parameters()).device
            backbone.network(torch.zeros(1, size, size, 3, dtype=torch.uint8, device=device))
    finally:
        for handle in handles:
            handle.remove()
    convolutions = [
        shape[2:] for module, shape in outputs if isinstance(module, nn.Conv2d) and min(shape[2:]) >= MIN_MAP_SIZE
    ]
    # attention's weights have four dimensions too, but the size of the last convolution's maps only by chance
    return [layer for layer, shape in outputs if shape[2:] == convolutions[-1]][-1] if len(convolutions) > 1 else None


def _linear_logits(member: LinearMember, features: Tensor) -> Tensor:
    """Compute the logits of LinearMember on FrozenBackbone.features, with a gradient. (1, D) -> (1, K)"""
    features = features.float().clamp(-LARGEST, LARGEST)
    if member.scaler:
        mean, deviation = (torch.from_numpy(a).to(features) for a in (member.scaler.mean, member.scaler.deviation))
        features = (features - mean) / deviation
        if member.scaler.unit:
            features = functional.normalize(features, eps=1e-6)
    return features @ member.classifier.weight + member.classifier.bias


def grad_cam(target: GradCAMTarget, pixels: Tensor, column: int) -> NDArray:
    """Compute (1, S, S, 3) uint8 -> (h, w) from 0 to 1: how much each place of the maps raises the logit."""
    maps: list[Tensor] = []

    def cut_gradient(_: nn.Module, __: object, output: Tensor) -> Tensor:
        # earlier layers need no memory for a gradient; later ones get a copy, as they may change it in place
        maps.append(output.detach().requires_grad_())
        return maps[-1].clone()

    handle = target.layer.register_forward_hook(cut_gradient)
    try:
        with torch.enable_grad():
            logit = target.logits(pixels.to(next(target.network.parameters()).device))[0, column]
            (gradient,) = torch.autograd.grad(logit, maps[-1:])
    finally:
        handle.remove()
    channels = gradient.mean((2, 3), keepdim=True)  # (1, C, 1, 1)
    heat = (channels * maps[-1]).sum(1).clamp_min(0)[0].detach().float().cpu()  # (h, w)
    return (heat / heat.max()).numpy() if heat.max() > 0 else heat.numpy()
