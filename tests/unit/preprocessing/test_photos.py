"""Every kind of photo that a catalogue holds."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from rakuten_tasks.preprocessing.photo_format import CHECKED_PIXELS, MAX_PIXELS, PhotoError, check_photo
from rakuten_tasks.preprocessing.photos import decode_photo, prepare_photo, prepare_photos
from tests.support.photo_cases import GREY_SQUARES, RED_SQUARES, REFUSED

RED, WHITE = (255, 0, 0), (255, 255, 255)
SIDE = 32


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def near(pixels: NDArray | Image.Image, colour: tuple[int, int, int], tolerance: int = 3) -> NDArray:
    """Which pixels have this colour. (S, S)"""
    return (np.abs(np.asarray(pixels, dtype=int) - colour) <= tolerance).all(-1)


def red_square(size: tuple[int, int] = (200, 200), box: tuple[int, int, int, int] = (80, 80, 119, 119)) -> Image.Image:
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).rectangle(box, fill=RED)
    return image


def bomb(width: int, height: int) -> bytes:
    """A PNG that claims this size in its header, and holds nothing."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_the_white_border_goes_but_for_a_margin() -> None:
    pixels = prepare_photo(encoded(red_square()), SIDE)
    assert pixels.shape == (SIDE, SIDE, 3)
    assert pixels.dtype == np.uint8
    assert near(pixels, RED)[2:-2, 2:-2].all()
    assert near(pixels, RED, 60).mean() < 1


