"""Drift decision and drift report as data, the same in JSON, in Flyte and on the terminal."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from rakuten_tasks.config_base import Strict
from rakuten_tasks.monitoring.columns import PHOTO_COLUMNS, PREDICTION_COLUMNS, TEXT_COLUMNS

EMBEDDED, RAW_TEXT = "embedding", "raw_text"  # tests of several columns at once
GROUPS = {
    "text": [*TEXT_COLUMNS, RAW_TEXT],
    "photo": PHOTO_COLUMNS,
    "prediction": PREDICTION_COLUMNS,
    "embedding": [EMBEDDED],
}
GROUP_OF = {column: group for group, columns in GROUPS.items() for column in columns}
EVIDENCE_COLUMNS = ["group", "column", "test", "adjusted p", "effect", "minimum", ""]
ACCURACY_COLUMNS = ["", "estimated from confidence", "real, with 95 % interval", "labelled rows"]


class Outcome(Enum):
    """Result of a drift check."""

    NO_DRIFT = "no_drift"
    DRIFT = "drift"
    NOT_ENOUGH_DATA = "not_enough_data"

    @property
    def label(self) -> str:
        """The value in words."""
        return self.value.replace("_", " ")


@dataclass(frozen=True)
class Evidence(Strict):
    """Result of one test.

    p_adjusted: by Holm over all tests. effect: in the test's own unit, see Rule. minimum: the smallest effect that
    counts as drift.
    """

    column: str
    group: str
    test: str
    p_adjusted: float
    effect: float
    minimum: float
    drifted: bool

    def __str__(self) -> str:
        return f"{self.column} ({self.test}): effect {self.effect:.3f} of {self.minimum}, p {self.p_adjusted:.2g}"

    def cells(self) -> list[str]:
        """Return a table row for EVIDENCE_COLUMNS."""
        figures = [f"{self.p_adjusted:.2g}", f"{self.effect:.3f}", f"{self.minimum}"]
        return [self.group, self.column, self.test, *figures, "drift" if self.drifted else ""]


@dataclass(frozen=True)
class Skipped(Strict):
    """A column that could not be tested, and why."""

    column: str
    reason: str


@dataclass(frozen=True)
class Decision(Strict):
    """Outcome with its evidence, strongest first. reason: a sentence. groups: those of GROUPS that drifted."""

    outcome: Outcome
    reason: str
    reference_rows: int
    window_rows: int
    groups: list[str] = field(default_factory=list)
    evidence: list[Evidence] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    @property
    def drift(self) -> bool:
        """Whether drift was found; not enough data is not drift."""
        return self.outcome is Outcome.DRIFT


@dataclass(frozen=True)
class Accuracy(Strict):
    """Estimated and real accuracy.

    estimated: the mean calibrated confidence (CBPE). real: share of correct predictions among the `labelled` rows, with
    its 95 % interval; None if no row is labelled.
    """

    estimated: float | None
    real: float | None
    low: float | None
    high: float | None
    labelled: int


@dataclass(frozen=True)
class DriftReport(Strict):
    """Content of drift_report.json. reference, window: descriptions of what was compared."""

    reference: str
    window: str
    written: str  # UTC, ISO 8601
    decision: Decision
    reference_accuracy: Accuracy
    window_accuracy: Accuracy

    def accuracy_rows(self) -> list[list[str]]:
        """Return table rows for ACCURACY_COLUMNS."""
        return [
            [
                name,
                "unknown" if accuracy.estimated is None else f"{accuracy.estimated:.3f}",
                "no labels"
                if accuracy.real is None
                else f"{accuracy.real:.3f} [{accuracy.low:.3f}, {accuracy.high:.3f}]",
                f"{accuracy.labelled:,}",
            ]
            for name, accuracy in (("reference", self.reference_accuracy), ("window", self.window_accuracy))
        ]
