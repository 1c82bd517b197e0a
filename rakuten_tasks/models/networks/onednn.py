"""Convolutions for inference on an x86 CPU with bf16: weights prepacked in oneDNN's layout, ReLU fused.

This is what torch.compile's freezing does, which needs a C++ compiler and half a minute. The numbers stay the same bit
for bit, at 0.7 to 0.9 times the time (`benchmarks/photo_limits.py`). int8: see `int8.py`. The only module with torch's
private oneDNN names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

TORCH = "2.14."  # whose private names tests/unit/models/test_onednn.py checks; others run the same layers unpacked

Step = Callable[[Tensor], Tensor]


def is_supported(device: torch.device) -> bool:
    """Tell whether the device is a CPU with bf16, and torch is the version whose oneDNN names are used here."""
    return _has_names(device, "avx512_bf16", "amx_bf16")


def is_int8_supported(device: torch.device) -> bool:
    """As `is_supported`, of a CPU that adds products of int8 in int32 too, without saturation."""
    return is_supported(device) and _has_names(device, "avx512_vnni", "amx_int8")


def _has_names(device: torch.device, *instructions: str) -> bool:
    capabilities = torch.cpu.get_capabilities()
    has_names = torch.__version__.startswith(TORCH) and torch.backends.mkldnn.is_available()
    return device.type == "cpu" and has_names and any(capabilities.get(name) for name in instructions)


def is_inference_autocast() -> bool:
    """Tell whether autocast to bf16 is enabled and gradients are not."""
    return torch.is_autocast_enabled("cpu") and not torch.is_grad_enabled()


def prepack(block: Iterable[nn.Module]) -> Step:
    """Return a function with the block's outputs under bf16's autocast, (B, C, H, W) channels_last, without gradients.

    Later changes of the block's weights have no effect on it.
    """
    layers = [*block, None]
    steps: list[Step] = []
    fused = False
    for layer, following in pairwise(layers):
        if isinstance(layer, nn.Conv2d):
            fused = isinstance(following, nn.ReLU)
            steps.append(_convolution(layer, "relu" if fused else "none"))
        elif not (fused and isinstance(layer, nn.ReLU)):
            fused = False
            steps.append(layer)  # type: ignore[arg-type]

    def run(maps: Tensor) -> Tensor:
        for step in steps:
            maps = step(maps)
        return maps

    return run


@torch.no_grad()
def int8_convolution(
    weight: Tensor, scales: Tensor, bias: Tensor, padding: list[int], input_scale: float, output_scale: float | None
) -> Step:
    """Return a convolution with ReLU of uint8 maps, at stride 1; of uint8 outputs, or bf16 if output_scale is None.

    weight: int8, of which scales, (C,), make floats. bias: (C,) fp32. Inputs and outputs are multiples of their scales.
    """
    geometry: list[Any] = [[1, 1], padding, [1, 1], 1]
    packed = torch.ops.onednn.qconv_prepack(weight, scales, input_scale, 0, *geometry, None)
    zeros = torch.zeros(len(scales), dtype=torch.int64)
    output = [1.0, 0, torch.bfloat16] if output_scale is None else [output_scale, 0, torch.uint8]

    def run(maps: Tensor) -> Tensor:
        return torch.ops.onednn.qconv2d_pointwise(
            maps, input_scale, 0, packed, scales, zeros, bias, *geometry, *output, "relu", [], ""
        )

    return run


@torch.no_grad()
def _convolution(layer: nn.Conv2d, activation: str) -> Step:
    geometry: list[Any] = [layer.padding, layer.stride, layer.dilation, layer.groups]
    reorder: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
    weight = reorder(layer.weight.bfloat16().to_mkldnn(), *geometry, None)
    bias = None if layer.bias is None else layer.bias.bfloat16()

    def run(maps: Tensor) -> Tensor:
        return torch.ops.mkldnn._convolution_pointwise(maps.bfloat16(), weight, bias, *geometry, activation, [None], "")

    return run
