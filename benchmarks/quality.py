"""Metrics of every member, the pool and the baselines on one or more catalogues, with several seeds.

python -m benchmarks.quality --source FOLDER --source sample --seeds 3 --config configs/default.yaml

It runs the code of the training tasks without Flyte and MLflow: features once, then for each seed the fits, the pool
and the predictions of rows outside of all fits: test rows, and rows of X_test_update.csv with a label in Y_test.csv.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from benchmarks.training_run import TrainingRun
from rakuten_tasks.config import TrainingConfig
from rakuten_tasks.data.sample.generate import SAMPLE, write_sample
from rakuten_tasks.data.schema import CatalogueError
from rakuten_tasks.evaluation.metrics import POOL
from rakuten_tasks.runtime.settings_file import SettingsFileError, read_settings

COLUMNS = {
    "unseen F1": "weighted F1 on rows that all members have scored out of fold; of a network on its held-out rows",
    "unseen log loss": "the same rows, nats",
    "test F1": "weighted F1 on the test rows",
    "test macro F1": "",
    "test log loss": "",
    "test ECE": "expected calibration error",
    "Y_test F1": "weighted F1 on the rows of X_test_update.csv with a label in Y_test.csv",
}


@click.command()
@click.option(
    "--source", "sources", multiple=True, default=[SAMPLE], help="a catalogue's folder, or sample; repeatable"
)
@click.option("--seeds", default=3, type=click.IntRange(1))
@click.option("--config", "file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="also write the tables to this file, as Markdown"
)
def main(sources: Sequence[str], seeds: int, file: Path | None, out: Path | None) -> None:
    """Print a table for each catalogue: mean and standard deviation over the seeds."""
    try:
        config = read_settings(file, TrainingConfig) if file else TrainingConfig()
    except SettingsFileError as error:
        raise click.ClickException(str(error)) from error
    if out and not out.absolute().parent.is_dir():
        raise click.ClickException(f"--out {out}: make the folder {out.parent} first")
    tables = []
    for source in sources:
        with tempfile.TemporaryDirectory() as folder:
            try:
                scores, title = _measure(source, config, seeds, Path(folder))
            except (CatalogueError, OSError, ValueError) as error:
                raise click.ClickException(f"{source}: {error}") from error
        Console(width=160).print(_table(scores, title))
        tables.append(_markdown(scores, title))
    if out:
        out.write_text("\n".join(tables), encoding="utf-8")


def _measure(source: str, config: TrainingConfig, seeds: int, folder: Path) -> tuple[pd.DataFrame, str]:
    """Train and measure. -> table of system, seed and COLUMNS, and a title"""
    folder_or_address = source
    if source == SAMPLE:
        folder_or_address = str(folder / SAMPLE)
        write_sample(Path(folder_or_address))
    run = TrainingRun(folder_or_address, config, folder)
    rows = []
    for seed in range(seeds):
        for system, values in run.measure(seed).items():
            rows.append({"system": system, "seed": seed, **values})
            print(rows[-1], flush=True)
    weights = ", ".join(f"{item.name} {item.source}" for item in run.pretrained)
    title = (
        f"{source}: {len(run.rows)} labelled products, {len(run.codes)} classes, {run.test_rows} test rows, "
        f"{run.labelled_test_rows} labelled by Y_test.csv; {seeds} seeds; {weights}"
    )
    return pd.DataFrame(rows), title


def _cells(scores: pd.DataFrame) -> list[list[str]]:
    grouped = scores.groupby("system", sort=False)[list(COLUMNS)]
    mean, spread = grouped.mean(), grouped.std(ddof=0)
    return [
        [str(system), *(_cell(mean.loc[system, name], spread.loc[system, name]) for name in COLUMNS)]
        for system in mean.index
    ]


def _cell(mean: float, spread: float) -> str:
    if np.isnan(mean):
        return ""
    return f"{mean:.3f}" if spread < 5e-4 else f"{mean:.3f} ± {spread:.3f}"


def _table(scores: pd.DataFrame, title: str) -> Table:
    table = Table("", *COLUMNS, title=title)
    for system, *cells in _cells(scores):
        table.add_row(system, *cells, style="bold" if system == POOL else "")
    return table


def _markdown(scores: pd.DataFrame, title: str) -> str:
    lines = [title, "", f"| | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(cells)} |" for cells in _cells(scores)), ""])


if __name__ == "__main__":
    main()
