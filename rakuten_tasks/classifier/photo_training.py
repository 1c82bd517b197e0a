"""Training of the photo branch: all of it from random weights, or a head on frozen features, then block 5."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from rakuten_tasks.classifier.arrays import ShardArrays, write_shard
from rakuten_tasks.classifier.checkpoint import INTERVAL, CheckpointStore, checkpoints_of
from rakuten_tasks.classifier.memory import BatchSize
from rakuten_tasks.classifier.ranks import SharedStore, alike, world
from rakuten_tasks.classifier.training import Epoch, Examples, Schedule, autocast, choose_device, fit
from rakuten_tasks.classifier.vgg16 import EARLY, LATE, PhotoBranch, PhotoShape, batch_size
from rakuten_tasks.classifier.vgg16_weights import convolutions
from rakuten_tasks.config import PhotoConfig, Weights

log = logging.getLogger(__name__)

TRAIN, VALIDATION_A = 0, 1  # sides, by their index in catalogue.ledger.SIDES
PATIENCE = 10  # at the peak of the learning rate validation gets worse for several epochs
LABEL_SMOOTHING = 0.1
WEIGHT_DECAY = 0.05
PASSES = 3600  # photos, forward and backward: what two cores do in about 110 s at 32 pixels
SHIFT = 8  # a training photo moves by up to an eighth of its side


def new_branch(config: PhotoConfig, classes: int) -> PhotoBranch:
    """The weights that the configuration names, under an untrained head."""
    layers = convolutions(config)
    return PhotoBranch(PhotoShape(isinstance(layers[1], nn.BatchNorm2d), config.pixels, classes), layers)


@torch.inference_mode()
def photo_features(branch: PhotoBranch, photos: ShardArrays, keep_maps: bool) -> dict[str, NDArray]:
    """What the convolutions, frozen by this, see in a shard's `pixels`, all fp16.

    early (n, EARLY) and late (n, LATE): pooled; with keep_maps also maps (n, 512, S / 16, S / 16): what block 5 reads.
    """
    device = next(branch.parameters()).device
    branch.freeze()
    shapes: dict[str, tuple[int, ...]] = {"early": (EARLY,), "late": (LATE,)}
    if keep_maps:
        shapes["maps"] = (512, branch.side // 16, branch.side // 16)
    # kept on the device until the end: copying each batch back would make a GPU wait
    features = {n: torch.empty((len(photos), *shape), dtype=torch.half, device=device) for n, shape in shapes.items()}
    read = batch_size(device)
    size = BatchSize(read, "photo features")
    for first, pixels in _read_ahead(photos, read, device):
        there = {name: kept[first : first + read] for name, kept in features.items()}
        list(size.parts(len(pixels), partial(_see, branch, pixels, there)))
    return {name: kept.cpu().numpy() for name, kept in features.items()}


def _see(branch: PhotoBranch, pixels: Tensor, features: dict[str, Tensor], start: int, end: int) -> None:
    """Fills in the features of the photos from start to end."""
    with autocast(pixels.device):
        early, maps = branch.lower(pixels[start:end])
        seen = {"early": early, "late": branch.upper.late(maps), "maps": maps}
    for name, kept in features.items():
        kept[start:end] = seen[name]


def _read_ahead(photos: ShardArrays, size: int, device: torch.device) -> Iterator[tuple[int, Tensor]]:
    """First row and `pixels` of each batch, on the device; the next one is read while this one is worked on."""

    def read(start: int) -> Tensor:
        rows = np.arange(start, min(start + size, len(photos)))
        pixels = torch.from_numpy(photos.take("pixels", rows))
        return pixels.pin_memory() if device.type == "cuda" else pixels

    with ThreadPoolExecutor(1) as reader:
        starts = range(0, len(photos), size)
        waiting = [reader.submit(read, start) for start in starts[:1]]
        for start in tqdm(starts, desc="photo features"):
            pixels = waiting.pop().result()
            if start + size < len(photos):
                waiting.append(reader.submit(read, start + size))
            yield start, pixels.to(device, non_blocking=True)


def write_features(photos: Path, out: Path, config: PhotoConfig) -> None:
    """A shard of prepared photos -> a shard of what `train_photo_branch` reads when convolutions are frozen."""
    arrays = ShardArrays([photos])
    branch = new_branch(config, classes=1).to(choose_device())  # the head is not asked
    features = photo_features(branch, arrays, keep_maps=config.fine_tune_epochs > 0)
    write_shard(out, {name: arrays.column(name) for name in ("row", "label", "side")} | features)


class PixelExamples:
    """Prepared photos, to train the whole network on."""

    def __init__(self, arrays: ShardArrays) -> None:
        self.arrays = arrays
        self.labels = arrays.column("label")

    def batch(self, rows: NDArray, augment: Callable[[], float] | None) -> tuple[Tensor, ...]:
        """(B,) rows -> (B, S, S, 3) uint8"""
        pixels = self.arrays.take("pixels", rows)
        return (torch.from_numpy(moved(pixels, augment) if augment else pixels),)


class FeatureExamples:
    """What the frozen part saw: ("early", "late") for the head, ("early", "maps") for block 5 and the head."""

    def __init__(self, arrays: ShardArrays, names: tuple[str, str]) -> None:
        self.arrays, self.names = arrays, names
        self.labels = arrays.column("label")

    def batch(self, rows: NDArray, augment: Callable[[], float] | None) -> tuple[Tensor, ...]:
        """(B,) rows -> the two arrays' rows, fp16. No augmentation: the photos are not looked at again."""
        return tuple(torch.from_numpy(self.arrays.take(name, rows)) for name in self.names)


