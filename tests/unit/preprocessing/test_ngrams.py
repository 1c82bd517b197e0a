from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer

from rakuten_tasks.models.extractors import NgramExtractor, TokenExtractor, truncate_pair
from rakuten_tasks.models.members.plan import fit_tokenizer
from rakuten_tasks.preprocessing.feature_shards import OFFSETS
from rakuten_tasks.preprocessing.hashing import character_counts, word_counts
from rakuten_tasks.preprocessing.ngrams import BLOCKS, Tfidf, count_ngrams
from rakuten_tasks.preprocessing.product import Product
from rakuten_tasks.preprocessing.tokenizer import vocabulary_size
from tests.support.training_data import CPU

PRODUCTS = [
    ("Figurine Dragon", "<p>Figurine en r&eacute;sine, peinte &agrave; la main</p>"),
    ("Piscine ronde", ""),
    ("Pompe de piscine", "Pour piscine ronde ou carrée, pompe de 2 m3"),
    ("Roman policier", "Le roman de l'été : un roman"),
]
TITLES, DESCRIPTIONS = (list(column) for column in zip(*PRODUCTS, strict=True))
BITS = 20  # buckets enough that nothing here collides


@pytest.fixture(scope="module")
def tfidf() -> Tfidf:
    return Tfidf.fit(count_ngrams(TITLES, DESCRIPTIONS, BITS))


@pytest.fixture(scope="module")
def tokens() -> TokenExtractor:
    return fit_tokenizer(lambda: PRODUCTS, 300, 128)


def bag(tfidf: Tfidf, title: str, description: str) -> dict[int, float]:
    """{bucket: weight}"""
    row = tfidf.transform(count_ngrams([title], [description], BITS))
    return dict(zip(row.indices.tolist(), row.data.tolist(), strict=True))


def test_counts_are_those_of_words_pairs_of_words_and_characters_within_words():
    texts = ["la pompe, la pompe", "", "as"]
    counts = word_counts(texts, 20, 0)
    assert sorted(counts[[0]].data) == [1, 2, 2, 2]  # "pompe la"; "la", "pompe", "la pompe"
    assert counts[[1]].nnz == 0
    # " a", "as", "s ", " as", "as ", " as "
    assert character_counts(texts, 20, 0)[[2]].data.tolist() == [1] * 6


def test_a_text_has_the_same_n_grams_alone_and_among_others():
    texts = ["pompe de piscine", "roman de l'été", "", "pompe"]
    for count in (word_counts, character_counts):
        together = count(texts, 18, 1)
        alone = sparse.vstack([count([text], 18, 1) for text in texts])
        assert (together != alone).nnz == 0


def test_a_product_has_the_same_row_bit_for_bit_alone_and_among_others(tfidf):
    together = tfidf.transform(count_ngrams(TITLES, DESCRIPTIONS, BITS))
    for at, (title, description) in enumerate(PRODUCTS):
        alone = tfidf.transform(count_ngrams([title], [description], BITS))
        row = together[[at]]
        assert alone.indices.tolist() == row.indices.tolist()
        assert alone.data.tobytes() == row.data.tobytes()


def test_more_products_than_a_batch_are_counted_as_few_are(monkeypatch):
    whole = count_ngrams(TITLES, DESCRIPTIONS, 12)
    monkeypatch.setattr("rakuten_tasks.preprocessing.ngrams.BATCH", 3)
    assert (count_ngrams(TITLES, DESCRIPTIONS, 12) != whole).nnz == 0
    assert count_ngrams([], [], 12).shape == (0, BLOCKS << 12)


