from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from rakuten_tasks.tasks import predict_products
from rakuten_tasks.tasks.predict_products import MAX_SCORED, is_sampled


def test_all_products_are_scored_below_the_limit_and_a_sample_by_hash_above_it() -> None:
    assert is_sampled(np.arange(MAX_SCORED), MAX_SCORED).all()
    sampled = np.flatnonzero(is_sampled(np.arange(10 * MAX_SCORED), 10 * MAX_SCORED))
    assert len(sampled) == pytest.approx(MAX_SCORED, rel=0.01)
    assert np.histogram(sampled, 10)[0] == pytest.approx(np.full(10, MAX_SCORED / 10), rel=0.03)
    assert is_sampled(sampled, 10 * MAX_SCORED).all()  # by row number, whichever rows are beside it


def test_parts_are_joined_in_order_a_row_group_at_a_time(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(predict_products, "ROWS_PER_GROUP", 1024)
    parts = []
    for number in range(3):
        rows = range(1500 * number, 1500 * (number + 1))
        used = ["text+photo" if row % 3 else "none" for row in rows]
        part = {"row": rows, "prdtypecode": [row % 7 for row in rows], "used": used, "photo_status": ["ok"] * 1500}
        parts.append(tmp_path / f"{number}.parquet")
        pq.write_table(pa.Table.from_pandas(pd.DataFrame(part)), parts[-1])
    counts = predict_products._join(parts, tmp_path)
    assert counts == {"used": {"text+photo": 3000, "none": 1500}, "photo_status": {"ok": 4500}}
    assert (tmp_path / "submission.csv").read_text().startswith(",prdtypecode\n0,0\n1,1\n")
    submission = pd.read_csv(tmp_path / "submission.csv", index_col=0)
    assert submission["prdtypecode"].to_dict() == {row: row % 7 for row in range(4500)}
    details = pq.ParquetFile(tmp_path / "details.parquet")
    groups = [details.metadata.row_group(group).num_rows for group in range(details.num_row_groups)]
    assert sum(groups) == 4500
    assert max(groups) < 2 * 1024
    assert details.read()["row"].to_pylist() == list(range(4500))


def test_of_many_products_a_sample_is_scored_and_the_table_says_so(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(predict_products, "MAX_SCORED", 100)
    rows = np.arange(1000)
    labels = pd.Series(rows % 2, rows, dtype="Int64")
    monkeypatch.setattr(predict_products, "test_labels", lambda source, select: labels[select(rows)])
    predictions = pd.DataFrame({"row": rows, "prdtypecode": rows % 2, "bag_code": pd.array(rows % 2, "Int64")})
    pq.write_table(pa.Table.from_pandas(predictions), tmp_path / "details.parquet")
    predict_products._print_scores(tmp_path / "details.parquet", 1000, "catalogue", [0, 1], Console(width=120))
    printed = capsys.readouterr().out
    expected = int(is_sampled(rows, 1000).sum())
    assert 60 < expected < 140
    assert f"scored on {expected} of 1000 products, a sample" in printed
    assert "bag    1.000" in printed
