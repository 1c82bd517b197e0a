"""torchvision's VGG16 without its 4096-wide head, pooled after every block.

The convolutions are split after their fourth block: fine-tuning leaves `FrozenBlocks` unchanged and trains
`TrainableBlock`. In eval mode both round their outputs to fp16, in which features are cached, so that a photo has the
same numbers in serving as from the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from rakuten_tasks.models.networks.int8 import QuantisedBlocks, quantised_block
from rakuten_tasks.models.networks.onednn import Step, is_inference_autocast, is_supported, prepack
from rakuten_tasks.models.networks.pooling import max_pool_2x2, mean_max_pool

BACKBONE_FEATURES = 2 * (64 + 128 + 256 + 512)  # mean and maximum of each channel of blocks 1 to 4
TOP_FEATURES = 2 * 512  # of block 5
TOP_CONVOLUTIONS = 3  # of block 5
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, of RGB from 0 to 1


def split_blocks(layers: nn.Sequential) -> Iterator[nn.Sequential]:
    """Yield VGG16's five blocks, each without the max pooling at its end."""
    start = 0
    for end, layer in enumerate(layers):
        if isinstance(layer, nn.MaxPool2d):
            yield layers[start:end]
            start = end + 1


class FrozenBlocks(nn.Module):
    """Pixels -> pooled features of blocks 1 to 4, and the input of block 5."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, blocks: list[nn.Sequential]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.packed: list[Step] | None = None
        self.int8: QuantisedBlocks | None = None
        self.register_buffer("mean", 255 * torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", 255 * torch.tensor(DEVIATION).view(3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S, S, 3) uint8 -> (B, BACKBONE_FEATURES), (B, 512, S / 16, S / 16)"""
        if self.int8 and not torch.is_grad_enabled():  # Grad-CAM reads the layers' gradients
            return self.int8(pixels)
        maps = pixels.permute(0, 3, 1, 2)  # (B, 3, S, S), channels_last in memory
        maps = (maps - self.mean) / self.deviation
        early = []
        for block in self.packed if self.packed and is_inference_autocast() else self.blocks:
            maps = block(maps)  # (B, C, H, W)
            smaller = max_pool_2x2(maps)  # (B, C, H // 2, W // 2)
            early.append(mean_max_pool(maps, smaller))
            maps = smaller
        features = torch.cat(early, 1)
        return (features, maps) if self.training else (features.half(), maps.half())

    def pack(self) -> None:
        """Prepack the weights for inference if the CPU supports it; later changes of the weights have no effect."""
        if is_supported(self.mean.device):
            self.packed = [prepack(block) for block in self.blocks]  # type: ignore[arg-type]

    def quantise(self, scales: Sequence[float]) -> None:
        """Prepack the weights for inference in int8. scales: of the inputs of all convolutions but the first."""
        self.int8 = QuantisedBlocks(list(self.blocks), scales, self.mean, self.deviation)  # type: ignore[arg-type]


class TrainableBlock(nn.Module):
    """Block 5 -> its pooled features."""

    def __init__(self, block: nn.Sequential) -> None:
        super().__init__()
        self.block = block
        self.packed: Step | None = None
        self.int8: Step | None = None

    def features(self, maps: Tensor) -> Tensor:
        """(B, 512, H, W) -> (B, TOP_FEATURES)"""
        block: Step = self.packed if self.packed and is_inference_autocast() else self.block
        if self.int8 and not torch.is_grad_enabled():
            block = self.int8
        features = mean_max_pool(block(maps.float()))
        return features if self.training else features.half()

    def pack(self) -> None:
        """Prepack as `FrozenBlocks.pack` does."""
        if is_supported(next(self.block.parameters()).device):
            self.packed = prepack(self.block)


class Convolutions(nn.Module):
    """All five blocks: prepared photos -> features."""

    def __init__(
        self, layers: nn.Sequential, image_size: int, upper: Callable[[nn.Sequential], TrainableBlock] = TrainableBlock
    ) -> None:
        """image_size: of a prepared photo, in pixels. upper: makes the module of block 5."""
        super().__init__()
        *lower, block5 = split_blocks(layers)
        self.image_size = image_size
        self.frozen = False
        self.lower = FrozenBlocks(lower)
        self.upper = upper(block5)
        self.to(memory_format=torch.channels_last)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, S, S, 3) uint8 -> (B, BACKBONE_FEATURES + TOP_FEATURES)"""
        return self.features_and_maps(pixels)[0]

    def features_and_maps(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S, S, 3) uint8 -> (B, BACKBONE_FEATURES + TOP_FEATURES), (B, 512, S / 16, S / 16), block 5's input"""
        early, maps = self.lower(pixels)
        late = self.upper.features(maps)
        with torch.autocast(early.device.type, enabled=False):  # on the CPU it cannot concatenate fp16
            return torch.cat((early, late), 1), maps

    def freeze(self, scales: Sequence[float] = ()) -> Self:
        """Prepare for the fastest inference, in int8 with `scales`; the network cannot be trained afterwards."""
        self.eval().requires_grad_(False)
        self.frozen = True
        if scales:
            self.lower.packed = self.upper.packed = None
            self.lower.quantise(scales[:-TOP_CONVOLUTIONS])
            self.upper.int8 = quantised_block(self.upper.block, scales[-TOP_CONVOLUTIONS:])
        else:
            self.lower.pack()
            self.upper.pack()
        return self

    def train(self, mode: bool = True) -> Self:
        if mode and self.frozen:
            raise RuntimeError("a frozen VGG16 is not trained: its prepacked weights would not change")
        return super().train(mode)
