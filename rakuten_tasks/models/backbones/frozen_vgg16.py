"""Backbone `vgg16`: the mean and the maximum of every channel at the end of each of its five blocks."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rakuten_tasks.config import PhotoConfig, Weights
from rakuten_tasks.models.backbones.frozen import Description, FrozenBackbone
from rakuten_tasks.models.networks.vgg16_blocks import BACKBONE_FEATURES, TOP_FEATURES, Convolutions, batch_size
from rakuten_tasks.models.networks.vgg16_weights import convolutions, empty_convolutions, pretrained
from rakuten_tasks.models.pretrained import PretrainedWeights

log = logging.getLogger(__name__)

SIDE = 224  # pixels: what ImageNet's weights were trained on
SCRATCH_SIDE = 32  # pixels: what a processor can train all of VGG16 on in minutes


class VGG16Backbone(FrozenBackbone):
    """network.lower.blocks and network.upper.block are its five blocks, for Grad-CAM."""

    network: Convolutions

    def __init__(self, network: Convolutions, description: Description, device: torch.device) -> None:
        super().__init__(network.to(device).freeze(), description, batch_size(device))

    @property
    def batch_norm(self) -> bool:
        """vgg16_bn, else vgg16."""
        return self.description.facts["batch_norm"]

    def features_and_maps(self, pixels: NDArray) -> tuple[NDArray, NDArray]:
        """As `features`, and (N, 512, image_size // 16, image_size // 16) fp16: what block 5 reads, for training it."""
        features, maps = self.answers(pixels, self.network.features_and_maps)
        return features, maps


def resolve(config: PhotoConfig) -> tuple[PhotoConfig, PretrainedWeights]:
    """See `backbones.resolve_weights`."""
    if config.weights is not Weights.AUTO:
        return _concrete(config)
    try:
        return _concrete(replace(config, weights=Weights.IMAGENET))
    except FileNotFoundError as error:
        scratch, weights = _concrete(replace(config, weights=Weights.RANDOM, fine_tune_epochs=0))
        warning = f"VGG16 is trained from random weights, which see far less than ImageNet's: {error}"
        log.warning("%s", warning)
        return scratch, replace(weights, warning=warning)


def _concrete(config: PhotoConfig) -> tuple[PhotoConfig, PretrainedWeights]:
    image_size = config.image_size or (SCRATCH_SIDE if config.weights is Weights.RANDOM else SIDE)
    weights = pretrained(config)
    if config.weights is not Weights.RANDOM:
        convolutions(config)  # what the file holds is known before any photo is looked at
    if weights.warning:
        log.warning("%s", weights.warning)
    return replace(config, image_size=image_size), weights


def load(config: PhotoConfig, device: torch.device) -> VGG16Backbone:
    """See `backbones.load_backbone`."""
    if config.weights is Weights.RANDOM:
        raise ValueError(
            "photo.weights: random is no backbone: name the member vgg16, which trains it, in place of photo"
        )
    layers, image_size = convolutions(config), config.image_size or SIDE
    facts = {"batch_norm": isinstance(layers[1], nn.BatchNorm2d)}
    description = Description(config.backbone, BACKBONE_FEATURES + TOP_FEATURES, image_size, pretrained(config), facts)
    return VGG16Backbone(Convolutions(layers, image_size), description, device)


def restore(description: Description, tensors: dict[str, Tensor], device: torch.device) -> VGG16Backbone:
    """See `backbones.load_saved_backbone`."""
    network = Convolutions(empty_convolutions(description.facts["batch_norm"]), description.image_size)
    network.load_state_dict(tensors)
    return VGG16Backbone(network, description, device)
