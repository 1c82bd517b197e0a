from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from rakuten_tasks.data.fingerprint import fingerprint
from rakuten_tasks.data.layout import find_layout, is_synthetic, photo_name
from rakuten_tasks.data.layout import test_labels as answers
from tests.support.catalogues import write_catalogue


def test_the_challenges_own_names_are_found(tmp_path):
    write_catalogue(tmp_path)
    layout = find_layout(str(tmp_path))
    assert layout.train_rows == f"{tmp_path}/X_train_update.csv"
    assert layout.train_labels == f"{tmp_path}/Y_train_CVw08PX.csv"
    assert layout.test_rows == f"{tmp_path}/X_test_update.csv"
    assert layout.classes == f"{tmp_path}/classes.csv"
    assert layout.train_photos == (f"{tmp_path}/images/image_train", f"{tmp_path}/images", f"{tmp_path}")
    assert layout.test_photos == (f"{tmp_path}/images/image_test", f"{tmp_path}/images", f"{tmp_path}")


@pytest.mark.parametrize("scheme", ["file://", ""])
def test_a_trailing_slash_or_a_scheme_makes_no_difference(tmp_path, scheme):
    write_catalogue(tmp_path)
    assert find_layout(f"{scheme}{tmp_path}/") == find_layout(str(tmp_path))


def test_a_relative_path_is_found(tmp_path, monkeypatch):
    write_catalogue(tmp_path / "catalogue")
    monkeypatch.chdir(tmp_path)
    assert find_layout("catalogue").train_rows == f"{tmp_path}/catalogue/X_train_update.csv"


def test_other_names_of_the_same_kind_are_found_where_one_fits(tmp_path):
    for name in ("X_train_v2.csv", "Y_train_v2.csv", "X_test_v2.csv"):
        (tmp_path / name).touch()
    (tmp_path / "image_train").mkdir()
    layout = find_layout(str(tmp_path))
    assert layout.train_rows == f"{tmp_path}/X_train_v2.csv"
    assert layout.train_labels == f"{tmp_path}/Y_train_v2.csv"
    assert layout.test_rows == f"{tmp_path}/X_test_v2.csv"
    assert layout.train_photos == (f"{tmp_path}/image_train", f"{tmp_path}")
    assert layout.classes is None


def test_the_challenges_own_name_wins_over_others(tmp_path):
    (tmp_path / "X_train_update.csv").touch()
    (tmp_path / "X_train_old.csv").touch()
    assert find_layout(str(tmp_path)).train_rows == f"{tmp_path}/X_train_update.csv"


def test_two_files_that_fit_one_name_are_refused(tmp_path):
    (tmp_path / "X_train_a.csv").touch()
    (tmp_path / "X_train_b.csv").touch()
    layout = find_layout(str(tmp_path))
    assert layout.test_rows is None
    with pytest.raises(FileNotFoundError, match=r"X_train_a\.csv, X_train_b\.csv all fit .*: keep one of them"):
        layout.train_rows  # noqa: B018


def test_a_folder_without_a_catalogue_says_what_was_looked_for_and_what_was_found(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(
        FileNotFoundError, match=rf"{tmp_path}: looked for X_train_update\.csv .* found notes\.txt: give"
    ):
        find_layout(str(tmp_path))


def test_of_photos_beside_the_tables_no_name_is_kept(tmp_path):
    source = write_catalogue(tmp_path / "catalogue")
    for number in range(20):
        (source / f"image_{number}_product_{number}.jpg").touch()
    names = {Path(file).name for file in find_layout(str(source)).files}
    assert names == {"X_test_update.csv", "X_train_update.csv", "Y_train_CVw08PX.csv", "classes.csv"}
    for file in source.glob("X_*"):
        file.unlink()
    message = r"found Y_train_CVw08PX\.csv, classes\.csv, image_0_.*, image_16_product_16\.jpg and 13 more: give"
    with pytest.raises(FileNotFoundError, match=message):
        find_layout(str(source))


@pytest.mark.parametrize("source", ["/no/such/folder", "memory://no/such/folder"])
def test_a_folder_that_is_not_there_holds_no_catalogue(source):
    with pytest.raises(FileNotFoundError, match="found nothing: give the folder"):
        find_layout(source)


def test_a_catalogue_in_memory_is_found():
    with fsspec.open("memory://layout/X_test_update.csv", "wb") as file:
        file.write(b"x")
    layout = find_layout("memory://layout")
    assert layout.test_rows == "/layout/X_test_update.csv"
    assert layout.train_rows is None


@pytest.mark.parametrize("name", ["y_train_CVw08PX.csv", "Y_TRAIN_CVW08PX.CSV"])
def test_upper_and_lower_case_make_no_difference(tmp_path, name):
    write_catalogue(tmp_path)
    before = fingerprint(str(tmp_path)).content
    (tmp_path / "Y_train_CVw08PX.csv").rename(tmp_path / name)
    assert find_layout(str(tmp_path)).train_labels == f"{tmp_path}/{name}"
    (tmp_path / name).write_text(",prdtypecode\n")
    assert fingerprint(str(tmp_path)).content != before


def test_several_files_of_answers_stop_only_what_reads_them(tmp_path):
    write_catalogue(tmp_path)
    for name in ("Y_test_a.csv", "Y_test_b.csv"):
        (tmp_path / name).touch()
    find_layout(str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"Y_test_a\.csv, Y_test_b\.csv all fit .*: keep one of them"):
        answers(str(tmp_path))


def test_answers_to_the_test_rows_are_read_where_they_are(tmp_path):
    write_catalogue(tmp_path)
    assert answers(str(tmp_path)) is None
    (tmp_path / "Y_test.csv").write_text(",prdtypecode\n12,10\n13,2583\n")
    assert answers(str(tmp_path)).to_dict() == {12: 10, 13: 2583}


def test_only_a_catalogue_that_says_so_is_synthetic(tmp_path):
    write_catalogue(tmp_path)
    assert not is_synthetic(str(tmp_path))
    (tmp_path / "SYNTHETIC.md").touch()
    assert is_synthetic(str(tmp_path))


def test_a_photo_is_named_as_in_the_challenge():
    assert photo_name(1263597046, 3804725264) == "image_1263597046_product_3804725264.jpg"


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    source = write_catalogue(tmp_path / "catalogue")
    with pytest.raises(FileNotFoundError, match=r"X_train_update\.csv is a file: give the folder that holds"):
        find_layout(str(source / "X_train_update.csv"))


def test_only_the_labels_of_selected_rows_are_returned(tmp_path):
    write_catalogue(tmp_path)
    (tmp_path / "Y_test.csv").write_text(",prdtypecode\n" + "".join(f"{row},{10 * row}\n" for row in range(5)))
    assert answers(str(tmp_path), lambda rows: rows % 2 == 1).to_dict() == {1: 10, 3: 30}
    assert answers(str(tmp_path)).to_dict() == {row: 10 * row for row in range(5)}
