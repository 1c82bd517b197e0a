from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pytest

from rakuten_tasks.config import IngestConfig, PublicationConfig
from rakuten_tasks.data.fingerprint import fingerprint, listing
from rakuten_tasks.data.layout import find_test_labels, is_synthetic, test_labels
from rakuten_tasks.data.read_catalogue import ingest
from rakuten_tasks.data.schema import TEXT, CatalogueError
from rakuten_tasks.data.shards import read_products
from rakuten_tasks.data.splits import TEST, TRAIN, TitleSplits, hash_titles
from rakuten_tasks.data.versions import files as version_files
from rakuten_tasks.data.versions.commit import PublishResult, SourceInfo, publish
from rakuten_tasks.data.versions.files import CatalogueFiles
from rakuten_tasks.data.versions.manifest import CatalogueVersion, find_version
from rakuten_tasks.models.bundle import MANIFEST
from rakuten_tasks.monitoring.inputs import catalogue_frame
from rakuten_tasks.registry import versions
from rakuten_tasks.reports.publication_deck import publication_deck
from rakuten_tasks.tasks.publish import Publication
from rakuten_tasks.tasks.start_run import load_previous_splits, stat_source
from tests.support.bundles import write_bundle
from tests.support.catalogues import NAMES, TINY, drop_rows, photo_bytes, photo_path, set_cell, write_catalogue
from workflows.etl import publish_catalogue
from workflows.prediction import predict_catalogue
from workflows.training import train_classifier

answers_of = test_labels
del test_labels  # pytest would run it

CONFIG = PublicationConfig(ingest=IngestConfig(rows_per_shard=10, max_bad_share=0.2), split=TINY.split)
X_TRAIN, Y_TRAIN, X_TEST = "X_train_update.csv", "Y_train_CVw08PX.csv", "X_test_update.csv"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_catalogue(tmp_path / "catalogue", labelled=24, unlabelled=4)


def newer(folder: Path, labelled: int = 30, unlabelled: int = 0) -> Path:
    """The rows of `source` and more of them, as a shop exports them a week later."""
    write_catalogue(folder, labelled, max(unlabelled, 1))
    if not unlabelled:
        (folder / X_TEST).unlink()
    return folder


def published(
    source: Path, destination: Path | str, add: bool = True, config: PublicationConfig = CONFIG, **options: object
) -> PublishResult:
    work = Path(str(source) + "-work")
    shutil.rmtree(work, ignore_errors=True)
    read = ingest(str(source), work / "read", config.ingest)
    origin = SourceInfo(str(source), find_test_labels(str(source), work))
    return publish(read, origin, str(destination), config, add, work / "draft")


def rows_of(address: Path | str, out: Path, part: str = "labelled") -> pd.DataFrame:
    found = ingest(str(address), out, IngestConfig())
    return pd.concat(map(read_products, getattr(found, part))).set_index("row")


def splits_of(outcome: PublishResult) -> TitleSplits:
    return outcome.published.title_splits()


def quarantine_of(outcome: PublishResult) -> pd.DataFrame:
    with outcome.published.open(outcome.published.manifest.quarantine) as file:
        return pd.read_parquet(file)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_published_is_read_as_its_source_is(source: Path, tmp_path: Path):
    outcome = published(source, tmp_path / "shop")
    here, there = (ingest(str(place), tmp_path / name, CONFIG.ingest) for place, name in
                   ((source, "a"), (tmp_path / "shop", "b")))  # fmt: skip
    for part in ("labelled", "unlabelled"):
        assert [shard.sha256 for shard in getattr(there, part)] == [shard.sha256 for shard in getattr(here, part)]
        pd.testing.assert_frame_equal(
            rows_of(source, tmp_path / "c", part), rows_of(tmp_path / "shop", tmp_path / "d", part)
        )
    same = ("counts", "class_counts", "names", "synthetic")
    assert [getattr(there, name) for name in same] == [getattr(here, name) for name in same]
    manifest = outcome.published.manifest
    assert (manifest.version, manifest.rows("labelled"), manifest.rows("unlabelled")) == (1, 24, 4)
    assert manifest.columns == {field.name: str(field.type) for field in TEXT}
    assert manifest.read["labelled"].kept + manifest.read["labelled"].quarantined == manifest.read["labelled"].read
    assert manifest.source == str(source)


