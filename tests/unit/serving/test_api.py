"""The worker's API, in process, with a stub of the reloader."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from rakuten_tasks.models.predictor import Predictor
from serving.schemas import InferenceRequest
from serving.settings import Settings
from serving.telemetry.prometheus import Metrics
from serving.worker.api import ProductAPI
from serving.worker.bundle_cache import Champion
from serving.worker.reloader import LoadedModel
from serving.worker_status import StatusReader, StatusWriter
from tests.support.bundles import write_bundle
from tests.support.catalogues import photo_bytes


@pytest.fixture
def api(tmp_path: Path) -> ProductAPI:
    """After `setup`, without its threads."""
    api = ProductAPI(Settings(var=tmp_path), tmp_path)
    bundle = write_bundle(tmp_path / "bundle", thresholds={"words": 0.0})
    api._reloader = SimpleNamespace(current=LoadedModel(Champion("m", "1", "hash"), Predictor.load(bundle)))
    api.photos_at_once = 4
    api._log_writer = SimpleNamespace(add=lambda row, size: None)
    api._reset_counters(StatusWriter(tmp_path))
    return api


def test_members_and_skipped_photos_are_counted_and_a_new_worker_goes_on_from_there(api, tmp_path):
    products = [("roman", None), ("roman", photo_bytes(1)), ("", photo_bytes(2))]
    requests = [InferenceRequest(str(i), "", text, photo, 1, False) for i, (text, photo) in enumerate(products)]
    numbers = []
    for rows, responses in api.predict(requests):
        assert [response.status for response in responses] == [200] * len(rows)
        api.after_batch()
        numbers.append(rows)
    assert numbers == [[0, 1], [2]]
    api._published_at = 0.0  # a second later
    api.on_idle()
    text = Metrics(StatusReader(tmp_path).status, lambda: 0).text().decode()
    assert "rakuten_skipped_photos_total 1.0" in text
    assert 'rakuten_members_total{member="bag"} 2.0' in text
    assert 'rakuten_members_total{member="vgg16"} 1.0' in text
    assert 'rakuten_batch_size_bucket{le="4"} 1.0' in text
    status = StatusReader(tmp_path).status()
    assert (status.members, status.skipped_photos) == ({"bag": 2, "vgg16": 1}, 1)
    assert (status.counters().members, status.counters().skipped_photos) == (status.members, 1)
