"""Comparison of a reference and a window, from any source, to a drift report."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from rakuten_tasks.models.predictor import Predictor
from rakuten_tasks.monitoring.columns import ANSWER_COLUMNS, EMBEDDING, PHOTO_COLUMNS
from rakuten_tasks.monitoring.comparison import DriftReport, accuracy_of
from rakuten_tasks.monitoring.drift_tests import decide
from rakuten_tasks.monitoring.inputs import catalogue_frame, file_frame, is_file
from rakuten_tasks.monitoring.reference import load_reference
from rakuten_tasks.monitoring.window import TimeWindow, read_window

TRUE_CODES = ("true_code", "prdtypecode")


@dataclass(frozen=True)
class Model:
    """A registered version and where its bundle lies."""

    name: str
    version: int
    bundle: Path


@dataclass(frozen=True)
class DriftInput:
    """Rows of drift columns, and in words where they come from. labels: the column of true codes."""

    rows: pd.DataFrame
    told: str

    @property
    def labels(self) -> str:
        return next((name for name in TRUE_CODES if name in self.rows.columns), TRUE_CODES[0])


def champion_reference(model: Model) -> DriftInput:
    """The model's held-out rows."""
    return DriftInput(load_reference(model.bundle), f"held-out rows of {model.name} version {model.version}")


def logged_window(address: str, span: TimeWindow, model: Model, open_folder: Path | None = None) -> DriftInput:
    """What the model answered in the span."""
    rows = read_window(address, span, open_folder, model.name, str(model.version))
    hours = f"{span.start:%Y-%m-%d %H:%M} to {span.end:%Y-%m-%d %H:%M} UTC"
    return DriftInput(rows, f"answers of {model.name} version {model.version}, {hours}, logged at {address}")


def catalogue_input(address: str, model: Model | None, to_predict: bool = False) -> DriftInput:
    """A catalogue's products or a table; model: None where there is none, and what only it knows is left out."""
    predictor = Predictor.load(model.bundle) if model else None
    if is_file(address):
        return DriftInput(file_frame(address, predictor), f"table {address}")
    return DriftInput(catalogue_frame(address, predictor, to_predict), f"catalogue {address}")


def compare_inputs(reference: DriftInput, window: DriftInput) -> tuple[DriftReport, DriftInput, DriftInput]:
    """The report, and both sides as they were compared."""
    reference, window = _align_columns(reference, window), _align_columns(window, reference)
    return (
        DriftReport(
            reference=reference.told,
            window=window.told,
            written=datetime.now(UTC).isoformat(timespec="seconds"),
            decision=decide(reference.rows, window.rows),
            reference_accuracy=accuracy_of(reference.rows, reference.labels),
            window_accuracy=accuracy_of(window.rows, window.labels),
        ),
        reference,
        window,
    )


def _align_columns(side: DriftInput, other: DriftInput) -> DriftInput:
    """Without the answers where only one side was answered with photos: they would differ by that alone."""
    seen = [bool(set(PHOTO_COLUMNS) & set(one.rows.columns)) for one in (side, other)]
    if seen[0] == seen[1]:
        return side
    return DriftInput(side.rows.drop(columns=[*ANSWER_COLUMNS, *EMBEDDING], errors="ignore"), side.told)