def test_bad_rows_stay_outside_and_are_told_with_their_reasons(source: Path, tmp_path: Path):
    set_cell(source / X_TRAIN, 3, "designation", "")
    outcome = published(source, tmp_path / "shop")
    manifest = outcome.published.manifest
    assert (manifest.read["labelled"].read, manifest.read["labelled"].kept) == (24, 23)
    assert outcome.left_out == {"no_title": 1}
    assert quarantine_of(outcome)[["row", "productid", "reason"]].values.tolist() == [[3, "1003", "no_title"]]
    assert len(rows_of(tmp_path / "shop", tmp_path / "out")) == 23


def test_new_products_join_and_none_that_was_there_moves_or_changes(source: Path, tmp_path: Path):
    first = published(source, tmp_path / "shop")
    before = rows_of(tmp_path / "shop", tmp_path / "a")
    export = newer(tmp_path / "export")
    set_cell(export / X_TRAIN, 5, "description", "corrected")
    second = published(export, tmp_path / "shop")
    manifest = second.published.manifest
    assert (manifest.version, manifest.added_to, second.new, second.joined) == (2, 1, True, 6)
    assert second.left_out == {"already_published": 23, "published_otherwise": 1}
    counts = manifest.read["labelled"]
    assert (counts.read, counts.kept, counts.quarantined) == (30, 6, 24)
    left_out = quarantine_of(second).set_index("row")
    assert left_out.loc[5, ["productid", "description", "reason"]].tolist() == [
        "1005", "corrected", "published_otherwise",
    ]  # fmt: skip
    after = rows_of(tmp_path / "shop", tmp_path / "b")
    pd.testing.assert_frame_equal(after.loc[:23], before)
    assert after.loc[24:, "productid"].tolist() == [1024, 1025, 1026, 1027, 1028, 1029]
    assert bytes(after.loc[27, "photo"]) == photo_bytes(27)
    older, newest = splits_of(first), splits_of(second)
    titles = before["designation"].tolist()
    assert newest.lookup(hash_titles(titles)).tolist() == older.lookup(hash_titles(titles)).tolist()
    assert (len(older), len(newest)) == (24, 30)
    assert set(newest.lookup(hash_titles(after.loc[24:, "designation"]))) <= {0, 1, 2, 3}
    # what was published is shared, not written again
    assert manifest.labelled[:3] == first.published.manifest.labelled
    # the export has nothing to predict, so the questions of before stay
    assert manifest.unlabelled == first.published.manifest.unlabelled


def test_row_numbers_of_several_sources_do_not_collide(source: Path, tmp_path: Path):
    published(source, tmp_path / "shop")
    other = write_catalogue(tmp_path / "other", 40, 3)
    drop_rows(other / X_TRAIN, list(range(30)))
    drop_rows(other / Y_TRAIN, list(range(30)))
    rows = pd.read_csv(other / X_TRAIN, index_col=0).set_axis(range(10))
    rows.to_csv(other / X_TRAIN)
    pd.read_csv(other / Y_TRAIN, index_col=0).set_axis(range(10)).to_csv(other / Y_TRAIN)
    outcome = published(other, tmp_path / "shop")
    assert rows_of(tmp_path / "shop", tmp_path / "out").index.tolist() == list(range(34))
    assert rows_of(tmp_path / "shop", tmp_path / "out", "unlabelled").index.tolist() == [40, 41, 42]
    assert outcome.published.manifest.class_counts == {
        str(code): n for code, n in zip(NAMES, (12, 11, 11), strict=True)
    }


