"""The most confident errors, with each member's prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rakuten_tasks.data.shards import Shard, iter_products

if TYPE_CHECKING:
    from rakuten_tasks.models.predictor import Scores

MAX_ERRORS = 12


@dataclass(frozen=True)
class MemberPrediction:
    """A predicted class and its probability."""

    code: int
    probability: float


@dataclass(frozen=True)
class Misclassification:
    """A product that the pool predicted wrongly. members: None for a member that had no input, such as a photo."""

    row: int
    designation: str
    description: str
    photo: bytes | None
    code: int  # the catalogue's label
    pool: MemberPrediction
    members: dict[str, MemberPrediction | None]


def top_errors(scores: Scores, labels: NDArray, k: int = MAX_ERRORS) -> NDArray:
    """Return the positions of at most k wrong predictions, highest confidence first. labels: (N,) class indices."""
    wrong = np.flatnonzero(scores.probabilities.argmax(1) != labels)
    return wrong[np.argsort(-scores.confidence[wrong], kind="stable")[:k]]


def describe_errors(
    rows: pd.DataFrame, scores: Scores, labels: NDArray, k: int = MAX_ERRORS
) -> list[Misclassification]:
    """Describe the `top_errors`.

    rows: row, designation, description, photo (bytes or null), in the order of scores and labels (class indices). Only
    the photos at `top_errors` are used: `with_photos` adds them to rows that were scored without.
    """
    result = []
    for position in top_errors(scores, labels, k):
        row = rows.iloc[position]
        members = {
            name: _prediction(probabilities[position], scores.codes) if scores.available[name][position] else None
            for name, probabilities in scores.by_member.items()
        }
        result.append(
            Misclassification(
                row=int(row["row"]),
                designation=row["designation"],
                description=row["description"],
                photo=row["photo"] if isinstance(row["photo"], bytes) else None,
                code=int(scores.codes[labels[position]]),
                pool=_prediction(scores.probabilities[position], scores.codes),
                members=members,
            )
        )
    return result


def _prediction(probabilities: NDArray, codes: NDArray) -> MemberPrediction:
    best = probabilities.argmax()
    return MemberPrediction(int(codes[best]), float(probabilities[best]))


def with_photos(rows: pd.DataFrame, positions: NDArray, shards: Sequence[Shard]) -> pd.DataFrame:
    """Add a column `photo`: the bytes at these positions, None elsewhere. rows: with a column `row`.

    shards: of the labelled part that the rows are from; only the photos beside the positions are read.
    """
    wanted = {int(row) for row in rows["row"].iloc[positions]}
    parts = (part for shard in shards for part in iter_products(shard, wanted))
    photos = {row: photo for part in parts for row, photo in zip(part["row"].tolist(), part["photo"], strict=True)}
    return rows.assign(photo=[photos.get(int(row)) for row in rows["row"]])
