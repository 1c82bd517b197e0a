from __future__ import annotations

import numpy as np
import pytest
import torch

from rakuten_tasks.models.networks import onednn
from rakuten_tasks.models.networks.onednn import is_supported, prepack
from rakuten_tasks.models.networks.vgg16_network import VGG16Network
from rakuten_tasks.models.networks.vgg16_weights import random_convolutions
from rakuten_tasks.training.hardware import autocast
from tests.support.photo_embedding import photo_logits

CPU = torch.device("cpu")
BF16 = pytest.mark.skipif(not is_supported(CPU), reason="this processor has no bf16")


@BF16
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("image_size", [32, 224])
def test_packed_convolutions_give_the_same_numbers_bit_for_bit(batch_norm, image_size):
    torch.manual_seed(0)
    layers = random_convolutions(batch_norm).train()
    layers(torch.randn(8, 3, 32, 32))  # gives batch norm something to subtract
    layers = layers.eval().to(memory_format=torch.channels_last)
    maps = torch.randn(3, 3, image_size, image_size).to(memory_format=torch.channels_last)
    with torch.inference_mode(), autocast(CPU):
        assert torch.equal(prepack(layers)(maps), layers(maps))


def test_the_installed_torch_is_the_one_whose_names_are_used():
    assert torch.__version__.startswith(onednn.TORCH), "check the names in onednn.py, then change TORCH"


def test_another_torch_does_without(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.15.0")
    assert not is_supported(CPU)


def branch() -> VGG16Network:
    torch.manual_seed(0)
    made = VGG16Network(random_convolutions(batch_norm=False), 64, 3)
    torch.nn.init.normal_(made.upper.head.linear.weight)
    return made.eval()


def test_a_frozen_branch_has_the_same_logits_and_weights():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    plain, frozen = branch(), branch().freeze()
    assert np.array_equal(photo_logits(plain, pixels), photo_logits(frozen, pixels))
    with torch.inference_mode():  # without autocast fp32 is wanted, and given
        there = torch.from_numpy(pixels)
        assert torch.equal(plain(there), frozen(there))
    weights = plain.state_dict()
    assert weights.keys() == frozen.state_dict().keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in frozen.state_dict().items())


def test_what_is_frozen_is_not_trained():
    with pytest.raises(RuntimeError, match="a frozen VGG16 is not trained"):
        branch().freeze().train()
