"""Tables of metrics for the console."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from rich import box
from rich.table import Table

from rakuten_tasks.evaluation.bootstrap import hard_intervals
from rakuten_tasks.evaluation.metrics import FULL_POOL, TFIDF_SVM, Evaluation


def evaluation_table(evaluation: Evaluation, title: str) -> Table:
    """The one table of a training: a row a system, a column a metric, the weighted F1 with its interval."""
    caption = f"{evaluation.n} rows; log loss in nats; last column: on the same resamples of the rows"
    if FULL_POOL in evaluation.systems:
        caption += f"; {FULL_POOL}: without the cascade"
    table = _table(title, caption)
    for heading in ("weighted F1", "macro F1", "accuracy", "log loss", "ECE", f"weighted F1 - {TFIDF_SVM}'s"):
        table.add_column(heading, no_wrap="F1" not in heading or heading == "macro F1")
    for name, system in evaluation.systems.items():
        first, *others = system.metrics
        values = [f"{value:.3f}" for value in (*(metric.value for metric in others), system.reliability.ece)]
        table.add_row(name, str(first), *values, system.lead.signed() if system.lead else "")
    return table


def score_against_labels(predictions: Mapping[str, pd.Series], labels: pd.Series) -> Table:
    """Codes by row, of each system, against the catalogue's own labels (code by row), on the rows that have both.

    The number of predicted rows stands behind a system's name, if it is not all.
    """
    table = _table(
        "against the catalogue's own labels", caption=f"{len(labels)} labels; (n): a member that scored n of them"
    )
    for heading in ("weighted F1", "macro F1", "accuracy"):
        table.add_column(heading)
    for name, predicted in predictions.items():
        rows = predicted.dropna().index.intersection(labels.index)
        if rows.empty:
            table.add_row(f"{name} (0)")
            continue
        codes, indices = np.unique([labels[rows], predicted[rows]], return_inverse=True)
        true, guessed = indices.reshape(2, -1)
        metrics = hard_intervals(true, guessed, len(codes), seed=0)
        count = "" if len(rows) == len(labels) else f" ({len(rows)})"
        table.add_row(f"{name}{count}", *map(str, metrics.values()))
    return table


def _table(title: str, caption: str) -> Table:
    # without a frame, which would wrap the intervals
    table = Table(title=title, caption=caption, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("", no_wrap=True)
    return table
