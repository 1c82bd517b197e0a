from __future__ import annotations

import numpy as np

from rakuten_tasks.config import PoolConfig
from rakuten_tasks.models.pool import fit_pool
from rakuten_tasks.tasks.fit_pool_weights import HeldOutScores, fit
from tests.support.pool_cases import MODALITY, PRIOR, case


def test_without_a_cascade_the_pool_is_its_weights_alone():
    logits, labels = case(800, signals=(6.0, 1.0, 1.0))
    unseen = HeldOutScores(np.arange(800), labels, logits, dict.fromkeys(MODALITY, np.zeros(800, dtype=bool)))
    whole, report = fit(unseen, PRIOR, PoolConfig(cascade=False))
    assert whole == fit_pool(logits, labels, MODALITY, PRIOR)
    assert (whole.thresholds, report.stages) == ({}, [])
    pool, report = fit(unseen, PRIOR, PoolConfig())
    assert set(pool.thresholds["text+photo"]) == {"text"}
    assert [stage.threshold for stage in report.stages] == [pool.thresholds["text+photo"]["text"]]
