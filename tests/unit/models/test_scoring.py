from __future__ import annotations

import pandas as pd

from rakuten_tasks.config import IngestConfig
from rakuten_tasks.data.read_catalogue import ingest
from rakuten_tasks.models import scoring
from tests.support.catalogues import photo_bytes, write_catalogue


def test_assigned_products_are_read_in_order_and_few_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "READ_ROWS", 3)
    source = write_catalogue(tmp_path / "catalogue", labelled=24)
    shards = ingest(str(source), tmp_path / "read", IngestConfig(rows_per_shard=10)).labelled
    numbers = [0, 1, 2, 3, 4, 5, 9, 20, 21, 22, 23]
    rows = pd.DataFrame(
        {"row": numbers, "shard": [row // 10 for row in numbers], "split": [row % 4 for row in numbers]}
    )
    parts = list(scoring.read_assigned(shards, rows))
    assert [part["row"].tolist() for part in parts] == [[0, 1, 2], [3, 4, 5], [9], [20, 21, 22], [23]]
    products = pd.concat(parts)
    assert products["split"].tolist() == rows["split"].tolist()
    assert products["photo"].tolist() == [photo_bytes(row) for row in numbers]
