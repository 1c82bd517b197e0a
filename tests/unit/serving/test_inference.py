"""Batches of the worker, in process, with a tiny bundle."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from rakuten_tasks.models.predictor import Predictor
from rakuten_tasks.monitoring.columns import EMBEDDING
from rakuten_tasks.preprocessing.product import Product
from serving.schemas import InferenceRequest, InferenceResponse, Prediction
from serving.worker.bundle_cache import Champion
from serving.worker.inference import PredictionEvent, predict_batch
from serving.worker.reloader import LoadedModel
from tests.support.bundles import write_bundle
from tests.support.catalogues import photo_bytes


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    bundle = write_bundle(tmp_path_factory.mktemp("bundle") / "bundle")
    return LoadedModel(Champion("m", "1", "hash"), Predictor.load(bundle))


def request(number: int, description: str = "roman policier", photo: bytes | None = None) -> InferenceRequest:
    return InferenceRequest(str(number), "", description, photo, top_k=2, explain=False)


def predict(
    loaded: LoadedModel, requests: Sequence[InferenceRequest], abstain_below: float = 0
) -> tuple[list[InferenceResponse], list[PredictionEvent]]:
    """Predict a batch, photos two at a time. Responses in the order of the requests."""
    responses, events = {}, []
    for step in predict_batch(loaded, requests, abstain_below, 2):
        responses |= dict(zip(step.rows, step.responses, strict=True))
        events += step.events
    assert sorted(responses) == list(range(len(requests)))
    return [responses[row] for row in range(len(requests))], events


def test_requests_that_cannot_be_predicted_fail_alone_and_the_others_keep_their_order(loaded, monkeypatch, caplog):
    original = loaded.predictor.staged_logits

    def staged_logits(products: Sequence[Product]) -> object:
        if any(product.description == "fatal" for product in products):
            raise RuntimeError("broken kernel")
        return original(products)

    monkeypatch.setattr(loaded.predictor, "staged_logits", staged_logits)
    requests = [request(number) for number in range(9)]
    requests[2] = request(2, photo=photo_bytes(1)[:300])
    requests[5] = request(5, "fatal")
    requests[6] = request(6, " ")
    requests[7], requests[8] = (request(number, photo=photo_bytes(number)) for number in (7, 8))
    responses, events = predict(loaded, requests)
    assert [response.status for response in responses] == [200, 200, 422, 200, 200, 500, 422, 200, 200]
    assert [json.loads(response.body)["request_id"] for response in responses] == [str(n) for n in range(9)]
    assert [response.reason for response in responses if response.status != 200] == [
        "photo_damaged", "internal error", "nothing_to_read",
    ]  # fmt: skip
    assert sorted(event.request_id for event in events) == ["0", "1", "3", "4", "7", "8"]
    assert "request 5 failed" in caplog.text
    assert "broken kernel" in caplog.text


def test_a_damaged_photo_fails_alone_and_after_what_needs_no_photo(loaded):
    photos = [photo_bytes(0), None, photo_bytes(2)[:300], None, photo_bytes(4)]
    requests = [request(number, photo=photo) for number, photo in enumerate(photos)]
    steps = list(predict_batch(loaded, requests, 0, 2))
    assert steps[0].rows == [1, 3]
    statuses = {row: r.status for step in steps for row, r in zip(step.rows, step.responses, strict=True)}
    assert statuses == {0: 200, 1: 200, 2: 422, 3: 200, 4: 200}
    assert sorted(event.request_id for step in steps for event in step.events) == ["0", "1", "3", "4"]


def test_what_its_text_settles_is_answered_before_the_photos_of_the_others(tmp_path):
    loaded = LoadedModel(
        Champion("m", "1", "hash"), Predictor.load(write_bundle(tmp_path / "bundle", thresholds={"words": 0.0}))
    )
    requests = [request(number, photo=photo_bytes(number)) for number in range(3)]
    requests += [request(number, "", photo_bytes(number)) for number in range(3, 6)]
    steps = list(predict_batch(loaded, requests, 0, 2))
    assert [step.rows for step in steps] == [[0, 1, 2], [3, 4], [5]]
    modalities = [json.loads(r.body)["modalities"] for step in steps for r in step.responses]
    assert modalities == [["text"]] * 3 + [["photo"]] * 3
    assert [[event.skipped_photo for event in step.events] for step in steps] == [[True] * 3, [False] * 2, [False]]


def test_a_product_that_its_text_settles_is_answered_and_explained_without_its_photo(tmp_path):
    predictor = Predictor.load(write_bundle(tmp_path / "bundle", thresholds={"words": 0.0}))
    loaded = LoadedModel(Champion("m", "1", "hash"), predictor)
    asked = InferenceRequest("0", "", "roman policier", photo_bytes(1), top_k=2, explain=True)
    (response,), (event,) = predict(loaded, [asked])
    prediction = Prediction.model_validate_json(response.body)
    assert (prediction.modalities, list(prediction.members)) == (["text"], ["bag"])
    assert prediction.members["bag"].share == 1
    assert prediction.explanation.heat_map is None
    assert prediction.explanation.words
    row = event.to_log_row(datetime.now(UTC), with_text=False)
    assert (row["used"], row["photo_missing"], row.get("brightness")) == ("text", False, None)


def test_a_prediction_is_the_predictors_and_its_row_of_the_log_has_the_drift_columns(loaded):
    (response,), (event,) = predict(loaded, [request(0)], abstain_below=1)
    prediction = Prediction.model_validate_json(response.body)
    scores = loaded.predictor.score([Product("", "roman policier", None)])
    assert (prediction.category_id, prediction.confidence) == (scores.predicted[0], scores.confidence[0])
    assert (prediction.abstained, len(prediction.top_k), prediction.modalities) == (True, 2, ["text"])
    row = event.to_log_row(datetime.now(UTC), with_text=False)
    assert (row["request_id"], row["model"], row["version"], row["abstained"]) == ("0", "m", "1", True)
    assert set(EMBEDDING) <= set(row)
    assert "description" not in row
    assert event.to_log_row(datetime.now(UTC), with_text=True)["description"] == "roman policier"


def test_an_event_names_the_members_that_took_part(loaded):
    _, events = predict(loaded, [request(0), request(1, photo=photo_bytes(1))])
    assert [event.members for event in events] == [["bag", "lstm"], ["bag", "lstm", "vgg16"]]
    assert [event.skipped_photo for event in events] == [False] * 2
