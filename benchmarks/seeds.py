"""Several seeds on one catalogue with answers: mean and spread of what `make predict` scores, beside the baseline.

python -m benchmarks.seeds --source FOLDER      (the catalogue must hold Y_test.csv)
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from sklearn.metrics import f1_score

from rakuten_tasks.catalogue.layout import test_labels
from rakuten_tasks.catalogue.ledger import TRAIN, Ledger
from rakuten_tasks.catalogue.sample import SAMPLE, write_sample
from rakuten_tasks.classifier import bundle
from rakuten_tasks.classifier.baseline import fit_baseline
from rakuten_tasks.config import TrainingConfig
from rakuten_tasks.registry import champion, tracking
from workflows.prediction import predict_catalogue
from workflows.training import train_classifier


@click.command()
@click.option("--source", default=SAMPLE, help="the catalogue's folder; sample for the built-in one")
@click.option("--seeds", default=3)
def seeds(source: str, seeds: int) -> None:
    """Train with each seed as a model of its own, predict, and score against Y_test.csv."""
    with tempfile.TemporaryDirectory() as folder:
        name = source
        if source == SAMPLE:
            source = f"{folder}/sample"
            write_sample(Path(source))
        scores = pd.DataFrame([_score(source, seed, Path(folder)) for seed in range(seeds)])
    table = Table(
        "", "mean", "sd", *(f"seed {seed}" for seed in range(seeds)), title=f"{name}: weighted F1 on Y_test.csv"
    )
    for system, values in scores.items():
        table.add_row(str(system), f"{values.mean():.4f}", f"{values.std():.4f}", *(f"{value:.4f}" for value in values))
    Console().print(table)


def _score(source: str, seed: int, folder: Path) -> dict[str, float]:
    answers = test_labels(source)
    if answers is None:
        raise click.UsageError(f"{source} holds no Y_test.csv: there is nothing to score against")
    model = f"seed-{seed}-of-{folder.name}"
    registered = train_classifier(source=source, config=TrainingConfig(seed=seed), model=model)
    predict_catalogue(source=source, model=model, output=f"{folder}/{seed}")
    details = pd.read_parquet(f"{folder}/{seed}/details.parquet").set_index("row")
    systems = {"text": details["text_code"], "photo": details["photo_code"], "fused": details["prdtypecode"]}
    systems["baseline"] = _baseline(source, champion.fetch(tracking.connect(), model, str(registered.version)), seed)
    return {
        name: float(f1_score(answers, codes.loc[answers.index].fillna(-1).astype(int), average="weighted"))
        for name, codes in systems.items()
    }


def _baseline(source: str, trained: Path, seed: int) -> pd.Series:
    """The baseline on the same training rows: its codes of the rows to predict."""
    rows, to_predict = (_texts(source, part) for part in ("X_train_update.csv", "X_test_update.csv"))
    labels = pd.read_csv(f"{source}/Y_train_CVw08PX.csv", index_col=0)["prdtypecode"]
    train = rows[Ledger.load(trained / bundle.LEDGER).sides(rows["designation"]) == TRAIN]
    codes, index = np.unique(labels[train.index], return_inverse=True)
    baseline = fit_baseline(train["designation"].tolist(), train["description"].tolist(), index, len(codes), seed)
    scores = baseline.probabilities(to_predict["designation"].tolist(), to_predict["description"].tolist())
    return pd.Series(codes[scores.argmax(1)], index=to_predict.index)


def _texts(source: str, name: str) -> pd.DataFrame:
    return pd.read_csv(f"{source}/{name}", index_col=0, keep_default_na=False)


if __name__ == "__main__":
    seeds()
