"""What a configuration asks for is trained, registered and asked: members left out, pretrained networks, refits."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow import MlflowClient

from rakuten_tasks.config import PhotoConfig, Refit, SampleConfig, TextConfig, TrainingConfig, Weights
from rakuten_tasks.data.splits import TEST, TRAIN, TitleSplits, hash_titles
from rakuten_tasks.evaluation.metrics import Evaluation
from rakuten_tasks.models import bundle
from rakuten_tasks.models.predictor import Predictor
from rakuten_tasks.preprocessing.product import Product
from rakuten_tasks.registry import versions
from rakuten_tasks.registry.tracking import EXPERIMENT
from rakuten_tasks.storage.local_files import hash_folder
from tests.support.catalogues import NAMES, TINY, photo_bytes, photo_path, set_cell, write_catalogue
from tests.support.tiny_models import write_bert, write_vgg16, write_vit
from workflows.prediction import predict_catalogue
from workflows.training import train_classifier

LABELLED, TO_PREDICT = 45, 6
PRODUCTS = [
    Product("Produit, livres", "Très beau", photo_bytes(1)),
    Product("Produit, drones"),
    Product(photo=photo_bytes(2)),
    Product(),
]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_catalogue(tmp_path_factory.mktemp("trainings") / "catalogue", LABELLED, TO_PREDICT)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pretrained models lie."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture
def train(mlflow_store: MlflowClient, local_runs: Path):
    """Trains this configuration under a name of its own. -> the champion's bundle"""

    def trained(model: str, source: Path, config: TrainingConfig) -> Path:
        registered = train_classifier(source=str(source), config=config, model=model)
        assert (registered.version, registered.alias) == (1, "champion"), registered.reason
        return versions.fetch(mlflow_store, model, "1")

    return trained


def with_members(*members: str, **changes: Any) -> TrainingConfig:
    return dataclasses.replace(TINY, members=list(members), **changes)


def members_of(folder: Path) -> dict[str, list[str]]:
    """What was trained, and the extractors that it reads; nothing else lies in the bundle."""
    found = bundle.read_manifest(folder).members
    assert {path.name for path in (folder / "members").iterdir()} == set(found)
    assert {path.name for path in (folder / "extractors").iterdir()} == {
        name for read in found.values() for name in read
    }
    return found


def weights(folder: Path, member: str) -> str:
    return hash_folder(folder / "members" / member)


@pytest.mark.parametrize(
    ("members", "answered"),
    [
        (["bag"], [True, True, False, False]),
        (["vgg16"], [True, False, True, False]),
        (["lstm", "vgg16"], [True, True, True, False]),
    ],
    ids=["bag", "vgg16", "lstm and vgg16"],
)
def test_members_that_are_left_out_are_not_trained_and_the_others_answer(train, source, tmp_path, members, answered):
    model = f"left-out-{'-'.join(members)}"
    folder = train(model, source, with_members(*members))
    assert list(members_of(folder)) == members
    assert list(Evaluation.load(folder / bundle.EVALUATION).systems)[: len(members)] == members
    scores = Predictor.load(folder).score(PRODUCTS)
    assert [bool(scores.modalities(row)) for row in range(len(PRODUCTS))] == answered
    prior = max(bundle.read_manifest(folder).pool.prior)
    assert [scores.confidence[row] != pytest.approx(prior, abs=1e-6) for row in range(len(PRODUCTS))] == answered
    predict_catalogue(source=str(source), model=model, output=str(tmp_path))
    submission = pd.read_csv(tmp_path / "submission.csv", index_col=0)
    assert submission.index.tolist() == list(range(LABELLED, LABELLED + TO_PREDICT))
    assert set(submission["prdtypecode"]) <= set(NAMES)


def test_members_that_have_nothing_to_do_are_left_out(train, source):
    """By default every member is asked for: without an encoder and pretrained photo weights three are left."""
    assert members_of(train("nothing-to-do", source, TINY)) == {
        "bag": ["ngrams"], "lstm": ["tokens"], "vgg16": ["pixels"]
    }  # fmt: skip


