"""Reads catalogues and tables as drift columns, so that any two of them can be compared."""

from __future__ import annotations

import gzip
import logging
import zlib
from collections.abc import Callable, Collection
from functools import partial
from io import BytesIO
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rakuten_tasks.config import IngestConfig
from rakuten_tasks.data.answers import match_labels
from rakuten_tasks.data.csv_files import CHUNK, RowFilter, all_rows, open_table, read_chunks
from rakuten_tasks.data.csv_reader import read_tables
from rakuten_tasks.data.layout import find_layout, read_test_labels, read_train_labels
from rakuten_tasks.data.number_files import BLOCK
from rakuten_tasks.data.part_index import index_part
from rakuten_tasks.data.photo_files import PhotoReader
from rakuten_tasks.data.sample.drawings import draw_photo
from rakuten_tasks.data.sample.generate import JPEG_QUALITY, SAMPLE, make_products
from rakuten_tasks.data.sampling import SALT
from rakuten_tasks.data.schema import PRODUCTS, CatalogueError
from rakuten_tasks.data.shards import iter_positions
from rakuten_tasks.data.title_sketch import uniform
from rakuten_tasks.data.versions.manifest import PARTS, CatalogueVersion, find_version
from rakuten_tasks.models.predictor import Predictor
from rakuten_tasks.monitoring.columns import DRIFT_COLUMNS, PHOTO_COLUMNS
from rakuten_tasks.monitoring.reference import catalogue_features, featurize_rows
from rakuten_tasks.monitoring.window import reservoir_sample
from rakuten_tasks.storage.addresses import open_address
from rakuten_tasks.storage.parquet_files import iter_batches

MAX_PRODUCTS = 3_000  # sample of a catalogue: each product is predicted, with its photo
MAX_ROWS = 100_000  # of a table that already has drift columns
BATCH = 256  # products featurized at once
TEXTS = ("designation", "description")
FILES = (".csv", ".csv.gz", ".parquet")
UNREADABLE = (gzip.BadGzipFile, EOFError, zlib.error)  # a .gz file may be invalid or truncated
log = logging.getLogger(__name__)


def is_file(address: str) -> bool:
    """Return whether the address is a table and not the folder of a catalogue."""
    if not address.lower().endswith(FILES):
        return False
    filesystem, path = open_address(address)
    return not filesystem.isdir(path)


def catalogue_frame(
    source: str, predictor: Predictor | None, to_predict: bool, max_products: int = MAX_PRODUCTS
) -> pd.DataFrame:
    """Return a catalogue's products with DRIFT_COLUMNS, designation, and true_code if they are labelled.

    Without a predictor, columns that only a model can compute are missing. to_predict: the products without label, if
    there are any. Raises as find_layout and read_chunks do.
    """
    known = predictor.codes if predictor else None
    rows = _read_sample(max_products) if source == SAMPLE else _read_catalogue(source, to_predict, max_products, known)
    return pd.concat([rows[["designation", "true_code"]], _featurize(rows, predictor)], axis=1)


def file_frame(address: str, predictor: Predictor | None) -> pd.DataFrame:
    """Return a CSV or Parquet file: either its drift columns, or features of its products, without photos.

    Raises ValueError if it has neither.
    """
    table = _read_parquet(address) if address.lower().endswith(".parquet") else _read_csv(address)
    if set(DRIFT_COLUMNS) & set(table.columns):
        return table
    if "designation" not in table.columns:
        raise ValueError(
            f"{address} has the columns {', '.join(map(str, table.columns[:8]))}: it needs designation (and "
            f"description) for products, or columns of monitoring/columns.py such as {DRIFT_COLUMNS[0]}"
        )
    table = table.iloc[_sample_positions(len(table), MAX_PRODUCTS)]
    table = table.reindex(columns=list(TEXTS)).fillna("").astype(str).reset_index(drop=True)
    features = _featurize(table.assign(photo=None, photo_status="none"), predictor)
    return pd.concat([table[["designation"]], features], axis=1).drop(columns=PHOTO_COLUMNS, errors="ignore")


def _featurize(rows: pd.DataFrame, predictor: Predictor | None) -> pd.DataFrame:
    """Compute drift columns of rows with photos, a batch at a time."""
    batches = [rows[i : i + BATCH].reset_index(drop=True) for i in range(0, len(rows), BATCH)]
    parts = [featurize_rows(batch, predictor) if predictor else catalogue_features(batch, None) for batch in batches]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _read_parquet(address: str) -> pd.DataFrame:
    """Read a sample of at most MAX_ROWS rows."""
    filesystem, path = open_address(address)
    with open_table(filesystem, path) as file:
        try:
            schema, parts, start = pq.read_schema(file), [], 0
            sample = _sample_positions(pq.read_metadata(file).num_rows, MAX_ROWS)
            for batch in iter_batches(file, BLOCK):
                parts.append(batch.take(_positions_within(sample, start, len(batch))))
                start += len(batch)
            table = pa.Table.from_batches(parts, schema).to_pandas()
        except pa.ArrowInvalid as error:
            raise ValueError(f"{address}: not a readable Parquet file ({error}): write it again") from error
    return table.reset_index(drop=True)


