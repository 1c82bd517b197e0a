"""The built-in synthetic sample: the challenge's layout and kinds of dirt; text and photos can be learned from."""

from __future__ import annotations

import html
import re
from collections import Counter
from hashlib import sha256
from pathlib import Path
from random import Random

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from rakuten_tasks.data.layout import find_layout
from rakuten_tasks.data.sample.drawings import SIDE, draw_photo
from rakuten_tasks.data.sample.generate import Product, make_products, sample_answers, write_sample
from rakuten_tasks.data.sample.texts import class_names, write_text

MARKUP = re.compile(r"<[^<>]+>|&#?\w+;")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """110 labelled products and 10 to predict."""
    folder = tmp_path_factory.mktemp("sample")
    write_sample(folder, products=110, unlabelled=10, seed=3)
    return folder


@pytest.fixture(scope="module")
def products() -> list[Product]:
    """The texts and labels of a sample of the usual size, without its photos."""
    return make_products(products=2400, unlabelled=400, seed=0)


def table(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(folder / name, index_col=0, keep_default_na=False)


def digests(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): sha256(file.read_bytes()).hexdigest() for file in files}


def test_the_sample_has_the_challenges_files_and_says_that_it_is_synthetic(folder: Path) -> None:
    layout = find_layout(str(folder))
    files = [layout.train_rows, layout.train_labels, layout.test_rows, layout.test_labels, layout.classes]
    names = ["X_train_update.csv", "Y_train_CVw08PX.csv", "X_test_update.csv", "Y_test.csv", "classes.csv"]
    assert [Path(file or "").name for file in files] == names
    assert layout.synthetic
    assert "made up" in (folder / "SYNTHETIC.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("rows_file", "labels_file", "rows"),
    [("X_train_update.csv", "Y_train_CVw08PX.csv", range(110)), ("X_test_update.csv", "Y_test.csv", range(110, 120))],
)
def test_rows_and_labels_have_the_challenges_columns_and_running_index(
    folder: Path, rows_file: str, labels_file: str, rows: range
) -> None:
    assert (folder / rows_file).read_text(encoding="utf-8").startswith(",designation,description,productid,imageid\n")
    assert (folder / labels_file).read_text(encoding="utf-8").startswith(",prdtypecode\n")
    assert table(folder, rows_file).index.tolist() == list(rows)
    assert table(folder, labels_file).index.tolist() == list(rows)


def test_every_row_has_its_photo_under_the_challenges_name(folder: Path) -> None:
    for part in ("train", "test"):
        rows = table(folder, f"X_{part}_update.csv")
        expected = {f"image_{row.imageid}_product_{row.productid}.jpg" for row in rows.itertuples()}
        assert {photo.name for photo in (folder / f"images/image_{part}").iterdir()} == expected


def test_photos_are_square_and_have_a_white_border(folder: Path) -> None:
    for file in (folder / "images").rglob("*.jpg"):
        with Image.open(file) as photo:
            assert (photo.size, photo.mode, photo.format) == ((SIDE, SIDE), "RGB", "JPEG")
            pixels = np.asarray(photo)
        # JPEG rings a little around edges
        assert min(edge.mean() for edge in (pixels[:3], pixels[-3:], pixels[:, :3], pixels[:, -3:])) > 250


def test_the_same_arguments_write_the_same_bytes_and_another_seed_does_not(folder: Path, tmp_path: Path) -> None:
    write_sample(tmp_path / "again", products=110, unlabelled=10, seed=3)
    assert digests(tmp_path / "again") == digests(folder)
    first, other = (make_products(products=110, unlabelled=10, seed=seed) for seed in (3, 4))
    assert [product.text for product in first] != [product.text for product in other]


@pytest.mark.parametrize("seed", range(4))
def test_the_smallest_sample_has_four_titles_of_each_of_the_27_classes(seed: int) -> None:
    smallest = make_products(products=27 * 4, unlabelled=0, seed=seed)
    titles = {(product.label, product.text.designation) for product in smallest}
    assert Counter(label for label, _ in titles) == dict.fromkeys(class_names(), 4)


def test_too_few_products_are_refused_with_the_least_number(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"products=107: each of the 27 classes needs 4.*ask for 108 or more"):
        write_sample(tmp_path, products=107)
    with pytest.raises(ValueError, match=r"unlabelled=-1: 0 or more"):
        write_sample(tmp_path, unlabelled=-1)


