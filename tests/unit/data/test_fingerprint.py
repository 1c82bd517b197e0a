from __future__ import annotations

import os
import shutil
from pathlib import Path

import fsspec
import pytest

from rakuten_tasks.data.fingerprint import fingerprint, listing
from tests.support.catalogues import photo_bytes, photo_path, set_cell, write_catalogue


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_catalogue(tmp_path / "catalogue")


def test_the_same_files_elsewhere_and_later_hold_the_same(source, tmp_path):
    before = fingerprint(str(source)).content
    shutil.copytree(source, tmp_path / "copy")
    for path in source.rglob("*"):
        os.utime(path, (1, 1))
    (source / "notes.txt").write_text("nobody reads this")
    assert fingerprint(str(tmp_path / "copy")).content == fingerprint(str(source)).content == before


def change_a_cell(source: Path) -> None:
    set_cell(source / "X_train_update.csv", 3, "description", "other")


def change_a_photo_keeping_size_and_time(source: Path) -> None:
    path = photo_path(source, 3)
    content, times = bytearray(path.read_bytes()), path.stat()
    content[-3] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def remove_a_photo(source: Path) -> None:
    photo_path(source, 14, "test").unlink()


def swap_two_photos(source: Path) -> None:
    photo_path(source, 1).write_bytes(photo_bytes(2))
    photo_path(source, 2).write_bytes(photo_bytes(1))


def mark_as_synthetic(source: Path) -> None:
    (source / "SYNTHETIC.md").touch()


CHANGES = (change_a_cell, change_a_photo_keeping_size_and_time, remove_a_photo, swap_two_photos, mark_as_synthetic)


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_ingest_may_read_counts(source, change):
    before = fingerprint(str(source)).content
    change(source)
    assert fingerprint(str(source)).content != before


def test_the_listing_tells_of_a_change_without_reading(source):
    before = listing(str(source))
    assert fingerprint(str(source)).listing == before
    photo_path(source, 3).write_bytes(photo_bytes(99))
    assert listing(str(source)) != before


def test_the_sample_is_known_by_the_code_that_makes_it():
    assert fingerprint("sample").content == fingerprint("sample").content == listing("sample")


def test_remote_files_are_told_apart_by_etag_and_size(source, bucket):
    store = fsspec.filesystem("s3")
    store.put(str(source), f"{bucket}/mine", recursive=True)
    before = fingerprint(f"{bucket}/mine")
    store.put(str(source), f"{bucket}/copy", recursive=True)
    assert fingerprint(f"{bucket}/copy").content == before.content
    content = bytearray(photo_path(source, 3).read_bytes())
    content[-3] ^= 1
    store.pipe(f"{bucket}/mine/images/image_train/{photo_path(source, 3).name}", bytes(content))
    store.invalidate_cache()
    assert fingerprint(f"{bucket}/mine").content != before.content


def test_a_store_without_etags_is_told_apart_by_size_and_time(source):
    store = fsspec.filesystem("memory")
    store.put(str(source), "/mine", recursive=True)
    before = fingerprint("memory://mine").content
    assert fingerprint("memory://mine").content == before
    store.pipe("/mine/classes.csv", b"prdtypecode,name\n10,x\n")
    assert fingerprint("memory://mine").content != before


def test_a_folder_without_a_catalogue_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no catalogue in"):
        fingerprint(str(tmp_path))