def test_a_catalogue_above_the_budgets_is_trained_on_and_judged_by_a_sample(train, tmp_path, mlflow_store, capfd):
    source = write_catalogue(tmp_path / "catalogue", 700)
    config = dataclasses.replace(with_members("bag"), sample=SampleConfig(100, 100, 100, 100))
    folder = train("sampled", source, config)
    test = pd.read_parquet(folder / bundle.TEST)
    reference = pd.read_parquet(folder / bundle.REFERENCE)
    splits = TitleSplits.load(folder / bundle.TITLE_SPLITS)
    assert 60 <= len(test) <= 110
    assert set(splits.lookup(hash_titles(test["designation"]))) == {TEST}
    assert len(splits) == 700
    assert reference["split"].value_counts()[TEST] == len(test)
    assert 120 <= len(reference) - len(test) <= 220
    card = (folder / bundle.CARD).read_text()
    assert f"| test | {len(test)} | 141 |" in card
    assert "a sample of the labelled rows is used: " in capfd.readouterr().err
    again = train_classifier(source=str(source), config=config, model="sampled")
    assert again.version == 2
    assert "champion" in again.reason  # compared with version 1, on the sampled test rows


def test_a_sample_without_a_class_stops_the_training(mlflow_store, local_runs, tmp_path):
    source = write_catalogue(tmp_path / "catalogue", 700)
    labels = pd.Series(range(700), name="prdtypecode") // 8
    labels.to_csv(source / "Y_train_CVw08PX.csv")
    config = dataclasses.replace(with_members("bag"), sample=SampleConfig(training=100))
    with pytest.raises(ValueError, match=r"no training row of class .* set sample\.training .* to 3520 or more"):
        train_classifier(source=str(source), config=config, model="classes")


