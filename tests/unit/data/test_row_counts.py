from __future__ import annotations

import pytest

from rakuten_tasks.data.ingested import Counts
from rakuten_tasks.data.row_counts import RowCounts
from rakuten_tasks.data.schema import CatalogueError


@pytest.fixture
def counts() -> RowCounts:
    """Of ten rows: three have no title, one a bad label, and four of the others no usable photo."""
    counts = RowCounts()
    counts.add_quarantined([4, 9], ["no_title", "bad_label"])
    counts.add_kept([1, 2, 3], [None] * 3, ["ok", "photoless", "missing"], [20, 10, 20])
    counts.add_quarantined([5, 6], ["no_title"] * 2)
    counts.add_kept([7, 8, 0], [None] * 3, ["none", "missing", "missing"], [20, 10, 20])
    return counts


def test_rows_are_counted_by_value_in_order(counts):
    photos = {"missing": 3, "none": 1, "ok": 1, "photoless": 1}
    summary = counts.summarize(10, 6, "X.csv")
    assert summary == Counts(10, 6, 4, {"bad_label": 1, "no_title": 3}, photos, {})
    assert [*summary.photos] == [*photos]
    assert [*counts.class_counts.items()] == [(10, 2), (20, 4)]


def test_faults_are_listed_by_name_with_their_first_three_rows(counts):
    counts.require_few_faults(10, 0.8, "X.csv", ["images"])
    counts.add_kept([11], [None], ["missing"], [10])
    message = (
        r"X\.csv: 9 of 11 labelled rows are bad \(81\.8%, more than max_bad_share = 80\.0%\)\. "
        r"bad_label, prdtypecode is no whole number: 1 \(rows 9\); "
        r"no_title, designation is empty or holds no text: 3 \(rows 4, 5, 6\); "
        r"photo missing: 4 \(rows 3, 8, 0, \.\.\.\); photo photoless: 1 \(rows 2\)\. Photos were looked for in images; "
    )
    with pytest.raises(CatalogueError, match=message):
        counts.require_few_faults(11, 0.8, "X.csv", ["images"])


def test_rows_that_do_not_add_up_are_an_error(counts):
    with pytest.raises(CatalogueError, match=r"X\.csv: Counts\(read=11, .* does not add up: the file changed while"):
        counts.summarize(11, 6, "X.csv")
