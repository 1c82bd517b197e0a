"""Both branches and their fusion beside what a user would pick instead, on the same splits and seeds.

python -m benchmarks.quality --source FOLDER            the whole table
python -m benchmarks.quality --source FOLDER --text     only text
Each seed has a split of its own: training, validations A and B, test. All that is chosen is chosen on validation rows.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from benchmarks import quality_photo, quality_text
from benchmarks.quality_photo import PHOTO
from benchmarks.quality_split import Split, photographed, read_catalogue, splits
from benchmarks.quality_text import TEXT
from rakuten_tasks.catalogue.ledger import TEST, VALIDATION_A, VALIDATION_B
from rakuten_tasks.catalogue.sample import SAMPLE
from rakuten_tasks.catalogue.schema import CatalogueError
from rakuten_tasks.classifier.calibration import calibrate, fit_temperature
from rakuten_tasks.classifier.evaluation import reliability
from rakuten_tasks.classifier.fusion import Logits, fit_fusion
from rakuten_tasks.config import PhotoConfig, TrainingConfig

EXACT, GRID, STACKED = "fused, exact weight", "fused, weight from a 101-point grid", "fused, stacked"
SURE = 0.95
SKIPPED = f"fused, no photo where text is {SURE} sure"
METRICS = ("weighted F1", "macro F1", "ECE")
BESIDE = "weighted F1 - LinearSVC's"  # seed by seed: the splits differ more than the systems


@click.command()
@click.option("--source", default=SAMPLE, help="the catalogue's folder; sample for the built-in one")
@click.option("--products", default=2400, help="how many, where the source is the built-in sample")
@click.option("--seeds", default=3, type=click.IntRange(2))
@click.option(
    "--config", "file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="for ingest and photos"
)
@click.option("--text", "only_text", is_flag=True, help="leave photos and fusion out")
@click.option("--levers/--no-levers", default=True, help="also ours with one lever removed at a time")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="where to write the table as Markdown too")
def main(
    source: str, products: int, seeds: int, file: Path | None, only_text: bool, levers: bool, out: Path | None
) -> None:
    """Train every system with each seed and print mean and spread over the seeds."""
    config = TrainingConfig.from_dict(yaml.safe_load(file.read_text()) or {}) if file else TrainingConfig()
    rows, table = [], None
    with tempfile.TemporaryDirectory() as folder:
        try:
            catalogue = read_catalogue(source, Path(folder), products, config.ingest)
        except (CatalogueError, FileNotFoundError) as error:
            raise click.ClickException(str(error)) from error
        if not only_text and not catalogue["photo"].notna().any():
            print("no product has a photo: text only", flush=True)
            only_text = True
        for split in splits(catalogue, seeds):
            test_rows = int((split.sides == TEST).sum())
            for name, probabilities in _systems(split, Path(folder), config.photo, only_text, levers):
                rows.append({"system": name, "seed": split.seed, **_metrics(split, probabilities)})
                print(rows[-1], flush=True)
    table = _summary(pd.DataFrame(rows))
    title = f"{source}: {len(catalogue)} labelled products, {test_rows} test rows, {seeds} seeds"
    Console().print(_rich(table, title))
    if out:
        out.write_text(_markdown(table, title), encoding="utf-8")


def _systems(
    split: Split, folder: Path, photo: PhotoConfig, only_text: bool, levers: bool
) -> Iterator[tuple[str, NDArray]]:
    """Name and (T, K) probabilities of the test rows of each system."""
    for name, logits in quality_text.linear_systems(split).items():
        yield name, _calibrated(split, logits)
    yield quality_text.PLAIN, _calibrated(split, quality_text.plain_lstm(split))
    ours = quality_text.our_systems(split, folder)
    for name, logits in ours.items():
        yield name, _calibrated(split, logits)
    if levers:
        for name, logits in quality_text.without_levers(split, folder):
            yield name, _calibrated(split, logits)
    if only_text:
        return
    seen = quality_photo.photo_branch(split, folder, photo)
    yield PHOTO, _calibrated(split, seen)
    if levers:
        for name, logits in quality_photo.without_levers(split, folder, photo):
            yield name, _calibrated(split, logits)
    yield from _fused(split, ours[TEXT], seen)


def _calibrated(split: Split, logits: NDArray) -> NDArray:
    """The test rows' probabilities at the temperature that fits validation A: as the pipeline does for its branches."""
    a = split.held_out_on(VALIDATION_A)
    temperature = fit_temperature(logits[a], split.labels[split.on(VALIDATION_A)])
    return calibrate(logits[split.held_out_on(TEST)], temperature)