def test_the_same_again_publishes_nothing_and_says_so(source: Path, tmp_path: Path):
    first = published(source, tmp_path / "shop")
    before = files(tmp_path / "shop")
    for add in (True, False):
        again = published(source, tmp_path / "shop", add=add)
        assert (again.new, again.joined, again.published.manifest.version) == (False, 0, 1)
        assert "Nothing new was published" in publication_deck(again)
    assert files(tmp_path / "shop") == before
    assert "Nothing new" not in publication_deck(first)


def test_without_adding_the_source_stands_alone_and_sides_stay(source: Path, tmp_path: Path):
    first = published(source, tmp_path / "shop")
    export = newer(tmp_path / "export", 20, 2)
    set_cell(export / X_TRAIN, 5, "description", "corrected")
    second = published(export, tmp_path / "shop", add=False)
    rows = rows_of(tmp_path / "shop", tmp_path / "out")
    assert (len(rows), rows.loc[5, "description"], second.published.manifest.added_to) == (20, "corrected", 0)
    titles = rows["designation"].tolist()
    older, newest = splits_of(first), splits_of(second)
    assert newest.lookup(hash_titles(titles)).tolist() == older.lookup(hash_titles(titles)).tolist()
    assert len(newest) == 24  # the titles that are gone keep their sides too, should they come back


def lose_a_class(folder: Path) -> None:
    gone = list(range(2, 24, 3))
    for name in (X_TRAIN, Y_TRAIN):
        drop_rows(folder / name, gone)


def spoil_a_fifth_and_more(folder: Path) -> None:
    for row in range(6):
        set_cell(folder / X_TRAIN, row, "designation", "")


def empty_it(folder: Path) -> None:
    for name in (X_TRAIN, Y_TRAIN):
        drop_rows(folder / name, list(range(24)))


def shrink_it(folder: Path) -> None:
    for name in (X_TRAIN, Y_TRAIN):
        drop_rows(folder / name, list(range(9, 24)))


def unlabel_it(folder: Path) -> None:
    (folder / Y_TRAIN).unlink()


BROKEN = {
    lose_a_class: "class 2583 of version 1 of .*shop has no product any more",
    spoil_a_fifth_and_more: "6 of 24 labelled rows are bad",
    empty_it: "no rows below the header line",
    shrink_it: "9 labelled products where version 1 of .*shop has 24",
    unlabel_it: "no Y_train_CVw08PX.csv in",
}


@pytest.mark.parametrize("break_it", BROKEN)
def test_a_broken_catalogue_is_refused_and_the_earlier_version_stays(break_it, source: Path, tmp_path: Path):
    config = dataclasses.replace(CONFIG, split=dataclasses.replace(CONFIG.split, test=0.1))
    published(source, tmp_path / "shop")
    before = files(tmp_path / "shop")
    break_it(source)
    with pytest.raises((CatalogueError, FileNotFoundError), match=BROKEN[break_it]):
        published(source, tmp_path / "shop", add=False, config=config)
    assert files(tmp_path / "shop") == before


def test_what_could_not_be_trained_on_is_refused(tmp_path: Path):
    few = write_catalogue(tmp_path / "few", 3, 1)
    with pytest.raises(CatalogueError, match="3 labelled products of 3 classes are too few to split"):
        published(few, tmp_path / "shop")
    assert not (tmp_path / "shop").exists()


def test_made_up_products_do_not_join_real_ones(source: Path, tmp_path: Path):
    published(source, tmp_path / "shop")
    export = newer(tmp_path / "export")
    (export / "SYNTHETIC.md").touch()
    with pytest.raises(CatalogueError, match="made-up products would join version 1"):
        published(export, tmp_path / "shop")
    assert not is_synthetic(str(tmp_path / "shop"))


def test_a_catalogue_is_not_published_into_another_one_nor_to_nowhere(source: Path):
    with pytest.raises(CatalogueError, match="holds a catalogue in the challenge's layout"):
        published(source, source)
    with pytest.raises(CatalogueError, match="name a folder or fsspec address"):
        published(source, "")


