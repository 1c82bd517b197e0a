"""Catalogues and CSV files as drift columns, so that any two of them can be compared."""

from __future__ import annotations

import gzip
import zlib
from io import BytesIO
from random import Random

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa

from rakuten_tasks.config import IngestConfig
from rakuten_tasks.data.csv_files import read_chunks, read_labels, read_row_index
from rakuten_tasks.data.layout import find_layout
from rakuten_tasks.data.photo_files import PhotoReader
from rakuten_tasks.data.sample.drawings import draw_photo
from rakuten_tasks.data.sample.generate import JPEG_QUALITY, SAMPLE, make_products
from rakuten_tasks.data.schema import PRODUCTS
from rakuten_tasks.data.versions.manifest import PARTS, CatalogueVersion, find_version
from rakuten_tasks.models.predictor import Predictor
from rakuten_tasks.monitoring.columns import DRIFT_COLUMNS, PHOTO_COLUMNS
from rakuten_tasks.monitoring.reference import catalogue_features, observe_rows

MAX_PRODUCTS = 3_000  # products of a catalogue that are looked at, drawn by chance: each is predicted, photo and all
MAX_ROWS = 100_000  # of a CSV that holds drift columns already
SLICE = 256
TEXTS = ("designation", "description")
FILES = (".csv", ".csv.gz", ".parquet")
# a number of hundreds of digits overflows; a .gz may be none, or be cut off
UNREADABLE = (pd.errors.ParserError, UnicodeDecodeError, OverflowError, gzip.BadGzipFile, EOFError, zlib.error)


def is_file(address: str) -> bool:
    """Whether the address is of one table rather than of a catalogue's folder."""
    return address.endswith(FILES)


def catalogue_frame(
    source: str, predictor: Predictor | None, to_predict: bool, most: int = MAX_PRODUCTS
) -> pd.DataFrame:
    """A catalogue's products with DRIFT_COLUMNS, designation, and true_code where it is labelled.

    predictor: None leaves out what only a model knows. to_predict: those products without label, where there are any.
    Raises as find_layout and read_chunks do.
    """
    rows = _sample(most) if source == SAMPLE else _catalogue(source, to_predict, most)
    parts = [_featurize(rows[i : i + SLICE].reset_index(drop=True), predictor) for i in range(0, len(rows), SLICE)]
    kept = rows[["designation", "true_code"]]
    return pd.concat([kept, *([pd.concat(parts, ignore_index=True)] if parts else [])], axis=1)


def file_frame(address: str, predictor: Predictor | None) -> pd.DataFrame:
    """A CSV or Parquet file: of drift columns as they are, or of products, whose photos are then unknown.

    Raises ValueError where it holds neither.
    """
    table = _table(address)
    if set(DRIFT_COLUMNS) & set(table.columns):
        return table
    if "designation" not in table.columns:
        raise ValueError(
            f"{address} has the columns {', '.join(map(str, table.columns[:8]))}: it needs designation (and "
            f"description) for products, or columns of monitoring/columns.py such as {DRIFT_COLUMNS[0]}"
        )
    table = table.iloc[:MAX_PRODUCTS].reindex(columns=list(TEXTS)).fillna("").astype(str)
    rows = table.assign(photo=None, photo_status="none")
    parts = [_featurize(rows[i : i + SLICE].reset_index(drop=True), predictor) for i in range(0, len(rows), SLICE)]
    found = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    return pd.concat([table[["designation"]].reset_index(drop=True), found], axis=1).drop(
        columns=PHOTO_COLUMNS, errors="ignore"
    )


def _featurize(rows: pd.DataFrame, predictor: Predictor | None) -> pd.DataFrame:
    return observe_rows(rows, predictor) if predictor else catalogue_features(rows, None)