def moved(pixels: NDArray, random: Callable[[], float]) -> NDArray:
    """Each photo mirrored or not, and shifted by up to an eighth of its side, white coming in. (B, S, S, 3)"""
    side = pixels.shape[1]
    reach = side // SHIFT
    wide = np.pad(pixels, ((0, 0), (reach, reach), (reach, reach), (0, 0)), constant_values=255)
    out = np.empty_like(pixels)
    for photo, source in zip(out, wide, strict=True):
        top, left = (int(random() * (2 * reach + 1)) for _ in range(2))
        window = source[top : top + side, left : left + side]
        photo[:] = window[:, ::-1] if random() < 0.5 else window
    return out


def train_photo_branch(
    shards: Sequence[Path],
    codes: Sequence[int],
    config: PhotoConfig,
    seed: int,
    device: torch.device,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    store: CheckpointStore | None = None,
    interval: float = INTERVAL,
) -> tuple[PhotoBranch, list[Epoch]]:
    """Trained on the training side, stopped early by validation A; the other sides are not looked at.

    shards: prepared photos where all is trained (weights: random), else what `write_features` made of them.
    Where there are too few photos to train on, its head stays as it was born and gives every class alike.
    store: an interrupted training goes on from what it keeps, and writes to it every `interval` seconds.
    Several processes (see ranks.py) each train on their share of every batch and end with the same branch; `store` is
    asked in rank 0 alone.
    """
    arrays = ShardArrays(shards)
    known = arrays.column("label") >= 0
    train, valid = (np.flatnonzero(known & (arrays.column("side") == side)) for side in (TRAIN, VALIDATION_A))
    torch.manual_seed(seed)
    branch = new_branch(config, len(codes)).to(device)
    if len(train) < 2 or not len(valid):
        log.warning(
            "%d photos to train on, %d in validation A: the photo branch stays untrained", len(train), len(valid)
        )
        return branch.eval(), []
    size = batch_of(config.batch_size, len(train))
    alike(branch)
    facts = [seed, config.to_dict(), [*codes]]
    if world() > 1:
        store, interval, facts = SharedStore(store, device), interval if store else math.inf, [*facts, world()]
    checkpoints = checkpoints_of(store, interval, facts, shards, branch.state_dict())
    epochs: list[Epoch] = []

    def count_on(epoch: Epoch) -> None:
        epochs.append(replace(epoch, number=len(epochs) + 1))
        on_epoch(epochs[-1])

    for phase in _phases(branch, arrays, config, len(train)):
        schedule = Schedule(phase.epochs, size, PATIENCE, LABEL_SMOOTHING)
        optimizer = torch.optim.AdamW(phase.part.parameters(), lr=phase.learning_rate, weight_decay=WEIGHT_DECAY)
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            fit(phase.part, phase.examples, train, valid, schedule, optimizer, seed, count_on, phase.name, checkpoints)
    return branch.eval(), epochs


def batch_of(wanted: int, photos: int) -> int:
    """The next batch size, of all processes together, whose last batch leaves a photo to each of them.

    At least two in all: batch norm cannot train on one. Raises ValueError if there are fewer photos than that.
    """
    least = max(2, world())
    if photos < least or wanted < least:
        raise ValueError(
            f"{photos} photos to train on in batches of {wanted} are too few for {world()} processes: set "
            "RAKUTEN_PHOTO_GPUS times RAKUTEN_PHOTO_NODES to fewer, or photo.batch_size to more"
        )
    return next(size for size in count(wanted) if not 0 < photos % size < least)


@dataclass(frozen=True)
class _Phase:
    name: str
    part: nn.Module
    examples: Examples
    epochs: int
    learning_rate: float  # the peak


def _phases(branch: PhotoBranch, arrays: ShardArrays, config: PhotoConfig, photos: int) -> list[_Phase]:
    if config.weights is Weights.RANDOM:
        epochs = config.epochs or epochs_from_scratch(photos, next(branch.parameters()).device)
        return [_Phase("VGG16", branch, PixelExamples(arrays), epochs, config.learning_rate or 5e-4)]
    seen = FeatureExamples(arrays, ("early", "late"))
    phases = [_Phase("VGG16 head", branch.upper.head, seen, config.epochs or 30, config.learning_rate or 1e-3)]
    if config.fine_tune_epochs:
        read_by_block5 = FeatureExamples(arrays, ("early", "maps"))
        phases.append(_Phase("VGG16 block 5", branch.upper, read_by_block5, config.fine_tune_epochs, 5e-5))
    return phases


def epochs_from_scratch(photos: int, device: torch.device) -> int:
    """On a GPU 30. On a processor about PASSES photos in all, but each from 2 to 30 times."""
    return 30 if device.type == "cuda" else min(30, max(2, round(PASSES / photos)))
