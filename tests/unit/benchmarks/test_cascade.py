from __future__ import annotations

import numpy as np
import pytest

from benchmarks.cascade import DRAWS, FEW, QUALITY, _cells, _compare_quality, _learn_on_few
from rakuten_tasks.models.pool import Logits, Pool
from tests.support.pool_cases import MODALITY as THREE
from tests.support.pool_cases import PRIOR, case

MODALITY = {"bag": "text", "encoder": "text", "photo": "photo"}


def test_quality_is_compared_with_the_pool_of_all_members() -> None:
    weights = {
        "text": {"bag": 1.0, "encoder": 1.0},
        "photo": {"photo": 1.0},
        "text+photo": dict.fromkeys(MODALITY, 1.0),
    }
    pool = Pool(MODALITY, {"words": {"bag": 1.0}, **weights}, {}, [0.5, 0.5], {"text+photo": {"words": 0.9}})
    bag = np.array([[4, 0], [4, 0], [1, 0], [1, 0]], dtype=np.float32)  # sure of the first two products
    photo = np.array([[0, 8], [4, 0], [0, 8], [0, 8]], dtype=np.float32)
    scores = {"bag": bag, "encoder": np.zeros_like(bag), "photo": photo}
    masks = {"bag": np.ones(4, bool), "encoder": np.ones(4, bool), "photo": np.array([True, True, True, False])}
    rows, photos, encoder, f1, change, *_ = _compare_quality(pool, Logits(scores, masks), np.array([1, 0, 1, 0]))
    assert (rows, photos, encoder, f1) == (4, pytest.approx(2 / 3), 0.5, 1.0)
    assert change == pytest.approx(-(0.5 - 0.5 * 0.8) - (0.5 - 0.5 * 2 / 3))  # the first product is wrong now


def test_cells_are_means_and_standard_errors_of_the_splits() -> None:
    splits = [[60, 0.2, np.nan, 0.8, 0.0, 0.05, -0.01], [62, 0.4, np.nan, 0.9, -0.02, 0.07, 0.01]]
    cells = dict(zip(QUALITY, _cells(splits), strict=True))
    assert cells["change of F1"] == "-0.0100 ± 0.0100"
    assert (cells["rows"], cells["photos skipped"], cells["encoder skipped"], cells["ECE"]) == (
        "61",
        "30%",
        "",
        "0.060",
    )


@pytest.mark.parametrize(("rows", "draws"), [(FEW + 100, DRAWS), (FEW, 0)])
def test_what_few_rows_teach_is_measured_on_the_other_ones(rows: int, draws: int) -> None:
    pool = Pool(THREE, {}, {}, PRIOR.tolist())
    measured = list(_learn_on_few(pool, *case(rows)))
    assert [values[0] for values in measured] == [100] * draws
