"""Cleans columns from logs, CSVs or other sources; invalid values become missing."""

from __future__ import annotations

from collections.abc import Sized

import numpy as np
import pandas as pd
import pyarrow as pa

from rakuten_tasks.monitoring.columns import DRIFT_COLUMNS, SCHEMA

_TYPES = {name: SCHEMA.field(name).type for name in DRIFT_COLUMNS}
YES_NO = tuple(name for name, kind in _TYPES.items() if pa.types.is_boolean(kind))
CATEGORIES = (*YES_NO, *(name for name, kind in _TYPES.items() if pa.types.is_string(kind)), "predicted")
_YES_NO_TEXTS = {"true": "yes", "1": "yes", "yes": "yes", "false": "no", "0": "no", "no": "no"}


class UntestableColumnError(ValueError):
    """A column that cannot be tested for drift. The message is the reason."""


def require_values(reference: Sized, window: Sized, least: int) -> None:
    """Raise UntestableColumnError if either has fewer than `least` values."""
    for name, values in (("reference", reference), ("window", window)):
        if len(values) < least:
            raise UntestableColumnError(f"the {name} has {len(values)} usable values, and needs {least}")


def numbers(column: pd.Series) -> pd.Series:
    """Convert to float64; texts that are not numbers, booleans and infinite values become NaN."""
    if column.dtype == object or isinstance(column.dtype, pd.StringDtype | pd.CategoricalDtype):
        # a list, a date or a boolean in a cell is not a number either
        scalars = column.map(lambda v: v if _is_scalar(v) and not isinstance(v, bool | np.bool_) else None)
        parsed = pd.to_numeric(scalars.astype(object), errors="coerce")
        # to_numeric may miss the last bit of a text: a table as CSV would differ from the same one as Parquet
        column = parsed.astype(float).where(parsed.isna(), scalars.where(parsed.notna()).astype(float))
    elif not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        return pd.Series(np.nan, index=column.index)
    values = pd.Series(column.to_numpy(float, na_value=np.nan), index=column.index)
    return values.where(np.isfinite(values))


def categories(column: pd.Series) -> pd.Series:
    """Convert to texts: 10, 10.0 and "10" are one category, as are True, 1 and "true" of YES_NO columns."""
    texts = column.astype(object).map(_category, na_action="ignore").astype("str")
    if column.name not in YES_NO:
        return texts
    return texts.map(lambda text: _YES_NO_TEXTS.get(text.lower()), na_action="ignore")


def _is_scalar(value: object) -> bool:
    return isinstance(value, int | float | str | np.number | np.bool_)


def _category(value: object) -> str | None:
    if not _is_scalar(value):
        return None
    text = str(value).strip()
    integer = text.removesuffix(".0")
    return (integer if integer.lstrip("-").isdigit() else text) or None


def nonempty_texts(column: pd.Series) -> list[str]:
    """Return the texts that are not blank."""
    return [text for text in column.tolist() if isinstance(text, str) and text.strip()]
