"""Stage 8, beside the evaluation: fit the baselines. Their pod imports no torch."""

from __future__ import annotations

import numpy as np
import pandas as pd
from flytekit.types.file import FlyteFile

from rakuten_tasks.data.splits import TEST
from rakuten_tasks.evaluation.baseline import BASELINES
from rakuten_tasks.registry import runs
from rakuten_tasks.runtime import pods
from rakuten_tasks.runtime.files import workspace
from rakuten_tasks.runtime.stage import stage
from rakuten_tasks.tasks.assignments import read_assignments, read_texts
from rakuten_tasks.tasks.types import Catalogue, KeyedFile, Run, Shard, Splits


@stage(pods.FIT, cached=True)
def score_baselines(shards: list[Shard], splits: Splits, catalogue: Catalogue, seed: int, run: Run) -> KeyedFile:
    """Fit the baselines on all rows but the test rows. -> Parquet of their probabilities of the test rows"""
    with runs.child_run(run.run_id, "score_baselines"):
        assignments = read_assignments(splits, catalogue)
        rows = pd.concat(read_texts(shards, assignments, ["row", "designation", "description"]), ignore_index=True)
        rows = rows.merge(assignments, on="row", validate="one_to_one")
        train, test = rows[rows["split"] != TEST], rows[rows["split"] == TEST]
        texts = [(part["designation"].tolist(), part["description"].tolist()) for part in (train, test)]
        parts = []
        for name, fit in BASELINES.items():
            baseline = fit(*texts[0], train["label"].to_numpy(np.int64), len(catalogue.codes), seed)
            scores = pd.DataFrame(baseline.probabilities(*texts[1]), columns=[str(code) for code in catalogue.codes])
            parts.append(scores.assign(row=test["row"].to_numpy(), baseline=name))
    path = workspace() / "baselines.parquet"
    pd.concat(parts).to_parquet(path, index=False)
    return FlyteFile(str(path))
