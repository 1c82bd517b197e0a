"""Stage 2: a split for every title, and a fold for every labelled row."""

from __future__ import annotations

import numpy as np
import pandas as pd
from flytekit.types.file import FlyteFile
from numpy.typing import NDArray
from rich.console import Console

from rakuten_tasks.config import SplitConfig
from rakuten_tasks.data.shards import read_text
from rakuten_tasks.data.splits import (
    FOLDS,
    SPLITS,
    TEST,
    TitleSplits,
    assign_folds,
    count_shared_photos,
    require_every_split,
)
from rakuten_tasks.models.bundle import TITLE_SPLITS
from rakuten_tasks.registry import runs
from rakuten_tasks.reports.split_deck import split_deck
from rakuten_tasks.runtime import pods
from rakuten_tasks.runtime.files import local, workspace
from rakuten_tasks.runtime.show_deck import show_deck
from rakuten_tasks.runtime.stage import stage
from rakuten_tasks.storage.local_files import hash_folder
from rakuten_tasks.tasks.types import KeyedSplits, Run, Shard, Splits

COLUMNS = ["row", "designation", "prdtypecode", "photo_hash"]


@stage(pods.CPU, cached=True, deck=True)
def split(shards: list[Shard], previous_splits: FlyteFile, config: SplitConfig, run: Run) -> KeyedSplits:
    """Extend the splits of earlier trainings by new titles; assign each labelled row to a split and a fold."""
    with runs.child_run(run.run_id, "split") as log:
        rows = pd.concat([read_text(local(s.text), COLUMNS) for s in shards], ignore_index=True)
        previous = TitleSplits.load(local(previous_splits))
        titles, codes = rows["designation"].tolist(), rows["prdtypecode"].tolist()
        title_splits = previous.extended(titles, codes, config)
        splits = title_splits.lookup(titles)
        require_every_split(splits, codes)
        counts = np.bincount(splits, minlength=len(SPLITS)).tolist()
        shared_photos, rows_sharing = count_shared_photos(rows["photo_hash"].tolist(), splits)
        log.metrics({f"rows_{name}": n for name, n in zip(SPLITS, counts, strict=True)})
        log.metrics({"titles_before": len(previous), "titles": len(title_splits)})
        log.metrics({"shared_photos": shared_photos, "rows_sharing_photos": sum(rows_sharing)})
        if shared_photos:
            Console(stderr=True, soft_wrap=True).print(
                f"{sum(rows_sharing)} held-out products have the photo file of a training product, under another title "
                f"({shared_photos} photos): the figures of members that see photos are too good by that"
            )
        deck = show_deck("split", "Split", split_deck(len(title_splits), counts, shared_photos, rows_sharing), log)
    folder = workspace() / "splits"
    folder.mkdir()
    titles_file, rows_file = folder / TITLE_SPLITS, folder / "assignments.parquet"
    title_splits.save(titles_file)
    has_photo = rows["photo_hash"].notna().to_numpy()
    assignments = rows[["row", "prdtypecode"]].assign(split=splits, fold=fold_rows(rows, splits), has_photo=has_photo)
    assignments.to_parquet(rows_file, index=False)
    return Splits(FlyteFile(str(titles_file)), FlyteFile(str(rows_file)), deck, hash_folder(folder))


def fold_rows(rows: pd.DataFrame, splits: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Assign a fold to every row but the test rows, which get -1: their labels would change the other rows' folds.

    splits: (N,), one for each row. -> (N,)
    """
    folds, fitted = np.full(len(rows), -1, dtype=np.int64), splits != TEST
    titles, codes = rows.loc[fitted, "designation"].tolist(), rows.loc[fitted, "prdtypecode"].tolist()
    folds[fitted] = assign_folds(titles, codes, FOLDS)
    return folds
