"""Training of the photo branch, on a dozen photos of 32 pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from rakuten_tasks.classifier.photo_training import (
    epochs_from_scratch,
    moved,
    new_branch,
    train_photo_branch,
    write_features,
)

from rakuten_tasks.classifier.arrays import ShardArrays, write_shard
from rakuten_tasks.classifier.training import Epoch
from rakuten_tasks.classifier.vgg16 import EARLY, PhotoBranch, photo_logits
from rakuten_tasks.classifier.vgg16_weights import empty_convolutions
from rakuten_tasks.config import PhotoConfig, Weights
from tests.photo_embedding import photo_embedding

SIDE, CODES, CPU = 32, [10, 20], torch.device("cpu")
SIDES = np.array([0, 0, 0, 0, 0, 1, 1, 2, 3], dtype=np.uint8)
SCRATCH = PhotoConfig(side=SIDE, epochs=1, batch_size=2)  # 5 photos: a last batch of one would stop batch norm
LABELS = np.arange(len(SIDES)) % 2


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """vgg16 without batch norm, as a pretrained file holds it."""
    path = tmp_path_factory.mktemp("weights") / "vgg16.pth"
    torch.manual_seed(1)
    torch.save(empty_convolutions(batch_norm=False).state_dict(), path)
    return path


def photos() -> NDArray:
    return np.random.default_rng(0).integers(0, 256, (len(SIDES), SIDE, SIDE, 3), dtype=np.uint8)


def shard(path: Path, pixels: NDArray) -> Path:
    write_shard(path, {"row": np.arange(len(pixels)), "label": LABELS, "side": SIDES, "pixels": pixels})
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[PhotoBranch, list[Epoch]]:
    """One epoch from random weights."""
    return train_photo_branch([shard(tmp_path_factory.mktemp("all") / "photos", photos())], CODES, SCRATCH, 3, CPU)


def test_held_out_photos_change_nothing_and_the_same_seed_gives_the_same_weights(
    trained: tuple[PhotoBranch, list[Epoch]], tmp_path: Path
) -> None:
    garbled = photos()
    garbled[SIDES >= 2] = 0
    again, epochs = train_photo_branch([shard(tmp_path / "photos", garbled)], CODES, SCRATCH, 3, CPU)
    assert epochs[0].train_loss == trained[1][0].train_loss
    for name, tensor in trained[0].state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_random_weights_all_learn(trained: tuple[PhotoBranch, list[Epoch]]) -> None:
    torch.manual_seed(3)
    untrained = new_branch(SCRATCH, len(CODES))
    for ours, theirs in zip(trained[0].parameters(), untrained.parameters(), strict=True):
        assert not torch.equal(ours, theirs)


def test_cached_features_are_the_live_ones(weights: Path, tmp_path: Path) -> None:
    config = PhotoConfig(Weights.FILE, str(weights), side=SIDE, epochs=2)
    write_features(shard(tmp_path / "photos", photos()), tmp_path / "features", config)
    cached = ShardArrays([tmp_path / "features"])
    branch, epochs = train_photo_branch([tmp_path / "features"], CODES, config, 3, CPU)
    live = photo_embedding(branch, photos())
    assert np.array_equal(live[:, :EARLY], cached.column("early"))
    assert np.array_equal(live[:, EARLY:], cached.column("late"))
    assert cached.column("early").dtype == np.float16
    assert np.array_equal(cached.column("side"), SIDES)
    assert len(epochs) == 2


def test_fine_tuning_goes_on_from_the_head_and_moves_block_5_alone(weights: Path, tmp_path: Path) -> None:
    config = PhotoConfig(Weights.FILE, str(weights), side=SIDE, epochs=2, fine_tune_epochs=1)
    write_features(shard(tmp_path / "photos", photos()), tmp_path / "features", config)
    told: list[Epoch] = []
    branch, epochs = train_photo_branch([tmp_path / "features"], CODES, config, 3, CPU, told.append)
    assert told == epochs
    assert [epoch.number for epoch in epochs] == [1, 2, 3]
    held = torch.load(weights)
    assert torch.equal(branch.lower.blocks[3][0].weight, held["17.weight"])
    assert not torch.equal(branch.upper.block[0].weight, held["24.weight"])
    # what was trained on cached maps answers for live photos: validation A scores as the last epoch said
    logits = torch.from_numpy(photo_logits(branch, photos()[SIDES == 1]))
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(LABELS[SIDES == 1]))
    assert loss.item() == pytest.approx(epochs[2].valid_loss, abs=1e-4)


def test_a_shard_without_photos_gives_an_empty_shard(weights: Path, tmp_path: Path) -> None:
    config = PhotoConfig(Weights.FILE, str(weights), side=SIDE, fine_tune_epochs=1)
    empty = {"row": np.empty(0, np.int64), "label": np.empty(0, np.int64), "side": np.empty(0, np.uint8)}
    write_shard(tmp_path / "photos", empty | {"pixels": photos()[:0]})
    write_features(tmp_path / "photos", tmp_path / "features", config)
    assert ShardArrays([tmp_path / "features"]).column("maps").shape == (0, 512, 2, 2)


def test_too_few_photos_leave_a_branch_that_gives_every_class_alike(tmp_path: Path) -> None:
    arrays = {"row": np.arange(2), "label": np.array([0, 1]), "side": np.array([0, 3], dtype=np.uint8)}
    write_shard(tmp_path / "a", arrays | {"pixels": photos()[:2]})
    branch, epochs = train_photo_branch([tmp_path / "a"], CODES, SCRATCH, 3, CPU)
    logits = photo_logits(branch, photos()[:2])
    assert epochs == []
    assert np.ptp(logits, axis=1) == pytest.approx(0, abs=0.05)  # the bias alone


def test_a_moved_photo_is_shifted_or_mirrored_with_white_around() -> None:
    photo = np.zeros((1, 16, 16, 3), dtype=np.uint8)
    photo[0, :, 8:] = 100
    assert np.array_equal(moved(photo, lambda: 0.5), photo)  # the middle of the reach, not mirrored
    mirrored = moved(photo, iter([0.5, 0.5, 0.1]).__next__)
    assert np.array_equal(mirrored, photo[:, :, ::-1])
    shifted = moved(photo, iter([0.999, 0.5, 0.9]).__next__)  # two pixels up
    assert np.array_equal(shifted[:, :14], photo[:, 2:])
    assert (shifted[:, 14:] == 255).all()


@pytest.mark.parametrize(("photos", "epochs"), [(40, 30), (430, 8), (1750, 2), (70_000, 2)])
def test_small_catalogues_get_more_epochs(photos: int, epochs: int) -> None:
    assert epochs_from_scratch(photos, CPU) == epochs
    assert epochs_from_scratch(photos, torch.device("cuda")) == 30
