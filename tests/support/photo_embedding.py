"""What the photo branch's head reads, listened to while photos are scored."""

from __future__ import annotations

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rakuten_tasks.models.networks.vgg16_network import VGG16Network, photo_logits


def photo_embedding(branch: VGG16Network, pixels: NDArray) -> NDArray:
    """(N, S, S, 3) prepared photos -> (N, EARLY + LATE) fp32"""
    heard: list[Tensor] = []

    def listen(_: nn.Module, inputs: tuple[Tensor, Tensor]) -> None:
        heard.append(torch.cat([features.float().cpu() for features in inputs], 1))

    hook = branch.upper.head.register_forward_pre_hook(listen)
    photo_logits(branch, pixels)
    hook.remove()
    return torch.cat(heard).numpy()
