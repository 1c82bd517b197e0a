"""Schemas of a catalogue's CSV files and of the Parquet shards made from them."""

from __future__ import annotations

import pandas as pd
import pandera.pandas as pandera
import pyarrow as pa
from pandera.errors import SchemaErrors

# 18 digits always fit an int64; "3.0" is what pandas writes once a column of whole numbers holds a blank
WHOLE_NUMBER = r"[+-]?[0-9]{1,18}(?:\.0*)?"


class CatalogueError(ValueError):
    """Unusable catalogue; the message says what is wrong, where, and how to fix it."""


def damage_error(file: object, damage: str) -> CatalogueError:
    """Return the error for a file of a catalogue that cannot be used."""
    return CatalogueError(f"{file} {damage}: put it back from a copy, or publish the catalogue to another address")


def whole_numbers(texts: pd.Series) -> pd.Series:
    """Convert texts to Int64; blanks and what is not a whole number become <NA>."""
    texts = texts.astype(str).str.strip()
    digits = texts.where(texts.str.fullmatch(WHOLE_NUMBER)).str.replace(r"\.0*$", "", regex=True)
    return pd.to_numeric(digits, dtype_backend="numpy_nullable").astype("Int64")


def _number() -> pandera.Column:
    return pandera.Column("Int64", parsers=pandera.Parser(whole_numbers), nullable=True)


def _table(columns: dict[str, pandera.Column]) -> pandera.DataFrameSchema:
    return pandera.DataFrameSchema(columns, strict="filter")  # columns not named here are ignored


# The first column of each file is its index. A bad number becomes <NA>, which RowValidator flags.
PRODUCTS = _table(
    {
        "designation": pandera.Column(str),
        "description": pandera.Column(str),
        "productid": _number(),
        "imageid": _number(),
    }
)
LABELS = _table({"prdtypecode": _number()})
CLASSES = _table({"name": pandera.Column(str)})

# One row of a shard is one product. Only unlabelled rows have an issue or lack a productid or prdtypecode.
TEXT = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),  # the CSV's own index: the submission needs it
        pa.field("productid", pa.int64()),
        pa.field("imageid", pa.int64()),  # null: the catalogue names no photo
        pa.field("designation", pa.string(), nullable=False),
        pa.field("description", pa.string(), nullable=False),
        pa.field("prdtypecode", pa.int64()),  # null: to be predicted
        # ok, none (imageid is blank), missing, unreadable (no ordinary file, or no permission), or PhotoError.status:
        # not_an_image (or one that shows nothing), truncated (also damaged), too_large (bytes or pixels)
        pa.field("photo_status", pa.string(), nullable=False),
        pa.field("issue", pa.string()),
        pa.field("title_hash", pa.uint64(), nullable=False),  # see splits.hash_titles
        pa.field("photo_hash", pa.uint64()),  # see shards.hash_photo
        pa.field("product_hash", pa.uint64(), nullable=False),  # of all but row, photo included: see shards.ShardWriter
    ]
)
ROWS = TEXT.remove(TEXT.get_field_index("product_hash"))  # what ShardWriter gets
# In a file of its own, row for row: most steps read no photo.
PHOTOS = pa.schema([pa.field("photo", pa.binary())])  # the photo file's bytes; null unless photo_status is ok

# Rows that were not kept, with their texts as in the CSV.
QUARANTINE = pa.schema(
    [pa.field("part", pa.string()), pa.field("row", pa.int64())]
    + [pa.field(name, pa.string()) for name in ("productid", "imageid", "designation", "description", "prdtypecode")]
    + [pa.field("reason", pa.string())]
)


def validate_schema(table: pd.DataFrame, schema: pandera.DataFrameSchema, file: str) -> pd.DataFrame:
    """Return the schema's columns with its types. Raises CatalogueError that names the missing columns."""
    try:
        return schema.validate(table, lazy=True)
    except SchemaErrors as error:
        cases = error.failure_cases
        missing = ", ".join(cases.loc[cases["check"] == "column_in_dataframe", "failure_case"])
        raise CatalogueError(
            f"{file}: column {missing} is missing (found: {', '.join(map(str, table.columns))}): "
            f"the first line must name an index column and {', '.join(schema.columns)}, separated by commas"
        ) from error
