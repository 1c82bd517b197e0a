from __future__ import annotations

import base64
import os
from urllib.parse import quote

import pytest
from PIL import Image

from serving.schemas import PredictRequest
from serving.settings import Settings
from serving.web.request_parsing import NO_SUCH_PHOTO, FieldError, parse_request, read_photo
from tests.support.catalogues import photo_bytes
from tests.support.photo_cases import RED_SQUARES, encoded

JPEG = photo_bytes(1)
ENCODED = base64.b64encode(JPEG).decode()


def kind_of(field: str, settings: Settings | None = None) -> str:
    with pytest.raises(FieldError) as refused:
        read_photo(field, settings or Settings())
    return refused.value.kind


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_a_photo_is_read_from_base64_and_from_a_data_uri(kind):
    data = photo_bytes(2, kind=kind)
    encoded = base64.b64encode(data).decode()
    assert read_photo(encoded, Settings()) == data
    assert read_photo(f"data:image/{kind.lower()};base64,{encoded}", Settings()) == data
    assert read_photo("\r\n".join(encoded[i : i + 76] for i in range(0, len(encoded), 76)), Settings()) == data


def test_base64_that_looks_like_a_path_is_base64_even_where_such_a_file_exists(tmp_path):
    assert ENCODED.startswith("/9j/")
    settings = Settings(image_folder=tmp_path)
    (tmp_path / "9j").mkdir()
    assert read_photo(ENCODED, settings) == JPEG


def test_local_paths_are_off_unless_a_folder_is_configured(tmp_path):
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(JPEG)
    assert kind_of(str(photo)) == "photo_unreadable"
    assert read_photo(str(photo), Settings(image_folder=tmp_path)) == JPEG
    assert read_photo("photo.jpg", Settings(image_folder=tmp_path)) == JPEG


def test_missing_forbidden_and_outside_give_one_and_the_same_error(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "secret.jpg").write_bytes(JPEG)
    (inside / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (inside / "loop.jpg").symlink_to(inside / "loop.jpg")
    (inside / "text.jpg").write_text("no photo")
    os.mkfifo(inside / "pipe.jpg")
    settings = Settings(image_folder=inside)
    paths = [
        "none.jpg",
        "link.jpg",
        "loop.jpg",
        "pipe.jpg",
        "text.jpg",
        "..",
        ".",
        "../secret.jpg",
        "/etc/passwd",
        "a\x00b",
    ]
    for path in [*paths, "pipe.jpg", str(tmp_path / "secret.jpg"), "x." * 400, "é" * 400]:
        with pytest.raises(FieldError, match=NO_SUCH_PHOTO):
            read_photo(path, settings)


@pytest.mark.parametrize("url", ["http://h/x.jpg", "https://h/x", "file:///etc/passwd", "s3://b/k", "ftp://h"])
def test_urls_are_refused(url, tmp_path):
    assert kind_of(url, Settings(image_folder=tmp_path)) == "photo_url"


def test_bytes_and_pixels_have_caps_that_are_checked_before_decoding():
    assert kind_of(ENCODED, Settings(max_photo_bytes=len(JPEG) - 1)) == "photo_too_large"
    assert kind_of(ENCODED, Settings(max_photo_pixels=40 * 40 - 1)) == "photo_too_large"
    assert read_photo(ENCODED, Settings(max_photo_bytes=len(JPEG), max_photo_pixels=1600)) == JPEG


def test_what_is_no_photo_is_refused():
    assert kind_of(base64.b64encode(b"<svg/>" * 100).decode()) == "photo_format"
    assert kind_of(base64.b64encode(b"\xff\xd8\xff" + b"x" * 50).decode()) == "photo_damaged"
    assert kind_of("data:image/png;base64,!!!") == "photo_unreadable"
    assert kind_of("data:text/plain,hello") == "photo_unreadable"


def _variants(encoded: str) -> dict[str, str]:
    uri = f"data:image/jpeg;base64,{encoded}"
    url_safe = encoded.translate(str.maketrans("+/", "-_"))
    return {
        "without =": encoded.rstrip("="),
        "too many =": encoded.rstrip("=") + "====",
        "URL-safe": url_safe.rstrip("="),
        "URI, URL-safe": f"data:image/jpeg;base64,{url_safe}",
        "URI without =": uri.rstrip("="),
        "blank before data:": f" \n{uri}",
        "blank after the comma": uri.replace(",", ", "),
        "byte order mark": f"\ufeff{encoded}\r\n",
        "escaped": "DATA:;base64," + quote(encoded, safe=""),
        "parameters": f"data:image/jpeg;name=a.jpg;charset=utf-8;base64,{encoded}",
        "line breaks": "\r\n ".join(encoded[i : i + 76] for i in range(0, len(encoded), 76)),
    }


@pytest.mark.parametrize("kind", _variants(""))
def test_every_usual_form_of_base64_is_read(kind):
    data = next(data for data in map(photo_bytes, range(50)) if len(data) % 3 == 1)  # "==" at the end
    encoded = base64.b64encode(data).decode()
    assert {"+", "/"} <= set(encoded)
    assert read_photo(_variants(encoded)[kind], Settings()) == data


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        (f"data:image/jpeg;base64,{ENCODED[:5]}", "a data URI without valid base64: it is cut short"),
        (f"data:image/jpeg;base64,{ENCODED[:9]}!{ENCODED[9:]}", "the character at position 9 is none of base64"),
        (f"data:image/jpeg,{ENCODED}", "a data URI without `;base64,`: send the photo as base64"),
        (f"{ENCODED[:400]}={ENCODED[400:]}" + "A" * 1000, "no valid base64: the character at position 400 is none of"),
    ],
)
def test_a_fault_of_the_base64_is_named(field, reason):
    with pytest.raises(FieldError) as refused:
        read_photo(field, Settings())
    assert reason in str(refused.value)
    assert refused.value.kind == "photo_unreadable"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_a_photo_that_ends_too_early_is_refused_before_anything_decodes_it(kind):
    photo = encoded(Image.effect_noise((90, 90), 99).convert("RGB"), kind)
    for cut in (photo[:-1000], photo[: len(photo) // 2]):
        with pytest.raises(FieldError, match="truncated or damaged") as refused:
            read_photo(base64.b64encode(cut).decode(), Settings())
        assert (refused.value.field, refused.value.kind) == ("image", "photo_damaged")


@pytest.mark.parametrize("kind", RED_SQUARES)
def test_a_photo_with_odd_metadata_is_taken(kind):
    assert read_photo(base64.b64encode(RED_SQUARES[kind]).decode(), Settings()) == RED_SQUARES[kind]


@pytest.mark.parametrize(
    ("fields", "field", "kind"),
    [
        ({}, "description", "nothing_to_read"),
        ({"description": " \n", "designation": ""}, "description", "nothing_to_read"),
        ({"description": "\u200b&amp;shy;", "designation": "<br>&lrm;"}, "description", "nothing_to_read"),
        ({"description": "x" * 11}, "description", "text_too_long"),
        ({"designation": "\ud800"}, "designation", "not_unicode"),
    ],
)
def test_text_has_a_cap_and_must_be_text(fields, field, kind):
    request = PredictRequest.model_construct(**{"description": None, "designation": None, "image": None, **fields})
    with pytest.raises(FieldError) as refused:
        parse_request(request, "0", Settings(max_text=10))
    assert (refused.value.field, refused.value.kind) == (field, kind)
