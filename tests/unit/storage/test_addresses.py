from __future__ import annotations

import os

import fsspec
import pytest

from rakuten_tasks.storage.addresses import absolute, list_files, open_address, require_address, upload_file, write_file
from tests.support.nasty_names import NASTY, list_names


@pytest.mark.parametrize("name", NASTY)
def test_a_local_path_is_written_listed_and_read_letter_by_letter(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_file(f"{NASTY[name]}/day/other.txt", "another place")
    before = list_names(tmp_path)
    write_file(f"{name}/day/é.txt", "née")
    write_file(f"{tmp_path}/{name}/day/b.txt", b"bytes")
    filesystem, root = open_address(name)
    assert root == absolute(name) == f"{tmp_path}/{name}"
    assert list(list_files(filesystem, root, "*/*.txt")) == [f"{root}/day/b.txt", f"{root}/day/é.txt"]
    assert list(list_files(filesystem, root, "*.txt")) == []
    assert filesystem.cat_file(f"{root}/day/é.txt") == "née".encode()
    assert list_names(tmp_path) == sorted([*before, name, f"{name}/day", f"{name}/day/b.txt", f"{name}/day/é.txt"])


def test_the_root_the_home_and_links_are_what_they_name(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "deep/er").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "deep/er")
    assert open_address("/")[1] == "/"  # and not the working directory
    assert open_address("~/x")[1] == f"{tmp_path}/x"
    assert open_address(f"{tmp_path}/link/../x/")[1] == f"{tmp_path}/deep/x"
    assert open_address(f"file://{tmp_path}/a b/")[1] == f"{tmp_path}/a b"
    assert open_address("memory://a/b/")[1] == "/a/b"


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("", "'': write a path"),
        ("  ", "  : write a path"),
        ("s3:/bucket/x", "s3:/bucket/x: write s3:// with two slashes"),
        ("file:/x", "write file:// with two slashes"),
        ("foo://x", "foo://x: no store has addresses with foo://"),
        ("file:///a%20b", "write the path of a local file, without file://"),
        ("file:///a?b", "write the path of a local file, without file://"),
        ("file://host/x", "write the path of a local file, without file://"),
        ("s3://bucket/a::b", ":: in the address of a store is not read as a letter"),
        ("s3://bucket/a*", "* in the address of a store"),
        ("gs://bucket/a?b", "? in the address of a store"),
        ("gs://bucket/a#1", "# in the address of a store"),
        ("simplecache::s3://bucket/x", "a chain of addresses is not read"),
        (os.fsdecode(b"/tmp/\xff"), "/tmp/\\udcff: its name is not UTF-8"),
    ],
)
def test_an_address_of_which_another_place_would_be_opened_is_refused(address, message):
    with pytest.raises(ValueError) as refused:
        open_address(address)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_store_whose_package_is_missing_is_refused(monkeypatch):
    def url_to_fs(address: str) -> None:
        raise ImportError("Install gcsfs")

    monkeypatch.setattr(fsspec, "url_to_fs", url_to_fs)
    require_address("gs://bucket/x")
    with pytest.raises(ValueError, match="gs://bucket/x: Install gcsfs"):
        open_address("gs://bucket/x")


def test_a_file_is_copied_with_the_folders_above_it(tmp_path):
    (tmp_path / "from é").write_bytes(b"\x00bytes")
    for address in (f"{tmp_path}/new [1]/to é", f"memory://{tmp_path.name}/new/to"):
        upload_file(tmp_path / "from é", address)
        filesystem, path = open_address(address)
        assert filesystem.cat_file(path) == b"\x00bytes"
