"""What is computed again, and what is not, told by the tasks that left a run in MLflow."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from flytekit import current_context
from mlflow import MlflowClient

from rakuten_tasks import local_cache
from rakuten_tasks.classifier import bundle
from rakuten_tasks.config import GateConfig, TrainingConfig
from rakuten_tasks.registry import champion
from rakuten_tasks.var import cache_folder
from tests.catalogues import TINY, photo_bytes, photo_path, set_cell, write_catalogue
from workflows.training import train_classifier

TEXT, PHOTO = {"fit_vocabulary", "train_lstm"}, {"train_vgg16"}
AFTER = {"fuse", "evaluate_test"}
ALWAYS = {"register"}
EVERYTHING = {"ingest", "split", "score_baseline"} | TEXT | PHOTO | AFTER | ALWAYS


@pytest.fixture(scope="module")
def source(mlflow_store: MlflowClient, local_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A catalogue that was trained on."""
    folder = write_catalogue(tmp_path_factory.mktemp("cache") / "catalogue", labelled=45, unlabelled=2)
    # a cache of its own: other tests train on the same products
    local_cache.use(folder.parent / "cache")
    assert computed(mlflow_store, folder, "cache-first") == EVERYTHING
    yield folder
    local_cache.use(cache_folder())


def computed(store: MlflowClient, source: Path, model: str, config: TrainingConfig = TINY) -> set[str]:
    """The tasks that a training of a new model ran."""
    run_id = train_classifier(source=str(source), config=config, model=model).run_id
    children = store.search_runs(["1"], f"tags.`mlflow.parentRunId` = '{run_id}'")
    assert {child.info.status for child in children} == {"FINISHED"}
    return {child.info.run_name for child in children}


def test_an_unchanged_catalogue_is_not_read_again_and_the_gate_always_judges(source, mlflow_store):
    assert computed(mlflow_store, source, "cache-unchanged") == ALWAYS


def test_the_same_products_at_another_place_are_not_read_again_and_the_version_names_that_place(
    source, mlflow_store, tmp_path
):
    shutil.copytree(source, tmp_path / "elsewhere")
    assert computed(mlflow_store, tmp_path / "elsewhere", "cache-elsewhere") == ALWAYS
    version = champion.fetch(mlflow_store, "cache-elsewhere", "1")
    assert bundle.read_manifest(version).lineage.catalogue == str(tmp_path / "elsewhere")


def test_an_edited_catalogue_at_the_same_place_is_read_anew(source, mlflow_store, tmp_path):
    edited = tmp_path / "edited"
    shutil.copytree(source, edited)
    assert computed(mlflow_store, edited, "cache-before") == ALWAYS
    set_cell(edited / "X_train_update.csv", 7, "description", "une autre description")
    assert computed(mlflow_store, edited, "cache-after") == EVERYTHING - PHOTO  # the photos are the same
    photo_path(edited, 46, "test").write_bytes(photo_bytes(99))  # of a product that nothing is trained on
    assert computed(mlflow_store, edited, "cache-unlabelled") == {"ingest"} | ALWAYS


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"seed": 1}, {"train_lstm", "score_baseline"} | PHOTO | AFTER),
        ({"text": dataclasses.replace(TINY.text, learning_rate=1e-3)}, {"train_lstm"} | AFTER),
        ({"photo": dataclasses.replace(TINY.photo, learning_rate=1e-3)}, PHOTO | AFTER),
        ({"gate": GateConfig(max_f1_loss=0.1)}, set()),
    ],
    ids=["seed", "learning rate of the text", "learning rate of the photos", "gate"],
)
def test_only_what_depends_on_a_changed_setting_is_computed_again(source, mlflow_store, change, expected, monkeypatch):
    prepared: list[int] = []
    monkeypatch.setattr("rakuten_tasks.classifier.photos.prepare_photos", lambda photos, side: prepared.append(side))
    config = dataclasses.replace(TINY, **change)
    assert computed(mlflow_store, source, f"cache-{'-'.join(change)}-{len(str(change))}", config) == expected | ALWAYS
    assert not prepared


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
def test_an_output_of_which_one_file_was_harmed_is_made_again(source, mlflow_store, harm):
    computed(mlflow_store, source, f"cache-whole-{harm.__name__}")
    *_, newest = sorted(
        Path(current_context().working_directory).parent.glob("user_space*/*/photo/photo.safetensors"),
        key=lambda path: path.stat().st_mtime,
    )
    harm(newest)
    # what it gives is the same again, so nothing after it is computed
    assert computed(mlflow_store, source, f"cache-harmed-{harm.__name__}") == PHOTO | ALWAYS
