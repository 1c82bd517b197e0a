"""Prediction of a batch by the Predictor. A bad product fails alone."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rakuten_tasks.models.explanation import heat_map, member_shares, word_importance
from rakuten_tasks.models.extractors import PhotoExtractor, PixelExtractor
from rakuten_tasks.models.predictor import Predictor, Scores, pool_logits
from rakuten_tasks.monitoring.features import project
from rakuten_tasks.preprocessing.photos import PhotoError, prepare_photo
from rakuten_tasks.preprocessing.product import Product
from serving.schemas import (
    Candidate,
    ErrorDetail,
    Explanation,
    HeatMap,
    InferenceRequest,
    InferenceResponse,
    MemberAnswer,
    Prediction,
    PredictionSummary,
    Word,
)
from serving.web.errors import error_body
from serving.worker.reloader import LoadedModel

log = logging.getLogger(__name__)

SHOWN_WORDS = 8


@dataclass(frozen=True)
class PredictionEvent:
    """An answered product, for the prediction log: its row of `scores`, its projected embedding."""

    asked: InferenceRequest
    loaded: LoadedModel
    scores: Scores
    row: int
    projected: NDArray
    abstained: bool


def predict_batch(
    loaded: LoadedModel, batch: Sequence[InferenceRequest], abstain_below: float
) -> tuple[list[InferenceResponse], list[PredictionEvent]]:
    """(N,) requests -> (N,) answers in order, and what the log needs of those that were answered."""
    products = [_product(asked) for asked in batch]
    try:
        return _predict(loaded, batch, products, abstain_below)
    except PhotoError:
        pass
    except Exception:
        log.exception("a batch of %d failed: trying its products one by one", len(batch))
    faults = [_photo_fault(loaded.predictor, product) for product in products]
    good = [i for i, fault in enumerate(faults) if fault is None]
    scored, observed = _predict_valid(loaded, [batch[i] for i in good], [products[i] for i in good], abstain_below)
    answers = dict(zip(good, scored, strict=True))
    for i, fault in enumerate(faults):
        if fault is not None:
            answers[i] = error_response(422, fault, "image", "photo_damaged", batch[i].request_id)
    return [answers[i] for i in range(len(batch))], observed


def _predict_valid(
    loaded: LoadedModel, batch: Sequence[InferenceRequest], products: Sequence[Product], abstain_below: float
) -> tuple[list[InferenceResponse], list[PredictionEvent]]:
    """Whole if that works, else one by one."""
    try:
        return _predict(loaded, batch, products, abstain_below) if batch else ([], [])
    except Exception:
        answers, observed = [], []
        for asked, product in zip(batch, products, strict=True):
            try:
                answer, seen = _predict(loaded, [asked], [product], abstain_below)
            except Exception:
                log.exception("request %s failed", asked.request_id)
                answer, seen = [error_response(500, "internal error", request_id=asked.request_id)], []
            answers += answer
            observed += seen
        return answers, observed


def _predict(
    loaded: LoadedModel, batch: Sequence[InferenceRequest], products: Sequence[Product], abstain_below: float
) -> tuple[list[InferenceResponse], list[PredictionEvent]]:
    predictor = loaded.predictor
    logits, embeddings = predictor.logits(products)
    scores = pool_logits(logits, predictor.pool, predictor.codes)
    projected = project(embeddings, len(products))
    shares = member_shares(logits, predictor.pool, scores.probabilities)
    answers, observed = [], []
    for row, (asked, product) in enumerate(zip(batch, products, strict=True)):
        if not scores.modalities(row):
            message = "nothing to read: the text has no word and there is no photo"
            answers.append(error_response(422, message, "description", "nothing_to_read", asked.request_id))
            continue
        abstained = bool(scores.confidence[row] < abstain_below)
        answer = _prediction(loaded, asked, scores, shares, row, abstained)
        if asked.explain:
            answer.explanation = _explanation(predictor, product, answer.category_id)
        prediction = PredictionSummary(answer.category_id, answer.confidence, abstained)
        answers.append(InferenceResponse(200, answer.model_dump_json().encode(), prediction=prediction))
        observed.append(PredictionEvent(asked, loaded, scores, row, projected[row], abstained))
    return answers, observed


def _prediction(
    loaded: LoadedModel, asked: InferenceRequest, scores: Scores, shares: dict[str, NDArray], row: int, abstained: bool
) -> Prediction:
    names = loaded.predictor.manifest.names
    codes, probabilities = scores.top(asked.top_k)
    top = [_candidate(names, code, p) for code, p in zip(codes[row], probabilities[row], strict=True)]
    best = _candidate(names, scores.predicted[row], scores.confidence[row])
    return Prediction(
        **best.model_dump(),
        abstained=abstained,
        top_k=top,
        modalities=scores.modalities(row),
        members={
            name: _member_answer(names, scores, name, row, shares[name][row])
            for name, mask in scores.available.items()
            if mask[row]
        },
        model=loaded.champion.model,
        model_version=loaded.champion.version,
        request_id=asked.request_id,
    )


def _candidate(names: dict[str, str], code: int, probability: float) -> Candidate:
    return Candidate(
        predicted_category=str(code),
        category_id=int(code),
        category_name=names.get(str(code), ""),
        confidence=float(probability),
    )


def _member_answer(names: dict[str, str], scores: Scores, member: str, row: int, share: float) -> MemberAnswer:
    alone = scores.by_member[member][row]
    code = int(scores.codes[alone.argmax()])
    return MemberAnswer(
        modality=scores.modality[member],
        category_id=code,
        category_name=names.get(str(code), ""),
        confidence=float(alone.max()),
        share=float(share),
    )


def _explanation(predictor: Predictor, product: Product, code: int) -> Explanation:
    words = [Word(word=word, weight=weight) for word, weight in word_importance(predictor, product, code)[:SHOWN_WORDS]]
    found = heat_map(predictor, product.photo, code) if product.photo else None
    heat = HeatMap(rows=np.round(found.heat, 4).tolist(), square=list(found.square)) if found else None
    return Explanation(words=words, heat_map=heat)


def _product(asked: InferenceRequest) -> Product:
    return Product(asked.designation, asked.description, asked.photo)


def _photo_fault(predictor: Predictor, product: Product) -> str | None:
    """Why the photo cannot be used, None if it can."""
    image_size = _image_size(predictor)
    try:
        if product.photo is not None and image_size is not None:
            prepare_photo(product.photo, image_size)
    except PhotoError as error:
        return str(error)
    return None


def _image_size(predictor: Predictor) -> int | None:
    """Of a prepared photo, in pixels; None if no member looks at photos."""
    for extractor in predictor.extractors.values():
        if isinstance(extractor, PixelExtractor):
            return extractor.image_size
        if isinstance(extractor, PhotoExtractor):
            return extractor.backbone.image_size
    return None


def error_response(
    status: int, message: str, field: str = "", kind: str = "", request_id: str = ""
) -> InferenceResponse:
    """An error as FastAPI's: a list of details with a 422, else a sentence."""
    detail = [ErrorDetail(loc=["body", field], msg=message, type=kind)] if status == 422 else message
    return InferenceResponse(status, error_body(detail, request_id), kind or message)
