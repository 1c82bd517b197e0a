from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import socket
from collections import Counter
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from rakuten_tasks.config import IngestConfig
from rakuten_tasks.data.fingerprint import fingerprint
from rakuten_tasks.data.ingested import Counts
from rakuten_tasks.data.part_index import index_part
from rakuten_tasks.data.photo_files import photo_status
from rakuten_tasks.data.read_catalogue import ingest
from rakuten_tasks.data.schema import TEXT, CatalogueError
from rakuten_tasks.data.shards import read_products
from rakuten_tasks.monitoring.features import photo_features
from tests.support.catalogues import NAMES, drop_rows, photo_bytes, photo_path, set_cell, write_catalogue
from tests.support.photo_cases import RED_SQUARES, REFUSED

LENIENT = IngestConfig(max_bad_share=1.0)
X_TRAIN, Y_TRAIN, X_TEST = "X_train_update.csv", "Y_train_CVw08PX.csv", "X_test_update.csv"


@pytest.fixture
def source(tmp_path):
    return write_catalogue(tmp_path / "catalogue")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def rows_of(shards) -> pd.DataFrame:
    return pd.concat(map(read_products, shards)).set_index("row")


def test_every_product_comes_out_with_its_text_label_and_photo(source, out):
    found = ingest(str(source), out, IngestConfig())
    rows = rows_of(found.labelled)
    assert rows.index.tolist() == list(range(12))
    assert rows.loc[5].drop(["photo", "title_hash", "photo_hash"]).replace({np.nan: None}).to_dict() == {
        "productid": 1005,
        "imageid": 5005,
        "designation": "Produit n° 5, piscine",
        "description": "Très <b>beau</b> produit 5",
        "prdtypecode": 2583,
        "photo_status": "ok",
        "issue": None,
    }
    assert [bytes(photo) for photo in rows["photo"]] == [photo_path(source, i).read_bytes() for i in range(12)]
    to_predict = rows_of(found.unlabelled)
    assert to_predict.index.tolist() == [12, 13, 14, 15]
    assert to_predict["prdtypecode"].isna().all()
    assert found.counts["labelled"] == Counts(12, 12, 0, {}, {"ok": 12}, {})
    assert found.counts["unlabelled"] == Counts(4, 4, 0, {}, {"ok": 4}, {})
    assert found.class_counts == {10: 4, 1300: 4, 2583: 4}
    assert found.names == NAMES
    assert not found.synthetic


def test_the_summary_says_the_same_in_json(source, out):
    found = ingest(str(source), out, IngestConfig(rows_per_shard=5))
    summary = json.loads(found.file.read_text())
    assert summary["content_hash"] == found.content_hash
    assert summary["class_counts"] == {"10": 4, "1300": 4, "2583": 4}
    assert summary["names"] == {"10": "livres", "1300": "drones", "2583": "piscine"}
    assert [(s["text"], s["photos"], s["rows"]) for s in summary["labelled"]] == [
        ("labelled-00000.text.parquet", "labelled-00000.photos.parquet", 5),
        ("labelled-00001.text.parquet", "labelled-00001.photos.parquet", 5),
        ("labelled-00002.text.parquet", "labelled-00002.photos.parquet", 2),
    ]


def test_a_shard_has_the_declared_columns_and_whole_numbers(source, out):
    shard = read_products(ingest(str(source), out, IngestConfig()).unlabelled[0])
    assert shard.columns.tolist() == [*TEXT.names, "photo"]
    assert shard[["row", "productid", "imageid", "prdtypecode"]].dtypes.eq("Int64").all()


def test_only_the_part_asked_for_is_read(source, out):
    (source / X_TEST).unlink()
    assert ingest(str(source), out, IngestConfig()).unlabelled == []
    write_catalogue(source.parent / "other")
    (source.parent / "other" / Y_TRAIN).unlink()
    found = ingest(str(source.parent / "other"), out, IngestConfig(), labelled=False)
    assert (found.labelled, found.class_counts) == ([], {})
    assert len(rows_of(found.unlabelled)) == 4
    assert not (out / "labelled-00000.text.parquet").exists()  # of the first run


@pytest.mark.parametrize(
    ("gone", "labelled", "message"),
    [
        (Y_TRAIN, True, f"no {Y_TRAIN} in .*: training needs both"),
        (X_TRAIN, True, f"no {X_TRAIN} in .*: training needs both"),
        (X_TEST, False, f"no {X_TEST} in .*: put the products to predict there"),
    ],
)
def test_a_file_that_is_needed_and_not_there_is_named(source, out, gone, labelled, message):
    (source / gone).unlink()
    with pytest.raises(FileNotFoundError, match=message):
        ingest(str(source), out, IngestConfig(), labelled=labelled)


