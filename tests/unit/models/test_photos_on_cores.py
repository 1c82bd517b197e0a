"""Several photos at once on a processor: each on its part of the cores, with the same bits, and no trace after it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rakuten_tasks.config import Precision
from rakuten_tasks.models.backbones.frozen import Description, FrozenBackbone, Normalised
from rakuten_tasks.models.pretrained import PretrainedWeights

WEIGHTS = PretrainedWeights("test", "random numbers", "NONE", "random")
PHOTOS = np.random.default_rng(0).integers(0, 256, (7, 16, 16, 3), dtype=np.uint8)


class Recorder(nn.Module):
    """A convolution that notes the thread, and its number of OpenMP threads, of each photo."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(3, 8, 3)
        self.seen_threads: list[tuple[int, int]] = []

    def forward(self, photos: Tensor) -> Tensor:
        assert len(photos) == 1
        assert not torch.is_grad_enabled()
        self.seen_threads.append((threading.get_ident(), torch.get_num_threads()))
        return self.convolution(photos).mean((2, 3))


@pytest.fixture(autouse=True)
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def backbone(precision: Precision) -> tuple[FrozenBackbone, Recorder]:
    network = Recorder()
    description = Description("test", 8, 16, WEIGHTS, precision=precision)
    return FrozenBackbone(Normalised(network, [0.5] * 3, [0.2] * 3), description), network


def test_photos_share_the_cores_and_the_last_one_has_them_all() -> None:
    bf16, network = backbone(Precision.BFLOAT16)
    features = bf16.features(PHOTOS)
    assert [threads for _, threads in network.seen_threads] == [1] * 4 + [1] * 3  # of 4 threads, 3 photos get one each
    assert threading.get_ident() not in dict(network.seen_threads)
    assert np.array_equal(features, np.concatenate([bf16.features(photo[None]) for photo in PHOTOS]))
    network.seen_threads.clear()
    bf16.features(PHOTOS[:2])
    assert [threads for _, threads in network.seen_threads] == [2, 2]
    network.seen_threads.clear()
    bf16.features(PHOTOS[:5])
    assert Counter(threads for _, threads in network.seen_threads) == {1: 4, 4: 1}
    assert network.seen_threads[-1] == (threading.get_ident(), 4)


def test_other_threads_keep_their_number_of_threads() -> None:
    bf16, _ = backbone(Precision.BFLOAT16)
    bf16.features(PHOTOS)
    numbers = [torch.get_num_threads()]
    thread = threading.Thread(target=lambda: numbers.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert numbers == [4, 4]


def test_fp32_whose_bits_depend_on_the_number_of_threads_has_all_of_them() -> None:
    fp32, network = backbone(Precision.FLOAT32)
    fp32.features(PHOTOS)
    assert network.seen_threads == [(threading.get_ident(), 4)] * len(PHOTOS)


def test_an_error_in_a_photo_is_raised() -> None:
    bf16, network = backbone(Precision.BFLOAT16)
    network.convolution = nn.Conv2d(4, 8, 3)
    with pytest.raises(RuntimeError, match="channels"):
        bf16.features(PHOTOS)
    assert torch.get_num_threads() == 4


def test_weights_are_in_the_layout_of_the_photos() -> None:
    _, network = backbone(Precision.AUTO)
    assert network.convolution.weight.is_contiguous(memory_format=torch.channels_last)
