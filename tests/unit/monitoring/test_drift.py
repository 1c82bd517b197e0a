from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rakuten_tasks.monitoring.columns import EMBEDDING, PHOTO_COLUMNS
from rakuten_tasks.monitoring.decision import GROUPS, Decision, Outcome
from rakuten_tasks.monitoring.drift_tests import decide
from tests.support.drift_rows import drift_rows


def strict(decision: Decision) -> dict:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(decision.to_json(), parse_constant=refuse)


def of(decision: Decision, column: str) -> Any:
    matches = [evidence for evidence in decision.evidence if evidence.column == column]
    return matches[0] if matches else next(skip for skip in decision.skipped if skip.column == column)


def test_ordinary_traffic_is_no_drift_and_every_column_was_tested():
    decision = decide(drift_rows(seed=1), drift_rows(seed=2))
    assert decision.outcome is Outcome.NO_DRIFT
    assert not decision.drift
    assert {item.column for item in decision.evidence} == {name for names in GROUPS.values() for name in names}
    assert Decision.from_json(decision.to_json()) == decision
    assert strict(decision)["outcome"] == "no_drift"


@pytest.mark.parametrize(
    ("group", "change"),
    [
        ("text", {"digit_share": lambda c: c + 1}),
        ("text", {"language": lambda c: ["en"] * len(c)}),
        ("text", {"designation": lambda c: ["chaussure " + text for text in c]}),
        ("photo", {"photo_missing": lambda c: np.arange(len(c)) % 4 == 0}),
        ("prediction", {"predicted": lambda c: np.where(np.arange(len(c)) % 5 == 0, 10, c)}),
        ("embedding", {EMBEDDING[3]: lambda c: c + 1.0}),
        ("embedding", {EMBEDDING[12]: lambda c: c * 3}),
    ],
)
def test_drift_is_reported_by_its_group_with_the_evidence_first(group, change):
    window = drift_rows(seed=2)
    changed = window.assign(**{name: function(window[name]) for name, function in change.items()})
    decision = decide(drift_rows(seed=1), changed)
    assert (decision.outcome, decision.groups) == (Outcome.DRIFT, [group])
    first = decision.evidence[0]
    assert first.drifted
    assert first.p_adjusted < 0.05
    assert first.effect >= first.minimum
    assert decision.reason.startswith(first.column)


def test_a_difference_too_small_to_matter_is_no_drift_however_many_rows_show_it():
    window = drift_rows(60_000, seed=2)
    decision = decide(drift_rows(60_000, seed=1), window.assign(brightness=window["brightness"] + 0.1))
    assert decision.outcome is Outcome.NO_DRIFT
    evidence = of(decision, "brightness")
    assert evidence.p_adjusted < 1e-9
    assert 0 < evidence.effect < evidence.minimum


def test_many_columns_that_are_each_a_little_off_are_not_counted_together():
    window = drift_rows(seed=2)
    decision = decide(drift_rows(seed=1), window.assign(**{name: window[name] + 0.05 for name in EMBEDDING}))
    assert decision.outcome is Outcome.NO_DRIFT


@pytest.mark.parametrize("count", [0, 1, 3, 299])
def test_too_few_rows_are_not_enough_data_with_the_reason(count):
    decision = decide(drift_rows(seed=1), drift_rows(count, seed=2))
    assert decision.outcome is Outcome.NOT_ENOUGH_DATA
    assert decision.reason == f"the window has {count} rows, and needs 300"
    assert decide(drift_rows(count), drift_rows()).reason == f"the reference has {count} rows, and needs 300"
    assert strict(decision)["evidence"] == []


@pytest.mark.parametrize("value", [None, np.nan, np.inf, -np.inf, "text", "", pd.NaT, [1], {"a": 1}])
@pytest.mark.parametrize("column_in", ["reference", "window", "both"])
def test_a_column_of_nonsense_is_skipped_with_the_reason_and_is_no_drift(value, column_in):
    frames = {"reference": drift_rows(seed=1), "window": drift_rows(seed=2)}
    for name in frames if column_in == "both" else [column_in]:
        frames[name]["brightness"] = pd.Series([value] * 500, dtype=object)
    decision = decide(**frames)
    assert decision.outcome is Outcome.NO_DRIFT
    assert of(decision, "brightness").reason.endswith("has 0 usable values, and needs 100")
    strict(decision)