def test_numbers_written_as_floats_and_extra_columns_do_no_harm(source, out):
    rows = pd.read_csv(source / X_TRAIN, index_col=0)
    rows["imageid"] = rows["imageid"].astype(float)
    rows["colour"] = "red"
    rows.to_csv(source / X_TRAIN)
    found = ingest(str(source), out, IngestConfig())
    assert found.counts["labelled"].photos == {"ok": 12}
    assert rows_of(found.labelled)["imageid"].tolist() == [5000 + i for i in range(12)]


def test_titles_that_look_like_missing_values_are_titles(source, out):
    set_cell(source / X_TRAIN, 3, "designation", "NA")
    set_cell(source / X_TRAIN, 4, "designation", "None")
    rows = rows_of(ingest(str(source), out, IngestConfig()).labelled)
    assert rows.loc[[3, 4], "designation"].tolist() == ["NA", "None"]


# ---- the content hash


def test_the_hash_is_the_same_after_a_rerun_and_for_any_shard_size(source, out, tmp_path):
    first = ingest(str(source), out, IngestConfig())
    again = ingest(str(source), tmp_path / "again", IngestConfig())
    smaller = ingest(str(source), tmp_path / "smaller", IngestConfig(rows_per_shard=5))
    assert first.content_hash == again.content_hash == smaller.content_hash
    assert first.labelled[0].sha256 == again.labelled[0].sha256 != smaller.labelled[0].sha256


def _another_photo(source):
    photo_path(source, 3).write_bytes(photo_bytes(99))


@pytest.mark.parametrize(
    "change",
    [
        _another_photo,
        lambda source: set_cell(source / X_TRAIN, 3, "description", "autre"),
        lambda source: set_cell(source / Y_TRAIN, 3, "prdtypecode", "1300"),
        lambda source: set_cell(source / X_TEST, 13, "designation", "autre"),
    ],
)
def test_the_hash_changes_with_any_kept_byte(source, out, change):
    before = ingest(str(source), out, IngestConfig()).content_hash
    change(source)
    assert ingest(str(source), out, IngestConfig()).content_hash != before


# ---- what stops a run


def _rewrite(file, old: str, new: str, encoding: str = "utf-8"):
    file.write_bytes(file.read_text().replace(old, new).encode(encoding))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda s: _rewrite(s / X_TRAIN, "imageid", "image"),
            rf"{X_TRAIN}: column imageid is missing \(found: designation, description, productid, image\): the first",
        ),
        (
            lambda s: pd.read_csv(s / X_TRAIN, index_col=0).to_csv(s / X_TRAIN, index=False),
            rf"{X_TRAIN}: the first column is designation: put the number of each row before it",
        ),
        (lambda s: _rewrite(s / Y_TRAIN, "prdtypecode", "code"), rf"{Y_TRAIN}: column prdtypecode is missing"),
        (lambda s: _rewrite(s / X_TRAIN, ",", ";"), rf"{X_TRAIN}, line 1: columns are separated by ';': save"),
        (lambda s: _rewrite(s / "classes.csv", "name", "nom"), r"classes\.csv: column name is missing"),
        (
            lambda s: _rewrite(s / X_TRAIN, "", "", "latin-1"),
            rf"{X_TRAIN}, line 2: not UTF-8 text .*: save",
        ),
        (lambda s: _rewrite(s / X_TRAIN, "", "", "utf-16"), rf"{X_TRAIN}, line 1: not UTF-8 text"),
        (
            lambda s: _rewrite(s / X_TRAIN, '"Produit n° 7', 'x"Produit n° 7'),
            rf"{X_TRAIN}, line 9: 6 fields, from",
        ),
        (
            lambda s: _rewrite(s / X_TRAIN, 'n° 7, drones"', "n° 7, drones"),
            rf"{X_TRAIN}, line 10: .* begins on line 9",
        ),
        (lambda s: _rewrite(s / X_TRAIN, "5000\n", "5000,x\n"), rf"{X_TRAIN}, line 2: 6 fields, from"),
        (lambda s: (s / X_TRAIN).write_bytes(b""), rf"{X_TRAIN}: the file is empty"),
        (
            lambda s: (s / X_TRAIN).write_text("<html>\n404\n"),
            rf"{X_TRAIN}: the first line, '<html>', names one",
        ),
        (lambda s: _rewrite(s / "classes.csv", "1300,", "10,"), r"classes\.csv: class 10 occurs more than once"),
        (lambda s: drop_rows(s / X_TRAIN, list(range(12))), rf"{X_TRAIN}: no rows below the header line"),
        (lambda s: (s / Y_TRAIN).write_bytes(b""), rf"{Y_TRAIN}: the file is empty"),
        (lambda s: _rewrite(s / X_TRAIN, "\n3,", "\nthree,"), rf"{X_TRAIN}, line 5: the first column .* holds 'three'"),
        (lambda s: _rewrite(s / X_TRAIN, "\n3,", "\n4,"), rf"{X_TRAIN}: row number 4 occurs more than once"),
        (lambda s: _rewrite(s / Y_TRAIN, "\n3,", "\n4,"), rf"{Y_TRAIN}: row number 4 occurs more than once"),
        (lambda s: _rewrite(s / X_TEST, "\n13,", "\n12,"), rf"{X_TEST}: row number 12 occurs more than once"),
        (
            lambda s: drop_rows(s / Y_TRAIN, [3, 4, 5, 7]),
            rf"labels do not match rows: 4 rows of .*{X_TRAIN} are not in .*{Y_TRAIN} \(3, 4, 5 and 1 more\): give",
        ),
        (
            lambda s: drop_rows(s / X_TRAIN, [3]),
            rf"labels do not match rows: 1 rows of .*{Y_TRAIN} are not in .*{X_TRAIN} \(3\)",
        ),
    ],
)
def test_a_catalogue_that_cannot_be_read_is_one_clear_error(source, out, spoil, message):
    spoil(source)
    with pytest.raises(CatalogueError, match=message):
        ingest(str(source), out, LENIENT)
    assert not out.exists()  # found before anything was written


