"""The same bits for a product alone, among others, after saving and loading, and from features that were kept."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.special import softmax

from rakuten_tasks.data.schema import PHOTOS, ROWS
from rakuten_tasks.data.shards import PHOTO_ROWS, TEXT_ROWS, Shard, ShardWriter
from rakuten_tasks.models.bundle import EXTRACTORS_FOLDER, MEMBERS_FOLDER
from rakuten_tasks.models.predictor import Predictor, Scores, pool_logits
from rakuten_tasks.models.scoring import score_features, score_shard
from rakuten_tasks.models.staged_logits import apply_cascade
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


THRESHOLDS = {"words": 0.86, "sentences": 0.6}
BUNDLES: dict[str, dict[str, Any]] = {
    "whole": {"members": (*ENCODED, "vgg16")},
    "tuned": {"members": ("bag", "photo", "vgg16")},
    "cascade": {"members": (*ENCODED, "vgg16"), "thresholds": THRESHOLDS},
}


@pytest.fixture(scope="module", params=list(BUNDLES))
def predictor(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor.load(write_bundle(tmp_path_factory.mktemp("bundle"), **BUNDLES[request.param]), CPU)


@pytest.fixture(scope="module")
def cascade(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor.load(write_bundle(tmp_path_factory.mktemp("bundle"), **BUNDLES["cascade"]), CPU)


@pytest.fixture(scope="module")
def scores(predictor: Predictor) -> Scores:
    return predictor.score(PRODUCTS)


def test_the_products_are_of_every_kind_and_the_pool_tells_them_apart(scores: Scores):
    kinds = [["text"], ["photo"], ["text", "photo"], []]
    assert all(set(scores.modalities(row)) <= set(kinds[row % 4]) for row in range(COUNT))
    assert all(kind in [scores.modalities(row) for row in range(COUNT)] for kind in kinds)
    np.testing.assert_allclose(scores.probabilities.sum(1), 1)
    assert scores.probabilities[3].tolist() == [0.25] * 4
    assert len(np.unique(scores.probabilities, axis=0)) > COUNT // 2


def assert_same_bits(found: Scores, wanted: Scores, rows: Sequence[int]) -> None:
    np.testing.assert_array_equal(found.probabilities, wanted.probabilities[rows])
    for name, alone in wanted.by_member.items():
        np.testing.assert_array_equal(found.by_member[name], alone[rows], name)
        np.testing.assert_array_equal(found.available[name], wanted.available[name][rows], name)


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
    complete = score_features(predictor.members, features, numbers, predictor.pool)
    logits, embeddings = apply_cascade(predictor.pool, predictor.members, *complete)
    assert_same_bits(pool_logits(logits, predictor.pool, predictor.codes), scores, range(COUNT))
    _, live = predictor.score_with_embeddings(PRODUCTS)
    for modality, embedding in live.items():
        np.testing.assert_array_equal(embeddings[modality], embedding, modality)


def test_a_settled_product_is_scored_by_the_stages_up_to_it_alone(cascade: Predictor):
    scores = cascade.score(PRODUCTS)
    last = {"words": ["bag"], "sentences": ["bag", "encoder", "bag_encoder"]}
    rows = [row for row, product in enumerate(PRODUCTS) if product.has_text and product.photo]
    members = [[name for name, mask in scores.available.items() if mask[row]] for row in rows]
    assert {len(names) for names in members} == {1, 3, 5}
    complete, _ = cascade.logits(PRODUCTS, cascade.members)
    for row, names in zip(rows, members, strict=True):
        stage = next((stage for stage in last if last[stage] == names), None)
        if stage:
            assert scores.confidence[row] >= THRESHOLDS[stage]
            total = sum(w * complete.by_member[name][row] for name, w in cascade.pool.weights[stage].items())
            np.testing.assert_allclose(scores.probabilities[row], softmax(total), rtol=1e-6)
        else:
            assert scores.modalities(row) == ["text", "photo"]
            whole = cascade.pool.probabilities(complete.take(np.array([row])))
            np.testing.assert_array_equal(scores.probabilities[row], whole[0])


def test_the_photo_of_a_settled_product_is_not_decoded(cascade: Predictor, monkeypatch: pytest.MonkeyPatch):
    scores = cascade.score(PRODUCTS)
    settled = [bool(p.photo) and "photo" not in scores.modalities(row) for row, p in enumerate(PRODUCTS)]
    read: list[Product] = []
    pixels = cascade.extractors["pixels"].extract
    monkeypatch.setattr(cascade.extractors["pixels"], "extract", lambda batch: read.extend(batch) or pixels(batch))
    cascade.score(PRODUCTS)
    assert sum(settled) > 3
    assert read == [p for row, p in enumerate(PRODUCTS) if p.photo and not settled[row]]


def test_a_shard_gets_the_same_bits_and_only_the_photos_that_are_needed_are_read(
    cascade: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    alone = cascade.score(PRODUCTS)
    needs_photo = [row for row in range(COUNT) if "photo" in alone.modalities(row)]
    settled = [row for row in range(COUNT) if row not in needs_photo]
    # 3 row groups of photos, of which the second has none that is needed; rows of text in one group and the next
    order = [*needs_photo[:9], *(settled * 4)[:200], *needs_photo[9:], *settled]
    order += [settled[0]] * (TEXT_ROWS - len(order)) + needs_photo
    shard = write_products([PRODUCTS[row] for row in order], tmp_path)
    read: list[int] = []
    read_row_group = pq.ParquetFile.read_row_group

    def watch(file: pq.ParquetFile, group: int, *arguments: Any) -> pa.Table:
        read.extend([group] * (file.schema_arrow == PHOTOS))
        return read_row_group(file, group, *arguments)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", watch)
    parts = list(score_shard(cascade, shard))
    assert [len(rows) for rows, _ in parts] == [TEXT_ROWS, len(needs_photo)]
    assert pd.concat([rows["row"] for rows, _ in parts]).tolist() == list(range(len(order)))
    assert_same_bits(parts[0][1], alone, order[:TEXT_ROWS])
    assert_same_bits(parts[1][1], alone, needs_photo)
    assert read == sorted({position // PHOTO_ROWS for position, row in enumerate(order) if row in needs_photo})


def write_products(products: Sequence[Product], folder: Path) -> Shard:
    """Write a shard of products without codes."""
    numbers = range(len(products))
    columns: dict[str, Any] = {
        "row": numbers,
        "designation": [product.designation for product in products],
        "description": [product.description for product in products],
        "photo_status": ["ok" if product.photo else "none" for product in products],
        "title_hash": numbers,
    }
    rows = pa.table([pa.array(columns.get(f.name, [None] * len(products)), f.type) for f in ROWS], ROWS)
    writer = ShardWriter(folder, "unlabelled", rows_per_shard=10_000)
    writer.write(rows, [product.photo for product in products])
    writer.close()
    return writer.shards[0]


def test_embeddings_are_missing_where_their_stage_was_not_reached(cascade: Predictor):
    scores, embeddings = cascade.score_with_embeddings(PRODUCTS)
    for modality, member in (("text", "encoder"), ("photo", "vgg16")):
        filled = np.isfinite(embeddings[modality]).all(1)
        np.testing.assert_array_equal(filled, scores.available[member])


def test_bytes_that_are_no_photo_are_refused(predictor: Predictor):
    with pytest.raises(PhotoError):
        predictor.score([Product("", "", b"no photo")])
