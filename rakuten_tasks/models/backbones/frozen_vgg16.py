"""Backbone `vgg16`: the mean and the maximum of every channel at the end of each of its five blocks."""

from __future__ import annotations

import copy
import logging
from dataclasses import replace
from typing import Self

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rakuten_tasks.config import PhotoConfig, Precision, Weights
from rakuten_tasks.models.backbones.frozen import Description, FrozenBackbone
from rakuten_tasks.models.networks.int8 import calibrate
from rakuten_tasks.models.networks.vgg16_blocks import BACKBONE_FEATURES, TOP_FEATURES, Convolutions
from rakuten_tasks.models.networks.vgg16_weights import convolutions, empty_convolutions, pretrained
from rakuten_tasks.models.pretrained import PretrainedWeights

log = logging.getLogger(__name__)

IMAGE_SIZE = 224  # pixels: of ImageNet's photos in training
RANDOM_IMAGE_SIZE = 32  # pixels: a CPU can train all of VGG16 on them in minutes


class VGG16Backbone(FrozenBackbone):
    """network.lower.blocks and network.upper.block are its five blocks, for Grad-CAM."""

    network: Convolutions

    def __init__(self, network: Convolutions, description: Description, device: torch.device) -> None:
        scales = description.architecture.get("scales", ())
        super().__init__(network.to(device).freeze(scales), description)

    @property
    def batch_norm(self) -> bool:
        """vgg16_bn, else vgg16."""
        return self.description.architecture["batch_norm"]

    def quantise(self, pixels: NDArray) -> Self:
        """Return the backbone in int8, calibrated on prepared photos. Raises ValueError if there are none."""
        if not len(pixels):
            raise ValueError("photo.precision: int8 is calibrated on training photos, and there are none: set auto")
        architecture = {**self.description.architecture, "scales": calibrate(self.network, pixels)}
        description = replace(self.description, architecture=architecture, precision=Precision.INT8)
        return type(self)(copy.deepcopy(self.network), description, next(self.network.parameters()).device)

    def features_and_maps(self, pixels: NDArray) -> tuple[NDArray, NDArray]:
        """Compute `features`, and the input of block 5, to train it on: (N, 512, S // 16, S // 16) fp16."""
        features, maps = self.run_in_batches(pixels, self.network.features_and_maps)
        return features, maps


def resolve(config: PhotoConfig) -> tuple[PhotoConfig, PretrainedWeights]:
    """See `backbones.resolve_weights`."""
    if config.weights is not Weights.AUTO:
        return _resolve_weights(config)
    try:
        return _resolve_weights(replace(config, weights=Weights.IMAGENET))
    except FileNotFoundError as error:
        trained = replace(config, weights=Weights.RANDOM, fine_tune_epochs=0, precision=Precision.AUTO)
        config, weights = _resolve_weights(trained)
        warning = f"VGG16 is trained from random weights, whose features are far worse than ImageNet's: {error}"
        log.warning("%s", warning)
        return config, replace(weights, warning=warning)


def _resolve_weights(config: PhotoConfig) -> tuple[PhotoConfig, PretrainedWeights]:
    """config.weights: not AUTO."""
    image_size = config.image_size or (RANDOM_IMAGE_SIZE if config.weights is Weights.RANDOM else IMAGE_SIZE)
    weights = pretrained(config)
    if config.weights is not Weights.RANDOM:
        convolutions(config)  # fails if the file holds something else
    if weights.warning:
        log.warning("%s", weights.warning)
    return replace(config, image_size=image_size), weights


def load(config: PhotoConfig, device: torch.device) -> VGG16Backbone:
    """See `backbones.load_backbone`. Of int8, floats, for `VGG16Backbone.quantise`."""
    if config.weights is Weights.RANDOM:
        raise ValueError(
            "photo.weights: random is no backbone: name the member vgg16, which trains it, instead of photo"
        )
    layers, image_size = convolutions(config), config.image_size or IMAGE_SIZE
    architecture = {"batch_norm": isinstance(layers[1], nn.BatchNorm2d)}
    size, weights = BACKBONE_FEATURES + TOP_FEATURES, pretrained(config)
    precision = Precision.AUTO if config.precision is Precision.INT8 else config.precision
    description = Description(config.backbone, size, image_size, weights, architecture, precision)
    return VGG16Backbone(Convolutions(layers, image_size), description, device)


def restore(description: Description, tensors: dict[str, Tensor], device: torch.device) -> VGG16Backbone:
    """See `backbones.load_saved_backbone`."""
    network = Convolutions(empty_convolutions(description.architecture["batch_norm"]), description.image_size)
    network.load_state_dict(tensors)
    return VGG16Backbone(network, description, device)
