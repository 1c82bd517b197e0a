from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import nn
from torchvision.models import ConvNeXt, DenseNet, ResNet, VisionTransformer
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.resnet import BasicBlock

from rakuten_tasks.models import explanation
from rakuten_tasks.models.backbones.frozen import Description, FrozenBackbone, Normalised
from rakuten_tasks.models.explanation import HeatMap, heat_map, member_shares, word_importance
from rakuten_tasks.models.extractors import PhotoExtractor
from rakuten_tasks.models.linear_model import LinearClassifier
from rakuten_tasks.models.members.linear import Photo, Standardizer
from rakuten_tasks.models.pool import Logits, Pool
from rakuten_tasks.models.predictor import Predictor
from rakuten_tasks.preprocessing import photos
from rakuten_tasks.preprocessing.product import Product
from tests.support.bundles import RANDOM, make_pool, write_bundle
from tests.support.catalogues import photo_bytes


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor.load(write_bundle(tmp_path_factory.mktemp("bundle")))


def logits_of(said: Mapping[str, Sequence[Sequence[float]]], missing: tuple[str, ...] = ()) -> Logits:
    arrays = {name: np.array(scores, np.float32) for name, scores in said.items()}
    return Logits(arrays, {name: np.full(len(a), name not in missing) for name, a in arrays.items()})


def test_a_share_is_the_members_part_of_the_pools_log_odds():
    pool = Pool(
        {"bag": "text", "lstm": "text", "photo": "photo"},
        {"text": {"bag": 1, "lstm": 1}, "photo": {"photo": 1}, "text+photo": {"bag": 2, "lstm": 1, "photo": 0.5}},
        {"bag": 1, "lstm": 1, "photo": 1},
        [0.25] * 4,
    )
    said = {"bag": [[3, 0, 0, 0]], "lstm": [[0, 1, 1, 1]], "photo": [[5, 1, 1, 1]]}
    logits = logits_of(said)
    shares = member_shares(logits, pool, pool.probabilities(logits))
    # 2 * 3 of the bag and 0.5 * 4 of the photo; the LSTM speaks against the class
    assert {name: share.tolist() for name, share in shares.items()} == {"bag": [0.75], "lstm": [0], "photo": [0.25]}


def test_shares_sum_to_one_where_anything_is_available(predictor):
    asked = [Product("Roman", "Un livre", photo_bytes(1)), Product("Drone"), Product(photo=photo_bytes(2)), Product()]
    logits, _ = predictor.logits(asked)
    shares = member_shares(logits, predictor.pool, predictor.pool.probabilities(logits))
    np.testing.assert_allclose(sum(shares.values()), [1, 1, 1, 0])
    assert (shares["vgg16"][1], shares["vgg16"][2]) == (0, 1)
    assert min(share.min() for share in shares.values()) >= 0


def test_of_one_class_alone_nothing_is_divided_by_zero():
    pool = make_pool({"bag": "text"}, 1)
    logits = logits_of({"bag": [[2], [-1]]})
    assert member_shares(logits, pool, pool.probabilities(logits))["bag"].tolist() == [1, 0]


@pytest.mark.parametrize("photo", [None, photo_bytes(3)])
def test_a_words_importance_is_the_fall_of_the_pools_log_probability_without_it(predictor, photo):
    product = Product("Drone", "avec caméra avec batterie", photo)
    scores = predictor.score([product])
    code, column = int(scores.predicted[0]), int(scores.probabilities[0].argmax())
    found = word_importance(predictor, product, code)
    assert found
    assert [weight for _, weight in found] == sorted((weight for _, weight in found), reverse=True)
    word = found[0][0]
    left = Product(product.designation.replace(word, ""), product.description.replace(word, ""), photo)
    full, without = predictor.score([product, left]).probabilities[:, column]
    assert found[0][1] == pytest.approx(np.log(full / without), abs=1e-4)


def test_without_words_or_text_members_no_word_is_important(predictor, tmp_path):
    assert [word for word, _ in word_importance(predictor, Product("drone"), 10)] in ([], ["drone"])
    assert word_importance(predictor, Product(photo=photo_bytes(1)), 10) == []
    only_photo = Predictor.load(write_bundle(tmp_path / "bundle", members=["vgg16"]))
    assert word_importance(only_photo, Product("drone", "", photo_bytes(1)), 10) == []


def test_the_photo_is_looked_at_once_and_long_texts_a_few_readings_at_a_time(predictor, monkeypatch):
    read: list[list[int]] = []
    prepared: list[int] = []
    whole, prepare = Predictor.logits, photos.prepare_photo

    def counted(self, products, members):
        read.append([len(product.designation) + len(product.description) for product in products])
        return whole(self, products, members)

    monkeypatch.setattr(Predictor, "logits", counted)
    monkeypatch.setattr(
        photos, "prepare_photo", lambda data, image_size: prepared.append(image_size) or prepare(data, image_size)
    )
    words = " ".join(f"mot{number}" for number in range(4000))
    word_importance(predictor, Product(words, words, photo_bytes(1)), predictor.codes[0])
    assert sum(map(len, read)) == 62  # the photo, the text, and the text without each of 60 words
    assert max(map(len, read)) <= 16
    assert max(max(lengths) for lengths in read) <= 2000
    assert prepared == [32]


