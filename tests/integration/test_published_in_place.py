"""A published catalogue is used where it is, and an addition to it costs what is new."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from flytekit.core.context_manager import ExecutionState, FlyteContextManager
from flytekit.core.type_engine import TypeEngine
from flytekit.types.file import FlyteFile

from rakuten_tasks.config import IngestConfig, PublicationConfig
from rakuten_tasks.data import shards
from rakuten_tasks.data.read_catalogue import ingest
from rakuten_tasks.data.schema import CatalogueError
from rakuten_tasks.data.shards import read_products, read_text
from rakuten_tasks.data.versions import commit
from rakuten_tasks.data.versions.commit import PublishResult, SourceInfo, publish
from rakuten_tasks.data.versions.files import CatalogueFiles
from rakuten_tasks.data.versions.product_index import CONFLICT, DUPLICATE, ProductIndex
from rakuten_tasks.runtime.files import local
from rakuten_tasks.tasks.ingest_catalogue import ingest_without_run
from rakuten_tasks.tasks.start_run import stat_source
from rakuten_tasks.tasks.types import Shard
from tests.support.catalogues import TINY, photo_bytes, write_catalogue
from tests.support.task_names import task_function

CONFIG = PublicationConfig(ingest=IngestConfig(rows_per_shard=10, max_bad_share=0.2), split=TINY.split)


def published(folder: Path, destination: Path | str, labelled: int) -> PublishResult:
    """Write a catalogue of this many labelled products and add it to the published one."""
    source = str(write_catalogue(folder / f"catalogue-{labelled}", labelled))
    work = folder / f"work-{labelled}"
    read = ingest(source, work / "read", CONFIG.ingest)
    return publish(read, SourceInfo(source, None), str(destination), CONFIG, True, work / "draft")


def overwrite(path: Path) -> None:
    """Change the bytes of a file and not its size."""
    path.write_bytes(bytes(path.stat().st_size))


def test_ingest_uses_the_published_files(tmp_path: Path, bucket: str):
    for shop in (str(tmp_path / "shop"), f"{bucket}/shop"):
        manifest = published(tmp_path / shop.replace("/", "-"), shop, 24).published.manifest
        result = ingest(shop, tmp_path / "out", CONFIG.ingest)
        assert [str(shard.text) for shard in result.labelled] == [f"{shop}/files/{s.text}" for s in manifest.labelled]
        photos = [f"{shop}/files/{shard.photos}" for shard in manifest.unlabelled]
        assert [str(shard.photos) for shard in result.unlabelled] == photos
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["quarantine.parquet", "summary.json"]
        assert [bytes(photo) for photo in read_products(result.labelled[1])["photo"]] == [
            photo_bytes(i) for i in range(10, 20)
        ]


@pytest.mark.parametrize("place", ["local", "s3"])
def test_a_pod_passes_on_the_addresses_of_published_files(place: str, tmp_path: Path, request: pytest.FixtureRequest):
    shop = f"{request.getfixturevalue('bucket') if place == 's3' else tmp_path}/shop"
    stored = published(tmp_path, shop, 24).published.manifest.labelled[0]
    result = task_function(ingest_without_run)(stat_source(shop), CONFIG.ingest, True)
    context = FlyteContextManager.current_context()
    pod = context.with_execution_state(
        context.new_execution_state().with_params(mode=ExecutionState.Mode.TASK_EXECUTION)
    ).build()
    literal = TypeEngine.to_literal(pod, result.labelled[0], Shard, TypeEngine.to_literal_type(Shard))
    shard = TypeEngine.to_python_value(pod, literal, Shard)
    addresses = [file.remote_source or file.path for file in (shard.text, shard.photos)]
    assert addresses == [f"{shop}/files/{name}" for name in (stored.text, stored.photos)]
    assert read_text(shard.fetch().text, ["row"])["row"].tolist() == list(range(10))


def test_changed_bytes_are_noticed_when_a_task_reads_them(tmp_path: Path):
    shard = published(tmp_path, tmp_path / "shop", 24).published.shards("labelled")[0]
    file = FlyteFile(str(shard.photos), remote_path=False)
    assert local(file) == shard.photos
    overwrite(Path(shard.photos))
    with pytest.raises(CatalogueError, match=r"photos-.* is not what was published: put it back from a copy"):
        local(file)
    Path(shard.photos).unlink()
    with pytest.raises(CatalogueError, match=r"photos-.* is gone: put it back from a copy"):
        local(file)


def test_changed_bytes_in_a_store_are_noticed_when_a_task_reads_them(tmp_path: Path, bucket: str):
    version = published(tmp_path, f"{bucket}/shop", 24).published
    address = str(version.shards("labelled")[0].text)
    assert local(FlyteFile(address)).is_file()
    version.files.filesystem.pipe_file(address, b"changed")
    with pytest.raises(CatalogueError, match=r"s3://.*text-.* is not what was published"):
        local(FlyteFile(address))
    version.files.filesystem.rm_file(address)
    with pytest.raises(CatalogueError, match=r"s3://.*text-.* is gone"):
        local(FlyteFile(address))


def test_an_addition_leaves_the_old_shards_as_they_are(tmp_path: Path):
    """So what was computed of them comes from the cache; their photos are not even read."""
    shop = tmp_path / "shop"
    first = published(tmp_path, shop, 24).published
    before = ingest(str(shop), tmp_path / "a", CONFIG.ingest).labelled
    for shard in first.manifest.labelled:
        overwrite(shop / "files" / shard.photos)
    changed = {path.name: path.stat().st_mtime_ns for path in (shop / "files").iterdir()}
    published(tmp_path, shop, 30)
    after = ingest(str(shop), tmp_path / "b", CONFIG.ingest).labelled
    assert after[:3] == before
    assert [shard.rows for shard in after] == [10, 10, 4, 6]
    assert {name: (shop / "files" / name).stat().st_mtime_ns for name in changed} == changed


def test_an_addition_in_a_store_transfers_what_is_new_and_a_few_columns(
    tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
):
    """The source is in the store too, as the pod that ingested it left it there."""
    shop = f"{bucket}/shop"
    published(tmp_path, shop, 60)
    source = published(tmp_path / "new", f"{bucket}/source", 70).published
    store, moved = source.files.filesystem, []
    for name in ("get_file", "put_file"):
        original = getattr(store, name)
        monkeypatch.setattr(
            store, name, lambda *args, original=original: moved.append(args[0].rpartition("/")[2]) or original(*args)
        )
    read = ingest(source.address, tmp_path / "read", CONFIG.ingest, unlabelled=False)
    result = publish(read, SourceInfo("source", None), shop, CONFIG, True, tmp_path / "draft")
    assert (result.joined, len(result.published.manifest.labelled)) == (10, 7)
    # the splits before and the new ones
    assert sorted(re.split(r"[-.]", name)[0] for name in moved) == ["added", "added", "quarantine", "splits", "splits"]


def test_neighbours_are_joined_where_there_would_be_too_many_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shop = tmp_path / "shop"
    first = published(tmp_path, shop, 24).published.manifest.labelled
    monkeypatch.setattr(shards, "MAX_SHARDS", 3)
    version = published(tmp_path, shop, 30).published
    assert version.manifest.labelled[:2] == first[:2]
    assert [shard.rows for shard in version.manifest.labelled] == [10, 10, 10]
    rows = pd.concat(map(read_products, version.shards("labelled")))
    source = ingest(str(tmp_path / "catalogue-30"), tmp_path / "read", CONFIG.ingest).labelled
    pd.testing.assert_frame_equal(rows, pd.concat(map(read_products, source)))
    joined = version.shards("labelled")[2]
    assert joined.sha256 == source[2].sha256  # the same rows in a shard have the same hash
    again = published(tmp_path / "again", shop, 30)
    assert (again.new, again.published.manifest.version) == (False, 2)


def test_the_smallest_neighbours_are_joined(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shards, "MAX_SHARDS", 3)
    listed = [shards.Shard(Path("t"), Path("p"), rows, str(rows)) for rows in (50, 40, 9, 30, 2, 3)]
    groups = [[shard.rows for shard in group] for group in shards.group_neighbours(listed)]
    assert groups == [[50], [40], [9, 30, 2, 3]]
    assert [len(group) for group in shards.group_neighbours(listed[:3])] == [1, 1, 1]


def test_a_product_index_knows_what_is_published_and_whether_it_is_the_same(tmp_path: Path):
    source = ingest(str(write_catalogue(tmp_path / "c", 24)), tmp_path / "read", CONFIG.ingest).labelled
    index = ProductIndex(source, tmp_path / "index")
    products = pd.concat(read_text(shard.text) for shard in source).reset_index(drop=True)
    known = products.iloc[[3, 20]].assign(product_hash=lambda rows: rows["product_hash"] + np.array([0, 1], np.uint64))
    index.mark_published(pd.concat([known, known.assign(productid=[5, 999_999])]))
    assert index.new == 22
    assert index.reject(products).to_dict() == {3: DUPLICATE, 20: CONFLICT}
    index.clear()
    assert index.reject(products).empty
    empty = ProductIndex([], tmp_path / "empty")
    empty.mark_published(products)
    assert empty.new == 0


def test_a_lost_race_does_not_read_the_source_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    published(tmp_path, tmp_path / "shop", 24)
    indexes, create = [], CatalogueFiles.create_manifest
    monkeypatch.setattr(commit, "ProductIndex", lambda *args: indexes.append(ProductIndex(*args)) or indexes[-1])
    lost = iter([False])
    monkeypatch.setattr(CatalogueFiles, "create_manifest", lambda *args: next(lost, None) is None and create(*args))
    assert published(tmp_path, tmp_path / "shop", 30).joined == 6
    assert len(indexes) == 1


def test_a_published_catalogue_can_be_published_to_another_address(tmp_path: Path, bucket: str):
    first = published(tmp_path, f"{bucket}/shop", 24).published
    read = ingest(f"{bucket}/shop", tmp_path / "read", CONFIG.ingest)
    second = publish(read, SourceInfo("shop", None), str(tmp_path / "copy"), CONFIG, True, tmp_path / "draft").published
    assert second.manifest.content == first.manifest.content
    assert second.manifest.labelled == first.manifest.labelled


@pytest.mark.parametrize("place", ["local", "s3"])
def test_a_shard_that_is_read_in_place_is_noticed_if_it_is_damaged_or_gone(
    place: str, tmp_path: Path, request: pytest.FixtureRequest
):
    """A training reads some rows of some columns, so it does not compare the hashes of whole files."""
    version = published(
        tmp_path, f"{request.getfixturevalue('bucket') if place == 's3' else tmp_path}/shop", 24
    ).published
    shard, filesystem = version.shards("labelled")[0], version.files.filesystem
    pages = {shard.photos: photo_bytes(3)[50:90], shard.text: b"\xb5/\xfd"}  # a photo; zstd's frames
    for file, part in pages.items():
        content = filesystem.cat_file(str(file))
        assert part in content
        filesystem.pipe_file(str(file), content.replace(part, part[::-1]))
        with pytest.raises(CatalogueError, match=r"shop/files/.* is damaged \(.*CRC checksum.*\): put it back"):
            list(shards.iter_products(shard, [3]))
        filesystem.pipe_file(str(file), b"")
        with pytest.raises(CatalogueError, match=r"shop/files/.* is damaged \(.*\): put it back"):
            list(shards.iter_products(shard, [3]))
        filesystem.rm_file(str(file))
        with pytest.raises(CatalogueError, match=r"shop/files/.* is gone: put it back from a copy"):
            list(shards.iter_products(shard, [3]))
        filesystem.pipe_file(str(file), content)
    assert len(read_products(shard)) == 10
