"""Batches of the worker, in process, with a tiny bundle."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from rakuten_tasks.models.predictor import Predictor
from rakuten_tasks.monitoring.columns import EMBEDDING
from rakuten_tasks.preprocessing.product import Product
from serving.schemas import InferenceRequest, Prediction
from serving.worker.bundle_cache import Champion
from serving.worker.inference import predict_batch
from serving.worker.reloader import LoadedModel
from tests.support.bundles import write_bundle
from tests.support.catalogues import photo_bytes


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    bundle = write_bundle(tmp_path_factory.mktemp("bundle") / "bundle")
    return LoadedModel(Champion("m", "1", "hash"), Predictor.load(bundle))


def request(number: int, description: str = "roman policier", photo: bytes | None = None) -> InferenceRequest:
    return InferenceRequest(str(number), "", description, photo, top_k=2, explain=False)


def test_requests_that_cannot_be_predicted_fail_alone_and_the_others_keep_their_order(loaded, monkeypatch, caplog):
    original = loaded.predictor.logits

    def logits(products: Sequence[Product]) -> object:
        if any(product.description == "fatal" for product in products):
            raise RuntimeError("broken kernel")
        return original(products)

    monkeypatch.setattr(loaded.predictor, "logits", logits)
    requests = [request(number) for number in range(7)]
    requests[2] = request(2, photo=photo_bytes(1)[:300])
    requests[5] = request(5, "fatal")
    requests[6] = request(6, " ")
    responses, events = predict_batch(loaded, requests, abstain_below=0)
    assert [response.status for response in responses] == [200, 200, 422, 200, 200, 500, 422]
    assert [json.loads(response.body)["request_id"] for response in responses] == [str(n) for n in range(7)]
    assert [response.reason for response in responses if response.status != 200] == [
        "photo_damaged", "internal error", "nothing_to_read",
    ]  # fmt: skip
    assert [event.request_id for event in events] == ["0", "1", "3", "4"]
    assert "request 5 failed" in caplog.text
    assert "broken kernel" in caplog.text


def test_a_product_that_its_text_settles_is_answered_and_explained_without_its_photo(tmp_path):
    predictor = Predictor.load(write_bundle(tmp_path / "bundle", thresholds={"words": 0.0}))
    loaded = LoadedModel(Champion("m", "1", "hash"), predictor)
    asked = InferenceRequest("0", "", "roman policier", photo_bytes(1), top_k=2, explain=True)
    (response,), (event,) = predict_batch(loaded, [asked], abstain_below=0)
    prediction = Prediction.model_validate_json(response.body)
    assert (prediction.modalities, list(prediction.members)) == (["text"], ["bag"])
    assert prediction.members["bag"].share == 1
    assert prediction.explanation.heat_map is None
    assert prediction.explanation.words
    row = event.to_log_row(datetime.now(UTC), with_text=False)
    assert (row["used"], row["photo_missing"], row.get("brightness")) == ("text", False, None)


def test_a_prediction_is_the_predictors_and_its_row_of_the_log_has_the_drift_columns(loaded):
    (response,), (event,) = predict_batch(loaded, [request(0)], abstain_below=1)
    prediction = Prediction.model_validate_json(response.body)
    scores = loaded.predictor.score([Product("", "roman policier", None)])
    assert (prediction.category_id, prediction.confidence) == (scores.predicted[0], scores.confidence[0])
    assert (prediction.abstained, len(prediction.top_k), prediction.modalities) == (True, 2, ["text"])
    row = event.to_log_row(datetime.now(UTC), with_text=False)
    assert (row["request_id"], row["model"], row["version"], row["abstained"]) == ("0", "m", "1", True)
    assert set(EMBEDDING) <= set(row)
    assert "description" not in row
    assert event.to_log_row(datetime.now(UTC), with_text=True)["description"] == "roman policier"


def test_an_event_names_the_members_that_took_part_and_a_photo_that_was_not_needed(loaded, monkeypatch):
    requests = [request(0), request(1, photo=photo_bytes(1)), request(2, photo=photo_bytes(2))]
    _, events = predict_batch(loaded, requests, abstain_below=0)
    assert [event.members for event in events] == [["bag", "lstm"], *[["bag", "lstm", "vgg16"]] * 2]
    assert [event.skipped_photo for event in events] == [False] * 3
    original = loaded.predictor.logits

    def without_the_last_photo(products: Sequence[Product]) -> object:
        logits, embeddings = original(products)
        logits.available["vgg16"][-1] = False
        return logits, embeddings

    monkeypatch.setattr(loaded.predictor, "logits", without_the_last_photo)
    responses, events = predict_batch(loaded, requests, abstain_below=0)
    assert [event.skipped_photo for event in events] == [False, False, True]
    assert events[2].members == ["bag", "lstm"]
    assert Prediction.model_validate_json(responses[2].body).modalities == ["text"]