def test_a_photo_under_two_titles_is_counted_where_one_is_held_out(train, tmp_path, mlflow_store, capfd):
    source = write_catalogue(tmp_path / "catalogue", LABELLED)
    for i in range(1, LABELLED, 2):
        photo_path(source, i).write_bytes(photo_path(source, i - 1).read_bytes())
    folder = train("shared_photos", source, with_members("bag"))
    titles = pd.read_csv(source / "X_train_update.csv")["designation"]
    on_train = TitleSplits.load(folder / bundle.TITLE_SPLITS).lookup(hash_titles(titles)) == TRAIN
    pairs = on_train[: LABELLED // 2 * 2].reshape(-1, 2).sum(axis=1)
    shared = int((pairs == 1).sum())
    assert shared > 1
    runs = mlflow_store.search_runs([mlflow_store.get_experiment_by_name(EXPERIMENT).experiment_id])
    metrics = next(run.data.metrics for run in runs if "shared_photos" in run.data.metrics)
    assert (metrics["shared_photos"], metrics["rows_sharing_photos"]) == (shared, shared)
    assert f"{shared} held-out products have the photo file of a training product" in capfd.readouterr().err


def test_pretrained_networks_are_read_and_the_encoder_is_fine_tuned(train, source, models):
    text = TextConfig(encoder=f"hf:{write_bert(models / 'bert')}", fine_tune_epochs=1)
    photo = PhotoConfig(backbone=f"hf:{write_vit(models / 'vit')}")
    asked = ("bag", "encoder", "bag_encoder", "transformer", "photo")
    folder = train("pretrained", source, with_members(*asked, text=text, photo=photo))
    assert members_of(folder) == {
        "bag": ["ngrams"],
        "encoder": ["vectors"],
        "bag_encoder": ["ngrams", "vectors"],
        "transformer": ["encoder_tokens"],
        "photo": ["photo_features"],
    }
    manifest = bundle.read_manifest(folder)
    assert [weights.name for weights in manifest.lineage.pretrained] == [text.encoder, photo.backbone]
    # the bundle needs none of what it was made from, and holds the encoder that was tuned once, in its member
    assert not list((folder / "extractors/encoder_tokens").glob("*.safetensors"))
    for made_from in (models / "bert", models / "vit"):
        made_from.rename(made_from.with_suffix(".moved"))
    scores = Predictor.load(folder).score(PRODUCTS)
    assert {name: mask.tolist() for name, mask in scores.available.items() if name in ("transformer", "photo")} == {
        "transformer": [True, True, False, False],
        "photo": [True, False, True, False],
    }


def test_a_frozen_backbone_and_its_last_block_read_the_same_features(train, source, models):
    path = write_vgg16(models / "vgg16.safetensors")
    photo = PhotoConfig(weights=Weights.FILE, weights_file=str(path), image_size=32, epochs=1, fine_tune_epochs=1)
    folder = train("last-block", source, with_members("photo", "vgg16", photo=photo))
    assert members_of(folder) == {"photo": ["maps"], "vgg16": ["maps"]}
    path.unlink()
    said = Predictor.load(folder).score(PRODUCTS).available
    assert [said[name].tolist() for name in ("photo", "vgg16")] == [[True, False, True, False]] * 2


def test_a_catalogue_without_photos_is_trained_on_text_alone(train, tmp_path):
    source = write_catalogue(tmp_path / "catalogue", LABELLED, 1)
    for row in range(LABELLED):
        set_cell(source / "X_train_update.csv", row, "imageid", "")
    folder = train("text-alone", source, TINY)
    assert list(members_of(folder)) == ["bag", "lstm"]
    assert list(bundle.read_manifest(folder).pool.weights) == ["text"]
    assert Predictor.load(folder).score(PRODUCTS).confidence.shape == (4,)


@pytest.mark.parametrize("weights", [Weights.RANDOM, Weights.FILE])
def test_photos_in_a_part_of_the_shards_are_enough(train, models, tmp_path, weights):
    source = write_catalogue(tmp_path / "catalogue", LABELLED, 1)
    for row in range(25, LABELLED):  # the second shard
        set_cell(source / "X_train_update.csv", row, "imageid", "")
    file = str(write_vgg16(models / "vgg16.safetensors")) if weights is Weights.FILE else ""
    photo = dataclasses.replace(TINY.photo, weights=weights, weights_file=file)
    member = "photo" if weights is Weights.FILE else "vgg16"
    folder = train(f"one-shard-{member}", source, with_members("bag", member, photo=photo))
    assert list(members_of(folder)) == ["bag", member]
    reference = pd.read_parquet(folder / bundle.REFERENCE)
    assert reference["photo_missing"].sum() == (reference["row"] >= 25).sum() > 0
    assert set(bundle.read_manifest(folder).pool.weights) == {"text", "photo", "text+photo"}


def test_refitted_on_everything_the_figures_are_of_the_model_before(train, source):
    before = train("refit-except-test", source, with_members("bag", "lstm"))
    after = train("refit-everything", source, with_members("bag", "lstm", refit=Refit.EVERYTHING))
    assert Evaluation.load(before / bundle.EVALUATION) == Evaluation.load(after / bundle.EVALUATION)
    for name in (bundle.TEST, bundle.REFERENCE, bundle.TITLE_SPLITS):
        assert (before / name).read_bytes() == (after / name).read_bytes(), name
    manifests = [bundle.read_manifest(folder) for folder in (before, after)]
    assert manifests[0].pool == manifests[1].pool
    assert [weights(before, member) != weights(after, member) for member in ("bag", "lstm")] == [True, True]
    assert manifests[1].config.refit is Refit.EVERYTHING
    assert (
        Predictor.load(after).score(PRODUCTS).confidence.max() > Predictor.load(before).score(PRODUCTS).confidence.min()
    )


def test_not_refitted_a_network_stays_as_it_was_judged(train, source, mlflow_store):
    asked = with_members("bag", "lstm", seed=5)  # a seed of its own, so that nothing comes from the cache
    before = train("refit-once", source, asked)
    after = train("refit-none", source, dataclasses.replace(asked, refit=Refit.NONE))
    assert weights(before, "bag") == weights(after, "bag")  # fitted out of fold: always again on all but the test rows
    assert weights(before, "lstm") != weights(after, "lstm")
    # the pool was fitted on the same scores
    assert bundle.read_manifest(before).pool == bundle.read_manifest(after).pool
    trainings = [fits(mlflow_store, bundle.read_manifest(folder).lineage.run_id) for folder in (before, after)]
    assert trainings == [{"train_loss", "2_train_loss"}, {"train_loss"}]


def fits(store: MlflowClient, run_id: str) -> set[str]:
    """The trainings of the LSTM, by the names of their losses in its run."""
    (child,) = (
        child
        for child in store.search_runs(["1"], f"tags.`mlflow.parentRunId` = '{run_id}'")
        if child.info.run_name == "fit_lstm"
    )
    return {metric for metric in child.data.metrics if metric.endswith("train_loss")}