def test_a_place_that_is_no_folder_is_refused_before_anything_is_written(source: Path, tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    for place in ("file", "file/below"):
        with pytest.raises(CatalogueError, match="file is no folder that can be written to"):
            published(source, tmp_path / place)
    assert (tmp_path / "file").read_text() == "mine"


def test_nothing_joins_a_version_of_which_a_shard_is_gone(source: Path, tmp_path: Path):
    first = published(source, tmp_path / "shop")
    (tmp_path / "shop/files" / first.published.manifest.labelled[0].photos).unlink()
    with pytest.raises(CatalogueError, match="of version 1 is gone: put it back from a copy"):
        published(newer(tmp_path / "export"), tmp_path / "shop")
    assert not (tmp_path / "shop/versions/000002.json").exists()


def test_a_publisher_that_dies_leaves_the_earlier_version_current(source: Path, tmp_path: Path, monkeypatch):
    published(source, tmp_path / "shop")
    export = newer(tmp_path / "export")
    before = files(tmp_path / "shop")

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(version_files.os, "link", dies)
        with pytest.raises(KeyboardInterrupt):
            published(export, tmp_path / "shop")
    current = find_version(str(tmp_path / "shop"))
    assert current is not None
    assert current.manifest.version == 1
    now = files(tmp_path / "shop")
    assert {name: now[name] for name in before} == before
    assert not list((tmp_path / "shop/versions").glob("*.json.*"))
    assert published(export, tmp_path / "shop").published.manifest.version == 2


def several(tmp_path: Path, n: int) -> list[Path]:
    """Exports of six products each, that no other has."""
    exports = []
    for i in range(n):
        folder, first = write_catalogue(tmp_path / f"export-{i}", 24 + 6 * (i + 1), 1), 24 + 6 * i
        for name in (X_TRAIN, Y_TRAIN):
            drop_rows(folder / name, list(range(first)))
        (folder / X_TEST).unlink()
        exports.append(folder)
    return exports


def assert_all_join(source: Path, exports: list[Path], destination: str, tmp_path: Path) -> None:
    published(source, destination)
    with ThreadPoolExecutor(len(exports)) as pool:
        outcomes = list(pool.map(lambda export: published(export, destination), exports))
    assert sorted(outcome.published.manifest.version for outcome in outcomes) == list(range(2, 2 + len(exports)))
    rows = rows_of(destination, tmp_path / "out")
    assert sorted(rows["productid"]) == list(range(1000, 1024 + 6 * len(exports)))
    assert rows.index.tolist() == list(range(24 + 6 * len(exports)))


def test_publishers_at_once_lose_nothing(source: Path, tmp_path: Path):
    assert_all_join(source, several(tmp_path, 4), str(tmp_path / "shop"), tmp_path)


def test_publishers_at_once_lose_nothing_in_an_object_store(source: Path, tmp_path: Path, bucket: str):
    assert_all_join(source, several(tmp_path, 3), f"{bucket}/shop", tmp_path)
    store = fsspec.filesystem("s3")
    assert len(store.ls(f"{bucket}/shop/versions")) == 4


@pytest.mark.parametrize("place", ["local", "s3", "memory"])
def test_a_version_number_is_given_once(place: str, source: Path, tmp_path: Path, request: pytest.FixtureRequest):
    destination = {"local": lambda: str(tmp_path / "shop"), "memory": lambda: f"memory://{tmp_path.name}/shop"}.get(
        place, lambda: f"{request.getfixturevalue('bucket')}/shop"
    )()
    manifest = published(source, destination).published.manifest
    assert CatalogueFiles.at(destination).create_manifest(1, b"of a slower publisher") is False
    assert find_version(destination).manifest == manifest


def test_an_error_of_the_store_is_a_lost_race_only_if_another_manifest_exists(tmp_path: Path, monkeypatch):
    store = CatalogueFiles.at(f"memory://{tmp_path.name}/race")
    write = store.filesystem.pipe_file

    def fails(path: str, content: bytes, **_: object) -> None:
        if content == b"reply lost":
            write(path, content)
        raise OSError("the server says no")

    monkeypatch.setattr(store.filesystem, "pipe_file", fails)
    with pytest.raises(OSError, match="the server says no"):
        store.create_manifest(1, b"nothing written")
    assert store.create_manifest(1, b"reply lost") is True
    assert store.create_manifest(1, b"too late") is False


def test_an_object_store_takes_a_catalogue_and_gives_it_back(source: Path, tmp_path: Path, bucket: str):
    outcome = published(source, f"{bucket}/shop")
    assert outcome.published.address == f"{bucket}/shop/versions/000001.json"
    pd.testing.assert_frame_equal(rows_of(f"{bucket}/shop", tmp_path / "a"), rows_of(source, tmp_path / "b"))
    published(source, tmp_path / "shop")
    assert fingerprint(f"{bucket}/shop") == fingerprint(str(tmp_path / "shop"))
    assert published(source, f"{bucket}/shop/").new is False


def test_the_labels_of_a_published_source_are_published_again(source: Path, tmp_path: Path, bucket: str):
    pd.Series([10, 1300, 2583, 10], range(24, 28), name="prdtypecode").to_csv(source / "Y_test.csv")
    first = published(source, f"{bucket}/shop").published
    origin = SourceInfo("shop", find_test_labels(first.address, tmp_path / "work"))
    read = ingest(first.address, tmp_path / "read", CONFIG.ingest)
    second = publish(read, origin, str(tmp_path / "copy"), CONFIG, True, tmp_path / "draft").published
    assert second.manifest.answers == first.manifest.answers
    assert answers_of(second.address).to_dict() == {24: 10, 25: 1300, 26: 2583, 27: 10}


def test_a_version_is_a_source_of_its_own_that_later_ones_do_not_change(source: Path, tmp_path: Path):
    first = published(source, tmp_path / "shop")
    then = fingerprint(str(tmp_path / "shop"))
    published(newer(tmp_path / "export"), tmp_path / "shop")
    assert fingerprint(str(tmp_path / "shop")).content != then.content
    assert fingerprint(first.published.address) == then
    assert listing(first.published.address) == then.listing
    assert len(rows_of(first.published.address, tmp_path / "out")) == 24
    assert stat_source(str(tmp_path / "shop")).address == str(tmp_path / "shop/versions/000002.json")
    with pytest.raises(FileNotFoundError, match=r"no .*000007.json: the latest versions there are 1, 2"):
        fingerprint(str(tmp_path / "shop/versions/000007.json"))


def test_a_file_that_is_gone_or_was_changed_is_told(source: Path, tmp_path: Path):
    outcome = published(source, tmp_path / "shop")
    shard = tmp_path / "shop/files" / outcome.published.manifest.labelled[1].text
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(CatalogueError, match="of version 1 is not what was published: put it back from a copy"):
        rows_of(tmp_path / "shop", tmp_path / "out")
    shard.unlink()
    with pytest.raises(CatalogueError, match="of version 1 is gone"):
        rows_of(tmp_path / "shop", tmp_path / "out")


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 1}', '{"format": 2}', '{"format": 2, "new": 3}'])
def test_a_manifest_that_cannot_be_read_is_told(text: str, source: Path, tmp_path: Path):
    published(source, tmp_path / "shop")
    (tmp_path / "shop/versions/000002.json").write_text(text)
    with pytest.raises(CatalogueError, match=r"000002.json is no manifest that this package can read"):
        find_version(str(tmp_path / "shop"))


