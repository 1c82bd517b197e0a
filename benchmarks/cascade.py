"""Quality and speed of batch prediction with the pool's cascade, against the pool of all members, in one run.

python -m benchmarks.cascade --source FOLDER --source sample --config configs/default.yaml
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.training_run import TrainingRun
from rakuten_tasks.config import TrainingConfig
from rakuten_tasks.data.sample.generate import SAMPLE, write_sample
from rakuten_tasks.evaluation.bootstrap import weighted_f1
from rakuten_tasks.evaluation.metrics import reliability
from rakuten_tasks.models.predictor import Predictor, Scores
from rakuten_tasks.preprocessing.product import Product
from rakuten_tasks.runtime.settings_file import read_settings

COLUMNS = ("", "products", "photos skipped", "weighted F1", "ECE", "products/s")
KINDS = ("text", "photo", "text+photo")  # the weights of the pool without early stages
REPEATS = 3  # the fastest counts


@click.command()
@click.option(
    "--source", "sources", multiple=True, default=[SAMPLE], help="a catalogue's folder, or sample; repeatable"
)
@click.option("--config", "file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--products", default=400, type=click.IntRange(1), help="at most so many of each part")
def main(sources: Sequence[str], file: Path | None, products: int) -> None:
    """Print a line for each catalogue and part, and each figure without and with the cascade."""
    config = read_settings(file, TrainingConfig) if file else TrainingConfig()
    table = Table(*COLUMNS, title="pool of all members -> cascade")
    for source in sources:
        with tempfile.TemporaryDirectory() as folder:
            address = source
            if source == SAMPLE:
                address = f"{folder}/{SAMPLE}"
                write_sample(Path(address))
            run = TrainingRun(address, config, Path(folder))
            fitted = run.fit(config.seed)
            predictor = run.predictor(fitted, run.fit_pool(fitted))
            for part, (items, codes) in run.labelled_products().items():
                cells = _compare(predictor, items[:products], codes[:products])
                table.add_row(f"{Path(source).name}, {part}", *cells)
    Console(width=140).print(table)


def _compare(cascade: Predictor, products: Sequence[Product], codes: NDArray) -> list[str]:
    """Predict products (N,) with codes (N,) in turn without and with the cascade."""
    weights = {key: weights for key, weights in cascade.pool.weights.items() if key in KINDS}
    pool = replace(cascade.pool, weights=weights, thresholds={})
    whole = Predictor(cascade.codes, pool, cascade.extractors, cascade.members)
    runs = [[_predict(predictor, products) for predictor in (whole, cascade)] for _ in range(REPEATS)]
    seconds = np.min([[elapsed for _, elapsed in pair] for pair in runs], axis=0)
    labels = np.searchsorted(cascade.codes, codes)
    scores = [scored for scored, _ in runs[0]]
    f1 = [weighted_f1(labels, scored.probabilities.argmax(1)) for scored in scores]
    ece = [reliability(scored.probabilities, labels).ece for scored in scores]
    used = [sum("photo" in scored.modalities(row) for row in range(len(products))) for scored in scores]
    skipped = 1 - used[1] / used[0] if used[0] else 0.0
    speed = len(products) / seconds
    return [
        str(len(products)),
        f"{skipped:.0%}",
        f"{f1[0]:.4f} -> {f1[1]:.4f}",
        f"{ece[0]:.4f} -> {ece[1]:.4f}",
        f"{speed[0]:.1f} -> {speed[1]:.1f} ({speed[1] / speed[0]:.2f} times)",
    ]


def _predict(predictor: Predictor, products: Sequence[Product]) -> tuple[Scores, float]:
    start = time.perf_counter()
    return predictor.score(products), time.perf_counter() - start


if __name__ == "__main__":
    main()
