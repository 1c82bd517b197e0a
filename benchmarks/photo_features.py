"""Speed of frozen VGG16 features compared with the bare forward pass: python -m benchmarks.photo_features

The bare pass is the same convolutions in the same dtype and batch, over a tensor on the device. The weights are random,
which does not change the speed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.timing import seconds
from rakuten_tasks.models.backbones.frozen import Description
from rakuten_tasks.models.backbones.frozen_vgg16 import IMAGE_SIZE, VGG16Backbone
from rakuten_tasks.models.networks.onednn import is_int8_supported, is_supported, prepack
from rakuten_tasks.models.networks.vgg16_blocks import BACKBONE_FEATURES, TOP_FEATURES, Convolutions, batch_size
from rakuten_tasks.models.networks.vgg16_weights import random_convolutions
from rakuten_tasks.models.pretrained import PretrainedWeights
from rakuten_tasks.training.hardware import autocast, choose_device, half_precision

REPEATS, LIMIT = 4, 0.95


def backbone(device: torch.device) -> VGG16Backbone:
    """Build VGG16 with random weights as it is loaded from a bundle."""
    weights = PretrainedWeights("vgg16", "random numbers", "NONE", "random")
    description = Description("vgg16", BACKBONE_FEATURES + TOP_FEATURES, IMAGE_SIZE, weights, {"batch_norm": False})
    return VGG16Backbone(Convolutions(random_convolutions(batch_norm=False), IMAGE_SIZE), description, device)


@torch.inference_mode()
def bare_pass(layers: Callable[[torch.Tensor], torch.Tensor], batch: torch.Tensor, count: int) -> None:
    """Run `count` photos through the convolutions, without reading or storing anything."""
    for _ in range(0, count, len(batch)):
        with autocast(batch.device):
            layers(batch)
    if batch.device.type == "cuda":
        torch.cuda.synchronize()


def print_int8(frozen: VGG16Backbone, photos: NDArray) -> None:
    """Print the speed of `photo.precision: int8` beside that of `frozen`."""
    quantised = frozen.quantise(photos[:1])
    quantised.features(photos[: quantised.batch.rows])
    pairs = [
        (seconds(lambda: frozen.features(photos)), seconds(lambda: quantised.features(photos))) for _ in range(REPEATS)
    ]
    usual, int8 = (len(photos) / min(times) for times in zip(*pairs, strict=True))
    print(f"int8 / bf16 features: {int8 / usual:.3f}, {int8:.2f} photos/s")


def main() -> None:
    device = choose_device()
    size = batch_size(device)
    count = 32 * size
    layers = random_convolutions(batch_norm=False)[:-1].to(device).to(memory_format=torch.channels_last).eval()
    bare_layers = prepack(layers) if is_supported(device) else layers  # the fastest pass with bit-identical results
    frozen = backbone(device)
    batch = torch.randn(size, 3, IMAGE_SIZE, IMAGE_SIZE, device=device).to(memory_format=torch.channels_last)
    photos = np.random.default_rng(0).integers(0, 256, (count, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
    bare_pass(bare_layers, batch, size)
    # alternating, so that other load slows both
    pairs = [
        (seconds(lambda: bare_pass(bare_layers, batch, count)), seconds(lambda: frozen.features(photos)))
        for _ in range(REPEATS)
    ]
    bare, features = (count / min(times) for times in zip(*pairs, strict=True))
    dtype = "bf16" if half_precision(device) else "fp32"
    print(f"{count} photos of {IMAGE_SIZE} pixels in batches of {size} on {device} in {dtype}, best of {REPEATS} runs")
    print(f"bare forward pass {bare:.2f} photos/s, features {features:.2f} photos/s")
    print(f"features / bare: {features / bare:.3f} (limit {LIMIT})")
    if is_int8_supported(device):
        print_int8(frozen, photos)
    if is_int8_supported(device):
        quantised = frozen.quantise(photos[:size])
        pairs = [
            (seconds(lambda: backbone(device).features(photos)), seconds(lambda: quantised.features(photos)))
            for _ in range(REPEATS)
        ]


if __name__ == "__main__":
    main()
