"""The member `vgg16`, on a dozen photos of 32 pixels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rakuten_tasks.config import PhotoConfig, Refit, Weights
from rakuten_tasks.data.splits import BLENDING, TEST, VALIDATION
from rakuten_tasks.models.backbones import load_backbone
from rakuten_tasks.models.extractors import MapExtractor, PixelExtractor
from rakuten_tasks.models.members.member import FitContext, FitResult, TrainingData
from rakuten_tasks.models.members.vgg16 import VGG16, epochs_from_scratch, random_flip_and_shift
from rakuten_tasks.models.networks.vgg16_blocks import BACKBONE_FEATURES
from rakuten_tasks.training.state import EpochMetrics
from tests.support.photo_products import LABELS, SCRATCH, SPLITS, TUNED, data_of, photos
from tests.support.tiny_models import write_vgg16
from tests.support.training_data import CPU, assert_same


def fit(data: TrainingData, config: PhotoConfig, refit: Refit = Refit.EXCEPT_TEST) -> FitResult:
    return VGG16.fit(config, data, FitContext(3, CPU, refit))


def weights(fitted: FitResult) -> dict[str, torch.Tensor]:
    assert isinstance(fitted.member, VGG16)
    return fitted.member.network.state_dict()


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> MapExtractor:
    """Blocks 1 to 4 with weights from a file."""
    path = write_vgg16(tmp_path_factory.mktemp("weights") / "vgg16.safetensors")
    return MapExtractor(load_backbone(PhotoConfig(weights=Weights.FILE, weights_file=str(path), image_size=32), CPU))


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> FitResult:
    return fit(data_of(tmp_path_factory.mktemp("scratch"), PixelExtractor(32), photos()), SCRATCH)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, frozen: MapExtractor) -> FitResult:
    return fit(data_of(tmp_path_factory.mktemp("tuned"), frozen, photos()), TUNED)


def test_test_photos_change_nothing_and_the_same_seed_gives_the_same_weights(scratch, tmp_path):
    products, others = photos(), photos(seed=1)
    changed = [other if split == TEST else ours for ours, other, split in zip(products, others, SPLITS, strict=True)]
    labels = np.where(SPLITS == TEST, (LABELS + 1) % 3, LABELS)
    again = fit(data_of(tmp_path, PixelExtractor(32), changed, labels), SCRATCH)
    assert_same(weights(again), weights(scratch))
    assert again.logits.tobytes() == scratch.logits.tobytes()


def test_validation_and_blending_rows_are_scored_before_they_are_trained_on(scratch):
    assert SPLITS[scratch.rows].tolist() == [VALIDATION] * 2 + [BLENDING] * 2
    assert scratch.stopping.tolist() == [True, True, False, False]
    assert scratch.logits.shape == (4, 3)
    # stopped by the validation split; then trained on it too
    assert [epoch.number for epoch in scratch.epochs] == [1, 1]
    assert np.isnan(scratch.epochs[1].valid_loss)


def test_not_refitted_it_stays_as_it_was_judged(scratch, tmp_path):
    once = fit(data_of(tmp_path, PixelExtractor(32), photos()), SCRATCH, Refit.NONE)
    assert len(once.epochs) == 1
    assert once.logits.tobytes() == scratch.logits.tobytes()
    assert any(not torch.equal(tensor, weights(scratch)[name]) for name, tensor in weights(once).items())


def test_refitted_on_everything_the_last_one_has_seen_the_test_rows(scratch, tmp_path):
    whole = fit(data_of(tmp_path, PixelExtractor(32), photos()), SCRATCH, Refit.EVERYTHING)
    assert_same(weights(whole), weights(scratch))
    assert isinstance(whole.final, VGG16)
    last = whole.final.network.state_dict()
    assert any(not torch.equal(tensor, weights(scratch)[name]) for name, tensor in last.items())


def test_fine_tuning_goes_on_from_the_head_and_begins_with_the_pretrained_block(tuned, frozen):
    head, block5 = map(int, str(tuned.details["best epochs"]).split(", "))
    again = [*range(1, head + 1), *range(1, block5 + 1)]  # as many epochs as were best
    assert [epoch.number for epoch in tuned.epochs] == [1, 2, 1, *again]
    block = frozen.backbone.network.upper.block.state_dict()
    ours = {name.removeprefix("block."): t for name, t in weights(tuned).items() if name.startswith("block.")}
    assert ours.keys() == block.keys()
    moved = [(ours[name] - tensor).abs().max().item() for name, tensor in block.items()]
    assert max(moved) > 0
    assert max(moved) < 0.01  # a few steps at 5e-5


@pytest.mark.parametrize("name", ["scratch", "tuned"])
def test_a_photo_gets_the_same_answer_alone_among_others_and_from_a_saved_member(
    name: str, request: pytest.FixtureRequest, frozen: MapExtractor, tmp_path: Path
):
    member = request.getfixturevalue(name).member
    extractor = PixelExtractor(32) if name == "scratch" else frozen
    arrays = extractor.extract(photos())
    member.save(tmp_path)
    saved = VGG16.load(tmp_path, CPU)
    logits, embedding = saved.logits_and_embedding(arrays)
    assert logits.shape == (len(SPLITS), 3)
    for at in range(len(SPLITS)):
        alone, features = saved.logits_and_embedding({key: values[at : at + 1] for key, values in arrays.items()})
        assert alone[0].tobytes() == logits[at].tobytes()
        assert features[0].tobytes() == embedding[at].tobytes()
    fitted_logits, fitted_embedding = member.logits_and_embedding(arrays)
    np.testing.assert_allclose(fitted_logits, logits, atol=2e-2)
    np.testing.assert_allclose(fitted_embedding, embedding, rtol=5e-2, atol=2e-2)


def test_features_beside_the_maps_are_those_of_the_frozen_backbone(frozen):
    arrays = frozen.extract(photos())
    assert arrays["maps"].shape == (len(SPLITS), 512, 2, 2)
    pixels = PixelExtractor(32).extract(photos())["pixels"]
    assert arrays["photo"].tobytes() == frozen.backbone.features(pixels).tobytes()
    assert arrays["photo"].shape[1] > BACKBONE_FEATURES


def test_too_few_photos_are_refused_with_the_way_out(tmp_path):
    data = data_of(tmp_path, PixelExtractor(32), photos())
    data = replace(data, splits=np.where(data.splits == VALIDATION, TEST, data.splits))
    with pytest.raises(ValueError, match=r"7 rows to train on and 0 to stop on are too few for a network"):
        fit(data, SCRATCH)


def test_a_photo_that_is_moved_is_shifted_or_mirrored_with_white_around() -> None:
    photo = np.zeros((1, 16, 16, 3), dtype=np.uint8)
    photo[0, :, 8:] = 100
    assert np.array_equal(random_flip_and_shift(photo, lambda: 0.5), photo)  # the middle of the reach, not mirrored
    mirrored = random_flip_and_shift(photo, iter([0.5, 0.5, 0.1]).__next__)
    assert np.array_equal(mirrored, photo[:, :, ::-1])
    shifted = random_flip_and_shift(photo, iter([0.999, 0.5, 0.9]).__next__)  # two pixels up
    assert np.array_equal(shifted[:, :14], photo[:, 2:])
    assert (shifted[:, 14:] == 255).all()


@pytest.mark.parametrize(("count", "epochs"), [(40, 30), (430, 8), (1750, 2), (70_000, 2)])
def test_small_catalogues_get_more_epochs(count: int, epochs: int) -> None:
    assert epochs_from_scratch(count, CPU) == epochs
    assert epochs_from_scratch(count, torch.device("cuda")) == 30


def test_epochs_are_told_as_they_end(tmp_path):
    told: list[EpochMetrics] = []
    data = data_of(tmp_path, PixelExtractor(32), photos())
    fitted = VGG16.fit(SCRATCH, data, FitContext(3, CPU, Refit.NONE, on_epoch=told.append))
    assert told == fitted.epochs
