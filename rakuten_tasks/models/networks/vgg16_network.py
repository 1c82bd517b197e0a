"""VGG16's blocks and a linear head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rakuten_tasks.models.networks.vgg16_blocks import BACKBONE_FEATURES, TOP_FEATURES, Convolutions, TrainableBlock


class Head(nn.Module):
    """Features -> logits."""

    def __init__(self, classes: int, dropout: float = 0.2) -> None:
        super().__init__()
        self.scale = nn.BatchNorm1d(BACKBONE_FEATURES + TOP_FEATURES)  # the blocks' features differ in scale
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(BACKBONE_FEATURES + TOP_FEATURES, classes)
        nn.init.zeros_(self.linear.weight)

    def forward(self, early: Tensor, late: Tensor) -> Tensor:
        """(B, BACKBONE_FEATURES), (B, TOP_FEATURES) -> (B, K)"""
        # autocast on the CPU cannot concatenate fp16, and a head in bf16 would round logits to three digits
        with torch.autocast(early.device.type, enabled=False):
            return self.linear(self.dropout(self.scale(torch.cat((early.float(), late.float()), 1))))


class TrainableTop(TrainableBlock):
    """Block 5 and the head."""

    def __init__(self, block: nn.Sequential, classes: int) -> None:
        super().__init__(block)
        self.head = Head(classes)

    def forward(self, early: Tensor, maps: Tensor) -> Tensor:
        """(B, BACKBONE_FEATURES), (B, 512, H, W) -> (B, K)"""
        return self.head(early, self.features(maps))


class VGG16Network(Convolutions):
    """Prepared photos -> logits."""

    upper: TrainableTop

    def __init__(self, layers: nn.Sequential, image_size: int, classes: int) -> None:
        """layers: torchvision's `features` of vgg16 or vgg16_bn. image_size: of a prepared photo, in pixels."""
        super().__init__(layers, image_size, lambda block: TrainableTop(block, classes))

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, S, S, 3) uint8 -> (B, K)"""
        return self.upper(*self.lower(pixels))
