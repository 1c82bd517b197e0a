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
    bundle = write_bundle(tmp_path / "bundle")
    api._reloader = SimpleNamespace(current=LoadedModel(Champion("m", "1", "hash"), Predictor.load(bundle)))
    api._log_writer = SimpleNamespace(add=lambda row, size: None)
    api._reset_counters(StatusWriter(tmp_path))
    return api


def test_members_and_skipped_photos_are_counted_and_a_new_worker_goes_on_from_there(api, tmp_path):
    photos = [None, photo_bytes(1), photo_bytes(2)]
    requests = [InferenceRequest(str(i), "", "roman", photo, 1, False) for i, photo in enumerate(photos)]
    predictor = api._reloader.current.predictor
    original = predictor.logits

    def without_the_last_photo(products: list) -> object:
        logits, embeddings = original(products)
        logits.available["vgg16"][-1] = False
        return logits, embeddings

    predictor.logits = without_the_last_photo
    api.predict(requests)
    api.after_batch()
    text = Metrics(StatusReader(tmp_path).status, lambda: 0).text().decode()
    assert "rakuten_skipped_photos_total 1.0" in text
    assert 'rakuten_members_total{member="bag"} 3.0' in text
    assert 'rakuten_members_total{member="vgg16"} 1.0' in text
    assert 'rakuten_batch_size_bucket{le="4"} 1.0' in text
    status = StatusReader(tmp_path).status()
    assert (status.members, status.skipped_photos) == ({"bag": 3, "lstm": 3, "vgg16": 1}, 1)
    assert (status.counters().members, status.counters().skipped_photos) == (status.members, 1)
