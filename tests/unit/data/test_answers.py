from __future__ import annotations

import pandas as pd
import pytest

from rakuten_tasks.data.answers import match_labels

BLANK, UNKNOWN = "labels that are blank or no whole number", "labels of an unknown class"
OTHER, LACKING = "labels of rows that are no product", "products without a label"
ROWS = pd.Index([5, 6, 7])


@pytest.mark.parametrize(
    ("labels", "known", "matched", "mismatch"),
    [
        ({5: 10, 6: 20, 7: 10}, [10, 20], {5: 10, 6: 20, 7: 10}, ""),
        ({5: 10, 6: 20, 7: 30}, None, {5: 10, 6: 20, 7: 30}, ""),
        ({5: 10, 6: None, 7: 30}, [10, 20], {5: 10}, f"{BLANK}: 1 (rows 6); {UNKNOWN}: 1 (rows 7)"),
        ({7: 10, 8: 20}, [10, 20], {7: 10}, f"{OTHER}: 1 (rows 8); {LACKING}: 2 (rows 5, 6)"),
        ({0: 10}, [10], {}, f"{OTHER}: 1 (rows 0); {LACKING}: 3 (rows 5, 6, 7)"),
    ],
)  # fmt: skip
def test_labels_count_where_they_belong_to_a_product_and_a_class(labels, known, matched, mismatch):
    codes = pd.Series(labels, dtype="Int64")
    result = match_labels(codes, ROWS, known)
    assert (result.codes.to_dict(), result.mismatch) == (matched, mismatch)
    assert result.codes.dtype == "int64"
