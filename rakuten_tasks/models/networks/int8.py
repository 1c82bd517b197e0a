"""VGG16's blocks in int8: symmetric weights with a scale for each output channel, uint8 activations with a fixed one.

The outputs of blocks 4 and 5 are bf16; those of the first three are pooled into features as they are. A scale is the
largest activation in some training photos, over 255: percentiles give worse features (docs/benchmarks/quality.md). Sums
of integers are exact, so a photo has the same bits alone and in any batch. Without oneDNN's int8 the same integers are
multiplied in fp32, slowly; last digits may differ.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from itertools import accumulate, chain, pairwise

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from rakuten_tasks.models.networks.onednn import Step, int8_convolution, is_int8_supported
from rakuten_tasks.models.networks.pooling import max_pool_2x2, mean_max_pool

LEVELS = 255
LOWEST = 1e-6  # a scale of a layer whose outputs are all zero


@torch.inference_mode()
def calibrate(network: nn.Module, photos: NDArray) -> list[float]:
    """Return the scale of the input of each convolution but the first. photos: (N, S, S, 3) uint8, one at least."""
    highest: dict[nn.Module, float] = {}

    def observe(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        highest[layer] = max(highest.get(layer, 0.0), inputs[0].max().item())

    convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    hooks = [layer.register_forward_pre_hook(observe) for layer in convolutions]
    for photo in photos:
        network(torch.from_numpy(photo[None].copy()).to(convolutions[0].weight.device))
    for hook in hooks:
        hook.remove()
    return [max(highest[layer] / LEVELS, LOWEST) for layer in convolutions[1:]]


class QuantisedBlocks:
    """Blocks 1 to 4 in int8: pixels -> what `FrozenBlocks` returns, without gradients."""

    def __init__(
        self, blocks: Sequence[nn.Sequential], scales: Sequence[float], mean: Tensor, deviation: Tensor
    ) -> None:
        """scales: of `calibrate`. mean, deviation: (3, 1, 1), by which `FrozenBlocks` normalises pixels."""
        layers = [_fused_convolutions(block) for block in blocks]
        first = layers[0][0]
        first.weight.data /= deviation
        first.padding = (0, 0)  # as the pixels have a border
        self.border = mean.round().to(torch.uint8).view(3)  # what is zero in the other layers
        pairs = zip(chain(*layers), pairwise([1.0, *scales, None]), strict=True)
        steps = [_convolution(layer, *pair, mean if layer is first else None) for layer, pair in pairs]  # type: ignore[arg-type]
        ends = [0, *accumulate(map(len, layers))]
        self.blocks = [steps[start:end] for start, end in pairwise(ends)]
        self.scales = [[*scales, 1.0][end - 1] for end in ends[1:]]  # of the blocks' outputs

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S, S, 3) uint8 -> (B, BACKBONE_FEATURES), (B, 512, S / 16, S / 16), fp16"""
        maps = self.border.repeat(len(pixels), pixels.shape[1] + 2, pixels.shape[2] + 2, 1)
        maps[:, 1:-1, 1:-1] = pixels
        maps = maps.permute(0, 3, 1, 2)  # (B, 3, S + 2, S + 2), channels_last in memory
        features = []
        for steps, scale in zip(self.blocks, self.scales, strict=True):
            for step in steps:
                maps = step(maps)  # (B, C, H, W)
            smaller = max_pool_2x2(maps)
            features.append(scale * mean_max_pool(maps, smaller))
            maps = smaller
        return torch.cat(features, 1).half(), maps.half()


def quantised_block(block: nn.Sequential, scales: Sequence[float]) -> Step:
    """Return a block in int8: maps -> bf16 maps, in inference. scales: of the inputs of its convolutions."""
    outputs = pairwise([*scales, None])
    convolutions = zip(_fused_convolutions(block), outputs, strict=True)
    steps = [_convolution(layer, *pair) for layer, pair in convolutions]  # type: ignore[arg-type]

    def run(maps: Tensor) -> Tensor:
        maps = (maps * (1 / scales[0])).round_().clamp_(max=LEVELS).to(torch.uint8)
        maps = maps.contiguous(memory_format=torch.channels_last)
        for step in steps:
            maps = step(maps)
        return maps

    return run


def _fused_convolutions(block: Iterable[nn.Module]) -> list[nn.Conv2d]:
    """Return copies of a block's convolutions, with batch norm's factors in their weights. A ReLU follows on each."""
    return [
        fuse_conv_bn_eval(layer, following) if isinstance(following, nn.BatchNorm2d) else copy.deepcopy(layer)
        for layer, following in pairwise([*block, None])
        if isinstance(layer, nn.Conv2d)
    ]


@torch.no_grad()
def _convolution(layer: nn.Conv2d, input_scale: float, output_scale: float | None, zero: Tensor | None = None) -> Step:
    """Return the convolution with ReLU. zero: (C, 1, 1), the inputs that stand for 0."""
    assert layer.bias is not None
    assert isinstance(layer.padding, tuple)
    weight_scales = layer.weight.abs().amax((1, 2, 3)).clamp(min=LOWEST) / 127
    weight, bias = (layer.weight / weight_scales.view(-1, 1, 1, 1)).round(), layer.bias
    if zero is not None:
        bias = bias - weight_scales * (weight * zero).sum((1, 2, 3))
    if is_int8_supported(weight.device):
        padding = list(layer.padding)
        return int8_convolution(weight.to(torch.int8), weight_scales, bias, padding, input_scale, output_scale)
    factors = (weight_scales * input_scale).view(-1, 1, 1)

    def run(maps: Tensor) -> Tensor:
        with torch.autocast(maps.device.type, enabled=False):
            sums = functional.conv2d(maps.float(), weight, padding=layer.padding)
            outputs = (sums * factors + bias.view(-1, 1, 1)).relu_()
        if output_scale is None:
            return outputs.bfloat16()
        return (outputs / output_scale).round_().clamp_(max=LEVELS).to(torch.uint8)

    return run