def assert_lies_on_the_object(found: HeatMap | None, shape: tuple[int, int]) -> None:
    assert found is not None
    assert found.heat.shape == shape
    assert (found.heat.min() >= 0, found.heat.max()) == (True, 1)
    left, upper, right, lower = found.square
    assert (left, upper) == (pytest.approx(0.24, abs=0.01), pytest.approx(0.24, abs=0.01))
    assert (right, lower) == (pytest.approx(0.52, abs=0.02), pytest.approx(0.52, abs=0.02))


@pytest.mark.parametrize("members", [["vgg16"], ["bag", "photo"], ["photo", "vgg16"]])
def test_the_heat_lies_where_the_object_is_whichever_member_looks(tmp_path, members):
    predictor = Predictor.load(write_bundle(tmp_path / "bundle", members=members))
    found = [heat_map(predictor, photo_bytes(1, 200), code) for code in predictor.codes]
    # weights are random: there may be a class for which no part of the photo speaks
    assert_lies_on_the_object(next(heat for heat in found if heat and heat.heat.max() > 0), (8, 8))
    for member in predictor.members.values():
        if hasattr(member, "network"):
            assert member.network.training is False
            assert all(parameter.grad is None for parameter in member.network.parameters())


def test_without_a_photo_member_there_is_no_heat_map(tmp_path):
    predictor = Predictor.load(write_bundle(tmp_path / "bundle", members=["bag"]))
    assert heat_map(predictor, photo_bytes(1), 10) is None


def test_of_two_photo_members_the_heavier_one_is_explained(tmp_path):
    predictor = Predictor.load(write_bundle(tmp_path / "bundle", members=["bag", "photo", "vgg16"]))
    pool, said = predictor.pool, []
    for heavy, light in (("photo", "vgg16"), ("vgg16", "photo")):
        pool.weights["text+photo"] |= {heavy: 2.0, light: 0.1}
        said.append([heat_map(predictor, photo_bytes(1, 200), code).heat for code in predictor.codes])
    assert not np.array_equal(said[0], said[1])
    assert explanation._heaviest_photo_member(pool) == "vgg16"


def predictor_on(network: nn.Module, image_size: int) -> Predictor:
    """Its one member is a linear classifier on this network's features, drawn at random."""
    wrapped = Normalised(network, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    with torch.no_grad():
        size = wrapped.eval()(torch.zeros(1, image_size, image_size, 3, dtype=torch.uint8)).shape[1]
    backbone = FrozenBackbone(wrapped, Description("torchvision:test", size, image_size, RANDOM), 1)
    scaler = Standardizer(np.zeros(size, np.float32), np.ones(size, np.float32), True)
    member = Photo(LinearClassifier(torch.zeros(0, 2), torch.randn(size, 2), torch.zeros(2)), None, scaler)
    return Predictor(
        [1, 2], make_pool({"photo": "photo"}, 2), {"photo_features": PhotoExtractor(backbone)}, {"photo": member}
    )


def red_in_the_corner(image_size: int = 200) -> bytes:
    image = Image.new("RGB", (image_size, image_size), (200, 200, 200))  # no white border, which would be cut off
    ImageDraw.Draw(image).rectangle((0, 0, image_size // 3, image_size // 3), fill=(255, 0, 0))
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


class Red(nn.Module):
    """Two convolutions, the first of which lets redness through, then its mean and that of its opposite."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 2, 1, bias=False), nn.Conv2d(2, 2, 4, 4, bias=False)
        self.relu = nn.ReLU(inplace=True)
        with torch.no_grad():
            self.first.weight[:] = torch.tensor([[1.0, -1.0, -1.0], [-1.0, 1.0, 1.0]])[:, :, None, None]
            self.second.weight[:] = torch.eye(2)[:, :, None, None] / 16

    def forward(self, photos: torch.Tensor) -> torch.Tensor:
        return self.relu(self.second(self.first(photos))).mean((2, 3))


def test_of_any_convolutional_backbone_the_heat_is_where_the_evidence_is():
    predictor = predictor_on(Red(), 32)
    member: Any = predictor.members["photo"]
    member.classifier.weight[:] = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    heat = heat_map(predictor, red_in_the_corner(), 1).heat
    assert heat.shape == (8, 8)
    assert (heat[:2, :2].min() > 0.9, heat[4:, 4:].max()) == (True, 0)


NETWORKS = {
    "residual": lambda: ResNet(BasicBlock, [1, 1, 1, 1]),
    "dense": lambda: DenseNet(4, (1, 1, 1, 1), 8),  # changes its last maps in place
    "channels last in between": lambda: ConvNeXt([CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)]),
    "transformer": lambda: VisionTransformer(224, 32, 1, 2, 8, 8),
}


@pytest.mark.parametrize(
    ("name", "shape"),
    [("residual", (7, 7)), ("dense", (7, 7)), ("channels last in between", (28, 28)), ("transformer", None)],
)
def test_torchvisions_networks_give_their_last_maps_and_one_without_maps_none(name, shape):
    torch.manual_seed(0)
    predictor = predictor_on(NETWORKS[name](), 224)
    found = heat_map(predictor, red_in_the_corner(), 1)
    assert (found and found.heat.shape) == shape
