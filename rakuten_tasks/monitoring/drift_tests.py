"""Decides whether a window drifted from the reference: Holm-corrected tests, each with a minimum effect.

No share of drifted columns: Evidently's rule raises a false alarm on 71 % of ordinary windows and misses strong drift;
see the benchmark.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import chi2_contingency, hypergeom, ks_2samp
from statsmodels.stats.multitest import multipletests

from rakuten_tasks.monitoring.columns import EMBEDDING
from rakuten_tasks.monitoring.decision import (
    EMBEDDED,
    GROUP_OF,
    GROUPS,
    RAW_TEXT,
    Decision,
    Evidence,
    Outcome,
    Skipped,
)
from rakuten_tasks.monitoring.domain_classifier import numeric_auc, text_auc
from rakuten_tasks.monitoring.values import (
    CATEGORIES,
    UntestableColumnError,
    categories,
    nonempty_texts,
    numbers,
    require_values,
)

MIN_EXPECTED = 5.0  # expected rows of each category, for a chi-square test; rarer categories are counted together


@dataclass(frozen=True)
class Rule:
    """When a difference is drift. With many rows, tiny differences are significant: the minimum effects exclude them.

    ks: largest distance between two distribution functions, 0 to 1. chi-square: share of rows that would have to change
    category, 0 to 1. domain classifier: its AUC above 0.5, 0 to 0.5.
    """

    alpha: float = 0.05
    reference_rows: int = 300
    window_rows: int = 300
    values: int = 100  # usable values of a column, in reference and window each
    ks: float = 0.1
    chi_square: float = 0.05
    classifier: float = 0.05


@dataclass(frozen=True)
class _TestResult:
    name: str
    p: float
    effect: float
    minimum: float


RULE = Rule()


def decide(reference: pd.DataFrame, window: pd.DataFrame, rule: Rule = RULE) -> Decision:
    """Compare the columns that both have. Extra columns are ignored; no value of any column raises an error."""
    sizes = {"reference": (len(reference), rule.reference_rows), "window": (len(window), rule.window_rows)}
    few = [f"the {name} has {rows} rows, and needs {needed}" for name, (rows, needed) in sizes.items() if rows < needed]
    if few:
        return Decision(Outcome.NOT_ENOUGH_DATA, " and ".join(few), len(reference), len(window))
    results: dict[str, _TestResult] = {}
    skipped = []
    for column in GROUP_OF:
        try:
            results[column] = _test_column(column, reference, window, rule)
        except UntestableColumnError as error:
            skipped.append(Skipped(column, str(error)))
    if not results:
        reason = "no column could be compared: " + "; ".join(sorted({skip.reason for skip in skipped}))
        return Decision(Outcome.NOT_ENOUGH_DATA, reason, len(reference), len(window), skipped=skipped)
    evidence = _correct(results, rule)
    drifted = [item for item in evidence if item.drifted]
    groups = [group for group in GROUPS if any(item.group == group for item in drifted)]
    outcome = Outcome.DRIFT if groups else Outcome.NO_DRIFT
    reason = f"none of {len(evidence)} tests found a difference that is both significant and large enough"
    if drifted:
        more = f"; and {len(drifted) - 3} more" if len(drifted) > 3 else ""
        reason = "; ".join(map(str, drifted[:3])) + more
    return Decision(outcome, reason, len(reference), len(window), groups, evidence, skipped)


def _correct(results: dict[str, _TestResult], rule: Rule) -> list[Evidence]:
    """Apply Holm's correction and the minimum effects. Strongest evidence first."""
    _, adjusted, *_ = multipletests([result.p for result in results.values()], alpha=rule.alpha, method="holm")
    evidence = []
    for (column, result), p in zip(results.items(), adjusted, strict=True):
        drifted = bool(p < rule.alpha and result.effect >= result.minimum)
        evidence.append(
            Evidence(column, GROUP_OF[column], result.name, float(p), result.effect, result.minimum, drifted)
        )
    return sorted(evidence, key=lambda item: (not item.drifted, item.p_adjusted, -item.effect))


