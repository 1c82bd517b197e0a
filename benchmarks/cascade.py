"""Quality and speed of the pool's cascade on rows that no member was fitted on, against the pool of all members.

python -m benchmarks.cascade --source FOLDER --source sample --seeds 5 --config configs/default.yaml

Each seed draws other test rows, folds and initial weights; features are extracted once. Speed is that of seed 0, whose
split is the training's. Test rows are few, and those of Y_test.csv are the same for each seed. So pool and cascade are
also learnt on 400 of the rows out of fold, drawn ten times, and measured on the other ones.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.training_run import TrainingRun, common_rows
from rakuten_tasks.config import TrainingConfig
from rakuten_tasks.data.sample.generate import SAMPLE, write_sample
from rakuten_tasks.evaluation.bootstrap import weighted_f1
from rakuten_tasks.evaluation.metrics import reliability
from rakuten_tasks.models.cascade import learn_cascade
from rakuten_tasks.models.members import MEMBERS
from rakuten_tasks.models.pool import Logits, Pool, fit_pool
from rakuten_tasks.models.predictor import Predictor
from rakuten_tasks.preprocessing.product import Product
from rakuten_tasks.runtime.settings_file import read_settings

QUALITY = ("rows", "photos skipped", "encoder skipped", "weighted F1", "change of F1", "ECE", "change of ECE")
SPEED = ("products/s", "times as fast", "by CPU time")
KINDS = ("text", "photo", "text+photo")  # the weights of the pool without early stages
REPEATS = 3  # the fastest counts
FEW, DRAWS = 400, 10  # rows out of fold on which the cascade is learnt, and how often


@click.command()
@click.option(
    "--source", "sources", multiple=True, default=[SAMPLE], help="a catalogue's folder, or sample; repeatable"
)
@click.option("--seeds", default=5, type=click.IntRange(1), help="number of splits")
@click.option("--config", "file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--products", default=400, type=click.IntRange(1), help="at most so many of each part, for the speed")
def main(sources: Sequence[str], seeds: int, file: Path | None, products: int) -> None:
    """Print the pool of all members and what the cascade changes: mean and standard error of the seeds' splits."""
    config = read_settings(file, TrainingConfig) if file else TrainingConfig()
    table = Table("", *QUALITY, *SPEED, title=f"all members, and the cascade's changes on {seeds} splits")
    for source in sources:
        with tempfile.TemporaryDirectory() as folder:
            address = source
            if source == SAMPLE:
                address = f"{folder}/{SAMPLE}"
                write_sample(Path(address))
            for part, cells in _measure(TrainingRun(address, config, Path(folder)), seeds, products).items():
                table.add_row(f"{Path(source).name}, {part}", *cells)
    Console(width=180).print(table)


def _measure(run: TrainingRun, seeds: int, products: int) -> dict[str, list[str]]:
    """Return the table's cells by part."""
    quality: defaultdict[str, list[list[float]]] = defaultdict(list)
    for seed in reversed(range(seeds)):
        run.resplit(seed)
        fitted = run.fit(seed)
        pool = run.fit_pool(fitted)
        for part, (logits, labels) in run.held_out_logits(fitted, pool).items():
            quality[part].append(_compare_quality(pool, logits, labels))
            print(seed, part, dict(zip(QUALITY, np.round(quality[part][-1], 4).tolist(), strict=True)), flush=True)
    quality[f"out of fold, {FEW} learnt on"] = list(_learn_on_few(pool, *run.unseen(fitted)))
    predictor = run.predictor(fitted, pool)
    speed = {part: _compare_speed(predictor, items[:products]) for part, (items, _) in run.labelled_products().items()}
    return {part: [*_cells(rows), *speed.get(part, [])] for part, rows in quality.items() if rows}


def _learn_on_few(pool: Pool, unseen: Logits, labels: NDArray) -> Iterator[list[float]]:
    """Learn a pool and its cascade on FEW rows out of fold; yield QUALITY of the other ones, for each draw."""
    rows, cheap = common_rows(unseen), [name for name in pool.modality if MEMBERS[name].cheap]
    for draw in range(DRAWS if len(rows) > FEW else 0):
        few, others = np.split(np.random.default_rng(draw).permutation(rows), [FEW])
        logits = unseen.take(few)
        whole = fit_pool(logits, labels[few], pool.modality, np.asarray(pool.prior))
        cascade, _ = learn_cascade(whole, logits, labels[few], cheap)
        yield _compare_quality(cascade, unseen.take(others), labels[others])


def _compare_quality(pool: Pool, logits: Logits, labels: NDArray) -> list[float]:
    """Return QUALITY of rows (N,), from the logits of all members."""
    served = pool.cascade(logits)
    photo = [name for name in pool.modality if pool.modality[name] == "photo"]
    encoder = [name for name in pool.modality if name not in photo and not MEMBERS[name].cheap]
    whole, cascade = pool.probabilities(logits), pool.probabilities(served)
    f1 = [weighted_f1(labels, scores.argmax(1)) for scores in (whole, cascade)]
    ece = [reliability(scores, labels).ece for scores in (whole, cascade)]
    skipped = [_skipped(names, logits, served) for names in (photo, encoder)]
    return [len(labels), *skipped, f1[0], f1[1] - f1[0], ece[0], ece[1] - ece[0]]


def _skipped(members: Collection[str], logits: Logits, served: Logits) -> float:
    """Return the share of the rows with input for some members that none of them scores; NaN without such rows."""
    before, after = (sum(scored.available[name] for name in members) for scored in (logits, served))
    return 1 - np.sum(after > 0) / np.sum(before > 0) if np.any(before) else np.nan


def _cells(rows: Sequence[Sequence[float]]) -> list[str]:
    """Format QUALITY of one row a seed."""
    values = pd.DataFrame(rows, columns=QUALITY)
    mean, error = values.mean(), values.sem().fillna(0)
    cells = {name: f"{mean[name]:.3f}" for name in ("weighted F1", "ECE")}
    cells |= {name: f"{mean[name]:+.4f} ± {error[name]:.4f}" for name in ("change of F1", "change of ECE")}
    cells |= {name: "" if np.isnan(mean[name]) else f"{mean[name]:.0%}" for name in QUALITY[1:3]}
    return [f"{mean['rows']:.0f}", *(cells[name] for name in QUALITY[1:])]


def _compare_speed(cascade: Predictor, products: Sequence[Product]) -> list[str]:
    """Predict products in turn without and with the cascade, and return SPEED."""
    weights = {key: weights for key, weights in cascade.pool.weights.items() if key in KINDS}
    pool = replace(cascade.pool, weights=weights, thresholds={})
    whole = Predictor(cascade.codes, pool, cascade.extractors, cascade.members)
    runs = [[_time(predictor, products) for predictor in (whole, cascade)] for _ in range(REPEATS)]
    (wall, cpu), (wall_cascade, cpu_cascade) = np.min(runs, axis=0)
    speed = f"{len(products) / wall:.1f} -> {len(products) / wall_cascade:.1f}"
    return [speed, f"{wall / wall_cascade:.2f}", f"{cpu / cpu_cascade:.2f}"]


def _time(predictor: Predictor, products: Sequence[Product]) -> tuple[float, float]:
    """Predict products, and return elapsed seconds and CPU seconds of all threads."""
    wall, cpu = time.perf_counter(), time.process_time()
    predictor.score(products)
    return time.perf_counter() - wall, time.process_time() - cpu


if __name__ == "__main__":
    main()