# ---- single bad rows


@pytest.mark.parametrize(
    ("file", "column", "text", "reason"),
    [
        (X_TRAIN, "designation", "", "no_title"),
        (X_TRAIN, "designation", " <br> &amp;nbsp; ¿ ", "no_title"),
        (X_TRAIN, "designation", "\u200b&amp;shy;&lrm;", "no_title"),
        (X_TRAIN, "productid", "1002", "duplicate_productid"),
        (X_TRAIN, "productid", "", "missing_productid"),
        (X_TRAIN, "productid", "12.5", "bad_productid"),
        (X_TRAIN, "productid", "9" * 30, "bad_productid"),
        (Y_TRAIN, "prdtypecode", "", "missing_label"),
        (Y_TRAIN, "prdtypecode", "livres", "bad_label"),
    ],
)
def test_a_bad_labelled_row_goes_to_quarantine_with_its_reason(source, out, file, column, text, reason):
    set_cell(source / file, 5, column, text)
    found = ingest(str(source), out, LENIENT)
    assert found.counts["labelled"] == Counts(12, 11, 1, {reason: 1}, {"ok": 11}, {})
    assert 5 not in rows_of(found.labelled).index
    quarantined = pd.read_parquet(found.quarantine)
    expected = {
        "part": "labelled",
        "row": 5,
        "productid": "1005",
        "imageid": "5005",
        "designation": "Produit n° 5, piscine",
        "description": "Très <b>beau</b> produit 5",
        "prdtypecode": "2583",
        "reason": reason,
        column: text,
    }
    assert quarantined.to_dict("records") == [expected]


def test_a_productid_of_a_bad_row_is_free_for_a_sound_one(source, out):
    set_cell(source / X_TRAIN, 3, "designation", "")
    set_cell(source / X_TRAIN, 5, "productid", "1003")
    found = ingest(str(source), out, LENIENT)
    assert found.counts["labelled"].reasons == {"no_title": 1}
    assert 5 in rows_of(found.labelled).index


def test_productids_are_compared_across_the_whole_file(tmp_path, out):
    source = write_catalogue(tmp_path / "large", labelled=1100, unlabelled=1)
    set_cell(source / X_TRAIN, 1090, "productid", "1001")
    found = ingest(str(source), out, IngestConfig())
    assert found.counts["labelled"].reasons == {"duplicate_productid": 1}
    assert len(rows_of(found.labelled)) == 1099