def _fused(split: Split, text: NDArray, photo: NDArray) -> Iterator[tuple[str, NDArray]]:
    """Three ways to mix the same two branches, all fitted on validation B."""
    has_photo = np.isin(split.held_out, photographed(split))
    sides = [split.held_out_on(side) for side in (VALIDATION_A, VALIDATION_B, TEST)]
    a, b, test = (
        Logits({"text": text[at], "photo": photo[at]}, {"text": np.ones(at.sum(), bool), "photo": has_photo[at]})
        for at in sides
    )
    labels_a, labels_b = (split.labels[split.on(side)] for side in (VALIDATION_A, VALIDATION_B))
    fusion, _ = fit_fusion(a, labels_a, b, labels_b)
    yield EXACT, fusion.probabilities(test.by_branch, test.seen)
    sure = calibrate(test.by_branch["text"], fusion.temperatures["text"]).max(1) >= SURE
    print(f"text is {SURE} sure of {sure.mean():.0%} of the test rows", flush=True)
    yield SKIPPED, fusion.probabilities(test.by_branch, {**test.seen, "photo": test.seen["photo"] & ~sure})

    def mixed(weight: float, logits: Logits) -> NDArray:
        weighed = fusion.__class__(fusion.temperatures, {"text": weight, "photo": 1 - weight}, 1.0, fusion.prior)
        return weighed.probabilities(logits.by_branch, logits.seen)

    grid = np.linspace(0, 1, 101)
    scores = [f1_score(labels_b, mixed(weight, b).argmax(1), average="weighted") for weight in grid]
    best = grid[int(np.argmax(scores))]
    temperature = fit_temperature(np.log(np.maximum(mixed(best, b), 1e-12)), labels_b)
    yield GRID, calibrate(np.log(np.maximum(mixed(best, test), 1e-12)), temperature)
    yield STACKED, _stacked(fusion.temperatures, (a, b, test), labels_a, labels_b)


def _stacked(
    temperatures: dict[str, float], sides: tuple[Logits, Logits, Logits], labels_a: NDArray, labels_b: NDArray
) -> NDArray:
    """Logistic regression on both branches' log-probabilities: penalty by A -> B, then fitted on both."""
    a, b, test = (
        np.concatenate([np.log(calibrate(s, temperatures[name]) + 1e-6) for name, s in side.by_branch.items()], 1)
        for side in sides
    )
    tried = [LogisticRegression(C=c, max_iter=2000) for c in (0.001, 0.01, 0.1, 1.0, 10.0)]
    best = max(tried, key=lambda stack: f1_score(labels_b, stack.fit(a, labels_a).predict(b), average="weighted"))
    best.fit(np.concatenate([a, b]), np.concatenate([labels_a, labels_b]))
    probabilities = np.zeros((len(test), test.shape[1] // 2))
    probabilities[:, best.classes_] = best.predict_proba(test)
    return probabilities


def _metrics(split: Split, probabilities: NDArray) -> dict[str, float]:
    labels = split.labels[split.on(TEST)]
    scores = (f1_score(labels, probabilities.argmax(1), average=kind) for kind in ("weighted", "macro"))
    return dict(zip(METRICS, (*scores, reliability(probabilities, labels).ece), strict=True))


def _summary(rows: pd.DataFrame) -> pd.DataFrame:
    """By system: mean and spread of metrics; weighted F1 less LinearSVC's of the same seed, mean and its error."""
    table = rows.groupby("system", sort=False)[list(METRICS)].agg(["mean", "std"])
    scores = rows.pivot_table(index="seed", columns="system", values=METRICS[0], sort=False)
    beside = scores.sub(scores[quality_text.SVC], axis=0)
    table[BESIDE, "mean"], table[BESIDE, "std"] = beside.mean(), beside.sem()
    return table


def _cells(values: pd.Series) -> list[str]:
    cells = [f"{values[metric, 'mean']:.3f} ± {values[metric, 'std']:.3f}" for metric in METRICS]
    return [*cells, f"{values[BESIDE, 'mean']:+.3f} ± {values[BESIDE, 'std']:.3f}"]


def _rich(table: pd.DataFrame, title: str) -> Table:
    result = Table("", *METRICS, BESIDE, title=title)
    for name, values in table.iterrows():
        result.add_row(str(name), *_cells(values))
    return result


def _markdown(table: pd.DataFrame, title: str) -> str:
    lines = [title, "", f"| | {' | '.join((*METRICS, BESIDE))} |", "|---|---|---|---|---|"]
    lines += [f"| {name} | {' | '.join(_cells(values))} |" for name, values in table.iterrows()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