def test_answers_travel_with_the_products_to_predict(source: Path, tmp_path: Path):
    pd.DataFrame({"prdtypecode": [10, 1300, 2583, 10]}, index=range(24, 28)).to_csv(source / "Y_test.csv")
    published(source, tmp_path / "shop")
    assert answers_of(str(tmp_path / "shop")).to_dict() == {24: 10, 25: 1300, 26: 2583, 27: 10}
    published(newer(tmp_path / "export"), tmp_path / "shop")
    assert answers_of(str(tmp_path / "shop")).to_dict() == {24: 10, 25: 1300, 26: 2583, 27: 10}


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ("0,10\n1,10\n2,10\n3,10", r"labels of rows that are no product: 4 \(rows 0, 1, 2 and 1 more\)"),
        ("24,10\n25,10", r"products without a label: 2 \(rows 26, 27\)"),
        ("24,\n25,10\n26,10\n27,x", r"labels that are blank or no whole number: 2 \(rows 24, 27\)"),
        ("24,10\n25,10\n26,10\n27,11", r"labels of an unknown class: 1 \(rows 27\)"),
    ],
)
def test_answers_that_do_not_match_the_products_are_not_published(
    answers: str, message: str, source: Path, tmp_path: Path
):
    (source / "Y_test.csv").write_text(f",prdtypecode\n{answers}\n")
    with pytest.raises(CatalogueError, match=rf"not published: .*{message}"):
        published(source, tmp_path / "shop")
    (source / X_TEST).unlink()
    with pytest.raises(CatalogueError, match="labels of products to predict and no such products: add X_test"):
        published(source, tmp_path / "shop")
    assert not (tmp_path / "shop").exists()


