"""Labels of products to predict, as in Y_test.csv: which of them belong to the products beside them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import pandas as pd

from rakuten_tasks.data.csv_files import format_rows


@dataclass(frozen=True)
class MatchedLabels:
    """Labels that belong to products.

    codes: int64 by row. mismatch: what does not match, in one line; empty if each product has one known label.
    """

    codes: pd.Series
    mismatch: str


def match_labels(labels: pd.Series, rows: pd.Index, known: Collection[int] | None = None) -> MatchedLabels:
    """Match labels with products by row number.

    labels: codes by row, <NA> where a code is no whole number. rows: of the products. known: codes of all classes;
    None for any.
    """
    codes = labels[labels.index.isin(rows)]
    blank = codes.isna()
    unknown = ~blank & ~codes.isin(list(known)) if known is not None else blank & False
    counted = {
        "labels of rows that are no product": labels.index.difference(rows),
        "products without a label": rows.difference(labels.index),
        "labels that are blank or no whole number": codes.index[blank],
        "labels of an unknown class": codes.index[unknown],
    }
    counts = [f"{what}: {len(at)} (rows {format_rows(at)})" for what, at in counted.items() if len(at)]
    return MatchedLabels(codes[~blank & ~unknown].astype("int64"), "; ".join(counts))
