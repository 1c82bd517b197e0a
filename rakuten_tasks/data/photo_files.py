"""Reader of a catalogue's photo files: finds, reads and checks them."""

from __future__ import annotations

import errno
import re
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from threading import BoundedSemaphore
from typing import NamedTuple

import pandas as pd
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from rakuten_tasks.config import IngestConfig
from rakuten_tasks.data.layout import photo_name
from rakuten_tasks.data.schema import WHOLE_NUMBER
from rakuten_tasks.preprocessing.photo_format import PhotoError
from rakuten_tasks.preprocessing.photos import decode_photo
from rakuten_tasks.storage.local_files import UnreadableFileError, open_file

THREADS = 8  # they mostly wait for a remote store
# a photo of max_photo_pixels takes 200 MB decoded, so at most two are decoded at once
DECODING = BoundedSemaphore(2)


class PhotoFile(NamedTuple):
    """Photo of a product. photo: the file's bytes, None unless the status is ok. photo_status: see schema.TEXT."""

    photo: bytes | None
    photo_status: str


class PhotoReader:
    """Reader of products' photos from folders, with several threads. A context manager."""

    def __init__(self, filesystem: AbstractFileSystem, folders: Sequence[str], config: IngestConfig) -> None:
        self._filesystem, self._folders, self._config = filesystem, folders, config
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="photos")

    def __enter__(self) -> PhotoReader:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def read(self, products: pd.DataFrame) -> pd.DataFrame:
        """Return photo and photo_status of each product (see PhotoFile), with the products' index.

        products: productid and imageid, texts as in the file.
        """
        return pd.DataFrame(self.read_files(self.list_names(products)), index=products.index)

    def list_names(self, products: pd.DataFrame) -> list[tuple[str, ...] | None]:
        """Return the names that each product's photo file may have: None if it names no photo, () if no numbers."""
        columns = (products[name].str.strip().tolist() for name in ("imageid", "productid"))
        return [_list_names(*texts) for texts in zip(*columns, strict=True)]

    def read_files(self, names: Sequence[tuple[str, ...] | None]) -> list[PhotoFile]:
        """Return the photo of each product's names as of `list_names`."""
        with warnings.catch_warnings():
            # Pillow warns about unusual files; here only decoding decides
            warnings.filterwarnings("ignore", module=r"PIL\.")
            photos = self._pool.map(self._read, filter(None, names))
            return [next(photos) if name else PhotoFile(None, "none" if name is None else "missing") for name in names]

    def _read(self, names: tuple[str, ...]) -> PhotoFile:
        content = self._read_file(names)
        if isinstance(content, str):
            return PhotoFile(None, content)
        status = photo_status(content, self._config)
        return PhotoFile(content if status == "ok" else None, status)

    def _read_file(self, names: tuple[str, ...]) -> bytes | str:
        """Return at most one byte more than max_photo_bytes, or the photo_status if no folder has a file so named."""
        status = "missing"
        for folder, name in product(self._folders, names):
            try:
                return self._read_start(f"{folder}/{name}")
            except FileNotFoundError:
                continue
            except (UnreadableFileError, IsADirectoryError, PermissionError):
                status = "unreadable"
        return status

    def _read_start(self, path: str) -> bytes:
        size = self._config.max_photo_bytes + 1
        if isinstance(self._filesystem, LocalFileSystem):
            with open_file(Path(path)) as file:
                return file.read(size)
        try:
            return self._filesystem.cat_file(path, start=0, end=size)  # one request, where open makes two
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return self._filesystem.cat_file(path)  # s3 has no range of an empty file


def _list_names(*texts: str) -> tuple[str, ...] | None:
    """Return the name with the leading zeros of imageid and productid, then the one without."""
    if not texts[0]:
        return None
    if not all(re.fullmatch(WHOLE_NUMBER, text) for text in texts):
        return ()
    digits = [text.partition(".")[0] for text in texts]
    return tuple(dict.fromkeys((photo_name(*digits), photo_name(*map(int, digits)))))


def photo_status(content: bytes, config: IngestConfig) -> str:
    """Return ok, too_large (bytes or pixels), or another status of PhotoError."""
    if len(content) > config.max_photo_bytes:
        return "too_large"
    try:
        with DECODING:
            decode_photo(content, 1, config.max_photo_pixels)
    except PhotoError as error:
        return error.status
    return "ok"
