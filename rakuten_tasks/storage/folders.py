"""Folders of any file system, listed in constant memory where it can be."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem


def is_folder(filesystem: AbstractFileSystem, path: str) -> bool:
    """Return whether there is a folder; unlike isdir, which lists all of it on s3 and caches that."""
    if isinstance(filesystem, LocalFileSystem):
        return filesystem.isdir(path)
    try:
        return filesystem.info(path)["type"] == "directory"
    except (FileNotFoundError, NotADirectoryError):
        return False


def iter_folder(filesystem: AbstractFileSystem, folder: str) -> Iterator[dict[str, Any]]:
    """Yield fsspec's details of each file in a folder, in any order: one at a time locally, a page at a time on s3.

    Other file systems give the list as a whole, of about 1 KB a file.
    """
    if isinstance(filesystem, LocalFileSystem):
        with os.scandir(folder) as entries:
            yield from (filesystem.info(entry) for entry in entries if not entry.is_dir(follow_symlinks=False))
    elif "s3" in filesystem.protocol:
        for bucket, page in _iter_s3_pages(filesystem, folder):
            for item in page.get("Contents", []):
                if not item["Key"].endswith("/"):  # a mark of an empty folder
                    yield {**item, "name": f"{bucket}/{item['Key']}", "size": item["Size"]}
    else:
        yield from (info for info in filesystem.ls(folder, detail=True) if info["type"] != "directory")


def iter_paths(filesystem: AbstractFileSystem, folder: str) -> Iterator[str]:
    """Yield the path of each file and folder in a folder, as iter_folder does."""
    if isinstance(filesystem, LocalFileSystem):
        with os.scandir(folder) as entries:
            yield from (entry.path for entry in entries)
    elif "s3" in filesystem.protocol:
        for bucket, page in _iter_s3_pages(filesystem, folder):
            yield from (f"{bucket}/{item['Prefix'].rstrip('/')}" for item in page.get("CommonPrefixes", []))
            yield from (f"{bucket}/{item['Key']}" for item in page.get("Contents", []) if item["Key"][-1] != "/")
    else:
        yield from filesystem.ls(folder, detail=False)


def _iter_s3_pages(filesystem: Any, folder: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the bucket and each page of ListObjectsV2, of at most 1,000 names, which s3fs would collect and cache."""
    bucket, key, _ = filesystem.split_path(folder)
    request = {"Bucket": bucket, "Prefix": f"{key}/" if key else "", "Delimiter": "/"}
    while True:
        page = filesystem.call_s3("list_objects_v2", **request)
        yield bucket, page
        if not page.get("IsTruncated"):
            return
        request["ContinuationToken"] = page["NextContinuationToken"]
