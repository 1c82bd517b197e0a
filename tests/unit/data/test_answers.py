from __future__ import annotations

import pandas as pd
import pytest

from rakuten_tasks.data.answers import match_labels

BLANK, UNKNOWN = "1 labels that are blank or no whole number", "1 labels of an unknown class"
OTHER, LACKING = "1 labels of rows that are no product", "products without a label"
ROWS = pd.Index([5, 6, 7])


@pytest.mark.parametrize(
    ("labels", "known", "matched", "mismatch"),
    [
        ({5: 10, 6: 20, 7: 10}, [10, 20], {5: 10, 6: 20, 7: 10}, ""),
        ({5: 10, 6: 20, 7: 30}, None, {5: 10, 6: 20, 7: 30}, ""),
        ({5: 10, 6: None, 7: 30}, [10, 20], {5: 10}, f"{BLANK} (6); {UNKNOWN} (7)"),
        ({7: 10, 8: 20}, [10, 20], {7: 10}, f"{OTHER} (8); 2 {LACKING} (5, 6)"),
        ({0: 10}, [10], {}, f"{OTHER} (0); 3 {LACKING} (5, 6, 7)"),
    ],
)  # fmt: skip
def test_labels_count_where_they_belong_to_a_product_and_a_class(labels, known, matched, mismatch):
    codes = pd.Series(labels, dtype="Int64")
    result = match_labels(codes, ROWS, known)
    assert (result.codes.to_dict(), result.mismatch) == (matched, mismatch)
    assert result.codes.dtype == "int64"
