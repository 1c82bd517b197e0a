from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import fsspec
import pytest

from rakuten_tasks.data.fingerprint import fingerprint, listing
from rakuten_tasks.storage.folders import is_folder, iter_folder, iter_paths
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


def test_the_order_in_which_a_folder_lists_its_files_does_not_matter(source, monkeypatch):
    before, scandir = fingerprint(str(source)), os.scandir

    @contextmanager
    def reversed_scandir(folder):
        with scandir(folder) as entries:
            yield reversed(list(entries))

    monkeypatch.setattr(os, "scandir", reversed_scandir)
    assert fingerprint(str(source)) == before


def test_the_size_is_of_all_files_that_are_read(source):
    (source / "notes.txt").write_text("nobody reads this")
    files = [path for path in source.rglob("*") if path.is_file() and path.name != "notes.txt"]
    assert fingerprint(str(source)).size == sum(path.stat().st_size for path in files)
    assert fingerprint("sample").size == 0


def test_batches_of_files_hash_as_one(source, monkeypatch):
    before = fingerprint(str(source))
    monkeypatch.setattr("rakuten_tasks.data.fingerprint.BATCH", 3)
    assert fingerprint(str(source)) == before


def test_a_folder_on_s3_is_listed_in_pages_and_none_is_cached(source, bucket, monkeypatch):
    store = fsspec.filesystem("s3")
    store.put(str(source), f"{bucket}/mine", recursive=True)
    folder = f"{bucket.removeprefix('s3://')}/mine/images/image_train"
    store.touch(f"{folder}/")  # the mark that consoles make of an empty folder
    store.invalidate_cache()
    before, pages, call_s3 = fingerprint(f"{bucket}/mine"), [], store.call_s3

    def call_with_small_pages(method, **request):
        pages.append(request)
        return call_s3(method, MaxKeys=5, **request)

    monkeypatch.setattr(store, "call_s3", call_with_small_pages)
    assert is_folder(store, folder)
    assert not is_folder(store, f"{folder}/none")
    assert not is_folder(store, f"{folder}/{photo_path(source, 1).name}")
    names = sorted(PurePosixPath(info["name"]).name for info in iter_folder(store, folder))
    assert names == sorted(path.name for path in (source / "images/image_train").iterdir())
    assert len(pages) == 3  # of 12 photos and the mark
    assert sorted(iter_paths(store, folder)) == [f"{folder}/{name}" for name in names]
    images = folder.rpartition("/")[0]
    assert folder in iter_paths(store, images)  # folders too: an error names them
    assert folder not in store.dircache
    assert fingerprint(f"{bucket}/mine") == before