@pytest.mark.parametrize(
    ("column", "text", "issue", "photo_status"),
    [
        ("designation", "", "no_title", "ok"),
        ("productid", "1012", "duplicate_productid", "missing"),
        ("productid", "", "missing_productid", "missing"),
        ("productid", "abc", "bad_productid", "missing"),
        ("imageid", "", None, "none"),
    ],
)
def test_a_product_to_predict_is_flagged_and_never_dropped(source, out, column, text, issue, photo_status):
    set_cell(source / X_TEST, 14, column, text)
    found = ingest(str(source), out, IngestConfig(max_bad_share=0))
    rows = rows_of(found.unlabelled)
    assert rows.index.tolist() == [12, 13, 14, 15]
    assert rows["issue"].notna().tolist() == [False, False, issue is not None, False]
    assert (rows.loc[14, "issue"] if issue else None) == issue
    assert rows.loc[14, "photo_status"] == photo_status
    assert (rows.loc[14, "photo"] is None) == (photo_status != "ok")
    assert found.counts["unlabelled"].kept == 4
    assert found.counts["unlabelled"].issues == ({issue: 1} if issue else {})


# ---- photos


SPOILT_PHOTOS = {
    "truncated JPEG": (photo_bytes(1, side=400)[:-200], "truncated"),
    "truncated PNG": (photo_bytes(1, side=400, kind="PNG")[:-100], "truncated"),
    "truncated WebP": (photo_bytes(1, side=400, kind="WEBP")[:-50], "truncated"),
    "a web page": (b"<html>404</html>", "not_an_image"),
    "nothing": (b"", "not_an_image"),
    "TIFF": (photo_bytes(1, kind="TIFF"), "not_an_image"),
    "too many bytes": (photo_bytes(1) + bytes(20_000), "too_large"),
    "too many pixels": (photo_bytes(1, side=501, kind="PNG"), "too_large"),
    "JPEG": (photo_bytes(1), "ok"),
    "PNG": (photo_bytes(1, kind="PNG"), "ok"),
    "WebP": (photo_bytes(1, kind="WEBP"), "ok"),
    "GIF": (photo_bytes(1, kind="GIF"), "ok"),
    "BMP": (photo_bytes(1, kind="BMP"), "ok"),
}


@pytest.mark.parametrize("kind", SPOILT_PHOTOS)
def test_a_photo_is_judged_by_its_bytes(source, out, kind):
    content, status = SPOILT_PHOTOS[kind]
    photo_path(source, 3).write_bytes(content)
    config = IngestConfig(max_bad_share=1.0, max_photo_bytes=15_000, max_photo_pixels=500 * 500)
    found = ingest(str(source), out, config)
    rows = rows_of(found.labelled)
    assert rows.loc[3, "photo_status"] == status
    assert rows.loc[3, "photo"] == (content if status == "ok" else None)
    assert rows.loc[3, "designation"] == "Produit n° 3, livres"  # the text is usable, so the row is kept
    assert found.counts["labelled"].photos == {**({status: 1} if status != "ok" else {}), "ok": 11 + (status == "ok")}


