"""Convolutions for inference on an x86 CPU with bf16: weights prepacked in oneDNN's layout, ReLU fused.

This is what torch.compile's freezing does, which needs a C++ compiler and half a minute. The numbers stay the same bit
for bit, at 0.7 to 0.9 times the time (`benchmarks/photo_limits.py`). The only module with torch's private oneDNN names.
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
    capabilities = torch.cpu.get_capabilities()
    has_bf16 = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))
    has_names = torch.__version__.startswith(TORCH) and torch.backends.mkldnn.is_available()
    return device.type == "cpu" and has_names and has_bf16


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
def _convolution(layer: nn.Conv2d, activation: str) -> Step:
    geometry: list[Any] = [layer.padding, layer.stride, layer.dilation, layer.groups]
    reorder: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
    weight = reorder(layer.weight.bfloat16().to_mkldnn(), *geometry, None)
    bias = None if layer.bias is None else layer.bias.bfloat16()

    def run(maps: Tensor) -> Tensor:
        return torch.ops.mkldnn._convolution_pointwise(maps.bfloat16(), weight, bias, *geometry, activation, [None], "")

    return run
