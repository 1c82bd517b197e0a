"""Request fields to text and photo bytes: limits, base64, data URIs, local paths."""

from __future__ import annotations

import base64
import re
import stat
import warnings
from io import BytesIO
from pathlib import Path

from fastapi.exceptions import RequestValidationError
from PIL import Image

from rakuten_tasks.preprocessing.product import Product
from serving.schemas import InferenceRequest, PredictRequest
from serving.settings import Settings

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")  # as preprocessing/photos.py, which this process does without
MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF", b"GIF8", b"BM")  # first bytes of these formats
MAX_PATH = 1000  # characters
MAX_SHORT_DATA = 300  # bytes; longer base64 is no path, so an error about it discloses nothing of this machine
DATA_URI = re.compile(r"data:[^,]{0,100};base64,", re.IGNORECASE)
URL = re.compile(r"[a-z][a-z0-9+.-]{1,20}://", re.IGNORECASE)
SURROGATE = re.compile("[\ud800-\udfff]")  # JSON can hold a half of a pair
WHITESPACE = str.maketrans("", "", "\r\n\t ")
NOT_A_PHOTO = f"not a photo: send one of {', '.join(FORMATS)}"
# The same message for a file that is missing, forbidden or outside the folder: else paths could be probed.
NO_SUCH_PHOTO = "neither base64 of a photo nor the path of one that may be read here: send the photo itself as base64"


class FieldError(RequestValidationError):
    """An invalid field. The message never repeats the input."""

    def __init__(self, field: str, kind: str, message: str) -> None:
        super().__init__([{"loc": ("body", field), "msg": message, "type": kind}])
        self.field, self.kind = field, kind


def parse_request(request: PredictRequest, request_id: str, settings: Settings) -> InferenceRequest:
    """Check the texts and read the photo. Raises FieldError."""
    texts = {"designation": request.designation or "", "description": request.description or ""}
    for field, text in texts.items():
        if len(text) > settings.max_text:
            message = f"over the limit of {settings.max_text:,} characters: send a shorter one"
            raise FieldError(field, "text_too_long", message)
        if SURROGATE.search(text):
            raise FieldError(field, "not_unicode", "half a surrogate pair is no character: send valid Unicode")
    photo = read_photo(request.image, settings) if request.image else None
    if photo is None and not Product(**texts, photo=None).has_text:
        message = "neither text nor image: send a description, an image or both"
        raise FieldError("description", "nothing_to_read", message)
    return InferenceRequest(request_id, **texts, photo=photo, top_k=request.top_k, explain=request.explain)


def read_photo(field: str, settings: Settings) -> bytes:
    """Read base64 or a data URI with a photo's first bytes, otherwise a path. Raises FieldError."""
    if field[:5].lower() == "data:":
        prefix = DATA_URI.match(field)
        data = _decode_base64(field[prefix.end() :]) if prefix else None
        if data is None:
            raise FieldError("image", "photo_unreadable", "a data URI without valid base64 of a photo")
    elif URL.match(field):
        raise FieldError("image", "photo_url", "URLs are not fetched: send the photo itself as base64")
    else:
        data = _decode_base64(field)
        if data is None or not data.startswith(MAGIC):
            return _read_local_photo(field, data, settings)
    _check_photo(data, settings)
    return data


def _decode_base64(text: str) -> bytes | None:
    try:
        # validate: without it every text decodes to something, paths included
        return base64.b64decode(text.translate(WHITESPACE), validate=True)
    except ValueError:
        return None


def _read_local_photo(field: str, decoded: bytes | None, settings: Settings) -> bytes:
    """Read a photo below the configured folder. decoded: the field as base64, None if it is none."""
    data = _read_file(field, settings.image_folder, settings.max_photo_bytes + 1)
    if data is not None:
        try:
            _check_photo(data, settings)
            return data
        except FieldError as error:
            if error.kind != "photo_format":  # a file that is no photo must look like a missing one
                raise
    if decoded is not None and len(decoded) > MAX_SHORT_DATA:
        raise FieldError("image", "photo_format", NOT_A_PHOTO)
    raise FieldError("image", "photo_unreadable", NO_SUCH_PHOTO)


def _read_file(field: str, folder: Path | None, size: int) -> bytes | None:
    """Read at most `size` bytes of a file below the folder; None if it cannot be read for whatever reason."""
    if folder is None or len(field) > MAX_PATH or "\x00" in field:
        return None
    root = folder.resolve()
    try:
        path = (root / field).resolve()
        if not path.is_relative_to(root) or not stat.S_ISREG(path.stat().st_mode):
            return None
        with path.open("rb") as file:
            return file.read(size)
    except (OSError, ValueError, RuntimeError):  # a loop of links is a RuntimeError
        return None


def _check_photo(data: bytes, settings: Settings) -> None:
    """Check size, format and pixels by the file's header, before anything is decoded."""
    if len(data) > settings.max_photo_bytes:
        message = f"over the limit of {settings.max_photo_bytes:,} bytes: send a smaller photo"
        raise FieldError("image", "photo_too_large", message)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's limits are not ours
            with Image.open(BytesIO(data), formats=FORMATS) as image:
                pixels = image.width * image.height
    except Image.DecompressionBombError:
        pixels = settings.max_photo_pixels + 1
    except Exception:  # Pillow documents no closed set of errors for hostile bytes
        raise FieldError("image", "photo_format", NOT_A_PHOTO) from None
    if pixels > settings.max_photo_pixels:
        message = f"over the limit of {settings.max_photo_pixels:,} pixels: send a smaller photo"
        raise FieldError("image", "photo_too_large", message)
