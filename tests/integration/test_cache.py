"""What is computed again, and what is not, told by the tasks that left a run in MLflow."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flytekit import current_context
from mlflow import MlflowClient

from rakuten_tasks.config import BagConfig, GateConfig, Refit, TrainingConfig, Weights
from rakuten_tasks.models import bundle
from rakuten_tasks.registry import versions
from rakuten_tasks.runtime import local_cache
from rakuten_tasks.storage.paths import cache_folder
from rakuten_tasks.tasks import extract_features
from tests.support.catalogues import TINY, photo_bytes, photo_path, set_cell, write_catalogue
from tests.support.tiny_models import write_vgg16
from workflows.training import train_classifier

FITS = {"fit_bag", "fit_lstm", "fit_vgg16"}
AFTER = {"pool_members", "evaluate_test"}
ALWAYS = {"register"}
# of the two shards one has a changed product, and the tokenizer is made of both
READ_ANEW = ["make tokens", "ngrams", "pixels", "tokens"]
EVERYTHING = {"ingest", "split", "score_baselines"} | FITS | AFTER | ALWAYS


@pytest.fixture(scope="module")
def source(mlflow_store: MlflowClient, local_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A catalogue that was trained on."""
    folder = write_catalogue(tmp_path_factory.mktemp("cache") / "catalogue", labelled=45, unlabelled=2)
    # a cache of its own: other tests train on the same products
    local_cache.use(folder.parent / "cache")
    assert computed(mlflow_store, folder, "cache-first") == EVERYTHING
    yield folder
    local_cache.use(cache_folder())


