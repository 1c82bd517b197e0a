"""Stage 2: a split for every title, and a fold for every labelled row."""

from __future__ import annotations

import numpy as np
import pandas as pd
from flytekit.types.file import FlyteFile
from numpy.typing import NDArray

from rakuten_tasks.config import SplitConfig
from rakuten_tasks.data.shards import read_shard
from rakuten_tasks.data.splits import SPLITS, TEST, TitleSplits, assign_folds, require_every_split
from rakuten_tasks.models.bundle import TITLE_SPLITS
from rakuten_tasks.models.members.member import FOLDS
from rakuten_tasks.registry import runs
from rakuten_tasks.runtime import pods
from rakuten_tasks.runtime.files import content_hash, local, workspace
from rakuten_tasks.runtime.stage import stage
from rakuten_tasks.tasks.types import KeyedSplits, Run, Shard, Splits

COLUMNS = ["row", "designation", "prdtypecode", "photo_status"]


@stage(pods.CPU, cached=True)
def split(shards: list[Shard], known: FlyteFile, config: SplitConfig, run: Run) -> KeyedSplits:
    """Extend the known splits by new titles; give each row its split and a fold."""
    with runs.child_run(run.run_id, "split") as log:
        rows = pd.concat([read_shard(local(s.products), COLUMNS) for s in shards], ignore_index=True)
        before = TitleSplits.load(local(known))
        titles, codes = rows["designation"].tolist(), rows["prdtypecode"].tolist()
        title_splits = before.extended(titles, codes, config)
        splits = title_splits.lookup(titles)
        require_every_split(splits, codes)
        log.metrics({f"rows_{name}": int((splits == split).sum()) for split, name in enumerate(SPLITS)})
        log.metrics({"titles_known_before": len(before), "titles": len(title_splits)})
    folder = workspace() / "splits"
    folder.mkdir()
    titles_file, rows_file = folder / TITLE_SPLITS, folder / "assignments.parquet"
    title_splits.save(titles_file)
    has_photo = rows["photo_status"].eq("ok").to_numpy()
    assignments = rows[["row", "prdtypecode"]].assign(split=splits, fold=fold_rows(rows, splits), has_photo=has_photo)
    assignments.to_parquet(rows_file, index=False)
    return Splits(FlyteFile(str(titles_file)), FlyteFile(str(rows_file)), content_hash(folder))


def fold_rows(rows: pd.DataFrame, splits: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Of the rows that are not test; the others are in none, -1: their labels would move titles to other folds."""
    folds, fitted = np.full(len(rows), -1, dtype=np.int64), splits != TEST
    titles, codes = rows.loc[fitted, "designation"].tolist(), rows.loc[fitted, "prdtypecode"].tolist()
    folds[fitted] = assign_folds(titles, codes, FOLDS)
    return folds