def test_a_published_catalogue_is_looked_at_for_drift_as_its_source_is(source: Path, tmp_path: Path):
    published(source, tmp_path / "shop")
    for to_predict in (False, True):
        here, there = (
            catalogue_frame(str(place), None, to_predict).sort_values("designation", ignore_index=True)
            for place in (source, tmp_path / "shop")
        )
        assert len(there) == (4 if to_predict else 24)
        shared = [name for name in here.columns if name != "true_code"]
        pd.testing.assert_frame_equal(here[shared], there[shared])
    assert (
        catalogue_frame(str(tmp_path / "shop"), None, False, max_products=7)["true_code"].isin(list(NAMES)).sum() == 7
    )


def test_a_model_that_knows_a_title_keeps_its_side_and_that_is_told(
    source: Path, tmp_path: Path, mlflow_store, caplog: pytest.LogCaptureFixture
):
    outcome = published(source, tmp_path / "shop")
    splits = splits_of(outcome)
    titles = rows_of(tmp_path / "shop", tmp_path / "out")["designation"].tolist()
    moved = next(title for title in titles if splits.lookup(hash_titles([title]))[0] != TEST)
    bundle = write_bundle(tmp_path / "bundle")
    TitleSplits(hash_titles([moved]), np.array([TEST], np.uint8), np.array([10])).save(bundle / "splits.parquet")
    run = mlflow_store.create_run(versions.experiment_id(mlflow_store))
    versions.register(mlflow_store, "knows-a-title", bundle, run.info.run_id, {})
    with caplog.at_level(logging.WARNING):
        known = TitleSplits.load(Path(load_previous_splits("knows-a-title", source=str(tmp_path / "shop")).path))
    assert known.lookup(hash_titles([moved])).tolist() == [TEST]
    others = [title for title in titles if title != moved]
    assert known.lookup(hash_titles(others)).tolist() == splits.lookup(hash_titles(others)).tolist()
    assert "1 titles of" in caplog.text


def run_etl(source: Path | str, destination: Path | str, **options: object) -> Publication:
    return publish_catalogue(source=str(source), destination=str(destination), config=CONFIG, **options)


def test_the_workflow_publishes_adds_and_says_when_there_is_nothing_new(
    source: Path, tmp_path: Path, local_runs: Path, capsys: pytest.CaptureFixture
):
    first = run_etl(source, tmp_path / "shop")
    assert (first.version, first.new, first.labelled, first.unlabelled) == (1, True, 24, 4)
    assert "published version 1: 24 labelled products in 3 classes and 4 to predict" in capsys.readouterr().out
    second = run_etl(newer(tmp_path / "export"), tmp_path / "shop")
    assert (second.version, second.labelled, second.joined) == (2, 30, 6)
    assert second.left_out == {"already_published": 24}
    assert "6 of them added to version 1" in capsys.readouterr().out
    third = run_etl(tmp_path / "export", tmp_path / "shop")
    assert (third.version, third.new) == (2, False)
    assert "nothing new: version 2 has the same products" in capsys.readouterr().out
    assert "<h1>Published catalogue</h1>" in Path(third.deck.path).read_text(encoding="utf-8")