def _table(address: str) -> pd.DataFrame:
    """At most MAX_ROWS rows, drawn by chance, read some at a time."""
    if address.endswith(".parquet"):
        with fsspec.open(address, "rb") as file:
            try:
                table = pd.read_parquet(file)
            except pa.ArrowInvalid as error:
                raise ValueError(f"{address}: not a readable Parquet file ({error}): write it anew") from error
        return table.sample(min(len(table), MAX_ROWS), random_state=0).reset_index(drop=True)
    random = np.random.default_rng(0)
    kept: pd.DataFrame | None = None
    try:
        with fsspec.open(address, "rt", encoding="utf-8-sig", compression="infer") as file:
            for chunk in pd.read_csv(file, chunksize=MAX_ROWS, low_memory=False):
                found = chunk.assign(_chance=random.random(len(chunk)))
                kept = found if kept is None else pd.concat([kept, found]).nsmallest(MAX_ROWS, "_chance")
    except pd.errors.EmptyDataError:
        kept = None
    except UNREADABLE as error:
        raise ValueError(f"{address}: not a readable CSV ({error}): save it as UTF-8, separated by commas") from error
    if kept is None:
        raise ValueError(f"{address} is empty: its first line must name the columns")
    return kept.drop(columns="_chance").reset_index(drop=True)


def _catalogue(source: str, to_predict: bool, most: int) -> pd.DataFrame:
    if (published := find_version(source)) is not None:
        return _published(published, to_predict, most)
    layout = find_layout(source)
    test = layout.test_rows and (to_predict or not layout.train_rows)
    file, photos = (layout.test_rows, layout.test_photos) if test else (layout.train_rows, layout.train_photos)
    labels = layout.test_labels if test else layout.train_labels
    assert file is not None  # find_layout has found one of the two
    chosen = pd.Index(np.random.default_rng(0).permutation(read_row_index(layout.filesystem, file, PRODUCTS))[:most])
    parts = []
    with PhotoReader(layout.filesystem, photos, IngestConfig()) as reader:
        for chunk in read_chunks(layout.filesystem, file, PRODUCTS):
            part = chunk.typed[chunk.typed.index.isin(chosen)]
            part = part.assign(names_photo=chunk.raw.loc[part.index, "imageid"].str.strip() != "")
            parts.append(part.join(reader.read(part)) if len(part) else part)
    rows = pd.concat(parts)
    codes = read_labels(layout.filesystem, labels).codes.reindex(rows.index) if labels else pd.NA
    return rows.assign(true_code=codes).reset_index(drop=True)


def _published(published: CatalogueVersion, to_predict: bool, most: int) -> pd.DataFrame:
    """As _catalogue, of shards: one in memory at a time."""
    test = to_predict and published.manifest.unlabelled
    stored = published.manifest.shards(PARTS[1] if test else PARTS[0])
    chosen = np.sort(np.random.default_rng(0).permutation(sum(shard.rows for shard in stored))[:most])
    parts, start = [], 0
    for shard in stored:
        at = chosen[(chosen >= start) & (chosen < start + shard.rows)] - start
        if len(at):
            parts.append(published.table(shard.file).iloc[at])
        start += shard.rows
    rows = pd.concat(parts)
    answers = published.answers()
    codes = (pd.NA if answers is None else rows["row"].map(answers)) if test else rows["prdtypecode"]
    return rows.assign(true_code=codes).reset_index(drop=True)


def _sample(most: int) -> pd.DataFrame:
    """The built-in sample's products to predict, drawn as write_sample draws them."""
    products, unlabelled, seed = 2400, 400, 0
    made = list(enumerate(make_products(products, unlabelled, seed)))[products:][:most]
    return pd.DataFrame(
        {
            "designation": [product.text.designation for _, product in made],
            "description": [product.text.description for _, product in made],
            "photo": [_jpeg(product.code, f"{seed} photo {row}") for row, product in made],
            "photo_status": "ok",
            "true_code": [product.label for _, product in made],
        }
    )


def _jpeg(code: int, seed: str) -> bytes:
    buffer = BytesIO()
    draw_photo(code, Random(seed)).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()
