from __future__ import annotations

import numpy as np

from rakuten_tasks.tasks.evaluate_test_rows import photos_skipped
from tests.support.bundles import make_pool
from tests.support.pool_cases import MODALITY, case, only


def test_the_share_of_skipped_photos_is_of_the_products_that_have_one():
    logits, _ = case(10)
    pool = make_pool(MODALITY, 5, {"words": 0.9})
    complete = only(logits, **{**logits.available, "photo": np.arange(10) < 8})
    served = only(logits, **{**logits.available, "photo": np.arange(10) < 2})
    assert photos_skipped(pool, complete, served) == 0.75
    assert photos_skipped(pool, complete, complete) == 0
    without = only(logits, **{**logits.available, "photo": np.zeros(10, dtype=bool)})
    assert photos_skipped(pool, without, without) == 0
