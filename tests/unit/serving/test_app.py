"""The app's routes over ASGI, in process: without a worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.app import ProductServer
from serving.settings import Settings

Request = Callable[..., httpx.Response]


@pytest.fixture
def request_app(tmp_path: Path) -> Request:
    server = ProductServer(Settings(var=tmp_path, time_limit=0.1), tmp_path)

    async def request(method: str, path: str, **options: Any) -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(server.app), base_url="http://test") as client:
            return await client.request(method, path, **options)

    return lambda *arguments, **options: asyncio.run(request(*arguments, **options))


def test_a_request_without_a_response_within_the_time_limit_gets_504(request_app):
    response = request_app("POST", "/predict", json={"description": "roman"})
    assert response.status_code == 504
    assert response.json()["detail"] == "no answer within the time limit"
    assert response.json()["request_id"] == response.headers["x-request-id"]


def test_the_api_process_is_alive_but_not_ready_without_a_worker(request_app):
    assert request_app("GET", "/live").json() == {"live": True}
    assert request_app("GET", "/ready").status_code == 503
    assert request_app("GET", "/info").json()["state"] == "loading"


def test_an_invalid_field_is_named_and_not_repeated(request_app):
    response = request_app("POST", "/predict", json={"description": "roman", "secret": 1, "top_k": "secret"})
    assert response.status_code == 422
    locations = [detail["loc"] for detail in response.json()["detail"]]
    assert locations == [["body", "top_k"], ["body", "unknown field"]]
    assert "secret" not in response.text


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ('{"description": "é"}'.encode("latin-1"), 400, "the body is not UTF-8: send JSON in UTF-8, not compressed"),
        (b"[" * 100_000, 400, "the body is nested too deeply"),
        (b'{"top_k": ' + b"9" * 5000 + b"}", 400, "a number in the body has too many digits"),
        (b"{", 422, "the body is no valid JSON"),
        (b"[]", 422, "no JSON object: send one, with the header `Content-Type: application/json`"),
    ],
)
def test_a_body_that_cannot_be_read_is_refused_with_its_cause(request_app, body, status, message):
    response = request_app("POST", "/predict", content=body, headers={"content-type": "application/json"})
    assert (response.status_code, message in response.text) == (status, True)


def test_json_of_another_content_type_is_refused_with_the_header_that_is_wanted(request_app):
    response = request_app("POST", "/predict", content=b'{"description": "roman"}')  # as curl --data sends it
    assert response.status_code == 422
    assert "with the header `Content-Type: application/json`" in response.text


def test_metrics_count_responses_by_status(request_app):
    request_app("POST", "/predict", json={"description": ""})
    assert 'rakuten_requests_total{status="422"} 1.0' in request_app("GET", "/metrics").text
