"""A small version of `make bench-drift`: features of the real pipeline over made-up products."""

from __future__ import annotations

import pytest

from benchmarks.drift_pool import DARKER, NEW_WORDS, WITHOUT_PHOTOS, Pool, called_drift, make_pool
from rakuten_tasks.models.predictor import Predictor
from tests.support.bundles import write_bundle

REFERENCE, WINDOW = 350, 300


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return make_pool(Predictor.load(write_bundle(tmp_path_factory.mktemp("bundle"))), 660, seed=20_261)


def test_ordinary_windows_are_not_called_drift(pool):
    assert called_drift(pool, None, WINDOW, REFERENCE, times=25) <= 0.08


@pytest.mark.parametrize("kind", [DARKER, WITHOUT_PHOTOS, NEW_WORDS])
def test_strong_drift_is_called_drift(pool, kind):
    assert called_drift(pool, kind, WINDOW, REFERENCE, times=5) == 1
