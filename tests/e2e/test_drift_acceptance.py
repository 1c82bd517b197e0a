"""A small version of `make bench-drift`: features of the real pipeline over made-up products."""

from __future__ import annotations

import pytest

from benchmarks.drift_pool import DARKER, NEW_WORDS, WITHOUT_PHOTOS, Pool, drift_rate, make_pool
from rakuten_tasks.models.predictor import Predictor
from tests.support.bundles import write_bundle

REFERENCE, WINDOW = 350, 300


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return make_pool(Predictor.load(write_bundle(tmp_path_factory.mktemp("bundle"))), 660, seed=20_261)


def test_no_drift_is_reported_in_unchanged_windows(pool):
    assert drift_rate(pool, None, WINDOW, REFERENCE, times=25) <= 0.08


@pytest.mark.parametrize("kind", [DARKER, WITHOUT_PHOTOS, NEW_WORDS])
def test_strong_drift_is_reported(pool, kind):
    assert drift_rate(pool, kind, WINDOW, REFERENCE, times=5) == 1
