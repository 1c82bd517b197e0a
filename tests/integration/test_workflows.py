"""The whole way, from a folder to a registered champion to a submission, on a few products."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pytest
from flytekit import FlyteContextManager, dynamic, map_task, workflow
from mlflow import MlflowClient

from rakuten_tasks.data.splits import TEST, TitleSplits, hash_titles
from rakuten_tasks.evaluation.metrics import Evaluation
from rakuten_tasks.models import bundle
from rakuten_tasks.models.predictor import Predictor
from rakuten_tasks.monitoring.columns import DRIFT_COLUMNS, FITTED_COLUMNS
from rakuten_tasks.preprocessing.feature_shards import ShardArrays
from rakuten_tasks.preprocessing.product import Product
from rakuten_tasks.registry import versions
from rakuten_tasks.registry.tracking import connect
from rakuten_tasks.runtime import local_cache
from rakuten_tasks.runtime.files import local
from rakuten_tasks.storage.paths import cache_folder
from rakuten_tasks.tasks.assign_splits import split
from rakuten_tasks.tasks.extract_features import extract_features, prepare_extractor
from rakuten_tasks.tasks.ingest_catalogue import ingest
from rakuten_tasks.tasks.start_run import open_run
from rakuten_tasks.tasks.types import FeatureShard, RegisteredVersion, Shard, Splits
from tests.support.catalogues import TINY, photo_bytes, photo_path, set_cell, write_catalogue
from workflows.prediction import fetch_champion, predict_catalogue
from workflows.training import train_classifier

MODEL = "whole-way"


@dataclass(frozen=True)
class Trained:
    source: Path
    registered: RegisteredVersion
    bundle: Path
    report: Path
    pages: list[Path]  # the Decks as Flyte wrote them


@pytest.fixture(scope="module")
def trained(
    mlflow_store: MlflowClient, local_runs: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Trained]:
    folder = tmp_path_factory.mktemp("trained")
    local_cache.use(folder / "cache")  # or what other tests have trained would be taken, without a page
    source, report = write_catalogue(folder / "catalogue", labelled=45, unlabelled=6), folder / "reports/training.json"
    before = decks()
    registered = train_classifier(source=str(source), config=TINY, model=MODEL, report=str(report))
    pages = sorted(decks() - before)
    yield Trained(source, registered, versions.fetch(mlflow_store, MODEL, str(registered.version)), report, pages)
    local_cache.use(cache_folder())


def decks() -> set[Path]:
    sandbox = FlyteContextManager.current_context().file_access.local_sandbox_dir
    return set(Path(sandbox).glob("*/deck.html"))


def catalogue_rows(trained: Trained) -> tuple[pd.DataFrame, list[Product]]:
    rows = pd.read_csv(trained.source / "X_train_update.csv", index_col=0, keep_default_na=False)
    photos = [photo_path(trained.source, i).read_bytes() for i in rows.index]
    return rows, [Product(*p) for p in zip(rows["designation"], rows["description"], photos, strict=True)]


def test_a_catalogue_becomes_a_registered_champion(trained, mlflow_store):
    assert (trained.registered.model, trained.registered.alias) == (MODEL, "champion")
    assert versions.champion_version(mlflow_store, MODEL) == trained.registered.version
    assert mlflow_store.get_run(trained.registered.run_id).info.status == "FINISHED"
    report = json.loads(trained.report.read_text())
    assert list(report["evaluation"]["systems"]) == ["bag", "lstm", "vgg16", "pool", "most_frequent", "tfidf_svm"]
    assert report["ingest"]["counts"]["labelled"] == {
        "read": 45, "kept": 45, "quarantined": 0, "reasons": {}, "photos": {"ok": 45}, "issues": {}
    }  # fmt: skip


def test_a_bundle_holds_no_pickle_and_all_that_is_promised(trained):
    files = {path.relative_to(trained.bundle).as_posix() for path in trained.bundle.rglob("*") if path.is_file()}
    promised = {"bundle.json", "splits.parquet", "reference.parquet", "test.parquet", "evaluation.json", "README.md"}
    assert promised <= files
    members = {"members/bag/linear.safetensors", "members/lstm/lstm.safetensors", "members/vgg16/vgg16.safetensors"}
    extractors = {f"extractors/{name}/settings.json" for name in ("ngrams", "tokens", "pixels")}
    assert members | extractors | {"extractors/tokens/tokenizer.json"} <= files
    assert {Path(file).suffix for file in files} <= {".json", ".parquet", ".safetensors", ".md"}


def test_every_stage_shows_one_page_in_flytes_console_under_2_mb(trained):
    shown = {}
    for path in trained.pages:
        page = path.read_text()
        (title,) = re.findall(r"<li onclick[^>]*>([^<]+)</li>", page)  # one tab, or plotly.js would be there twice
        shown[title] = path.stat().st_size
    assert set(shown) == {
        "Catalogue",
        "Member bag",
        "Member lstm",
        "Member vgg16",
        "Split",
        "Pool",
        "Evaluation",
        "Registration",
    }
    assert max(shown.values()) < 2_000_000


def test_a_product_gets_the_same_answer_alone_in_a_batch_and_in_evaluation(trained):
    test = pd.read_parquet(trained.bundle / bundle.TEST).set_index("row")
    predictor = Predictor.load(trained.bundle)
    rows, products = catalogue_rows(trained)
    batch = predictor.score(products)
    for row, evaluated in test.iterrows():
        alone = predictor.score([products[rows.index.get_loc(row)]])
        at = rows.index.get_loc(row)
        assert alone.predicted[0] == batch.predicted[at] == evaluated["predicted"]
        assert alone.confidence[0] == pytest.approx(evaluated["confidence"], abs=1e-3)
        assert batch.confidence[at] == pytest.approx(evaluated["confidence"], abs=1e-3)


def test_each_row_was_evaluated_or_calibrated_on_its_own_side_only(trained):
    splits = TitleSplits.load(trained.bundle / bundle.TITLE_SPLITS)
    test = pd.read_parquet(trained.bundle / bundle.TEST)
    reference = pd.read_parquet(trained.bundle / bundle.REFERENCE)
    assert set(splits.lookup(hash_titles(test["designation"]))) == {TEST}
    sides = splits.lookup(hash_titles(reference["designation"]))
    assert set(sides) == {1, 2, TEST}
    # how sure answers are is told by rows that the registered members had not seen
    assert reference.loc[sides == TEST, DRIFT_COLUMNS].notna().all(axis=None)
    assert reference.loc[sides != TEST, FITTED_COLUMNS].isna().all(axis=None)
    others = [column for column in DRIFT_COLUMNS if column not in FITTED_COLUMNS]
    assert reference[others].notna().all(axis=None)


def test_other_test_rows_with_other_labels_change_nothing_but_the_report(trained, tmp_path):
    """Their sides are known, so that only what they hold is new: members and pool stay bit for bit."""
    source = write_catalogue(tmp_path / "catalogue", labelled=45, unlabelled=6)
    labels = pd.read_csv(source / "Y_train_CVw08PX.csv", index_col=0)
    for row in pd.read_parquet(trained.bundle / bundle.TEST)["row"]:
        set_cell(source / "X_train_update.csv", row, "description", f"tout autre chose {row * 7919}")
        photo_path(source, row).write_bytes(photo_bytes(200 + row))
        labels.loc[row] = labels["prdtypecode"].map({10: 1300, 1300: 2583, 2583: 10})[row]
    labels.to_csv(source / "Y_train_CVw08PX.csv")
    again = train_classifier(source=str(source), config=TINY, model=MODEL, report="")
    other = versions.fetch(connect(), MODEL, str(again.version))
    learned = [files(folder, "extractors", "members") for folder in (trained.bundle, other)]
    assert set(learned[0]) >= {"members/bag/linear.safetensors", "extractors/tokens/tokenizer.json"}
    assert learned[0] == learned[1]
    assert bundle.read_manifest(trained.bundle).pool == bundle.read_manifest(other).pool
    f1 = [
        Evaluation.load(folder / bundle.EVALUATION).systems["bag"].weighted_f1.value
        for folder in (trained.bundle, other)
    ]
    assert f1[0] > 0.9 > 0.2 > f1[1]


def files(folder: Path, *parts: str) -> dict[str, bytes]:
    """What these files and folders of a bundle hold."""
    found = [
        path for part in parts for path in ((folder / part).rglob("*") if (folder / part).is_dir() else [folder / part])
    ]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found if path.is_file()}


def test_every_product_to_predict_gets_one_row_whatever_is_wrong_with_it(trained, tmp_path, capsys):
    source = write_catalogue(tmp_path / "catalogue", labelled=3, unlabelled=6)
    rows = source / "X_test_update.csv"
    set_cell(rows, 4, "designation", "")
    set_cell(rows, 4, "description", "")
    photo_path(source, 4, "test").write_bytes(b"no photo at all")
    photo_path(source, 5, "test").unlink()
    set_cell(rows, 6, "productid", "none")
    predict_catalogue(source=str(source), model=MODEL, output=str(tmp_path / "out"))
    submission = pd.read_csv(tmp_path / "out/submission.csv", index_col=0)
    details = pd.read_parquet(tmp_path / "out/details.parquet").set_index("row")
    assert submission.columns.tolist() == ["prdtypecode"]
    assert submission.index.tolist() == [3, 4, 5, 6, 7, 8]
    assert details["used"].to_dict() == {
        3: "text+photo", 4: "none", 5: "text", 6: "text", 7: "text+photo", 8: "text+photo"
    }  # fmt: skip
    prior = bundle.read_manifest(trained.bundle).pool.prior
    assert details.loc[4, "confidence"] == pytest.approx(max(prior))
    assert (details["probability_1"] == details["confidence"]).all()
    printed = " ".join(capsys.readouterr().out.split())
    assert "6 products predicted by whole-way version" in printed
    assert "photo_status ok 3 missing 2 not_an_image 1" in printed
    champion = fetch_champion(source=str(source), model=MODEL)
    assert {path.name for path in Path(champion.folder.download()).iterdir()} == set(bundle.PREDICTOR_PARTS)
    assert champion.codes == bundle.read_manifest(trained.bundle).codes


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (
            ",prdtypecode\n0,10\n",
            "scored on 0 of 3 products, the catalogue's own labels do not match: ",
        ),
        (
            ",prdtypecode\n3,10\n4,\n5,99\n",
            "scored on 1 of 3 products, the catalogue's own labels do not match: ",
        ),
        (",prdtypecode\n3,10\n3,10\n", "Y_test.csv: row number 3 occurs more than once"),
        (",code\n3,10\n", "Y_test.csv: column prdtypecode is missing (found: code)"),
        ("", "Y_test.csv: the file is empty"),
    ],
)
def test_labels_that_do_not_match_stop_no_prediction(trained, tmp_path, capsys, answers, message):
    source = write_catalogue(tmp_path / "catalogue", labelled=3, unlabelled=3)
    (source / "Y_test.csv").write_text(answers)
    predict_catalogue(source=str(source), model=MODEL, output=str(tmp_path / "out"))
    assert pd.read_csv(tmp_path / "out/submission.csv", index_col=0).index.tolist() == [3, 4, 5]
    printed = capsys.readouterr().out
    assert message in printed
    assert ("against the catalogue's own labels" in printed) == ("scored on 1" in printed)


def test_a_catalogue_with_another_label_set_never_replaces_the_champion(trained, mlflow_store, tmp_path):
    source = write_catalogue(tmp_path / "catalogue", labelled=45, unlabelled=1)
    labels = pd.read_csv(source / "Y_train_CVw08PX.csv", index_col=0)
    labels.replace({10: 11}).to_csv(source / "Y_train_CVw08PX.csv")
    before = versions.champion_version(mlflow_store, MODEL)
    registered = train_classifier(source=str(source), config=TINY, model=MODEL, report="")
    assert registered.alias == "challenger"
    assert registered.reason.startswith("refused: other classes than the champion's (new 11; gone 10)")
    assert versions.champion_version(mlflow_store, MODEL) == before


def test_a_bundle_of_another_schema_is_refused_with_the_reason(trained, tmp_path):
    manifest = json.loads((trained.bundle / bundle.MANIFEST).read_text())
    (tmp_path / bundle.MANIFEST).write_text(json.dumps(manifest | {"schema_version": 99}))
    with pytest.raises(ValueError, match=r"has schema version 99, this code reads 2: use the package version"):
        Predictor.load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"holds no bundle\.json: it is not a bundle"):
        Predictor.load(tmp_path / "nowhere")


def test_scores_name_the_most_probable_codes_best_first(trained):
    predictor = Predictor.load(trained.bundle)
    scores = predictor.score([Product("Produit, livres"), Product()])
    codes, probabilities = scores.top(99)
    assert codes.shape == (2, 3)
    assert (np.diff(probabilities, axis=1) <= 0).all()
    assert codes[:, 0].tolist() == scores.predicted.tolist()
    said = {name: mask.tolist() for name, mask in scores.available.items()}
    assert said == {"bag": [True, False], "lstm": [True, False], "vgg16": [False, False]}
    np.testing.assert_allclose(scores.probabilities.sum(1), 1)
    assert dataclasses.asdict(predictor.manifest.lineage)["synthetic"] is False


@dynamic
def extract_shards(shards: list[Shard], splits: Splits) -> list[FeatureShard]:
    pixels = prepare_extractor(name="pixels", key="", config=TINY)
    extract = map_task(partial(extract_features, splits=splits, extractor=pixels))
    return extract(shard=shards, key=[shard.sha256 for shard in shards], position=list(range(len(shards))))


@workflow
def extract_all(source: str) -> list[FeatureShard]:
    run, catalogue_source, titles, _, config, shares, sample, _, _ = open_run(
        source=source, model="unused", config=TINY, report=""
    )
    _, labelled, _ = ingest(source=catalogue_source, config=config, run=run)
    splits = split(shards=labelled, previous_splits=titles, config=shares, sample=sample, run=run)
    return extract_shards(shards=labelled, splits=splits)


def test_the_items_of_a_map_task_do_not_overwrite_each_other(trained):
    shards = extract_all(source=str(trained.source))
    rows = [ShardArrays([local(shard.file)]).column("row").tolist() for shard in shards]
    assert rows == [list(range(25)), list(range(25, 45))]


def test_source_and_outputs_may_lie_on_s3(trained, bucket):
    fsspec.filesystem("s3").put(str(trained.source), f"{bucket}/mine", recursive=True)
    predict_catalogue(source=f"{bucket}/mine", model=MODEL, output=f"{bucket}/out")
    submission = pd.read_csv(f"{bucket}/out/submission.csv", index_col=0)
    assert submission.index.tolist() == [45, 46, 47, 48, 49, 50]
    details = pd.read_parquet(f"{bucket}/out/details.parquet")
    assert details["used"].unique().tolist() == ["text+photo"]
