"""Deck of the evaluation: metrics, confusions, reliability and the most confident errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rakuten_tasks.evaluation.metrics import FULL_POOL, POOL, TFIDF_SVM, Evaluation
from rakuten_tasks.reports.display_text import class_label, truncate
from rakuten_tasks.reports.page import Tile, render
from rakuten_tasks.reports.result_plots import MAX_CLASSES, evaluation_figures, intervals
from rakuten_tasks.reports.thumbnails import thumbnail
from rakuten_tasks.reports.top_errors import MemberPrediction, Misclassification

MAX_CONFUSIONS = 10


def evaluation_deck(evaluation: Evaluation, names: Mapping[str, str], errors: Sequence[Misclassification]) -> str:
    """Render the page of an evaluation. names: code -> name; may be empty."""
    return render(
        "evaluation.html",
        baseline=TFIDF_SVM,
        summary=_summary(evaluation),
        systems=[[name, *system.cells()] for name, system in evaluation.systems.items()],
        intervals=intervals(evaluation),
        figures=evaluation_figures(evaluation, names),
        photo_gain=_photo_gain(evaluation),
        omitted_classes=len(evaluation.codes) - MAX_CLASSES,
        confusions=_confusions(evaluation, names),
        errors=[_tile(error, names) for error in errors],
    )


def _summary(evaluation: Evaluation) -> dict[str, object]:
    pool = evaluation.systems[POOL]
    values: dict[str, object] = {
        "test rows": evaluation.n,
        "classes": len(evaluation.codes),
        "weighted F1 (pool)": f"{pool.weighted_f1.value:.3f}",
        "macro F1 (pool)": f"{pool.macro_f1.value:.3f}",
        "calibration error (pool)": f"{evaluation.ece:.3f}",
    }
    if FULL_POOL in evaluation.systems:
        values["photos that the pool did not need"] = f"{evaluation.photos_skipped:.0%}"
    return values | ({f"lead over {TFIDF_SVM}": f"{pool.lead.value:+.3f}"} if pool.lead else {})


def _photo_gain(evaluation: Evaluation) -> list[list[object]]:
    return [
        [
            f"{part.low:.3f} to {part.high:.3f}",
            part.rows,
            *map("{:.3f}".format, (part.text_accuracy, part.accuracy, part.text_weighted_f1, part.weighted_f1)),
        ]
        for part in evaluation.photo_gain
    ]


def _confusions(evaluation: Evaluation, names: Mapping[str, str]) -> list[list[object]]:
    """The most frequent pairs of true and predicted class, with rows and their share of the true class."""
    counts = np.array(evaluation.confusion)
    totals = counts.sum(1)
    np.fill_diagonal(counts, 0)
    most = np.argsort(-counts, axis=None, kind="stable")[:MAX_CONFUSIONS]
    pairs = np.stack(np.unravel_index(most, counts.shape), axis=1).tolist()
    labels = [class_label(code, names) for code in evaluation.codes]
    return [
        [labels[true], labels[predicted], int(counts[true, predicted]), f"{counts[true, predicted] / totals[true]:.0%}"]
        for true, predicted in pairs
        if counts[true, predicted]
    ]


def _tile(error: Misclassification, names: Mapping[str, str]) -> Tile:
    def describe(prediction: MemberPrediction | None) -> str:
        return f"{class_label(prediction.code, names)}, {prediction.probability:.2f}" if prediction else "no input"

    texts = [truncate(error.designation, 90), truncate(error.description, 110)]
    lines = [
        f"is {class_label(error.code, names)}",
        *(f"{name}: {describe(prediction)}" for name, prediction in {POOL: error.pool, **error.members}.items()),
        f"row {error.row}: {' | '.join(filter(None, texts)) or 'no text'}",
    ]
    return Tile(thumbnail(error.photo), lines, "no photo" if error.photo is None else "photo unreadable")
