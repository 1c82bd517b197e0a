"""VGG16 in int8: calibrated, saved, the same everywhere and for a photo alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from rakuten_tasks.config import Precision
from rakuten_tasks.models.backbones import load_saved_backbone
from rakuten_tasks.models.backbones.frozen import Description
from rakuten_tasks.models.backbones.frozen_vgg16 import VGG16Backbone
from rakuten_tasks.models.networks import int8
from rakuten_tasks.models.networks.onednn import int8_convolution, is_int8_supported
from rakuten_tasks.models.networks.vgg16_blocks import BACKBONE_FEATURES, TOP_FEATURES, Convolutions
from rakuten_tasks.models.networks.vgg16_weights import random_convolutions
from rakuten_tasks.models.pretrained import PretrainedWeights

CPU = torch.device("cpu")
PHOTOS = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
INT8 = pytest.mark.skipif(not is_int8_supported(CPU), reason="this processor has no int8")


@pytest.fixture(scope="module", params=[False, True], ids=["vgg16", "vgg16_bn"])
def backbone(request: pytest.FixtureRequest) -> VGG16Backbone:
    torch.manual_seed(0)
    layers = random_convolutions(request.param).train()
    layers(torch.randn(4, 3, 32, 32))  # gives batch norm something to subtract
    weights = PretrainedWeights("vgg16", "random numbers", "NONE", "random")
    size = BACKBONE_FEATURES + TOP_FEATURES
    description = Description("vgg16", size, 64, weights, {"batch_norm": request.param}, Precision.FLOAT32)
    return VGG16Backbone(Convolutions(layers, 64), description, CPU)


@pytest.fixture(scope="module")
def quantised(backbone: VGG16Backbone) -> VGG16Backbone:
    return backbone.quantise(PHOTOS)


def relative_error(expected: NDArray, features: NDArray) -> float:
    expected, features = expected.astype(float), features.astype(float)
    return float(np.linalg.norm(features - expected) / np.linalg.norm(expected))


def test_features_in_int8_are_nearly_those_in_fp32(backbone: VGG16Backbone, quantised: VGG16Backbone) -> None:
    expected, features = backbone.features(PHOTOS), quantised.features(PHOTOS)
    assert 0 < relative_error(expected, features) < 0.03
    assert np.array_equal(backbone.features(PHOTOS), expected)  # which quantise does not change
    assert backbone.description.precision is Precision.FLOAT32


def test_a_photo_has_the_same_bits_alone_and_in_a_batch(quantised: VGG16Backbone) -> None:
    alone = np.concatenate([quantised.features(photo[None]) for photo in PHOTOS])
    assert np.array_equal(alone, quantised.features(PHOTOS))


def test_a_saved_backbone_has_the_scales_and_gives_the_same_bits(quantised: VGG16Backbone, tmp_path: Path) -> None:
    quantised.save(tmp_path)
    saved = json.loads((tmp_path / "backbone.json").read_text())
    assert (saved["precision"], len(saved["architecture"]["scales"])) == ("int8", 12)
    assert np.array_equal(load_saved_backbone(tmp_path, CPU).features(PHOTOS), quantised.features(PHOTOS))


@INT8
def test_without_the_instructions_the_numbers_are_nearly_the_same(
    quantised: VGG16Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantised.save(tmp_path)
    monkeypatch.setattr(int8, "is_int8_supported", lambda device: False)
    slow = load_saved_backbone(tmp_path, CPU)
    assert relative_error(quantised.features(PHOTOS), slow.features(PHOTOS)) < 0.005


def test_scales_are_the_largest_inputs_of_the_convolutions(backbone: VGG16Backbone) -> None:
    inputs: list[float] = []
    layers = [layer for layer in backbone.network.modules() if isinstance(layer, nn.Conv2d)][1:]
    hooks = [layer.register_forward_pre_hook(lambda _, args: inputs.append(args[0].max().item())) for layer in layers]
    with torch.inference_mode():
        for photo in PHOTOS[:2]:
            backbone.network(torch.from_numpy(photo[None]))
    for hook in hooks:
        hook.remove()
    highest = np.reshape(inputs, (2, 12)).max(0)
    np.testing.assert_allclose(int8.calibrate(backbone.network, PHOTOS[:2]), highest / 255, rtol=1e-6)


def test_grad_cam_has_gradients_of_the_float_network(backbone: VGG16Backbone, quantised: VGG16Backbone) -> None:
    photos = torch.from_numpy(PHOTOS[:1])
    with torch.enable_grad():
        assert torch.equal(quantised.network(photos), backbone.network(photos))


def test_without_photos_there_is_no_calibration(backbone: VGG16Backbone) -> None:
    with pytest.raises(ValueError, match=r"int8 is calibrated on training photos, and there are none"):
        backbone.quantise(PHOTOS[:0])


@INT8
@pytest.mark.parametrize("output_scale", [40.0, None])
def test_onednns_convolution_is_that_of_the_integers(output_scale: float | None) -> None:
    """Contract of the private names: scales, padding, ReLU, rounding and saturation."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.randint(0, 256, (2, 16, 6, 6), generator=generator, dtype=torch.uint8)
    weight = torch.randint(-127, 128, (8, 16, 3, 3), generator=generator, dtype=torch.int8)
    scales, bias = torch.rand(8, generator=generator), 100 * torch.randn(8, generator=generator)
    maps = maps.contiguous(memory_format=torch.channels_last)
    convolution = int8_convolution(weight, scales, bias, [1, 1], 0.5, output_scale)
    sums = torch.nn.functional.conv2d(maps.double(), weight.double(), padding=1)
    expected = (sums * (0.5 * scales.double()).view(-1, 1, 1) + bias.view(-1, 1, 1)).relu()
    if output_scale is None:
        assert torch.equal(convolution(maps), expected.bfloat16())
    else:
        expected = (expected / output_scale).round().clamp(max=255)
        assert (expected == 255).any()
        assert (convolution(maps).double() - expected).abs().max() <= 1
