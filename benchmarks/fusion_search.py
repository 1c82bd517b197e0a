"""Time of the exact weight search beside an ordinary 101-point grid, in one run: python benchmarks/fusion_search.py"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from benchmarks.timing import seconds
from rakuten_tasks.classifier.calibration import calibrate
from rakuten_tasks.classifier.fusion import best_weight

ROWS, CLASSES, REPEATS = 8492, 27, 5


def branch(labels: NDArray, signal: float, random: np.random.Generator) -> NDArray:
    """Calibrated probabilities (N, K) of a branch whose logits know the label by `signal` standard deviations."""
    evidence = random.normal(size=(len(labels), CLASSES))
    evidence[np.arange(len(labels)), labels] += signal
    return calibrate(evidence * signal, 1.0)


def grid_search(first: NDArray, second: NDArray, labels: NDArray) -> float:
    """The best weighted F1 of 101 weights."""
    mixes = (w * first + (1 - w) * second for w in np.linspace(0, 1, 101))
    return max(f1_score(labels, mix.argmax(1), average="weighted", zero_division=0) for mix in mixes)


def main() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(CLASSES, size=ROWS)
    text, photo = branch(labels, 3.0, random), branch(labels, 1.7, random)
    found = best_weight(text, photo, labels)
    exact = np.median([seconds(lambda: best_weight(text, photo, labels)) for _ in range(REPEATS)])
    grid = np.median([seconds(lambda: grid_search(text, photo, labels)) for _ in range(REPEATS)])
    print(f"{ROWS} x {CLASSES}, {len(found.scores)} intervals, median of {REPEATS} runs")
    print(f"exact {1000 * exact:.0f} ms, weighted F1 {found.optimum:.5f}, chosen weight {found.weight:.3f}")
    print(f"grid  {1000 * grid:.0f} ms, weighted F1 {grid_search(text, photo, labels):.5f}")
    print(f"exact / grid: {exact / grid:.3f}")


if __name__ == "__main__":
    main()
