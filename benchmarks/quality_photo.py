"""Photo systems of the quality benchmark: ours, and ours without crop, augmentation or fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.quality_split import Split, photographed, pixels, write_arrays
from rakuten_tasks.classifier import photo_training, photos, training, vgg16
from rakuten_tasks.classifier.photo_training import train_photo_branch, write_features
from rakuten_tasks.classifier.training import choose_device
from rakuten_tasks.classifier.vgg16 import photo_logits
from rakuten_tasks.config import PhotoConfig, Weights

PHOTO = "photo branch"


def photo_branch(split: Split, folder: Path, config: PhotoConfig) -> NDArray:
    """(H, K) logits of the held-out rows; 0 where there is no photo."""
    at = photographed(split)
    prepared = pixels(split, at, config.pixels)
    shard = write_arrays(split, at, {"pixels": prepared}, folder / "pixels")
    if config.weights is not Weights.RANDOM:
        write_features(shard, folder / "features", config)
        shard = folder / "features"
    branch, _ = train_photo_branch([shard], split.codes, config, split.seed, choose_device())
    seen = np.isin(at, split.held_out)
    logits = np.zeros((len(split.held_out), len(split.codes)), dtype=np.float32)
    if seen.any():
        logits[np.isin(split.held_out, at)] = photo_logits(branch, prepared[seen])
    return logits


def _no_autocast(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, enabled=False)


def without_levers(split: Split, folder: Path, config: PhotoConfig) -> Iterator[tuple[str, NDArray]]:
    """The branch with one lever removed at a time, of those that this configuration has."""
    with mock.patch.object(photos, "kept_box", lambda image: (0, 0, *image.size)):
        yield f"{PHOTO}, no border crop", photo_branch(split, folder, config)
    if config.weights is Weights.RANDOM:
        with mock.patch.object(photo_training, "moved", lambda photos, random: photos):
            yield f"{PHOTO}, no augmentation", photo_branch(split, folder, config)
    with ExitStack() as in_fp32:
        for module in (training, vgg16, photo_training):
            in_fp32.enter_context(mock.patch.object(module, "autocast", _no_autocast))
        yield f"{PHOTO}, in fp32", photo_branch(split, folder, config)
    if config.fine_tune_epochs:
        yield f"{PHOTO}, no fine-tuning", photo_branch(split, folder, replace(config, fine_tune_epochs=0))
