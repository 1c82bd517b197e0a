"""The member `vgg16`: all of VGG16 trained from random weights, or its block 5 and a head on pretrained ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rakuten_tasks.config import PhotoConfig, Strict, TrainingConfig, Weights
from rakuten_tasks.models.backbones import load_saved_backbone
from rakuten_tasks.models.backbones.frozen_vgg16 import VGG16Backbone
from rakuten_tasks.models.extractors import MapExtractor, PixelExtractor
from rakuten_tasks.models.linear_model import dense_product
from rakuten_tasks.models.members.held_out import HeldOutFit, Phase
from rakuten_tasks.models.members.member import FitContext, FitResult, TrainingData
from rakuten_tasks.models.networks.vgg16_network import (
    BACKBONE_FEATURES,
    TrainableTop,
    VGG16Config,
    VGG16Network,
    batch_size,
)
from rakuten_tasks.models.networks.vgg16_weights import empty_convolutions, random_convolutions
from rakuten_tasks.preprocessing.feature_shards import ShardArrays
from rakuten_tasks.training.distributed import world_size
from rakuten_tasks.training.loop import Dataset, Schedule, autocast
from rakuten_tasks.training.oom import MicrobatchRunner

WEIGHTS, SHAPE = "vgg16.safetensors", "vgg16.json"
PATIENCE = 10  # at the peak of the learning rate validation gets worse for several epochs
LABEL_SMOOTHING = 0.1
WEIGHT_DECAY = 0.05
FORWARD_BUDGET = 3600  # photos, forward and backward: what two cores do in about 110 s at 32 pixels
MAX_SHIFT_DIVISOR = 8  # a training photo moves by up to an eighth of its image_size


@dataclass(frozen=True)
class Shape:
    """whole: all of the network is the member's, else block 5 and the head. The rest as VGG16Config."""

    whole: bool
    batch_norm: bool
    image_size: int
    classes: int

    def network(self) -> VGG16Network | TrainableTop:
        """Untrained."""
        network = VGG16Network(
            VGG16Config(self.batch_norm, self.image_size, self.classes), empty_convolutions(self.batch_norm)
        )
        return network if self.whole else network.upper


class VGG16:
    """The photo, by VGG16 as it was trained here."""

    name: ClassVar[str] = "vgg16"
    modality: ClassVar[str] = "photo"
    pod: ClassVar[str] = "elastic"
    seeded: ClassVar[bool] = True
    extractors: tuple[str, ...] = (MapExtractor.name,)  # pixels where weights are random, see plan.py

    def __init__(self, network: VGG16Network | TrainableTop, shape: Shape) -> None:
        self.network, self.shape = network.eval(), shape

    @classmethod
    def settings(cls, config: TrainingConfig) -> Strict:
        return replace(config.photo, weights_file="", weights=_kind(config.photo), revision="")

    @classmethod
    def fit(cls, settings: Strict, data: TrainingData, context: FitContext) -> FitResult:
        assert isinstance(settings, PhotoConfig)
        return _VGG16Fit(settings, data, context).run()

    @torch.inference_mode()
    def logits_and_embedding(self, arrays: Mapping[str, NDArray]) -> tuple[NDArray, NDArray]:
        device = next(self.network.parameters()).device
        inputs = [arrays["pixels"]] if self.shape.whole else [arrays["photo"][:, :BACKBONE_FEATURES], arrays["maps"]]
        head = self.network.upper.head if isinstance(self.network, VGG16Network) else self.network.head
        read: list[Tensor] = []  # by the last layer, batch after batch

        def part(start: int, end: int) -> None:
            tensors = [torch.from_numpy(np.ascontiguousarray(array[start:end])).to(device) for array in inputs]
            with autocast(device):
                self.network(*tensors)

        hook = head.linear.register_forward_pre_hook(lambda _, features: read.append(features[0].float()))
        try:
            list(MicrobatchRunner(batch_size(device), "photos").iter_chunks(len(inputs[0]), part))
        finally:
            hook.remove()
        embeddings = torch.cat(read)
        logits = dense_product(embeddings, head.linear.weight.T) + head.linear.bias
        return logits.cpu().numpy(), embeddings.cpu().numpy()

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.contiguous() for name, tensor in self.network.state_dict().items()}
        save_file(tensors, folder / WEIGHTS)
        (folder / SHAPE).write_text(json.dumps(asdict(self.shape)))

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> Self:
        shape = Shape(**json.loads((folder / SHAPE).read_text()))
        network = shape.network()
        network.load_state_dict(load_file(folder / WEIGHTS))
        network = network.to(device)
        return cls(network.freeze() if isinstance(network, VGG16Network) else network.requires_grad_(False), shape)


def _kind(config: PhotoConfig) -> Weights:
    # which pretrained weights they are, the features tell
    return Weights.RANDOM if config.weights is Weights.RANDOM else Weights.IMAGENET


