"""The member `vgg16`: all of VGG16 trained from random weights, or block 5 and a head on pretrained weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rakuten_tasks.config import PhotoConfig, TrainingConfig, Weights
from rakuten_tasks.config_base import Strict
from rakuten_tasks.models.backbones import load_saved_backbone
from rakuten_tasks.models.backbones.frozen_vgg16 import VGG16Backbone
from rakuten_tasks.models.extractors import MapExtractor, PixelExtractor
from rakuten_tasks.models.linear_model import dense_product
from rakuten_tasks.models.members.held_out import Examples, HeldOutFit, Phase, capture_inputs
from rakuten_tasks.models.members.member import FitContext, FitResult, TrainingData
from rakuten_tasks.models.networks.vgg16_blocks import BACKBONE_FEATURES, batch_size
from rakuten_tasks.models.networks.vgg16_network import TrainableTop, VGG16Network
from rakuten_tasks.models.networks.vgg16_weights import empty_convolutions, random_convolutions
from rakuten_tasks.preprocessing.feature_shards import ShardArrays
from rakuten_tasks.training.distributed import world_size
from rakuten_tasks.training.hardware import autocast
from rakuten_tasks.training.oom import MicrobatchRunner
from rakuten_tasks.training.schedule import Schedule

WEIGHTS, CONFIG = "vgg16.safetensors", "vgg16.json"
PATIENCE = 10  # at the peak of the learning rate validation gets worse for several epochs
LABEL_SMOOTHING = 0.1
WEIGHT_DECAY = 0.05
FORWARD_BUDGET = 3600  # photos, forward and backward: about 110 s on two cores at 32 pixels
MAX_SHIFT_DIVISOR = 8  # a training photo moves by up to an eighth of its image_size


@dataclass(frozen=True)
class VGG16Config:
    """Architecture of the trained network.

    full: blocks 1 to 5 and the head, else block 5 and the head. batch_norm: vgg16_bn, else vgg16. image_size: of a
    prepared photo, in pixels.
    """

    full: bool
    batch_norm: bool
    image_size: int
    classes: int

    def network(self) -> VGG16Network | TrainableTop:
        """Return the network, to load weights into."""
        network = VGG16Network(empty_convolutions(self.batch_norm), self.image_size, self.classes)
        return network if self.full else network.upper


class VGG16:
    """The photo, by VGG16 trained on the catalogue."""

    name: ClassVar[str] = "vgg16"
    modality: ClassVar[str] = "photo"
    cheap: ClassVar[bool] = False
    pod: ClassVar[str] = "elastic"
    seeded: ClassVar[bool] = True
    extractors: tuple[str, ...] = (MapExtractor.name,)  # pixels where weights are random, see plan.py

    def __init__(self, network: VGG16Network | TrainableTop, config: VGG16Config) -> None:
        self.network, self.config = network.eval(), config

    @classmethod
    def settings(cls, config: TrainingConfig) -> Strict:
        # the features say which pretrained weights they were made with
        weights = Weights.RANDOM if config.photo.weights is Weights.RANDOM else Weights.IMAGENET
        return replace(config.photo, weights_file="", weights=weights, revision="")

    @classmethod
    def fit(cls, settings: Strict, data: TrainingData, context: FitContext) -> FitResult:
        assert isinstance(settings, PhotoConfig)
        return _VGG16Fit(settings, data, context).run()

    @torch.inference_mode()
    def logits_and_embedding(self, arrays: Mapping[str, NDArray]) -> tuple[NDArray, NDArray]:
        device = next(self.network.parameters()).device
        inputs = [arrays["pixels"]] if self.config.full else [arrays["photo"][:, :BACKBONE_FEATURES], arrays["maps"]]
        head = self.network.upper.head if isinstance(self.network, VGG16Network) else self.network.head

        def compute(start: int, end: int) -> None:
            tensors = [torch.from_numpy(np.ascontiguousarray(array[start:end])).to(device) for array in inputs]
            with autocast(device):
                self.network(*tensors)

        with capture_inputs(head.linear) as embeddings:
            list(MicrobatchRunner(batch_size(device), "photos").iter_chunks(len(inputs[0]), compute))
        embedding = torch.cat(embeddings)
        logits = dense_product(embedding, head.linear.weight.T) + head.linear.bias
        return logits.cpu().numpy(), embedding.cpu().numpy()

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.contiguous() for name, tensor in self.network.state_dict().items()}
        save_file(tensors, folder / WEIGHTS)
        (folder / CONFIG).write_text(json.dumps(asdict(self.config)))

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> Self:
        config = VGG16Config(**json.loads((folder / CONFIG).read_text()))
        network = config.network()
        network.load_state_dict(load_file(folder / WEIGHTS))
        network = network.to(device)
        return cls(network.freeze() if isinstance(network, VGG16Network) else network.requires_grad_(False), config)


class _VGG16Fit(HeldOutFit[VGG16Network | TrainableTop]):
    def __init__(self, config: PhotoConfig, data: TrainingData, context: FitContext) -> None:
        self.config, self.full = config, config.weights is Weights.RANDOM
        super().__init__(config, data, context, PixelExtractor.name if self.full else MapExtractor.name)

    def new_network(self, suffix: str, rows: NDArray) -> VGG16Network | TrainableTop:
        if self.full:
            self.architecture = VGG16Config(True, True, self.config.image_size, self.data.classes)
            network = VGG16Network(random_convolutions(), self.config.image_size, self.data.classes)
            return network.to(self.context.device)
        backbone = load_saved_backbone(self.extractor_folder, torch.device("cpu"))
        assert isinstance(backbone, VGG16Backbone)
        self.architecture = VGG16Config(False, backbone.batch_norm, backbone.image_size, self.data.classes)
        upper = self.architecture.network()
        assert isinstance(upper, TrainableTop)
        upper.block.load_state_dict(backbone.network.upper.block.state_dict())
        return upper.requires_grad_(True).to(self.context.device)

    def phases(self, network: VGG16Network | TrainableTop, rows: NDArray) -> list[Phase]:
        rate, epochs, size = self.config.learning_rate, self.config.epochs, batch_of(self.config.batch_size, len(rows))

        def phase(name: str, part: nn.Module, read: Callable, epochs: int, rate: float) -> Phase:
            examples = Examples(self.data.labels, partial(read, self.arrays))
            schedule = Schedule(epochs, size, PATIENCE, LABEL_SMOOTHING)
            optimizer = torch.optim.AdamW(part.parameters(), lr=rate, weight_decay=WEIGHT_DECAY)
            return Phase(name, part, examples, schedule, optimizer)

        if isinstance(network, VGG16Network):
            epochs = epochs or epochs_from_scratch(len(self.train_rows), self.context.device)
            return [phase("VGG16", network, read_pixels, epochs, rate or 5e-4)]
        return [
            phase("VGG16 head", network.head, read_head_inputs, epochs or 30, rate or 1e-3),
            phase("VGG16 block 5", network, read_top_inputs, self.config.fine_tune_epochs, 5e-5),
        ]

    def member(self, network: VGG16Network | TrainableTop) -> VGG16:
        return VGG16(network, self.architecture)


def batch_of(wanted: int, photos: int) -> int:
    """Return the least batch size from `wanted` on whose last batch has a photo for each process, and two in all.

    Batch norm cannot train on one photo. Raises ValueError if there are too few photos.
    """
    least = max(2, world_size())
    if photos < least or wanted < least:
        raise ValueError(
            f"{photos} photos to train on in batches of {wanted} are too few for {world_size()} processes: set "
            "RAKUTEN_PHOTO_GPUS times RAKUTEN_PHOTO_NODES to fewer, or photo.batch_size to more"
        )
    return next(size for size in count(wanted) if not 0 < photos % size < least)


def epochs_from_scratch(photos: int, device: torch.device) -> int:
    """Return 30 on a GPU, else as many as FORWARD_BUDGET allows, from 2 to 30."""
    return 30 if device.type == "cuda" else min(30, max(2, round(FORWARD_BUDGET / photos)))


def read_pixels(arrays: ShardArrays, rows: NDArray, augment: Callable[[], float] | None) -> tuple[Tensor]:
    """(B,) rows -> (B, S, S, 3) uint8 prepared photos, to train the whole network on"""
    pixels = arrays.take("pixels", rows)
    return (torch.from_numpy(random_flip_and_shift(pixels, augment) if augment else pixels),)


def read_head_inputs(arrays: ShardArrays, rows: NDArray, augment: object) -> tuple[Tensor, Tensor]:
    """(B,) rows -> (B, BACKBONE_FEATURES), (B, TOP_FEATURES) fp16 of the frozen backbone, without augmentation"""
    photo = torch.from_numpy(arrays.take("photo", rows))
    return photo[:, :BACKBONE_FEATURES], photo[:, BACKBONE_FEATURES:]


def read_top_inputs(arrays: ShardArrays, rows: NDArray, augment: object) -> tuple[Tensor, Tensor]:
    """(B,) rows -> (B, BACKBONE_FEATURES), (B, 512, S / 16, S / 16) fp16 of the frozen blocks, without augmentation"""
    photo, maps = (torch.from_numpy(arrays.take(name, rows)) for name in ("photo", "maps"))
    return photo[:, :BACKBONE_FEATURES], maps


def random_flip_and_shift(pixels: NDArray, random: Callable[[], float]) -> NDArray:
    """Mirror each photo or not, and shift it by up to an eighth of its size, filled with white. (B, S, S, 3)"""
    image_size = pixels.shape[1]
    margin = image_size // MAX_SHIFT_DIVISOR
    padded = np.pad(pixels, ((0, 0), (margin, margin), (margin, margin), (0, 0)), constant_values=255)
    out = np.empty_like(pixels)
    for photo, source in zip(out, padded, strict=True):
        y, x = (int(random() * (2 * margin + 1)) for _ in range(2))
        window = source[y : y + image_size, x : x + image_size]
        photo[:] = window[:, ::-1] if random() < 0.5 else window
    return out
