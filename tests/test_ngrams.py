import os
import subprocess
import sys

import numpy as np
import pytest
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer

from rakuten_tasks.classifier.arrays import OFFSETS
from rakuten_tasks.classifier.hashing import character_counts, word_counts
from rakuten_tasks.classifier.ngrams import Vocabulary, shared, vocabulary_size
from rakuten_tasks.config import TextConfig

PRODUCTS = [
    ("Figurine Dragon", "<p>Figurine en r&eacute;sine, peinte &agrave; la main</p>"),
    ("Piscine ronde", ""),
    ("Pompe de piscine", "Pour piscine ronde ou carrée, pompe de 2 m3"),
    ("Roman policier", "Le roman de l'été : un roman"),
]
CONFIG = TextConfig(vocabulary_size=300, ngram_bits=20)  # buckets enough that nothing here collides


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary.fit(lambda: PRODUCTS, CONFIG)


def bag(vocabulary, title, description):
    """{bucket: weight}"""
    encoded = vocabulary.encode([title], [description])
    return dict(zip(encoded["ngrams"].tolist(), encoded["weights"].tolist(), strict=True))


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


def test_buckets_do_not_depend_on_the_process():
    script = (
        "from rakuten_tasks.classifier.hashing import *\n"
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


def test_a_word_counts_wherever_it_stands_and_once_more_in_a_title(vocabulary):
    in_title, in_description = bag(vocabulary, "piscine ronde", ""), bag(vocabulary, "", "piscine ronde")
    assert in_description.items() <= in_title.items()
    assert len(in_title) == 2 * len(in_description)


def test_word_weights_are_those_of_scikit_learn():
    titles = [title for title, _ in PRODUCTS] + ["pompe pompe ronde"]
    vocabulary = Vocabulary.fit(lambda: [(title, "") for title in titles], CONFIG)
    words = set(word_counts(titles, CONFIG.ngram_bits, 0).indices.tolist())
    ours = sorted(weight for bucket, weight in bag(vocabulary, titles[-1], "").items() if bucket in words)
    reference = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\w+", sublinear_tf=True).fit_transform(titles)
    np.testing.assert_allclose(ours, sorted(vocabulary.lengths[0] * reference[-1].data), rtol=1e-5)


def test_blocks_weigh_what_their_lengths_say_and_an_unseen_n_gram_is_left_out(vocabulary):
    title_words, title_characters, words, characters = np.square(vocabulary.lengths)
    encoded = vocabulary.encode(["", "Piscine ronde éçûœ", "éçûœ"], ["Piscine ronde", "", ""])
    of_description, of_title, unseen = np.split(encoded["weights"], encoded["weights" + OFFSETS][1:-1])
    assert np.square(of_description).sum() == pytest.approx(words + characters, rel=1e-5)
    # the title's blocks and the whole text's
    expected = title_words + title_characters + words + characters
    assert np.square(of_title).sum() == pytest.approx(expected, rel=1e-5)
    assert len(unseen) == 0


def test_a_product_without_text_has_no_n_grams_and_one_token(vocabulary):
    encoded = vocabulary.encode(["", "<br>"], ["", "&nbsp;"])
    assert encoded["ngrams"].size == encoded["weights"].size == 0
    assert encoded["tokens"].tolist() == [1, 1]
    assert encoded["tokens" + OFFSETS].tolist() == [0, 1, 2]


def test_the_arrays_have_the_types_that_shards_keep(vocabulary):
    encoded = vocabulary.encode([title for title, _ in PRODUCTS], [description for _, description in PRODUCTS])
    assert {name: str(values.dtype) for name, values in encoded.items()} == {
        "tokens": "int32",
        "tokens.offsets": "int64",
        "ngrams": "int32",
        "ngrams.offsets": "int64",
        "weights": "float32",
        "weights.offsets": "int64",
    }


def test_long_texts_are_cut_to_max_tokens():
    vocabulary = Vocabulary.fit(lambda: PRODUCTS, TextConfig(vocabulary_size=300, max_tokens=8))
    encoded = vocabulary.encode(["pompe"], ["roman policier de l'été " * 20])
    assert len(encoded["tokens"]) == 8


def test_a_vocabulary_saved_and_loaded_encodes_the_same(vocabulary, tmp_path):
    vocabulary.save(tmp_path)
    again = Vocabulary.load(tmp_path)
    texts = ["Pompe <b>ronde</b>", "Été"], ["roman &amp;eacute;", ""]
    before, after = vocabulary.encode(*texts), again.encode(*texts)
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert (again.size, again.buckets, again.max_tokens) == (vocabulary.size, 2**20, 128)


def test_a_vocabulary_that_tells_no_lengths_keeps_those_it_was_trained_with(vocabulary, tmp_path):
    vocabulary.save(tmp_path)
    (tmp_path / "vocabulary.json").write_text('{"max_tokens": 128}')
    encoded = Vocabulary.load(tmp_path).encode(["Piscine ronde"], [""])
    assert np.square(encoded["weights"]).sum() == pytest.approx(2 * (1 + 2), rel=1e-5)


def test_no_training_rows_are_refused():
    with pytest.raises(ValueError, match="no training rows"):
        Vocabulary.fit(list, CONFIG)


def test_the_vocabulary_grows_with_the_text():
    assert [vocabulary_size(words) for words in (100, 40_000, 10_000_000)] == [1000, 4000, 32000]


def test_a_title_and_a_description_are_cut_as_the_tokenizer_itself_cuts_a_pair(vocabulary):
    words = "piscine ronde é [SEP] pompe x " * 20
    texts = [words[:length] for length in (0, 1, 2, 9, 30, 70, 200, 480)]
    pairs = [(title, description) for title in texts for description in texts]
    for room in (4, 5, 31, 128):
        short = Vocabulary(vocabulary.tokenizer, vocabulary.idf, room, vocabulary.lengths)
        encoded = short.encode(*zip(*pairs, strict=True))
        found = np.split(encoded["tokens"], encoded["tokens" + OFFSETS][1:-1])
        cleaned = [[text.strip() for text in column] for column in zip(*pairs, strict=True)]
        whole = vocabulary.tokenizer(*cleaned, truncation=True, max_length=room)["input_ids"]
        assert [ids.tolist() for ids in found] == whole


def test_of_two_long_texts_only_what_is_kept_is_put_together(vocabulary, monkeypatch):
    asked = []
    plain = type(vocabulary.tokenizer).__call__
    monkeypatch.setattr(
        type(vocabulary.tokenizer),
        "__call__",
        lambda self, *texts, **how: asked.append(texts) or plain(self, *texts, **how),
    )
    vocabulary.encode(["mot " * 5000], ["autre " * 5000])
    assert [len(texts) for texts in asked] == [1]  # no pairs: their cut-off parts are combined with one another
    assert shared(5000, 5000, 127) == (63, 64)
    assert shared(5000, 10, 127) == (117, 10)