def test_noise_of_a_jpeg_does_not_keep_the_border() -> None:
    noise = np.random.default_rng(0).integers(244, 256, (200, 200, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    image.paste(red_square().crop((80, 80, 120, 120)), (80, 80))
    assert near(prepare_photo(encoded(image, "JPEG", quality=90), SIDE), RED, 40)[3:-3, 3:-3].all()


def test_pale_yellow_is_no_border() -> None:
    image = Image.new("RGB", (100, 100), (255, 255, 200))
    ImageDraw.Draw(image).rectangle((40, 40, 60, 60), fill=RED)
    assert near(prepare_photo(encoded(image), SIDE), RED).mean() < 0.1


def test_cropping_a_cropped_photo_changes_little() -> None:
    once = prepare_photo(encoded(red_square(box=(30, 60, 150, 119))), SIDE)
    twice = prepare_photo(encoded(Image.fromarray(once)), SIDE)
    assert np.abs(once.astype(int) - twice).mean() < 8


def test_the_same_bytes_give_the_same_pixels_alone_and_among_others() -> None:
    photos = [encoded(red_square(box=(i, i, 60 + i, 90)), "JPEG") for i in range(9)]
    assert np.array_equal(prepare_photos(photos, SIDE), np.stack([prepare_photo(photo, SIDE) for photo in photos]))


def test_no_photos_give_an_empty_array() -> None:
    assert prepare_photos([], SIDE).shape == (0, SIDE, SIDE, 3)


def test_a_wide_photo_keeps_its_proportions_in_a_white_square() -> None:
    pixels = prepare_photo(encoded(Image.new("RGB", (200, 100), RED)), SIDE)
    assert near(pixels, RED)[8:24].all()
    assert near(pixels, WHITE)[:8].all()
    assert near(pixels, WHITE)[24:].all()


def test_a_line_one_pixel_wide_survives() -> None:
    assert near(prepare_photo(encoded(Image.new("RGB", (1, 5000), RED)), SIDE), RED).sum() == SIDE


@pytest.mark.parametrize("size", [(1, 1), (500, 300)])
def test_an_all_white_photo_stays_white(size: tuple[int, int]) -> None:
    assert near(prepare_photo(encoded(Image.new("RGB", size, "white")), SIDE), WHITE).all()


def test_one_pixel_fills_the_square() -> None:
    assert near(prepare_photo(encoded(Image.new("RGB", (1, 1), RED)), SIDE), RED).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_exif_orientation_is_undone(orientation: int) -> None:
    upright = Image.new("RGB", (60, 60), "blue")
    upright.paste(RED, (0, 0, 60, 30))
    upright.paste((0, 255, 0), (0, 0, 20, 30))
    undo_again = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # PIL's Transpose by number
    turned = upright if undo_again is None else upright.transpose(Image.Transpose(undo_again))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(turned, "PNG", exif=exif)
    assert np.array_equal(prepare_photo(data, SIDE), prepare_photo(encoded(upright), SIDE))


def test_hidden_colour_under_transparency_turns_white() -> None:
    image = Image.new("RGBA", (100, 100), (0, 0, 255, 0))
    ImageDraw.Draw(image).rectangle((40, 40, 59, 59), fill=(*RED, 255))
    assert near(prepare_photo(encoded(image), SIDE), RED)[2:-2, 2:-2].all()


def test_half_transparent_is_mixed_with_white() -> None:
    pixels = prepare_photo(encoded(Image.new("RGBA", (40, 40), (255, 0, 0, 128))), SIDE)
    assert near(pixels, (255, 127, 127)).all()


def test_a_transparent_palette_colour_turns_white() -> None:
    image = Image.new("P", (100, 100), 0)
    image.putpalette([0, 0, 255, *RED])
    ImageDraw.Draw(image).rectangle((40, 40, 59, 59), fill=1)
    assert near(prepare_photo(encoded(image, transparency=0), SIDE), RED)[2:-2, 2:-2].all()
    assert near(prepare_photo(encoded(image, "GIF", transparency=0), SIDE), RED)[2:-2, 2:-2].all()


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    image = Image.fromarray(np.full((40, 40), 128 * 256, dtype=np.uint16))
    assert near(prepare_photo(encoded(image), SIDE), (128, 128, 128), 0).all()


@pytest.mark.parametrize(("mode", "colour"), [("L", 90), ("LA", (90, 255)), ("1", 0), ("P", 0)])
def test_grey_modes_become_rgb(mode: str, colour: Any) -> None:
    pixels = prepare_photo(encoded(Image.new(mode, (40, 40), colour)), SIDE)
    level = 90 if mode.startswith("L") else 0
    assert near(pixels, (level, level, level), 0).all()


def test_cmyk_becomes_rgb() -> None:
    image = Image.new("CMYK", (40, 40), (0, 255, 255, 0))
    assert near(prepare_photo(encoded(image, "JPEG"), SIDE), RED, 10).all()


def test_a_large_jpeg_is_decoded_small_and_looks_the_same() -> None:
    image = red_square((2000, 2000), (400, 400, 1599, 999))
    large = prepare_photo(encoded(image, "JPEG"), SIDE).astype(int)
    small = prepare_photo(encoded(image, "PNG"), SIDE)
    assert np.abs(large - small).mean() < 4


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_each_format_is_read(kind: str) -> None:
    assert near(prepare_photo(encoded(red_square(), kind), SIDE), RED, 40)[3:-3, 3:-3].all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP"])
def test_a_truncated_photo_is_refused(kind: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8))
    with pytest.raises(PhotoError, match="truncated or damaged: send the whole file"):
        prepare_photo(encoded(noise, kind)[:-2000], SIDE)


@pytest.mark.parametrize("data", [b"", b"<svg/>", b"secret" * 100, encoded(red_square(), "TIFF")])
def test_what_is_no_photo_is_refused_without_repeating_it(data: bytes) -> None:
    with pytest.raises(PhotoError, match=r"^not a photo: send one of JPEG, PNG, WEBP, GIF, BMP$"):
        prepare_photo(data, SIDE)


@pytest.mark.parametrize("size", [(8000, 8000), (10_000, 10_000), (60_000, 60_000)])
def test_a_bomb_is_refused_before_it_is_decoded(size: tuple[int, int]) -> None:
    assert size[0] * size[1] > MAX_PIXELS
    with pytest.raises(PhotoError, match=r"pixels.*send a smaller one"):
        prepare_photo(bomb(*size), SIDE)


@pytest.mark.parametrize("kind", RED_SQUARES)
def test_metadata_and_other_frames_do_not_matter(kind: str) -> None:
    pixels = prepare_photo(RED_SQUARES[kind], SIDE)
    assert near(pixels, RED, 60)[3:-3, 3:-3].all()
    assert near(decode_photo(RED_SQUARES[kind], SIDE).crop((0, 0, 5, 5)), WHITE, 20).all() or "BMP" in kind


@pytest.mark.parametrize(("kind", "level"), [("16 bits", 3), ("grey with alpha", 76)])
def test_grey_photos_keep_their_level(kind: str, level: int) -> None:
    assert near(prepare_photo(GREY_SQUARES[kind], SIDE), (level, level, level), 1)[3:-3, 3:-3].all()


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_usable_photo_has_a_status(kind: str) -> None:
    data, status = REFUSED[kind]
    with pytest.raises(PhotoError) as refused:
        prepare_photo(data, SIDE)
    assert refused.value.status == status


@pytest.mark.parametrize("kind", RED_SQUARES)
def test_a_check_takes_what_decoding_takes(kind: str) -> None:
    check_photo(RED_SQUARES[kind])


@pytest.mark.parametrize("kind", [kind for kind in REFUSED if "clear" not in kind and "transparent" not in kind])
def test_a_check_refuses_with_the_status_of_decoding(kind: str) -> None:
    data, status = REFUSED[kind]
    with pytest.raises(PhotoError) as refused:
        check_photo(data)
    assert refused.value.status == status


def test_a_check_decodes_nothing_but_small_photos_without_their_end(monkeypatch: pytest.MonkeyPatch) -> None:
    photos = [encoded(red_square(), kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP")]
    large = encoded(red_square((CHECKED_PIXELS // 900, 901)), "JPEG")
    without_end = encoded(red_square(), "JPEG")[:-2] + b"\0\0"
    loaded = list[str]()
    monkeypatch.setattr(Image.Image, "load", lambda image: loaded.append(image.format))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", Image.Image.load)
    monkeypatch.setattr("rakuten_tasks.preprocessing.photo_format.with_end", lambda *_: loaded.append("JPEG"))
    for photo in [*photos, large[:-9], without_end]:
        check_photo(photo)
    assert loaded == ["JPEG"]


def test_a_white_photo_is_a_photo_even_where_a_later_frame_is_cut() -> None:
    white = Image.new("RGB", (60, 60), "white")
    data = encoded(white, "GIF", save_all=True, append_images=[red_square((60, 60), (9, 9, 50, 50))])
    assert near(prepare_photo(data[:-20], SIDE), WHITE).all()


def test_an_exif_of_any_format_turns_the_photo() -> None:
    image, exif = Image.new("RGB", (60, 60), "blue"), Image.Exif()
    image.paste(RED, (0, 0, 60, 30))
    exif[0x0112] = 6
    for kind in ("JPEG", "PNG", "WEBP"):
        pixels = prepare_photo(encoded(image, kind, exif=exif.tobytes()), SIDE)
        assert near(pixels[:, SIDE // 2 + 3 :], RED, 40).all(), kind
