"""Reader of a catalogue's photo files: finds, reads and checks them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from threading import BoundedSemaphore
from typing import NamedTuple

import pandas as pd
from fsspec import AbstractFileSystem

from rakuten_tasks.config import IngestConfig
from rakuten_tasks.data.layout import photo_name
from rakuten_tasks.data.schema import WHOLE_NUMBER
from rakuten_tasks.preprocessing.photo_format import PhotoError
from rakuten_tasks.preprocessing.photos import decode_photo
from rakuten_tasks.storage.addresses import open_to_read
from rakuten_tasks.storage.local_files import UnreadableFileError

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

        products: productid and imageid, texts as in the file: a photo's name has their leading zeros, or has not.
        """
        with warnings.catch_warnings():
            # Pillow warns about unusual files; here only decoding decides
            warnings.filterwarnings("ignore", module=r"PIL\.")
            columns = (products[name].str.strip() for name in ("imageid", "productid"))
            return pd.DataFrame(list(self._pool.map(self._read, *columns)), index=products.index)

    def _read(self, imageid: str, productid: str) -> PhotoFile:
        if not imageid:
            return PhotoFile(None, "none")
        if not all(re.fullmatch(WHOLE_NUMBER, text) for text in (imageid, productid)):
            return PhotoFile(None, "missing")
        texts = [text.partition(".")[0] for text in (imageid, productid)]
        content = self._read_file(dict.fromkeys((photo_name(*texts), photo_name(*map(int, texts)))))
        if isinstance(content, str):
            return PhotoFile(None, content)
        status = photo_status(content, self._config)
        return PhotoFile(content if status == "ok" else None, status)

    def _read_file(self, names: Iterable[str]) -> bytes | str:
        """Return at most one byte more than max_photo_bytes, or the photo_status if no folder has a file so named."""
        status = "missing"
        for folder, name in product(self._folders, names):
            try:
                with open_to_read(self._filesystem, f"{folder}/{name}", cache_type="none") as file:
                    return file.read(self._config.max_photo_bytes + 1)
            except FileNotFoundError:
                continue
            except (UnreadableFileError, IsADirectoryError, PermissionError):
                status = "unreadable"
        return status


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