def test_a_decompression_bomb_is_too_large_and_makes_no_noise(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    config = IngestConfig()
    assert photo_status(photo_bytes(1, side=40), config) == "too_large"  # Pillow's error: over twice its limit


def test_pillows_warnings_do_not_leak(source, out, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # 1600 pixels: Pillow warns, and warnings are errors here
    assert ingest(str(source), out, IngestConfig()).counts["labelled"].photos == {"ok": 12}


@pytest.mark.parametrize("name", ["image_05003_product_0042.jpg", "image_5003_product_42.jpg"])
def test_a_photo_is_found_by_a_name_with_leading_zeros_and_without(source, out, name):
    set_cell(source / X_TRAIN, 3, "productid", "0042")
    set_cell(source / X_TRAIN, 3, "imageid", "05003.0")
    photo_path(source, 3).rename(photo_path(source, 3).with_name(name))
    row = rows_of(ingest(str(source), out, IngestConfig()).labelled).loc[3]
    assert (row["productid"], row["imageid"], row["photo_status"]) == (42, 5003, "ok")


@pytest.mark.parametrize("kind", ["loop", "pipe", "device", "folder"])
def test_a_table_that_is_no_file_is_refused(source, out, kind):
    (source / Y_TRAIN).unlink()
    NO_FILES[kind][0](source / Y_TRAIN)
    with pytest.raises(CatalogueError, match=rf"{Y_TRAIN}: no ordinary file that may be read: put the table there"):
        ingest(str(source), out, IngestConfig())


def test_several_files_of_labelled_rows_stop_no_prediction(source, out):
    (source / X_TRAIN).rename(source / "X_train_a.csv")
    (source / "X_train_b.csv").touch()
    assert ingest(str(source), out, IngestConfig(), labelled=False).counts["unlabelled"].kept == 4
    with pytest.raises(FileNotFoundError, match=r"X_train_a\.csv, X_train_b\.csv all fit"):
        ingest(str(source), out, IngestConfig())


def _device(path):
    path.symlink_to("/dev/zero")


def _socket(path):
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as server:  # the whole path may be too long
        server.bind(path.name)


NO_FILES = {
    "link to nothing": (lambda path: path.symlink_to("../../.git/annex/objects/x"), "missing"),
    "link below a file": (lambda path: path.symlink_to(path.parent / "image_5004_product_1004.jpg" / "x"), "missing"),
    "link to too long a name": (lambda path: path.symlink_to("x" * 300), "missing"),
    "loop": (lambda path: path.symlink_to(path), "unreadable"),
    "pipe": (os.mkfifo, "unreadable"),
    "device": (_device, "unreadable"),
    "socket": (_socket, "unreadable"),
    "folder": (Path.mkdir, "unreadable"),
}


@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_file_is_counted(source, out, kind):
    make, status = NO_FILES[kind]
    photo_path(source, 3).unlink()
    make(photo_path(source, 3))
    found = ingest(str(source), out, LENIENT)
    assert found.counts["labelled"].photos == {status: 1, "ok": 11}
    assert rows_of(found.labelled).loc[3, "photo_status"] == status
    before = fingerprint(str(source))  # of the train command, which reads the files before
    assert fingerprint(str(source)) == before
    photo_path(source, 3).rmdir() if kind == "folder" else photo_path(source, 3).unlink()
    photo_path(source, 3).write_bytes(photo_bytes(3))  # as `git annex get` does
    assert fingerprint(str(source)).content != before.content


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "no"), OSError(errno.EIO, "bad sector")])
def test_a_photo_that_may_not_be_read_is_counted(source, out, monkeypatch, error):
    photo, open_path = photo_path(source, 3), Path.open  # root may read everything

    def refuse(path, *args, **options):
        if path == photo:
            raise error
        return open_path(path, *args, **options)

    monkeypatch.setattr(Path, "open", refuse)
    assert ingest(str(source), out, LENIENT).counts["labelled"].photos == {"ok": 11, "unreadable": 1}
    assert fingerprint(str(source)).content


def test_a_photo_in_another_folder_is_taken_where_the_first_has_a_link_to_nothing(source, out):
    shutil.move(photo_path(source, 3), source / "images")
    photo_path(source, 3).symlink_to("nothing")
    assert ingest(str(source), out, IngestConfig()).counts["labelled"].photos == {"ok": 12}


def test_too_many_open_files_are_no_fault_of_the_photo(source, out, monkeypatch):
    def refuse(path, *args):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        ingest(str(source), out, LENIENT)


@pytest.mark.parametrize("kind", REFUSED)
def test_the_same_verdict_as_of_the_decoder(kind):
    content, status = REFUSED[kind]
    assert photo_status(content, IngestConfig()) == status
    assert photo_features(content)["photo_unreadable"]


@pytest.mark.parametrize("kind", RED_SQUARES)
def test_a_photo_with_odd_metadata_is_taken(kind):
    assert photo_status(RED_SQUARES[kind], IngestConfig()) == "ok"


@pytest.mark.parametrize(("imageid", "status"), [("", "none"), ("abc", "missing"), ("77", "missing")])
def test_a_blank_imageid_means_no_photo_and_a_wrong_one_a_missing_photo(source, out, imageid, status):
    set_cell(source / X_TRAIN, 3, "imageid", imageid)
    found = ingest(str(source), out, LENIENT)
    assert found.counts["labelled"].photos == {status: 1, "ok": 11}
    assert rows_of(found.labelled).loc[3, "photo"] is None


@pytest.mark.parametrize("folder", ["images", "image_train", "."])
def test_photos_are_found_in_every_usual_place(source, out, folder):
    (source / folder).mkdir(exist_ok=True)
    shutil.move(photo_path(source, 3), source / folder)
    assert ingest(str(source), out, IngestConfig()).counts["labelled"].photos == {"ok": 12}


# ---- the share of bad rows