def _test_column(column: str, reference: pd.DataFrame, window: pd.DataFrame, rule: Rule) -> _TestResult:
    """Run the test of a column. Raises UntestableColumnError if it is missing or has too few usable values."""
    needed = {EMBEDDED: EMBEDDING, RAW_TEXT: ["designation"]}.get(column, [column])
    shared = [name for name in needed if name in reference.columns and name in window.columns]
    if not shared:
        missing = "reference" if set(needed).isdisjoint(reference.columns) else "window"
        raise UntestableColumnError(f"the {missing} does not have it")
    frames = (reference, window)
    if column in (EMBEDDED, RAW_TEXT):
        if column == EMBEDDED:
            matrices = [np.column_stack([numbers(frame[name]).to_numpy(float) for name in shared]) for frame in frames]
            auc, p = numeric_auc(matrices[0], matrices[1], rule.values)
        else:
            titles = [nonempty_texts(frame["designation"]) for frame in frames]
            auc, p = text_auc(titles[0], titles[1], rule.values)
        return _TestResult("domain classifier", p, auc - 0.5, rule.classifier)
    clean = categories if column in CATEGORIES else numbers
    values = [clean(frame[column]).dropna() for frame in frames]
    require_values(values[0], values[1], rule.values)
    return (_chi_square if column in CATEGORIES else _ks)(values[0], values[1], rule)


def _ks(reference: pd.Series, window: pd.Series, rule: Rule) -> _TestResult:
    # the exact distribution takes minutes on large samples and differs in the fourth digit
    test = ks_2samp(reference.to_numpy(float), window.to_numpy(float), method="asymp")
    return _TestResult("Kolmogorov-Smirnov", float(test.pvalue), float(test.statistic), rule.ks)


def _chi_square(reference: pd.Series, window: pd.Series, rule: Rule) -> _TestResult:
    name, minimum = "chi-square", rule.chi_square
    counts = _contingency_table(reference, window)  # (2, K)
    if counts.shape[1] < 2:
        return _TestResult(name, 1.0, 0.0, minimum)
    shares = counts / counts.sum(1, keepdims=True)
    effect = float(np.abs(shares[0] - shares[1]).sum() / 2)
    joint = float(chi2_contingency(counts, correction=False).pvalue)
    # With 26 degrees of freedom, one class that grows by ten points is not significant: each class is also tested
    # alone, and both tests are corrected for
    single = float(_one_against_others(counts).min()) * counts.shape[1]
    return _TestResult(name, min(1.0, 2 * min(joint, single)) if counts.shape[1] > 2 else joint, effect, minimum)


def _one_against_others(counts: NDArray) -> NDArray:
    """(2, K) counts -> (K,) p-values of each category's share, exact (Fisher's, the smaller tail doubled)."""
    window, total = counts[1], counts.sum(0)
    distribution = hypergeom(int(counts.sum()), total.astype(int), int(window.sum()))
    return np.minimum(1, 2 * np.minimum(distribution.cdf(window), distribution.sf(window - 1)))


def _contingency_table(reference: pd.Series, window: pd.Series) -> NDArray:
    """Return (2, K) counts by category. Rare categories are counted together, or left out if they are rare together."""
    by_category = pd.concat([values.value_counts() for values in (reference, window)], axis=1).fillna(0)
    counts = np.ascontiguousarray(by_category.to_numpy(float).T)  # (2, K)
    smaller = counts.sum(1).min() / counts.sum()
    rare = counts.sum(0) * smaller < MIN_EXPECTED
    others = counts[:, rare].sum(1, keepdims=True)  # (2, 1)
    together = [others] if others.sum() * smaller >= MIN_EXPECTED else []
    return np.concatenate([counts[:, ~rare], *together], axis=1)
