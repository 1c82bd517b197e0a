"""Cleaning of columns from logs, CSVs or anything else; invalid values become missing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa

from rakuten_tasks.monitoring.columns import DRIFT_COLUMNS, SCHEMA

_TYPES = {name: SCHEMA.field(name).type for name in DRIFT_COLUMNS}
YES_NO = tuple(name for name, kind in _TYPES.items() if pa.types.is_boolean(kind))
CATEGORIES = (*YES_NO, *(name for name, kind in _TYPES.items() if pa.types.is_string(kind)), "predicted")
_SAID = {"true": "yes", "1": "yes", "yes": "yes", "false": "no", "0": "no", "no": "no"}


def numbers(column: pd.Series) -> pd.Series:
    """float64; texts that are no numbers, yes and no, and infinite ones become NaN."""
    if column.dtype == object or isinstance(column.dtype, pd.StringDtype | pd.CategoricalDtype):
        # a list, a date or a yes in a cell is no number either
        plain = column.map(lambda value: value if _plain(value) and not isinstance(value, bool | np.bool_) else None)
        column = pd.to_numeric(plain.astype(object), errors="coerce")
    elif not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        return pd.Series(np.nan, index=column.index)
    values = pd.Series(column.to_numpy(float, na_value=np.nan), index=column.index)
    return values.where(np.isfinite(values))


def categories(column: pd.Series) -> pd.Series:
    """Texts or missing: 10, 10.0 and "10" are one category, as are True, 1 and "true" of YES_NO."""
    said = column.astype(object).map(_category, na_action="ignore").astype("str")
    return said.map(lambda text: _SAID.get(text.lower()), na_action="ignore") if column.name in YES_NO else said


def _plain(value: object) -> bool:
    return isinstance(value, int | float | str | np.number | np.bool_)


def _category(value: object) -> str | None:
    if not _plain(value):
        return None
    text = str(value).strip()
    whole = text.removesuffix(".0")
    return (whole if whole.lstrip("-").isdigit() else text) or None


def texts(column: pd.Series) -> list[str]:
    """Those that hold anything."""
    return [text for text in column.tolist() if isinstance(text, str) and text.strip()]
