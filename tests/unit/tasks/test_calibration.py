"""int8 is calibrated on photos of training rows."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import pandas as pd
import pytest
from flytekit.types.file import FlyteFile

from rakuten_tasks.config import IngestConfig, TrainingConfig
from rakuten_tasks.data.read_catalogue import ingest
from rakuten_tasks.data.splits import TEST, TRAIN
from rakuten_tasks.tasks import extract_features
from rakuten_tasks.tasks.types import Shard, Splits
from tests.support.catalogues import photo_path, write_catalogue
from tests.support.task_names import task_function


@pytest.mark.parametrize("limit", [5, 64])
def test_int8_is_calibrated_on_photos_of_training_rows_alone(
    limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_catalogue(tmp_path / "source", labelled=20, unlabelled=0)
    ingested = ingest(str(source), tmp_path / "shards", IngestConfig(rows_per_shard=8), unlabelled=False)
    shards = [Shard(FlyteFile(str(s.text)), FlyteFile(str(s.photos)), s.rows, s.sha256) for s in ingested.labelled]
    rows = pd.DataFrame({"row": range(20), "shard": [row // 8 for row in range(20)], "has_photo": True})
    rows = rows.assign(split=[TEST if row % 3 == 0 else TRAIN for row in range(20)])
    rows.loc[4, "has_photo"] = False
    rows.to_parquet(tmp_path / "assignments.parquet")
    splits = mock.Mock(spec=Splits, assignments=FlyteFile(str(tmp_path / "assignments.parquet")))
    build = mock.Mock()
    monkeypatch.setattr("rakuten_tasks.models.members.plan.build_extractor", build)
    monkeypatch.setattr(extract_features, "hash_folder", lambda folder: "")
    monkeypatch.setattr(extract_features, "workspace", lambda: tmp_path / "work")
    monkeypatch.setattr("rakuten_tasks.models.members.plan.CALIBRATION_PHOTOS", limit)
    task_function(extract_features.fit_extractor)(
        name="photo_features", shards=shards, splits=splits, key="", config=TrainingConfig()
    )
    photos = build.call_args.args[3]()
    usable = [photo_path(source, row).read_bytes() for row in range(20) if row % 3 and row != 4]
    assert len(photos) == len(set(photos)) == min(limit, len(usable))
    assert set(photos) <= set(usable)
    assert photos == build.call_args.args[3]()
