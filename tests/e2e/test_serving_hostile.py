"""Hostile bodies and schemathesis against a running server: only 4xx, nothing repeated, and it goes on answering."""

from __future__ import annotations

import base64
import json
import random
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from mlflow import MlflowClient
from PIL import Image

from tests.support.bundles import register, write_bundle
from tests.support.catalogues import photo_bytes
from tests.support.servers import Server, base64_photo, serving

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)
SECRET = "ne-me-repetez-pas"


@pytest.fixture(scope="module")
def server(mlflow_store: MlflowClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("hostile")
    register(mlflow_store, "hostile", write_bundle(folder / "bundle"))
    limits: dict = {"SERVE_MAX_PHOTO_BYTES": "300000", "SERVE_MAX_PHOTO_PIXELS": "4000000", "SERVE_MAX_TEXT": "5000"}
    with serving(folder / "var", MODEL="hostile", **limits) as running:
        yield running


def bomb(side: int = 12_000) -> bytes:
    """A PNG of side x side pixels in a few kilobytes."""
    chunk = lambda kind, data: (  # noqa: E731
        len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
    )
    header = side.to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    pixels = zlib.compress(bytes((side // 8 + 1) * side), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def photo_makers(draw: random.Random) -> list[Callable[[], str]]:
    """Of bodies whose image is none."""
    good, whole = base64_photo(3, 200), photo_bytes(3, 200)
    encoded = lambda data: base64.b64encode(data).decode()  # noqa: E731
    grey16 = BytesIO()
    Image.new("I;16", (3000, 3000)).save(grey16, "PNG")
    photo = lambda value: json.dumps({"image": value})  # noqa: E731
    return [
        lambda: photo(
            draw.choice(["../" * draw.randint(1, 400) + "etc/passwd", "/etc/passwd", "C:\\x", "~/.ssh/id_rsa"])
        ),
        lambda: photo(
            draw.choice(["http://127.0.0.1:1/", "file:///etc/passwd", "ftp://h/x", "s3://b/k", "gopher://x"])
        ),
        lambda: photo("data:image/png;base64," + draw.choice(["", "!!!", SECRET, good[:100]])),
        lambda: photo("data:" + "a" * draw.randint(0, 3000)),
        lambda: photo(good[: draw.randint(1, len(good) // 2)]),
        lambda: photo(encoded(whole[: draw.randint(1, len(whole) * 3 // 4)])),
        lambda: photo(encoded(draw.randbytes(draw.randint(1, 3000)))),
        lambda: photo(encoded(whole[:4] + draw.randbytes(draw.randint(1, 3000)))),
        lambda: photo(encoded(b"\x89PNG\r\n\x1a\n" + draw.randbytes(200))),
        lambda: photo(encoded(b"<svg xmlns='http://www.w3.org/2000/svg'/>")),
        lambda: photo(encoded(bomb())),
        lambda: photo(encoded(grey16.getvalue())),
        lambda: photo("A" * 600_000),
        lambda: photo(draw.choice([5, [], {}, False])),
    ]


def hostile_bodies(count: int) -> list[bytes]:
    """Bodies of which none is a product, each with SECRET where it can hold text."""
    draw = random.Random(0)
    text = lambda value: json.dumps({"description": value})  # noqa: E731
    makers: list[Callable[[], str | bytes]] = [
        lambda: SECRET,
        lambda: "{" * draw.randint(1, 50_000),
        lambda: "[" * draw.randint(1, 100_000),
        lambda: '{"description":' * draw.randint(1, 20_000),
        lambda: f'{{"description": "{SECRET}"'[: draw.randint(0, 20)],
        lambda: '{"description": NaN}',
        lambda: '{"description": 1e999, "top_k": -Infinity}',
        lambda: '{"description": "roman", "top_k": NaN}',
        lambda: '{"description": "roman", "top_k": ' + "9" * draw.randint(5, 6000) + "}",
        lambda: '{"description": "\\ud800' + SECRET + '"}',
        lambda: '{"designation": "\\udfff\\ud83d"}',
        lambda: '{"image": "\\ud800"}',
        lambda: text(draw.choice([1, True, [SECRET], {"a": SECRET}, 1.5])),
        lambda: text(SECRET * draw.randint(400, 20_000)),
        lambda: text(draw.choice(["", " ", "\n\t", "<br>", "&nbsp;", "\ufffd", "\u00a0"])),
        lambda: json.dumps({"description": "roman", SECRET: draw.random()}),
        lambda: json.dumps({"description": "roman", "top_k": draw.choice([0, -1, 101, "5", None, 2.5])}),
        lambda: json.dumps({"description": "roman", "explain": draw.choice(["yes", 1, None])}),
        lambda: json.dumps(draw.choice([None, [], SECRET, 5, [{"description": "roman"}], {}])),
        *photo_makers(draw),
        lambda: draw.randbytes(draw.randint(0, 2000)),
    ]
    made = [makers[i % len(makers)]() for i in range(count)]
    return [body if isinstance(body, bytes) else body.encode() for body in made]


def test_three_thousand_hostile_bodies_get_only_4xx_and_are_not_repeated(server):
    bodies = hostile_bodies(3400)
    with httpx.Client(timeout=60) as client, ThreadPoolExecutor(8) as pool:
        ask = lambda body: client.post(  # noqa: E731
            f"{server.url}/predict", content=body, headers={"Content-Type": "application/json"}
        )
        answers = list(pool.map(ask, bodies))
    bad = Counter(
        (a.status_code, bytes(b[:60])) for a, b in zip(answers, bodies, strict=True) if not 400 <= a.status_code < 500
    )
    assert not bad
    assert {422, 413} <= {answer.status_code for answer in answers}
    assert not [answer.text for answer in answers if SECRET in answer.text or len(answer.text) > 2000]
    assert server.predict({"description": "roman"}).status_code == 200
    log = server.log.read_text()
    assert "Traceback" not in log, log[-3000:]


def test_other_methods_types_and_headers_get_4xx(server):
    url = f"{server.url}/predict"
    assert httpx.get(url).status_code == 405
    assert httpx.post(url, content=b"description=roman").status_code == 422
    assert httpx.post(url, files={"image": b"x"}).status_code == 422
    assert httpx.post(url, content=iter([b"x" * 100_000] * 20)).status_code == 413
    assert httpx.get(f"{server.url}/page/../settings.py").status_code == 404
    assert httpx.get(f"{server.url}/page/%2e%2e/settings.py").status_code == 404
    assert httpx.get(f"{server.url}/nowhere").status_code == 404


def test_the_examples_of_the_openapi_document_are_answered(server):
    document = server.get("/openapi.json").json()
    asked = document["components"]["schemas"]["PredictRequest"]["examples"]
    assert len(asked) == 3
    assert {server.predict(example).status_code for example in asked} == {200}
    promised = set(document["components"]["schemas"]["Prediction"]["examples"][0])
    assert promised == set(server.predict(asked[0]).json())
    assert server.get("/docs").status_code == 200


def test_schemathesis_finds_nothing(server):
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    checks: list = [schemathesis.checks.CHECKS.get_one(name) for name in CHECKS]
    tried: Counter[str] = Counter()

    def check(case: schemathesis.Case) -> None:
        tried[case.operation.label] += 1
        case.call_and_validate(checks=checks, timeout=60)

    run = settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    for result in schema.get_all_operations():
        run(given(case=result.ok().as_strategy())(check))()
    posts = {"POST /predict", "POST /predict/batch", "POST /feedback"}
    assert set(tried) == posts | {"GET /live", "GET /ready", "GET /info", "GET /metrics"}
    assert min(tried[label] for label in posts) >= 50
