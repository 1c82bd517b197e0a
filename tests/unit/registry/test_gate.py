from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rakuten_tasks.config import GateConfig
from rakuten_tasks.registry.gate import GateDecision, decide

CODES = [10, 40, 2583]
LABELS = np.repeat(CODES, [200, 200, 40])
CONFIG = GateConfig()


def wrong(share: float, code: int | None = None, start: int = 0) -> NDArray:
    """LABELS, with that share of each class (or of one), counted from its row `start`, given to the next class."""
    predicted = LABELS.copy()
    for each in CODES if code is None else [code]:
        rows = np.flatnonzero(each == LABELS)
        chosen = np.roll(rows, -start)[: round(share * len(rows))]
        predicted[chosen] = CODES[(CODES.index(each) + 1) % 3]
    return predicted


def judge(new: NDArray, incumbent: NDArray | None, best: NDArray | None = None, **changes: Any) -> GateDecision:
    config = dataclasses.replace(CONFIG, **changes)
    codes = CODES if incumbent is not None else None
    return decide(LABELS, new, incumbent, best, CODES, codes, config, seed=0)


def test_the_first_version_passes() -> None:
    verdict = judge(LABELS, None)
    assert verdict == GateDecision(True, "first version: weighted F1 1.0000, no champion to compare with", 1.0)


def test_a_clearly_better_version_passes_and_the_reason_names_the_figures() -> None:
    verdict = judge(wrong(0.05), wrong(0.2))
    assert verdict.passed
    assert verdict.probability == 1
    assert verdict.new_f1 == pytest.approx(0.951, abs=0.002)
    assert verdict.incumbent_f1 == pytest.approx(0.811, abs=0.002)
    assert verdict.reason == (
        f"passed: weighted F1 {verdict.new_f1:.4f} against {verdict.incumbent_f1:.4f} of the champion, "
        "no more than 0.005 below it with probability 1.000"
    )


def test_the_same_answers_pass() -> None:
    assert judge(wrong(0.1), wrong(0.1)).passed


def test_a_clearly_worse_version_is_refused_for_its_probability() -> None:
    verdict = judge(wrong(0.08), wrong(0.05))
    assert not verdict.passed
    assert verdict.probability < 0.05
    assert verdict.reason.startswith("refused: ")
    assert verdict.reason.endswith("the probability must be 0.9 or more")


def test_an_equal_score_from_other_mistakes_is_too_uncertain_to_pass() -> None:
    new, incumbent = wrong(0.1, start=100), wrong(0.1)
    verdict = judge(new, incumbent)
    assert not verdict.passed
    assert 0.4 < verdict.probability < 0.9
    assert judge(new, incumbent, max_f1_loss=0.05).passed


def test_many_small_losses_do_not_add_up_because_the_best_champion_is_a_rival_too() -> None:
    slightly_worse, incumbent, best = wrong(0.11), wrong(0.11), wrong(0.02)
    assert judge(slightly_worse, incumbent).passed
    verdict = judge(slightly_worse, incumbent, best)
    assert not verdict.passed
    assert verdict.best_f1 == pytest.approx(0.98, abs=0.002)
    assert "of the best champion so far" in verdict.reason


def test_a_class_that_collapses_stops_a_version_that_gains_overall() -> None:
    verdict = judge(wrong(0.4, 2583), wrong(0.2, 10))
    assert not verdict.passed
    assert verdict.probability > 0.9
    # 24 of 40 found and none wrongly: F1 from 1 to 2 * 24 / (40 + 24)
    assert (verdict.worst_class, verdict.worst_class_loss) == (2583, 0.25)
    assert verdict.reason.endswith("class 2583 loses 0.250 F1 against the champion, 0.1 is allowed")


def test_a_class_with_too_few_test_rows_is_not_judged() -> None:
    verdict = judge(wrong(0.4, 2583), wrong(0.2, 10), min_class_rows=41)
    assert verdict.passed
    assert verdict.worst_class in (10, 40)
    assert judge(LABELS, LABELS, min_class_rows=1000).worst_class is None


@pytest.mark.parametrize(
    ("codes_new", "changes"),
    [([10, 40, 50], "new 50; gone 2583"), ([10, 40], "gone 2583"), ([10, 40, 50, 2583], "new 50")],
)
def test_other_classes_are_never_promoted_by_themselves(codes_new: list[int], changes: str) -> None:
    verdict = decide(LABELS, LABELS, None, None, codes_new, CODES, CONFIG, seed=0)
    assert not verdict.passed
    assert f"({changes})" in verdict.reason


def test_a_champion_with_the_same_classes_must_have_been_scored() -> None:
    with pytest.raises(ValueError, match="score it on the test rows"):
        decide(LABELS, LABELS, None, None, CODES, CODES, CONFIG, seed=0)


def test_a_verdict_survives_json_and_the_same_seed_gives_the_same() -> None:
    verdict = judge(wrong(0.1, start=100), wrong(0.1))
    assert judge(wrong(0.1, start=100), wrong(0.1)) == verdict
    assert GateDecision.from_json(verdict.to_json()) == verdict