def test_photos_that_products_of_several_splits_share_are_counted(
    source: Path, tmp_path: Path, local_runs: Path, capsys: pytest.CaptureFixture
):
    for number in range(24):
        photo_path(source, number).write_bytes(photo_bytes(0))
    run_etl(source, tmp_path / "shop")
    splits = find_version(str(tmp_path / "shop")).manifest.splits
    held_out = pd.read_parquet(tmp_path / "shop/files" / splits)["split"].ne(TRAIN).sum()
    assert (
        f"\n{held_out} products of held-out splits have the photo file of a training product, under another title (1 p"
        in (capsys.readouterr().out)
    )


@pytest.mark.parametrize("damage", ["gone", "changed"])
def test_published_answers_that_are_damaged_stop_no_drift_check(
    damage: str, source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    pd.DataFrame({"prdtypecode": [10, 1300, 2583, 10]}, index=range(24, 28)).to_csv(source / "Y_test.csv")
    answers = Path(published(source, tmp_path / "shop").published.files.root, "files")
    file = next(answers.glob("answers-*"))
    file.unlink() if damage == "gone" else file.write_text(",prdtypecode\n24,\n99,10\n")
    frame = catalogue_frame(str(tmp_path / "shop"), None, to_predict=True)
    assert (len(frame), frame["true_code"].notna().sum()) == (4, 0)
    assert "accuracy is not measured: " in caplog.text


def test_published_answers_that_do_not_match_count_where_they_do(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    published(source, tmp_path / "shop")
    older = pd.Series([10, pd.NA, 10], index=[24, 25, 99], dtype="Int64")  # as versions had before ETL checked them
    monkeypatch.setattr(CatalogueVersion, "answers", lambda self, select: older)
    frame = catalogue_frame(str(tmp_path / "shop"), None, to_predict=True)
    assert (len(frame), frame["true_code"].notna().sum()) == (4, 1)
    assert "accuracy is measured where labels match: labels of rows that are no product: 1 (rows 99)" in caplog.text


@pytest.mark.slow
def test_a_published_catalogue_is_trained_on_with_its_sides_and_predicted(
    source: Path, tmp_path: Path, mlflow_store, local_runs: Path
):
    """Published with other shares than the training asks for: the published sides hold."""
    shares = dataclasses.replace(TINY.split, validation=0.2, blending=0.2, test=0.25)
    source = write_catalogue(tmp_path / "shares", labelled=45, unlabelled=3)
    outcome = published(source, tmp_path / "shop", config=dataclasses.replace(CONFIG, split=shares))
    registered = train_classifier(source=str(tmp_path / "shop"), config=TINY, model="on-published")
    bundle = versions.fetch(mlflow_store, "on-published", str(registered.version))
    trained, ours = TitleSplits.load(bundle / "splits.parquet"), splits_of(outcome)
    titles = rows_of(tmp_path / "shop", tmp_path / "out")["designation"].tolist()
    assert trained.lookup(hash_titles(titles)).tolist() == ours.lookup(hash_titles(titles)).tolist()
    lineage = json.loads((bundle / MANIFEST).read_text())["lineage"]
    assert lineage["catalogue"] == str(tmp_path / "shop/versions/000001.json")
    assert lineage["catalogue_hash"] == outcome.published.manifest.content
    predictions = predict_catalogue(source=str(tmp_path / "shop"), model="on-published")
    assert pd.read_csv(predictions.submission.path, index_col=0).index.tolist() == [45, 46, 47]
    assert photo_path(source, 45, "test").exists()
