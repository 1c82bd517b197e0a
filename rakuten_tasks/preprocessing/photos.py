"""Decoding and cropping of a photo, shared by training, batch prediction and serving."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageChops

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
MAX_PIXELS = 50_000_000  # 200 MB decoded
WHITE = 240  # JPEG leaves noise of up to 15 levels in a white border
MARGIN = 0.02  # of the cropped photo's longer side: an object that touches the edge looks cut off

UPRIGHT = {  # EXIF orientation -> its inverse
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class PhotoError(ValueError):
    """Bytes that are no usable photo. The message never repeats the input."""


def prepare_photo(data: bytes, image_size: int) -> NDArray[np.uint8]:
    """Decode, turn upright, flatten on white, crop the white border, fit into a white square.

    Gives (image_size, image_size, 3). The same bytes and image_size give the same pixels everywhere.
    Raises PhotoError if the bytes are not an image of FORMATS, are truncated, or have over MAX_PIXELS pixels.
    """
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            if (pixels := image.width * image.height) > MAX_PIXELS:
                raise PhotoError(
                    f"the photo has {pixels:,} pixels, over the limit of {MAX_PIXELS:,}: send a smaller one"
                )
            # a JPEG is decoded at half, a quarter or an eighth of its size, but at least four times the image_size
            image.draft("RGB", (4 * image_size, 4 * image_size))
            flat = on_white(_upright(image))
            return np.asarray(_fit(flat.crop(kept_box(flat)), image_size))
    except PhotoError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PhotoError(f"the photo has over {MAX_PIXELS:,} pixels: send a smaller one") from error
    except Image.UnidentifiedImageError as error:
        raise PhotoError(f"not a photo: send one of {', '.join(FORMATS)}") from error
    except Exception as error:  # Pillow names no closed set of errors for hostile bytes
        raise PhotoError("the photo is truncated or damaged: send the whole file") from error


def square_on_photo(data: bytes, image_size: int) -> tuple[float, float, float, float]:
    """Locate `prepare_photo`'s square on the upright photo: left, upper, right, lower, as shares of its sides.

    Below 0 or above 1 where the square is padded with white.
    """
    with Image.open(BytesIO(data), formats=FORMATS) as image:
        image.draft("RGB", (4 * image_size, 4 * image_size))
        flat = on_white(_upright(image))
    left, upper, right, lower = kept_box(flat)
    half = max(right - left, lower - upper) / 2
    x, y = (left + right) / 2, (upper + lower) / 2
    width, height = flat.size
    return (x - half) / width, (y - half) / height, (x + half) / width, (y + half) / height


def prepare_photos(photos: Sequence[bytes], image_size: int) -> NDArray[np.uint8]:
    """Call `prepare_photo` for each, several at once, in order. (n, image_size, image_size, 3)"""
    pixels = np.empty((len(photos), image_size, image_size, 3), dtype=np.uint8)
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:  # Pillow releases the interpreter lock
        for i, photo in enumerate(pool.map(lambda data: prepare_photo(data, image_size), photos)):
            pixels[i] = photo
    return pixels


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # a photo with an unreadable EXIF block is usable
        return image
    return image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image


def on_white(image: Image.Image) -> Image.Image:
    """Convert any mode to RGB. Without this, transparent pixels would show their hidden colour."""
    if image.mode.startswith("I"):  # 16-bit greyscale, which Pillow would clip at 255
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def kept_box(image: Image.Image) -> tuple[int, int, int, int]:
    """Find the box within the white border, with a small margin: left, upper, right, lower, in pixels.

    Of an all-white photo it is the whole photo.
    """
    red, green, blue = image.split()
    darkest = ImageChops.darker(ImageChops.darker(red, green), blue)
    box = darkest.point([255 * (level < WHITE) for level in range(256)]).getbbox()
    if box is None:
        return 0, 0, *image.size
    left, upper, right, lower = box
    margin = round(MARGIN * max(right - left, lower - upper))
    width, height = image.size
    return max(0, left - margin), max(0, upper - margin), min(width, right + margin), min(height, lower + margin)


def _fit(image: Image.Image, image_size: int) -> Image.Image:
    """Scale, with antialiasing, to fit into the middle of a white square."""
    scale = image_size / max(image.size)
    width, height = (max(1, round(length * scale)) for length in image.size)
    square = Image.new("RGB", (image_size, image_size), "white")
    square.paste(
        image.resize((width, height), Image.Resampling.BILINEAR),
        ((image_size - width) // 2, (image_size - height) // 2),
    )
    return square