class _VGG16Fit(HeldOutFit):
    def __init__(self, config: PhotoConfig, data: TrainingData, context: FitContext) -> None:
        self.config, self.whole = config, config.weights is Weights.RANDOM
        super().__init__(config, data, context, PixelExtractor.name if self.whole else MapExtractor.name)

    def new_network(self, phase: str, rows: NDArray) -> VGG16Network | TrainableTop:
        if self.whole:
            layers = random_convolutions()
            self.shape = Shape(True, True, self.config.image_size, self.data.classes)
            return VGG16Network(VGG16Config(True, self.config.image_size, self.data.classes), layers).to(
                self.context.device
            )
        backbone = load_saved_backbone(self.data.folders[MapExtractor.name], torch.device("cpu"))
        assert isinstance(backbone, VGG16Backbone)
        self.shape = Shape(False, backbone.batch_norm, backbone.image_size, self.data.classes)
        upper = self.shape.network()
        assert isinstance(upper, TrainableTop)
        upper.block.load_state_dict(backbone.network.upper.block.state_dict())
        return upper.requires_grad_(True).to(self.context.device)

    def phases(self, network: nn.Module, rows: NDArray) -> list[Phase]:
        config, arrays, labels = self.config, self.arrays, self.data.labels
        rate, epochs = config.learning_rate, config.epochs
        if isinstance(network, VGG16Network):
            epochs = epochs or epochs_from_scratch(len(self.train_rows), self.context.device)
            return [self._phase("VGG16", network, PixelExamples(arrays, labels), epochs, rate or 5e-4, rows)]
        assert isinstance(network, TrainableTop)
        head, both = HeadExamples(arrays, labels), MapExamples(arrays, labels)
        return [
            self._phase("VGG16 head", network.head, head, epochs or 30, rate or 1e-3, rows),
            self._phase("VGG16 block 5", network, both, config.fine_tune_epochs, 5e-5, rows),
        ]

    def _phase(self, name: str, part: nn.Module, examples: Dataset, epochs: int, rate: float, rows: NDArray) -> Phase:
        schedule = Schedule(epochs, batch_of(self.config.batch_size, len(rows)), PATIENCE, LABEL_SMOOTHING)
        return Phase(
            name, part, examples, schedule, torch.optim.AdamW(part.parameters(), lr=rate, weight_decay=WEIGHT_DECAY)
        )

    def member(self, network: nn.Module) -> VGG16:
        assert isinstance(network, VGG16Network | TrainableTop)
        return VGG16(network, self.shape)


def batch_of(wanted: int, photos: int) -> int:
    """The next batch size, of all processes together, whose last batch leaves a photo to each of them.

    At least two in all: batch norm cannot train on one. Raises ValueError if there are fewer photos than that.
    """
    least = max(2, world_size())
    if photos < least or wanted < least:
        raise ValueError(
            f"{photos} photos to train on in batches of {wanted} are too few for {world_size()} processes: set "
            "RAKUTEN_PHOTO_GPUS times RAKUTEN_PHOTO_NODES to fewer, or photo.batch_size to more"
        )
    return next(size for size in count(wanted) if not 0 < photos % size < least)


def epochs_from_scratch(photos: int, device: torch.device) -> int:
    """On a GPU 30. On a processor about FORWARD_BUDGET photos in all, but each from 2 to 30 times."""
    return 30 if device.type == "cuda" else min(30, max(2, round(FORWARD_BUDGET / photos)))


class _PhotoExamples:
    def __init__(self, arrays: ShardArrays, labels: NDArray) -> None:
        self.arrays, self.labels = arrays, labels


class PixelExamples(_PhotoExamples):
    """Prepared photos, to train the whole network on."""

    def batch(self, rows: NDArray, augment: Callable[[], float] | None) -> tuple[Tensor, ...]:
        """(B,) rows -> (B, S, S, 3) uint8"""
        pixels = self.arrays.take("pixels", rows)
        return (torch.from_numpy(random_flip_and_shift(pixels, augment) if augment else pixels),)


class HeadExamples(_PhotoExamples):
    """What the frozen backbone saw, for the head alone."""

    def batch(self, rows: NDArray, augment: Callable[[], float] | None) -> tuple[Tensor, ...]:
        """(B,) rows -> (B, BACKBONE_FEATURES), (B, TOP_FEATURES) fp16, never augmented: photos are not read again."""
        photo = torch.from_numpy(self.arrays.take("photo", rows))
        return photo[:, :BACKBONE_FEATURES], photo[:, BACKBONE_FEATURES:]


class MapExamples(_PhotoExamples):
    """What the frozen blocks saw, for block 5 and the head."""

    def batch(self, rows: NDArray, augment: Callable[[], float] | None) -> tuple[Tensor, ...]:
        """(B,) rows -> (B, BACKBONE_FEATURES), (B, 512, S / 16, S / 16) fp16"""
        photo, maps = (torch.from_numpy(self.arrays.take(name, rows)) for name in ("photo", "maps"))
        return photo[:, :BACKBONE_FEATURES], maps


def random_flip_and_shift(pixels: NDArray, random: Callable[[], float]) -> NDArray:
    """Each photo mirrored or not, and shifted by up to an eighth of its image_size, white coming in. (B, S, S, 3)"""
    image_size = pixels.shape[1]
    reach = image_size // MAX_SHIFT_DIVISOR
    wide = np.pad(pixels, ((0, 0), (reach, reach), (reach, reach), (0, 0)), constant_values=255)
    out = np.empty_like(pixels)
    for photo, source in zip(out, wide, strict=True):
        top, left = (int(random() * (2 * reach + 1)) for _ in range(2))
        window = source[top : top + image_size, left : left + image_size]
        photo[:] = window[:, ::-1] if random() < 0.5 else window
    return out