def test_buckets_do_not_depend_on_the_process():
    script = (
        "from rakuten_tasks.preprocessing.hashing import *\n"
        "w = ['pompe de piscine']\n"
        "print(word_counts(w, 18, 0).indices.sum(), character_counts(w, 18, 1).indices.sum())"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", script],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    text = ["pompe de piscine"]
    sums = word_counts(text, 18, 0).indices.sum(), character_counts(text, 18, 1).indices.sum()
    assert printed == {"{} {}\n".format(*sums)}


def test_a_word_counts_wherever_it_stands_and_once_more_in_a_title(tfidf):
    in_title, in_description = bag(tfidf, "piscine ronde", ""), bag(tfidf, "", "piscine ronde")
    assert in_description.items() <= in_title.items()
    assert len(in_title) == 2 * len(in_description)


def test_word_weights_are_those_of_scikit_learn():
    titles = [*TITLES, "pompe pompe ronde"]
    tfidf = Tfidf.fit(count_ngrams(titles, [""] * 5, BITS))
    words = set(word_counts(titles, BITS, 0).indices.tolist())
    ours = sorted(weight for bucket, weight in bag(tfidf, titles[-1], "").items() if bucket in words)
    reference = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\w+", sublinear_tf=True).fit_transform(titles)
    np.testing.assert_allclose(ours, sorted(reference[-1].data), rtol=1e-5)


def test_each_block_has_unit_length_and_an_unseen_n_gram_is_left_out(tfidf):
    counts = count_ngrams(["", "Piscine ronde éçûœ", "éçûœ"], ["Piscine ronde", "", ""], BITS)
    of_description, of_title, unseen = (tfidf.transform(counts)[[row]].data for row in range(3))
    assert np.square(of_description).sum() == pytest.approx(2, rel=1e-5)  # words and characters of the whole
    assert np.square(of_title).sum() == pytest.approx(4, rel=1e-5)  # those of the title, too
    assert len(unseen) == 0


def test_words_of_fitted_rows_are_known_and_others_are_not(tfidf):
    assert tfidf.knows(["piscine", "roman", "ordinateur", "résine"]).tolist() == [True, True, False, True]


def test_weights_saved_and_loaded_are_the_same(tfidf, tmp_path):
    tfidf.save(tmp_path)
    again = Tfidf.load(tmp_path)
    assert again.idf.tobytes() == tfidf.idf.tobytes()
    assert again.bits == BITS


def test_a_product_without_text_has_no_n_grams_and_one_token(tokens):
    empty = [Product("", ""), Product("<br>", "&nbsp;")]
    assert NgramExtractor(12).extract(empty)["ngrams"].size == 0
    extracted = tokens.extract(empty)
    assert extracted["tokens"].tolist() == [1, 1]
    assert extracted["tokens" + OFFSETS].tolist() == [0, 1, 2]


def test_the_arrays_have_the_types_that_shards_keep(tokens):
    products = [Product(title, description) for title, description in PRODUCTS]
    arrays = NgramExtractor(12).extract(products) | tokens.extract(products)
    assert {name: str(values.dtype) for name, values in arrays.items()} == {
        "tokens": "int32",
        "tokens.offsets": "int64",
        "ngrams": "int32",
        "ngrams.offsets": "int64",
        "counts": "float32",
        "counts.offsets": "int64",
    }


def test_long_texts_are_cut_to_max_tokens():
    short = fit_tokenizer(lambda: PRODUCTS, 300, 8)
    assert len(short.extract([Product("pompe", "roman policier de l'été " * 20)])["tokens"]) == 8


def test_a_tokenizer_saved_and_loaded_encodes_the_same(tokens, tmp_path):
    tokens.save(tmp_path)
    again = TokenExtractor.load(tmp_path, CPU)
    products = [Product("Pompe <b>ronde</b>", "roman &amp;eacute;"), Product("Été", "")]
    before, after = tokens.extract(products), again.extract(products)
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert again.max_tokens == 128


def test_no_training_rows_are_refused():
    with pytest.raises(ValueError, match="no training rows"):
        fit_tokenizer(list, 0, 128)


def test_the_vocabulary_grows_with_the_text():
    assert [vocabulary_size(words) for words in (100, 40_000, 10_000_000)] == [1000, 4000, 32000]


def test_a_title_and_a_description_are_cut_as_the_tokenizer_itself_cuts_a_pair(tokens):
    words = "piscine ronde é [SEP] pompe x " * 20
    texts = [words[:length] for length in (0, 1, 2, 9, 30, 70, 200, 480)]
    pairs = [(title, description) for title in texts for description in texts]
    for room in (4, 5, 31, 128):
        extracted = TokenExtractor(tokens.tokenizer, room).extract([Product(*pair) for pair in pairs])
        found = np.split(extracted["tokens"], extracted["tokens" + OFFSETS][1:-1])
        cleaned = [[text.strip() for text in column] for column in zip(*pairs, strict=True)]
        whole = tokens.tokenizer(*cleaned, truncation=True, max_length=room)["input_ids"]
        assert [ids.tolist() for ids in found] == whole


def test_of_two_long_texts_only_what_is_kept_is_put_together(tokens, monkeypatch):
    asked = []
    plain = type(tokens.tokenizer).__call__
    monkeypatch.setattr(
        type(tokens.tokenizer),
        "__call__",
        lambda self, *texts, **how: asked.append(texts) or plain(self, *texts, **how),
    )
    tokens.extract([Product("mot " * 5000, "autre " * 5000)])
    assert [len(texts) for texts in asked] == [1]  # no pairs: their cut-off parts are combined with one another
    assert truncate_pair(5000, 5000, 127) == (63, 64)
    assert truncate_pair(5000, 10, 127) == (117, 10)
