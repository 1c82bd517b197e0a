"""Convolutions for answers alone, on an x86 processor with bf16: weights are laid out once as oneDNN reads them, and
ReLU is done within the convolution.

That is what torch.compile's freezing does to them, which needs a C++ compiler and half a minute. The numbers stay the
same bit for bit, at 0.7 to 0.9 times the time (`benchmarks/photo_limits.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

Step = Callable[[Tensor], Tensor]


def is_supported(device: torch.device) -> bool:
    """Whether it is a processor of this kind, under a torch that has oneDNN."""
    capabilities = torch.cpu.get_capabilities()
    there = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))
    return device.type == "cpu" and torch.backends.mkldnn.is_available() and there


def is_inference_autocast() -> bool:
    """Whether bf16 is wanted here, and no gradient."""
    return torch.is_autocast_enabled("cpu") and not torch.is_grad_enabled()


def prepack(block: Iterable[nn.Module]) -> Step:
    """(B, C, H, W), channels_last -> what the block gives under bf16's autocast.

    Later changes of the block's weights do not reach it. No gradients.
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
def _convolution(layer: nn.Conv2d, then: str) -> Step:
    where: list[Any] = [layer.padding, layer.stride, layer.dilation, layer.groups]
    reorder: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
    weight = reorder(layer.weight.bfloat16().to_mkldnn(), *where, None)
    bias = None if layer.bias is None else layer.bias.bfloat16()

    def run(maps: Tensor) -> Tensor:
        return torch.ops.mkldnn._convolution_pointwise(maps.bfloat16(), weight, bias, *where, then, [None], "")

    return run
