"""Prediction of a batch. A request that cannot be predicted fails alone."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rakuten_tasks.models.explanation import heat_map, member_shares, word_importance
from rakuten_tasks.models.predictor import Predictor, Scores, pool_logits
from rakuten_tasks.monitoring.columns import PREDICTION
from rakuten_tasks.monitoring.features import drift_features, project
from rakuten_tasks.preprocessing.photo_format import PhotoError
from rakuten_tasks.preprocessing.product import Product
from serving.schemas import (
    PHOTO_ERROR_TYPES,
    Candidate,
    ErrorDetail,
    Explanation,
    HeatMap,
    InferenceRequest,
    InferenceResponse,
    MemberPrediction,
    Prediction,
    PredictionSummary,
    Word,
)
from serving.worker.reloader import LoadedModel

log = logging.getLogger(__name__)

MAX_WORDS = 8  # words of an explanation


@dataclass(frozen=True)
class PredictionEvent:
    """A predicted product, for the prediction log. row: its row in `scores`; projected: (PROJECTED,) embedding."""

    product: Product
    request_id: str
    loaded: LoadedModel
    scores: Scores
    row: int
    projected: NDArray
    abstained: bool

    @property
    def members(self) -> list[str]:
        """The members that took part in the prediction."""
        return [name for name, mask in self.scores.available.items() if mask[self.row]]

    @property
    def skipped_photo(self) -> bool:
        """Whether the product has a photo that the model could have read, and the prediction did without."""
        readable = self.product.photo is not None and "photo" in self.scores.modality.values()
        return readable and "photo" not in self.scores.modalities(self.row)

    def to_log_row(self, time: datetime, with_text: bool) -> dict[str, Any]:
        """Row of the prediction log with the drift columns: costs milliseconds."""
        product, champion = self.product, self.loaded.champion
        texts = {"designation": product.designation, "description": product.description} if with_text else {}
        return {
            "time": time.isoformat(),
            "kind": PREDICTION,
            "request_id": self.request_id,
            "status": 200,
            "model": champion.model,
            "version": champion.version,
            "abstained": self.abstained,
            **drift_features(self.loaded.predictor, product, self.scores, self.row, self.projected),
            **texts,
        }


@dataclass(frozen=True)
class PredictedRequests:
    """Some requests of a batch. rows: their numbers; responses: in this order; events: of the products predicted."""

    rows: list[int]
    responses: list[InferenceResponse]
    events: list[PredictionEvent]


def predict_batch(
    loaded: LoadedModel, requests: Sequence[InferenceRequest], abstain_below: float, photos_at_once: int
) -> Iterator[PredictedRequests]:
    """Yield the requests that need no photo, when the text of all is scored, then the others, a few photos at a time.

    A batch that raises is halved until the requests that cannot be predicted are alone.
    """
    waiting = np.arange(len(requests))
    try:
        for predicted in _predict(loaded, requests, abstain_below, photos_at_once):
            waiting = np.setdiff1d(waiting, predicted.rows)
            yield predicted
        return
    except Exception as error:
        if len(requests) == 1:
            yield PredictedRequests([0], [_failure(error, requests[0].request_id)], [])
            return
    for half in np.array_split(waiting, min(2, len(waiting))):
        for predicted in predict_batch(loaded, [requests[row] for row in half], abstain_below, photos_at_once):
            yield replace(predicted, rows=[int(half[row]) for row in predicted.rows])


def _failure(error: Exception, request_id: str) -> InferenceResponse:
    if isinstance(error, PhotoError):
        return _invalid("image", str(error), PHOTO_ERROR_TYPES[error.status], request_id)
    log.error("request %s failed", request_id, exc_info=error)
    return InferenceResponse.error(500, "internal error", "internal error", request_id)


def _predict(
    loaded: LoadedModel, requests: Sequence[InferenceRequest], abstain_below: float, photos_at_once: int
) -> Iterator[PredictedRequests]:
    predictor = loaded.predictor
    products = [Product(request.designation, request.description, request.photo) for request in requests]
    staged = predictor.staged_logits(products)
    for rows in staged.run(photos_at_once):
        logits = staged.logits.take(rows)
        scores = pool_logits(logits, predictor.pool, predictor.codes)
        embeddings = {modality: values[rows] for modality, values in staged.embeddings.items()}
        projected = project(embeddings, len(rows))
        shares = member_shares(logits, predictor.pool, scores.probabilities)
        predicted = PredictedRequests(rows.tolist(), [], [])
        for position, row in enumerate(rows):
            request_id = requests[row].request_id
            if not scores.modalities(position):
                message = "nothing to read: the text has no word and there is no photo"
                predicted.responses.append(_invalid("description", message, "nothing_to_read", request_id))
                continue
            abstained = bool(scores.confidence[position] < abstain_below)
            event = PredictionEvent(products[row], request_id, loaded, scores, position, projected[position], abstained)
            predicted.responses.append(_response(event, shares, requests[row]))
            predicted.events.append(event)
        yield predicted


def _response(event: PredictionEvent, shares: dict[str, NDArray], request: InferenceRequest) -> InferenceResponse:
    prediction = _prediction(event, shares, request.top_k)
    if request.explain:
        prediction.explanation = _explanation(event.loaded.predictor, event.product, prediction)
    summary = PredictionSummary(prediction.category_id, prediction.confidence, event.abstained)
    return InferenceResponse(200, prediction.model_dump_json().encode(), prediction=summary)


def _prediction(event: PredictionEvent, shares: dict[str, NDArray], top_k: int) -> Prediction:
    scores, row, names = event.scores, event.row, event.loaded.predictor.manifest.names
    codes, probabilities = scores.top(top_k)
    best = _candidate(names, scores.predicted[row], scores.confidence[row])
    return Prediction(
        **best.model_dump(),
        abstained=event.abstained,
        top_k=[_candidate(names, code, p) for code, p in zip(codes[row], probabilities[row], strict=True)],
        modalities=scores.modalities(row),
        members={
            name: _member_prediction(names, scores, name, row, shares[name][row])
            for name, mask in scores.available.items()
            if mask[row]
        },
        model=event.loaded.champion.model,
        model_version=event.loaded.champion.version,
        request_id=event.request_id,
    )


def _category(names: dict[str, str], code: int, probability: float) -> dict[str, Any]:
    return {"category_id": int(code), "category_name": names.get(str(code), ""), "confidence": float(probability)}


def _candidate(names: dict[str, str], code: int, probability: float) -> Candidate:
    return Candidate(predicted_category=str(code), **_category(names, code, probability))


def _member_prediction(names: dict[str, str], scores: Scores, member: str, row: int, share: float) -> MemberPrediction:
    probabilities = scores.by_member[member][row]  # (K,)
    category = _category(names, scores.codes[probabilities.argmax()], probabilities.max())
    return MemberPrediction(modality=scores.modality[member], share=float(share), **category)


def _explanation(predictor: Predictor, product: Product, prediction: Prediction) -> Explanation:
    code = prediction.category_id
    importance = word_importance(predictor, product, code, prediction.members)[:MAX_WORDS]
    words = [Word(word=word, weight=weight) for word, weight in importance]
    used = product.photo if "photo" in prediction.modalities else None
    grad_cam = heat_map(predictor, used, code) if used else None
    heat = HeatMap(rows=np.round(grad_cam.heat, 4).tolist(), square=list(grad_cam.square)) if grad_cam else None
    return Explanation(words=words, heat_map=heat)


def _invalid(field: str, message: str, kind: str, request_id: str) -> InferenceResponse:
    return InferenceResponse.error(422, [ErrorDetail(loc=["body", field], msg=message, type=kind)], kind, request_id)
