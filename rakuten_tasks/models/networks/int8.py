"""VGG16's blocks in int8: symmetric weights with a scale for each output channel, uint8 activations with a fixed one.

The first convolution of the network stays in bf16, and so does the output of each block, which is pooled into features.
A scale is the largest activation in some training photos, over 255: percentiles give worse features
(docs/benchmarks/quality.md). Sums of integers are exact, so a photo has the same bits alone and in any batch. Without
oneDNN's int8 the same integers are multiplied in fp32, slowly; last digits may differ.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from rakuten_tasks.models.networks.onednn import Step, int8_convolution, is_int8_supported, prepack

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


def quantise(blocks: Sequence[nn.Sequential], scales: Sequence[float]) -> list[Step]:
    """Return each block in int8: maps -> bf16 maps, in inference. scales: of `calibrate`."""
    layers = [_fused_convolutions(block) for block in blocks]
    unused = iter(scales)
    steps = []
    for position, convolutions in enumerate(layers):
        first = convolutions.pop(0) if position == 0 else None
        steps.append(_block(first, convolutions, [next(unused) for _ in convolutions]))
    return steps


def _block(first: nn.Conv2d | None, convolutions: Sequence[nn.Conv2d], scales: Sequence[float]) -> Step:
    head = None if first is None else _bf16_convolution(first, scales[0])
    outputs = pairwise([*scales, None])
    steps = [_convolution(layer, *pair) for layer, pair in zip(convolutions, outputs, strict=True)]  # type: ignore[arg-type]

    def run(maps: Tensor) -> Tensor:
        scaled = head(maps) if head else maps.bfloat16() * (1 / scales[0])
        maps = scaled.round_().clamp_(max=LEVELS).to(torch.uint8)
        maps = maps.contiguous(memory_format=torch.channels_last)
        for step in steps:
            maps = step(maps)
        return maps

    return run


def _fused_convolutions(block: Iterable[nn.Module]) -> list[nn.Conv2d]:
    """Return a block's convolutions, with batch norm's factors in their weights. Each is followed by a ReLU."""
    return [
        fuse_conv_bn_eval(layer, following) if isinstance(following, nn.BatchNorm2d) else layer
        for layer, following in pairwise([*block, None])
        if isinstance(layer, nn.Conv2d)
    ]


@torch.no_grad()
def _bf16_convolution(layer: nn.Conv2d, scale: float) -> Step:
    """Return the convolution with ReLU, divided by the scale of its outputs."""
    layer = copy.deepcopy(layer)
    for parameter in layer.parameters():
        parameter.div_(scale)
    if is_int8_supported(layer.weight.device):
        return prepack([layer, nn.ReLU()])
    assert layer.bias is not None
    weight, bias = layer.weight.bfloat16(), layer.bias.bfloat16()
    return lambda maps: functional.conv2d(maps.bfloat16(), weight, bias, padding=layer.padding).relu_()


@torch.no_grad()
def _convolution(layer: nn.Conv2d, input_scale: float, output_scale: float | None) -> Step:
    assert layer.bias is not None
    assert isinstance(layer.padding, tuple)
    weight_scales = layer.weight.abs().amax((1, 2, 3)).clamp(min=LOWEST) / 127
    weight, bias = (layer.weight / weight_scales.view(-1, 1, 1, 1)).round(), layer.bias
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
