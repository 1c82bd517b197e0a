"""Damaged photos: ingest, the API, prediction and monitoring give the same verdict, and nothing else is raised."""

from __future__ import annotations

import base64
from io import BytesIO

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from rakuten_tasks.config import IngestConfig
from rakuten_tasks.data.photo_files import photo_status
from rakuten_tasks.monitoring.features import photo_features
from rakuten_tasks.preprocessing.photo_format import PhotoError
from rakuten_tasks.preprocessing.photos import prepare_photo
from rakuten_tasks.reports.thumbnails import thumbnail
from serving.schemas import PHOTO_ERROR_TYPES
from serving.settings import Settings
from serving.web.request_parsing import FieldError, read_photo
from tests.support.photo_cases import RED_SQUARES, animated, encoded, exif, red_square

# damage makes Pillow warn, which the product ignores or lets pass
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:::PIL")]

_CLEAR = red_square("RGBA", (0, 0, 0, 0))
SEEDS = [
    *(encoded(red_square(), kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")),
    encoded(red_square(), "JPEG", progressive=True, exif=exif(), icc_profile=bytes(300)),
    encoded(_CLEAR.quantize(), "PNG"),
    *(animated(kind, _CLEAR, red_square("RGBA"), _CLEAR) for kind in ("GIF", "PNG", "WEBP")),
    *(data for data in RED_SQUARES.values() if len(data) < 20_000),
]
CONFIG, SETTINGS = IngestConfig(max_photo_pixels=25_000_000), Settings()


@st.composite
def damaged_photos(draw: st.DrawFn) -> bytes:
    """A photo with some bytes changed, repeated or removed, most of them near its start, where the structure is."""
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 4))):
        end = draw(st.sampled_from([64, 200, len(data)]))
        start = draw(st.integers(0, max(0, min(end, len(data)) - 1)))
        stop = start + draw(st.integers(0, 40))
        replacement = draw(
            st.one_of(st.binary(max_size=12), st.just(bytes(data[start:stop]) * 2), st.just(b"\xff" * 4))
        )
        data[start : draw(st.sampled_from([stop, start + len(replacement), start]))] = replacement
    return bytes(data[: draw(st.one_of(st.just(len(data)), st.integers(0, len(data))))])


def status_in_the_api(data: bytes) -> str:
    """The type of the 422, or ok: by the parser, then by the worker, which decodes."""
    try:
        assert read_photo(f"data:image/jpeg;base64,{base64.urlsafe_b64encode(data).decode()}", SETTINGS) == data
        prepare_photo(data, 32)
    except FieldError as error:
        return error.kind
    except PhotoError as error:
        return PHOTO_ERROR_TYPES[error.status]
    return "ok"


@settings(max_examples=4000, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
@given(damaged_photos())
def test_damaged_photos_get_one_verdict_everywhere(data: bytes) -> None:
    status = photo_status(data, CONFIG)
    assert status_in_the_api(data) == {**PHOTO_ERROR_TYPES, "ok": "ok"}[status]
    assert photo_features(data)["photo_unreadable"] == (status != "ok")
    assert (thumbnail(data) is None) == (status != "ok")


def test_the_seeds_are_photos_of_every_kind() -> None:
    assert [photo_status(seed, CONFIG) for seed in SEEDS] == [*["ok"] * 5, "not_an_image", *["ok"] * (len(SEEDS) - 6)]
    assert getattr(Image.open(BytesIO(SEEDS[8])), "n_frames", 1) == 3
