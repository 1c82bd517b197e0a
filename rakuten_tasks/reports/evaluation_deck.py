"""Deck of the evaluation: metrics, errors, reliability."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from markupsafe import Markup

from rakuten_tasks.evaluation.metrics import POOL, TFIDF_SVM, Evaluation
from rakuten_tasks.reports.display_text import truncate
from rakuten_tasks.reports.page import Tile, caption, deck, figure, heading, key_values, table, tiles
from rakuten_tasks.reports.result_plots import MAX_CLASSES_DRAWN, evaluation_figures, intervals
from rakuten_tasks.reports.thumbnails import thumbnail
from rakuten_tasks.reports.top_errors import MemberPrediction, Mistake

CONFUSIONS = 10
TILE = 280  # px: "photo: 2583 Piscines et spas (pools and spas), 0.98" on two lines


def evaluation_deck(evaluation: Evaluation, names: Mapping[str, str], mistakes: Sequence[Mistake]) -> str:
    """names: code -> name for people; may be empty."""
    figures = evaluation_figures(evaluation, names)
    left_out = len(evaluation.codes) - MAX_CLASSES_DRAWN
    blocks = [
        *_summary(evaluation),
        *(_photo_gain(evaluation, figure(figures["photo_gain"])) if evaluation.photo_gain else []),
        heading("Classes"),
        figure(figures["class_f1"]),
        *([caption(f"Not drawn: the {left_out:,} classes with fewest test rows.")] if left_out > 0 else []),
        heading("Confusion"),
        caption("Rows are the catalogue's own labels, columns the answers of the pool; the diagonal is right."),
        figure(figures["confusion"]),
        *_confusions(evaluation, names),
        heading("Reliability"),
        caption(
            "Of the answers given with a confidence of 0.8, are 80 % right? ECE is the mean gap between the two; a "
            "mark's area is its share of the rows. Under 1,000 rows the gap is mostly noise."
        ),
        figure(figures["reliability"]),
        *_mistakes(mistakes, names),
    ]
    return deck("Evaluation", blocks)


def _summary(evaluation: Evaluation) -> Iterator[Markup]:
    pool = evaluation.systems[POOL]
    values: dict[str, object] = {
        "test rows": evaluation.n,
        "classes": len(evaluation.codes),
        "weighted F1 (pool)": f"{pool.weighted_f1.value:.3f}",
        "macro F1 (pool)": f"{pool.macro_f1.value:.3f}",
        "calibration error (pool)": f"{evaluation.ece:.3f}",
    }
    if pool.lead:
        values[f"above {TFIDF_SVM}"] = f"{pool.lead.value:+.3f}"
    yield key_values(values)
    yield caption(
        "No fit has seen these rows. Log loss is in nats. The last column is the weighted F1 above that of "
        f"{TFIDF_SVM}, on the same resamples of the rows: an interval that holds 0 tells no difference."
    )
    columns = ["", "weighted F1", "macro F1", "accuracy", "log loss", "ECE", f"weighted F1 - {TFIDF_SVM}'s"]
    rows = [
        (
            name,
            *map(str, system.metrics),
            f"{system.reliability.ece:.3f}",
            system.lead.signed() if system.lead else "",
        )
        for name, system in evaluation.systems.items()
    ]
    yield table(columns, rows, "with 95 % bootstrap intervals")
    yield figure(intervals(evaluation))


def _photo_gain(evaluation: Evaluation, drawing: Markup) -> Iterator[Markup]:
    yield heading("What the photo adds")
    yield caption(
        "The test rows in quarters, by the confidence of the pool with photos masked: the least sure texts first. A "
        "product without a photo is answered by its text in both."
    )
    columns = ["confidence of the text", "rows", "accuracy, text only", "with the photo", "weighted F1, text only"]
    rows = [
        (
            f"{part.low:.3f} to {part.high:.3f}",
            part.rows,
            *(f"{value:.3f}" for value in (part.text_accuracy, part.accuracy)),
            *(f"{value:.3f}" for value in (part.text_weighted_f1, part.weighted_f1)),
        )
        for part in evaluation.photo_gain
    ]
    yield table([*columns, "with the photo"], rows)
    yield drawing


def _confusions(evaluation: Evaluation, names: Mapping[str, str]) -> Iterator[Markup]:
    counts = np.array(evaluation.confusion)
    totals = counts.sum(1)
    np.fill_diagonal(counts, 0)
    most = np.argsort(-counts, axis=None, kind="stable")[:CONFUSIONS]
    pairs = [(int(true), int(said)) for true, said in zip(*np.unravel_index(most, counts.shape), strict=True)]
    rows = [
        (
            _class(evaluation.codes[true], names),
            _class(evaluation.codes[said], names),
            int(counts[true, said]),
            f"{counts[true, said] / totals[true]:.0%}",
        )
        for true, said in pairs
        if counts[true, said]
    ]
    if rows:
        yield table(["true class", "taken for", "rows", "of the class"], rows, "the most frequent confusions")


def _mistakes(mistakes: Sequence[Mistake], names: Mapping[str, str]) -> Iterator[Markup]:
    yield heading("The surest mistakes")
    if not mistakes:
        yield caption("No test row was answered wrongly.")
        return
    yield caption("Wrong answers of the highest confidence. Some may be wrong labels in the catalogue.")
    yield tiles([_tile(mistake, names) for mistake in mistakes], TILE)


def _tile(mistake: Mistake, names: Mapping[str, str]) -> Tile:
    texts = [truncate(mistake.designation, 90), truncate(mistake.description, 110)]
    said = [
        f"{name}: {_answer(answer, names) if answer else 'nothing to look at'}"
        for name, answer in mistake.members.items()
    ]
    blank = "no photo" if mistake.photo is None else "photo unreadable"
    lines = [
        f"is {_class(mistake.code, names)}",
        f"{POOL}: {_answer(mistake.pool, names)}",
        *said,
        f"row {mistake.row}: {' | '.join(filter(None, texts)) or 'no text'}",
    ]
    return Tile(thumbnail(mistake.photo), lines, blank)


def _answer(said: MemberPrediction, names: Mapping[str, str]) -> str:
    return f"{_class(said.code, names)}, {said.probability:.2f}"


def _class(code: int, names: Mapping[str, str]) -> str:
    return truncate(f"{code} {names.get(str(code), '')}".strip(), 50)
