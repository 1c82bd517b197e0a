"""Compares a reference and a window from any source."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
from statsmodels.stats.proportion import proportion_confint

from rakuten_tasks.models.bundle import REFERENCE
from rakuten_tasks.models.predictor import Predictor
from rakuten_tasks.monitoring.columns import EMBEDDING, PHOTO_COLUMNS, PREDICTION_COLUMNS
from rakuten_tasks.monitoring.decision import Accuracy, DriftReport
from rakuten_tasks.monitoring.drift_tests import decide
from rakuten_tasks.monitoring.inputs import catalogue_frame, file_frame, is_file
from rakuten_tasks.monitoring.values import categories, numbers
from rakuten_tasks.monitoring.window import TimeWindow, read_window
from rakuten_tasks.registry.versions import ChampionBundle

LABEL_COLUMNS = ("true_code", "prdtypecode")


@dataclass(frozen=True)
class DriftInput:
    """Rows with drift columns, and a description of their source."""

    rows: pd.DataFrame
    description: str


def champion_reference(champion: ChampionBundle) -> DriftInput:
    """Load the champion's held-out rows."""
    rows = pd.read_parquet(champion.folder / REFERENCE)
    return DriftInput(rows, f"held-out rows of {champion.model} version {champion.version}")


def logged_window(
    address: str, span: TimeWindow, champion: ChampionBundle, open_folder: Path | None = None
) -> DriftInput:
    """Read the champion's logged predictions of a span. address: of the prediction log."""
    rows = read_window(address, span, open_folder, champion.model, str(champion.version))
    hours = f"{span.start:%Y-%m-%d %H:%M} to {span.end:%Y-%m-%d %H:%M} UTC"
    source = f"{champion.model} version {champion.version}, {hours}, logged at {address}"
    return DriftInput(rows, f"predictions of {source}")


def catalogue_input(address: str, champion: ChampionBundle | None, to_predict: bool = False) -> DriftInput:
    """Read a catalogue's products or a table. Without a champion, columns that only a model can compute are missing."""
    predictor = Predictor.load(champion.folder) if champion else None
    if is_file(address):
        return DriftInput(file_frame(address, predictor), f"table {address}")
    return DriftInput(catalogue_frame(address, predictor, to_predict), f"catalogue {address}")


def compare_inputs(reference: DriftInput, window: DriftInput) -> tuple[DriftReport, DriftInput, DriftInput]:
    """Return the report, and both inputs with the columns that were compared."""
    # predictions from photo and text differ from predictions from text alone, without any drift
    if _has_photos(reference) != _has_photos(window):
        reference, window = (
            replace(data, rows=data.rows.drop(columns=[*PREDICTION_COLUMNS, *EMBEDDING], errors="ignore"))
            for data in (reference, window)
        )
    report = DriftReport(
        reference=reference.description,
        window=window.description,
        written=datetime.now(UTC).isoformat(timespec="seconds"),
        decision=decide(reference.rows, window.rows),
        reference_accuracy=measure_accuracy(reference.rows),
        window_accuracy=measure_accuracy(window.rows),
    )
    return report, reference, window


def _has_photos(data: DriftInput) -> bool:
    return not set(PHOTO_COLUMNS).isdisjoint(data.rows.columns)


def measure_accuracy(rows: pd.DataFrame) -> Accuracy:
    """Estimate accuracy from confidence, and measure it on the rows with a label. Any column may be missing."""
    confidence = numbers(rows["confidence"]).dropna() if "confidence" in rows else pd.Series(dtype=float)
    confidence = confidence[confidence.between(0, 1)]  # other values are not probabilities
    estimated = float(confidence.mean()) if len(confidence) else None
    label = next((name for name in LABEL_COLUMNS if name in rows.columns), None)
    if label is None or "predicted" not in rows.columns:
        return Accuracy(estimated, None, None, None, 0)
    pairs = pd.DataFrame({name: categories(rows[name]) for name in ("predicted", label)}).dropna()
    if pairs.empty:
        return Accuracy(estimated, None, None, None, 0)
    correct = int((pairs["predicted"] == pairs[label]).sum())
    low, high = proportion_confint(correct, len(pairs), method="wilson")
    return Accuracy(estimated, correct / len(pairs), float(low), float(high), len(pairs))
