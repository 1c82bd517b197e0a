"""The photo branch: whose weights it has, and that a photo gives the same numbers however it comes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from rakuten_tasks.config import PhotoConfig, Weights
from rakuten_tasks.models.networks import vgg16_weights
from rakuten_tasks.models.networks.vgg16_blocks import (
    BACKBONE_FEATURES,
    DEVIATION,
    MEAN,
    TOP_FEATURES,
    FrozenBlocks,
    max_pool_2x2,
    mean_max_pool,
)
from rakuten_tasks.models.networks.vgg16_network import VGG16Network
from rakuten_tasks.models.networks.vgg16_weights import convolutions, empty_convolutions
from rakuten_tasks.training.hardware import autocast
from tests.support.photo_embedding import photo_embedding, photo_logits

RANDOM = PhotoConfig(weights=Weights.RANDOM)
SIDE, CLASSES, CPU = 32, 3, torch.device("cpu")
PHOTOS = np.random.default_rng(0).integers(0, 256, (5, SIDE, SIDE, 3), dtype=np.uint8)


def new_branch(config: PhotoConfig) -> VGG16Network:
    return VGG16Network(convolutions(config), SIDE, CLASSES)


@pytest.fixture(scope="module")
def branch() -> VGG16Network:
    torch.manual_seed(0)
    made = new_branch(RANDOM)
    nn.init.normal_(made.upper.head.linear.weight, std=0.1)  # zero at birth: every photo would score the same
    return made


@pytest.fixture(scope="module")
def plain() -> nn.Sequential:
    """vgg16 without batch norm, as a pretrained file holds it."""
    torch.manual_seed(1)
    return empty_convolutions(batch_norm=False)


def from_file(path: Path) -> PhotoConfig:
    return PhotoConfig(weights=Weights.FILE, weights_file=str(path), image_size=SIDE)


def test_a_photo_scores_the_same_alone_and_in_a_batch(branch: VGG16Network) -> None:
    together = photo_logits(branch, PHOTOS)
    alone = np.concatenate([photo_logits(branch, photo[None]) for photo in PHOTOS])
    assert together.shape == (5, CLASSES)
    assert np.ptp(together, axis=0).min() > 0.05  # the photos differ
    np.testing.assert_allclose(alone, together, atol=1e-4)


def test_logits_are_the_head_of_the_embedding(branch: VGG16Network) -> None:
    embedding = torch.from_numpy(photo_embedding(branch, PHOTOS))
    assert embedding.shape == (5, BACKBONE_FEATURES + TOP_FEATURES)
    with torch.inference_mode(), autocast(torch.device("cpu")):
        logits = branch.upper.head(embedding[:, :BACKBONE_FEATURES], embedding[:, BACKBONE_FEATURES:])
    np.testing.assert_allclose(logits.float().numpy(), photo_logits(branch, PHOTOS), atol=1e-5)


def test_pixels_are_normalised_as_torchvision_does(branch: VGG16Network) -> None:
    seen: dict = {}
    hook = branch.lower.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.update(maps=inputs[0]))
    photo_logits(branch, np.full((1, SIDE, SIDE, 3), 255, dtype=np.uint8))
    hook.remove()
    expected = [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    np.testing.assert_allclose(seen["maps"][0, :, 3, 7], expected, rtol=1e-5)


def test_random_weights_are_vgg16_bn() -> None:
    layers = convolutions(RANDOM)
    assert [layer.out_channels for layer in layers if isinstance(layer, nn.Conv2d)] == [
        *[64] * 2,
        *[128] * 2,
        *[256] * 3,
        *[512] * 6,
    ]
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in layers) == 13


@pytest.mark.parametrize(("kind", "whole"), [("pth", True), ("safetensors", False)])
def test_weights_of_a_file_are_used_exactly(plain: nn.Sequential, tmp_path: Path, kind: str, whole: bool) -> None:
    state = {("features." if whole else "") + name: tensor for name, tensor in plain.state_dict().items()}
    if whole:
        state["classifier.0.bias"] = torch.zeros(4096)
    path = tmp_path / f"vgg16.{kind}"
    torch.save(state, path) if kind == "pth" else save_file(state, path)
    branch = new_branch(from_file(path))
    held = [layer for block in (*branch.lower.blocks, branch.upper.block) for layer in block]
    kept = [layer for layer in plain if not isinstance(layer, nn.MaxPool2d)]
    for ours, theirs in zip(held, kept, strict=True):
        for name, tensor in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[name], tensor)


def test_block_5_sees_what_it_sees_in_torchvision(plain: nn.Sequential, tmp_path: Path) -> None:
    path = tmp_path / "vgg16.pth"
    torch.save(plain.state_dict(), path)
    branch = new_branch(from_file(path))
    normalised = (torch.from_numpy(PHOTOS).permute(0, 3, 1, 2) - branch.lower.mean) / branch.lower.deviation
    with torch.inference_mode():
        maps = plain[:-1](normalised)
    expected = torch.cat((maps.mean((2, 3)), maps.amax((2, 3))), 1)
    np.testing.assert_allclose(photo_embedding(branch, PHOTOS)[:, BACKBONE_FEATURES:], expected, rtol=2e-2, atol=1e-4)


def test_batch_norm_is_told_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "vgg16_bn.safetensors"
    save_file(empty_convolutions(batch_norm=True).state_dict(), path)
    assert isinstance(convolutions(from_file(path))[1], nn.BatchNorm2d)


def test_another_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "resnet.pth"
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, path)
    with pytest.raises(ValueError, match=r"resnet\.pth holds no weights of .*vgg16.*features\.0\.weight is missing"):
        convolutions(from_file(path))
    torch.save({"0.weight": torch.zeros(64, 1, 3, 3)}, path)
    with pytest.raises(ValueError, match=r"has shape \(64, 1, 3, 3\), wanted \(64, 3, 3, 3\)"):
        convolutions(from_file(path))


def test_a_file_that_is_no_state_dict_is_refused(tmp_path: Path) -> None:
    for name in ("broken.pth", "broken.safetensors"):
        (tmp_path / name).write_bytes(b"not weights")
        with pytest.raises(ValueError, match=rf"{name} is not a \.\w+ state dict"):
            convolutions(from_file(tmp_path / name))
    with pytest.raises(ValueError, match=r"name a \.pth or a \.safetensors file"):
        convolutions(from_file(tmp_path / "weights.bin"))


def test_auto_is_settled_before_anything_is_loaded() -> None:
    with pytest.raises(ValueError, match=r"call backbones\.resolve_weights first"):
        convolutions(PhotoConfig())


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.pth does not exist"):
        convolutions(from_file(tmp_path / "gone.pth"))


def test_imagenet_without_a_network_says_which_file_goes_where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_network(*args: object, **kwargs: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("rakuten_tasks.models.downloads.download", no_network)
    with pytest.raises(FileNotFoundError) as error:
        convolutions(PhotoConfig(weights=Weights.IMAGENET))
    assert f"vgg16-397923af.pth is not in {tmp_path}/checkpoints and was not downloaded" in str(error.value)
    assert "(no route): put it there, or give its place as photo.weights_file" in str(error.value)


def test_imagenet_weights_are_taken_from_the_cache_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, plain: nn.Sequential
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    torch.save(plain.state_dict(), tmp_path / "checkpoints" / "vgg16-397923af.pth")
    layers = convolutions(PhotoConfig(weights=Weights.IMAGENET))
    assert torch.equal(layers.state_dict()["0.weight"], plain.state_dict()["0.weight"])
    assert vgg16_weights.imagenet_weights().url.endswith("vgg16-397923af.pth")


@pytest.mark.parametrize("image_size", [3, 33, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pooling_is_what_torch_pools_at_odd_sides_too(image_size: int, dtype: torch.dtype) -> None:
    maps = torch.randn(2, 5, image_size, image_size, generator=torch.manual_seed(0)).relu().to(dtype)
    maps = maps.to(memory_format=torch.channels_last)
    with torch.inference_mode():
        assert torch.equal(max_pool_2x2(maps), torch.nn.functional.max_pool2d(maps, 2))
        means, maxima = mean_max_pool(maps).chunk(2, 1)
    assert torch.equal(maxima, maps.amax((2, 3)).float())
    torch.testing.assert_close(means, maps.float().mean((2, 3)), rtol=1e-2, atol=1e-6)


def test_features_hold_the_maxima_of_whole_maps_at_an_odd_side() -> None:
    """`max_pool_2x2` leaves the last row and column of an odd size out: a maximum there counts all the same."""
    lower = FrozenBlocks([nn.Sequential(nn.Identity())]).eval()
    pixels = torch.zeros(1, 33, 33, 3, dtype=torch.uint8)
    pixels[0, 32, 32] = 255
    with torch.inference_mode():
        features, _ = lower(pixels)
    np.testing.assert_allclose(features[0, 3:], (1 - np.array(MEAN)) / np.array(DEVIATION), rtol=1e-3)
