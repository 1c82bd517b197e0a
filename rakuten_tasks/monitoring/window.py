"""The window: the champion's recent predictions, sampled from a prediction log of any size."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd

from rakuten_tasks.monitoring.columns import DRIFT_COLUMNS, FEEDBACK, PREDICTION
from rakuten_tasks.monitoring.prediction_log import stream_log

MAX_ROWS = 100_000  # rows of a window; of more, as many are drawn by chance
COLUMNS = ["kind", "request_id", "model", "version", "designation", *DRIFT_COLUMNS]


@dataclass(frozen=True)
class TimeWindow:
    """From `start` up to, but not at, `end`; both UTC."""

    start: datetime
    end: datetime


def read_window(
    address: str,
    span: TimeWindow,
    open_folder: Path | None = None,
    model: str = "",
    version: str = "",
    most: int = MAX_ROWS,
) -> pd.DataFrame:
    """Answered requests in the span: DRIFT_COLUMNS, designation where it was logged, true_code where feedback has come.

    model, version: of answers; empty for those of any. Two versions' answers differ without any drift.
    """
    answered = _reservoir_sample(address, span, open_folder, model, version, most)
    told = _feedback(address, span, open_folder, set(answered["request_id"]))
    return answered.assign(true_code=answered["request_id"].map(told))


def _reservoir_sample(
    address: str, span: TimeWindow, open_folder: Path | None, model: str, version: str, most: int
) -> pd.DataFrame:
    """Each row gets a number of chance, and those with the lowest stay: every row is as likely to be drawn."""
    random = np.random.default_rng(0)
    kept = pd.DataFrame({name: pd.Series(dtype=object) for name in ("time", *COLUMNS, "_chance")})
    for records in stream_log(address, COLUMNS, open_folder, span.start, span.end):
        wanted = records["kind"] == PREDICTION
        for name, value in (("model", model), ("version", version)):
            wanted &= (records[name] == value) | (value == "")
        found = records[wanted]
        if found.empty:
            continue
        found = found.assign(_chance=random.random(len(found)))
        kept = pd.concat([kept, found], ignore_index=True) if len(kept) else found
        if len(kept) > most:
            kept = kept.nsmallest(most, "_chance")
    return kept.drop(columns="_chance").sort_values("time", kind="stable").reset_index(drop=True)


def _feedback(address: str, span: TimeWindow, open_folder: Path | None, asked: set[str]) -> dict[str, int]:
    """The last true code of each of these requests: labels may arrive long after the answer."""
    told: dict[str, int] = {}
    for records in stream_log(address, ["kind", "request_id", "true_code"], open_folder, since=span.start):
        found = records[(records["kind"] == FEEDBACK) & records["request_id"].isin(asked)].sort_values("time")
        told.update(zip(found["request_id"], found["true_code"].astype(int), strict=True))
    return told