def test_infinite_values_count_as_missing():
    window = drift_rows(seed=2)
    window.loc[:99, ["brightness", *EMBEDDING]] = np.inf
    decision = decide(drift_rows(seed=1), window)
    assert decision.outcome is Outcome.NO_DRIFT
    strict(decision)


def test_huge_numbers_do_no_harm():
    window = drift_rows(seed=2)
    window.loc[0, ["photo_bytes", *EMBEDDING]] = 1.7e308
    assert decide(drift_rows(seed=1), window).outcome is Outcome.NO_DRIFT


def test_a_missing_column_is_skipped():
    decision = decide(drift_rows(seed=1), drift_rows(seed=2).drop(columns=["language", "designation", *EMBEDDING]))
    assert decision.outcome is Outcome.NO_DRIFT
    assert of(decision, "language").reason == "the window does not have it"
    assert {skip.column for skip in decision.skipped} == {"language", "raw_text", "embedding"}


def test_embeddings_are_compared_where_the_cascade_has_computed_them():
    reference, window = drift_rows(1000, seed=1), drift_rows(1000, seed=2)
    for rows, seed in ((reference, 3), (window, 4)):
        unsettled = np.random.default_rng(seed).random((1000, 2))
        rows.loc[unsettled[:, 0] > 0.4, EMBEDDING[:8]] = np.nan  # text
        rows.loc[unsettled.max(1) > 0.6, EMBEDDING[8:]] = np.nan  # photo
    assert not of(decide(reference, window), "embedding").drifted
    for column in (EMBEDDING[3], EMBEDDING[12]):
        assert of(decide(reference, window.assign(**{column: window[column] + 1})), "embedding").drifted


def test_nothing_in_common_is_not_enough_data():
    decision = decide(drift_rows(), pd.DataFrame({"other": range(500)}))
    assert decision.outcome is Outcome.NOT_ENOUGH_DATA
    assert decision.reason == "no column could be compared: the window does not have it"


def test_constant_columns_are_equal_or_not():
    same = drift_rows(seed=1).assign(contrast=0.5, language="fr")
    assert decide(same, drift_rows(seed=2).assign(contrast=0.5, language="fr")).outcome is Outcome.NO_DRIFT
    assert decide(same, drift_rows(seed=2).assign(contrast=0.6, language="fr")).groups == ["photo"]


def test_a_new_category_is_drift_only_if_it_is_frequent():
    window = drift_rows(seed=2)
    window.loc[:2, "predicted"] = 9999
    assert decide(drift_rows(seed=1), window).outcome is Outcome.NO_DRIFT
    window.loc[:99, "predicted"] = 9999
    assert decide(drift_rows(seed=1), window).groups == ["prediction"]


def test_a_category_is_the_same_as_a_number_or_as_text():
    window = drift_rows(seed=2)
    as_text = window.assign(
        predicted=window["predicted"].astype(float).astype(str),
        photo_missing=window["photo_missing"].astype(int),
        description_empty=window["description_empty"].map(str),
    )
    decision = decide(drift_rows(seed=1), as_text)
    assert decision.evidence == decide(drift_rows(seed=1), window).evidence


def test_rows_without_photos_say_so_once():
    window = drift_rows(seed=2)
    gone = np.arange(500) % 4 == 0
    window["photo_missing"] = gone
    window.loc[gone, [*PHOTO_COLUMNS[2:], *EMBEDDING[8:], "disagreement"]] = np.nan
    assert decide(drift_rows(seed=1), window).groups == ["photo"]
    window[[*PHOTO_COLUMNS[2:], *EMBEDDING[8:], "disagreement"]] = np.nan
    window["photo_missing"] = True
    assert decide(drift_rows(seed=1), window).groups == ["photo"]
