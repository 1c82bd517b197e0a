"""Thousands of request bodies and configuration files, drawn from a fixed seed: refused in words, or understood."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import serving.app
from rakuten_tasks.config import TrainingConfig
from rakuten_tasks.preprocessing.product import Product
from rakuten_tasks.runtime.settings_file import SettingsFileError, read_settings
from serving.app import ProductServer
from serving.schemas import InferenceRequest, InferenceResponse
from serving.settings import Settings
from tests.support.servers import base64_photo

BOUNDED = settings(
    max_examples=2500, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
PHOTO = base64_photo(1, 16)

texts = st.text(st.characters() | st.sampled_from("\ud800\udfff\0\u200b\ufeff<>&;\\\"'/"), max_size=40)
FRAGMENTS = ["&shy;", "&amp;", "&lt;", "<", "b", "=", " ", ">", "&#8203;", "\u00ad", "é"]
entities = st.lists(st.sampled_from(FRAGMENTS)).map("".join)
photos = st.one_of(
    st.just(PHOTO),
    st.builds(lambda cut: PHOTO[:cut], st.integers(0, len(PHOTO))),
    st.builds(lambda at, letter: PHOTO[:at] + letter + PHOTO[at + 1 :], st.integers(0, len(PHOTO)), texts),
    st.sampled_from(["data:", "data:image/png;base64,", "/etc/passwd", "s3://b/k", "A" * 400]),
)
numbers = st.integers() | st.floats() | st.sampled_from([10**400, -(2**63), 1e308])
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
products = st.fixed_dictionaries(
    {},
    optional={
        "description": texts | entities | values,
        "designation": texts | entities,
        "image": photos | texts,
        "top_k": st.integers(-1, 101) | values,
        "explain": st.booleans() | values,
        "more": values,
    },
)
json_bodies = (products | values).map(lambda value: json.dumps(value).encode())
cut_bodies = st.builds(lambda body, cut: body[: -cut or None], json_bodies, st.integers(0, 9))
DEEP = [b"[" * 50_000, b'{"a":' * 50_000]
NUMBERS = [b'{"top_k": ' + number + b"}" for number in (b"9" * 5000, b"NaN", b"1e999")]
bodies = json_bodies | cut_bodies | st.binary(max_size=60) | st.sampled_from([*DEEP, *NUMBERS, b"\xff\xfe{}"])


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[asyncio.Runner, httpx.AsyncClient]]:
    """The app, with a stand-in for its worker that takes whatever has text or a photo."""

    async def answer(request: InferenceRequest) -> InferenceResponse:
        assert request.photo or Product(request.designation, request.description).has_text
        return InferenceResponse(200, b"{}")

    async def is_alive(*_: Any) -> None:
        return None

    folder = tmp_path_factory.mktemp("fuzz")
    with pytest.MonkeyPatch.context() as patch, asyncio.Runner() as runner:
        server = ProductServer(Settings(var=folder), folder)
        patch.setattr(serving.app, "wait_until_alive", is_alive)
        patch.setattr(server.lit, "submit", answer)
        http = httpx.AsyncClient(transport=httpx.ASGITransport(server.app), base_url="http://test")
        yield runner, http
        runner.run(http.aclose())


@BOUNDED
@given(body=bodies, path=st.sampled_from(["/predict", "/predict", "/predict", "/feedback"]))
def test_every_body_is_understood_or_refused(client, body, path):
    runner, http = client
    response = runner.run(http.post(path, content=body, headers={"content-type": "application/json"}))
    assert response.status_code in (200, 202, 400, 413, 422), response.text
    if response.status_code >= 400:
        assert response.json()["detail"]


KEYS = ["seed", "lstm", "epochs", "learning_rate", "photo", "weights", "members", "text", "split", "test", "batch_size"]
SIGNS = [*"{}[],#|>?%:\0", ": ", "\n", "\n  ", "\n\t", "- ", "&a ", "*a", "!!int ", "<<", "---\n"]
VALUES = [*"1~é\"'", "0.5", ".nan", "-.inf", "1e400", "none", "auto", "bag", "2026-13-02", "0x_", "yes", "9" * 5000]
written = st.lists(st.sampled_from(KEYS) | st.sampled_from(SIGNS) | st.sampled_from(VALUES), max_size=25).map("".join)
lines = st.lists(
    st.tuples(st.sampled_from(["", "", "  ", "\t"]), st.sampled_from(KEYS), st.sampled_from(["", *VALUES])).map(
        lambda parts: "{}{}: {}\n".format(*parts)
    ),
    max_size=8,
).map("".join)
encodings = st.sampled_from(["utf-8", "utf-8", "utf-8", "utf-8-sig", "latin-1", "utf-16"])
encoded = st.builds(lambda text, encoding: text.encode(encoding), written | lines, encodings)
yaml_files = encoded | st.binary(max_size=60)


@BOUNDED
@given(content=yaml_files, suffix=st.sampled_from([".yaml", ".yaml", ".json"]))
def test_every_configuration_is_read_or_refused_with_its_file_and_line(tmp_path_factory, content, suffix):
    file: Path = tmp_path_factory.getbasetemp() / f"fuzz{suffix}"
    file.write_bytes(content)
    try:
        config, message = read_settings(file, TrainingConfig), ""
    except SettingsFileError as error:
        config, message = TrainingConfig(), str(error)
    assert all(line.startswith(f"{file}, line ") for line in message.splitlines())
    assert TrainingConfig.from_json(config.to_json()) == config
