"""The same bits for a product alone, among others, after saving and loading, and from features that were kept."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from rakuten_tasks.models.bundle import EXTRACTORS_FOLDER, MEMBERS_FOLDER
from rakuten_tasks.models.predictor import Predictor, Scores, pool_logits
from rakuten_tasks.models.scoring import score_features
from rakuten_tasks.preprocessing.feature_shards import write_shard
from rakuten_tasks.preprocessing.photo_format import PhotoError
from rakuten_tasks.preprocessing.product import Product
from tests.support.bundles import CPU, ENCODED, TEXTS, write_bundle
from tests.support.catalogues import photo_bytes

WORDS = " ".join(f"{title} {description}" for title, description in TEXTS).split()
COUNT = 70  # more than a batch


def mixed_products() -> list[Product]:
    """Text alone, photo alone, both, nothing, in turn; titles of 1 to 12 words, descriptions of up to 200."""
    draw = random.Random(0)
    made = []
    for number in range(COUNT):
        title, description = (" ".join(draw.choices(WORDS, k=draw.choice(k))) for k in ((1, 3, 12), (0, 3, 20, 200)))
        photo = photo_bytes(number, draw.randint(40, 120))
        kinds = (Product(title, description), Product(photo=photo), Product(title, description, photo), Product())
        made.append(kinds[number % 4])
    return made


PRODUCTS = mixed_products()


@pytest.fixture(scope="module", params=[(*ENCODED, "vgg16"), ("bag", "photo", "vgg16")], ids=["whole", "tuned"])
def predictor(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor.load(write_bundle(tmp_path_factory.mktemp("bundle"), members=request.param), CPU)


@pytest.fixture(scope="module")
def scores(predictor: Predictor) -> Scores:
    return predictor.score(PRODUCTS)


def test_the_products_are_of_every_kind_and_the_pool_tells_them_apart(scores: Scores):
    kinds = [["text"], ["photo"], ["text", "photo"], []]
    assert [scores.modalities(row) for row in range(4)] == kinds
    np.testing.assert_allclose(scores.probabilities.sum(1), 1)
    assert scores.probabilities[3].tolist() == [0.25] * 4
    assert len(np.unique(scores.probabilities, axis=0)) > COUNT // 2


def assert_same_bits(found: Scores, wanted: Scores, rows: Sequence[int]) -> None:
    np.testing.assert_array_equal(found.probabilities, wanted.probabilities[rows])
    for name, alone in wanted.by_member.items():
        np.testing.assert_array_equal(found.by_member[name], alone[rows], name)


def test_a_product_alone_gets_the_same_bits_as_among_others(predictor: Predictor, scores: Scores):
    for row, product in enumerate(PRODUCTS):
        assert_same_bits(predictor.score([product]), scores, [row])


def test_the_order_and_the_neighbours_change_no_bit(predictor: Predictor, scores: Scores):
    rows = random.Random(1).sample(range(COUNT), 23)
    assert_same_bits(predictor.score([PRODUCTS[row] for row in rows]), scores, rows)


def test_saving_and_loading_change_no_bit(predictor: Predictor, scores: Scores, tmp_path: Path):
    for name, extractor in predictor.extractors.items():
        extractor.save(tmp_path / EXTRACTORS_FOLDER / name)
    for name, member in predictor.members.items():
        member.save(tmp_path / MEMBERS_FOLDER / name)
    again = Predictor.assemble(
        predictor.codes,
        predictor.pool,
        {name: member.extractors for name, member in predictor.members.items()},
        tmp_path / EXTRACTORS_FOLDER,
        {name: tmp_path / MEMBERS_FOLDER / name for name in predictor.members},
        CPU,
    )
    assert_same_bits(again.score(PRODUCTS), scores, range(COUNT))


def test_features_that_were_kept_give_the_same_bits(predictor: Predictor, scores: Scores, tmp_path: Path):
    numbers = np.arange(COUNT) * 3 + 5  # the catalogue's row numbers
    features: dict[str, list[Path]] = {name: [] for name in predictor.extractors}
    for name, extractor in predictor.extractors.items():
        for part, places in enumerate((range(40), range(40, COUNT))):
            there = [place for place in places if extractor.available(PRODUCTS[place])]
            arrays = extractor.extract([PRODUCTS[place] for place in there])
            path = tmp_path / f"{name}-{part}.safetensors"
            write_shard(path, {"row": numbers[there], **arrays})
            features[name].append(path)
    logits, embeddings = score_features(predictor.members, features, numbers, len(predictor.codes))
    assert_same_bits(pool_logits(logits, predictor.pool, predictor.codes), scores, range(COUNT))
    _, live = predictor.score_with_embeddings(PRODUCTS)
    for modality, embedding in live.items():
        np.testing.assert_array_equal(embeddings[modality], embedding, modality)


def test_bytes_that_are_no_photo_are_refused(predictor: Predictor):
    with pytest.raises(PhotoError):
        predictor.score([Product("Roman", "", b"no photo")])