def test_as_many_bad_rows_as_allowed_pass_and_one_more_stops_the_run(source, out):
    set_cell(source / X_TRAIN, 3, "designation", "")
    photo_path(source, 5).unlink()
    photo_path(source, 6).write_bytes(b"x")
    assert ingest(str(source), out, IngestConfig(max_bad_share=3 / 12)).counts["labelled"].kept == 11
    message = (
        r"3 of 12 labelled rows are bad \(25\.0%, more than max_bad_share = 24\.0%\)\. no_title, designation is "
        r"empty or holds no text: 1 \(rows 3\); "
        r"photo missing: 1 \(rows 5\); photo not_an_image: 1 \(rows 6\)\. .*images/image_train.* Mend .* or raise "
        r"ingest\.max_bad_share"
    )
    with pytest.raises(CatalogueError, match=message):
        ingest(str(source), out, IngestConfig(max_bad_share=0.24))


def test_bad_labels_are_explained_and_photos_left_out_where_they_are_not_at_fault(source, out):
    for row in range(12):
        set_cell(source / Y_TRAIN, row, "prdtypecode", "livre")
    with pytest.raises(CatalogueError, match=r"bad_label, prdtypecode is no whole number: 12 \(rows 0") as error:
        ingest(str(source), out, IngestConfig())
    assert "hotos" not in str(error.value)


def test_products_that_name_no_photo_are_not_bad(source, out):
    for row in range(12):
        set_cell(source / X_TRAIN, row, "imageid", "")
    found = ingest(str(source), out, IngestConfig(max_bad_share=0))
    assert found.counts["labelled"].photos == {"none": 12}


def test_a_catalogue_of_bad_rows_alone_is_all_in_quarantine_where_that_is_allowed(source, out):
    for row in range(12):
        set_cell(source / X_TRAIN, row, "designation", "")
    found = ingest(str(source), out, LENIENT)
    assert found.counts["labelled"] == Counts(12, 0, 12, {"no_title": 12}, {}, {})
    assert (found.labelled, found.class_counts) == ([], {})


def test_rows_that_vanish_while_the_file_is_read_are_noticed(source, out, monkeypatch):
    def index_one_more(*arguments):
        index = index_part(*arguments)
        return replace(index, rows=index.rows + 1)

    monkeypatch.setattr("rakuten_tasks.data.read_catalogue.index_part", index_one_more)
    with pytest.raises(CatalogueError, match="does not add up: the file changed while it was read, run again"):
        ingest(str(source), out, IngestConfig())


# ---- remote folders


def test_the_source_is_never_written_to(source, out):
    before = {path: path.stat().st_mtime_ns for path in source.rglob("*")}
    ingest(str(source), out, IngestConfig())
    assert {path: path.stat().st_mtime_ns for path in source.rglob("*")} == before


def test_a_catalogue_in_memory_gives_the_same_as_on_disk(source, out, tmp_path):
    fsspec.filesystem("memory").put(str(source), "/ingest/catalogue", recursive=True)
    remote = ingest("memory://ingest/catalogue", tmp_path / "remote", IngestConfig())
    assert remote.content_hash == ingest(str(source), out, IngestConfig()).content_hash


def test_a_catalogue_on_s3_gives_the_same_as_on_disk(source, out, tmp_path, bucket):
    photo_path(source, 3).unlink()
    photo_path(source, 4).write_bytes(b"")
    fsspec.filesystem("s3").put(str(source), f"{bucket}/a/catalogue", recursive=True)
    remote = ingest(f"{bucket}/a/catalogue", tmp_path / "remote", LENIENT)
    assert remote.counts["labelled"].photos == {"missing": 1, "not_an_image": 1, "ok": 10}
    assert remote.content_hash == ingest(str(source), out, LENIENT).content_hash


def test_a_photo_on_s3_takes_one_request_and_no_listing_of_its_folder(source, out, bucket, monkeypatch):
    store, methods = fsspec.filesystem("s3"), Counter()
    store.put(str(source), f"{bucket}/a", recursive=True)
    store.invalidate_cache()
    call_s3 = type(store)._call_s3

    async def count_call(self, method, *arguments, **options):
        methods[method, options.get("Key", "").endswith(".jpg")] += 1
        return await call_s3(self, method, *arguments, **options)

    monkeypatch.setattr(type(store), "_call_s3", count_call)
    found = ingest(f"{bucket}/a", out, IngestConfig())
    assert methods["get_object", True] == 16
    assert methods["head_object", True] == 0
    assert not any("image_train" in folder for folder in store.dircache)
    assert found.counts["labelled"].photos == {"ok": 12}
