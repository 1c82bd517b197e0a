"""Stage 2: a split for every title, and a fold for every row that is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from flytekit.types.file import FlyteFile
from rich.console import Console

from rakuten_tasks.config import SampleConfig, SplitConfig
from rakuten_tasks.data.assignments import count_rows, count_shared_photos, fold_rows, read_titles, require_every_split
from rakuten_tasks.data.sampling import require_trained_classes, sample_fractions, select_rows
from rakuten_tasks.data.splits import SPLITS, TitleSplits
from rakuten_tasks.models.bundle import TITLE_SPLITS
from rakuten_tasks.registry import runs
from rakuten_tasks.reports.split_deck import split_deck
from rakuten_tasks.runtime import pods
from rakuten_tasks.runtime.files import local, located, workspace
from rakuten_tasks.runtime.show_deck import show_deck
from rakuten_tasks.runtime.stage import stage
from rakuten_tasks.storage.local_files import hash_folder
from rakuten_tasks.tasks.types import KeyedSplits, Run, Shard, Splits


@stage(pods.CPU, cached=True, deck=True)
def split(
    shards: list[Shard], previous_splits: FlyteFile, config: SplitConfig, sample: SampleConfig, run: Run
) -> KeyedSplits:
    """Extend the splits of earlier trainings by new titles; assign each row that is used to a split and a fold."""
    files = [located(shard.text) for shard in shards]
    with runs.child_run(run.run_id, "split") as log:
        previous = TitleSplits.load(local(previous_splits))
        title_splits = previous.extended(read_titles(files), config)
        counts = count_rows(title_splits, read_titles(files))
        require_every_split(counts)
        rows = select_rows(files, title_splits, sample_fractions(counts, sample))
        require_trained_classes(counts, rows)
        splits = rows["split"].to_numpy()
        used, labelled = np.bincount(splits, minlength=len(SPLITS)), np.sum(list(counts.values()), axis=0)
        by_split = {name: [int(used[i]), int(labelled[i])] for i, name in enumerate(SPLITS)}
        shared_photos, rows_sharing = count_shared_photos(rows["photo_hash"].tolist(), splits)
        log.metrics({f"rows_{name}": n for name, (n, _) in by_split.items()})
        log.metrics({f"labelled_rows_{name}": n for name, (_, n) in by_split.items()})
        log.metrics({"listed_titles_before": len(previous), "listed_titles": len(title_splits)})
        log.metrics({"shared_photos": shared_photos, "rows_sharing_photos": sum(rows_sharing)})
        _print_notes(by_split, shared_photos, rows_sharing)
        page = split_deck(len(title_splits), len(title_splits.by_rule), by_split, shared_photos, rows_sharing)
        deck = show_deck("split", "Split", page, log)
    folder = workspace() / "splits"
    folder.mkdir()
    titles_file, rows_file = folder / TITLE_SPLITS, folder / "assignments.parquet"
    title_splits.save(titles_file)
    folds = fold_rows(rows["title_hash"].to_numpy(np.uint64), rows["prdtypecode"].to_numpy(np.int64), splits)
    assignments = rows.drop(columns=["title_hash", "photo_hash"])
    assignments.assign(fold=folds, has_photo=rows["photo_hash"].notna()).to_parquet(rows_file, index=False)
    return Splits(FlyteFile(str(titles_file)), FlyteFile(str(rows_file)), by_split, deck, hash_folder(folder))


def _print_notes(by_split: Mapping[str, Sequence[int]], shared_photos: int, rows_sharing: Sequence[int]) -> None:
    console = Console(stderr=True, soft_wrap=True)
    if sampled := [f"{n:,} of {total:,} ({name})" for name, (n, total) in by_split.items() if n < total]:
        console.print(f"a sample of the labelled rows is used: {', '.join(sampled)}; see `sample` in the configuration")
    if shared_photos:
        console.print(
            f"{sum(rows_sharing)} held-out products have the photo file of a training product, under another title "
            f"({shared_photos} photos): the figures of members that see photos are too good by that"
        )
