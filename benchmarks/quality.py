"""Both branches and their fusion beside what a user would pick instead, on the same splits and seeds.

python -m benchmarks.quality --source FOLDER            the whole table
python -m benchmarks.quality --source FOLDER --text     only text
Each seed has a split of its own: training, validations A and B, test. All that is chosen is chosen on validation rows.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import click
import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, log_loss

from benchmarks import quality_photo, quality_text
from benchmarks.quality_photo import PHOTO
from benchmarks.quality_split import Split, photographed, read_catalogue, require_splits, splits
from benchmarks.quality_text import TEXT
from rakuten_tasks.catalogue.ledger import TEST, VALIDATION_A, VALIDATION_B
from rakuten_tasks.catalogue.sample import SAMPLE
from rakuten_tasks.catalogue.schema import CatalogueError
from rakuten_tasks.classifier.calibration import TINY, calibrate, fit_floor, fit_temperature
from rakuten_tasks.classifier.evaluation import reliability
from rakuten_tasks.classifier.fusion import Logits, fit_fusion
from rakuten_tasks.config import PhotoConfig, TrainingConfig

EXACT, GRID, STACKED = "fused, exact weight", "fused, weight from a 101-point grid", "fused, stacked"
SURE = 0.95
SKIPPED = f"fused, no photo where text is {SURE} sure"
METRICS = ("weighted F1", "macro F1", "log loss", "ECE")
BESIDE = "weighted F1 - LinearSVC's"  # seed by seed: the splits differ more than the systems
COLUMNS = (*METRICS, BESIDE)
LEVERED = (TEXT, quality_text.LSTM, PHOTO)
GIVES = ("weighted F1", "log loss")  # what a lever does to these


@click.command()
@click.option("--source", default=SAMPLE, help="the catalogue's folder; sample for the built-in one")
@click.option("--products", default=2400, help="how many, where the source is the built-in sample")
@click.option("--seeds", default=3, type=click.IntRange(2))
@click.option(
    "--config", "file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="for ingest and photos"
)
@click.option("--text", "only_text", is_flag=True, help="leave photos and fusion out")
@click.option("--levers/--no-levers", default=True, help="also ours with one lever removed at a time")
@click.option(
    "--validation", is_flag=True, help="score validation B, to choose by, not the test rows; nothing is fused"
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="where to write the table as Markdown too")
def main(
    source: str,
    products: int,
    seeds: int,
    file: Path | None,
    only_text: bool,
    levers: bool,
    validation: bool,
    out: Path | None,
) -> None:
    """Train every system with each seed and print mean and spread over the seeds."""
    config = TrainingConfig.from_json(json.dumps(yaml.safe_load(file.read_text()))) if file else TrainingConfig()
    if out and not out.absolute().parent.is_dir():
        raise click.ClickException(f"--out {out}: make the folder {out.parent} first")
    rows, scored_on = [], VALIDATION_B if validation else TEST
    with tempfile.TemporaryDirectory() as folder:
        try:
            catalogue = read_catalogue(source, Path(folder), products, config.ingest)
            require_splits(catalogue)
        except (CatalogueError, OSError, ValueError) as error:
            raise click.ClickException(str(error)) from error
        if not only_text and not catalogue["photo"].notna().any():
            print("no product has a photo: text only", flush=True)
            only_text = True
        for split in splits(catalogue, seeds):
            scored = int((split.sides == scored_on).sum())
            for name, probabilities in _systems(split, Path(folder), config.photo, only_text, levers, scored_on):
                rows.append({"system": name, "seed": split.seed, **_metrics(split, probabilities, scored_on)})
                print(rows[-1], flush=True)
    kind = "validation" if validation else "test"
    title = f"{source}: {len(catalogue)} labelled products, {scored} {kind} rows, {seeds} seeds"
    tables: list[tuple[pd.DataFrame, str, Sequence[str]]] = [(_summary(pd.DataFrame(rows)), title, COLUMNS)]
    if levers:
        tables.append((_given(pd.DataFrame(rows)), "what each lever gives, seed by seed: with it less without", GIVES))
    for table in tables:
        Console().print(_rich(*table))
    if out:
        out.write_text("\n".join(_markdown(*table) for table in tables), encoding="utf-8")


def _systems(
    split: Split, folder: Path, photo: PhotoConfig, only_text: bool, levers: bool, scored_on: int
) -> Iterator[tuple[str, NDArray]]:
    """Name and (T, K) probabilities of the scored rows of each system."""
    calibrated = partial(_calibrated, split, scored_on)
    for name, logits in quality_text.linear_systems(split).items():
        yield name, calibrated(logits)
    yield quality_text.PLAIN, calibrated(quality_text.plain_lstm(split))
    ours = quality_text.our_systems(split, folder)
    for name, logits in ours.items():
        yield name, calibrated(logits)
    if levers:
        for name, logits in quality_text.without_levers(split, folder):
            yield name, calibrated(logits)
    if only_text:
        return
    seen = quality_photo.photo_branch(split, folder, photo)
    yield PHOTO, calibrated(seen)
    if levers:
        for name, logits in quality_photo.without_levers(split, folder, photo):
            yield name, calibrated(logits)
    if scored_on == TEST:
        yield from _fused(split, ours[TEXT], seen)


def _calibrated(split: Split, scored_on: int, logits: NDArray) -> NDArray:
    """The scored rows' probabilities at validation A's temperature: as the pipeline does for its branches."""
    a = split.held_out_on(VALIDATION_A)
    temperature = fit_temperature(logits[a], split.labels[split.on(VALIDATION_A)])
    return calibrate(logits[split.held_out_on(scored_on)], temperature)


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
    yield GRID, calibrate(np.log(mixed(best, test) + TINY), *fit_floor(np.log(mixed(best, b) + TINY), labels_b))
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


def _metrics(split: Split, probabilities: NDArray, scored_on: int) -> dict[str, float]:
    labels = split.labels[split.on(scored_on)]
    scores = [f1_score(labels, probabilities.argmax(1), average=kind) for kind in ("weighted", "macro")]
    loss = log_loss(labels, probabilities, labels=range(probabilities.shape[1]))
    return dict(zip(METRICS, (*scores, loss, reliability(probabilities, labels).ece), strict=True))


def _summary(rows: pd.DataFrame) -> pd.DataFrame:
    """By system: mean and spread of metrics; weighted F1 less LinearSVC's of the same seed, mean and its error."""
    table = rows.groupby("system", sort=False)[list(METRICS)].agg(["mean", "std"])
    scores = rows.pivot_table(index="seed", columns="system", values=METRICS[0], sort=False)
    beside = scores.sub(scores[quality_text.SVC], axis=0)
    table[BESIDE, "mean"], table[BESIDE, "std"] = beside.mean(), beside.sem()
    return table


