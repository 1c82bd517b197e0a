"""Whether a window differs from the reference: Holm-corrected tests and a minimum effect, never a share of columns.

Evidently's own rule alarms 71 % of the time on nothing and sleeps through strong drift; see the benchmark.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import chi2_contingency, hypergeom, ks_2samp
from statsmodels.stats.multitest import multipletests

from rakuten_tasks.monitoring.columns import EMBEDDING
from rakuten_tasks.monitoring.decision import EMBEDDED, GROUPS, RAW_TEXT, Decision, Evidence, Outcome, Skipped
from rakuten_tasks.monitoring.domain_classifier import DomainAUC, numeric_auc, text_auc
from rakuten_tasks.monitoring.values import CATEGORIES, categories, numbers, texts

RARE = 5.0  # a chi-square needs so many expected rows of each category; rarer ones are counted together


@dataclass(frozen=True)
class Rule:
    """When drift is called. The minimum effects keep what is significant only because rows are many from counting.

    ks: largest distance between two distribution functions, 0 to 1. chi-square: share of rows that would have to change
    category, 0 to 1. domain classifier: its AUC above 0.5, 0 to 0.5.
    """

    alpha: float = 0.05
    reference_rows: int = 300
    window_rows: int = 300
    values: int = 100  # known values of a column, on each side
    ks: float = 0.1
    chi_square: float = 0.05
    classifier: float = 0.05


@dataclass(frozen=True)
class _Test:
    name: str
    p: float
    effect: float
    minimum: float


RULE = Rule()


def decide(reference: pd.DataFrame, window: pd.DataFrame, rule: Rule = RULE) -> Decision:
    """Compare the columns that both have. Extra columns are ignored; whatever the values are, nothing is raised."""
    sizes = {"reference": (len(reference), rule.reference_rows), "window": (len(window), rule.window_rows)}
    few = [f"the {name} has {rows} rows, and needs {needed}" for name, (rows, needed) in sizes.items() if rows < needed]
    if few:
        return Decision(Outcome.NOT_ENOUGH_DATA, " and ".join(few), len(reference), len(window))
    tests: dict[str, _Test] = {}
    skipped = []
    for column in (name for names in GROUPS.values() for name in names):
        found = _test(column, reference, window, rule)
        if isinstance(found, str):
            skipped.append(Skipped(column, found))
        else:
            tests[column] = found
    if not tests:
        reason = "no column could be compared: " + "; ".join(sorted({skip.reason for skip in skipped}))
        return Decision(Outcome.NOT_ENOUGH_DATA, reason, len(reference), len(window), skipped=skipped)
    evidence = _weighed(tests, rule)
    groups = [group for group in GROUPS if any(found.drifted for found in evidence if found.group == group)]
    outcome = Outcome.DRIFT if groups else Outcome.NO_DRIFT
    return Decision(outcome, _reason(evidence), len(reference), len(window), groups, evidence, skipped)


def _weighed(tests: dict[str, _Test], rule: Rule) -> list[Evidence]:
    _, adjusted, *_ = multipletests([test.p for test in tests.values()], alpha=rule.alpha, method="holm")
    group_of = {column: group for group, columns in GROUPS.items() for column in columns}
    evidence = []
    for (column, test), p in zip(tests.items(), adjusted, strict=True):
        drifted = bool(p < rule.alpha and test.effect >= test.minimum)
        evidence.append(Evidence(column, group_of[column], test.name, float(p), test.effect, test.minimum, drifted))
    return sorted(evidence, key=lambda found: (not found.drifted, found.p_adjusted, -found.effect))


def _reason(evidence: list[Evidence]) -> str:
    drifted = [found for found in evidence if found.drifted]
    if not drifted:
        return f"none of {len(evidence)} tests found a difference that is both significant and large enough"
    rest = f"; and {len(drifted) - 3} more" if len(drifted) > 3 else ""
    return "; ".join(map(str, drifted[:3])) + rest


def _test(column: str, reference: pd.DataFrame, window: pd.DataFrame, rule: Rule) -> _Test | str:
    """The test of a column, or why there is none."""
    wanted = EMBEDDING if column == EMBEDDED else ["designation"] if column == RAW_TEXT else [column]
    for side, frame in (("reference", reference), ("window", window)):
        if not set(wanted) & set(frame.columns):
            return f"the {side} does not have it"
    if column == EMBEDDED:
        shared = [name for name in EMBEDDING if name in reference.columns and name in window.columns]
        return _separated(numeric_auc(_matrix(reference, shared), _matrix(window, shared), rule.values), rule)
    if column == RAW_TEXT:
        titles = [texts(frame["designation"]) for frame in (reference, window)]
        return _separated(text_auc(titles[0], titles[1], rule.values), rule)
    convert = categories if column in CATEGORIES else numbers
    known = [convert(frame[column]).dropna() for frame in (reference, window)]
    for side, values in zip(("reference", "window"), known, strict=True):
        if len(values) < rule.values:
            return f"the {side} has {len(values)} usable values, and needs {rule.values}"
    compare = _chi_square if column in CATEGORIES else _ks
    return compare(known[0], known[1], rule)


def _matrix(frame: pd.DataFrame, columns: list[str]) -> NDArray:
    return np.column_stack([numbers(frame[name]).to_numpy(float) for name in columns])


def _separated(found: DomainAUC | str, rule: Rule) -> _Test | str:
    if isinstance(found, str):
        return found
    return _Test("domain classifier", found.p, found.auc - 0.5, rule.classifier)


def _ks(reference: pd.Series, window: pd.Series, rule: Rule) -> _Test:
    # the exact distribution takes minutes on large samples and differs in the fourth digit
    found = ks_2samp(reference.to_numpy(float), window.to_numpy(float), method="asymp")
    return _Test("Kolmogorov-Smirnov", float(found.pvalue), float(found.statistic), rule.ks)


def _chi_square(reference: pd.Series, window: pd.Series, rule: Rule) -> _Test:
    name, minimum = "chi-square", rule.chi_square
    counts = np.stack(list(_counted(reference, window)))  # (2, K)
    if counts.shape[1] < 2:
        return _Test(name, 1.0, 0.0, minimum)
    shares = counts / counts.sum(1, keepdims=True)
    effect = float(np.abs(shares[0] - shares[1]).sum() / 2)
    whole = float(chi2_contingency(counts, correction=False).pvalue)
    # 26 degrees of freedom drown one class that grows by ten points: each is looked at alone too, both are paid for
    alone = float(_one_against_others(counts).min()) * counts.shape[1]
    return _Test(name, min(1.0, 2 * min(whole, alone)) if counts.shape[1] > 2 else whole, effect, minimum)


def _one_against_others(counts: NDArray) -> NDArray:
    """(2, K) counts -> (K,) p-values of each category's share, exact (Fisher's, the smaller tail doubled)."""
    window, total = counts[1], counts.sum(0)
    chance = hypergeom(int(counts.sum()), total.astype(int), int(window.sum()))
    return np.minimum(1, 2 * np.minimum(chance.cdf(window), chance.sf(window - 1)))


def _counted(reference: pd.Series, window: pd.Series) -> Iterator[NDArray]:
    """(K,) counts of each side, over the same categories; rare ones together."""
    sides = [side.value_counts() for side in (reference, window)]
    counted = pd.concat(sides, axis=1).fillna(0).to_numpy(float)  # (K, 2)
    smaller = counted.sum(0).min() / counted.sum()
    rare = counted.sum(1) * smaller < RARE
    enough = counted[rare].sum() * smaller >= RARE
    for side in counted.T:
        yield np.concatenate([side[~rare], [side[rare].sum()] if enough else []])
