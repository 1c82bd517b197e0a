"""Request fields to text and photo bytes: limits, base64, data URIs, local paths."""

from __future__ import annotations

import base64
import binascii
import re
import stat
import warnings
from io import BytesIO
from pathlib import Path

from PIL import Image

from serving.schemas import InferenceRequest, PredictRequest
from serving.settings import Settings

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")  # as preprocessing/photos.py, which this process does without
# What a file of these formats begins with.
MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF", b"GIF8", b"BM")
DATA_URI = re.compile(r"data:[^,]{0,100};base64,", re.IGNORECASE)
URL = re.compile(r"[a-z][a-z0-9+.-]{1,20}://", re.IGNORECASE)
LINE_BREAKS = str.maketrans("", "", "\r\n\t ")
# One and the same for a file that is missing, forbidden or elsewhere: else paths could be probed.
NO_SUCH_PHOTO = "neither base64 of a photo nor the path of one that may be read here: send the photo itself as base64"


class FieldError(ValueError):
    """A field that cannot be used: a 422. The message never repeats the input."""

    def __init__(self, field: str, kind: str, message: str) -> None:
        super().__init__(message)
        self.field, self.kind = field, kind


def parse_request(request: PredictRequest, request_id: str, settings: Settings) -> InferenceRequest:
    """The request with its photo as bytes. Raises FieldError."""
    texts = {"designation": request.designation or "", "description": request.description or ""}
    for field, text in texts.items():
        if len(text) > settings.max_text:
            limit = f"over the limit of {settings.max_text:,} characters: send a shorter one"
            raise FieldError(field, "text_too_long", limit)
        if not _is_unicode(text):
            raise FieldError(field, "not_unicode", "half a surrogate pair is no character: send valid Unicode")
    photo = read_photo(request.image, settings) if request.image else None
    if photo is None and not any(text.strip() for text in texts.values()):
        raise FieldError(
            "description", "nothing_to_read", "neither text nor image: send a description, an image or both"
        )
    return InferenceRequest(request_id, **texts, photo=photo, top_k=request.top_k, explain=request.explain)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # JSON's \ud800 alone
        return False
    return True


def read_photo(field: str, settings: Settings) -> bytes:
    """Base64 or a data URI, known by its first bytes; only then a path. Raises FieldError."""
    if field[:5].lower() == "data:":
        prefix = DATA_URI.match(field)
        data = _base64(field[prefix.end() :]) if prefix else None
        if data is None:
            raise FieldError("image", "photo_unreadable", "a data URI without valid base64 of a photo")
    elif URL.match(field):
        raise FieldError("image", "photo_url", "URLs are not fetched: send the photo itself as base64")
    else:
        data = _base64(field)
        if data is None or not data.startswith(MAGIC):
            return _from_file(field, settings) or _not_a_photo(data)
    _check(data, settings)
    return data


def _base64(text: str) -> bytes | None:
    try:
        # validate: without it every text decodes to something, paths included
        return base64.b64decode(text.translate(LINE_BREAKS), validate=True)
    except (binascii.Error, ValueError):
        return None


def _not_a_photo(data: bytes | None) -> bytes:
    # long base64 is no path: that it is no photo tells nobody anything of this machine
    if data is not None and len(data) > 300:
        raise FieldError("image", "photo_format", f"not a photo: send one of {', '.join(FORMATS)}")
    raise FieldError("image", "photo_unreadable", NO_SUCH_PHOTO)


def _from_file(field: str, settings: Settings) -> bytes | None:
    """A usable photo under the configured folder. A file that is no photo is as good as missing."""
    data = _file(field, settings)
    try:
        if data is not None:
            _check(data, settings)
    except FieldError as error:
        if error.kind != "photo_format":
            raise
        data = None
    return data


def _file(field: str, settings: Settings) -> bytes | None:
    """The file's bytes if it lies under the configured folder; None for whatever reason it cannot be had."""
    if not settings.image_folder or len(field) > 1000 or "\x00" in field:
        return None
    root = Path(settings.image_folder).resolve()
    try:
        path = (root / field).resolve()
        if not path.is_relative_to(root) or not stat.S_ISREG(path.stat().st_mode):
            return None
        with path.open("rb") as file:
            return file.read(settings.max_photo_bytes + 1)
    except (OSError, ValueError, RuntimeError):  # a loop of links is a RuntimeError
        return None


def _check(data: bytes, settings: Settings) -> None:
    """Size, format and pixels by the file's header, before anything is decoded."""
    if len(data) > settings.max_photo_bytes:
        limit = f"over the limit of {settings.max_photo_bytes:,} bytes: send a smaller photo"
        raise FieldError("image", "photo_too_large", limit)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of photos that Pillow finds large: the caps are ours
            with Image.open(BytesIO(data), formats=FORMATS) as image:
                pixels = image.width * image.height
    except Image.DecompressionBombError:
        pixels = settings.max_photo_pixels + 1
    except Exception:  # Pillow names no closed set of errors for hostile bytes
        raise FieldError("image", "photo_format", f"not a photo: send one of {', '.join(FORMATS)}") from None
    if pixels > settings.max_photo_pixels:
        limit = f"over the limit of {settings.max_photo_pixels:,} pixels: send a smaller photo"
        raise FieldError("image", "photo_too_large", limit)