def _given(rows: pd.DataFrame) -> pd.DataFrame:
    """By lever: a system with it less the one without it, mean over the seeds and its standard error."""
    scores = rows.pivot_table(index="seed", columns="system", values=list(GIVES), sort=False)
    whole = {name: name.partition(", ")[0] for name in scores[GIVES[0]] if name.partition(", ")[0] in LEVERED}
    table = pd.DataFrame(index=[name for name, base in whole.items() if name != base])
    for metric in GIVES:
        without = scores[metric][table.index]
        given = scores[metric][[whole[name] for name in table.index]].to_numpy() - without
        table[metric, "mean"], table[metric, "std"] = given.mean(), given.sem()
    return table


def _cells(values: pd.Series, columns: Sequence[str]) -> list[str]:
    signed = (BESIDE,) if BESIDE in columns else columns
    return [
        f"{values[name, 'mean']:{'+' if name in signed else ''}.3f} ± {values[name, 'std']:.3f}" for name in columns
    ]


def _rich(table: pd.DataFrame, title: str, columns: Sequence[str]) -> Table:
    result = Table("", *columns, title=title)
    for name, values in table.iterrows():
        result.add_row(str(name), *_cells(values, columns))
    return result


def _markdown(table: pd.DataFrame, title: str, columns: Sequence[str]) -> str:
    lines = [title, "", f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {name} | {' | '.join(_cells(values, columns))} |" for name, values in table.iterrows()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
