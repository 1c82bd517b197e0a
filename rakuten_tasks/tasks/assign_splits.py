"""Stage 2: a split for every title, and a fold for every labelled row."""

from __future__ import annotations

import numpy as np
import pandas as pd
from flytekit.types.file import FlyteFile
from rich.console import Console

from rakuten_tasks.config import SplitConfig
from rakuten_tasks.data.assignments import count_rows, count_shared_photos, fold_rows, read_titles, require_every_split
from rakuten_tasks.data.shards import read_text
from rakuten_tasks.data.splits import SPLITS, TitleSplits
from rakuten_tasks.models.bundle import TITLE_SPLITS
from rakuten_tasks.registry import runs
from rakuten_tasks.reports.split_deck import split_deck
from rakuten_tasks.runtime import pods
from rakuten_tasks.runtime.files import local, workspace
from rakuten_tasks.runtime.show_deck import show_deck
from rakuten_tasks.runtime.stage import stage
from rakuten_tasks.storage.local_files import hash_folder
from rakuten_tasks.tasks.types import KeyedSplits, Run, Shard, Splits

COLUMNS = ["row", "title_hash", "prdtypecode", "photo_hash"]


@stage(pods.CPU, cached=True, deck=True)
def split(shards: list[Shard], previous_splits: FlyteFile, config: SplitConfig, run: Run) -> KeyedSplits:
    """Extend the splits of earlier trainings by new titles; assign each labelled row to a split and a fold."""
    with runs.child_run(run.run_id, "split") as log:
        paths = [local(s.text) for s in shards]
        rows = pd.concat([read_text(path, COLUMNS) for path in paths], ignore_index=True)
        previous = TitleSplits.load(local(previous_splits))
        title_splits = previous.extended(read_titles(paths), config)
        require_every_split(count_rows(title_splits, read_titles(paths)))
        hashes, codes = rows["title_hash"].to_numpy(np.uint64), rows["prdtypecode"].to_numpy(np.int64)
        splits = title_splits.lookup(hashes)
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
    folds = fold_rows(hashes, codes, splits)
    assignments = rows[["row", "prdtypecode"]].assign(split=splits, fold=folds, has_photo=has_photo)
    assignments.to_parquet(rows_file, index=False)
    return Splits(FlyteFile(str(titles_file)), FlyteFile(str(rows_file)), deck, hash_folder(folder))
