"""Reader of a catalogue's photo files: finds, reads and checks them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from threading import BoundedSemaphore
from typing import NamedTuple

import pandas as pd
from fsspec import AbstractFileSystem
from PIL import Image

from rakuten_tasks.config import IngestConfig
from rakuten_tasks.data.layout import photo_name
from rakuten_tasks.preprocessing.photos import FORMATS

THREADS = 8  # they mostly wait for a remote store
# a photo of max_photo_pixels takes 200 MB decoded, so at most two are decoded at once
DECODING = BoundedSemaphore(2)


class PhotoFile(NamedTuple):
    """Photo of a product. photo: the file's bytes, None unless the status is ok. photo_status: see schema.SHARD."""

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

        products: productid and imageid, both nullable, and names_photo (bool).
        """
        with warnings.catch_warnings():
            # Pillow warns about unusual files; here only decoding decides
            warnings.filterwarnings("ignore", module=r"PIL\.")
            columns = (products[name] for name in ("productid", "imageid", "names_photo"))
            return pd.DataFrame(list(self._pool.map(self._read, *columns)), index=products.index)

    def _read(self, productid: int, imageid: int, names_photo: bool) -> PhotoFile:
        if not names_photo:
            return PhotoFile(None, "none")
        if pd.isna(productid) or pd.isna(imageid):
            return PhotoFile(None, "missing")
        content = self._read_file(photo_name(imageid, productid))
        if content is None:
            return PhotoFile(None, "missing")
        status = photo_status(content, self._config)
        return PhotoFile(content if status == "ok" else None, status)

    def _read_file(self, name: str) -> bytes | None:
        """Return at most one byte more than max_photo_bytes; None if no folder has the file."""
        for folder in self._folders:
            try:
                with self._filesystem.open(f"{folder}/{name}", "rb", cache_type="none") as file:
                    return file.read(self._config.max_photo_bytes + 1)
            except (FileNotFoundError, IsADirectoryError):
                continue
        return None


def photo_status(content: bytes, config: IngestConfig) -> str:
    """Return ok, too_large (bytes or pixels), not_an_image (of FORMATS), or truncated (cannot be decoded to its end).

    Pillow does not open a truncated WebP at all, so it is not_an_image.
    """
    if len(content) > config.max_photo_bytes:
        return "too_large"
    try:
        image = Image.open(BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError:
        return "too_large"
    except Exception:  # Pillow names no closed set of errors for hostile bytes
        return "not_an_image"
    if image.width * image.height > config.max_photo_pixels:
        return "too_large"
    try:
        with DECODING:
            # a JPEG at an eighth of its size: in 312 damaged files this found what a full decode finds
            image.draft("L", (1, 1))
            image.load()
    except Exception:  # as above
        return "truncated"
    return "ok"