def test_class_sizes_follow_the_challenge_and_rare_classes_are_not_starved(products: list[Product]) -> None:
    labels = Counter(product.label for product in products[:2400])
    assert len(labels) == 27
    assert labels.most_common(1)[0][0] == 2583
    assert 0.09 < labels[2583] / 2400 < 0.13
    assert min(labels.values()) >= 15


def test_descriptions_are_missing_as_often_as_in_the_challenge(products: list[Product]) -> None:
    missing = np.mean([product.text.description == "" for product in products])
    assert missing == pytest.approx(0.35, abs=0.03)


def test_languages_have_the_challenges_shares(products: list[Product]) -> None:
    languages = Counter(product.text.language for product in products)
    shares = {language: count / len(products) for language, count in languages.items()}
    assert shares == pytest.approx({"fr": 0.76, "en": 0.15, "de": 0.03, "es": 0.03, "it": 0.03}, abs=0.025)


def test_html_has_the_challenges_shares_with_entities_escaped_twice(products: list[Product]) -> None:
    titles = [product.text.designation for product in products]
    descriptions = [product.text.description for product in products if product.text.description]
    assert np.mean([bool(MARKUP.search(title)) for title in titles]) == pytest.approx(0.012, abs=0.007)
    assert np.mean([bool(MARKUP.search(text)) for text in descriptions]) == pytest.approx(0.47, abs=0.04)
    assert any("&amp;nbsp;" in text for text in descriptions)
    assert any("¿" in text for text in descriptions)


def test_three_titles_of_a_hundred_copy_another_of_their_class(products: list[Product]) -> None:
    titles = [product.text.designation.casefold() for product in products]
    assert 1 - len(set(titles)) / len(titles) == pytest.approx(0.03, abs=0.01)
    classes = {(product.text.designation.casefold(), product.code) for product in products}
    assert len(classes) == len(set(titles))


def test_a_few_labels_are_wrong_and_class_sizes_keep(products: list[Product]) -> None:
    assert np.mean([product.label != product.code for product in products]) == pytest.approx(0.025, abs=0.005)
    assert Counter(product.label for product in products) == Counter(product.code for product in products)


def test_no_text_has_an_unfilled_slot_and_no_class_lacks_a_language() -> None:
    random = Random(0)
    for code in class_names():
        texts = [write_text(code, random) for _ in range(60)]
        assert not [text for text in texts if "{" in text.designation + text.description or not text.designation]


def test_even_the_nearest_average_photo_knows_the_class_far_above_chance() -> None:
    codes = list(class_names())
    photos = np.array([[thumbnail(code, number) for number in range(20)] for code in codes])  # (27, 20, 768)
    averages = photos[:, :15].mean(1)  # (27, 768)
    distances = np.abs(photos[:, 15:, None] - averages).sum(-1)  # (27, 5, 27)
    right = distances.argmin(-1) == np.arange(27)[:, None]
    # chance: 0.04
    assert 0.3 < right.mean() < 0.9


def thumbnail(code: int, number: int) -> np.ndarray:
    """A photo without its border, as (768,) values."""
    photo = draw_photo(code, Random(f"{code} {number}"))
    shown = ImageOps.invert(photo).getbbox()
    return np.asarray(photo.crop(shown).resize((16, 16)), dtype=np.float32).ravel()


def test_text_can_be_learned_but_not_wholly(products: list[Product]) -> None:
    texts = [html.unescape(f"{p.text.designation} {p.text.description}") for p in products]
    labels = [product.label for product in products]
    vectors = TfidfVectorizer(min_df=2, sublinear_tf=True, strip_accents="unicode").fit(texts[:1200])
    model = LogisticRegression(C=10, max_iter=100).fit(vectors.transform(texts[:1200]), labels[:1200])
    score = f1_score(labels[2000:], model.predict(vectors.transform(texts[2000:])), average="weighted")
    # always answering the largest class scores 0.02
    assert 0.55 < score < 0.9


def test_the_answers_are_known_without_writing_the_catalogue(folder):
    written = table(folder, "Y_test.csv")["prdtypecode"]
    assert sample_answers(products=110, unlabelled=10, seed=3).to_dict() == written.to_dict()
