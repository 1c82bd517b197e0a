"""The photo branch: torchvision's VGG16 without its 4096-wide head, pooled after every block, and a linear head.

The convolutions are cut after their fourth block: `Lower` is what fine-tuning leaves as it is, `Upper` is the fifth
block and the head. Outside training both round what they hand on to fp16, as the cache of frozen features keeps it,
so a live photo meets the same numbers as a cached one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from rakuten_tasks.classifier.memory import BatchSize
from rakuten_tasks.classifier.packed import Step, answering, packable, packed
from rakuten_tasks.classifier.training import autocast
from rakuten_tasks.classifier.vgg16_weights import empty_convolutions

WEIGHTS = "photo.safetensors"
SHAPE = "photo.json"
EARLY = 2 * (64 + 128 + 256 + 512)  # mean and maximum of each channel of blocks 1 to 4
LATE = 2 * 512  # of block 5
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, of RGB from 0 to 1


@dataclass(frozen=True)
class PhotoShape:
    """batch_norm: vgg16_bn, else vgg16. side: of a prepared photo, in pixels."""

    batch_norm: bool
    side: int
    classes: int


def pooled(maps: Tensor, highest: Tensor | None = None) -> Tensor:
    """(B, C, H, W) -> (B, 2C): each channel's mean, then its maximum, which also `highest` (B, C, h, w) holds.

    The sum is a matrix product, whose bf16 kernel takes a sixth of the time that mean's takes on two cores.
    """
    each = maps.permute(0, 2, 3, 1).flatten(1, 2)  # (B, HW, C): a view, channels_last
    mean = (each.new_ones(1, each.shape[1]) @ each).squeeze(1).float() / each.shape[1]
    return torch.cat((mean, (maps if highest is None else highest).amax((2, 3)).float()), 1)


def halved(maps: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, H // 2, W // 2): max pooling. A processor answers by two maxima, in 0.7 of its time."""
    if torch.is_grad_enabled() or maps.device.type != "cpu" or not _even(maps):
        return functional.max_pool2d(maps, 2)
    rows = torch.maximum(maps[:, :, ::2], maps[:, :, 1::2])
    return torch.maximum(rows[..., ::2], rows[..., 1::2])


def _even(maps: Tensor) -> bool:
    return maps.shape[2] % 2 == maps.shape[3] % 2 == 0


def _blocks(layers: nn.Sequential) -> Iterator[nn.Sequential]:
    """VGG16's five blocks, each without the max pooling that ends it."""
    start = 0
    for end, layer in enumerate(layers):
        if isinstance(layer, nn.MaxPool2d):
            yield layers[start:end]
            start = end + 1


class Lower(nn.Module):
    """Pixels -> pooled features of blocks 1 to 4, and what block 5 reads."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, blocks: list[nn.Sequential]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.packed: list[Step] | None = None
        self.register_buffer("mean", 255 * torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", 255 * torch.tensor(DEVIATION).view(3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S, S, 3) uint8 -> (B, EARLY), (B, 512, S / 16, S / 16)"""
        maps = pixels.permute(0, 3, 1, 2)  # (B, 3, S, S), channels_last as it lies in memory
        maps = (maps - self.mean) / self.deviation
        early = []
        for block in self.packed if self.packed and answering() else self.blocks:
            maps = block(maps)  # (B, C, H, W)
            smaller = halved(maps)  # (B, C, H // 2, W // 2)
            early.append(pooled(maps, smaller if _even(maps) else maps))  # of odd sides it leaves a row out
            maps = smaller
        features = torch.cat(early, 1)
        return (features, maps) if self.training else (features.half(), maps.half())


class Head(nn.Module):
    """Features -> logits."""

    def __init__(self, classes: int, dropout: float = 0.2) -> None:
        super().__init__()
        self.scale = nn.BatchNorm1d(EARLY + LATE)  # the blocks' features differ in size
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(EARLY + LATE, classes)
        nn.init.zeros_(self.linear.weight)

    def forward(self, early: Tensor, late: Tensor) -> Tensor:
        """(B, EARLY), (B, LATE) -> (B, K)"""
        # autocast on the CPU refuses to join fp16, and a head in bf16 would round logits to three digits
        with torch.autocast(early.device.type, enabled=False):
            return self.linear(self.dropout(self.scale(torch.cat((early.float(), late.float()), 1))))


class Upper(nn.Module):
    """Block 5 and the head."""

    def __init__(self, block: nn.Sequential, classes: int) -> None:
        super().__init__()
        self.block = block
        self.packed: Step | None = None
        self.head = Head(classes)

    def late(self, maps: Tensor) -> Tensor:
        """(B, 512, H, W) -> (B, LATE)"""
        block = self.packed if self.packed and answering() else self.block
        features = pooled(block(maps.float()))
        return features if self.training else features.half()

    def forward(self, early: Tensor, maps: Tensor) -> Tensor:
        """(B, EARLY), (B, 512, H, W) -> (B, K)"""
        return self.head(early, self.late(maps))


class PhotoBranch(nn.Module):
    """Prepared photos -> logits."""

    def __init__(self, shape: PhotoShape, layers: nn.Sequential) -> None:
        super().__init__()
        *lower, block5 = _blocks(layers)
        self.shape = shape
        self.frozen = False
        self.lower = Lower(lower)
        self.upper = Upper(block5, shape.classes)
        self.to(memory_format=torch.channels_last)

    @property
    def side(self) -> int:
        """Of a prepared photo, in pixels."""
        return self.shape.side

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, S, S, 3) uint8 -> (B, K)"""
        return self.upper(*self.lower(pixels))

    def freeze(self) -> Self:
        """Ready to answer, as fast as may be; never to be trained from here on."""
        self.eval().requires_grad_(False)
        self.frozen = True
        device = next(self.parameters()).device
        if packable(device):
            self.lower.packed = [packed(block) for block in self.lower.blocks]  # type: ignore[arg-type]
            self.upper.packed = packed(self.upper.block)
        return self

    def train(self, mode: bool = True) -> Self:
        if mode and self.frozen:
            raise RuntimeError("a frozen photo branch is not trained: answers would not follow its weights")
        return super().train(mode)

    def save(self, folder: Path) -> None:
        """Write photo.safetensors and photo.json."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in self.state_dict().items()}, folder / WEIGHTS)
        (folder / SHAPE).write_text(json.dumps(asdict(self.shape)))

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> Self:
        """What `save` wrote, ready to predict."""
        shape = PhotoShape(**json.loads((folder / SHAPE).read_text()))
        branch = cls(shape, empty_convolutions(shape.batch_norm))
        branch.load_state_dict(load_file(folder / WEIGHTS))
        return branch.to(device).freeze()


def batch_size(device: torch.device) -> int:
    """Photos at once when nothing is trained.

    On a CPU a pair: 38 ms a photo of 224 pixels on two cores in bf16, against 42 for one and 60 for 16, whose maps
    leave the cache.
    """
    return 128 if device.type == "cuda" else 2


@torch.inference_mode()
def photo_logits(branch: PhotoBranch, pixels: NDArray) -> NDArray:
    """(N, S, S, 3) prepared photos -> (N, K) fp32"""
    branch.eval()
    device = next(branch.parameters()).device

    def part(start: int, end: int) -> Tensor:
        with autocast(device):
            return branch(torch.from_numpy(pixels[start:end]).to(device)).float().cpu()

    return torch.cat(list(BatchSize(batch_size(device), "photos").parts(len(pixels), part))).numpy()
