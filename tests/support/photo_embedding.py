"""Logits of the photo branch, and the inputs of its head."""

from __future__ import annotations

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rakuten_tasks.models.networks.vgg16_network import VGG16Network
from rakuten_tasks.training.hardware import autocast


@torch.inference_mode()
def photo_logits(branch: VGG16Network, pixels: NDArray) -> NDArray:
    """(N, S, S, 3) prepared photos -> (N, K) fp32, two at a time."""
    branch.eval()
    with autocast(torch.device("cpu")):
        parts = [branch(part).float() for part in torch.from_numpy(pixels).split(2)]
    return torch.cat(parts).numpy()


def photo_embedding(branch: VGG16Network, pixels: NDArray) -> NDArray:
    """(N, S, S, 3) prepared photos -> (N, EARLY + LATE) fp32"""
    heard: list[Tensor] = []

    def listen(_: nn.Module, inputs: tuple[Tensor, Tensor]) -> None:
        heard.append(torch.cat([features.float().cpu() for features in inputs], 1))

    hook = branch.upper.head.register_forward_pre_hook(listen)
    photo_logits(branch, pixels)
    hook.remove()
    return torch.cat(heard).numpy()