@pytest.fixture(autouse=True)
def extracted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Extractors that were made, and one name more for each shard that one of them read."""
    done: list[str] = []
    build, extract = extract_features._build_extractor, extract_features._extract

    def make(name: str, *inputs: Any) -> Any:
        done.append(f"make {name}")
        return build(name, *inputs)

    def read(shard: Any, position: int, splits: Any, extractor: Any) -> Any:
        done.append(extractor.name)
        return extract(shard, position, splits, extractor)

    monkeypatch.setattr(extract_features, "_build_extractor", make)
    monkeypatch.setattr(extract_features, "_extract", read)
    return done


def computed(store: MlflowClient, source: Path, model: str, config: TrainingConfig = TINY) -> set[str]:
    """The tasks that a training of a new model ran and that keep a run in MLflow."""
    run_id = train_classifier(source=str(source), config=config, model=model).run_id
    children = store.search_runs(["1"], f"tags.`mlflow.parentRunId` = '{run_id}'")
    assert {child.info.status for child in children} == {"FINISHED"}
    return {child.info.run_name for child in children}


def test_an_unchanged_catalogue_is_not_read_again_and_the_gate_always_judges(source, mlflow_store, extracted):
    assert computed(mlflow_store, source, "cache-unchanged") == ALWAYS
    assert extracted == []


def test_the_same_products_at_another_place_are_not_read_again_and_the_version_names_that_place(
    source, mlflow_store, tmp_path
):
    shutil.copytree(source, tmp_path / "elsewhere")
    assert computed(mlflow_store, tmp_path / "elsewhere", "cache-elsewhere") == ALWAYS
    version = versions.fetch(mlflow_store, "cache-elsewhere", "1")
    assert bundle.read_manifest(version).lineage.catalogue == str(tmp_path / "elsewhere")


def test_an_edited_catalogue_at_the_same_place_is_read_anew(source, mlflow_store, tmp_path, extracted):
    edited = tmp_path / "edited"
    shutil.copytree(source, edited)
    assert computed(mlflow_store, edited, "cache-before") == ALWAYS
    set_cell(edited / "X_train_update.csv", 7, "description", "une autre description")
    assert computed(mlflow_store, edited, "cache-after") == EVERYTHING - {"fit_vgg16"}  # the photos are the same
    assert sorted(extracted) == [*READ_ANEW, "tokens"]  # another tokenizer
    photo_path(edited, 46, "test").write_bytes(photo_bytes(99))  # of a product that nothing is trained on
    assert computed(mlflow_store, edited, "cache-unlabelled") == {"ingest"} | ALWAYS


def test_of_a_catalogue_with_a_changed_photo_only_photos_are_learned_again(source, mlflow_store, tmp_path, extracted):
    edited = tmp_path / "edited"
    shutil.copytree(source, edited)
    photo_path(edited, 30).write_bytes(photo_bytes(99))
    assert computed(mlflow_store, edited, "cache-photo") == EVERYTHING - {"fit_bag", "fit_lstm"}
    # what is made of all texts is made again, and is the same
    assert sorted(extracted) == READ_ANEW


@pytest.mark.parametrize(
    ("change", "expected", "made"),
    [
        ({"seed": 1}, {"fit_lstm", "fit_vgg16", "score_baselines"} | AFTER, []),
        ({"lstm": dataclasses.replace(TINY.lstm, learning_rate=1e-3)}, {"fit_lstm"} | AFTER, []),
        ({"photo": dataclasses.replace(TINY.photo, learning_rate=1e-3)}, {"fit_vgg16"} | AFTER, []),
        ({"bag": BagConfig(ngram_bits=11)}, {"fit_bag"} | AFTER, ["make ngrams", "ngrams", "ngrams"]),
        ({"refit": Refit.NONE}, FITS | AFTER, []),
        ({"members": ["bag", "vgg16"]}, AFTER, []),
        ({"gate": GateConfig(max_f1_loss=0.1)}, set(), []),
    ],
    ids=["seed", "learning rate of the LSTM", "learning rate of VGG16", "n-grams", "refit", "a member less", "gate"],
)
def test_only_what_depends_on_a_changed_setting_is_computed_again(
    source, mlflow_store, change, expected, made, extracted
):
    config = dataclasses.replace(TINY, **change)
    assert computed(mlflow_store, source, f"cache-{'-'.join(change)}-{len(str(change))}", config) == expected | ALWAYS
    assert extracted == made


def test_weights_that_lie_elsewhere_are_the_same_weights(source, mlflow_store, tmp_path, extracted):
    asked = dataclasses.replace(TINY, members=["bag", "photo"])
    file = write_vgg16(tmp_path / "vgg16.safetensors")
    there = dataclasses.replace(TINY.photo, weights=Weights.FILE, weights_file=str(file))
    assert computed(mlflow_store, source, "cache-weights", dataclasses.replace(asked, photo=there)) == (
        {"fit_photo"} | AFTER | ALWAYS
    )
    assert extracted == ["make photo_features", "photo_features", "photo_features"]
    moved = file.rename(tmp_path / "moved.safetensors")
    config = dataclasses.replace(asked, photo=dataclasses.replace(there, weights_file=str(moved)))
    assert computed(mlflow_store, source, "cache-weights-moved", config) == ALWAYS
    assert len(extracted) == 3


def test_outputs_may_be_deleted_at_any_time(source, mlflow_store):
    for outputs in Path(current_context().working_directory).parent.glob("user_space*/*"):
        shutil.rmtree(outputs)
    assert computed(mlflow_store, source, "cache-all-deleted") == EVERYTHING


def delete(file: Path) -> None:
    file.unlink()


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:1000])


def edit_keeping_the_size(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("harm", [delete, cut, edit_keeping_the_size])
def test_an_output_of_which_one_file_was_harmed_is_made_again(source, mlflow_store, extracted, harm):
    computed(mlflow_store, source, f"cache-whole-{harm.__name__}")
    extracted.clear()
    for features in Path(current_context().working_directory).parent.glob("user_space*/*/pixels.safetensors"):
        harm(features)
    # what it gives is the same again, so nothing after it is computed
    assert computed(mlflow_store, source, f"cache-harmed-{harm.__name__}") == ALWAYS
    assert extracted == ["pixels"] * 2
