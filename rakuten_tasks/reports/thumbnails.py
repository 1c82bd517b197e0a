"""Thumbnails of photos, cropped as for the classifier."""

from __future__ import annotations

import base64
from io import BytesIO

from PIL import Image

from rakuten_tasks.preprocessing.photo_format import PhotoError
from rakuten_tasks.preprocessing.photos import prepare_photo

SIDE = 112  # px
QUALITY = 60  # 3 KB a photo: two dozen are under 100 KB


def thumbnail(photo: bytes | None) -> str | None:
    """Return a data URI of the photo, upright, cropped and in a white square; None if there is no readable photo."""
    if photo is None:
        return None
    try:
        pixels = prepare_photo(photo, SIDE)
    except PhotoError:
        return None
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", quality=QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
