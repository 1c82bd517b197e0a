"""The Deck of the evaluation: how good the answers are, where they go wrong, and how far they can be trusted."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from rakuten_tasks.classifier.evaluation import FUSED, Evaluation, Reliability, reliability
from rakuten_tasks.classifier.fusion import Fusion, Logits
from rakuten_tasks.classifier.plots import MAX_CLASSES_DRAWN, calibration, evaluation_figures, intervals
from rakuten_tasks.classifier.predictor import fuse_logits
from rakuten_tasks.decks.mistakes import Mistake, Said
from rakuten_tasks.decks.page import Tile, deck, facts, figure, heading, note, table, tiles
from rakuten_tasks.decks.thumbnails import thumbnail
from rakuten_tasks.labels import cut

CONFUSIONS = 10
TILE = 280  # px: "photo: 2583 Piscines et spas (pools and spas), 0.98" on two lines


def reliability_before(logits: Logits, fusion: Fusion, labels: NDArray) -> dict[str, Reliability]:
    """Of each branch without its temperature, and of the mix of calibrated branches without the mix's own.

    labels: (N,) class indices. The same rows as in the Evaluation whose deck this goes into.
    """
    codes = range(len(fusion.prior))
    plain = dataclasses.replace(fusion, temperatures=dict.fromkeys(fusion.temperatures, 1.0))
    unmixed = dataclasses.replace(fusion, fused_temperature=1.0, fused_floor=0.0)
    alone = fuse_logits(logits, plain, codes).by_branch
    systems = {**alone, FUSED: fuse_logits(logits, unmixed, codes).probabilities}
    return {name: reliability(probabilities, labels) for name, probabilities in systems.items()}


def evaluation_deck(
    evaluation: Evaluation,
    names: Mapping[str, str],
    before: Mapping[str, Reliability],
    mistakes: Sequence[Mistake],
) -> str:
    """names: code -> name for people; may be empty. before: by system, see reliability_before; may be empty."""
    figures = evaluation_figures(evaluation, names)
    after = {name: evaluation.systems[name].reliability for name in before}
    left_out = len(evaluation.codes) - MAX_CLASSES_DRAWN
    blocks = [
        *_summary(evaluation),
        heading("Classes"),
        figure(figures["class_f1"]),
        *([note(f"Not drawn: the {left_out:,} classes with fewest test rows.")] if left_out > 0 else []),
        heading("Confusion"),
        note("Rows are the catalogue's own labels, columns the answers of the fused system; the diagonal is right."),
        figure(figures["confusion"]),
        *_confusions(evaluation, names),
        heading("Reliability"),
        note(
            "Of the answers given with a confidence of 0.8, are 80 % right? ECE is the mean gap between the two; a "
            "mark's area is its share of the rows. Under 1,000 rows the gap is mostly noise."
        ),
        figure(calibration(before, after) if before else figures["reliability"]),
        *_mistakes(mistakes, names),
    ]
    return deck("Evaluation", blocks)


def _summary(evaluation: Evaluation) -> Iterator[Markup]:
    fused = evaluation.systems[FUSED]
    yield facts(
        {
            "test rows": evaluation.n,
            "classes": len(evaluation.codes),
            "weighted F1 (fused)": f"{fused.weighted_f1.value:.3f}",
            "macro F1 (fused)": f"{fused.macro_f1.value:.3f}",
            "calibration error (fused)": f"{evaluation.ece:.3f}",
        }
    )
    rows = [(name, *map(str, system.metrics), f"{system.reliability.ece:.3f}") for name, system in _ordered(evaluation)]
    yield table(["", "weighted F1", "macro F1", "accuracy", "ECE"], rows, "with 95 % bootstrap intervals")
    yield figure(intervals(evaluation))


def _ordered(evaluation: Evaluation) -> list:
    return sorted(evaluation.systems.items(), key=lambda item: item[0] != FUSED)


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
        yield note("No test row was answered wrongly.")
        return
    yield note("Wrong answers of the highest confidence. Some may be wrong labels in the catalogue.")
    yield tiles([_tile(mistake, names) for mistake in mistakes], TILE)


def _tile(mistake: Mistake, names: Mapping[str, str]) -> Tile:
    texts = [cut(mistake.designation, 90), cut(mistake.description, 110)]
    said = [
        f"{name}: {_answer(answer, names) if answer else 'saw nothing'}" for name, answer in mistake.branches.items()
    ]
    blank = "no photo" if mistake.photo is None else "photo unreadable"
    lines = [
        f"is {_class(mistake.code, names)}",
        f"{FUSED}: {_answer(mistake.fused, names)}",
        *said,
        f"row {mistake.row}: {' | '.join(filter(None, texts)) or 'no text'}",
    ]
    return Tile(thumbnail(mistake.photo), lines, blank)


def _answer(said: Said, names: Mapping[str, str]) -> str:
    return f"{_class(said.code, names)}, {said.probability:.2f}"


def _class(code: int, names: Mapping[str, str]) -> str:
    return cut(f"{code} {names.get(str(code), '')}".strip(), 50)
