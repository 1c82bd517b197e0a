from __future__ import annotations

import pytest

from rakuten_tasks.config import TrainingConfig
from rakuten_tasks.data.schema import CatalogueError
from rakuten_tasks.models.members.plan import photo_bytes
from rakuten_tasks.runtime import pods
from rakuten_tasks.runtime.disk import require_pod_disk
from rakuten_tasks.tasks.train_members import _require_photo_disk

GIB = 2**30


def test_a_pods_disk_is_compared_in_pods_alone(monkeypatch):
    disks = ["cpu_disk", "photo_disk"]
    monkeypatch.setattr(pods, "SETTINGS", pods.SETTINGS.model_copy(update={"cpu_disk": "10G", "photo_disk": "40Gi"}))
    require_pod_disk(50 * GIB, "files", disks)
    monkeypatch.setenv("FLYTE_INTERNAL_EXECUTION_ID", "pod")
    require_pod_disk(10 * 10**9, "files", disks)
    message = (
        r"^files take 10\.0 GB, and pods have RAKUTEN_CPU_DISK=10G: register with RAKUTEN_CPU_DISK of at least 10Gi, "
        "on nodes that have it, or less$"
    )
    with pytest.raises(CatalogueError, match=message):
        require_pod_disk(10 * 10**9 + 1, "files", disks, "less")
    with pytest.raises(CatalogueError, match="RAKUTEN_CPU_DISK and RAKUTEN_PHOTO_DISK of at least 41Gi"):
        require_pod_disk(40 * GIB + 1, "files", disks)


def test_features_of_photos_are_as_large_as_their_arrays():
    assert photo_bytes(["ngrams", "photo_features"], 224) == 0
    assert photo_bytes(["pixels"], 32) == 32 * 32 * 3
    assert photo_bytes(["tokens", "maps"], 224) == 2 * (2944 + 512 * 14 * 14)


def test_a_full_sample_of_photos_that_no_pod_can_hold_is_refused_before_any_feature_is_extracted(monkeypatch):
    config = TrainingConfig.from_dict({"photo": {"image_size": 224, "fine_tune_epochs": 2}})
    extractors = ["ngrams", "maps"]
    _require_photo_disk(350_000, extractors, config)
    monkeypatch.setenv("FLYTE_INTERNAL_EXECUTION_ID", "pod")
    _require_photo_disk(50_000, extractors, config)
    message = "take 72.3 GB, and pods have RAKUTEN_CPU_DISK=20Gi, .* RAKUTEN_PHOTO_DISK=40Gi: .* or lower `sample`"
    with pytest.raises(CatalogueError, match=message):
        _require_photo_disk(350_000, extractors, config)
