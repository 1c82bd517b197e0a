"""The window: the champion's recent predictions, sampled from a prediction log of any size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd

from rakuten_tasks.monitoring.columns import DRIFT_COLUMNS, FEEDBACK, PREDICTION
from rakuten_tasks.monitoring.prediction_log import stream_log

MAX_ROWS = 100_000  # rows of a window; from more rows, a random sample of so many is drawn
SPAN_HOURS = (0.0001, 87_600)  # least and greatest length of a window: ten years
COLUMNS = ["kind", "request_id", "model", "version", "designation", *DRIFT_COLUMNS]


@dataclass(frozen=True)
class TimeWindow:
    """Half-open span of time, [start, end) in UTC."""

    start: datetime
    end: datetime

    def isoformat(self) -> tuple[str, str]:
        """Return start and end as ISO 8601, to the second."""
        return self.start.isoformat(timespec="seconds"), self.end.isoformat(timespec="seconds")


def read_window(
    address: str,
    span: TimeWindow,
    open_folder: Path | None = None,
    model: str = "",
    version: str = "",
    max_rows: int = MAX_ROWS,
) -> pd.DataFrame:
    """Return a random sample of the span's predictions, by time.

    Columns: DRIFT_COLUMNS, designation if it was logged, true_code if there was feedback. address: of the prediction
    log. open_folder: of hours that are still open. model, version: of the predictions; empty for any. Predictions of
    two versions differ without any drift.
    """
    sample = reservoir_sample(_stream_predictions(address, span, open_folder, model, version), max_rows)
    if sample is None:
        sample = pd.DataFrame({name: pd.Series(dtype=object) for name in ("time", *COLUMNS)})
    sample = sample.sort_values("time", kind="stable").reset_index(drop=True)
    labels = _read_feedback(address, span, open_folder, set(sample["request_id"]))
    return sample.assign(true_code=sample["request_id"].map(labels))


def reservoir_sample(chunks: Iterable[pd.DataFrame], max_rows: int) -> pd.DataFrame | None:
    """Return at most max_rows rows of all chunks, each row with the same probability; None if there are no chunks."""
    # each row gets a random number, and the rows with the lowest numbers stay
    random = np.random.default_rng(0)
    sample: pd.DataFrame | None = None
    for chunk in chunks:
        numbered = chunk.assign(_random=random.random(len(chunk)))
        sample = numbered if sample is None else pd.concat([sample, numbered], ignore_index=True)
        if len(sample) > max_rows:
            sample = sample.nsmallest(max_rows, "_random")
    return None if sample is None else sample.drop(columns="_random")


def _stream_predictions(
    address: str, span: TimeWindow, open_folder: Path | None, model: str, version: str
) -> Iterator[pd.DataFrame]:
    for records in stream_log(address, COLUMNS, open_folder, span.start, span.end):
        selected = records["kind"] == PREDICTION
        for name, value in (("model", model), ("version", version)):
            selected &= (records[name] == value) | (value == "")
        if selected.any():
            yield records[selected]


def _read_feedback(address: str, span: TimeWindow, open_folder: Path | None, request_ids: set[str]) -> dict[str, int]:
    """Return the last true code of each request: labels may arrive long after the prediction."""
    labels: dict[str, int] = {}
    for records in stream_log(address, ["kind", "request_id", "true_code"], open_folder, since=span.start):
        is_feedback = (records["kind"] == FEEDBACK) & records["request_id"].isin(request_ids)
        feedback = records[is_feedback].sort_values("time")
        labels.update(zip(feedback["request_id"], feedback["true_code"].astype(int), strict=True))
    return labels