def _read_csv(address: str) -> pd.DataFrame:
    """Read a random sample of at most MAX_ROWS rows, in chunks, as texts."""
    filesystem, path = open_address(address)
    try:
        with open_table(filesystem, path) as file:
            lines = gzip.GzipFile(fileobj=file) if address.lower().endswith(".gz") else file
            sample = reservoir_sample(read_tables(lines, address, CHUNK), MAX_ROWS)
    except UNREADABLE as error:
        raise ValueError(f"{address}: not a readable .gz file ({error}): compress it again") from error
    assert sample is not None  # read_tables yields at least one table
    return sample.reset_index(drop=True)


def _sample_positions(rows: int, count: int) -> NDArray[np.int64]:
    """Return `count` positions of so many rows, or all of fewer, ascending: those with the smallest hashes.

    So the sample is the same for the same rows from a folder, a publication or a table of at most MAX_ROWS rows.
    """
    chosen = np.empty(0, np.int64)
    for start in range(0, rows, BLOCK):
        positions = np.concatenate([chosen, np.arange(start, min(start + BLOCK, rows))])
        chosen = positions[np.argsort(uniform(positions.astype(np.uint64), SALT))[:count]]
    return np.sort(chosen)


def _positions_within(sample: NDArray[np.int64], start: int, rows: int) -> NDArray[np.int64]:
    """Return the positions of a sample that are among so many rows from `start`, counted from there."""
    return sample[(sample >= start) & (sample < start + rows)] - start


def _read_catalogue(source: str, to_predict: bool, max_products: int, known: Collection[int] | None) -> pd.DataFrame:
    """Read a sample of a catalogue's products, with photos and true codes. known: see match_labels."""
    if (published := find_version(source)) is not None:
        return _read_published(published, to_predict, max_products, known)
    layout = find_layout(source)
    test = bool(layout.test_rows) if to_predict else not layout.train_rows
    file, photos = (layout.test_rows, layout.test_photos) if test else (layout.train_rows, layout.train_photos)
    assert file is not None  # find_layout requires one of the two
    with TemporaryDirectory() as folder:  # a broken file stops before any photo is read
        total = index_part(layout.filesystem, file, None, Path(folder)).rows
    sample, parts, start = _sample_positions(total, max_products), [], 0
    with PhotoReader(layout.filesystem, photos, IngestConfig()) as reader:
        for chunk in read_chunks(layout.filesystem, file, PRODUCTS):
            positions = _positions_within(sample, start, len(chunk.typed))
            part, raw = chunk.typed.iloc[positions], chunk.raw.iloc[positions]
            parts.append(part.join(reader.read(raw)) if len(part) else part)
            start += len(chunk.typed)
    rows = pd.concat(parts)
    read = partial(read_test_labels if test else read_train_labels, layout)
    codes = _read_true_codes(read, rows.index, len(rows) < total, known)
    return rows.assign(true_code=codes.reindex(rows.index)).reset_index(drop=True)


def _read_true_codes(
    read: Callable[[RowFilter], pd.Series | None], rows: pd.Index, sampled: bool, known: Collection[int] | None
) -> pd.Series:
    """Return the labels that match rows: without labels accuracy is not measured, and drift is.

    sampled: whether there are other rows; their labels are passed over.
    """
    try:
        labels = read(partial(np.isin, test_elements=rows.to_numpy()) if sampled else all_rows)
    except (CatalogueError, OSError) as error:
        log.warning("accuracy is not measured: %s", error)
        labels = None
    if labels is None:
        return pd.Series(dtype="Int64")
    matched = match_labels(labels, rows, known)
    if matched.mismatch:
        log.warning("accuracy is measured where labels match: %s", matched.mismatch)
    return matched.codes


def _read_published(
    published: CatalogueVersion, to_predict: bool, max_products: int, known: Collection[int] | None
) -> pd.DataFrame:
    """As _read_catalogue, from shards: of these, only the photos beside the sample."""
    test = to_predict and published.manifest.unlabelled
    part = PARTS[1] if test else PARTS[0]
    total = published.manifest.rows(part)
    rows = pd.concat(iter_positions(published.shards(part), _sample_positions(total, max_products)))
    codes = rows["prdtypecode"]
    if test:
        index = pd.Index(rows["row"].astype("int64"))
        codes = rows["row"].map(_read_true_codes(published.answers, index, len(rows) < total, known))
    return rows.assign(true_code=codes).reset_index(drop=True)


def _read_sample(max_products: int) -> pd.DataFrame:
    """Draw the products to predict of the built-in sample, the same as write_sample writes."""
    products, unlabelled, seed = 2400, 400, 0
    sample = list(enumerate(make_products(products, unlabelled, seed)))[products:][:max_products]
    return pd.DataFrame(
        {
            "designation": [product.text.designation for _, product in sample],
            "description": [product.text.description for _, product in sample],
            "photo": [_jpeg(product.code, f"{seed} photo {row}") for row, product in sample],
            "photo_status": "ok",
            "true_code": [product.label for _, product in sample],
        }
    )


def _jpeg(code: int, seed: str) -> bytes:
    buffer = BytesIO()
    draw_photo(code, Random(seed)).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()
