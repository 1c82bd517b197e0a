"""The drift decision: a small record, the same in JSON, in Flyte and on the terminal."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from rakuten_tasks.config import Strict
from rakuten_tasks.monitoring.columns import ANSWER_COLUMNS, PHOTO_COLUMNS, TEXT_COLUMNS

EMBEDDED, RAW_TEXT = "embedding", "raw_text"  # tests of many columns at once
GROUPS = {
    "text": [*TEXT_COLUMNS, RAW_TEXT],
    "photo": PHOTO_COLUMNS,
    "prediction": ANSWER_COLUMNS,
    "embedding": [EMBEDDED],
}


class Outcome(Enum):
    """The three answers there are."""

    NO_DRIFT = "no_drift"
    DRIFT = "drift"
    NOT_ENOUGH_DATA = "not_enough_data"


@dataclass(frozen=True)
class Evidence(Strict):
    """One test. p_adjusted: by Holm over all tests. effect: in the test's own unit, see Rule; it must reach minimum."""

    column: str
    group: str
    test: str
    p_adjusted: float
    effect: float
    minimum: float
    drifted: bool

    def __str__(self) -> str:
        return f"{self.column} ({self.test}): effect {self.effect:.3f} of {self.minimum}, p {self.p_adjusted:.2g}"


@dataclass(frozen=True)
class Skipped(Strict):
    """A column that could not be tested, and why."""

    column: str
    reason: str


@dataclass(frozen=True)
class Decision(Strict):
    """reason: a sentence for people. groups: of GROUPS, those in which something drifted. evidence: strongest first."""

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
