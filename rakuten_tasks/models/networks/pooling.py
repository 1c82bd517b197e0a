"""Max pooling, and the mean and the maximum of each channel, in the fastest ways that processors have for them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

COLUMNS = 512  # of a sum of uint8: with 64, kernels take two to thirty times as long


def max_pool_2x2(maps: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, H // 2, W // 2): max pooling, in inference on a CPU by two maxima, in 0.7 of its time."""
    if maps.dtype != torch.uint8 and (torch.is_grad_enabled() or maps.device.type != "cpu"):
        return functional.max_pool2d(maps, 2)
    rows = torch.maximum(maps[:, :, :-1:2], maps[:, :, 1::2])  # without the last row of an odd number
    return torch.maximum(rows[..., :-1:2], rows[..., 1::2])


def mean_max_pool(maps: Tensor, smaller: Tensor | None = None) -> Tensor:
    """(B, C, H, W) -> (B, 2C) fp32: each channel's mean, then its maximum.

    smaller: `max_pool_2x2` of the maps, which saves time where it has the same maxima.
    """
    has_maxima = smaller is not None and maps.shape[2] % 2 == maps.shape[3] % 2 == 0  # else a row is missing
    highest = smaller if smaller is not None and has_maxima else maps
    each = maps.permute(0, 2, 3, 1).flatten(1, 2)  # (B, HW, C): a view, channels_last
    if maps.dtype == torch.uint8:
        sums = _columns(each).sum(1, dtype=torch.int32).unflatten(1, (-1, maps.shape[1])).sum(1)
        maxima = _columns(highest.permute(0, 2, 3, 1).flatten(1, 2)).amax(1).unflatten(1, (-1, maps.shape[1])).amax(1)
    else:  # a matrix product, whose bf16 kernel takes a sixth of the time of `mean` on two cores
        sums = (each.new_ones(1, each.shape[1]) @ each).squeeze(1)
        maxima = highest.amax((2, 3))
    return torch.cat((sums.float() / each.shape[1], maxima.float()), 1)


def _columns(each: Tensor) -> Tensor:
    """(B, N, C) -> (B, N C / COLUMNS, COLUMNS), unless that is no integer."""
    size = COLUMNS // each.shape[2]
    return each.unflatten(1, (-1, size)).flatten(2) if size and each.shape[1] % size == 0 else each
