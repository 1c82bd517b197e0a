"""VGG16's blocks and a linear head."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rakuten_tasks.models.networks.vgg16_blocks import (
    BACKBONE_FEATURES,
    TOP_FEATURES,
    Convolutions,
    TrainableBlock,
    batch_size,
)
from rakuten_tasks.models.networks.vgg16_weights import empty_convolutions
from rakuten_tasks.training.loop import autocast
from rakuten_tasks.training.oom import MicrobatchRunner

__all__ = ["BACKBONE_FEATURES", "TOP_FEATURES", "VGG16Config", "VGG16Network", "batch_size", "photo_logits"]

WEIGHTS = "photo.safetensors"
SHAPE = "photo.json"


@dataclass(frozen=True)
class VGG16Config:
    """batch_norm: vgg16_bn, else vgg16. image_size: of a prepared photo, in pixels."""

    batch_norm: bool
    image_size: int
    classes: int


class Head(nn.Module):
    """Features -> logits."""

    def __init__(self, classes: int, dropout: float = 0.2) -> None:
        super().__init__()
        self.scale = nn.BatchNorm1d(BACKBONE_FEATURES + TOP_FEATURES)  # the blocks' features differ in size
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(BACKBONE_FEATURES + TOP_FEATURES, classes)
        nn.init.zeros_(self.linear.weight)

    def forward(self, early: Tensor, late: Tensor) -> Tensor:
        """(B, BACKBONE_FEATURES), (B, TOP_FEATURES) -> (B, K)"""
        # autocast on the CPU refuses to join fp16, and a head in bf16 would round logits to three digits
        with torch.autocast(early.device.type, enabled=False):
            return self.linear(self.dropout(self.scale(torch.cat((early.float(), late.float()), 1))))


class TrainableTop(TrainableBlock):
    """Block 5 and the head."""

    def __init__(self, block: nn.Sequential, classes: int) -> None:
        super().__init__(block)
        self.head = Head(classes)

    def forward(self, early: Tensor, maps: Tensor) -> Tensor:
        """(B, BACKBONE_FEATURES), (B, 512, H, W) -> (B, K)"""
        return self.head(early, self.late(maps))


class VGG16Network(Convolutions):
    """Prepared photos -> logits."""

    upper: TrainableTop

    def __init__(self, shape: VGG16Config, layers: nn.Sequential) -> None:
        super().__init__(layers, shape.image_size, lambda block: TrainableTop(block, shape.classes))
        self.shape = shape

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, S, S, 3) uint8 -> (B, K)"""
        return self.upper(*self.lower(pixels))

    def save(self, folder: Path) -> None:
        """Write photo.safetensors and photo.json."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in self.state_dict().items()}, folder / WEIGHTS)
        (folder / SHAPE).write_text(json.dumps(asdict(self.shape)))

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> Self:
        """What `save` wrote, ready to predict."""
        shape = VGG16Config(**json.loads((folder / SHAPE).read_text()))
        network = cls(shape, empty_convolutions(shape.batch_norm))
        network.load_state_dict(load_file(folder / WEIGHTS))
        return network.to(device).freeze()


@torch.inference_mode()
def photo_logits(network: VGG16Network, pixels: NDArray) -> NDArray:
    """(N, S, S, 3) prepared photos -> (N, K) fp32"""
    network.eval()
    device = next(network.parameters()).device

    def part(start: int, end: int) -> Tensor:
        with autocast(device):
            return network(torch.from_numpy(pixels[start:end]).to(device)).float().cpu()

    return torch.cat(list(MicrobatchRunner(batch_size(device), "photos").iter_chunks(len(pixels), part))).numpy()
