"""The most confident errors, with each member's prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

if TYPE_CHECKING:
    from rakuten_tasks.models.predictor import Scores

MISTAKES = 12


@dataclass(frozen=True)
class MemberPrediction:
    """An answer and its probability."""

    code: int
    probability: float


@dataclass(frozen=True)
class Mistake:
    """One product whose pooled answer was wrong."""

    row: int
    designation: str
    description: str
    photo: bytes | None
    code: int  # what the catalogue says
    pool: MemberPrediction
    members: dict[str, MemberPrediction | None]  # None: there was nothing for it to look at


def top_errors(scores: Scores, labels: NDArray, k: int = MISTAKES) -> NDArray:
    """Positions of at most k wrong answers, the surest first; ties as they stand. labels: (N,) class indices."""
    wrong = np.flatnonzero(scores.probabilities.argmax(1) != labels)
    return wrong[np.argsort(-scores.confidence[wrong], kind="stable")[:k]]


def describe_errors(rows: pd.DataFrame, scores: Scores, labels: NDArray, k: int = MISTAKES) -> list[Mistake]:
    """rows: row, designation, description, photo (bytes or null), as scores and labels (class indices) are ordered.

    Only the photos at `top_errors` are looked at: `with_photos` brings them to rows that were scored without.
    """
    return [_mistake(rows.iloc[at], scores, at, labels[at]) for at in top_errors(scores, labels, k)]


def _mistake(row: pd.Series, scores: Scores, at: int, label: int) -> Mistake:
    said = {name: _member_prediction(of, scores.codes, at) for name, of in scores.by_member.items()}
    return Mistake(
        row=int(row["row"]),
        designation=row["designation"],
        description=row["description"],
        photo=row["photo"] if isinstance(row["photo"], bytes) else None,
        code=int(scores.codes[label]),
        pool=_member_prediction(scores.probabilities, scores.codes, at),
        members={name: answer if scores.available[name][at] else None for name, answer in said.items()},
    )


def _member_prediction(probabilities: NDArray, codes: NDArray, at: int) -> MemberPrediction:
    best = probabilities[at].argmax()
    return MemberPrediction(int(codes[best]), float(probabilities[at, best]))


def with_photos(rows: pd.DataFrame, positions: NDArray, shards: Sequence[Path]) -> pd.DataFrame:
    """rows (a column `row`) with a column `photo`: the bytes at these positions, None elsewhere.

    shards: of the part that the rows are of, the labelled one; read one at a time, without its other photos.
    """
    wanted = [int(row) for row in rows["row"].iloc[positions]]
    photos: Mapping[int, bytes | None] = {
        found["row"]: found["photo"]
        for path in shards
        for found in pq.read_table(path, columns=["row", "photo"], filters=[("row", "in", wanted or [-1])]).to_pylist()
    }
    return rows.assign(photo=[photos.get(int(row)) for row in rows["row"]])
